"""`text_so_far` is a copy of the whole text that is cheap enough to read after every chunk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx2
import pytest

from aprefill import Reply, stream
from aprefill._engine.transcript import Transcript

from ..support.cost import DOUBLING, cpu_s, doubling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


CHUNKS = 20_000
#: Four characters per chunk. An emoji makes Python store four bytes for every character, which is the maximum.
CHUNK = "ab\U0001f600d"
RECORD = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % CHUNK.encode()
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
#: Reading `text_so_far` after every chunk may multiply the time of the loop by this at most.
LIMIT = 1.5


class Body(httpx2.AsyncByteStream):
    """Sends one record per read, as a streaming host does."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(CHUNKS):
            yield RECORD
        yield END


def respond(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())


def not_read(reply: Reply) -> str:
    return ""


def read(reply: Reply) -> str:
    return reply.text_so_far


def run(look: Callable[[Reply], str]) -> None:
    """Read a whole reply. The result of `look` is kept until the next chunk, as a page that is redrawn does."""

    async def main() -> None:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(respond)) as client:
            reply = stream("hi", model="m", client=client, base_url="http://127.0.0.1/v1")
            chunks = 0
            async for _ in reply:
                chunks += 1
                text = look(reply)
            assert chunks == CHUNKS
            assert text in ("", CHUNK * CHUNKS)

    asyncio.run(main())


def ratio(looks: int) -> float:
    """Return the CPU time with reading divided by the CPU time without.

    Measures up to `looks` times while the result is over the limit.
    """
    without = with_it = float("inf")
    for _ in range(looks):
        without, with_it = min(without, cpu_s(lambda: run(not_read))), min(with_it, cpu_s(lambda: run(read)))
        if with_it <= LIMIT * without:
            break
    print(f"{with_it / without:.2f} times {without:.3f} s")
    return with_it / without


@pytest.mark.perf
def test_reading_it_after_every_chunk_is_cheap() -> None:
    """Reading the text after each of 20,000 chunks takes at most 1.5 times the CPU time of not reading it."""
    assert ratio(looks=10) <= LIMIT


@pytest.mark.perf
def test_control_text_that_is_copied_at_every_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a `text_so_far` that copies the text a few times per read fails the check."""
    text_so_far = Transcript.text_so_far.fget
    assert text_so_far is not None

    def copied(self: Transcript) -> str:
        text = text_so_far(self)
        for _ in range(2):
            text = (text + " ")[:-1]
        return text

    monkeypatch.setattr(Transcript, "text_so_far", property(copied))
    assert ratio(looks=1) > LIMIT


class Appending:
    """A minimal transcript.

    `+=` on an attribute copies the string, because the attribute still refers to the old one.
    """

    def __init__(self, prefill: str) -> None:
        self.items: list[str] = []
        self.next = 0
        self.accepted = True
        self._text = prefill

    @property
    def text_so_far(self) -> str:
        self._text += self.items[-1]
        return self._text


def read_after_every_item(transcript: Transcript | Appending, items: int) -> None:
    transcript.accepted = True
    for _ in range(items):
        transcript.items.append(CHUNK)
        transcript.next += 1
        text = transcript.text_so_far
    assert len(text) == items * len(CHUNK)


def test_the_text_grows_in_place() -> None:
    """Twice as many chunks, each followed by a read, take about twice the time and not four times."""
    assert (
        doubling(
            lambda: read_after_every_item(Transcript(""), 20_000), lambda: read_after_every_item(Transcript(""), 40_000)
        )
        < DOUBLING
    )


@pytest.mark.perf
def test_control_appending_to_an_attribute_is_quadratic() -> None:
    """The control: a transcript that copies the text at each read fails the check."""
    assert (
        doubling(
            lambda: read_after_every_item(Appending(""), 20_000),
            lambda: read_after_every_item(Appending(""), 40_000),
            looks=2,
        )
        > DOUBLING
    )


def test_what_was_read_stays_as_it_was() -> None:
    """Text that was read earlier never changes.

    The transcript appends in place only if nobody else holds the text.
    """
    transcript = Transcript("p")
    transcript.show("p")
    kept: list[str] = []
    for number in range(300):
        transcript.items.append(str(number))
        transcript.next = len(transcript.items)
        text = transcript.text_so_far
        if number % 3 != 1:
            kept.append(text)
    wanted = ["p" + "".join(map(str, range(number + 1))) for number in range(300) if number % 3 != 1]
    assert kept == wanted

"""`Limits`: how much is accepted from the provider, and what happens beyond that.

The seam is the code that joins the prefill and the model's text.
"""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any
from zlib import crc32

import anyio
import pytest

from aprefill import LimitExceeded, Limits, Session, StatusError, TextEvent, UsageError, stream
from aprefill._wire import decoder_for
from aprefill.testing import Script, serve

from ..support.bodies import DONE, chat, host
from ..support.loopback import chunks_of

pytestmark = pytest.mark.anyio

IMAGE = "x" * 2_000_000
#: content type -> the beginning of a record of more than 16 bytes
LONG_RECORDS = {
    "text/event-stream": b"data: 0123456789abcdef",
    "application/x-ndjson": b'{"a": "0123456789abcdef',
    "application/vnd.amazon.eventstream": (99).to_bytes(4) + bytes(4) + crc32((99).to_bytes(4) + bytes(4)).to_bytes(4),
}


async def test_a_record_of_two_megabytes_passes_when_asked_for() -> None:
    """A record over 1 MiB, such as an image, is accepted if `record_bytes` allows it. The error names the setting."""
    body = chat("one ") + chat(images=[{"url": IMAGE}]) + chat("two", "stop") + DONE
    async with host([body]) as ask:
        with pytest.raises(LimitExceeded, match=r"Limits\(record_bytes=\.\.\.\)") as met:
            await ask("chat").text()
        assert met.value.text_so_far == "one "
        assert await ask("chat", limits=Limits(record_bytes=3_000_000)).text() == "one two"
        with pytest.raises(LimitExceeded):
            await ask("chat", limits=Limits(record_bytes=1_999_999)).text()


@pytest.mark.parametrize("content_type", LONG_RECORDS)
def test_an_error_names_the_setting(content_type: str) -> None:
    """In every framing, `LimitExceeded.limit` is the name of the field of `Limits` to raise."""
    names = {field.name for field in fields(Limits)}
    with pytest.raises(LimitExceeded) as met:
        decoder_for(content_type, 16).feed(LONG_RECORDS[content_type])
    assert met.value.limit == "record_bytes"
    assert met.value.limit in names
    assert f"Limits({met.value.limit}=" in str(met.value)
    assert "reply_chars" in names
    assert "Limits(reply_chars=" in str(LimitExceeded("reply_chars", 1, "characters"))


@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize("pieces", [1, 100])
async def test_a_reply_is_as_long_as_it_may_be(pieces: int, coalesce: bool) -> None:
    """Text up to `reply_chars`, the prefill included, is handed out before the error.

    A reply of exactly that length is complete.
    """
    body = chat("abc") + chat("def") + chat("ghi") + chat(reason="stop") + DONE
    cut = [body[at : at + len(body) // pieces + 1] for at in range(0, len(body), len(body) // pieces + 1)]
    async with host(cut) as ask:
        for most in range(2, 12):
            reply = ask("chat", prefill="> ", support="eats", limits=Limits(reply_chars=most), coalesce=coalesce)
            seen: list[str] = []
            if most < 11:
                with pytest.raises(LimitExceeded, match=f"reply_chars = {most} characters") as met:
                    async for chunk in reply:
                        seen.append(chunk)
                assert met.value.text_so_far == "".join(seen) == "> abcdefghi"[:most]
                assert reply.message["content"] == "> abcdefghi"[:most]
            else:
                assert await reply.text() == "> abcdefghi"


async def test_text_that_is_let_go_at_the_end_counts_too() -> None:
    """Text that the seam holds until the end counts towards `reply_chars` too, also in events."""
    async with host([chat("> ab") + chat("\n```") + chat(reason="length") + DONE]) as ask:
        options: dict[str, Any] = {"prefill": "> abcdef", "support": "echoes"}
        with pytest.raises(LimitExceeded):
            await ask("chat", limits=Limits(reply_chars=9), **options).text()
        reply = ask("chat", limits=Limits(reply_chars=9), **options)
        texts = []
        with pytest.raises(LimitExceeded):
            async for event in reply.events():
                if isinstance(event, TextEvent):
                    texts.append(event.text)
        assert len("".join(texts)) == 9
        assert reply.attempts[-1].error == "LimitExceeded"


async def test_an_error_body_is_read_as_far_as_it_may_be() -> None:
    """With the default limit the error has the host's message. With a limit of a few bytes it does not."""
    body = b'{"error": {"message": "no such thing", "type": "t"}}'
    async with host([body], status=400) as ask:
        with pytest.raises(StatusError) as said:
            await ask("chat").text()
        assert said.value.detail == "no such thing"
        with pytest.raises(StatusError) as cut:
            await ask("chat", limits=Limits(error_body_bytes=10)).text()
        assert cut.value.detail == ""


@pytest.mark.parametrize(("drain_s", "connections"), [(0.0, 2), (10.0, 1)])
async def test_how_long_a_body_is_read_on_after_the_end(drain_s: float, connections: int) -> None:
    """A connection whose body ends within `drain_s` is reused, and the reader does not wait for that."""
    script = Script(text="ab", cuts=1, hold_open_s=0.5)
    async with serve([script, Script(text="cd")]) as server:
        async with Session("vllm:m", base_url=server.openai_url, limits=Limits(drain_s=drain_s)) as session:
            async for _ in session.stream("hi"):
                last = time.perf_counter()
            assert time.perf_counter() - last < 0.3
            with anyio.fail_after(5):
                await server.exchanges[0].done.wait()
                for _ in range(50):
                    await anyio.lowlevel.checkpoint()
            assert await session.stream("hi").text() == "cd"
        assert server.connections == connections


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("record_bytes", bad) for bad in (0, -1, 1.5, True, None, "1")),
        *(("error_body_bytes", bad) for bad in (-1, 1.5, False, None)),
        *(("drain_s", bad) for bad in (-1, float("nan"), True, None, "1")),
        *(("reply_chars", bad) for bad in (0, -5, 1.5, True, "9")),
    ],
)
def test_what_makes_no_sense_is_an_error(field: str, value: Any) -> None:
    """A value of the wrong kind raises a `UsageError` that names the field."""
    with pytest.raises(UsageError, match=rf"Limits\({field}="):
        Limits(**{field: value})


def test_where_limits_may_be_given() -> None:
    """`stream`, `Session` and `Session.stream` accept `limits`. Any other value raises an error at the call."""
    limits = Limits(reply_chars=5, error_body_bytes=0, drain_s=0, record_bytes=1)
    stream("hi", model="demo:eats", limits=limits)
    session = Session("demo:eats", limits=limits)
    session.stream("hi")
    session.stream("hi", limits=Limits())
    for call in (stream, session.stream):
        with pytest.raises(UsageError, match=r"limits is a int; pass an aprefill\.Limits"):
            call("hi", model="demo:eats", limits=5)  # type: ignore[operator]
        with pytest.raises(UsageError, match="reply_chars=5 is less than the prefill's 6 characters"):
            call("hi", model="demo:eats", prefill="123456", limits=limits)  # type: ignore[operator]
    with pytest.raises(UsageError, match="reply_chars=5 is less"):
        session.stream("hi", prefill="123456")


async def test_without_a_bound_nothing_is_cut() -> None:
    """The control: without a bound the same long reply is complete."""
    async with host([chat("ab" * 5000, "stop") + DONE]) as ask:
        assert len("".join(await chunks_of(ask("chat")))) == 10_000

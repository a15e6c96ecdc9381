"""Every fault of the table gives a typed error and never silence.

The tests cover every wire, every kind of client and every event loop.
"""

from __future__ import annotations

import re
import tracemalloc
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from anyio.abc import SocketAttribute, SocketStream

from aprefill import ConnectFailed, ProviderError, Stalled, Timeouts, Truncated
from aprefill._codecs import PROTOCOLS, codec
from aprefill._deltas import EndDelta
from aprefill._transports import _foreign
from aprefill._wire.sse import SseDecoder
from aprefill.testing import serve

from ..conftest import LOOPS, ROOT
from ..support.fault_runs import (
    CLIENTS,
    KEY,
    check,
    clients_of,
    options_of,
    own_stream_of,
    places_of_key,
    through_aprefill,
    through_sdk,
)
from ..support.faults import FAULTS, GOOD, NAMES, WIRES, Fault, fault_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from ..support.fault_runs import Outcome

pytestmark = pytest.mark.anyio

PIECES = "an event of 4 MiB in pieces of 64 bytes"
CLEAN_EOF = "clean EOF, no finish reason, no terminal event"

#: For tests that do not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", LOOPS[:1], indirect=True)


def cases(faults: Iterable[Fault]) -> list[Any]:
    """Return one test case per fault and wire."""
    return [pytest.param(fault, wire, id=f"{fault.name} - {wire}") for fault in faults for wire in fault.wires]


async def outcome_of(fault: Fault, wire: str, client: str = "ours") -> Outcome:
    """Play the fault once on a new host and return the outcome.

    Exactly one request is sent: an SDK's own retries are off.
    """
    async with serve(fault.play) as server, options_of(client, wire, server.url) as options:
        outcome = await through_aprefill(fault, options)
        assert len(server.exchanges) == 1
    return outcome


def through_clients() -> list[Any]:
    """Return the cases per client.

    Faults of the network run with every client and on every event loop, the others on one loop or in the slow run.
    """
    return [
        pytest.param(
            *case.values,
            client,
            id=f"{case.id}-{client}",
            marks=() if is_of_the_network(fault) else pytest.mark.any_loop if client == "ours" else pytest.mark.slow,
        )
        for case in cases(fault for fault in FAULTS if not fault.slow)
        for fault, wire in [case.values]
        for client in clients_of(wire)
    ]


def is_of_the_network(fault: Fault) -> bool:
    """Return whether the fault depends on how the bytes travel and not only on the bytes."""
    return not {ConnectFailed, Stalled, Truncated}.isdisjoint(fault.errors)


@pytest.mark.parametrize(("fault", "wire", "client"), through_clients())
async def test_a_fault_is_a_typed_error_or_the_right_text(fault: Fault, wire: str, client: str) -> None:
    """A fault gives the right text, or a typed error with the text so far, in time and without the key."""
    check(fault, await outcome_of(fault, wire, client))


@pytest.mark.parametrize(("fault", "wire"), cases(fault for fault in FAULTS if fault.slow and fault.name != PIECES))
async def test_a_slow_fault_through_every_client_at_once(fault: Fault, wire: str) -> None:
    """The same holds for faults that take a long time. All clients run at once."""

    async def one(client: str) -> None:
        check(fault, await outcome_of(fault, wire, client))

    async with anyio.create_task_group() as group:
        for client in clients_of(wire):
            group.start_soon(one, client)


@pytest.mark.slow
@pytest.mark.parametrize(("wire", "client"), [(wire, client) for wire in WIRES for client in clients_of(wire)])
async def test_pieces_of_64_bytes_cost_no_more_than_they_must(wire: str, client: str) -> None:
    """An event in 65,536 pieces is decoded in time. A decoder that starts again with each piece needs over a minute."""
    fault = fault_for(PIECES, wire)
    check(fault, await outcome_of(fault, wire, client))


def test_the_page_has_every_fault() -> None:
    """The table in `docs/reliability.md` lists every fault.

    Its cells are measured, so a new fault needs a new measurement.
    """
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    table = page[page.index("\n| The host |") :].partition("\n\n")[0]
    rows = [line.removeprefix("| ").partition(" | ")[0] for line in table.strip().splitlines()[2:]]
    assert [re.sub(r" \(\d+\)$", "", row) for row in rows] == list(NAMES)


def test_the_page_counts_its_own_rows() -> None:
    """The totals of silent, foreign and waiting ends on the page agree with the table below them."""
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")

    def cells(heading: str) -> list[list[str]]:
        lines = page[page.index(heading) :].partition("\n\n")[0].splitlines()[2:]
        return [line.strip("| ").split(" | ") for line in lines]

    rows = cells("| The host |")
    counted = {end: [sum(end in row[column] for row in rows) for column in (1, 2, 3)] for end, *_ in cells("| Of ")}
    assert {end: [int(number) for number in numbers] for end, *numbers in cells("| Of ")} == counted
    assert counted["*silent*"][0] == 0
    assert counted["*silent*"][1] > 0
    assert f"| Of {len(rows)} faults |" in page


# --- memory ---------------------------------------------------------------------------------------------------


async def peak_of(fault: Fault, wire: str) -> int:
    """Return the peak of allocated bytes, which includes the loopback host's."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await outcome_of(fault, wire)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@one_loop
@pytest.mark.parametrize(("fault", "wire"), cases(fault for fault in FAULTS if fault.within_bytes))
async def test_a_flood_takes_no_memory(fault: Fault, wire: str) -> None:
    """Memory stays bounded, however long a line is and whatever size a body would inflate to."""
    assert fault.within_bytes is not None
    assert await peak_of(fault, wire) < fault.within_bytes


@one_loop
async def test_control_a_flood_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the decoder's bound the memory check fails."""
    monkeypatch.setattr("aprefill._engine.attempt.decoder_for", lambda content_type, bound, accept: SseDecoder(1 << 40))
    fault = fault_for("a line of 32 MiB", "chat")
    assert fault.within_bytes is not None
    assert await peak_of(fault, "chat") > fault.within_bytes


# --- the key --------------------------------------------------------------------------------------------------

_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
_EVENT = _HEAD + "\r\nevent: content_block_delta\ndata: "

#: What a host that reflects the request may send back. The HTTP libraries quote some of it; the codecs read the rest.
REFLECTIONS = {
    "status line": f"HTTP/1.1 what {KEY}\r\n\r\n",
    "reason": f"HTTP/1.1 401 {KEY}\r\ncontent-length: 0\r\n\r\n",
    "header line": f"HTTP/1.1 200 OK\r\nauthorization Bearer {KEY}\r\n\r\n",
    "header value": f"HTTP/1.1 200 OK\r\nx: \x00{KEY}\r\n\r\n",
    "content length": f"HTTP/1.1 200 OK\r\ncontent-length: {KEY}\r\n\r\n",
    "content type": f"HTTP/1.1 200 OK\r\ncontent-type: {KEY}\r\ncontent-length: 1\r\n\r\n.",
    "content encoding": f"{_HEAD}content-encoding: {KEY}\r\n\r\n",
    "compressed content type": f"HTTP/1.1 200 OK\r\ncontent-type: {KEY}\r\ncontent-encoding: gzip\r\n\r\n",
    "chunk size": f"{_HEAD}transfer-encoding: chunked\r\n\r\n{KEY}\r\n",
    "location": f"HTTP/1.1 307 x\r\nlocation: :::{KEY}\r\ncontent-length: 0\r\n\r\n",
    "request id": f"HTTP/1.1 401 x\r\nrequest-id: {KEY}\r\ncontent-length: 0\r\n\r\n",
    "retry after": f"HTTP/1.1 400 x\r\nretry-after: {KEY}\r\ncontent-length: 0\r\n\r\n",
    "error body": f'HTTP/1.1 401 x\r\n\r\n{{"error":{{"type":"{KEY}","message":"{KEY}"}}}}',
    "error event": f'{_HEAD}\r\nevent: error\ndata: {{"error":{{"type":"{KEY}","message":"{KEY}"}}}}\n\n',
    "bad JSON": f'{_EVENT}{{"delta":"{KEY}\n\n',
    "another shape": f'{_EVENT}{{"delta":"{KEY}","choices":"{KEY}"}}\n\n',
    "half a surrogate pair": f'{_EVENT}{{"delta":"{KEY}","\\ud800":"{KEY}"}}\n\n',
}


@asynccontextmanager
async def serve_raw(answer: bytes) -> AsyncIterator[str]:
    """Serve these bytes to every request, then close the connection. Yields the base URL."""

    async def play(connection: SocketStream) -> None:
        async with connection:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                request = b""
                while not request.endswith(b"}"):
                    request += await connection.receive()
                await connection.send(answer)
                await connection.send_eof()
                while True:
                    await connection.receive()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, play)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        group.cancel_scope.cancel()


@one_loop
@pytest.mark.parametrize(("wire", "client"), [(wire, client) for wire in WIRES for client in clients_of(wire)])
@pytest.mark.parametrize("where", REFLECTIONS)
async def test_a_host_that_sends_the_key_back(where: str, wire: str, client: str) -> None:
    """If the host sends the key back anywhere, the result is a typed error without the key."""
    fault = Fault(name=where, script=GOOD)
    async with serve_raw(REFLECTIONS[where].encode()) as url, options_of(client, wire, url) as options:
        outcome = await through_aprefill(fault, options)
    assert isinstance(outcome.error, ProviderError)
    assert not list(places_of_key(outcome.error))


# --- controls -------------------------------------------------------------------------------------------------


@one_loop
@pytest.mark.parametrize("wire", WIRES)
async def test_control_a_cut_that_nobody_notices(wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a codec that takes every end of the body for the end of the reply fails the check."""
    for name in PROTOCOLS:
        monkeypatch.setattr(type(codec(name).decoder()), "close", lambda self, undispatched=None: (EndDelta(),))
    for name in (CLEAN_EOF, "half an event at the end", "FIN in mid-stream"):
        fault = fault_for(name, wire)
        with pytest.raises(AssertionError, match="without an error"):
            check(fault, await outcome_of(fault, wire))


@one_loop
@pytest.mark.parametrize("client", CLIENTS)
async def test_control_an_error_that_keeps_its_request(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the HTTP library's own error holds the request with the key in its headers, and fails the check."""
    monkeypatch.setattr(_foreign, "_scrub", lambda exc, redact: None)
    fault = fault_for("hangs up without an answer", "chat")
    with pytest.raises(AssertionError, match="the error or its chain contains the key"):
        check(fault, await outcome_of(fault, "chat", client))


@one_loop
@pytest.mark.parametrize("wire", WIRES)
async def test_control_an_error_that_nobody_translates(wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: an HTTP library's error that is not translated fails the check."""
    monkeypatch.setattr(_foreign, "_OURS", (Exception,))
    fault = fault_for("FIN in mid-stream", wire)
    with pytest.raises(AssertionError, match="not an error of aprefill: RemoteProtocolError"):
        check(fault, await outcome_of(fault, wire))


@one_loop
async def test_control_a_clock_that_stands_still() -> None:
    """The control: keep-alives without a small timeout fail the check, because the reply goes on."""
    fault = replace(fault_for("keep-alives and no more text", "chat"), timeouts=Timeouts(), within_s=0.3)
    with pytest.raises(AssertionError, match="did not end within"):
        check(fault, await outcome_of(fault, "chat"))


@one_loop
async def test_control_what_is_wrong_with_an_outcome_is_seen() -> None:
    """The control: the check notices a wrong error or fact, wrong, lost or made-up text, and a late reply."""
    cut, good = fault_for("FIN in mid-stream", "chat"), fault_for("bad UTF-8", "chat")
    loris = fault_for("keep-alives and no more text", "chat")
    was_cut, was_good, was_stalled = [await outcome_of(fault, "chat") for fault in (cut, good, loris)]
    for fault, outcome, problem in (
        (cut, replace(was_cut, text=was_cut.text[:-1]), "text_so_far"),
        (replace(cut, kept="one "), was_cut, "not the text so far"),
        (replace(cut, may_keep_less=True, kept="one "), was_cut, "not the text so far"),
        (loris, was_cut, "Truncated"),
        (replace(loris, facts={"clock": "idle_s"}), was_stalled, "clock is 'progress_s'"),
        (replace(loris, says="for ever"), was_stalled, "does not say"),
        (good, replace(was_good, text=was_good.text[:-1]), "the wrong text"),
        (good, replace(was_good, seconds=99.0), "took"),
    ):
        with pytest.raises(AssertionError, match=problem):
            check(fault, outcome)


def test_control_the_key_is_found_wherever_it_hides() -> None:
    """The control: the check finds the key in a message, an attribute, a header, bytes and a chained error."""

    def chained(link: BaseException) -> Exception:
        error = ValueError("nothing here")
        error.__context__ = link
        return error

    request = httpx2.Request("POST", "http://127.0.0.1/", headers={"x-api-key": KEY}, content=b"{}")
    noted, attributed = ValueError("x"), ValueError("x")
    noted.add_note(f"with {KEY}")
    attributed.facts = {"sent": [KEY.encode()]}
    status = httpx2.HTTPStatusError("x", request=request, response=httpx2.Response(500, request=request))
    for error in (
        ValueError(f"bad key {KEY}"),
        ValueError(f"bad key {KEY[:15]}..."),
        ValueError(b"Bearer " + KEY.encode()),
        noted,
        attributed,
        status,
        UnicodeDecodeError("utf-8", KEY.encode() + b"\xff", 0, 1, "invalid"),
        ExceptionGroup("several", [ValueError(KEY)]),
    ):
        assert list(places_of_key(error))
        assert list(places_of_key(chained(error)))
    assert not list(places_of_key(chained(ValueError("x"))))


@one_loop
@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
async def test_control_the_sdks_own_streams(sdk: str) -> None:
    """The control: an SDK's own stream fails the check with silence and with a foreign error. A good reply passes."""
    wire = "chat" if sdk == "openai" else "messages"
    for name, problem in (
        (CLEAN_EOF, "ended without an error"),
        ("200 `text/html`", "ended without an error"),
        ("bad JSON", "not an error of aprefill: JSONDecodeError"),
        ("no blank line after the terminal event", None),
    ):
        fault = fault_for(name, wire)
        async with serve(fault.play) as server, own_stream_of(sdk, server.url) as ask:
            outcome = await through_sdk(ask, fault.within_s)
            if problem is None:
                check(fault, outcome)
                continue
            with pytest.raises(AssertionError, match=problem):
                check(fault, outcome)

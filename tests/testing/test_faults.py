"""Each behaviour on both wires, as a plain client sees it."""

from __future__ import annotations

import math
import time
from importlib import metadata
from typing import Any

import httpx2
import pytest
from anyio import CancelScope, create_task_group, fail_after

from aprefill.testing import Script, serve

from .asking import PATHS, WIRES, Reading, Reset, ask, body, client_of, deltas, is_whole, raw_answer, records, sent

ANYIO = tuple(int(part) for part in metadata.version("anyio").split(".")[:2])

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("wire", WIRES)]

PREFILL = '["'
TEXT = 'Alabama", "Alaska"]'


# --- what becomes of the prefill ------------------------------------------------------------------------------


@pytest.mark.any_loop
async def test_it_is_left_out(wire: str) -> None:
    """The new text alone."""
    assert "".join(deltas(await sent(Script(text=TEXT, prefill="eats"), wire))) == TEXT


@pytest.mark.any_loop
@pytest.mark.parametrize(
    ("echo", "reply"),
    [
        ("split", '["Alabama", "Alaska"]'),
        ("joined", '["Alabama", "Alaska"]'),
        ("whitespace", '\n["Alabama", "Alaska"]'),
        ("fence", '```json\n["Alabama", "Alaska"]\n```'),
        ("chatter", 'Sure, here it is:\n["Alabama", "Alaska"]'),
        ("chatter+fence", 'Sure, here it is:\n```json\n["Alabama", "Alaska"]\n```'),
    ],
)
async def test_it_is_echoed(wire: str, echo: Any, reply: str) -> None:
    """In each of its shapes; joined, the first delta holds it all and the first token."""
    pieces = deltas(await sent(Script(text=TEXT, prefill="echoes", echo=echo), wire))
    assert "".join(pieces) == reply
    if echo == "joined":
        assert pieces[0] == '["Alab'


@pytest.mark.any_loop
async def test_it_is_ignored(wire: str) -> None:
    """A fresh reply."""
    assert "".join(deltas(await sent(Script(text="Here are two.", prefill="ignores"), wire))) == "Here are two."


@pytest.mark.any_loop
async def test_it_is_refused(wire: str) -> None:
    """Once there is one."""
    with fail_after(10):
        async with serve(Script(text=TEXT, prefill="refuses")) as server:
            refused, taken = await ask(server, wire, PREFILL), await ask(server, wire)
    assert (refused.status_code, taken.status_code) == (400, 200)
    assert refused.headers["content-type"] == "application/json"
    assert "".join(deltas(taken.text)) == TEXT


# --- how the body ends before its time ------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("after", [0, 1, 300])
async def test_it_drops_after_n_bytes(wire: str, framing: Any, after: int, tls: bool) -> None:
    """A FIN where more was promised, after exactly so many bytes of the body."""
    with fail_after(10):
        async with serve(Script(text=TEXT, drop_after_bytes=after, framing=framing), tls=tls) as server:
            body_so_far = bytearray()
            with pytest.raises(httpx2.RemoteProtocolError):
                async with (
                    client_of(server) as client,
                    client.stream("POST", server.url + PATHS[wire], json=body()) as response,
                ):
                    async for data in response.aiter_raw():
                        body_so_far += data
            exchange = server.exchanges[0]
            await exchange.closed.wait()
            assert (exchange.outcome, exchange.sent_bytes, len(body_so_far)) == ("dropped", after, after)


@pytest.mark.any_loop
async def test_a_drop_beyond_the_body_comes_at_its_end(wire: str) -> None:
    """Never a reply that is good by accident: the end of the framing is missing all the same."""
    with fail_after(10):
        async with serve(Script(text=TEXT, drop_after_bytes=10**6)) as server:
            answer = await raw_answer(server, wire)
    assert answer.endswith(b"\n\n\r\n")
    assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("after", [0, 300])
async def test_it_resets_after_n_bytes(wire: str, after: int, anyio_backend_name: str) -> None:
    """A RST, which a client can tell from a FIN."""
    if ANYIO < (4, 13) and anyio_backend_name == "asyncio":
        pytest.skip("anyio before 4.13 gives this test's own client an end in place of a reset on asyncio's loops")
    with fail_after(10):
        async with serve(Script(text=TEXT, reset_after_bytes=after, framing="close")) as server:
            with pytest.raises(Reset) as caught:
                await raw_answer(server, wire)
            exchange = server.exchanges[0]
            await exchange.done.wait()
            assert (exchange.outcome, exchange.sent_bytes) == ("reset", after)
            await server.wait_closed()
    assert len(caught.value.args[0].partition(b"\r\n\r\n")[2]) <= after


async def test_it_hangs_up_without_an_answer(wire: str) -> None:
    """Not a byte."""
    with fail_after(10):
        async with serve(Script(hang_up=True)) as server:
            assert await raw_answer(server, wire) == b""
            assert server.exchanges[0].outcome == "dropped"


@pytest.mark.any_loop
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_it_ends_cleanly_without_its_end(wire: str, framing: Any) -> None:
    """All the text, no reason, no terminal record, and nothing wrong with the HTTP."""
    text = await sent(Script(text=TEXT, no_end=True, framing=framing), wire)
    assert "".join(deltas(text)) == TEXT
    assert not is_whole(text)
    assert "end_turn" not in text
    assert '"finish_reason":"' not in text


@pytest.mark.any_loop
async def test_half_an_event_comes_last(wire: str) -> None:
    """After all the text."""
    text = await sent(Script(text=TEXT, half_event_at_end=True), wire)
    assert "".join(deltas(text)) == TEXT
    assert not text.endswith("\n\n")
    assert not is_whole(text)


@pytest.mark.any_loop
async def test_the_terminal_record_alone_is_missing(wire: str) -> None:
    """The reason is there: some gateways send no `[DONE]`."""
    text = await sent(Script(text=TEXT, no_done=True), wire)
    assert not is_whole(text)
    assert "end_turn" in text or '"finish_reason":"stop"' in text


@pytest.mark.any_loop
async def test_the_last_blank_line_is_missing(wire: str) -> None:
    """A strict reader of events never sees the terminal record."""
    text = await sent(Script(text=TEXT, no_last_blank=True), wire)
    assert text.endswith('"}\n' if wire == "anthropic" else "[DONE]\n")
    assert not text.endswith("\n\n")


@pytest.mark.any_loop
async def test_it_talks_after_its_end(wire: str) -> None:
    """Text that is not the reply's."""
    text = await sent(Script(text=TEXT, text_after_end="And more"), wire)
    assert deltas(text)[-1] == "And more"
    assert text.index("And more") > max(text.find("message_stop"), text.find("[DONE]"))


# --- what it does in the middle -------------------------------------------------------------------------------


@pytest.mark.any_loop
@pytest.mark.parametrize(("after", "before"), [(0, ""), (6, "Alabam"), (None, TEXT), (99, TEXT)])
async def test_it_sends_an_error_event(wire: str, after: int | None, before: str) -> None:
    """After exactly so many characters; the stream ends there, cleanly."""
    script = Script(text=TEXT, after=after, error_event=("overloaded_error", "Overloaded"))
    text = await sent(script, wire)
    assert "".join(deltas(text)) == before
    event, data = records(text)[-1]
    assert event == ("error" if wire == "anthropic" else "")
    assert '"type":"overloaded_error"' in data
    assert '"message":"Overloaded"' in data


@pytest.mark.any_loop
@pytest.mark.parametrize("kind", ["json", "utf8"])
async def test_one_event_is_broken(wire: str, kind: Any) -> None:
    """Not JSON, or not UTF-8; all else is as it should be."""
    with fail_after(10):
        async with serve(Script(text=TEXT, after=6, bad_event=kind)) as server:
            content = (await ask(server, wire)).content
    if kind == "utf8":
        with pytest.raises(UnicodeDecodeError):
            content.decode()
        text = content.decode(errors="replace")
        assert "".join(deltas(text)) == TEXT[:6] + "\ufffd" + TEXT[6:]
    else:
        text = content.decode()
        *_, broken = [data for _, data in records(text) if data.endswith(':"')]
        assert "".join(deltas(text.replace(broken + "\n\n", "[DONE]\n\n"))) == TEXT
    assert is_whole(text)


@pytest.mark.any_loop
async def test_bytes_of_ones_own_can_be_inserted(wire: str) -> None:
    """As they are, whatever the line ends of the stream."""
    script = Script(text=TEXT, after=6, insert=b": one\n\nretry: 5\n\n", newline="\r\n")
    text = await sent(script, wire)
    assert "\r\n\r\n: one\n\nretry: 5\n\n" in text


@pytest.mark.any_loop
async def test_a_line_has_no_end(wire: str) -> None:
    """So many bytes without a newline, and the stream is over."""
    text = await sent(Script(text=TEXT, endless_line=200_000), wire)
    assert len(text.rsplit("\n", 1)[1]) == 200_000
    assert "".join(deltas(text)) == TEXT


@pytest.mark.parametrize(
    ("where", "value", "before"),
    [
        ("first_byte_s", math.inf, ""),
        ("first_token_s", math.inf, ""),
        ("stall_after", 6, TEXT[:6]),
        ("stall_after", 99, TEXT),
        ("hold_open_s", math.inf, TEXT),
    ],
)
async def test_it_stalls(wire: str, where: str, value: Any, before: str) -> None:
    """Before the head, before the first token, in the text, after the end: silence until the client goes."""
    with fail_after(10):
        async with serve(Script(text=TEXT, **{where: value})) as server, create_task_group() as tasks:
            reading = Reading(server, wire)
            tasks.start_soon(reading.run)
            exchange = await server.wait_exchange()
            await exchange.waiting.wait()
            seen = await reading.until(exchange.sent_bytes)
            assert not exchange.done.is_set()
            tasks.cancel_scope.cancel()
            with CancelScope(shield=True):
                await exchange.done.wait()
            assert exchange.outcome == "client_closed"
    assert "".join(deltas(seen)) == before
    assert bool(seen) == (where != "first_byte_s")
    assert is_whole(seen) == (where == "hold_open_s")


async def test_it_keeps_alive_without_progress(wire: str) -> None:
    """Pings on one wire, comments on the other, without end."""
    mark = b"event: ping\n" if wire == "anthropic" else b": keep-alive\n"
    with fail_after(10):
        async with (
            serve(Script(text=TEXT, keepalive_after=6, keepalive_s=0.001)) as server,
            create_task_group() as tasks,
        ):
            reading = Reading(server, wire)
            tasks.start_soon(reading.run)
            while reading.seen.count(mark) < 20:
                await reading.until(len(reading.seen) + 1)
            tasks.cancel_scope.cancel()
            with CancelScope(shield=True):
                await server.exchanges[0].done.wait()
            assert server.exchanges[0].outcome == "client_closed"
    seen = reading.seen.decode()
    assert "".join(deltas(seen)) == TEXT[:6]
    assert not is_whole(seen)


# --- what it answers instead ----------------------------------------------------------------------------------


@pytest.mark.any_loop
async def test_it_answers_429_with_retry_after(wire: str) -> None:
    """And with the wire's own error."""
    with fail_after(10):
        async with serve(Script(status=429, retry_after=2)) as server:
            response = await ask(server, wire)
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert response.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.any_loop
async def test_it_answers_with_any_body(wire: str) -> None:
    """A login page with a 200; nothing at all; a good stream under a wrong name; an error body of one's own."""
    scripts = [
        Script(body=b"<html>Log in</html>", content_type="text/html"),
        Script(body=b""),
        Script(text="x", content_type="application/json"),
        Script(status=503, body=b"upstream connect error", content_type="text/plain"),
    ]
    with fail_after(10):
        async with serve(scripts) as server:
            page, nothing, misnamed, upstream = [await ask(server, wire) for _ in scripts]
    assert (page.text, page.headers["content-type"]) == ("<html>Log in</html>", "text/html")
    assert nothing.content == b""
    assert nothing.headers["content-type"].startswith("text/event-stream")
    assert is_whole(misnamed.text)
    assert misnamed.headers["content-type"] == "application/json"
    assert (upstream.status_code, upstream.text) == (503, "upstream connect error")


@pytest.mark.any_loop
async def test_it_redirects(wire: str) -> None:
    """A 307, which asks to post the prompt elsewhere."""
    with fail_after(10):
        async with serve(Script(redirect="http://127.0.0.1:1/elsewhere")) as server:
            response = await ask(server, wire)
    assert (response.status_code, response.headers["location"]) == (307, "http://127.0.0.1:1/elsewhere")


@pytest.mark.any_loop
async def test_it_sends_a_gzip_bomb(wire: str) -> None:
    """Little on the wire, much in memory, and valid gzip to the last byte."""
    with fail_after(10):
        async with serve(Script(gzip_bomb=3_000_001)) as server:
            response = await ask(server, wire)
            assert server.exchanges[0].sent_bytes < 30_000
    assert len(response.content) == 3_000_001
    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.any_loop
async def test_headers_can_be_added_and_replaced(wire: str) -> None:
    """By name, whatever the case."""
    script = Script(text="x", headers={"X-Extra": "1", "Content-Type": "text/event-stream", "Server": "nginx"})
    with fail_after(10):
        async with serve(script) as server:
            headers = (await ask(server, wire)).headers
    assert (headers["x-extra"], headers["content-type"], headers["server"]) == (
        "1",
        "text/event-stream",
        "nginx",
    )


# --- how it travels -------------------------------------------------------------------------------------------


@pytest.mark.any_loop
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_the_framing_is_exact(wire: str, framing: Any) -> None:
    """The bytes on the wire, and an HTTP/1.0 client that gets no chunks."""
    with fail_after(10):
        async with serve(Script(text=TEXT, framing=framing)) as server:
            head, _, rest = (await raw_answer(server, wire)).partition(b"\r\n\r\n")
            old_head, _, old_rest = (await raw_answer(server, wire, version="1.0")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (b"transfer-encoding: chunked" in head) == (framing == "chunked")
    assert (b"content-length: %d" % len(rest) in head) == (framing == "length")
    assert rest.endswith(b"0\r\n\r\n") == (framing == "chunked")
    assert b"chunked" not in old_head
    assert old_rest.endswith(b"\n\n")


@pytest.mark.any_loop
async def test_without_wire_cuts_an_event_is_a_write(wire: str) -> None:
    """Each chunk of the chunked body is one event, or so many bytes where that is asked for."""
    with fail_after(10):
        async with serve([Script(text=TEXT), Script(text=TEXT, wire_cuts=7)]) as server:
            by_event = chunks_of(await raw_answer(server, wire))
            by_seven = chunks_of(await raw_answer(server, wire))
    assert all(chunk.endswith(b"\n\n") and chunk.count(b"\n\n") == 1 for chunk in by_event)
    assert {len(chunk) for chunk in by_seven[:-1]} == {7}
    assert 0 < len(by_seven[-1]) <= 7


def chunks_of(answer: bytes) -> list[bytes]:
    rest, chunks = answer.partition(b"\r\n\r\n")[2], []
    while not rest.startswith(b"0\r\n"):
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return chunks


async def test_the_pace_is_kept(wire: str) -> None:
    """So many writes take so long and not shorter; what they take longer is the machine's."""
    with fail_after(10):
        async with serve([Script(text=TEXT), Script(text=TEXT, pace_s=0.01)]) as server:
            writes = len(chunks_of(await raw_answer(server, wire)))
            start = time.perf_counter()
            await raw_answer(server, wire)
            took = time.perf_counter() - start
    assert took >= (writes - 1) * 0.01

"""Each behaviour of a script, for Anthropic's and OpenAI's format, as a plain HTTP client sees it."""

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


# --- what the host does with the prefill ----------------------------------------------------------------------


@pytest.mark.any_loop
async def test_it_is_left_out(wire: str) -> None:
    """With `prefill="eats"` the response has only the new text."""
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
    """With `prefill="echoes"` the response has each shape of the echo.

    Joined, the first delta has echo and new text.
    """
    pieces = deltas(await sent(Script(text=TEXT, prefill="echoes", echo=echo), wire))
    assert "".join(pieces) == reply
    if echo == "joined":
        assert pieces[0] == '["Alab'


@pytest.mark.any_loop
async def test_it_is_ignored(wire: str) -> None:
    """With `prefill="ignores"` the response is a reply of its own."""
    assert "".join(deltas(await sent(Script(text="Here are two.", prefill="ignores"), wire))) == "Here are two."


@pytest.mark.any_loop
async def test_it_is_refused(wire: str) -> None:
    """With `prefill="refuses"` a request with a prefill gets a 400, and one without a prefill gets the reply."""
    with fail_after(10):
        async with serve(Script(text=TEXT, prefill="refuses")) as server:
            refused, taken = await ask(server, wire, PREFILL), await ask(server, wire)
    assert (refused.status_code, taken.status_code) == (400, 200)
    assert refused.headers["content-type"] == "application/json"
    assert "".join(deltas(taken.text)) == TEXT


# --- how the body ends too early ------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("after", [0, 1, 300])
async def test_it_drops_after_n_bytes(wire: str, framing: Any, after: int, tls: bool) -> None:
    """With `drop_after_bytes` the server sends a FIN after exactly this many bytes of the body."""
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
    """With `drop_after_bytes` beyond the body's end, the end of the framing is missing all the same."""
    with fail_after(10):
        async with serve(Script(text=TEXT, drop_after_bytes=10**6)) as server:
            answer = await raw_answer(server, wire)
    assert answer.endswith(b"\n\n\r\n")
    assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("after", [0, 300])
async def test_it_resets_after_n_bytes(wire: str, after: int, anyio_backend_name: str) -> None:
    """With `reset_after_bytes` the client sees a RST, which it can tell from a FIN."""
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
    """With `hang_up` the client does not get a single byte."""
    with fail_after(10):
        async with serve(Script(hang_up=True)) as server:
            assert await raw_answer(server, wire) == b""
            assert server.exchanges[0].outcome == "dropped"


@pytest.mark.any_loop
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_it_ends_cleanly_without_its_end(wire: str, framing: Any) -> None:
    """With `no_end` all of the text comes, without stop reason and terminal record. The HTTP is correct."""
    text = await sent(Script(text=TEXT, no_end=True, framing=framing), wire)
    assert "".join(deltas(text)) == TEXT
    assert not is_whole(text)
    assert "end_turn" not in text
    assert '"finish_reason":"' not in text


@pytest.mark.any_loop
async def test_half_an_event_comes_last(wire: str) -> None:
    """With `half_event_at_end` the body ends in the middle of an event, after all of the text."""
    text = await sent(Script(text=TEXT, half_event_at_end=True), wire)
    assert "".join(deltas(text)) == TEXT
    assert not text.endswith("\n\n")
    assert not is_whole(text)


@pytest.mark.any_loop
async def test_the_terminal_record_alone_is_missing(wire: str) -> None:
    """With `no_done` the stop reason comes, but no terminal record. Some gateways send no `[DONE]`."""
    text = await sent(Script(text=TEXT, no_done=True), wire)
    assert not is_whole(text)
    assert "end_turn" in text or '"finish_reason":"stop"' in text


@pytest.mark.any_loop
async def test_the_last_blank_line_is_missing(wire: str) -> None:
    """With `no_last_blank` the last blank line is missing, so a strict reader never sees the terminal record."""
    text = await sent(Script(text=TEXT, no_last_blank=True), wire)
    assert text.endswith('"}\n' if wire == "anthropic" else "[DONE]\n")
    assert not text.endswith("\n\n")


@pytest.mark.any_loop
async def test_it_talks_after_its_end(wire: str) -> None:
    """With `text_after_end` more text comes after the terminal record."""
    text = await sent(Script(text=TEXT, text_after_end="And more"), wire)
    assert deltas(text)[-1] == "And more"
    assert text.index("And more") > max(text.find("message_stop"), text.find("[DONE]"))


# --- what comes in the middle ---------------------------------------------------------------------------------


@pytest.mark.any_loop
@pytest.mark.parametrize(("after", "before"), [(0, ""), (6, "Alabam"), (None, TEXT), (99, TEXT)])
async def test_it_sends_an_error_event(wire: str, after: int | None, before: str) -> None:
    """With `error_event` an error comes after exactly `after` characters, and the stream ends there without a fault."""
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
    """With `bad_event` one event is not JSON, or not UTF-8. Everything else is right."""
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
    """With `insert` the given bytes come unchanged, whatever the line ends of the stream are."""
    script = Script(text=TEXT, after=6, insert=b": one\n\nretry: 5\n\n", newline="\r\n")
    text = await sent(script, wire)
    assert "\r\n\r\n: one\n\nretry: 5\n\n" in text


@pytest.mark.any_loop
async def test_a_line_has_no_end(wire: str) -> None:
    """With `endless_line` the stream ends with a line of this many bytes, which has no newline."""
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
    """The server can stall before the headers, before the first token, in the text or at the end.

    It waits until the client leaves.
    """
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
    """With `keepalive_after` pings (Anthropic) or comments (OpenAI) come without end, and no more text."""
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


# --- other answers --------------------------------------------------------------------------------------------


@pytest.mark.any_loop
async def test_it_answers_429_with_retry_after(wire: str) -> None:
    """A 429 has the header `retry-after` and the protocol's own error."""
    with fail_after(10):
        async with serve(Script(status=429, retry_after=2)) as server:
            response = await ask(server, wire)
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert response.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.any_loop
async def test_it_answers_with_any_body(wire: str) -> None:
    """A script can send any body: a login page with a 200, nothing, a stream with a wrong media type, its own error."""
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
    """With `redirect` the server answers 307, which asks the client to post the prompt to another URL."""
    with fail_after(10):
        async with serve(Script(redirect="http://127.0.0.1:1/elsewhere")) as server:
            response = await ask(server, wire)
    assert (response.status_code, response.headers["location"]) == (307, "http://127.0.0.1:1/elsewhere")


@pytest.mark.any_loop
async def test_it_sends_a_gzip_bomb(wire: str) -> None:
    """With `gzip_bomb` a few bytes on the network become many in memory, and the gzip is valid to its last byte."""
    with fail_after(10):
        async with serve(Script(gzip_bomb=3_000_001)) as server:
            response = await ask(server, wire)
            assert server.exchanges[0].sent_bytes < 30_000
    assert len(response.content) == 3_000_001
    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.any_loop
async def test_headers_can_be_added_and_replaced(wire: str) -> None:
    """Headers can be added and replaced. Their names are case-insensitive."""
    script = Script(text="x", headers={"X-Extra": "1", "Content-Type": "text/event-stream", "Server": "nginx"})
    with fail_after(10):
        async with serve(script) as server:
            headers = (await ask(server, wire)).headers
    assert (headers["x-extra"], headers["content-type"], headers["server"]) == (
        "1",
        "text/event-stream",
        "nginx",
    )


# --- transport ------------------------------------------------------------------------------------------------


@pytest.mark.any_loop
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_the_framing_is_exact(wire: str, framing: Any) -> None:
    """Each framing has the right bytes on the network, and an HTTP/1.0 client gets no chunks."""
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
    """Without `wire_cuts` each HTTP chunk is one event. With it each chunk has that many bytes."""
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
    """With `pace_s` a reply takes at least that long per write. More than that is the machine's fault."""
    with fail_after(10):
        async with serve([Script(text=TEXT), Script(text=TEXT, pace_s=0.01)]) as server:
            writes = len(chunks_of(await raw_answer(server, wire)))
            start = time.perf_counter()
            await raw_answer(server, wire)
            took = time.perf_counter() - start
    assert took >= (writes - 1) * 0.01

"""What is true on every ASGI server and event loop. Here the server is a pair of functions."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from aprefill import web
from aprefill.testing import Script, serve

from ..conftest import LOOPS
from .site import Server, events_in, session_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", LOOPS)]

SILENT = Script(text="one two three four", cuts=4, stall_after=12)
FLOW = Script(text="one two three four", cuts=4)


async def test_a_whole_reply() -> None:
    """The response has a head, then the records, then the end of the body."""
    async with serve(FLOW) as provider, session_of(provider) as session:
        server = Server()
        await server.play(web.sse(session.stream("hi")))
    assert server.sent[0]["status"] == 200
    assert [record["type"] for record in events_in(server.body)][-1] == "end"
    assert [message.get("more_body") for message in server.sent[-2:]] == [True, False]


async def test_the_client_goes_while_the_model_is_silent() -> None:
    """The response returns, the provider sees the close, and nothing more is sent."""
    async with serve(SILENT) as provider, session_of(provider) as session, anyio.create_task_group() as tasks:
        server = Server()
        tasks.start_soon(server.play, web.sse(session.stream("hi")))
        exchange = await provider.wait_exchange()
        with anyio.fail_after(2):
            await exchange.waiting.wait()
            server.gone.set()
            await exchange.closed.wait()
    assert {record["type"] for record in events_in(server.body)} == {"text"}


@pytest.mark.parametrize("how", ["disconnect", "OSError", "RuntimeError", "cancel"])
async def test_the_client_goes_in_the_middle_of_a_send(how: str) -> None:
    """A disconnect during a send closes the provider's connection.

    It comes as a message, an exception or a cancellation.
    """
    blocked = anyio.Event()

    async def block(message: dict[str, Any]) -> None:
        if b'"offset":4' in message.get("body", b""):
            blocked.set()
            if how == "OSError":
                raise BrokenPipeError
            if how == "RuntimeError":  # uvloop's error for a closed transport
                raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
            await anyio.sleep_forever()

    async with serve(SILENT) as provider, session_of(provider) as session, anyio.create_task_group() as tasks:
        server = Server()
        server.before = block
        tasks.start_soon(server.play, web.sse(session.stream("hi")))
        with anyio.fail_after(2):
            await blocked.wait()
            if how == "disconnect":
                server.gone.set()
            elif how == "cancel":
                tasks.cancel_scope.cancel()
                await anyio.lowlevel.cancel_shielded_checkpoint()
        exchange = provider.exchanges[0]
        with anyio.fail_after(2, shield=True):
            await exchange.closed.wait()
    assert len(events_in(server.body)) == 1


async def test_the_server_ends_the_request() -> None:
    """A client that is still connected gets an error that can be continued. The provider sees the close at once."""
    async with serve(SILENT) as provider, session_of(provider) as session:
        server = Server()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.play, web.sse(session.stream("hi")))
            exchange = await provider.wait_exchange()
            with anyio.fail_after(2):
                await exchange.waiting.wait()
                await server.has_sent(4)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(2):
            await exchange.closed.wait()
    *texts, last = events_in(server.body)
    assert [record["text"] for record in texts] == ["one ", "two ", "thre"]
    assert (last["type"], last["error"], last["can_continue"], last["length"]) == ("error", "ReplyClosed", True, 12)
    assert server.sent[-1]["more_body"] is False


@pytest.mark.parametrize("how", ["the last word is taken", "it is not", "the client has gone"])
async def test_the_server_ends_the_request_between_two_records_of_one_read(how: str) -> None:
    """Text that was not sent is not counted in the error record.

    The provider is closed before the last record is sent.
    """
    exchange: Any = None
    began = 0.0

    async def cancel(message: dict[str, Any]) -> None:
        nonlocal began
        if b'"offset":4' in message.get("body", b""):
            began = time.perf_counter()
            scope.cancel()
        elif b"ReplyClosed" in message.get("body", b"") and how != "the last word is taken":
            if how == "it is not":
                await anyio.sleep_forever()
            raise BrokenPipeError

    # one write of the host, so that it is one read
    script = Script(text="one two three four", cuts=4, wire_cuts=100_000, stall_after=17)
    async with serve(script) as provider, session_of(provider) as session:
        server = Server()
        server.before = cancel
        with anyio.fail_after(5), anyio.CancelScope() as scope:
            await server.play(web.sse(session.stream("hi")))
        assert scope.cancelled_caught
        exchange = provider.exchanges[0]
        with anyio.fail_after(2):
            await exchange.closed.wait()
    assert exchange.closed_at - began < 0.3
    records = events_in(server.body)
    texts = [record["text"] for record in records if record["type"] == "text"]
    assert texts == ["one ", "two "]
    if how == "the last word is taken":
        assert (records[-1]["error"], records[-1]["length"]) == ("ReplyClosed", 8)
    else:
        assert len(records) == 2


async def test_the_server_ends_the_request_when_the_reply_has_ended() -> None:
    """A reply that was received completely gets its end record, so that nobody pays for it again."""

    async def cancel(message: dict[str, Any]) -> None:
        if b'"offset":14' in message.get("body", b""):
            scope.cancel()

    async with serve(Script(text="one two three four", cuts=[4, 10, 4], wire_cuts=100_000)) as provider:
        async with session_of(provider) as session:
            server = Server()
            server.before = cancel
            with anyio.fail_after(5), anyio.CancelScope() as scope:
                await server.play(web.sse(session.stream("hi")))
            assert scope.cancelled_caught
    records = events_in(server.body)
    assert "".join(record["text"] for record in records[:-1]) == "one two three four"
    assert records[-1]["type"] == "end"


async def test_the_server_ends_the_request_while_a_heartbeat_is_under_way() -> None:
    """If the server cancels a heartbeat, nothing is sent after it. It is not known how much of it was sent."""
    beating, over = anyio.Event(), anyio.Event()

    async def block(message: dict[str, Any]) -> None:
        if message.get("body") == b": ping\n\n":
            beating.set()
            with anyio.CancelScope(shield=True):  # a server whose send cannot be cancelled
                await over.wait()

    async with serve(SILENT) as provider, session_of(provider) as session:
        server = Server()
        server.before = block
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.play, web.sse(session.stream("hi"), heartbeat_s=0.02))
                await beating.wait()
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    # once the provider is closed, the flow has decided whether to send a last record
                    await provider.exchanges[0].closed.wait()
                    over.set()
    assert b"ReplyClosed" not in server.body


@pytest.mark.parametrize("at", ["http.response.start", "http.response.body"])
async def test_a_mistake_of_a_middlewares_is_its_own(at: str) -> None:
    """Not every RuntimeError of a send means a disconnect. Others are raised to the server."""

    async def fail(message: dict[str, Any]) -> None:
        if message["type"] == at:
            raise RuntimeError("Response content longer than Content-Length")

    async with serve(SILENT) as provider, session_of(provider) as session:
        server = Server()
        server.before = fail
        with anyio.fail_after(2), pytest.raises(RuntimeError, match="longer than"):
            await server.play(web.sse(session.stream("hi")))


@pytest.mark.parametrize("waits", [False, True])
async def test_a_reply_that_was_cancelled_before(waits: bool) -> None:
    """A cancelled reply gets its end record, whether or not its connection is closed already."""
    async with serve(SILENT) as provider, session_of(provider) as session:
        server = Server()
        async with session.stream("hi") as reply:
            await anext(aiter(reply))
            reply.cancel()
            if waits:
                await provider.exchanges[0].closed.wait()
            await server.play(web.sse(reply))
    assert server.sent[0]["status"] == 200
    assert events_in(server.body)[-1]["stop_reason"] == "cancelled"


async def test_the_server_ends_a_request_that_has_no_status_yet() -> None:
    """If the server cancels the request before the first record, the status is 503."""
    async with serve(Script(text="one", first_token_s=9)) as provider, session_of(provider) as session:
        server = Server()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.play, web.sse(session.stream("hi")))
            exchange = await provider.wait_exchange()
            with anyio.fail_after(2):
                await exchange.waiting.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(2):
            await exchange.closed.wait()
    assert server.sent[0]["status"] == 503
    assert b'"ReplyClosed"' in server.body


async def test_the_server_ends_the_request_and_the_client_takes_nothing() -> None:
    """If the client does not read, the last record is given up after half a second."""

    async def block(message: dict[str, Any]) -> None:
        if b"ReplyClosed" in message.get("body", b""):
            await anyio.sleep_forever()

    # The request is cancelled while the model is silent.
    async with serve(SILENT) as provider, session_of(provider) as session:
        server = Server()
        server.before = block
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.play, web.sse(session.stream("hi")))
                exchange = await provider.wait_exchange()
                await exchange.waiting.wait()
                await server.has_sent(4)
                began, clock = anyio.current_time(), time.perf_counter()
                tasks.cancel_scope.cancel()
            assert 0.4 < anyio.current_time() - began < 2
            await exchange.closed.wait()
            assert exchange.closed_at is not None
            assert exchange.closed_at - clock < 0.3
    assert [record["type"] for record in events_in(server.body)] == ["text"] * 3


async def test_no_more_than_one_record_is_under_way() -> None:
    """While a send waits, no more text is read from the reply."""
    waits = anyio.Event()

    async def block(message: dict[str, Any]) -> None:
        if b'"offset":4' in message.get("body", b""):
            waits.set()
            await anyio.sleep_forever()

    script = Script(text="one two three four", cuts=4, pace_s=0.01)
    async with serve(script) as provider, session_of(provider) as session, anyio.create_task_group() as tasks:
        reply = session.stream("hi")
        server = Server()
        server.before = block
        tasks.start_soon(server.play, web.sse(reply))
        with anyio.fail_after(2):
            await waits.wait()
            await provider.exchanges[0].done.wait()
        assert reply.text_so_far == "one two "
        assert len(reply._run.transcript.items) <= 4
        server.gone.set()


async def test_heartbeats_never_overtake_or_follow_the_end() -> None:
    """With a heartbeat every millisecond and slow sends, every block is whole, and nothing follows the end."""

    async def slow(message: dict[str, Any]) -> None:
        await anyio.sleep(0.002)

    script = Script(text="one two three four", cuts=1, pace_s=0.008)
    async with serve(script) as provider, session_of(provider) as session:
        server = Server()
        server.before = slow
        await server.play(web.sse(session.stream("hi"), heartbeat_s=0.001))
    records = events_in(server.body)
    assert [record["type"] for record in records].count("comment") > 3
    assert "".join(record["text"] for record in records if record["type"] == "text") == "one two three four"
    assert records[-1]["type"] == "end"
    assert [message.get("more_body", True) for message in server.sent] == [True] * (len(server.sent) - 1) + [False]


async def test_a_websocket_on_any_loop() -> None:
    """A WebSocket is accepted, gets the records, and is closed, on every event loop."""
    server = Server()
    messages = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else await server.receive()

    async with serve(FLOW) as provider, session_of(provider) as session:
        ws = WebSocket({"type": "websocket", "headers": []}, receive, server.send)
        assert await web.websocket(ws, session.stream("hi")) is True
    kinds = [message["type"] for message in server.sent]
    assert kinds == ["websocket.accept", *["websocket.send"] * 6, "websocket.close"]
    assert isinstance(ws, HTTPConnection)


async def test_a_response_that_is_never_sent_costs_nothing() -> None:
    """A response that is never sent makes no request."""
    async with serve(FLOW) as provider, session_of(provider) as session:
        web.sse(session.stream("hi"))
        await anyio.lowlevel.checkpoint()
        assert provider.exchanges == []

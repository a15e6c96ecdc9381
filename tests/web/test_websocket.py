"""A reply over a WebSocket: records, close codes, origins, and messages of the client."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import anyio
import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from aprefill import Timeouts, UsageError, web
from aprefill.testing import Script, ToolCall, serve

from ..conftest import LOOPS
from .site import Raw, application, session_of, site

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS[:1])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Use one event loop. The sockets of the others are tested in test_leaving.py and test_slow.py."""
    return request.param


STATES = Script(text='Alabama", "Alaska"]', cuts=4, prefill="eats", pace_s=0.001)
WHOLE = '["Alabama", "Alaska"]'


async def rest_of(client: Any) -> list[dict[str, Any]]:
    """Return the records up to the close."""
    records = []
    with anyio.fail_after(5):
        try:
            while True:
                records.append(json.loads(await client.recv()))
        except ConnectionClosed:
            return records


async def all_of(script: Script, *, asked: Any = None, **options: Any) -> tuple[list[dict[str, Any]], int, str]:
    """Return the records of one reply, the close code and the close reason."""
    async with serve(script) as provider, session_of(provider) as session:
        app = application(lambda: session.stream("hi", prefill='["', **(asked or {})), **options)
        async with site(app) as here, websockets.connect(here.ws_url) as client:
            records = await rest_of(client)
            return records, client.close_code or 0, client.close_reason or ""


async def test_a_frame_a_record() -> None:
    """Each record is one frame. Text has offsets, the end record describes the reply, and the close code is 1000."""
    (*texts, end), code, _ = await all_of(STATES)
    text = ""
    for record in texts:
        assert (record["type"], record["offset"]) == ("text", len(text))
        text += record["text"]
    assert text == WHOLE
    assert [record.get("prefill", False) for record in texts] == [True, *[False] * 5]
    assert (end["type"], end["verdict"], end["stop_reason"], end["length"]) == ("end", "absent", "end", 21)
    assert end["usage"]["output_tokens"] == 5
    assert code == 1000


async def test_reasoning_tools_and_attempts_if_asked_for() -> None:
    """The same kinds of records as over SSE. An attempt is sent at once, because there is no status to wait for."""
    script = Script(text="abc", reasoning="hmm", tools=[ToolCall(name="look_up")])
    records, _, _ = await all_of(script, reasoning=True, tools=True, attempts=True)
    kinds = [record["type"] for record in records]
    assert list(dict.fromkeys(kinds)) == ["attempt", "text", "reasoning", "tool", "end"]


async def test_coalesce_is_one_frame_a_read() -> None:
    """With `coalesce` ten tokens of one read are one frame."""
    script = Script(text="abcdefghij", cuts=1, wire_cuts=1_000_000)
    records, _, _ = await all_of(script, asked={"coalesce": True})
    assert [record.get("text") for record in records] == ['["', "abcdefghij", None]


@pytest.mark.parametrize(
    ("script", "name", "code"),
    [
        (Script(status=500), "StatusError", 1011),
        (Script(status=429, retry_after=3), "StatusError", 1013),
        (Script(text="one two three", drop_after_bytes=400), "Truncated", 1011),
        (Script(text="one two three", after=4, error_event=("overloaded_error", "Overloaded")), "StatusError", 1013),
    ],
    ids=["before", "busy", "in the middle", "overloaded in the middle"],
)
async def test_an_error_is_a_record_and_a_close(script: Script, name: str, code: int) -> None:
    """An error is a record after the text, and its class name is the close reason."""
    (*texts, error), closed, reason = await all_of(script)
    assert {record["type"] for record in texts} <= {"text"}
    assert (error["type"], error["error"], error["can_continue"]) == ("error", name, True)
    assert error["length"] == sum(len(record["text"]) for record in texts)
    assert (closed, reason) == (code, name)


async def test_heartbeats_are_records() -> None:
    """While the model is silent the client gets `ping` records, and the text is whole."""
    records, _, _ = await all_of(Script(text="one two three", cuts=4, pace_s=0.06), heartbeat_s=0.02)
    assert [record["type"] for record in records].count("ping") >= 4
    assert "".join(record["text"] for record in records if record["type"] == "text") == '["one two three'


# --- messages of the client -----------------------------------------------------------------------------------

ENDLESS = Script(text="word " * 10_000, cuts=5, pace_s=0.002)


@pytest.mark.parametrize("script", [ENDLESS, Script(text="one two", cuts=4, stall_after=4)], ids=["text", "silence"])
async def test_the_client_stops_the_reply(script: Script) -> None:
    """A stop message closes the provider's connection, and the client still gets the end record."""
    async with serve(script) as provider, session_of(provider) as session:
        async with site(application(lambda: session.stream("hi"))) as here, websockets.connect(here.ws_url) as client:
            length = len(json.loads(await client.recv())["text"])
            await client.send("stop")  # not a valid stop message: dropped
            await client.send('{"type": "stop", ')
            await client.send(b"\x00")
            await client.send('{"type": "stop"}')
            *texts, end = await rest_of(client)
            assert client.close_code == 1000
        assert provider.exchanges[0].outcome == "client_closed"
    length += sum(len(record["text"]) for record in texts)
    assert (end["type"], end["stop_reason"], end["length"]) == ("end", "cancelled", length)


async def test_wrong_arguments_are_told_before_anything_is_accepted() -> None:
    """An invalid argument raises `UsageError` in the endpoint before the connection is accepted."""
    told: list[str] = []

    async def listen(message: str | bytes) -> None: ...

    class Listener:
        async def __call__(self, message: str | bytes) -> None: ...

    async with serve(STATES) as provider, session_of(provider) as session:

        async def chat(ws: WebSocket) -> None:
            hi = session.stream("hi")
            for reply, on_message in (("no reply", None), (hi, listen), (hi, Listener()), (hi, 5)):
                with pytest.raises(UsageError) as error:
                    await web.websocket(ws, reply, on_message=on_message)
                told.append(str(error.value))

        async with site(Starlette(routes=[WebSocketRoute("/ws", chat)])) as here:
            with pytest.raises(InvalidStatus):
                await websockets.connect(here.ws_url)
        assert provider.exchanges == []
    assert told[0].startswith("reply=str(...) is not a reply; pass what stream() returned")
    assert [one.startswith("on_message= is called but not awaited") for one in told] == [False, True, True, True]


@pytest.mark.parametrize("stack", ["websockets-sansio", "wsproto"])
async def test_a_client_that_answers_no_ping(stack: str) -> None:
    """If the client answers no ping, the server closes without a message. The provider's connection is closed too."""
    done = anyio.Event()
    sent: list[bool] = []
    script = Script(text="word " * 1000, cuts=5, pace_s=0.01)
    async with serve(script) as provider, session_of(provider) as session:

        async def chat(ws: WebSocket) -> None:
            sent.append(await web.websocket(ws, session.stream("hi")))
            done.set()

        app = Starlette(routes=[WebSocketRoute("/ws", chat)])
        async with site(app, ws=stack, ws_ping_interval=0.1, ws_ping_timeout=0.1) as here:
            # This client reads nothing, so it does not answer the server's close frame either.
            client = await Raw.open(here, "/ws", upgrade=True)
            exchange = await provider.wait_exchange()
            with anyio.fail_after(5):
                await done.wait()
                await exchange.closed.wait()
            client.fin()
    assert sent == [False]


@pytest.mark.parametrize("kind", ["websocket.send", "websocket.close"])
async def test_a_server_that_has_closed_it_already(kind: str) -> None:
    """If the server has closed the connection and its send raises, the client counts as disconnected."""
    messages = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await anyio.sleep_forever()
        return messages.pop()

    async def send(message: Any) -> None:
        if message["type"] == kind:
            raise RuntimeError("Unexpected ASGI message, after sending 'websocket.close'.")

    async with serve(STATES) as provider, session_of(provider) as session:
        ws = WebSocket({"type": "websocket", "headers": []}, receive, send)
        assert await web.websocket(ws, session.stream("hi")) is False
        with anyio.fail_after(2):
            await provider.exchanges[0].done.wait()


async def test_a_stop_is_for_ones_own_reply() -> None:
    """A second client of the same reply is refused, and its stop message does not end the first client's reply."""
    script = Script(text="one two three four", cuts=4, pace_s=0.03)
    async with serve(script) as provider, session_of(provider) as session:
        reply = session.stream("hi")

        async def chat(ws: WebSocket) -> None:
            await ws.accept()
            if ws.query_params:
                await ws.receive()  # the stop message has been received too
            await web.websocket(ws, reply)

        async with site(Starlette(routes=[WebSocketRoute("/ws", chat)])) as here:
            async with websockets.connect(here.ws_url) as first, websockets.connect(here.ws_url + "?2") as second:
                assert json.loads(await first.recv())["text"] == "one "
                await second.send("now")
                await second.send('{"type": "stop"}')
                assert (await rest_of(second))[-1]["error"] == "UsageError"
                assert (await rest_of(first))[-1]["stop_reason"] == "end"
        assert reply.text_so_far == "one two three four"


async def test_other_messages_go_to_the_caller() -> None:
    """`on_message` gets other messages in order, as text or bytes, up to the last record."""
    heard: list[str | bytes] = []
    script = Script(text="one two three", cuts=4, pace_s=0.03)
    async with serve(script) as provider, session_of(provider) as session:
        app = application(lambda: session.stream("hi"), on_message=heard.append)
        async with site(app) as here, websockets.connect(here.ws_url) as client:
            for message in ("hello", b"\x01\x02", '{"type": "like"}'):
                await client.send(message)
            assert (await rest_of(client))[-1]["type"] == "end"
    assert heard == ["hello", b"\x01\x02", '{"type": "like"}']


async def test_a_bug_in_the_callers_function_ends_the_reply(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in `on_message` is raised to the server unchanged, and the provider's connection is closed."""

    def broken(message: str | bytes) -> None:
        raise KeyError(message)

    async with serve(ENDLESS) as provider, session_of(provider) as session:
        app = application(lambda: session.stream("hi"), on_message=broken)
        async with site(app) as here, websockets.connect(here.ws_url) as client:
            await client.recv()
            await client.send("hello")
            await rest_of(client)
            with anyio.fail_after(2):
                await provider.exchanges[0].closed.wait()
    assert "KeyError: 'hello'" in caplog.text
    assert "ExceptionGroup" not in caplog.text


# --- several replies over one connection ----------------------------------------------------------------------


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
async def test_one_connection_for_many_replies(ws: str) -> None:
    """With `keep_open` the connection stays open, and the endpoint can read messages after the last record."""
    left: list[bool] = []

    async with serve(replace(STATES, pace_s=0)) as provider, session_of(provider) as session:

        async def chat(ws: WebSocket) -> None:
            await ws.accept()
            try:
                while True:
                    prompt = await ws.receive_text()
                    left.append(await web.websocket(ws, session.stream(prompt, prefill='["'), keep_open=True))
            except WebSocketDisconnect:
                left.append(False)

        async with site(Starlette(routes=[WebSocketRoute("/ws", chat)]), ws=ws) as here:
            async with websockets.connect(here.ws_url) as client:
                for _ in range(20):
                    await client.send("hi")
                    while json.loads(await client.recv())["type"] != "end":
                        pass
            with anyio.fail_after(2):
                while len(left) < 21:
                    await anyio.lowlevel.checkpoint()
        assert [one.last_user_text for one in provider.exchanges] == ["hi"] * 20
        assert provider.connections == 1
    assert left == [True] * 20 + [False]


@pytest.mark.filterwarnings("ignore:.*websockets.*", "ignore:remove second argument:DeprecationWarning")
@pytest.mark.parametrize("ws", ["websockets", "websockets-sansio", "wsproto"])
async def test_the_caller_learns_that_all_was_sent(ws: str) -> None:
    """`websocket()` returns True if everything was sent, also if the server reports the close as a disconnect."""
    result: list[bool] = []
    over = anyio.Event()
    async with serve(STATES) as provider, session_of(provider) as session:

        async def chat(ws: WebSocket) -> None:
            result.append(await web.websocket(ws, session.stream("hi")))
            over.set()

        async with site(Starlette(routes=[WebSocketRoute("/ws", chat)]), ws=ws) as here:
            async with websockets.connect(here.ws_url) as client:
                assert (await rest_of(client))[-1]["type"] == "end"
                assert client.close_code == 1000
            with anyio.fail_after(2):
                await over.wait()
    assert result == [True]


@pytest.mark.parametrize("when", ["before", "during"])
async def test_the_caller_learns_that_the_client_has_gone(when: str) -> None:
    """`websocket()` returns False after a disconnect. If the client left before the reply began, no model is asked."""
    result: list[bool] = []
    over = anyio.Event()
    async with serve(ENDLESS) as provider, session_of(provider) as session:

        async def chat(ws: WebSocket) -> None:
            await ws.accept()
            if when == "before":
                with pytest.raises(WebSocketDisconnect):
                    await ws.receive_text()
            result.append(await web.websocket(ws, session.stream("hi")))
            over.set()

        async with site(Starlette(routes=[WebSocketRoute("/ws", chat)])) as here:
            async with websockets.connect(here.ws_url) as client:
                if when == "during":
                    await client.recv()
            with anyio.fail_after(2):
                await over.wait()
        assert len(provider.exchanges) == (when == "during")
    assert result == [False]


# --- origins --------------------------------------------------------------------------------------------------


def asked(origin: str | None, host: str = "chat.example") -> HTTPConnection:
    headers = [(b"host", host.encode())] + ([] if origin is None else [(b"origin", origin.encode())])
    return HTTPConnection({"type": "websocket", "headers": headers})


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "chat.example", True),
        ("https://chat.example", "chat.example", True),
        ("http://chat.example", "chat.example", True),
        ("https://CHAT.example", "Chat.Example:443", True),
        ("https://chat.example:443", "chat.example", True),
        ("http://localhost:8000", "localhost:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://localhost:8001", "localhost:8000", False),
        ("http://localhost", "localhost:8000", False),
        ("https://chat.example:8443", "chat.example", False),
        ("https://evil.example", "chat.example", False),
        ("https://chat.example.evil.example", "chat.example", False),
        ("https://chat.example@evil.example", "chat.example", False),
        ("https://evil.example/https://chat.example", "chat.example", False),
        ("https://chat.example/", "chat.example", False),
        ("null", "chat.example", False),
        ("", "chat.example", False),
        ("chat.example", "chat.example", False),
        ("https://chat.example:x", "chat.example", False),
        ("https://[", "chat.example", False),
        ("ftp://chat.example", "chat.example", False),
        ("app://chat.example", "chat.example", False),
    ],
)
def test_by_default_a_page_talks_to_its_own_host(origin: str | None, host: str, allowed: bool) -> None:
    """By default the origin's host and port must be those of the Host header. The scheme is not compared."""
    assert web.origin_allowed(asked(origin, host)) is allowed


def test_listed_origins_and_no_others() -> None:
    """Listed origins are allowed, with their scheme.

    "null" must be listed, and "any" allows all. Invalid values raise.
    """
    listed = ["https://chat.example", "http://localhost:3000", "null"]
    for origin in (*listed, "https://chat.example:443", None):
        assert web.origin_allowed(asked(origin), listed)
    for origin in ("http://chat.example", "http://localhost:3001", "https://evil.example"):
        assert not web.origin_allowed(asked(origin), listed)
    assert web.origin_allowed(asked("https://a.example"), "https://a.example")
    assert not web.origin_allowed(asked("https://chat.example"), [])
    assert web.origin_allowed(asked("https://evil.example"), "any")
    for app in ("capacitor://localhost", "chrome-extension://abcdef", "app://x"):
        assert web.origin_allowed(asked(app), [app])
        assert not web.origin_allowed(asked(app), ["capacitor://x", "https://localhost"])
    for wrong in ("*", "chat.example", "https://chat.example/", ["any"], [None], "https://*.example", "https://*:1", 5):
        with pytest.raises(UsageError, match="origins="):
            web.origin_allowed(asked("https://chat.example"), wrong)


def test_two_origins_or_hosts_are_none() -> None:
    """A request with two Origin or two Host headers is refused."""
    two = [(b"host", b"a.example"), (b"origin", b"https://a.example"), (b"origin", b"https://b.example")]
    assert not web.origin_allowed(HTTPConnection({"type": "websocket", "headers": two}))
    two = [(b"host", b"a.example"), (b"host", b"b.example"), (b"origin", b"https://a.example")]
    assert not web.origin_allowed(HTTPConnection({"type": "websocket", "headers": two}))


async def test_a_foreign_page_is_refused_before_anything() -> None:
    """A page of another origin gets status 403 and no model is asked.

    The site's own page and listed pages get the reply.
    """
    async with serve(STATES) as provider, session_of(provider) as session:
        async with site(application(lambda: session.stream("hi"))) as here:
            with pytest.raises(InvalidStatus) as refused:
                await websockets.connect(here.ws_url, origin="https://evil.example")
            assert refused.value.response.status_code == 403
            assert provider.exchanges == []
            async with websockets.connect(here.ws_url, origin=here.url) as client:
                assert (await rest_of(client))[-1]["type"] == "end"
        for origins in ("any", ["https://evil.example"]):
            async with site(application(lambda: session.stream("hi"), origins=origins)) as here:
                async with websockets.connect(here.ws_url, origin="https://evil.example") as client:
                    assert (await rest_of(client))[-1]["type"] == "end"


async def test_a_foreign_page_on_an_accepted_connection() -> None:
    """On an accepted connection, a page of another origin is closed with 1008, and no model is asked."""
    async with serve(STATES) as provider, session_of(provider) as session:

        async def chat(ws: WebSocket) -> None:
            await ws.accept()
            assert await web.websocket(ws, session.stream("hi")) is False

        async with site(Starlette(routes=[WebSocketRoute("/ws", chat)])) as here:
            async with websockets.connect(here.ws_url, origin="https://evil.example") as client:
                assert await rest_of(client) == []
                assert client.close_code == 1008
        assert provider.exchanges == []


async def test_a_stall_is_an_error_record() -> None:
    """Heartbeats do not restart the reply's timeouts: a stall is an error record."""
    script = Script(text="one two", cuts=4, stall_after=4)
    records, code, reason = await all_of(script, asked={"timeouts": Timeouts(progress_s=0.15)}, heartbeat_s=0.03)
    assert (records[-1]["error"], code, reason) == ("Stalled", 1011, "Stalled")

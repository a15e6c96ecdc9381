"""Helpers for the web tests: an application on a real uvicorn, and clients that can disconnect in several ways."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.lowlevel
import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from aprefill import Recovery, Reply, Session, web
from aprefill.testing import Script, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

#: One SSL context for all clients, because loading the system's certificates takes longer than most of these tests.
NO_TLS = ssl.create_default_context()

#: Timeout in seconds against a client that waits forever. No test claims this time: on a busy machine the last of 200
#: clients has waited 30 s for its first text.
HANG_S = 180

Ask: TypeAlias = Callable[[], Reply]


@dataclass
class Site:
    """An application that is being served."""

    port: int
    server: uvicorn.Server
    #: the raw clients, which are closed together with the site
    clients: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"


@asynccontextmanager
async def site(app: Any, *, http: str = "h11", ws: str = "websockets-sansio", **config: Any) -> AsyncIterator[Site]:
    """Serve `app` with uvicorn, in the running loop, on a free loopback port."""
    options: dict[str, Any] = {"lifespan": "off", "log_config": None, "access_log": False, **config}
    configured = uvicorn.Config(app, http=http, ws=ws, **options)
    configured.load()
    server = uvicorn.Server(configured)
    server.lifespan = configured.lifespan_class(configured)
    # The protocol number is given, because asyncio otherwise leaves Nagle's algorithm on for every connection.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    await server.startup(sockets=[listening])
    served = Site(listening.getsockname()[1], server)
    try:
        yield served
    finally:
        for client in served.clients:
            client.close()
        # `shutdown()` is not used, because it sleeps for 0.1 s each time.
        for socket_server in server.servers:
            socket_server.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        with anyio.move_on_after(1, shield=True):
            while server.server_state.connections or server.server_state.tasks:  # noqa: ASYNC110 - not our events
                await anyio.sleep(0.001)


@asynccontextmanager
async def session_of(provider: Any, **options: Any) -> AsyncIterator[Session]:
    """Open a session that uses the loopback host with OpenAI's protocol, native prefill and no retries."""
    options = {"support": "eats", "recovery": Recovery(retries=0), **options}
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(verify=NO_TLS, limits=limits) as client:
        async with Session("openai:gpt", client=client, base_url=provider.openai_url, **options) as session:
            yield session


def claude(provider: Any, **options: Any) -> Session:
    """Return a session that uses the loopback host with Anthropic's protocol.

    The model's refusal of a prefill is known.
    """
    return Session(
        "anthropic:claude-haiku-4-5", base_url=provider.url, api_key="k", recovery=Recovery(retries=0), **options
    )


def application(ask: Ask, *, middleware: Any = (), wrap: Any = None, **options: Any) -> Any:
    """Return an application whose `/sse` and `/ws` stream the reply that `ask` returns.

    Each option goes to the endpoints that have it.
    """
    only_ws = {name: options.pop(name) for name in ("origins", "keep_open", "on_message") if name in options}
    only_sse = {name: options.pop(name) for name in ("begin_after_s", "reconnects", "headers") if name in options}

    async def events(request: Request) -> Response:
        return web.sse(ask(), **options, **only_sse)

    async def socket_(ws: WebSocket) -> None:
        await web.websocket(ws, ask(), **options, **only_ws)

    routes = [Route("/sse", events, methods=["GET", "POST"]), WebSocketRoute("/ws", socket_)]
    app = Starlette(routes=routes, middleware=middleware)
    return app if wrap is None else wrap(app)


# --- clients --------------------------------------------------------------------------------------------------


def events_in(body: bytes) -> list[dict[str, Any]]:
    """Return the records of an event stream. Checks that `event:` and `id:` agree with the record."""
    found = []
    *blocks, rest = body.decode().split("\n\n")
    assert rest == ""
    for block in blocks:
        if block.startswith(":"):
            found.append({"type": "comment"})
            continue
        if block == "id: 0":
            found.append({"type": "begun"})
            continue
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        record = json.loads(fields["data"])
        assert fields["event"] == record["type"]
        if record["type"] == "text":
            assert int(fields["id"]) == record["offset"] + len(record["text"])
        found.append(record | {"id": int(fields["id"])})
    return found


async def get(url: str, **options: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=10, verify=NO_TLS) as client:
        return await client.get(url, **options)


async def records_of(url: str) -> list[dict[str, Any]]:
    """Return all records that `/sse` sends."""
    response = await get(f"{url}/sse")
    assert response.status_code == 200
    return events_in(response.content)


class Raw:
    """A TCP connection to the site that reads and closes only when a test tells it to."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.seen = b""

    @classmethod
    async def open(cls, site: Site, path: str, *, upgrade: bool = False, receive_bytes: int | None = None) -> Raw:
        plain = socket.socket()
        site.clients.append(plain)
        if receive_bytes:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        plain.connect(("127.0.0.1", site.port))
        plain.setblocking(False)
        head = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{site.port}\r\n"
        if upgrade:
            head += "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
            head += "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        client = cls(plain)
        await client.send(head.encode() + b"\r\n")
        return client

    async def send(self, data: bytes) -> None:
        assert self._stream.send(data) == len(data)

    async def read_until(self, mark: bytes) -> None:
        """Read until `mark` was received."""
        with anyio.fail_after(HANG_S):
            while mark not in self.seen:
                await anyio.wait_readable(self._stream)
                data = self._stream.recv(65536)
                assert data, self.seen[-500:]
                self.seen += data

    async def close_frame(self) -> None:
        """Send a close frame as a browser does, and close after the server has closed."""
        await self.send(b"\x88\x82\x00\x00\x00\x00\x03\xe9")
        await anyio.wait_readable(self._stream)
        while self._stream.recv(65536):
            await anyio.wait_readable(self._stream)
        self.fin()

    def fin(self) -> None:
        self._stream.close()

    def rst(self) -> None:
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.close()


class Sends:
    """An ASGI wrapper that counts the sends in progress."""

    def __init__(self) -> None:
        self.under_way = 0
        self.done = 0

    def __call__(self, app: Any) -> Any:
        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            async def counted(message: Any) -> None:
                self.under_way += 1
                try:
                    await send(message)
                finally:
                    self.under_way -= 1
                self.done += 1

            await app(scope, receive, counted)

        return wrapped

    async def blocked(self) -> None:
        """Wait until a send has been in progress for 20 ms and no other send has finished meanwhile."""
        with anyio.fail_after(HANG_S):
            while True:
                done = self.done
                await anyio.sleep(0.02)
                if self.under_way and self.done == done:
                    return


STATES = Script(text='Alabama", "Alaska"]', cuts=4, prefill="eats", pace_s=0.001)


async def all_of(script: Script, *, prefill: str = '["', asked: Any = None, **options: Any) -> list[dict[str, Any]]:
    """Return the records of one reply to `script`. `asked` has further arguments of `stream()`."""
    async with serve(script) as provider, session_of(provider) as session:
        app = application(lambda: session.stream("hi", prefill=prefill, **(asked or {})), **options)
        async with site(app) as here:
            return await records_of(here.url)


def text_of(records: list[dict[str, Any]]) -> str:
    """Return the text of all text records. Checks that their offsets have no gap."""
    text = ""
    for record in records:
        if record["type"] == "text":
            assert record["offset"] == len(text)
            text += record["text"]
    return text


class Server:
    """The server's side of ASGI: stores what was sent, and has a client that disconnects when `gone` is set."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = anyio.Event()
        #: called with each message before it is stored
        self.before: Callable[[dict[str, Any]], Any] | None = None
        self._grew = anyio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.before is not None:
            await self.before(message)
        self.sent.append(message)
        self._grew.set()

    async def has_sent(self, count: int) -> None:
        while len(self.sent) < count:
            self._grew = anyio.Event()
            await self._grew.wait()

    async def play(self, response: Any) -> None:
        await response({"type": "http", "method": "GET", "headers": []}, self.receive, self.send)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

"""What the tests of back ends share: an application on a real uvicorn, and clients that can be rude."""

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

#: one for all: to read the machine's certificates takes longer than most of these tests
NO_TLS = ssl.create_default_context()

#: Guards against a client that waits for ever, in seconds. It bounds nothing that is claimed: beside four busy loops the
#: last of 200 clients has waited 30 s for its first word.
HANG_S = 180

Ask: TypeAlias = Callable[[], Reply]


@dataclass
class Site:
    """An application that is being served."""

    port: int
    server: uvicorn.Server
    #: raw clients, which are closed with it
    clients: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"


@asynccontextmanager
async def site(app: Any, *, http: str = "h11", ws: str = "websockets-sansio", **config: Any) -> AsyncIterator[Site]:
    """`app` on uvicorn, in the running loop, on a free port of loopback."""
    options: dict[str, Any] = {"lifespan": "off", "log_config": None, "access_log": False, **config}
    configured = uvicorn.Config(app, http=http, ws=ws, **options)
    configured.load()
    server = uvicorn.Server(configured)
    server.lifespan = configured.lifespan_class(configured)
    # with the protocol's number, without which asyncio leaves Nagle's algorithm on for every connection
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    await server.startup(sockets=[listening])
    served = Site(listening.getsockname()[1], server)
    try:
        yield served
    finally:
        for client in served.clients:
            client.close()
        # not `shutdown()`, which sleeps a tenth of a second for every site
        for socket_server in server.servers:
            socket_server.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        with anyio.move_on_after(1, shield=True):
            while server.server_state.connections or server.server_state.tasks:  # noqa: ASYNC110 - not our events
                await anyio.sleep(0.001)


@asynccontextmanager
async def session_of(provider: Any, **options: Any) -> AsyncIterator[Session]:
    """A session with the loopback host on OpenAI's wire, that asks it natively and once."""
    options = {"support": "eats", "recovery": Recovery(retries=0), **options}
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(verify=NO_TLS, limits=limits) as client:
        async with Session("openai:gpt", client=client, base_url=provider.openai_url, **options) as session:
            yield session


def claude(provider: Any, **options: Any) -> Session:
    """A session with the loopback host on Anthropic's wire, whose refusal of a prefill is known."""
    return Session(
        "anthropic:claude-haiku-4-5", base_url=provider.url, api_key="k", recovery=Recovery(retries=0), **options
    )


def application(ask: Ask, *, middleware: Any = (), wrap: Any = None, **options: Any) -> Any:
    """`/sse` and `/ws`, which stream what `ask` gives. `options` go to both, those of one kind to that."""
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
    """The records of an event stream, whose framing must say the same as they do."""
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
    """All that `/sse` sends."""
    response = await get(f"{url}/sse")
    assert response.status_code == 200
    return events_in(response.content)


class Raw:
    """A TCP connection to the site that reads only when told to, and leaves as told."""

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
        """Read until `mark` was seen."""
        with anyio.fail_after(HANG_S):
            while mark not in self.seen:
                await anyio.wait_readable(self._stream)
                data = self._stream.recv(65536)
                assert data, self.seen[-500:]
                self.seen += data

    async def close_frame(self) -> None:
        """Say goodbye as a browser does, and close when the server has."""
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
    """An ASGI wrapper that knows when the application waits in a send."""

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
        """Until one send has not come back for 20 ms, with nobody else done meanwhile."""
        with anyio.fail_after(HANG_S):
            while True:
                done = self.done
                await anyio.sleep(0.02)
                if self.under_way and self.done == done:
                    return


STATES = Script(text='Alabama", "Alaska"]', cuts=4, prefill="eats", pace_s=0.001)


async def all_of(script: Script, *, prefill: str = '["', asked: Any = None, **options: Any) -> list[dict[str, Any]]:
    """The records of one reply of `script`'s; `asked` goes to `stream()`."""
    async with serve(script) as provider, session_of(provider) as session:
        app = application(lambda: session.stream("hi", prefill=prefill, **(asked or {})), **options)
        async with site(app) as here:
            return await records_of(here.url)


def text_of(records: list[dict[str, Any]]) -> str:
    """The text of all text records, which must follow on each other."""
    text = ""
    for record in records:
        if record["type"] == "text":
            assert record["offset"] == len(text)
            text += record["text"]
    return text


class Server:
    """An ASGI server's side: what was sent, and a client that leaves when told to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = anyio.Event()
        #: called with each message ahead of taking it
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

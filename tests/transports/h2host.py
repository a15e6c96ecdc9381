"""A loopback host that speaks HTTP/2 over TLS. It replies in three chunks.

A reply to a prompt with "stall" waits for `Host.go_on` before its third chunk. The first prompt with "hang up" ends its
connection, after the bytes `Host.hang_up` were sent.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import h2.config
import h2.connection
import h2.events
import msgspec
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener

from aprefill.testing._tls import Certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Host:
    """The host's URL and certificate, its number of requests and connections, and its open connections."""

    def __init__(self, certificate: Certificate) -> None:
        self.ssl_context = certificate.client_context
        self.url = ""
        self.connections = 0
        self.open_connections = 0
        self.requests = 0
        #: sent before the connection is ended for a "hang up" prompt; None: this was done already
        self.hang_up: bytes | None = b""
        #: set to let every stalling reply continue
        self.go_on = anyio.Event()


def _event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n"


async def _answer(host: Host, h2c: Any, send: Any, number: int, body: bytes) -> None:
    h2c.send_headers(number, [(":status", "200"), ("content-type", "text/event-stream")])
    for text in ("one ", "two "):
        h2c.send_data(number, _event(text))
        await send()
    if b"stall" in body:
        await host.go_on.wait()
    h2c.send_data(number, _event("three", "stop") + b"data: [DONE]\n\n", end_stream=True)
    await send()


async def _serve(host: Host, stream: Any) -> None:
    host.connections += 1
    host.open_connections += 1
    h2c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    h2c.initiate_connection()
    bodies: dict[int, bytes] = {}
    writing = anyio.Lock()

    async def send() -> None:
        async with writing:
            data = h2c.data_to_send()
            if data:
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await stream.send(data)

    try:
        async with stream, anyio.create_task_group() as group:
            await send()
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                async for data in stream:
                    for event in h2c.receive_data(data):
                        if isinstance(event, h2.events.RequestReceived):
                            host.requests += 1
                            bodies[event.stream_id] = b""
                        elif isinstance(event, h2.events.DataReceived):
                            bodies[event.stream_id] += event.data
                            h2c.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        elif isinstance(event, h2.events.StreamEnded):
                            if b"hang up" in bodies[event.stream_id] and host.hang_up is not None:
                                part, host.hang_up = host.hang_up, None
                                await stream.send(part)
                                return
                            group.start_soon(_answer, host, h2c, send, event.stream_id, bodies[event.stream_id])
                    await send()
            group.cancel_scope.cancel()
    finally:
        host.open_connections -= 1


@asynccontextmanager
async def http2_host() -> AsyncIterator[Host]:
    """Serve the host until the block is left."""
    certificate = Certificate("127.0.0.1")
    certificate.server_context.set_alpn_protocols(["h2"])
    host = Host(certificate)
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    host.url = f"https://127.0.0.1:{plain.extra(SocketAttribute.local_port)}/v1"
    listener = TLSListener(plain, certificate.server_context, standard_compatible=False)
    try:
        async with listener, anyio.create_task_group() as group:
            group.start_soon(partial(listener.serve, partial(_serve, host)))
            yield host
            group.cancel_scope.cancel()
    finally:
        certificate.remove()

"""One TCP connection of the server. It reads requests, plays answers, and watches the client all the time."""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

from ._answer import Wait, answer, first_bytes, recut
from ._exchange import Exchange
from ._http1 import CONTINUE, LAST_CHUNK, BadRequest, RequestReader, chunk, response_head

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from ._answer import Step
    from ._exchange import Outcome
    from ._http1 import Request
    from ._script import Framing, Script

#: The exceptions that mean that the other side is gone. SSLError is an OSError.
_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)

#: SO_LINGER on, with 0 seconds: close() then sends a RST. On Windows the structure has two shorts.
_LINGER_0 = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class Connection:
    """One accepted connection. `run()` ends when the client left, the script resets it, or it is cancelled."""

    def __init__(
        self,
        socket_stream: SocketStream,
        *,
        number: int,
        exchanges: list[Exchange],
        choose: Callable[[Exchange], Script],
    ) -> None:
        self._socket_stream = socket_stream
        self._stream: ByteStream = socket_stream
        self._number = number
        self._choose = choose
        #: the server's list, of all connections
        self._exchanges = exchanges
        #: the exchanges of this connection
        self._own: list[Exchange] = []
        self._inbox = bytearray()
        self._arrived = anyio.Event()
        self._gone = False
        self._scope = anyio.CancelScope()

    async def run(self, tls: ssl.SSLContext | None) -> None:
        """Serve until the connection is over. Nothing that the client does raises an exception."""
        try:
            _send_at_once(self._socket_stream)
            if tls is not None:
                # not standard_compatible: a FIN without TLS's close message counts as a close, as in real clients
                self._stream = await TLSStream.wrap(
                    self._socket_stream, server_side=True, ssl_context=tls, standard_compatible=False
                )
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                tasks.start_soon(self._watch)
                await self._serve()
                tasks.cancel_scope.cancel()
        except _GONE:
            pass  # the client left before its first request, for example during the TLS handshake
        finally:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            # set these events last, so that the outcome is final for whoever waits for them
            for exchange in self._own if self._gone else ():
                exchange.closed.set()

    # --- reading ----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Read all the time, so that a close by the client is seen at once, whatever is being sent."""
        try:
            while True:
                self._inbox += await self._stream.receive()
                self._arrived.set()
        except _GONE:
            self._client_left()

    def _client_left(self) -> None:
        if self._gone:
            return
        self._gone = True
        now = time.perf_counter()
        for exchange in self._own:
            exchange.closed_at = now
        self._scope.cancel()

    async def _next_request(self, reader: RequestReader) -> Request:
        request = reader.feed(b"")
        while request is None:
            if reader.wants_continue:
                await self._send(CONTINUE)
            while not self._inbox:
                self._arrived = anyio.Event()
                await self._arrived.wait()
            data = bytes(self._inbox)
            self._inbox.clear()
            request = reader.feed(data)
        return request

    # --- answering --------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        reader = RequestReader()
        while True:
            try:
                request = await self._next_request(reader)
            except BadRequest as exc:
                body = str(exc).encode()
                head = response_head(400, {}, framing="length", length=len(body), keeps_alive=False)
                await self._send(head + body)
                await self._half_close()
                return
            exchange = Exchange(
                method=request.method,
                path=request.path,
                headers=request.headers,
                body=request.body,
                connection=self._number,
                index=len(self._exchanges),
            )
            self._exchanges.append(exchange)
            self._own.append(exchange)
            try:
                outcome, keeps_alive = await self._play(self._choose(exchange), request, exchange)
                exchange.outcome = outcome
            finally:
                if exchange.outcome == "open":
                    exchange.outcome = "client_closed" if self._gone else "dropped"
                exchange.done.set()
            if exchange.outcome == "reset":
                return
            if not keeps_alive:
                await self._half_close()

    async def _play(self, script: Script, request: Request, exchange: Exchange) -> tuple[Outcome, bool]:
        """Play the script. Return the outcome, and whether the connection can take another request."""
        if script.first_byte_s:
            await _wait(script.first_byte_s, exchange)
        if script.hang_up:
            return "dropped", False
        reply = answer(script, exchange)
        framing: Framing = reply.framing if request.takes_chunks or reply.framing == "length" else "close"
        limit = script.drop_after_bytes if script.reset_after_bytes is None else script.reset_after_bytes
        keeps_alive = request.keeps_alive and framing != "close"
        length = reply.length() if framing == "length" else 0
        head = response_head(reply.status, reply.headers, framing=framing, length=length, keeps_alive=keeps_alive)
        steps = reply.body()
        if limit is not None:
            steps = first_bytes(steps, limit)
        if script.wire_cuts is not None:
            steps = recut(steps, script.wire_cuts)
        await self._send(head)
        if request.method == "HEAD":
            return "complete", keeps_alive
        ends_whole = limit is None
        await self._send_body(steps, script.pace_s, exchange, chunked=framing == "chunked", ends_whole=ends_whole)
        if ends_whole:
            return "complete", keeps_alive
        if script.reset_after_bytes is None:
            return "dropped", False
        _reset_on_close(self._socket_stream)
        return "reset", False

    async def _send_body(
        self, steps: Iterator[Step], pace_s: float, exchange: Exchange, *, chunked: bool, ends_whole: bool
    ) -> None:
        end = LAST_CHUNK if chunked and ends_whole else b""
        due = -math.inf
        step = next(steps, None)
        while step is not None:
            # send the end in one write with the last data: clients leave on the last event, and a second write would
            # then succeed only sometimes
            following = next(steps, None)
            if isinstance(step, Wait):
                await _wait(step.seconds, exchange if step.announced else None)
            elif step:
                if pace_s:
                    # pace by the clock, so that the duration of a write does not slow it down
                    now = time.perf_counter()
                    due = max(due + pace_s, now)
                    if due > now:
                        await anyio.sleep(due - now)
                data = chunk(step) if chunked else step
                await self._send(data if following is not None else data + end)
                exchange.sent_bytes += len(step)
                if following is None:
                    return
            step = following
        if end:
            await self._send(end)

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send(data)
        except _GONE:
            # the system reports a RST to the first call on the socket, which may be this one
            self._client_left()
            await anyio.sleep_forever()

    async def _half_close(self) -> None:
        """Send a FIN and wait for the client's FIN. Until then the connection counts as open."""
        try:
            await self._socket_stream.send_eof()
        except _GONE:
            self._client_left()
        await anyio.sleep_forever()


async def _wait(seconds: float, exchange: Exchange | None) -> None:
    if exchange is not None:
        exchange.waiting.set()
    await (anyio.sleep_forever() if math.isinf(seconds) else anyio.sleep(seconds))


def _duplicate(stream: SocketStream) -> socket.socket:
    # uvloop returns a socket object that lacks most methods; a duplicate has them all
    raw = stream.extra(SocketAttribute.raw_socket)
    return socket.fromfd(raw.fileno(), raw.family, raw.type)


def _send_at_once(stream: SocketStream) -> None:
    with _duplicate(stream) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset_on_close(stream: SocketStream) -> None:
    with _duplicate(stream) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)

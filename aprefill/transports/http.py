"""Requests over httpx2, or over an `httpx2.AsyncClient` or `httpx.AsyncClient` of the caller's."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import anyio
import httpx2

from aprefill._watch import CLOSE_S

from ._foreign import ClientFailed, answer_behind, break_cycles, from_network
from ._kill import KillHandle

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from . import Request, Response


#: How many pieces a body without a socket may have ready before its next read waits.
_BUFFERED = 1000

#: Our own pool: no limit of ours on how many replies run at once, and idle connections kept for a minute.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60.0)

_url = lru_cache(maxsize=64)(httpx2.URL)

_contexts: dict[tuple[str | None, str | None], ssl.SSLContext] = {}


def _tls_context() -> ssl.SSLContext:
    """httpx2's default context, made once: reading the CA bundle takes longer than many a first token.

    It holds no connection and belongs to no loop. Made anew when the environment names other certificates.
    """
    key = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    if key not in _contexts:
        _contexts[key] = httpx2.create_ssl_context()
    return _contexts[key]


class HttpResponse:
    """An open httpx2 or httpx response, read below its `aiter_*` layers."""

    __slots__ = ("_body", "_closed", "_kill", "_killed", "_response", "headers", "receive", "status")

    def __init__(self, response: Any) -> None:
        self._response = response
        self._closed = self._killed = False
        self._kill = KillHandle.of(response.extensions, response.stream)
        self._body: Any = response.stream.__aiter__()
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.receive: Callable[[], Awaitable[bytes]] = self._body.__anext__

    def secrets(self) -> set[str]:
        return secrets_of(self._response)

    @property
    def can_kill(self) -> bool:
        return self._kill is not None and self._kill.armed

    def kill(self) -> bool:
        if self._kill is None or not self._kill.kill():
            return False
        self._killed = True
        return True

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        with anyio.move_on_after(CLOSE_S, shield=True):
            try:
                if getattr(self._body, "ag_frame", None) is not None:
                    await self._abandon()
            finally:
                # reached under cancellation too: asyncio.run() cancels what is left when the program ends
                if self._kill is not None:
                    self._kill.disarm()
                if self._killed:
                    await _close_connection(self._response.stream)
                await self._response.aclose()

    async def _abandon(self) -> None:
        """Bring the body's generators to their end, so that none is left to the garbage collector.

        Behind the body stand four or five more, which only an error from below unwinds in order: with the socket
        shut down the next read raises it, after what was received already. Where there is no socket of its own, as
        over HTTP/2, a cancellation does the same.
        """
        try:
            if self._killed or self.kill():
                while True:
                    await self._body.__anext__()
            with anyio.CancelScope() as scope:
                scope.cancel()
                for _ in range(_BUFFERED):
                    await self._body.__anext__()
            await self._body.aclose()
        except (Exception, StopAsyncIteration) as exc:
            # it has done what it was for
            break_cycles(exc)


async def _close_connection(stream: Any) -> None:
    """Close httpcore's connection below a response's stream whose own closing was interrupted.

    httpx, and httpx2 up to 2.0, close it in the task that reads. A second native cancel of that task interrupts this:
    the stream counts as closed, and its connection stays active in the pool for good, where it counts for
    `max_connections`. To be called after the socket was shut down.
    """
    while stream is not None:
        connection = getattr(stream, "_connection", None)
        if connection is not None and hasattr(connection, "is_closed"):
            # a stream that is still open closes its connection by itself, or finds that it can be used again
            if getattr(stream, "_closed", False) and not connection.is_closed() and not connection.is_idle():
                await connection.aclose()
            return
        stream = getattr(stream, "_httpcore_stream", None) or getattr(stream, "_stream", None)


#: Headers that are nobody's secret. What else a client sends may be one, which the host may repeat.
_PLAIN_HEADERS = {
    "accept", "accept-encoding", "accept-language", "anthropic-beta", "anthropic-version", "cache-control", "connection",
    "content-length", "content-type", "host", "idempotency-key", "origin", "referer", "traceparent", "transfer-encoding",
    "user-agent", "x-amz-date", "x-request-id",
}  # fmt: skip


def secrets_of(response: Any) -> set[str]:
    """What the request that was sent had in its headers and nobody must repeat; a client knows tokens that we do not."""
    found: set[str] = set()
    for name, value in response.request.headers.items():
        if name.lower() not in _PLAIN_HEADERS and not name.lower().startswith("x-stainless-"):
            found |= {value, value.rpartition(" ")[2]}
    return {value for value in found if len(value) > 7}


class ReadResponse:
    """A response whose body was read already: by a hook of the caller's, or by an SDK before it raised."""

    can_kill = False

    def __init__(self, response: Any) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._body = _content(response)
        self.receive: Callable[[], Awaitable[bytes]] = self._receive

    def secrets(self) -> set[str]:
        return secrets_of(self._response)

    async def _receive(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        body, self._body = self._body, b""
        if not body:
            raise StopAsyncIteration
        return body

    def kill(self) -> bool:
        return False

    async def aclose(self) -> None:
        await anyio.lowlevel.cancel_shielded_checkpoint()


def _content(response: Any) -> bytes:
    try:
        content: bytes = response.content
    except RuntimeError:
        # closed by a hook of the caller's before it was read
        return b""
    return content


def as_response(response: Any) -> ReadResponse | HttpResponse:
    """An httpx2 or httpx response to read from."""
    # once it is closed, its connection is somebody else's
    return ReadResponse(response) if response.is_closed else HttpResponse(response)


class HttpTransport:
    """Owns one httpx2 client, or borrows the caller's."""

    __slots__ = ("_client", "_owned")

    def __init__(self, client: Any = None) -> None:
        self._owned = client is None
        self._client: Any = client

    def _open_client(self) -> Any:
        if self._client is None:
            tls = _tls_context()
            # plain http is loopback's alone: no proxy of the environment may carry the key and the prompt in clear
            direct = httpx2.AsyncHTTPTransport(verify=tls, limits=_LIMITS)
            self._client = httpx2.AsyncClient(verify=tls, timeout=None, limits=_LIMITS, mounts={"http://": direct})
        return self._client

    def _build(self, client: Any, request: Request) -> Any:
        # the client's own clocks stand still but for the connection's, which nobody else can see
        timeout = {"connect": request.connect_s, "read": None, "write": None, "pool": None}
        if self._owned:
            # our own client has no defaults to merge in, and merging takes a tenth of a warm first token
            built = httpx2.Request(
                "POST",
                _url(request.url),
                headers=request.headers,
                content=request.body,
                extensions={"timeout": timeout},
            )
        else:
            built = client.build_request("POST", request.url, headers=request.headers, content=request.body)
            built.extensions = {**built.extensions, "timeout": timeout}
        return built

    async def open(self, request: Request) -> Response:
        try:
            client = self._open_client()
            return as_response(await client.send(self._build(client, request), stream=True, follow_redirects=False))
        except Exception as exc:
            answer = answer_behind(exc)
            if answer is not None:
                return ReadResponse(answer)
            if from_network(exc):
                raise
            # a hook or an authentication of the caller's; or the environment: a proxy or a certificate file
            raise ClientFailed("the HTTP client" if self._owned else type(self._client).__name__) from exc

    async def aclose(self) -> None:
        client = self._client
        if self._owned and client is not None:
            self._client = None
            with anyio.move_on_after(CLOSE_S, shield=True):
                await client.aclose()

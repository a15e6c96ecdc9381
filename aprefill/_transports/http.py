"""Transport over httpx2, with its own client or with the caller's `httpx2.AsyncClient` or `httpx.AsyncClient`."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import anyio
import httpx2

from .._errors import UsageError
from .._loops import CLOSE_S
from ._foreign import ClientFailed, answer_behind, break_cycles, from_network
from ._kill import KillHandle
from ._left import close_left
from ._reuse import is_stale

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from . import HttpRequest, Response


#: Number of batches, and of pieces per batch, that are read from an abandoned body at most. The product is larger than
#: the number of pieces that can be ready after one network read: a read is 64 KiB, and the smallest piece has 6 bytes.
_BATCHES, _BATCH = 400, 32
#: Number of event loop iterations to wait for a reader that was interrupted.
_TURNS = 50

#: Limits of our own client: any number of connections; idle connections are kept for a minute.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60.0)
#: Limits of a client that keeps no idle connections, so that each request has a new connection.
_NOTHING_KEPT = httpx2.Limits(max_connections=None, max_keepalive_connections=0)

_url = lru_cache(maxsize=64)(httpx2.URL)

_CERTIFICATES = "set SSL_CERT_FILE to a file of CA certificates, or unset it"

_contexts: dict[tuple[str | None, str | None], ssl.SSLContext] = {}


def _tls_context() -> ssl.SSLContext:
    """Return httpx2's default TLS context. It is cached: reading the CA bundle can take longer than a first token.

    A context holds no connection and is independent of event loops. A new one is made if the environment variables
    change.
    """
    key = file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if key not in _contexts:
        if folders and not file and not any(map(os.path.isdir, folders.split(os.pathsep))):
            # OpenSSL would ignore this and reject every certificate
            raise UsageError(f"SSL_CERT_DIR names {folders!r}, which is not a folder", f"{_CERTIFICATES}")
        try:
            _contexts[key] = httpx2.create_ssl_context()
        except OSError as exc:
            name, value = ("SSL_CERT_FILE", file) if file else ("SSL_CERT_DIR", folders)
            what = f"{name} names {value!r}, which" if value else "the system's file of CA certificates"
            raise UsageError(
                f"{what} cannot be read ({exc.strerror or type(exc).__name__})", f"{_CERTIFICATES}"
            ) from exc
    return _contexts[key]


class HttpResponse:
    """An open httpx2 or httpx response. It is read from its stream directly, without the `aiter_*` methods."""

    __slots__ = ("_body", "_closed", "_interrupted", "_kill", "_response", "headers", "receive", "status")

    def __init__(self, response: Any) -> None:
        self._response = response
        self._closed = self._interrupted = False
        self._kill = KillHandle.of(response.extensions, response.stream)
        self._body: Any = response.stream.__aiter__()
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.receive: Callable[[], Awaitable[bytes]] = self._body.__anext__

    def secrets(self) -> set[str]:
        return secrets_of(self._response)

    def url(self) -> str:
        return url_of(self._response)

    @property
    def can_kill(self) -> bool:
        return self._kill is not None and self._kill.armed

    def kill(self) -> bool:
        if self._kill is None or not self._kill.armed:
            return False
        # Also set if the shutdown fails, for example without a file descriptor: the reader is then interrupted by other
        # means.
        self._interrupted = True
        return self._kill.kill()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        with anyio.move_on_after(CLOSE_S, shield=True):
            try:
                if getattr(self._body, "ag_frame", None) is not None:
                    await self._abandon()
            finally:
                # also needed after a cancellation: asyncio.run() cancels the remaining tasks when the program ends
                if self._kill is not None:
                    self._kill.disarm()
                if self._interrupted:
                    await _close_connection(self._response.stream)
                await self._response.aclose()

    async def _abandon(self) -> None:
        """End the body's generators, so that none is left for the garbage collector.

        The body is a chain of five or six generators. Only an error from the innermost one ends them all in order. So
        the next read is cancelled: the cancellation is raised as soon as a piece would have to be received from the
        network. Pieces that were received before are returned first. There may be thousands, so other tasks may run
        after each batch.
        """
        self.kill()
        for _ in range(_TURNS):
            if not getattr(self._body, "ag_running", False):
                break
            # another task is still reading; it was interrupted and is about to return, perhaps with one more piece
            await anyio.lowlevel.cancel_shielded_checkpoint()
        try:
            for _ in range(_BATCHES):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    for _ in range(_BATCH):
                        await self._body.__anext__()
                if scope.cancelled_caught:
                    return
                await anyio.lowlevel.cancel_shielded_checkpoint()
            await self._body.aclose()
        except (Exception, StopAsyncIteration) as exc:
            # the error has ended the generators; it is not needed any more
            break_cycles(exc)


async def _close_connection(stream: Any) -> None:
    """Close the httpcore connection of a response whose own closing was interrupted.

    httpx, and httpx2 up to 2.0, close the connection in the task that reads. If this task is cancelled a second time
    with asyncio's own `cancel()`, the closing is interrupted. Then the stream counts as closed, but its connection
    stays active in the pool for ever and counts towards `max_connections`. Call this after the reader was interrupted.
    """
    while stream is not None:
        connection = getattr(stream, "_connection", None)
        if connection is not None and hasattr(connection, "is_closed"):
            # a stream that is still open closes its connection itself, or returns it to the pool
            if getattr(stream, "_closed", False) and not connection.is_closed() and not connection.is_idle():
                await connection.aclose()
            return
        stream = getattr(stream, "_httpcore_stream", None) or getattr(stream, "_stream", None)


#: Headers that are not secret. Every other header may be secret, and a host may repeat its value in an error.
_PLAIN_HEADERS = {
    "accept", "accept-encoding", "accept-language", "anthropic-beta", "anthropic-version", "cache-control",
    "connection", "content-length", "content-type", "host", "idempotency-key", "origin", "referer", "traceparent",
    "transfer-encoding", "user-agent", "x-amz-date", "x-request-id",
}  # fmt: skip


_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def secrets_of(response: Any) -> set[str]:
    """Return the secret header values of the request that was sent. They include tokens that only the client knows."""
    found: set[str] = set()
    for name, value in response.request.headers.items():
        if name.lower() not in _PLAIN_HEADERS and not name.lower().startswith("x-stainless-"):
            word = value.rpartition(" ")[2]
            # A host may change control characters when it repeats a value, so the parts between them are secret too.
            found |= {value, word, *_CONTROL.split(word)}
    return {value for value in found if len(value) > 7}


def url_of(response: Any) -> str:
    """Return the URL of the request that was sent, without query and user info, which may contain a key."""
    url = response.request.url
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}"


class ReadResponse:
    """A response whose body was read already, by the caller's hook or by an SDK before it raised an error."""

    can_kill = False

    def __init__(self, response: Any) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._body = _content(response)
        self.receive: Callable[[], Awaitable[bytes]] = self._receive

    def secrets(self) -> set[str]:
        return secrets_of(self._response)

    def url(self) -> str:
        return url_of(self._response)

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
        # the caller's hook closed the response before the body was read
        return b""
    return content


def as_response(response: Any) -> Response:
    """Wrap an httpx2 or httpx response."""
    # The connection of a closed response may be in use by another request.
    if response.is_closed:
        return ReadResponse(response)
    # pyright mistakes the slot `receive` for a method without `self`
    return HttpResponse(response)  # pyright: ignore[reportReturnType]


class HttpTransport:
    """Sends requests with its own httpx2 client, or with the caller's client."""

    __slots__ = ("_client", "_fresh", "_owned")

    def __init__(self, client: Any = None) -> None:
        self._owned = client is None
        self._client: Any = client
        # our own client for requests that must use a new connection; created on first use
        self._fresh: Any = None

    def _open_client(self) -> Any:
        if self._client is None:
            self._client = _make_client(_LIMITS)
        return self._client

    def _client_with_new_connections(self) -> Any:
        """Return a client that uses new connections only. If the caller passed a client, return that client."""
        if not self._owned:
            return self._client
        if self._fresh is None:
            self._fresh = _make_client(_NOTHING_KEPT)
        return self._fresh

    def _build(self, client: Any, request: HttpRequest) -> Any:
        # Disable the client's timeouts except the connect timeout: only the client can measure that time.
        timeout = {"connect": request.connect_s, "read": None, "write": None, "pool": None}
        if self._owned:
            # Our own client has no defaults, so `build_request` is not needed. It would take a tenth of the time to the
            # first token over a kept connection.
            return httpx2.Request(
                "POST",
                _url(request.url),
                headers=request.headers,
                content=request.body,
                extensions={"timeout": timeout},
            )
        built = client.build_request("POST", request.url, headers=request.headers, content=request.body)
        built.extensions = {**built.extensions, "timeout": timeout}
        return built

    async def open(self, request: HttpRequest) -> Response:
        response: Any = None
        try:
            client = self._open_client()
            try:
                response = await _send(client, self._build(client, request))
            except Exception as exc:
                if not is_stale(exc):
                    raise
                again = True
            else:
                again = False
            # Outside the except clause, so that the first error is not chained to the second.
            if again:
                client = self._client_with_new_connections()
                response = await _send(client, self._build(client, request))
            return as_response(response)
        except UsageError:
            raise
        except Exception as exc:
            answer = answer_behind(exc)
            if answer is not None:
                return ReadResponse(answer)
            if from_network(exc):
                raise
            # Raised by the caller's hook or authentication, or for a proxy or certificate file in the environment.
            raise ClientFailed("the HTTP client" if self._owned else type(self._client).__name__) from exc

    async def aclose(self) -> None:
        if not self._owned:
            return
        clients = [client for client in (self._client, self._fresh) if client is not None]
        self._client = self._fresh = None
        with anyio.move_on_after(CLOSE_S, shield=True):
            async with anyio.create_task_group() as group:
                for client in clients:
                    group.start_soon(client.aclose)


def _make_client(limits: httpx2.Limits) -> httpx2.AsyncClient:
    tls = _tls_context()
    # Plain http is used for loopback, or for the host for which the caller passed `allow_http`. Proxies from the
    # environment are not used for it, because a proxy could read the key and the prompt.
    direct = httpx2.AsyncHTTPTransport(verify=tls, limits=limits)
    return httpx2.AsyncClient(verify=tls, timeout=None, limits=limits, mounts={"http://": direct})


async def _send(client: Any, built: Any) -> Any:
    try:
        return await client.send(built, stream=True, follow_redirects=False)
    except BaseException as exc:
        close_left(exc)
        raise

"""Requests over httpx2, or over an `httpx2.AsyncClient` or `httpx.AsyncClient` of the caller's."""

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


#: How many pieces of a body that is left may be ready before its next read waits: batches, and pieces in each. The HTTP
#: library reads 64 KiB at once, and the smallest piece takes six bytes of that.
_BATCHES, _BATCH = 400, 32
#: How many turns of the event loop a reader that was interrupted has to come back.
_TURNS = 50

#: Our own pool: no limit of ours on how many replies run at once, and idle connections kept for a minute.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60.0)
#: A pool that keeps nothing: each of its connections is new.
_NOTHING_KEPT = httpx2.Limits(max_connections=None, max_keepalive_connections=0)

_url = lru_cache(maxsize=64)(httpx2.URL)

_CERTIFICATES = "set SSL_CERT_FILE to a file of CA certificates, or unset it"

_contexts: dict[tuple[str | None, str | None], ssl.SSLContext] = {}


def _tls_context() -> ssl.SSLContext:
    """httpx2's default context, made once: reading the CA bundle takes longer than many a first token.

    It holds no connection and belongs to no loop. Made anew when the environment names other certificates.
    """
    key = file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if key not in _contexts:
        if folders and not file and not any(map(os.path.isdir, folders.split(os.pathsep))):
            # OpenSSL would say nothing, and trust nobody
            raise UsageError(f"SSL_CERT_DIR names {folders!r}, which is no folder", f"{_CERTIFICATES}")
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
    """An open httpx2 or httpx response, read below its `aiter_*` layers."""

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
        # also where the shutdown fails, as without a file descriptor: the reader is interrupted in another way then
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
                # reached under cancellation too: asyncio.run() cancels what is left when the program ends
                if self._kill is not None:
                    self._kill.disarm()
                if self._interrupted:
                    await _close_connection(self._response.stream)
                await self._response.aclose()

    async def _abandon(self) -> None:
        """Bring the body's generators to their end, so that none is left to the garbage collector.

        Behind the body stand four or five more, which only an error from below unwinds in order. A cancellation is one:
        it comes when the next piece would have to be received. What was received before comes first, in thousands of
        pieces if the host wants that, so other tasks have their turn in between.
        """
        self.kill()
        for _ in range(_TURNS):
            if not getattr(self._body, "ag_running", False):
                break
            # a reader that was interrupted is about to come back, perhaps with one more piece
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
            # it has done what it was for
            break_cycles(exc)


async def _close_connection(stream: Any) -> None:
    """Close httpcore's connection below a response's stream whose own closing was interrupted.

    httpx, and httpx2 up to 2.0, close it in the task that reads. A second native cancel of that task interrupts this:
    the stream counts as closed, and its connection stays active in the pool for good, where it counts for
    `max_connections`. To be called after the reader was interrupted.
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


_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def secrets_of(response: Any) -> set[str]:
    """What the request that was sent had in its headers and nobody must repeat; a client knows tokens that we do not."""
    found: set[str] = set()
    for name, value in response.request.headers.items():
        if name.lower() not in _PLAIN_HEADERS and not name.lower().startswith("x-stainless-"):
            word = value.rpartition(" ")[2]
            # a host that shows a control character in another way than it was sent repeats what is around it
            found |= {value, word, *_CONTROL.split(word)}
    return {value for value in found if len(value) > 7}


def url_of(response: Any) -> str:
    """Where the request that was sent went. No query and no user info: they may hold a key."""
    url = response.request.url
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}"


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
        # closed by a hook of the caller's before it was read
        return b""
    return content


def as_response(response: Any) -> Response:
    """An httpx2 or httpx response to read from."""
    # once it is closed, its connection is somebody else's
    if response.is_closed:
        return ReadResponse(response)
    # pyright takes the slot `receive` for a method without self
    return HttpResponse(response)  # pyright: ignore[reportReturnType]


class HttpTransport:
    """Owns one httpx2 client, or borrows the caller's."""

    __slots__ = ("_client", "_fresh", "_owned")

    def __init__(self, client: Any = None) -> None:
        self._owned = client is None
        self._client: Any = client
        # our own client for requests that must not go over a kept connection, made when first needed
        self._fresh: Any = None

    def _open_client(self) -> Any:
        if self._client is None:
            self._client = _make_client(_LIMITS)
        return self._client

    def _client_for_another_try(self) -> Any:
        """A client whose connections are surely new; of a caller's client, the same one, and whatever it gives."""
        if not self._owned:
            return self._client
        if self._fresh is None:
            self._fresh = _make_client(_NOTHING_KEPT)
        return self._fresh

    def _build(self, client: Any, request: HttpRequest) -> Any:
        # the client's own clocks stand still but for the connection's, which nobody else can see
        timeout = {"connect": request.connect_s, "read": None, "write": None, "pool": None}
        if self._owned:
            # our own client has no defaults to merge in, and merging takes a tenth of a warm first token
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
            # behind the except clause, so that nothing of the first try is chained to the second
            if again:
                client = self._client_for_another_try()
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
            # a hook or an authentication of the caller's; or the environment: a proxy or a certificate file
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
    # plain http goes to loopback or to the host that `allow_http` was meant for, and to no proxy of the environment: that
    # would be one more host that reads the key and the prompt
    direct = httpx2.AsyncHTTPTransport(verify=tls, limits=limits)
    return httpx2.AsyncClient(verify=tls, timeout=None, limits=limits, mounts={"http://": direct})


async def _send(client: Any, built: Any) -> Any:
    try:
        return await client.send(built, stream=True, follow_redirects=False)
    except BaseException as exc:
        close_left(exc)
        raise

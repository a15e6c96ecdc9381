"""The one table through which other people's exceptions become ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from aprefill._errors import AprefillError, ConnectFailed, Stalled, Truncated, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Class name, as httpx2, httpx and their cores share it -> what happened. Matched along the class's MRO, so that a
#: subclass takes its parent's row, and no library has to be imported for its names.
_REASONS: dict[str, str] = {
    "ConnectTimeout": "the connection took too long",
    "ReadTimeout": "the client's own read timeout ran out",
    "WriteTimeout": "the client's own write timeout ran out",
    "PoolTimeout": "the client's connection pool is full",
    "ConnectError": "the connection could not be made",
    "ReadError": "the connection was reset",
    "WriteError": "the connection was closed while the request was sent",
    "CloseError": "the connection could not be closed",
    "RemoteProtocolError": "the host broke off or broke the HTTP protocol",
    "LocalProtocolError": "the request is not valid HTTP",
    "ProxyError": "the proxy refused or broke off",
    "UnsupportedProtocol": "the URL's scheme is not http or https",
    "TooManyRedirects": "the host redirects",
    "DecodingError": "the body's encoding is broken",
    "StreamError": "the body was read already",
    "TimeoutException": "a timeout of the client's own ran out",
    "HTTPError": "the HTTP client failed",
    "InvalidURL": "the URL is not valid",
    "BrokenResourceError": "the connection was reset",
    "ClosedResourceError": "the connection was closed",
    "EndOfStream": "the connection was closed",
    "SSLError": "the TLS handshake or record layer failed",
    "gaierror": "the host name is not known",
    "ConnectionRefusedError": "the connection was refused",
    "ConnectionResetError": "the connection was reset",
    "BrokenPipeError": "the connection was closed",
    "TimeoutError": "the operating system gave up waiting",
    "OSError": "the operating system reported an error",
}

#: Bugs are not the network's: these pass through unchanged.
_OURS = (AprefillError, AssertionError, AttributeError, NameError, TypeError)


def translate(
    exc: Exception,
    *,
    stage: Literal["open", "read"],
    host: str,
    redact: Callable[[str], str] = str,
    connect_s: float | None = None,
    received_bytes: int = 0,
) -> AprefillError | None:
    """Our error for a foreign one, or None if `exc` is ours or a bug and must pass as it is.

    Chain it (`raise ... from exc`): every `request` on the chain is removed here, for its headers hold the key.
    """
    if isinstance(exc, _OURS):
        return None
    for link in _chain(exc):
        _scrub(link, redact)
    if isinstance(exc, RuntimeError) and "closed" in str(exc):
        return UsageError("the client that was passed has been closed; pass an open one")
    reason = next((_REASONS[c.__name__] for c in type(exc).__mro__ if c.__name__ in _REASONS), None)
    reason = f"{type(exc).__name__}, {reason}" if reason else type(exc).__name__
    if connect_s is not None and any(c.__name__ == "ConnectTimeout" for c in type(exc).__mro__):
        return Stalled("connect_s", connect_s)
    if stage == "open":
        return ConnectFailed(host, reason)
    return Truncated(reason, received_bytes=received_bytes)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or exc.__context__


def _scrub(exc: BaseException, redact: Callable[[str], str]) -> None:
    # what the host sent where a status line should be is quoted by the HTTP library's own errors
    exc.args = tuple(redact(arg) if isinstance(arg, str) else arg for arg in exc.args)
    for name in ("_request", "request", "response"):
        if name in getattr(exc, "__dict__", {}):
            setattr(exc, name, None)

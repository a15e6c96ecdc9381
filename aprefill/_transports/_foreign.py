"""Translates the exceptions of HTTP libraries and SDKs into aprefill's errors."""

from __future__ import annotations

import errno
import socket
import ssl
from contextlib import _GeneratorContextManager, suppress
from typing import TYPE_CHECKING, Any, Literal

from .._errors import QUOTE_MAX, AprefillError, ConnectFailed, Stalled, Truncated, UsageError
from .._words import Words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Class name -> what happened. httpx2, httpx and their cores use the same names. The names are compared with the MRO of
#: the exception's class, so that subclasses match too and no library has to be imported.
_REASONS: dict[str, str] = {
    "ConnectTimeout": "connecting took too long",
    "ReadTimeout": "the client's own read timeout expired",
    "WriteTimeout": "the client's own write timeout expired",
    "PoolTimeout": "the client's connection pool is full",
    "ConnectError": "the connection could not be made",
    "ReadError": "the connection was reset",
    "WriteError": "the connection was closed while the request was sent",
    "CloseError": "the connection could not be closed",
    "RemoteProtocolError": "the host closed the connection or violated the HTTP protocol",
    "LocalProtocolError": "the request is not valid HTTP, perhaps because its key contains a line end",
    "ProxyError": "the proxy refused or closed the connection",
    "UnsupportedProtocol": "the URL's scheme is not http or https",
    "TooManyRedirects": "the host sent too many redirects",
    "DecodingError": "the body's content encoding is invalid",
    "StreamError": "the body was read already",
    "TimeoutException": "the client's own timeout expired",
    "HTTPError": "the HTTP client failed",
    "InvalidURL": "the URL is not valid",
    "BrokenResourceError": "the connection was reset",
    "ClosedResourceError": "the connection was closed",
    "EndOfStream": "the connection was closed",
    # aiohttp, which the SDKs' aiohttp client uses
    "ConnectionTimeoutError": "connecting took too long",
    "SocketTimeoutError": "the client's own read timeout expired",
    "ServerTimeoutError": "the client's own timeout expired",
    "ServerDisconnectedError": "the host closed the connection",
    "ClientPayloadError": "the host closed the connection before the end of the body",
    "ClientConnectorError": "the connection could not be made",
    "ClientConnectionError": "the connection was closed",
    "ClientError": "the HTTP client failed",
    "SSLError": "the TLS handshake or record layer failed",
    "gaierror": "the host name is not known",
    "ConnectionRefusedError": "the connection was refused",
    "ConnectionResetError": "the connection was reset",
    "BrokenPipeError": "the connection was closed",
    "TimeoutError": "a timeout of the operating system expired",
    "OSError": "the operating system reported an error",
}

#: Errors that would occur again on a retry.
_FOR_GOOD = ("LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "SSLCertVerificationError")

#: Names of the connection errors of libraries that fetch an SDK's credentials.
_FETCHING = {"HTTPClientError", "ConnectionError", "TransportError"}

#: The code of `__exit__` of a context manager made with `contextlib.contextmanager`.
_EXIT = _GeneratorContextManager.__exit__.__code__

#: Errors that are not translated: aprefill's own errors, and bugs.
_OURS = (AprefillError, AssertionError, AttributeError, NameError, TypeError)


class ClientFailed(Exception):
    """A client raised an error before it sent anything. The argument is the client's name; `__cause__` is the error.

    `translate` turns this exception into a `UsageError`.
    """


def translate(
    exc: Exception,
    *,
    stage: Literal["open", "read"],
    host: str,
    port: int | None = None,
    redact: Callable[[str], str] = str,
    connect_s: float | None = None,
    received_bytes: int = 0,
) -> AprefillError | None:
    """Return aprefill's error for an error of a library. Return None if `exc` is aprefill's own error or a bug.

    Chain the error (`raise ... from exc`). This is safe: every `request` is removed here from the exceptions of the
    chain, because its headers contain the key.
    """
    break_cycles(exc)
    if isinstance(exc, _OURS):
        return None
    for link in chain_of(exc):
        _scrub(link, redact)
    cause = _root(exc)
    if isinstance(cause, RuntimeError) and "no running event loop" in str(cause):
        return UsageError(
            "the client that was passed runs only on asyncio, as aiohttp does", "pass a client that uses httpx2"
        )
    if isinstance(exc, ClientFailed):
        if isinstance(cause, ImportError):
            return UsageError(
                f"{exc} needs {cause.name or 'a package'}, which is not installed",
                "pip install it (AWS's signatures: pip install 'aprefill[bedrock]')",
            )
        said = redact(" ".join(str(cause).split()))[:QUOTE_MAX]
        return UsageError(
            f"{exc} could not make the request ({type(cause).__name__}: {said})",
            "check its credentials and its other settings",
        )
    if isinstance(cause, RuntimeError) and "closed" in str(cause).lower():
        return UsageError("the client that was passed has been closed", "pass an open one")
    reason = next((_REASONS[name] for name in _names(cause) if name in _REASONS), None)
    reason = f"{type(cause).__name__}, {reason}" if reason else type(cause).__name__
    if connect_s is not None and named(cause, "ConnectTimeout", "ConnectionTimeoutError"):
        return Stalled("connect_s", connect_s)
    if stage == "open":
        may_pass = not any(named(link, *_FOR_GOOD) for link in _causes_and_groups(exc))
        known = _why_no_connection(cause)
        if known is None:
            return ConnectFailed(host, reason, port=port, may_pass=may_pass)
        return ConnectFailed(host, redact(known[0]), port=port, remedy=known[1], may_pass=may_pass)
    return Truncated(reason, received_bytes=received_bytes)


#: `getaddrinfo`'s error codes for a name that does not exist.
_NO_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}

#: Error codes for a host that is not reachable.
_NO_WAY = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}


def _why_no_connection(exc: BaseException) -> tuple[str, str] | None:
    """Return why the connection failed and what to do, or None if neither TLS nor the operating system says why.

    A name may have several addresses, and the connection to each has failed. The most specific error is used.
    """
    # Of other errors, the context is not searched: it may be an error that the caller was handling when it called us.
    behind = _causes_and_groups(exc) if named(exc, "ConnectError", "ClientConnectorError") else [exc]
    links = [link for link in behind if isinstance(link, OSError)]
    untrusted = [link for link in links if isinstance(link, ssl.SSLCertVerificationError)]
    if untrusted:
        # aiohttp's own error is such an error too, but has no detail
        details = [link.verify_message for link in untrusted if getattr(link, "verify_message", "")]
        detail = details[0].rstrip(".") if details else "it could not be verified"
        return (
            f"certificate not trusted ({detail})",
            Words(
                "set SSL_CERT_FILE to the certificate file of the authority that signed it",
                "pass a {client} that trusts it",
            ),
        )
    for link in links:
        if isinstance(link, ssl.SSLError):
            detail = (getattr(link, "reason", None) or "no reason given").replace("_", " ").lower()
            return f"TLS handshake failed ({detail})", "check that this port speaks https, then try again"
    for link in links:
        if isinstance(link, socket.gaierror):
            if link.errno in _NO_NAME:
                return "no such host", "check the name of the host, then try again"
            return "the host name could not be looked up", "check the network, then try again"
    if any(isinstance(link, ConnectionRefusedError) for link in links):
        return "connection refused", "check that a server, or the proxy if one is set, listens there, then try again"
    if any(link.errno in _NO_WAY for link in links):
        return "host not reachable", "check the address and the network, then try again"
    return None


def break_cycles(exc: BaseException) -> None:
    """Break the reference cycles of a library's exception, so that reference counting alone frees it and the reply.

    Since CPython 3.12, the frame of a coroutine that has ended refers to its caller's frame. So a cycle through a
    library's traceback keeps the frames of all callers alive, also those of aprefill and of its caller. There are two
    such cycles:

    - If a context manager replaces an exception, as httpx2's do, `contextlib` keeps the first one in a variable of
      `__exit__`.
    - aiohttp keeps its error on the stream that failed.
    """
    for link in chain_of(exc):
        traceback = link.__traceback__
        if type(link).__module__.startswith("aiohttp."):
            link.__traceback__ = None
        while traceback is not None:
            if traceback.tb_frame.f_code is _EXIT:
                with suppress(RuntimeError):  # the frame is still running
                    traceback.tb_frame.clear()
            traceback = traceback.tb_next


def from_network(exc: Exception) -> bool:
    """Whether a client's error comes from the network, the host or a closed client, and not from its settings."""
    if isinstance(exc, FileNotFoundError) or (isinstance(exc, OSError) and exc.filename is not None):
        return False  # a file with credentials or certificates is missing
    if isinstance(exc, RuntimeError) and "closed" in str(exc).lower():
        return True
    names = set(_names(exc))
    if type(exc).__module__.partition(".")[0] in {"botocore", "google"}:
        return not names.isdisjoint(_FETCHING)
    return not names.isdisjoint({"APIConnectionError", *_REASONS})


def answer_behind(exc: Exception) -> Any:
    """Return the response of an error from a hook's `raise_for_status()` or an SDK; None for any other error."""
    return getattr(exc, "response", None) if named(exc, "HTTPStatusError", "APIStatusError") else None


def named(exc: BaseException, *names: str) -> bool:
    """Whether the class of `exc`, or one of its base classes, has one of these names."""
    return not set(names).isdisjoint(_names(exc))


def _names(exc: BaseException) -> list[str]:
    return [c.__name__ for c in type(exc).__mro__]


def _root(exc: BaseException) -> BaseException:
    """Return the original error: without the wrapper of an SDK or of aprefill, and aiohttp's error if there is one.

    aiohttp's error is more precise than the httpx2 error that is raised from it: openai's transport turns every lost
    connection into a connect timeout.
    """
    while named(exc, "APIConnectionError", "ClientFailed") and exc.__cause__ is not None:
        exc = exc.__cause__
    return next((link for link in _causes(exc) if type(link).__module__.startswith("aiohttp.")), exc)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    # An exception that is raised several times can form a ring of causes.
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__


def _causes_and_groups(exc: BaseException) -> Iterator[BaseException]:
    """Yield `exc` and all exceptions that are linked to it, directly or through others.

    An exception is linked to its cause. If it has no cause, it is linked to its context, also to a suppressed one,
    because httpcore suppresses contexts. An exception group is also linked to the exceptions in it.

    aprefill's own errors are not followed: a caller may ask another host while it handles the error of the first host.
    """
    seen: set[int] = set()
    links: list[BaseException | None] = [exc]
    while links:
        link = links.pop(0)
        if link is not None and id(link) not in seen and not isinstance(link, AprefillError):
            seen.add(id(link))
            yield link
            if isinstance(link, BaseExceptionGroup):
                links += link.exceptions
            links.append(link.__cause__ or link.__context__)


def chain_of(exc: BaseException) -> Iterator[BaseException]:
    """Yield `exc`, its causes and its contexts, also suppressed contexts."""
    seen: set[int] = set()
    links: list[BaseException | None] = [exc]
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            links += [link.__cause__, link.__context__]


def _scrub(exc: BaseException, redact: Callable[[str], str]) -> None:
    # If the host sends something else than a status line, the HTTP library's error quotes it.
    exc.args = tuple(_plain(arg, redact) for arg in exc.args)
    # These errors contain the whole text: of a body, or of a header, whose secret may be known only to the client.
    if isinstance(exc, UnicodeEncodeError):
        exc.object = ""
        exc.args = (exc.encoding, "", exc.start, exc.end, exc.reason)
    elif isinstance(exc, UnicodeDecodeError):
        exc.object = b""
        exc.args = (exc.encoding, b"", exc.start, exc.end, exc.reason)
    elif named(exc, "LocalProtocolError"):
        exc.args = ()
    fields = getattr(exc, "__dict__", {})
    for name, value in fields.items():
        if name in {"_request", "request", "response", "body", "headers", "history"}:
            fields[name] = None
        elif name == "request_info" and hasattr(value, "_replace"):
            fields[name] = value._replace(headers=())  # aiohttp's str() of the error needs the other fields
        elif name == "__notes__" and isinstance(value, list):
            fields[name] = [_plain(note, redact) for note in value]
        elif isinstance(value, dict | list | set):
            fields[name] = type(value)()
        elif isinstance(value, str | bytes | bytearray):
            fields[name] = _plain(value, redact)


def _plain(arg: object, redact: Callable[[str], str]) -> object:
    """Return an argument of an exception, redacted; for an object that may contain secrets, only its class's name."""
    if isinstance(arg, bytes | bytearray):
        arg = arg.decode(errors="replace")
    if isinstance(arg, str):
        return redact(arg)
    return arg if arg is None or isinstance(arg, int | float | BaseException) else type(arg).__name__

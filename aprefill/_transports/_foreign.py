"""The one table through which other people's exceptions become ours."""

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
    "LocalProtocolError": "the request is not valid HTTP, perhaps for a line end in its key",
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
    # aiohttp's, below the SDKs' aiohttp client
    "ConnectionTimeoutError": "the connection took too long",
    "SocketTimeoutError": "the client's own read timeout ran out",
    "ServerTimeoutError": "a timeout of the client's own ran out",
    "ServerDisconnectedError": "the host closed the connection",
    "ClientPayloadError": "the host broke off",
    "ClientConnectorError": "the connection could not be made",
    "ClientConnectionError": "the connection was closed",
    "ClientError": "the HTTP client failed",
    "SSLError": "the TLS handshake or record layer failed",
    "gaierror": "the host name is not known",
    "ConnectionRefusedError": "the connection was refused",
    "ConnectionResetError": "the connection was reset",
    "BrokenPipeError": "the connection was closed",
    "TimeoutError": "the operating system gave up waiting",
    "OSError": "the operating system reported an error",
}

#: What another try would meet again.
_FOR_GOOD = ("LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "SSLCertVerificationError")

#: Names of connection errors of the libraries that fetch an SDK's credentials.
_FETCHING = {"HTTPClientError", "ConnectionError", "TransportError"}

#: `__exit__` of what `contextlib.contextmanager` makes.
_EXIT = _GeneratorContextManager.__exit__.__code__

#: Bugs are not the network's: these pass through unchanged.
_OURS = (AprefillError, AssertionError, AttributeError, NameError, TypeError)


class ClientFailed(Exception):
    """A client of the caller's, named by the argument, raised its cause before it sent anything.

    `translate` makes it ours.
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
    """Our error for a foreign one, or None if `exc` is ours or a bug and must pass as it is.

    Chain it (`raise ... from exc`): every `request` on the chain is removed here, for its headers hold the key.
    """
    break_cycles(exc)
    if isinstance(exc, _OURS):
        return None
    for link in chain_of(exc):
        _scrub(link, redact)
    cause = _root(exc)
    if isinstance(cause, RuntimeError) and "no running event loop" in str(cause):
        return UsageError("the client that was passed runs on asyncio alone, as aiohttp does", "pass one over httpx2")
    if isinstance(exc, ClientFailed):
        if isinstance(cause, ImportError):
            return UsageError(
                f"{exc} needs {cause.name or 'a package'}, which is not installed",
                "pip install it (AWS's signatures: pip install 'aprefill[bedrock]')",
            )
        said = redact(" ".join(str(cause).split()))[:QUOTE_MAX]
        return UsageError(
            f"{exc} could not make the request ({type(cause).__name__}: {said})",
            "check its credentials and what else it was made with",
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


#: What `getaddrinfo` says of a name that there is not.
_NO_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}

#: What the system says of a host that no packet gets to.
_NO_WAY = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}


def _why_no_connection(exc: BaseException) -> tuple[str, str] | None:
    """Why the connection was not made, and what to do, as far as TLS and the operating system say.

    A name may stand for several addresses, of which each has failed: what tells most is taken.
    """
    # what stands behind other errors may be of the caller's own, who asks us while handling it
    behind = _causes_and_groups(exc) if named(exc, "ConnectError", "ClientConnectorError") else [exc]
    links = [link for link in behind if isinstance(link, OSError)]
    untrusted = [link for link in links if isinstance(link, ssl.SSLCertVerificationError)]
    if untrusted:
        # aiohttp's error is one of these too, but has no detail
        details = [link.verify_message for link in untrusted if getattr(link, "verify_message", "")]
        detail = details[0].rstrip(".") if details else "it could not be verified"
        return (
            f"certificate not trusted ({detail})",
            Words(
                "set SSL_CERT_FILE to the file of the authority that has signed it", "pass a {client} that trusts it"
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
    """Let a foreign exception, and the reply that it ended, be freed by reference counting alone.

    From CPython 3.12 on the frame of a coroutine that has ended refers to its caller's frame. So a cycle through one
    traceback of a library's holds all the frames that called it, ours and those of our caller. There are two such cycles:

    - `contextlib` keeps an exception that a context manager replaces, as httpx2's do, in a variable of `__exit__`.
    - aiohttp keeps its error on the stream that failed.
    """
    for link in chain_of(exc):
        traceback = link.__traceback__
        if type(link).__module__.startswith("aiohttp."):
            link.__traceback__ = None
        while traceback is not None:
            if traceback.tb_frame.f_code is _EXIT:
                with suppress(RuntimeError):  # it has not ended
                    traceback.tb_frame.clear()
            traceback = traceback.tb_next


def from_network(exc: Exception) -> bool:
    """Whether the network, the host or a closed client is behind what an SDK's client raised, and not its settings."""
    if isinstance(exc, FileNotFoundError) or (isinstance(exc, OSError) and exc.filename is not None):
        return False  # a file of credentials or certificates that is not there
    if isinstance(exc, RuntimeError) and "closed" in str(exc).lower():
        return True
    names = set(_names(exc))
    if type(exc).__module__.partition(".")[0] in {"botocore", "google"}:
        return not names.isdisjoint(_FETCHING)
    return not names.isdisjoint({"APIConnectionError", *_REASONS})


def answer_behind(exc: Exception) -> Any:
    """The response that a hook's `raise_for_status()` or an SDK made an exception of; None: it is another kind."""
    return getattr(exc, "response", None) if named(exc, "HTTPStatusError", "APIStatusError") else None


def named(exc: BaseException, *names: str) -> bool:
    """Whether `exc` is of a class with one of these names, or of a subclass of one."""
    return not set(names).isdisjoint(_names(exc))


def _names(exc: BaseException) -> list[str]:
    return [c.__name__ for c in type(exc).__mro__]


def _root(exc: BaseException) -> BaseException:
    """What happened: below an SDK's wrapper and ours, and below httpx2's words for it where aiohttp's are to be had.

    aiohttp's are more exact: openai's transport calls every lost connection a connect timeout.
    """
    while named(exc, "APIConnectionError", "ClientFailed") and exc.__cause__ is not None:
        exc = exc.__cause__
    return next((link for link in _causes(exc) if type(link).__module__.startswith("aiohttp.")), exc)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    # who raises one exception several times may have made a ring of it
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__


def _causes_and_groups(exc: BaseException) -> Iterator[BaseException]:
    """`exc` and what is behind it: causes, else contexts, also hidden ones, as httpcore's, and the members of groups.

    An error of ours ends it: the caller asks another host while handling what the first one has failed with.
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
    """`exc`, its causes and its contexts, also those that are not shown."""
    seen: set[int] = set()
    links: list[BaseException | None] = [exc]
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            links += [link.__cause__, link.__context__]


def _scrub(exc: BaseException, redact: Callable[[str], str]) -> None:
    # what the host sent where a status line should be is quoted by the HTTP library's own errors
    exc.args = tuple(_plain(arg, redact) for arg in exc.args)
    # these carry the whole text: a header that could not be sent, whose token only the client may know, or a body
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
            fields[name] = value._replace(headers=())  # aiohttp's, whose str() needs the rest
        elif name == "__notes__" and isinstance(value, list):
            fields[name] = [_plain(note, redact) for note in value]
        elif isinstance(value, dict | list | set):
            fields[name] = type(value)()
        elif isinstance(value, str | bytes | bytearray):
            fields[name] = _plain(value, redact)


def _plain(arg: object, redact: Callable[[str], str]) -> object:
    """An argument of an exception, without what it may quote or carry."""
    if isinstance(arg, bytes | bytearray):
        arg = arg.decode(errors="replace")
    if isinstance(arg, str):
        return redact(arg)
    return arg if arg is None or isinstance(arg, int | float | BaseException) else type(arg).__name__

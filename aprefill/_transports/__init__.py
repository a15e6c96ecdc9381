"""Transports: they send a request to a host and read the response. They do not parse, and do not retry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping


@dataclass(frozen=True, slots=True, repr=False)
class HttpRequest:
    """One POST request. It has no repr, because it contains the key and the prompt."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    #: the path that the protocol appends to the base URL; `url` ends with it
    path: str
    #: connect timeout in seconds; None: no limit
    connect_s: float | None = None


class Response(Protocol):
    """An open response. The code that opened it must close it, once."""

    #: HTTP status
    status: int
    #: HTTP headers, with names in lower case
    headers: Mapping[str, str]
    #: awaits one network read of the body; raises `StopAsyncIteration` at its end, or an error of the HTTP library
    receive: Callable[[], Awaitable[bytes]]

    def secrets(self) -> set[str]:
        """Return the secret header values of the request that was sent. Used to redact errors."""
        ...

    def url(self) -> str:
        """Return the URL of the request that was sent, without its query. Used in errors."""
        ...

    def kill(self) -> bool:
        """Shut the connection down now, without awaiting, from any thread. Return False if that is not possible."""
        ...

    @property
    def can_kill(self) -> bool:
        """Whether `kill` would work. It needs a socket, and not HTTP/2, where it would end other streams too."""
        ...

    async def aclose(self) -> None:
        """Return the connection to its pool, or close it if the body was not read completely. Disarms `kill` first."""
        ...


class Transport(Protocol):
    """A way to send requests to a host."""

    async def open(self, request: HttpRequest) -> Response:
        """Send `request` and wait for the status and headers. Never follows a redirect."""
        ...

    async def aclose(self) -> None:
        """Close the transport's own connections. The caller's client is not closed."""
        ...

"""How bytes get to a host and back. Pumps: all awaiting, no parsing, no policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping


@dataclass(frozen=True, slots=True, repr=False)
class HttpRequest:
    """One POST. It has no repr: it holds the key and the prompt."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    #: the protocol's own path, at the end of `url`
    path: str
    #: how long the connection may take to be made, in seconds; None: no limit
    connect_s: float | None = None


class Response(Protocol):
    """An open response. Whoever opened it closes it, once."""

    #: HTTP status
    status: int
    #: names in lower case
    headers: Mapping[str, str]
    #: awaits one network read of the body; raises `StopAsyncIteration` at its end, or a foreign error
    receive: Callable[[], Awaitable[bytes]]

    def secrets(self) -> set[str]:
        """What the request had in its headers that nobody must repeat; asked for when something went wrong."""
        ...

    def url(self) -> str:
        """Where the request went, without its query; asked for when something went wrong."""
        ...

    def kill(self) -> bool:
        """Shut the connection down now, without awaiting; from any thread. False where that cannot be done."""
        ...

    @property
    def can_kill(self) -> bool:
        """Whether `kill` would work: not over HTTP/2, where it would cut the neighbours, nor without a socket."""
        ...

    async def aclose(self) -> None:
        """Give the connection back, or close it if the body was not read to its end. Disarms `kill` first."""
        ...


class Transport(Protocol):
    """A way to a host."""

    async def open(self, request: HttpRequest) -> Response:
        """Send `request` and wait for the status and headers. Never follows a redirect."""
        ...

    async def aclose(self) -> None:
        """Close what this transport owns; a caller's client is not touched."""
        ...

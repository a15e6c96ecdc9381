"""Shuts a connection down without awaiting, for an iterator that was dropped without being closed."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class KillHandle:
    """Shuts down the socket of one connection, at once, from any thread, without an event loop.

    The socket is looked up when `kill` is called. A closed socket of asyncio, uvloop or trio has the file descriptor -1
    (tested). So a descriptor that the operating system has given to another file is never used.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: Any) -> None:
        self._stream: Any = stream

    @classmethod
    def of(cls, extensions: Mapping[str, Any], body: Any = None) -> KillHandle | None:
        """Return the handle for an httpx2 or httpx response, given its `extensions` and `stream`.

        Returns None for mocks, ASGI and HTTP/2. An HTTP/2 connection is shared: a shutdown would end its other streams.
        """
        stream = extensions.get("network_stream")
        if stream is None:
            # the SDKs' aiohttp client: httpx2's stream refers to the transport's, which refers to aiohttp's response
            response = getattr(getattr(body, "_stream", body), "_aiohttp_response", None)
            stream = None if response is None else _AiohttpStream(response)
        if stream is None or extensions.get("http_version") == b"HTTP/2":
            return None
        return cls(stream)

    def disarm(self) -> None:
        """Forget the connection, because it returns to its pool and will be used for another reply."""
        self._stream = None

    @property
    def armed(self) -> bool:
        """Whether `kill` would still shut the connection down."""
        return self._stream is not None

    def kill(self) -> bool:
        """Shut the connection down now, and disarm. Return True if this call did it."""
        stream, self._stream = self._stream, None
        if stream is None:
            return False
        try:
            sock = stream.get_extra_info("socket")
            fd = -1 if sock is None else sock.fileno()
            if fd < 0:
                return False
            # uvloop returns a PseudoSocket whose shutdown() raises TypeError. So a second socket object is created for
            # the same descriptor and detached again. Duplicating the descriptor would fail if no descriptor is free.
            sock = socket.socket(fileno=fd)
            try:
                sock.shutdown(socket.SHUT_RDWR)
            finally:
                sock.detach()
        except (OSError, AttributeError, ImportError):
            # ImportError: anyio imports modules when used, which fails at interpreter exit. The exit closes the socket.
            return False
        return True


class _AiohttpStream:
    """The network stream of an aiohttp response, while the response has a connection.

    aiohttp returns the connection to its pool as soon as the end of the body is received. This may be long before the
    body is read here.
    """

    __slots__ = ("_response",)

    def __init__(self, response: Any) -> None:
        self._response = response

    def get_extra_info(self, name: str) -> Any:
        connection = self._response.connection
        transport = None if connection is None else connection.transport
        return None if transport is None else transport.get_extra_info(name)

"""Ending a connection without awaiting: the handle that a dropped iterator pulls."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class KillHandle:
    """Shuts one connection's socket down, at once, from any thread, with no event loop.

    The socket is looked up at the moment of the kill: asyncio's, uvloop's and trio's all report -1 for a closed one
    (tested), so a descriptor that was handed to somebody else in between is never touched.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: Any) -> None:
        self._stream: Any = stream

    @classmethod
    def of(cls, extensions: Mapping[str, Any], body: Any = None) -> KillHandle | None:
        """The handle of an httpx2 or httpx response's `extensions` and `stream`; None over HTTP/2, mocks and ASGI.

        An HTTP/2 connection is shared: a shutdown would cut its other streams.
        """
        stream = extensions.get("network_stream")
        if stream is None:
            # the SDKs' aiohttp client: httpx2's stream holds the transport's, which holds aiohttp's response
            response = getattr(getattr(body, "_stream", body), "_aiohttp_response", None)
            stream = None if response is None else _AiohttpStream(response)
        if stream is None or extensions.get("http_version") == b"HTTP/2":
            return None
        return cls(stream)

    def disarm(self) -> None:
        """Let go of the connection: it goes back to a pool and will carry somebody else's reply."""
        self._stream = None

    @property
    def armed(self) -> bool:
        """Whether a kill would still reach the connection."""
        return self._stream is not None

    def kill(self) -> bool:
        """Send the FIN now. True if the shutdown was done here; disarms."""
        stream, self._stream = self._stream, None
        if stream is None:
            return False
        try:
            sock = stream.get_extra_info("socket")
            fd = -1 if sock is None else sock.fileno()
            if fd < 0:
                return False
            # uvloop hands out a PseudoSocket whose shutdown() raises TypeError. So a second socket object is put over the
            # same descriptor and taken off again: a duplicate would fail where no descriptor is left.
            sock = socket.socket(fileno=fd)
            try:
                sock.shutdown(socket.SHUT_RDWR)
            finally:
                sock.detach()
        except (OSError, AttributeError, ImportError):
            # ImportError: the interpreter is ending, and anyio imports where it is used; the process closes the socket
            return False
        return True


class _AiohttpStream:
    """The network stream behind an aiohttp response, for as long as it has one.

    aiohttp gives the connection back when it has received the body's end, which may be long before we have read it.
    """

    __slots__ = ("_response",)

    def __init__(self, response: Any) -> None:
        self._response = response

    def get_extra_info(self, name: str) -> Any:
        connection = self._response.connection
        transport = None if connection is None else connection.transport
        return None if transport is None else transport.get_extra_info(name)

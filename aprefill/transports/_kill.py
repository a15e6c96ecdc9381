"""Ending a connection without awaiting: the handle that a dropped iterator pulls."""

from __future__ import annotations

import os
import socket
from typing import Any


class KillHandle:
    """Shuts one connection's socket down, at once, from any thread, with no event loop.

    The socket is looked up again at the moment of the kill and compared by inode, so that a descriptor which was
    closed and handed to somebody else in between is never touched. Linux and macOS; elsewhere the comparison is
    left out.
    """

    __slots__ = ("_identity", "_sock")

    def __init__(self, sock: Any) -> None:
        self._sock: Any = sock
        self._identity = _identity(sock.fileno())

    @classmethod
    def of(cls, extensions: Any) -> KillHandle | None:
        """The handle of an httpx2 or httpx response's `extensions`; None over HTTP/2, mocks and ASGI.

        An HTTP/2 connection is shared: a shutdown would cut its other streams.
        """
        if extensions.get("http_version") == b"HTTP/2":
            return None
        stream = extensions.get("network_stream")
        if stream is None:
            return None
        try:
            sock = stream.get_extra_info("socket")
            return None if sock is None or sock.fileno() < 0 else cls(sock)
        except (AttributeError, OSError):
            return None

    def disarm(self) -> None:
        """Let go of the socket: it goes back to a pool and will carry somebody else's reply."""
        self._sock = None

    @property
    def armed(self) -> bool:
        """Whether a kill would still reach the connection."""
        return self._sock is not None

    def kill(self) -> bool:
        """Send the FIN now. True if the shutdown was done here; disarms."""
        sock, self._sock = self._sock, None
        if sock is None:
            return False
        try:
            fd = sock.fileno()
            if fd < 0:
                return False
            # uvloop hands out a PseudoSocket whose shutdown() raises TypeError: go through a duplicate
            with socket.socket(fileno=os.dup(fd)) as duplicate:
                if _identity(duplicate.fileno()) != self._identity:
                    return False
                duplicate.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
        return True


def _identity(fd: int) -> tuple[int, int]:
    try:
        stat = os.fstat(fd)
    except OSError:
        return (-1, -1)
    return (stat.st_dev, stat.st_ino)

"""A kept connection that the host has just closed: known, so that the request may go out once more at once.

A host may close an idle connection at any moment. A request that is sent into that moment breaks before any byte of an
answer, which says nothing about the host. It is sent again once, and does not count as a retry.
"""

from __future__ import annotations

from typing import Any

from ._foreign import chain_of, named

#: How the HTTP libraries call a connection that ends: by the host, by a reset, while the request is written.
_BROKEN = ("RemoteProtocolError", "ReadError", "WriteError")


def broke_before_an_answer(exc: BaseException) -> bool:
    """Whether the connection ended before the host had answered, as far as `exc` tells.

    An answer that breaks the HTTP protocol is another matter: there h11 is behind the same error.
    """
    links = list(chain_of(exc))
    return any(named(link, *_BROKEN) for link in links) and not any(
        type(link).__module__.partition(".")[0] == "h11" for link in links
    )


class Trace:
    """Watches one request of httpx2 or httpx, as their `trace` extension, for whether it got a kept connection."""

    __slots__ = ("connected", "sent")

    def __init__(self) -> None:
        #: a connection was made for it
        self.connected = False
        #: it was given a connection
        self.sent = False

    @property
    def reused(self) -> bool:
        """Whether it was sent over a connection that had been there before."""
        return self.sent and not self.connected

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith(("connect_tcp.started", "connect_unix_socket.started")):
            self.connected = True
        elif event.endswith("send_request_headers.started"):
            self.sent = True


def has_kept_connection(client: Any) -> bool:
    """Whether an httpx2 or httpx `client` has an idle connection, which its next request to the same host will get.

    For the SDKs' clients, which take no extensions and talk to one host. It looks into private attributes, and says False
    where those are others.
    """
    pool: Any = getattr(getattr(client, "_transport", None), "_pool", None)
    try:
        return any(connection.is_idle() and not connection.has_expired() for connection in pool.connections)
    except AttributeError:
        return False

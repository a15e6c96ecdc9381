"""Stream a reply to a browser with Starlette or FastAPI, as server-sent events or over a WebSocket.

Needs the extra `web`. If the client disconnects or stops reading, the provider's connection is closed. An error is sent
to the client as a record.
"""

try:
    import starlette as _starlette  # noqa: F401
except ModuleNotFoundError as exc:
    if exc.name != "starlette":
        raise
    raise ModuleNotFoundError(
        "aprefill.web needs Starlette, which is an extra: pip install 'aprefill[web]'", name="starlette"
    ) from exc

from ._origin import Origins, origin_allowed
from ._sse import EventStreamResponse, sse
from ._websocket import websocket

__all__ = ("EventStreamResponse", "Origins", "origin_allowed", "sse", "websocket")

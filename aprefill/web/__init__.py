"""A reply to a browser, as server-sent events or over a WebSocket, for Starlette and FastAPI. Needs the extra `web`.

Whatever becomes of the client, the provider's connection goes with it, and an error is a record of its own.
"""

try:
    import starlette as _starlette  # noqa: F401
except ModuleNotFoundError as exc:
    if exc.name != "starlette":
        raise
    raise ModuleNotFoundError(
        "aprefill.web stands on Starlette, which is an extra: pip install 'aprefill[web]'", name="starlette"
    ) from exc

from ._origin import Origins, origin_allowed
from ._sse import EventStreamResponse, sse
from ._websocket import websocket

__all__ = ("EventStreamResponse", "Origins", "origin_allowed", "sse", "websocket")

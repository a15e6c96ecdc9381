"""Closes a connection whose request was cancelled before the response, if the HTTP library has left it open.

There are two such cases. First, httpcore and httpcore2 close a connection whose TLS handshake fails, but not one whose
handshake is cancelled. Then only the frames of the cancellation's traceback refer to the connection, and it would stay
open until the garbage collector runs.

Second, while a request waits for the response headers, httpcore, and httpcore2 up to 2.0, close the connection in the
waiting task. If this task is cancelled a second time with asyncio's own `cancel()`, the closing is interrupted, and the
connection stays in the pool for ever.

Both happen with our own client, with a caller's client and with an SDK's client.
"""

from __future__ import annotations

from typing import Any

from .._loops import native_loop, spawn_closing
from ._reuse import frames_of


def close_left(exc: BaseException) -> None:
    """Close the connection that the cancellation `exc` has left open, if any, in a separate task."""
    if isinstance(exc, Exception | GeneratorExit):
        # After an error, the library has closed the connection. After GeneratorExit, the event loop has ended.
        return
    frames = frames_of(exc)
    if "start_tls" in frames:
        # the stream below TLS
        stream = frames["start_tls"].f_locals["self"]
        spawn_closing(stream.aclose, native_loop())
    elif "handle_async_request" in frames:
        # The pool and the connection both have a method `handle_async_request`. The frame in `frames` is the innermost
        # one, which is the connection's. The variable `kwargs` exists only after the request has begun to be sent.
        # Before that, the connection may be in use by another request.
        values = frames["handle_async_request"].f_locals
        connection: Any = values["self"]
        if (
            type(connection).__name__ == "AsyncHTTP11Connection"
            and "kwargs" in values
            and not connection.is_closed()
            and not connection.is_idle()
        ):
            spawn_closing(connection.aclose, native_loop())

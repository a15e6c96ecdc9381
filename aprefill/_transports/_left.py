"""A connection whose request was cancelled before its answer came: closed here where the HTTP libraries leave it open.

httpcore and httpcore2 close a connection whose TLS handshake fails, but not one whose handshake is cancelled. Nobody
refers to it then but the frames of the cancellation's traceback, and it would stay open until the garbage collector
comes by. And httpcore, as httpcore2 up to 2.0, closes a connection that waits for the head of an answer in the task that
waits: a second native cancel of that task interrupts this, and the connection keeps its place in the pool for good.

This holds for our own client, for a caller's and for an SDK's.
"""

from __future__ import annotations

from typing import Any

from .._loops import native_loop, spawn_closing
from ._reuse import frames_of


def close_left(exc: BaseException) -> None:
    """Close the connection that `exc`, a cancellation, has left open, if there is one, in a task of its own."""
    if isinstance(exc, Exception | GeneratorExit):
        # a failure: the libraries have closed it; or the loop is gone, and its sockets with it
        return
    frames = frames_of(exc)
    if "start_tls" in frames:
        # the stream below TLS
        stream = frames["start_tls"].f_locals["self"]
        spawn_closing(stream.aclose, native_loop())
    elif "handle_async_request" in frames:
        # of the innermost function of this name: the connection's. Only what has `kwargs` had begun to send; before
        # that the connection may carry somebody else's request.
        values = frames["handle_async_request"].f_locals
        connection: Any = values["self"]
        if (
            type(connection).__name__ == "AsyncHTTP11Connection"
            and "kwargs" in values
            and not connection.is_closed()
            and not connection.is_idle()
        ):
            spawn_closing(connection.aclose, native_loop())

"""A connection that is left in the middle of its TLS handshake: closed here, since the HTTP libraries leave it open.

httpcore and httpcore2 close it when the handshake fails, but not when it is cancelled. Nobody refers to the connection
then but the frames of the cancellation's traceback, and it would stay open until the garbage collector comes by. This
holds for our own client, for a caller's and for an SDK's.
"""

from __future__ import annotations

from .._loops import native_loop, spawn_closing
from ._reuse import frames_of


def close_half_open(exc: BaseException) -> None:
    """Close the connection whose TLS handshake `exc` has cancelled, if there is one, in a task of its own."""
    if isinstance(exc, Exception | GeneratorExit):
        # a failure: the libraries have closed it; or the loop is gone, and its sockets with it
        return
    frame = frames_of(exc).get("start_tls")
    if frame is not None:
        # the stream below TLS
        spawn_closing(frame.f_locals["self"].aclose, native_loop())

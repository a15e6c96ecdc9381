"""A kept connection that the host has just closed: known, so that the request may go out once more at once.

A host may close an idle connection at any moment. A request that is sent into that moment breaks before any byte of an
answer, which says nothing about the host. It is sent again once, and does not count as a retry. Where one byte of an
answer came, the host has taken the request, and may count its tokens: that is a failure.

The HTTP libraries raise the same error for both. What came is known to the connection, and the frames of the error's
traceback lead to that, for our own client, a caller's and an SDK's. Where they do not, nothing is sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._foreign import chain_of, named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

#: How the HTTP libraries call a connection that ends: by the host, by a reset, while the request is written.
_BROKEN = ("RemoteProtocolError", "ReadError", "WriteError")


def is_stale(exc: BaseException, *, was_answered: bool = False) -> bool:
    """Whether the request that failed with `exc` was sent over a kept connection that ended before any byte of an answer.

    Over aiohttp, which does not tell whether a connection was kept, it counts as one if the client `was_answered` before.
    """
    links = list(chain_of(exc))
    if any(_module_of(link).startswith("aiohttp.") for link in links):
        return was_answered and any(map(_is_stale_aiohttp, links))
    if not any(named(link, *_BROKEN) for link in links):
        return False
    try:
        return any(_is_stale_http1(frames) or _is_stale_http2(frames) for frames in map(frames_of, links))
    except (AttributeError, KeyError):
        # a version of a library that is built in another way
        return False


def frames_of(exc: BaseException) -> dict[str, FrameType]:
    """The frames of httpcore's, or of httpcore2's, that `exc` came through, by the names of their functions."""
    return {frame.f_code.co_name: frame for frame in _all_frames(exc) if _module(frame).startswith("httpcore")}


def _all_frames(exc: BaseException) -> Iterator[FrameType]:
    traceback = exc.__traceback__
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


# Only frames that hold no exception are looked into: up to Python 3.12 a frame keeps what `f_locals` once gave, and that
# would be a cycle.


def _is_stale_http1(frames: dict[str, FrameType]) -> bool:
    reading, head = frames.get("_receive_event"), frames.get("_receive_response_headers")
    if reading is None or head is None:
        return False
    connection: Any = reading.f_locals["self"]
    received, _ = connection._h11_state.trailing_data
    # a 1xx is no longer in what was received
    informed = any(type(value).__name__ == "InformationalResponse" for value in head.f_locals.values())
    return connection._request_count > 1 and not received and not informed


def _module_of(exc: BaseException) -> str:
    return type(exc).__module__


def _is_stale_aiohttp(exc: BaseException) -> bool:
    if not named(exc, "ServerDisconnectedError", "ClientOSError") or not isinstance(getattr(exc, "message", ""), str):
        # of a head that has begun, that much is the error's message
        return False
    awaits = {frame.f_code.co_name: frame for frame in _all_frames(exc) if _module(frame) == "aiohttp.client_reqrep"}
    # a 1xx is a message that came whole
    return "start" in awaits and "message" not in awaits["start"].f_locals


def _is_stale_http2(frames: dict[str, FrameType]) -> bool:
    """As far as it can be known: a 1xx that came whole leaves no trace here."""
    ended = frames.get("_read_incoming_data") or frames.get("_write_outgoing_data")
    begun = frames.get("_receive_response") or frames.get("_send_request_headers") or frames.get("_send_request_body")
    if ended is None or begun is None:
        return False
    connection: Any = ended.f_locals["self"]
    state = connection._h2_state
    stream = state.streams.get(begun.f_locals["stream_id"])
    if stream is None or stream.state_machine.headers_received:
        return False
    buffer = vars(state.incoming_buffer)
    # part of a frame, as h2 and an older one name it; or a head that goes on in the next frame
    part = buffer.get("_data") or buffer.get("data") or buffer["_headers_buffer"]
    return connection._request_count > 1 and not part

"""Recognises a request that failed because the host had closed an idle connection. It can be sent again at once.

A host may close an idle connection at any time. A request that is sent at the same moment fails before any byte of the
response. This does not mean that the host has a problem. So the request is sent again once, and this does not count as
a retry. If one byte of a response was received, the host has accepted the request and may bill its tokens. Then the
request has failed and is not sent again here.

The HTTP libraries raise the same error in both cases. The connection object knows what was received. It is found
through the frames of the error's traceback, for our own client, a caller's client and an SDK's client. If it is not
found, the request is not sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._foreign import chain_of, named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

#: The HTTP libraries' errors for a lost connection: closed by the host, reset, or closed while sending the request.
_BROKEN = ("RemoteProtocolError", "ReadError", "WriteError")


def is_stale(exc: BaseException, *, was_answered: bool = False) -> bool:
    """Whether `exc` is from a request over a kept connection that ended before any byte of a response.

    aiohttp does not tell whether a connection was kept. There, it counts as kept if the client `was_answered` before.
    """
    links = list(chain_of(exc))
    if any(_module_of(link).startswith("aiohttp.") for link in links):
        return was_answered and any(map(_is_stale_aiohttp, links))
    if not any(named(link, *_BROKEN) for link in links):
        return False
    try:
        return any(_is_stale_http1(frames) or _is_stale_http2(frames) for frames in map(frames_of, links))
    except (AttributeError, KeyError):
        # another version of a library, with other attributes
        return False


def frames_of(exc: BaseException) -> dict[str, FrameType]:
    """Return the frames of httpcore or httpcore2 in the traceback of `exc`, by function name."""
    return {frame.f_code.co_name: frame for frame in _all_frames(exc) if _module(frame).startswith("httpcore")}


def _all_frames(exc: BaseException) -> Iterator[FrameType]:
    traceback = exc.__traceback__
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


# `f_locals` is read only of frames that have no exception in a variable. Up to Python 3.12 a frame keeps the dict that
# `f_locals` returned, and an exception in it would form a reference cycle.


def _is_stale_http1(frames: dict[str, FrameType]) -> bool:
    reading, head = frames.get("_receive_event"), frames.get("_receive_response_headers")
    if reading is None or head is None:
        return False
    connection: Any = reading.f_locals["self"]
    received, _ = connection._h11_state.trailing_data
    # an informational (1xx) response is removed from the received data
    informed = any(type(value).__name__ == "InformationalResponse" for value in head.f_locals.values())
    return connection._request_count > 1 and not received and not informed


def _module_of(exc: BaseException) -> str:
    return type(exc).__module__


def _is_stale_aiohttp(exc: BaseException) -> bool:
    if not named(exc, "ServerDisconnectedError", "ClientOSError") or not isinstance(getattr(exc, "message", ""), str):
        # if a part of the response headers was received, this part is the error's message
        return False
    awaits = {frame.f_code.co_name: frame for frame in _all_frames(exc) if _module(frame) == "aiohttp.client_reqrep"}
    # an informational (1xx) response is a complete message
    return "start" in awaits and "message" not in awaits["start"].f_locals


def _is_stale_http2(frames: dict[str, FrameType]) -> bool:
    """The same for HTTP/2. A complete informational (1xx) response cannot be recognised here."""
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
    # What h2 has received but not processed: a part of a frame (`_data`, in older versions of h2 `data`), or headers
    # that continue in the next frame.
    part = buffer.get("_data") or buffer.get("data") or buffer["_headers_buffer"]
    return connection._request_count > 1 and not part

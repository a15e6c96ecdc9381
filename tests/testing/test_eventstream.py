"""The encoder of AWS frames, whose output botocore and the library's own decoder read."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("botocore.eventstream", reason="botocore is not installed")
from botocore.eventstream import EventStreamBuffer

from aprefill._deltas import Record
from aprefill._errors import LimitExceeded
from aprefill._wire.eventstream import EventStreamDecoder
from aprefill.testing._wires.aws_frames import EventStream, chunk, exception, frame, prelude


def read(stream: bytes) -> list[Any]:
    """Return each message as botocore reads it."""
    buffer = EventStreamBuffer()
    buffer.add_data(stream)
    return list(buffer)


@given(
    headers=st.dictionaries(st.text(min_size=1, max_size=60), st.text(max_size=300), max_size=5), payload=st.binary()
)
def test_botocore_reads_any_frame(headers: dict[str, str], payload: bytes) -> None:
    """botocore reads any frame: headers and payload come back, and both checksums are right."""
    (message,) = read(frame(headers, payload))
    assert (message.headers, message.payload) == (headers, payload)


def test_a_chunk_is_bedrocks_envelope() -> None:
    """A chunk's headers and payload are those of a recording of Bedrock, and our decoder returns the model's event."""
    event = b'{"type":"message_stop"}'
    (message,) = read(chunk(event))
    assert list(message.headers.items()) == [
        (":event-type", "chunk"),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ]
    assert message.payload.startswith(b'{"bytes":"')
    assert message.payload.endswith(b'","p":"abc"}')
    assert b64decode(message.payload.split(b'"')[3]) == event
    assert EventStreamDecoder().feed(chunk(event)) == [Record(event)]


def test_an_exception_names_itself() -> None:
    """botocore reads an exception frame as a failed response."""
    sealed = exception("throttlingException", "Slow down")
    (message,) = read(sealed)
    assert message.to_response_dict()["status_code"] == 400
    assert EventStreamDecoder().feed(sealed) == [Record(b'{"message":"Slow down"}', "throttlingException")]


@pytest.mark.parametrize("size", [0, 12, 16, 17, 200_000])
def test_an_open_end_never_comes_to_its_frames_end(size: int) -> None:
    """A frame with an open end is read to its last byte, and yields nothing."""
    start = EventStream().open_end(size)
    decoder = EventStreamDecoder()
    assert decoder.feed((start + b"x" * size)[:size]) == []
    assert decoder.close() is None


def test_an_open_end_beyond_a_bound_is_refused_at_its_start() -> None:
    """A frame that announces more than the limit is refused when its prelude has come."""
    with pytest.raises(LimitExceeded):
        EventStreamDecoder().feed(EventStream().open_end(2_000_000))
    assert EventStream().open_end(1 << 40) == prelude(0xFFFF_FFFF, 0)


def test_an_unclosed_frame_is_none() -> None:
    """A frame without its last byte has no checksum, so it yields nothing."""
    assert EventStreamDecoder().feed(EventStream().unclosed(chunk(b"{}"))) == []

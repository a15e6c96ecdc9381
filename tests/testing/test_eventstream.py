"""The encoder of AWS frames, read by botocore and by the library's own decoder."""

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
    """Each message, as botocore reads it."""
    buffer = EventStreamBuffer()
    buffer.add_data(stream)
    return list(buffer)


@given(
    headers=st.dictionaries(st.text(min_size=1, max_size=60), st.text(max_size=300), max_size=5), payload=st.binary()
)
def test_botocore_reads_any_frame(headers: dict[str, str], payload: bytes) -> None:
    """Headers and payload come back, and both checksums hold."""
    (message,) = read(frame(headers, payload))
    assert (message.headers, message.payload) == (headers, payload)


def test_a_chunk_is_bedrocks_envelope() -> None:
    """Headers and payload as recorded; our decoder gives the model's event."""
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
    """botocore takes it for a failed response."""
    sealed = exception("throttlingException", "Slow down")
    (message,) = read(sealed)
    assert message.to_response_dict()["status_code"] == 400
    assert EventStreamDecoder().feed(sealed) == [Record(b'{"message":"Slow down"}', "throttlingException")]


@pytest.mark.parametrize("size", [0, 12, 16, 17, 200_000])
def test_an_open_end_never_comes_to_its_frames_end(size: int) -> None:
    """All of it is taken, and nothing is given."""
    start = EventStream().open_end(size)
    decoder = EventStreamDecoder()
    assert decoder.feed((start + b"x" * size)[:size]) == []
    assert decoder.close() is None


def test_an_open_end_beyond_a_bound_is_refused_at_its_start() -> None:
    """The prelude alone says how long it would be."""
    with pytest.raises(LimitExceeded):
        EventStreamDecoder().feed(EventStream().open_end(2_000_000))
    assert EventStream().open_end(1 << 40) == prelude(0xFFFF_FFFF, 0)


def test_an_unclosed_frame_is_none() -> None:
    """Without its last byte there is no checksum."""
    assert EventStreamDecoder().feed(EventStream().unclosed(chunk(b"{}"))) == []

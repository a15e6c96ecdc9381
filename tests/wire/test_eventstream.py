from __future__ import annotations

import json
import sys
from base64 import b64encode
from struct import pack
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprefill._deltas import Record
from aprefill._errors import LimitExceeded, ProtocolError, UsageError

from ..support.thorough import usually
from . import Decoder, Seen, assert_linear, by, cut_at, peak_bytes, run, shared, ways

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("botocore.eventstream", reason="botocore is not installed")
from aprefill._wire.eventstream import MAX_HEADER_BYTES, EventStreamDecoder

BOUND = 1_048_576


def sealed(headers: bytes, payload: bytes) -> bytes:
    """Return a frame around any bytes, with correct lengths and checksums."""
    prelude = pack("!II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + pack("!I", crc32(prelude)) + headers + payload
    return body + pack("!I", crc32(body))


def frame(payload: bytes, /, **headers: str) -> bytes:
    """Return a frame with string headers. `event_type="x"` stands for `:event-type: x`."""
    names = {":" + name.replace("_", "-"): value for name, value in headers.items()}
    block = b"".join(
        pack("!B", len(name)) + name.encode() + pack("!BH", 7, len(value.encode())) + value.encode()
        for name, value in names.items()
    )
    return sealed(block, payload)


def event(kind: str, payload: bytes) -> bytes:
    return frame(payload, event_type=kind, content_type="application/json", message_type="event")


def chunk(inner: bytes) -> bytes:
    return event("chunk", b'{"bytes":"%b","p":"abcd"}' % b64encode(inner))


STREAM = (
    event("messageStart", b'{"role":"assistant"}')
    + event("contentBlockDelta", b'{"delta":{"text":"h\xc3\xa9"}}')
    + chunk(b'{"type":"message_stop"}')
    + frame(b'{"message":"slow down"}', exception_type="throttlingException", message_type="exception")
)
RECORDS = [
    Record(b'{"role":"assistant"}', "messageStart"),
    Record(b'{"delta":{"text":"h\xc3\xa9"}}', "contentBlockDelta"),
    Record(b'{"type":"message_stop"}'),
    Record(b'{"message":"slow down"}', "throttlingException"),
]


def check_rules(new: Callable[[], Decoder]) -> None:
    for pieces in ways(STREAM):
        assert run(new(), pieces) == Seen(RECORDS)
    for end in range(1, 40):
        assert run(new(), [STREAM[:-end]]) == Seen(RECORDS[:-1])


def test_frames_become_records() -> None:
    """Event, chunk and exception frames give records, however the stream is cut. Half a frame at the end is ignored."""
    check_rules(EventStreamDecoder)


@pytest.mark.parametrize(
    ("stream", "record"),
    [
        (frame(b"{}", message_type="exception"), Record(b"{}", "Error")),
        (frame(b"{}", message_type="exception", exception_type="odd"), Record(b"{}", "oddError")),
        (
            frame(b"", message_type="error", error_code="InternalError", error_message='a "b"'),
            Record(b'{"message":"a \\"b\\""}', "InternalError"),
        ),
        (frame(b"", message_type="error", error_code="500"), Record(b'{"message":""}', "500Error")),
        (frame(b"x", message_type="error", error_code="ServerException"), Record(b"x", "ServerException")),
        (frame(b"x"), Record(b"x")),
        (frame(b"", message_type="event", event_type="ping"), Record(b"", "ping")),
        (sealed(b"\x0b:event-type\x04\x00\x00\x00\x07", b"x"), Record(b"x")),
    ],
)
def test_unusual_frames(stream: bytes, record: Record) -> None:
    """A failure's name always ends in "Exception" or "Error", whatever the host sends.

    Missing headers are empty names.
    """
    assert run(EventStreamDecoder(), [stream]) == Seen([record])


@pytest.mark.parametrize(
    "payload",
    b"""|{|[]|{}|{"bytes":1}|{"bytes":"%%%"}|{"bytes":"e30"}|\xff|{"bytes":"e30=""".split(b"|"),
)
def test_a_chunk_without_an_event(payload: bytes) -> None:
    """A chunk whose envelope holds no base64 is an error, raised after the records before it."""
    assert run(EventStreamDecoder(), [STREAM + event("chunk", payload)]) == Seen(RECORDS, error=ProtocolError)
    deep = b'{"p":' + b"[" * 200_000 + b'],"bytes":"e30="}'
    assert run(EventStreamDecoder(), [event("chunk", deep)]).error is ProtocolError


def test_every_damaged_byte_is_noticed() -> None:
    """No flipped byte ever makes a different record.

    The records before its frame come, then an error or a truncated stream.
    """
    for place in range(len(STREAM)):
        damaged = bytearray(STREAM)
        damaged[place] ^= 0x41
        seen = run(EventStreamDecoder(), [bytes(damaged)])
        assert seen.error is ProtocolError
        assert seen.records == RECORDS[: len(seen.records)]


@pytest.mark.parametrize("stream", [b"<html><body>Sign in", b'data: {"x":1}\n\n', b'{"message":"no"}', bytes(64)])
def test_other_formats(stream: bytes) -> None:
    """A login page, server-sent events, JSON and zeros raise an error at the twelfth byte."""
    assert run(EventStreamDecoder(), by(1, stream)).error is ProtocolError
    with pytest.raises(ProtocolError, match="not an AWS event stream"):
        EventStreamDecoder().feed(stream[:12])


def prelude(total: int, headers: int) -> bytes:
    lengths = pack("!II", total, headers)
    return lengths + pack("!I", crc32(lengths))


@pytest.mark.parametrize(
    ("start", "error"),
    [
        (prelude(BOUND, 0), None),
        (prelude(BOUND + 1, 0), LimitExceeded),
        (prelude(30_000_000, 0), LimitExceeded),
        (prelude(2**32 - 1, 2**32 - 1), LimitExceeded),
        (prelude(100_000, MAX_HEADER_BYTES), None),
        (prelude(100_000, MAX_HEADER_BYTES + 1), LimitExceeded),
        (prelude(0, 0), ProtocolError),
        (prelude(12, 0), ProtocolError),
        (prelude(15, 0), ProtocolError),
        (prelude(40, 25), ProtocolError),
        (prelude(40, 24), None),
    ],
)
def test_the_prelude_decides(start: bytes, error: type[Exception] | None) -> None:
    """A frame that is too large or impossible is refused at its twelfth byte, before it is collected."""
    assert run(EventStreamDecoder(), [start]) == Seen([], error=error)
    assert run(EventStreamDecoder(1 << 40), [prelude(30_000_000, 0)]).error is LimitExceeded


def test_nothing_complete_is_lost() -> None:
    """Records before an error are returned first. The next call raises the error, and so does every later one."""
    decoder = EventStreamDecoder()
    assert decoder.feed(STREAM + prelude(BOUND + 1, 0)) == RECORDS
    for _ in range(2):
        with pytest.raises(LimitExceeded, match="record_bytes = 1048576 bytes"):
            decoder.feed(STREAM)
    with pytest.raises(LimitExceeded):
        decoder.close()
    with pytest.raises(RuntimeError):
        decoder.close()
    with pytest.raises(RuntimeError):
        decoder.feed(STREAM)
    with pytest.raises(ValueError, match="at least 1"):
        EventStreamDecoder(0)


def test_without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without botocore the error says what to install."""
    monkeypatch.setitem(sys.modules, "botocore.eventstream", None)
    with pytest.raises(UsageError, match=r"pip install 'aprefill\[bedrock\]'"):
        EventStreamDecoder()


@pytest.mark.slow
def test_the_largest_frame_is_bounded() -> None:
    """A frame of exactly the bound is accepted in any pieces and takes at most 2.2 times its size in memory."""
    stream = frame(b"x" * (BOUND - 16))
    for size in (64, 4096, BOUND):
        taken, seen = peak_bytes(EventStreamDecoder(), by(size, stream))
        assert len(seen.records) == 1
        assert taken < 2.2 * BOUND, f"{taken:,} bytes"


header = st.builds(
    lambda name, kind, value: pack("!B", len(name)) + name + pack("!B", kind) + value,
    st.sampled_from([b":event-type", b":message-type", b":exception-type", b"\xff", b""]),
    st.integers(0, 12),
    st.binary(max_size=12)
    | st.sampled_from([b"\x00\x05chunk", b"\x00\x05error", b"\x00\x09exception", b"\x00\x05event"]),
)


@settings(derandomize=True, deadline=None, max_examples=usually(100, 200))
@given(
    st.lists(
        st.binary(max_size=30) | st.builds(sealed, st.lists(header).map(b"".join), st.binary(max_size=20)),
        max_size=4,
    ),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_any_bytes_and_any_cut(parts: list[bytes], where: list[int]) -> None:
    """Any bytes, with correct checksums or not, give records or aprefill's errors, the same at every cut."""
    stream = b"".join(parts)
    whole = run(EventStreamDecoder(), [stream])
    assert run(EventStreamDecoder(), cut_at(stream, where)) == whole
    assert run(EventStreamDecoder(), by(1, stream)) == whole


def spoken(form: str, record: Record) -> str:
    """Return the text in one record of a recording."""
    body: dict[str, Any] = json.loads(record.data)
    if form == "anthropic":
        return str(body.get("delta", {}).get("text", ""))
    return str(body.get("delta", {}).get("text", "")) if record.event == "contentBlockDelta" else ""


def test_the_recordings() -> None:
    """Bedrock's own streams give the same whole and in pieces, with the text of the index."""
    index = json.loads(shared("recordings/index.json").read_bytes())
    entries = [entry for entry in index if entry["framing"] == "eventstream"]
    assert entries
    for entry in entries:
        stream = shared("recordings/" + entry["file"]).read_bytes()
        whole = run(EventStreamDecoder(), [stream])
        assert whole.error is None
        for size in (1, 7, 4096):
            assert run(EventStreamDecoder(), by(size, stream)) == whole
        if entry["format"] in {"anthropic", "converse"}:
            assert "".join(spoken(entry["format"], record) for record in whole.records) == entry["text"]


SHAPES: dict[str, Callable[[int], list[bytes]]] = {
    "many frames in one piece": lambda n: [STREAM * 200 * n],
    "one frame in small pieces": lambda n: by(16, frame(b"x" * 300_000 * n)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_linear(shape: str) -> None:
    """Twice the bytes cost about twice the time."""
    assert_linear(EventStreamDecoder, SHAPES[shape])


class NoChecksum(EventStreamDecoder):
    """Returns a frame before its checksum has arrived."""

    def _take(self, data: bytes, out: list[Record]) -> None:
        super()._take(data, out)
        if not self._in_prelude and self._missing <= 4:
            out.append(RECORDS[-1])


class Straight:
    """botocore's own buffer, fed with the bytes as they arrive."""

    def __init__(self) -> None:
        self._buffer = EventStreamDecoder()._frame

    def feed(self, data: bytes) -> list[Record]:
        self._buffer.add_data(data)
        return [Record(message.payload) for message in self._buffer]

    def close(self) -> Record | None:
        return None


def test_controls() -> None:
    """The control: a decoder that ignores the checksum, and one that copies all it holds, fail the checks above."""
    with pytest.raises(AssertionError):
        check_rules(NoChecksum)
    with pytest.raises(AssertionError):
        assert_linear(Straight, lambda n: by(256, frame(b"x" * 400_000 * n)), tries=1)

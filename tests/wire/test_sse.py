from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aprefill._deltas import Record
from aprefill._errors import LimitExceeded
from aprefill._wire.sse import MAX_NAME_BYTES, SseDecoder

from ..support.thorough import usually
from . import Decoder, Seen, assert_linear, by, cut_at, peak_bytes, run, shared, ways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

BOUND = 1_048_576


def reference(data: bytes, bound: int = BOUND) -> Seen:
    """Decode a whole stream by the standard's algorithm, word for word and slowly, with the bounds."""
    if b"\xef\xbb\xbf".startswith(data):
        return Seen([])
    *lines, rest = re.split(rb"\r\n|\r|\n", data.removeprefix(b"\xef\xbb\xbf"))
    records: list[Record] = []
    buffer, event, last_id, size = b"", "", "", 0
    bare = b""

    def interpret(line: bytes) -> bool:
        nonlocal buffer, event, last_id, size, bare
        if line.startswith(b":"):
            return True
        size += len(line)
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            buffer += value + b"\n"
        elif field == b"event":
            event = value.decode(errors="replace")
        elif field == b"id" and b"\0" not in value:
            last_id = value.decode(errors="replace")
        else:
            if field != b"id" and (bare or (not buffer and line[:1] in {b"{", b"["})):
                bare += line
            return size <= bound
        return size <= bound and (field == b"data" or len(value) <= MAX_NAME_BYTES)

    for line in lines:
        if line:
            if not interpret(line):
                return Seen(records, error=LimitExceeded)
            continue
        if buffer:
            records.append(Record(buffer[:-1], event, last_id))
        buffer, event, size = b"", "", 0
    if not interpret(rest):
        return Seen(records, error=LimitExceeded)
    if not buffer and b'"error"' in bare:
        return Seen(records, Record(bare, "error", last_id))
    return Seen(records, Record(buffer[:-1], event, last_id) if buffer else None)


# --- the rules -------------------------------------------------------------------------------------------------

# (stream, records, what close() returns), each written by hand from the standard.
CASES: list[tuple[bytes, list[Record], Record | None]] = [
    (b"", [], None),
    (b"data: a\n\n", [Record(b"a")], None),
    (b"data:a\n\n", [Record(b"a")], None),
    (b"data:  a\n\n", [Record(b" a")], None),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [Record(b"a"), Record(b"b")], None),
    (b"data: a\r\rdata: b\r\r", [Record(b"a"), Record(b"b")], None),
    (b"data: a\r\n\rdata: b\n\r\n", [Record(b"a"), Record(b"b")], None),
    (b"data: a\r\ndata: b\r\n\r\n", [Record(b"a\nb")], None),
    (b"data: 1\ndata:2\ndata\ndata: \n\n", [Record(b"1\n2\n\n")], None),
    (b"event: x\ndata: a\n\ndata: b\n\n", [Record(b"a", "x"), Record(b"b")], None),
    (b"data: a\nevent: x\n\n", [Record(b"a", "x")], None),
    (b"event: x\nevent: y\ndata: a\n\n", [Record(b"a", "y")], None),
    (b"event: x\nevent\ndata: a\n\n", [Record(b"a")], None),
    (b"event: message\ndata: a\n\n", [Record(b"a", "message")], None),
    (b"event: data: a\ndata: b\n\n", [Record(b"b", "data: a")], None),
    (b"event: x\n\ndata: a\n\n", [Record(b"a")], None),
    (b"id: 7\n\ndata: a\n\n", [Record(b"a", "", "7")], None),
    (
        b"id: 7\ndata: a\n\nid: b\0d\ndata: b\n\nid\ndata: c\n\n",
        [Record(b"a", "", "7"), Record(b"b", "", "7"), Record(b"c")],
        None,
    ),
    (b"data: \n\n", [Record(b"")], None),
    (b"data\n\n", [Record(b"")], None),
    (b"\n\n\ndata: a\n\n\n\n", [Record(b"a")], None),
    (b": note\ndata: a\n: note\n\n:\n\n", [Record(b"a")], None),
    (b"retry: 9\nfoo: bar\nDATA: no\n data: no\ndata : no\ndata: a\n\n", [Record(b"a")], None),
    (b"\xef\xbb\xbfdata: a\n\n", [Record(b"a")], None),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [], None),
    (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Record(b"a")], None),
    (b"\xef\xbbdata: a\n\n", [], None),
    (b"event: \xff\nid: \xfe\ndata: \xff\n\n", [Record(b"\xff", "\ufffd", "\ufffd")], None),
    (
        b"data: a\xe2\x80\xa8b\xc2\x85c\x0bd\x0ce\x1cf\n\n",
        [Record(b"a\xe2\x80\xa8b\xc2\x85c\x0bd\x0ce\x1cf")],
        None,
    ),
    (b"data: a\n\ndata: b\n", [Record(b"a")], Record(b"b")),
    (b"data: a\n\nid: 3\nevent: x\ndata: b\ndata: c", [Record(b"a")], Record(b"b\nc", "x", "3")),
    (b"data: a\n\nevent: x\nid: 3", [Record(b"a")], None),
    (b"data: a\n\n: data", [Record(b"a")], None),
    (b"data: a\n: b", [], Record(b"a")),
    (b"\xef\xbb", [], None),
    # bare JSON between the events, which the standard ignores
    (
        b'data: a\r\n\r\n{\r\n  "error": {\r\n    "code": 503\r\n  }\r\n}\r\n',
        [Record(b"a")],
        Record(b'{  "error": {    "code": 503  }}', "error"),
    ),
    (b'data: a\n\n[{"error": {}}]', [Record(b"a")], Record(b'[{"error": {}}]', "error")),
    (b'data: a\n\n{"error": {}}\n\ndata: b\n', [Record(b"a")], Record(b"b")),
    (b'data: a\n\n{"choices": []}\n\n', [Record(b"a")], None),
    (b'data: a\n{"error": {}}\n\n', [Record(b"a")], None),
    (b'data: a\n\n  "error": {}\n', [Record(b"a")], None),
]


def check_rules(new: Callable[[], Decoder]) -> None:
    for stream, records, last in CASES:
        for pieces in ways(stream):
            assert run(new(), pieces) == Seen(records, last), pieces


def test_the_rules() -> None:
    """Every rule of the standard holds, however the stream is cut."""
    check_rules(SseDecoder)


def test_the_reference_knows_the_rules() -> None:
    """The reference decoder of the fuzz tests passes the same cases."""
    for stream, records, last in CASES:
        assert reference(stream) == Seen(records, last)


def test_the_shared_cases() -> None:
    """The cases of the web platform and of two libraries pass at their own cuts and byte by byte.

    Small ones are cut at every place.
    """
    cases: list[dict[str, Any]] = json.loads(shared("spec/sse-cases.json").read_bytes())
    assert len(cases) > 20
    for case in cases:
        own = [base64.b64decode(chunk) for chunk in case["chunks_b64"]]
        stream = b"".join(own)
        for pieces in [own, *(ways(stream) if len(stream) < 128 else (by(1, stream), by(7, stream)))]:
            seen = run(SseDecoder(), pieces)
            events = [[record.event or "message", record.data.decode(), record.id] for record in seen.records]
            assert events == case["events"], case["name"]


def test_the_recordings() -> None:
    """Recorded streams give the same whole, in network reads, and by the reference."""
    index: list[dict[str, Any]] = json.loads(shared("recordings/index.json").read_bytes())
    index = [entry for entry in index if entry["framing"] == "sse"]
    assert len(index) > 100
    for entry in index:
        stream = shared("recordings/" + entry["file"]).read_bytes()
        expected = reference(stream)
        assert expected.error is None
        if entry["undispatched"]:
            assert expected.last == Record(entry["undispatched"].encode(), "message_stop")
        assert run(SseDecoder(), [stream]) == expected, entry["file"]
        assert run(SseDecoder(), by(1460, stream)) == expected, entry["file"]


TOKENS = b"\r|\n|\r\n|\n\n|:| |\0|\xef|\xbb\xbf|\xef\xbb\xbf|\xff|0|d|data|event|id|retry".split(b"|")
TOKENS += b'data: |data: 0\n|event: v\n|event: n|id: 0|: note|{|"error"|['.split(b"|")
streams = st.lists(st.sampled_from(TOKENS), max_size=40).map(b"".join)
places = st.lists(st.integers(0, 400), max_size=8)


@settings(derandomize=True, deadline=None, max_examples=usually(200, 600))
@given(streams, places, st.sampled_from([1, 2, 5, 12, 30, BOUND]))
@example(b"\xef\xbb", [1], 1)
@example(b"data: 0\r\n\r\n", [8, 9, 10], 30)
def test_any_bytes_and_any_cut(stream: bytes, where: list[int], bound: int) -> None:
    """However any bytes are cut, they give the same as the reference and no later."""
    decoder = SseDecoder(bound)
    records: list[Record] = []
    before = b""
    for piece in cut_at(stream, where):
        before += piece
        expected = reference(before, bound)
        try:
            records += decoder.feed(piece)
        except LimitExceeded:
            assert expected.error is LimitExceeded
            break
        assert records == expected.records
    assert run(SseDecoder(bound), by(1, stream)) == reference(stream, bound)
    assert run(SseDecoder(bound), [stream]) == reference(stream, bound)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.binary(max_size=300), places)
def test_any_bytes_at_all(stream: bytes, where: list[int]) -> None:
    """Random bytes give records or one of aprefill's errors, and nothing else."""
    assert run(SseDecoder(), cut_at(stream, where)) == reference(stream)


def test_more_event_names_than_are_remembered() -> None:
    """A hundred event names in two rounds, one of them long, are all right, although the decoder caches fewer."""
    names = [*(f"event-{number}" for number in range(100)), "n" * 1000] * 2
    stream = b"".join(b"event: %b\ndata: x\n\n" % name.encode() for name in names)
    assert [record.event for record in SseDecoder().feed(stream)] == names


# --- the bounds ------------------------------------------------------------------------------------------------


def test_the_bound_is_exact() -> None:
    """A record of exactly the bound is accepted at every cut, one byte more is not.

    Line ends and comments do not count.
    """
    fits = b"id: 1\r\nevent: x\r\n: comment\r\ndata: 345\r\n\r\n"
    lines = len(b"id: 1" + b"event: x" + b"data: 345")
    for pieces in ways(fits * 2):
        assert run(SseDecoder(lines), pieces) == Seen([Record(b"345", "x", "1")] * 2)
    for pieces in ways(b"data: ok\n\n" + fits):
        assert run(SseDecoder(lines - 1), pieces) == Seen([Record(b"ok")], error=LimitExceeded)
    for pieces in ways(b"data: ok\n\n" + fits[:-4]):
        assert run(SseDecoder(lines - 1), pieces) == Seen([Record(b"ok")], error=LimitExceeded)


def test_nothing_complete_is_lost() -> None:
    """Records before a violation are returned first. The next call raises the error, and so does every later one."""
    decoder = SseDecoder(16)
    assert decoder.feed(b"data: a\n\ndata: b\n\ndata: 0123456789a\n\ndata: c\n\n") == [
        Record(b"a"),
        Record(b"b"),
    ]
    with pytest.raises(LimitExceeded, match=r"record_bytes = 16 bytes"):
        decoder.feed(b"")
    with pytest.raises(LimitExceeded):
        decoder.feed(b"data: d\n\n")
    with pytest.raises(LimitExceeded):
        decoder.close()
    with pytest.raises(RuntimeError):
        decoder.feed(b"data: d\n\n")
    with pytest.raises(LimitExceeded):
        SseDecoder(16).feed(b"data: 0123456789a")


@pytest.mark.parametrize("field", [b"event", b"id"])
def test_names_are_bounded(field: bytes) -> None:
    """An event name or id of 4096 bytes is accepted and a longer one is not, whether its record ends or not."""
    stream = b"data: a\n\n%b: %b\ndata: b\n\n"
    assert len(run(SseDecoder(), [stream % (field, b"n" * MAX_NAME_BYTES)]).records) == 2
    for size in (1, 1000, 10_000):
        pieces = by(size, stream % (field, b"n" * (MAX_NAME_BYTES + 1)))
        assert run(SseDecoder(), pieces) == Seen([Record(b"a")], error=LimitExceeded)
    assert run(SseDecoder(), [field, b": ", b"n" * (MAX_NAME_BYTES + 1)]).error is LimitExceeded


def test_closing() -> None:
    """After close(), calling feed() or close() raises an error, and so does a bound below one byte."""
    decoder = SseDecoder()
    assert decoder.close() is None
    with pytest.raises(RuntimeError):
        decoder.close()
    with pytest.raises(RuntimeError):
        decoder.feed(b"")
    with pytest.raises(ValueError, match="at least 1"):
        SseDecoder(0)


FLOODS: dict[str, list[bytes]] = {
    "one line": [b"data: ", *[b"x" * 64] * 40_000],
    "one line, large pieces": [b"data: ", *[b"x" * 65_536] * 40],
    "one line, one piece": [b"data: " + b"x" * 3_000_000],
    "data lines": [b"data: " + b"x" * 30 + b"\n"] * 40_000,
    "a line, then empty data lines": [b"data: " + b"x" * 900_000 + b"\n", *[b"data\n" * 500] * 100],
    "data lines with CRLF": [b"data: 0123456789012345\r\n" * 10_000] * 50,
    "unknown lines": [b"unknown: field\n" * 10_000] * 10,
    "id": [b"data: x\nid: ", *[b"\xf0\x9f\x98\x80" * 16] * 40_000],
    "event": [b"event: ", *[b"\xf0\x9f\x98\x80" * 1000] * 1000],
    "many ids": [b"id: " + b"7" * 4000 + b"\n"] * 1000,
    "a line, then short lines": [b"data: " + b"x" * 900_000 + b"\n", *[b"ab\n" * 10_000] * 20],
}


def check_bounded(new: Callable[[], Decoder], pieces: Iterable[bytes]) -> None:
    taken, seen = peak_bytes(new(), pieces)
    assert seen == Seen([], error=LimitExceeded)
    assert taken < 2 * BOUND, f"{taken:,} bytes"


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOODS)
def test_floods_are_bounded(kind: str) -> None:
    """An endless record exceeds the bound and takes less than twice the bound in memory."""
    check_bounded(SseDecoder, FLOODS[kind])


COMMENTS: dict[str, list[bytes]] = {
    "one line": [b":", *[b"x" * 4000] * 1000],
    "one line in an open record": [b"data: x\n:", *[b"x" * 4000] * 1000],
    "lines": [b": keep-alive\n" * 300] * 100,
    "lines with CRLF, cut": [b": keep-alive\r", b"\n"] * 10_000,
    "blocks": [b": keep-alive\n\n" * 300] * 100,
    "one piece": [b": " + b"x" * 3_000_000],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMENTS)
def test_comments_are_free(kind: str) -> None:
    """Endless comments neither exceed the bound nor take memory, and a record after them is returned."""
    taken, seen = peak_bytes(SseDecoder(65_536), [*COMMENTS[kind], b"\n\ndata: after\n\n"])
    assert seen.error is None
    assert seen.records[-1] == Record(b"after")
    assert taken < BOUND, f"{taken:,} bytes"


def test_the_largest_record() -> None:
    """A record of exactly the bound takes at most 2.1 times the bound in memory, the record included."""
    for stream in (b"data: " + b"x" * (BOUND - 6), b"data: 1\ndata: " + b"x" * (BOUND - 13)):
        pieces = by(4096, stream + b"\n\n")
        taken, seen = peak_bytes(SseDecoder(), pieces)
        assert len(seen.records) == 1
        assert taken < 2.1 * BOUND, f"{taken:,} bytes"


# --- the cost --------------------------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[int], list[bytes]]] = {
    "one event in small pieces": lambda n: [b"data: ", *[b"x" * 64] * 16_000 * n],
    "one event of many lines": lambda n: [b"data: x\n" * 8] * 2000 * n,
    "many records in one piece": lambda n: [b"data: {}\n\n" * 20_000 * n],
    "many records cut anywhere": lambda n: by(61, b"event: x\r\ndata: {}\r\n\r\n" * 4000 * n),
    "blank lines": lambda n: [b"\n" * 400_000 * n],
    "comments": lambda n: [b": x\r"] * 10_000 * n,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_linear(shape: str) -> None:
    """Twice the bytes cost about twice the time."""
    assert_linear(lambda: SseDecoder(1 << 30), SHAPES[shape])


# --- controls: broken decoders fail the checks above -----------------------------------------------------------


class LosesCr(SseDecoder):
    """Forgets that the last piece ended in CR, so that a cut CRLF ends two lines."""

    def _take(self, data: bytes, out: list[Record]) -> None:
        self._after_cr = False
        super()._take(data, out)


class Eager(SseDecoder):
    """Dispatches an open record at the end of every piece."""

    def feed(self, data: bytes) -> list[Record]:
        records = super().feed(data)
        self._run([b""], records)
        return records


class KeepsBom(SseDecoder):
    """Treats a BOM as part of the first field's name."""

    def __init__(self) -> None:
        super().__init__()
        self._start = None


class Rescans:
    """Correct but quadratic: keeps the stream in one bytes object and searches for the end from its start."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[Record]:
        self._held += data
        *blocks, self._held = self._held.split(b"\n\n")
        return [record for block in blocks for record in SseDecoder().feed(block + b"\n\n")]

    def close(self) -> Record | None:
        return None


@pytest.mark.parametrize("broken", [LosesCr, Eager, KeepsBom])
def test_control_broken_rules(broken: type[SseDecoder]) -> None:
    """The control: a decoder with one broken rule fails the check of the rules."""
    with pytest.raises(AssertionError):
        check_rules(broken)


@pytest.mark.parametrize("kind", ["one line, large pieces", "unknown lines"])
def test_control_unbounded(kind: str) -> None:
    """The control: a decoder without a bound fails the check of the bounds."""
    with pytest.raises(AssertionError):
        check_bounded(lambda: SseDecoder(1 << 40), FLOODS[kind])


def test_control_quadratic() -> None:
    """The control: a quadratic decoder fails the check of the cost."""
    with pytest.raises(AssertionError):
        assert_linear(Rescans, lambda n: [b"data: ", *[b"x" * 64] * 800 * n], tries=1)

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprefill._deltas import Record
from aprefill._errors import LimitExceeded
from aprefill._wire.ndjson import NdjsonDecoder

from ..support.thorough import usually
from . import SHARED, Decoder, Seen, assert_linear, by, cut_at, peak_bytes, run, shared, ways

if TYPE_CHECKING:
    from collections.abc import Callable

BOUND = 1_048_576


def reference(data: bytes, bound: int = BOUND) -> Seen:
    """Return the lines of a whole stream in a simple way.

    The CR of a cut CRLF at the end does not count as a part of the last line.
    """
    *lines, rest = data.split(b"\n")
    records: list[Record] = []
    for line in lines:
        text = line.removesuffix(b"\r")
        if len(text) > bound:
            return Seen(records, error=LimitExceeded)
        if text.strip():
            records.append(Record(text))
    text = rest.removesuffix(b"\r")
    if len(text) > bound:
        return Seen(records, error=LimitExceeded)
    return Seen(records, Record(text) if text.strip() else None)


CASES: list[tuple[bytes, list[bytes], bytes | None]] = [
    (b"", [], None),
    (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}'], None),
    (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}'], None),
    (b'\n\r\n \t\n{"a":1}\n\n\n', [b'{"a":1}'], None),
    (b' {"a":1} \n', [b' {"a":1} '], None),
    (b'{"a":\r1}\r\r\n', [b'{"a":\r1}\r'], None),
    (b'{"a":1}\n{"b"', [b'{"a":1}'], b'{"b"'),
    (b'{"a":1}\n{"b":2}\r', [b'{"a":1}'], b'{"b":2}'),
    (b'{"a":1}\n \r', [b'{"a":1}'], None),
    (b'"\xff\xe2\x80\xa8"\n', [b'"\xff\xe2\x80\xa8"'], None),
]


def check_rules(new: Callable[[], Decoder]) -> None:
    for stream, lines, last in CASES:
        for pieces in ways(stream):
            expected = Seen([Record(line) for line in lines], None if last is None else Record(last))
            assert run(new(), pieces) == expected, pieces


def test_the_rules() -> None:
    """Each line is a record and blank lines are skipped, however the stream is cut.

    The last line without a line end comes from close().
    """
    check_rules(NdjsonDecoder)
    for stream, lines, _ in CASES:
        assert [record.data for record in reference(stream).records] == lines


def test_the_recordings() -> None:
    """Recorded streams give the same byte by byte as whole."""
    shared("recordings/index.json")
    paths = sorted((SHARED / "recordings").glob("*/*.ndjson"))
    assert paths
    for path in paths:
        stream = path.read_bytes()
        expected = reference(stream)
        assert expected.records
        for pieces in ([stream], by(1, stream), by(1460, stream)):
            assert run(NdjsonDecoder(), pieces) == expected, path.name


TOKENS = [b"\r", b"\n", b"\r\n", b" ", b"\t", b"{}", b"0", b'"a"', b"\xff", b"\0", b"\x0b"]
streams = st.lists(st.sampled_from(TOKENS), max_size=40).map(b"".join) | st.binary(max_size=80)


@settings(derandomize=True, deadline=None, max_examples=usually(100, 300))
@given(streams, st.lists(st.integers(0, 100), max_size=8), st.sampled_from([1, 2, 3, 8, BOUND]))
def test_any_bytes_and_any_cut(stream: bytes, where: list[int], bound: int) -> None:
    """However any bytes are cut, they give the same as the reference and no later."""
    decoder = NdjsonDecoder(bound)
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
    assert run(NdjsonDecoder(bound), by(1, stream)) == reference(stream, bound)
    assert run(NdjsonDecoder(bound), [stream]) == reference(stream, bound)


def test_the_bound_is_exact() -> None:
    """A line of exactly the bound is accepted at every cut and with both line ends. One byte more is not."""
    for end in (b"\n", b"\r\n"):
        for pieces in ways(b'"345"' + end + b'"789"' + end):
            assert run(NdjsonDecoder(5), pieces) == Seen([Record(b'"345"'), Record(b'"789"')])
        for pieces in ways(b"1" + end + b'"345"' + end):
            assert run(NdjsonDecoder(4), pieces) == Seen([Record(b"1")], error=LimitExceeded)


def test_nothing_complete_is_lost() -> None:
    """Lines before a violation are returned first. The next call raises the error, and so does every later one."""
    decoder = NdjsonDecoder(4)
    assert decoder.feed(b"1\n2\n12345\n3\n") == [Record(b"1"), Record(b"2")]
    for _ in range(2):
        with pytest.raises(LimitExceeded, match=r"record_bytes = 4 bytes"):
            decoder.feed(b"")
    with pytest.raises(LimitExceeded):
        decoder.close()
    with pytest.raises(RuntimeError):
        decoder.close()
    with pytest.raises(RuntimeError):
        decoder.feed(b"4\n")
    with pytest.raises(ValueError, match="at least 1"):
        NdjsonDecoder(0)


FLOODS = {
    "small pieces": [b"x" * 64] * 20_000,
    "large pieces": [b"x" * 65_536] * 20,
    "one piece": [b"x" * 3_000_000],
    "white space": [b" \t\r" * 1000] * 400,
}


def check_bounded(new: Callable[[], Decoder], pieces: list[bytes]) -> None:
    taken, seen = peak_bytes(new(), pieces)
    assert seen == Seen([], error=LimitExceeded)
    assert taken < 2 * BOUND, f"{taken:,} bytes"


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOODS)
def test_floods_are_bounded(kind: str) -> None:
    """An endless line exceeds the bound and takes less than twice the bound in memory."""
    check_bounded(NdjsonDecoder, FLOODS[kind])


def test_blank_lines_are_free() -> None:
    """Endless blank lines neither exceed the bound nor take memory."""
    taken, seen = peak_bytes(NdjsonDecoder(), [*[b"\r\n \n" * 1000] * 500, b"1\n"])
    assert seen == Seen([Record(b"1")])
    assert taken < BOUND


SHAPES: dict[str, Callable[[int], list[bytes]]] = {
    "one line in small pieces": lambda n: [b"x" * 64] * 20_000 * n,
    "many lines in one piece": lambda n: [b"{}\r\n" * 40_000 * n],
    "many lines cut anywhere": lambda n: by(61, b'{"done":false}\n' * 8000 * n),
    "blank lines": lambda n: [b"\n" * 500_000 * n],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_linear(shape: str) -> None:
    """Twice the bytes cost about twice the time."""
    assert_linear(lambda: NdjsonDecoder(1 << 30), SHAPES[shape])


class KeepsCr(NdjsonDecoder):
    """Looks for a CR only in the piece with the LF, and so misses the CR of a cut CRLF."""

    def _take(self, data: bytes, out: list[Record]) -> None:
        held = self._partial.getvalue() if self._partial is not None else b""
        super()._take(data, out)
        if data.startswith(b"\n") and held.endswith(b"\r") and out:
            out[0] = Record(held)


class Eager(NdjsonDecoder):
    """Returns a line without its line end as a record."""

    def close(self) -> Record | None:
        super().close()
        return None

    def feed(self, data: bytes) -> list[Record]:
        return super().feed(data + b"\n")


@pytest.mark.parametrize("broken", [KeepsCr, Eager])
def test_control_broken_rules(broken: type[NdjsonDecoder]) -> None:
    """The control: a decoder with one broken rule fails the check of the rules."""
    with pytest.raises(AssertionError):
        check_rules(broken)


def test_control_unbounded() -> None:
    """The control: a decoder without a bound fails the check of the bound."""
    with pytest.raises(AssertionError):
        check_bounded(lambda: NdjsonDecoder(1 << 40), FLOODS["large pieces"])

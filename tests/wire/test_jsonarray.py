from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprefill._deltas import Record
from aprefill._errors import LimitExceeded
from aprefill._wire.jsonarray import MAX_JSON_BYTES, JsonArrayDecoder

from ..support.thorough import usually
from . import SHARED, Seen, assert_linear, by, cut_at, peak_bytes, run, shared, ways

if TYPE_CHECKING:
    from collections.abc import Callable

    from . import Decoder

BOUND = 262_144

#: stream, its elements, and what close() gives
CASES: list[tuple[bytes, list[bytes], bytes | None]] = [
    (b"", [], None),
    (b"[]", [], None),
    (b" \r\n[ \n] ", [], None),
    (b'[{"a":1},{"b":2}]', [b'{"a":1}', b'{"b":2}'], None),
    (b'[{\n  "a": 1\n}\n,\r\n{"b":2}\n]\n', [b'{\n  "a": 1\n}', b'{"b":2}'], None),
    (b'[{"a":[{"b":{}}]},[[1],2]]', [b'{"a":[{"b":{}}]}', b"[[1],2]"], None),
    (rb'[{"a":"]}, \"{["},{"\\":"\\\\"}]', [rb'{"a":"]}, \"{["}', rb'{"\\":"\\\\"}'], None),
    (b'[1, null ,"a,]" , -2.5e3\n]', [b"1", b"null", b'"a,]"', b"-2.5e3"], None),
    (b"[{},,{}]", [b"{}", b"{}"], None),
    (b"[{}{}]", [b"{}", b"{}"], None),
    (b'[{"a":"\xff\xe2\x80\xa8"}]', [b'{"a":"\xff\xe2\x80\xa8"}'], None),
    (b"[{}]{}, [{}] late", [b"{}"], None),
    (b'[{"a":1},{"b":', [b'{"a":1}'], b'{"b":'),
    (b'[{"a":"]', [], b'{"a":"]'),
    (b"[{},tru", [b"{}"], b"tru"),
    (b"[{},\n ", [b"{}"], None),
    (b'{"error":{}}', [], None),
    (b"<html>[{}]", [], None),
]


def check_rules(new: Callable[[], Decoder]) -> None:
    for stream, elements, last in CASES:
        for pieces in ways(stream):
            expected = Seen([Record(one) for one in elements], None if last is None else Record(last))
            assert run(new(), pieces) == expected, pieces


def test_the_rules() -> None:
    """There is one record per element, and close() returns an incomplete one, however the stream is cut."""
    check_rules(JsonArrayDecoder)


def test_control_brackets_in_strings() -> None:
    """The control: a decoder that does not know strings breaks the rules."""

    class Careless(JsonArrayDecoder):
        def _take(self, data: bytes, out: list[Record]) -> None:
            super()._take(data.replace(b'"', b" "), out)

    with pytest.raises(AssertionError):
        check_rules(Careless)


def test_an_element_comes_as_soon_as_it_is_complete() -> None:
    """It does not wait for the comma after it."""
    decoder = JsonArrayDecoder()
    assert decoder.feed(b'[{"a":1') == []
    assert decoder.feed(b"}") == [Record(b'{"a":1}')]
    assert decoder.feed(b",{}") == [Record(b"{}")]


def test_the_recordings() -> None:
    """The elements of every recorded array are those that the standard library reads, at every byte and as a whole."""
    shared("recordings/index.json")
    paths = sorted((SHARED / "recordings").glob("*/*.jsonarray"))
    assert len(paths) >= 9
    for path in paths:
        stream = path.read_bytes()
        for pieces in ([stream], by(1, stream), by(7, stream), by(4096, stream)):
            seen = run(JsonArrayDecoder(), pieces)
            assert [json.loads(record.data) for record in seen.records] == json.loads(stream)
            assert (seen.last, seen.error) == (None, None)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None, max_examples=usually(100, 300))
@given(
    st.lists(values, max_size=4), st.sampled_from([None, 0, 1]), st.booleans(), st.lists(st.integers(0, 99), max_size=6)
)
def test_any_array_and_any_cut(array: list[Any], indent: int | None, ascii_only: bool, where: list[int]) -> None:
    """The elements of an array are those that were written, in any layout and however it is cut."""
    stream = json.dumps(array, indent=indent, ensure_ascii=ascii_only).encode()
    seen = run(JsonArrayDecoder(), cut_at(stream, where))
    assert [json.loads(record.data) for record in seen.records] == array
    assert (seen.last, seen.error) == (None, None)


@settings(derandomize=True, deadline=None, max_examples=usually(100, 300))
@given(st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b",", b" ", b"1"]), max_size=30))
def test_any_bytes(tokens: list[bytes]) -> None:
    """Bytes that are no JSON give the same records in one piece and byte by byte, and no foreign error."""
    stream = b"[" + b"".join(tokens)
    whole = run(JsonArrayDecoder(), [stream])
    assert whole.error is None
    assert run(JsonArrayDecoder(), by(1, stream)) == whole


def test_the_bound_is_exact() -> None:
    """An element of exactly the bound passes at every cut; one byte more does not, and what was before it is kept."""
    for pieces in ways(b'["345" , {"789":1}]'):
        assert run(JsonArrayDecoder(9), pieces) == Seen([Record(b'"345"'), Record(b'{"789":1}')])
    for pieces in ways(b'[1, {"789":1}]'):
        assert run(JsonArrayDecoder(8), pieces) == Seen([Record(b"1")], error=LimitExceeded)


FLOODS = {
    "a string in small pieces": [b'["', *[b"x" * 64] * 5_000],
    "a string in one piece": [b'["' + b"x" * 3_000_000],
    "brackets": [b"[" * 65_536] * 5,
    "backslashes": [b'["', *[b"\\" * 65_536] * 5],
}


@pytest.mark.parametrize("pieces", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_is_bounded(pieces: list[bytes]) -> None:
    """A flood inside an element is `LimitExceeded` and takes little memory."""
    taken, seen = peak_bytes(JsonArrayDecoder(BOUND), pieces)
    assert seen == Seen([], error=LimitExceeded)
    assert taken < 2 * BOUND, f"{taken:,} bytes"


def test_white_space_and_commas_take_no_memory() -> None:
    """Between two elements nothing is held."""
    taken, seen = peak_bytes(JsonArrayDecoder(), [b"[{}", *[b" ,\n" * 1000] * 1000])
    assert seen == Seen([Record(b"{}")])
    assert taken < 100_000, f"{taken:,} bytes"


@pytest.mark.parametrize("byte", [b"x", b"[", b"\\"])
def test_small_pieces_cost_no_more_than_their_bytes(byte: bytes) -> None:
    """The time grows with the number of bytes, whatever they are."""
    assert_linear(lambda: JsonArrayDecoder(1 << 40), lambda times: [b'["', *[byte * 8] * (times * 10_000)])


def test_a_json_object_is_kept_for_the_error_in_it() -> None:
    """A body that begins like an object is no array: its beginning is kept, up to a limit."""
    for pieces in ways(b' \n{"error":{"code":400}}'):
        decoder = JsonArrayDecoder()
        for piece in pieces:
            assert decoder.feed(piece) == []
        assert not decoder.has_begun
        assert decoder.json_body == b'{"error":{"code":400}}'
    decoder = JsonArrayDecoder()
    decoder.feed(b"{" + b"x" * 2 * MAX_JSON_BYTES)
    decoder.feed(b"more")
    assert len(decoder.json_body) == MAX_JSON_BYTES
    array = JsonArrayDecoder()
    array.feed(b'[{"error":{}}]')
    assert array.json_body == b""
    assert array.has_begun

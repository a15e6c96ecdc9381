from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprefill._codecs import anthropic_messages, codec, openai_chat
from aprefill._codecs._json import UNREADABLE, Reader, dumps, loads, overlay
from aprefill._deltas import Record
from aprefill._errors import ProtocolError

from ..support.thorough import usually
from .grammar import anthropic_event, openai_chunk

READERS: dict[str, Reader[Any]] = {
    "anthropic_messages": anthropic_messages._READER,
    "openai_chat": openai_chat._READER,
}

#: Records that msgspec refuses and some hosts send.
REFUSED_RECORDS = {
    "lone surrogate": rb'{"usage":{"a":"\ud83d"}}',
    "NaN": b'{"usage":{"a":NaN}}',
    "Infinity": b'{"usage":{"a":-Infinity}}',
    "control character": b'{"usage":{"a":"x\ny"}}',
    "not UTF-8": b'{"usage":{"a":"x\xff"}}',
}


#: How many records are tried.
EXAMPLES = usually(100, 300)


def both(reader: Reader[Any], data: bytes) -> tuple[Any, Any]:
    """Return what the fast and the slow path make of a record. None means that the path refuses it."""
    try:
        fast = reader.fast(data)
    except UNREADABLE:
        fast = None
    try:
        slow = reader.slow(data)
    except ProtocolError:
        slow = None
    return fast, slow


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_the_two_paths_agree_on_json(reader: Reader[Any]) -> None:
    """If msgspec and the standard library both accept a record, they give the same struct."""
    compared = 0

    @given(st.one_of(openai_chunk, anthropic_event), st.booleans(), st.sampled_from(["", " ", "\n\t"]))
    @settings(derandomize=True, deadline=None, max_examples=EXAMPLES)
    def agree(value: Any, escaped: bool, space: str) -> None:
        nonlocal compared
        data = json.dumps(value, ensure_ascii=escaped, separators=("," + space, ":" + space)).encode(
            "utf-8", "surrogatepass"
        )
        fast, slow = both(reader, data)
        if fast is not None and slow is not None:
            assert fast == slow
            compared += 1

    agree()
    assert compared > EXAMPLES / 4


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_the_two_paths_agree_on_damaged_json(reader: Reader[Any]) -> None:
    """The two paths also agree on records in which a few bytes are removed, inserted or doubled."""
    compared = 0

    @given(st.one_of(openai_chunk, anthropic_event), st.data())
    @settings(derandomize=True, deadline=None, max_examples=EXAMPLES)
    def agree(value: Any, data: st.DataObject) -> None:
        nonlocal compared
        raw = bytearray(json.dumps(value).encode())
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(raw)))
            upto = data.draw(st.integers(at, min(len(raw), at + 8)))
            damage = [b"", b"0", b'"', b"\\u0041", b"\xc3\xa9", b",", b"null", bytes(raw[at:upto]) * 2]
            raw[at:upto] = data.draw(st.sampled_from(damage))
        fast, slow = both(reader, bytes(raw))
        if fast is not None and slow is not None:
            assert fast == slow
            compared += 1

    agree()
    assert compared > EXAMPLES / 10


def test_a_disagreement_would_be_seen() -> None:
    """The control: a reader whose slow path uses another struct fails the comparison."""

    class Other(msgspec.Struct):
        text: str = ""
        number: int = 7

    class One(msgspec.Struct):
        text: str = ""

    reader: Reader[Any] = Reader(One)
    reader._type = Other
    fast, slow = both(reader, b'{"text":"a"}')
    assert fast is not None
    assert fast != slow


@pytest.mark.parametrize("data", REFUSED_RECORDS.values(), ids=REFUSED_RECORDS)
def test_what_msgspec_refuses_is_read(data: bytes) -> None:
    """A lone surrogate, NaN, a control character and a bad byte are refused by msgspec and read by the slow path."""
    reader = READERS["openai_chat"]
    with pytest.raises(UNREADABLE):
        reader.fast(data)
    assert set(reader.read(data).usage) == {"a"}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    "data",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b'{"usage":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"usage":' + b"9" * 5_000 + b",}",
        b"",
        b"null",
        b"{",
        b'"text"',
        b"\xef\xbb\xbf{}",
    ],
    ids=["arrays", "objects", "a field", "digits", "nothing", "null", "half", "a string", "BOM"],
)
def test_the_rest_is_a_protocol_error(reader: Reader[Any], data: bytes) -> None:
    """JSON with 200,000 levels, half a record and no JSON at all raise `ProtocolError` and nothing else."""
    with pytest.raises(ProtocolError):
        reader.read(data)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "data",
    [
        b'{"text": "my secret prompt',
        b'{"choices": "my secret prompt", "delta": "my secret prompt"}',
        (
            b'{"choices": [{"delta": {"content": "secret \xff"}}], "delta": {"text": "secret \xff"}, '
            b'"index": "secret", "usage": }'
        ),
        rb'{"choices": ["secret \ud83d"], "delta": ["secret \ud83d"]}',
    ],
    ids=["half", "a wrong type", "a bad byte", "half a pair"],
)
def test_no_error_holds_the_record(name: str, data: bytes) -> None:
    """No message, attribute or chained error quotes the record, because it may contain the prompt."""
    with pytest.raises(ProtocolError) as caught:
        codec(name).decoder().decode(Record(data))
    assert not [error for error in chain(caught.value) if "secret" in told(error)]


def test_what_the_standard_library_raises_does_hold_it() -> None:
    """The control: the same check finds the record in the standard library's own errors."""
    for read in (
        lambda: json.loads('["secret'),
        lambda: b"secret\xff".decode(),
        lambda: "secret\ud83d".encode(),
    ):
        with pytest.raises((json.JSONDecodeError, UnicodeError)) as caught:
            read()
        assert "secret" in told(caught.value)


def chain(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *chain(error.__cause__), *chain(error.__context__)]


def told(error: BaseException) -> str:
    attributes = {
        name: getattr(error, name) for name in dir(error) if name not in {"__traceback__", "__cause__", "__context__"}
    }
    return f"{error} {error!r} {attributes}"


def test_loads_is_lenient_and_never_raises() -> None:
    """`loads` returns any JSON value, or None for anything else, and never raises."""
    assert loads(b'{"a": NaN}').keys() == {"a"}
    assert loads("[1") is None
    assert loads("[" * 200_000) is None
    assert loads("9" * 5_000) is None


def test_dumps_takes_what_json_can_hold() -> None:
    """`dumps` also writes integers beyond 64 bits, which msgspec refuses."""
    assert dumps({"a": [10**30, "é", None]}) == '{"a":[1000000000000000000000000000000,"é",null]}'


def test_overlay_replaces_adds_and_removes() -> None:
    """`overlay` replaces a field in its place and adds a new one at the end. None removes it.

    A field that was None before stays.
    """
    body = {"a": 1, "b": None, "c": {"x": 1}}
    assert list(overlay(body, {"c": {"y": 2}, "d": 4, "a": None}).items()) == [
        ("b", None),
        ("c", {"y": 2}),
        ("d", 4),
    ]
    assert body == {"a": 1, "b": None, "c": {"x": 1}}

"""Any record gives deltas or one of aprefill's two errors, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprefill._codecs import codec
from aprefill._deltas import EndDelta, ErrorDelta, FinishDelta, ReasoningDelta, Record, TextDelta, ToolDelta
from aprefill._errors import ProtocolError, Truncated

from ..support.thorough import usually
from . import DELTAS, turn_of
from .grammar import (
    anthropic_event,
    anything,
    awkward,
    cohere_event,
    gemini_record,
    ollama_piece,
    openai_chunk,
    responses_event,
)

if TYPE_CHECKING:
    from aprefill._codecs import Decoder
    from aprefill._deltas import Delta

SHAPES = {
    "anthropic_messages": anthropic_event,
    "cohere": cohere_event,
    "gemini": gemini_record,
    "ollama": ollama_piece,
    "openai_chat": openai_chunk,
    "openai_responses": responses_event,
}

events = st.sampled_from(
    [
        "",
        "",
        "",
        "message",
        "chunk",
        "error",
        "ping",
        "message_stop",
        "response.output_text.delta",
        "throttlingException",
        "other",
    ]
)


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


payloads = {
    name: st.one_of(
        shape.map(as_bytes),
        shape.map(as_bytes),
        anything.map(as_bytes),
        st.binary(max_size=30),
        awkward.map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.just(b"[DONE]"),
        st.sampled_from(
            [
                b"[" * 200_000,
                b'{"delta":' * 200_000,
                b'{"choices":[{"delta":' * 70_000,
                b'{"content_block":{"a":' * 100_000,
                b'{"message":{"tool_calls":[{"function":{"arguments":' * 50_000,
                b'{"item":{"a":' * 100_000,
                b'{"candidates":[{"content":{"parts":[{"a":' * 40_000,
            ]
        ),
    )
    for name, shape in SHAPES.items()
}


def drive(decoder: Decoder, records: list[Record], last: Record | None) -> list[Delta]:
    """Return all deltas of a stream that may break anywhere.

    Fails on any other error, and on a delta after an end.
    """
    seen: list[Delta] = []
    over = False
    for record in records:
        try:
            deltas = decoder.decode(record)
        except (ProtocolError, Truncated):
            break
        assert not (over and deltas), "a delta came after the end"
        over = over or any(type(delta) in {EndDelta, ErrorDelta} for delta in deltas)
        seen += deltas
    try:
        seen += decoder.close(last)
    except (ProtocolError, Truncated):
        assert not over, "a cut after the end"
    return seen


def check(deltas: list[Delta]) -> None:
    ends = [number for number, delta in enumerate(deltas) if type(delta) in {EndDelta, ErrorDelta}]
    assert ends in ([], [len(deltas) - 1]), "there is at most one end, and it is last"
    for delta in deltas:
        assert isinstance(delta, DELTAS)
        if isinstance(delta, TextDelta | ReasoningDelta):
            assert delta.text
            delta.text.encode()
        elif isinstance(delta, ToolDelta):
            f"{delta.id}{delta.name}{delta.arguments}".encode()
        elif isinstance(delta, ErrorDelta):
            assert 200 <= delta.status <= 599
            assert len(delta.detail) <= 3000
            f"{delta.error_type}{delta.detail}".encode()
        elif isinstance(delta, FinishDelta):
            f"{delta.raw}{delta.sequence}".encode()


@pytest.mark.parametrize("name", SHAPES)
@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=usually(100, 300))
def test_any_records_give_deltas_or_our_errors(name: str, data: st.DataObject) -> None:
    """Wrong types, missing fields, invalid JSON and 200,000 levels give only deltas or aprefill's errors.

    The records come in any order with any event name. After them the turn can be made and encoded as JSON.
    """
    record = st.builds(Record, payloads[name], events)
    decoder = codec(name).decoder()
    deltas = drive(decoder, data.draw(st.lists(record, max_size=6)), data.draw(st.one_of(st.none(), record)))
    check(deltas)
    for cut in range(len(deltas) + 1):
        json.dumps(turn_of(name, deltas[:cut]), ensure_ascii=False).encode()


def test_the_check_sees_a_foreign_error() -> None:
    """The control: a decoder that reads fields without a check fails the test."""

    class Careless:
        def decode(self, record: Record) -> Any:
            return [TextDelta(json.loads(record.data)["choices"][0]["delta"]["content"])]

    with pytest.raises(KeyError):
        drive(Careless(), [Record(b"{}")], None)


def test_the_check_sees_text_after_the_end() -> None:
    """The control: a decoder that continues after its end fails the test."""

    class Endless:
        def decode(self, record: Record) -> Any:
            return [EndDelta()] if record.data == b"[DONE]" else [TextDelta("x")]

        def close(self, undispatched: Record | None = None) -> Any:
            return []

    with pytest.raises(AssertionError, match="after the end"):
        drive(Endless(), [Record(b"[DONE]"), Record(b"{}")], None)

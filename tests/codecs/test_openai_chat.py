from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aprefill._codecs.openai_chat import CODEC, FAILURES, STOP_REASONS, OpenAIChatDecoder
from aprefill._deltas import EndDelta, FinishDelta, ModelInput, ReasoningDelta, TextDelta, ToolDelta, UsageDelta
from aprefill._errors import ProtocolError, Truncated
from aprefill._types import StopReason, Usage

from . import calls, decode, feed, only, reasoning, record, text, turn_of
from .chat import DONE, NAME, STOP, chunk


def piece(
    index: int | None = 0, id_: str | None = None, name: str | None = None, arguments: Any = None
) -> dict[str, Any]:
    return {"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def called(*pieces: Any) -> dict[int, tuple[str, str, str]]:
    return calls(decode(NAME, *(chunk(tool_calls=[one]) for one in pieces), chunk("tool_calls"), DONE))


# --- the request ----------------------------------------------------------------------------------------------


def body(**fields: Any) -> bytes:
    return msgspec.json.encode(
        CODEC.encode(ModelInput(**{"model": "m", "messages": ({"role": "user", "content": "Hi"},), **fields}))
    )


def test_a_small_request_byte_by_byte() -> None:
    """The order and the spelling of the fields are fixed, and usage is requested."""
    assert body() == (
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true,'
        b'"stream_options":{"include_usage":true}}'
    )


def test_a_full_request_byte_by_byte() -> None:
    """Every argument has its field. The system message comes first, and turns are sent unchanged."""
    assert body(
        system="S",
        messages=(
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": "{", "prefix": True},
        ),
        max_tokens=5,
        stop=("a",),
        temperature=0.5,
        thinking={"type": "disabled"},
        tools=({"type": "function"},),
        response_format={"type": "json_object"},
        fields={"top_p": 1},
    ) == (
        b'{"model":"m","messages":[{"role":"system","content":"S"},'
        b'{"role":"user","content":[{"type":"text","text":"x"}]},'
        b'{"role":"assistant","content":"{","prefix":true}],"max_tokens":5,"stop":["a"],"temperature":0.5,'
        b'"thinking":{"type":"disabled"},"tools":[{"type":"function"}],"response_format":{"type":"json_object"},'
        b'"stream":true,"stream_options":{"include_usage":true},"top_p":1}'
    )


def test_the_token_limit_goes_where_the_row_says() -> None:
    """The token limit is sent as max_tokens or as max_completion_tokens, as the row says."""
    assert CODEC.encode(ModelInput(model="m", messages=(), max_tokens=5))["max_tokens"] == 5
    new = CODEC.encode(ModelInput(model="m", messages=(), max_tokens=5, token_field="max_completion_tokens"))
    assert new["max_completion_tokens"] == 5
    assert "max_tokens" not in new


def test_fields_win_and_none_removes() -> None:
    """None removes a field: Mistral refuses stream_options, so its row removes it."""
    assert body(fields={"stream_options": None, "stream": False}) == (
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":false}'
    )


# --- the reply ------------------------------------------------------------------------------------------------


def test_a_whole_stream() -> None:
    """Role, text, finish reason, usage after it and the end come in the host's order."""
    usage = {"prompt_tokens": 9, "completion_tokens": 3}
    deltas = decode(
        NAME,
        chunk(role="assistant", content=""),
        chunk(content="Hel"),
        chunk(content="lo"),
        STOP,
        {"choices": [], "usage": usage},
        DONE,
    )
    assert deltas == [
        TextDelta("Hel"),
        TextDelta("lo"),
        FinishDelta(StopReason.END, "stop"),
        UsageDelta(Usage(input_tokens=9, output_tokens=3)),
        EndDelta(),
    ]


def test_a_record_gives_its_deltas_in_one_order() -> None:
    """The deltas of one record come in the order reasoning, text, calls, finish reason."""
    one = chunk("stop", content="b", reasoning="a", tool_calls=[piece(0, "i", "f", "{}")])
    assert [type(delta) for delta in decode(NAME, one)] == [
        ReasoningDelta,
        TextDelta,
        ToolDelta,
        FinishDelta,
        EndDelta,
    ]


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning": "Hm"},
        {"reasoning_content": "Hm"},
        {"reasoning": "Hm", "reasoning_content": "Hm"},
        {"reasoning": "Hm", "reasoning_content": None},
        {"reasoning": "Hm", "reasoning_content": ""},
        {"reasoning_content": [{"type": "text", "text": "Hm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]},
        {"content": [{"type": "thinking", "thinking": "Hm"}]},
    ],
    ids=str,
)
def test_reasoning_in_every_field(delta: Any) -> None:
    """Reasoning is read once, whatever the field's name. Two fields with the same text count once."""
    deltas = decode(NAME, chunk(**delta), STOP, DONE)
    assert (reasoning(deltas), text(deltas)) == ("Hm", "")


def test_content_as_a_list() -> None:
    """A list as content, as Mistral sends it, gives text and thinking in their order. References carry no text."""
    parts = [
        {
            "type": "thinking",
            "thinking": [{"type": "text", "text": "a"}, {"type": "reference", "reference_ids": [1]}],
            "closed": True,
        },
        {"type": "text", "text": "b"},
        {"type": "reference", "reference_ids": [1]},
        "c",
        {"type": "future"},
    ]
    deltas = decode(NAME, chunk(content=parts), chunk(content=[]), STOP, DONE)
    assert deltas[:3] == [ReasoningDelta("a"), TextDelta("b"), TextDelta("c")]
    assert len(deltas) == 5


@pytest.mark.parametrize(
    "event",
    [
        {"choices": []},
        {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
        {"choices": None},
        {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}}]},
        {"choices": [{}]},
        {
            "choices": [
                {
                    "delta": {"content": None, "tool_calls": None, "function_call": None, "refusal": None},
                    "finish_reason": "",
                }
            ]
        },
        {
            "choices": [{"delta": {"content": ""}, "logprobs": {"content": [{"token": "x"}]}, "future": {"a": [1]}}],
            "usage": None,
        },
        {"type": "ping"},
        {"object": "moderation", "flagged": False},
        {"usage": {"total_tokens": 0}},
        b"",
        b"  ",
    ],
    ids=str,
)
def test_records_without_news_are_tolerated(event: Any) -> None:
    """Empty choices, null deltas, and unknown fields and events are ignored."""
    assert [*OpenAIChatDecoder().decode(record(event))] == []


def test_named_events_of_the_hosts_own_are_tolerated() -> None:
    """A record with an SSE event name of the host's own is ignored. With a default name it is not."""
    assert [*OpenAIChatDecoder().decode(record({"x": 1}, "sources"))] == []
    for name in ("", "message"):
        with pytest.raises(ProtocolError):
            OpenAIChatDecoder().decode(record({"x": 1}, name))


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"id": "c", "object": "chat.completion.chunk"},
        {"choices": {}},
        {"choices": [[]]},
        {"choices": [{"delta": []}]},
        {"choices": [{"delta": {"content": 5}}]},
        {"choices": [{"delta": {"content": [{"type": "text"}]}}]},
        [],
        b"null",
        b"[DONE",
        b'{"choices":[{"delta":{"content":"x"}}]',
    ],
    ids=str,
)
def test_a_missing_or_wrong_needed_field_is_a_protocol_error(event: Any) -> None:
    """A required field that is missing or wrong raises `ProtocolError`, no other error, and is never ignored."""
    with pytest.raises(ProtocolError):
        OpenAIChatDecoder().decode(record(event))


def test_choice_zero_is_the_reply() -> None:
    """With n > 1 only choice 0 is read: the text, calls and finish reason of others are ignored.

    The stream is not complete before choice 0 is.
    """
    other = chunk("stop", index=1, content="B", tool_calls=[piece(0, "i", "f", "{}")])
    both = {"choices": [other["choices"][0], chunk(content="A")["choices"][0]]}
    decoder = OpenAIChatDecoder()
    assert feed(decoder, [both]) == [TextDelta("A")]
    with pytest.raises(Truncated):
        decoder.close()
    assert text(decode(NAME, both, STOP, DONE)) == "A"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
            Usage(input_tokens=9, output_tokens=3),
        ),
        (
            {
                "prompt_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            Usage(input_tokens=9, cache_read_tokens=4, cache_write_tokens=1, reasoning_tokens=2),
        ),
        ({"prompt_cache_hit_tokens": 5, "prompt_tokens_details": None}, Usage(cache_read_tokens=5)),
        ({"cached_tokens": 5}, Usage(cache_read_tokens=5)),
        (
            {"cache_read_input_tokens": 5, "cache_creation_input_tokens": 6},
            Usage(cache_read_tokens=5, cache_write_tokens=6),
        ),
        (
            {"prompt_tokens": None, "completion_tokens": -1, "completion_tokens_details": [], "cost": 0.1},
            None,
        ),
        ([], None),
        ("many", None),
    ],
)
def test_usage_in_every_shape(usage: Any, expected: Usage | None) -> None:
    """Usage is read at the top level, under x_groq and in the choice. A value that is no count is ignored."""
    records = [
        {"choices": [], "usage": usage},
        {"choices": [], "x_groq": {"id": "r", "usage": usage}},
        {"x_groq": {"usage": usage}},
        {"choices": [{"delta": {}, "usage": usage}]},
    ]
    for one in records:
        found = only(UsageDelta, OpenAIChatDecoder().decode(record(one)))
        assert found == ([] if expected is None else [UsageDelta(expected)])


# --- finish reasons -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        *(
            ("stop", "end"),
            ("length", "max_tokens"),
            ("tool_calls", "tool_use"),
            ("function_call", "tool_use"),
        ),
        *(
            ("content_filter", "refusal"),
            ("model_length", "context_window"),
            ("new_word", "other"),
            ("eos", "end"),
        ),
    ],
)
def test_stop_reasons(word: str, reason: str) -> None:
    """A known finish reason becomes a `StopReason`, an unknown one OTHER. The host's word is kept."""
    assert only(FinishDelta, decode(NAME, chunk(word), DONE)) == [FinishDelta(StopReason(reason), word)]


def test_no_failure_is_a_stop_reason() -> None:
    """No word means both a failure and a stop reason."""
    assert not FAILURES & STOP_REASONS.keys()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("stop_reason", "\n\n", FinishDelta(StopReason.STOP_SEQUENCE, "stop", "\n\n")),
        ("matched_stop", "END", FinishDelta(StopReason.STOP_SEQUENCE, "stop", "END")),
        ("stop_reason", 128009, FinishDelta(StopReason.END, "stop")),
        ("stop_reason", None, FinishDelta(StopReason.END, "stop")),
        ("matched_stop", 2, FinishDelta(StopReason.END, "stop")),
    ],
)
def test_engines_that_tell_the_stop_sequence(field: str, value: Any, expected: FinishDelta) -> None:
    """vLLM's stop_reason and SGLang's matched_stop: a str is the stop sequence, a number is a token of the model."""
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", field: value}
    assert only(FinishDelta, decode(NAME, {"choices": [choice]}, DONE)) == [expected]


def test_a_refusal_is_text_and_its_reason() -> None:
    """A refusal is given as text with the reason REFUSAL, because the reply would be empty otherwise.

    The host's word stays "stop".
    """
    deltas = decode(NAME, chunk(refusal="I can"), chunk(refusal="not"), STOP, DONE)
    assert text(deltas) == "I cannot"
    assert only(FinishDelta, deltas) == [FinishDelta(StopReason.REFUSAL, "stop")]


def test_a_repeated_finish_is_told_again() -> None:
    """A finish reason that is repeated, as OpenRouter does with the usage, gives a second delta.

    The stream continues to [DONE].
    """
    last = {**chunk("stop", content=""), "usage": {"prompt_tokens": 1}}
    deltas = decode(NAME, chunk(content="x"), STOP, last, DONE)
    assert [type(delta) for delta in deltas] == [TextDelta, FinishDelta, FinishDelta, UsageDelta, EndDelta]


# --- tool calls -----------------------------------------------------------------------------------------------


def test_pieces_of_a_call_are_joined() -> None:
    """Id and name are given once, the arguments in pieces, and null values are ignored."""
    assert called(
        piece(0, "i", "f", ""),
        piece(0, None, None, '{"a"'),
        piece(0, None, None, None),
        piece(0, "", "", ":1}"),
    ) == {0: ("i", "f", '{"a":1}')}


def test_a_host_that_repeats_id_and_name() -> None:
    """If a host repeats id and name, only the first delta has them, so that joining does not double them."""
    assert called(piece(0, "i", "f", ""), piece(0, "i", "f", "{"), piece(0, "i", "f", "}")) == {0: ("i", "f", "{}")}


@pytest.mark.parametrize("indices", [(0, 1), (0, 0), (None, None), (1, 0)], ids=str)
def test_two_calls(indices: tuple[int | None, int | None]) -> None:
    """Calls are numbered in the order in which they come, whatever index the host gives."""
    a, b = indices
    assert called(piece(a, "i", "f", "{}"), piece(b, "j", "g", "[]")) == {
        0: ("i", "f", "{}"),
        1: ("j", "g", "[]"),
    }


def test_two_calls_without_index_or_id() -> None:
    """Without index and id, a name begins a new call, and a piece without a name continues the last one."""
    pieces = [piece(None, None, "f", "{"), piece(None, None, None, "}"), piece(None, None, "g", "{}")]
    assert called(*pieces) == {0: ("", "f", "{}"), 1: ("", "g", "{}")}


def test_calls_that_alternate() -> None:
    """Pieces of calls that alternate are assigned by their index."""
    pieces = [
        piece(0, "i", "f", "{"),
        piece(1, "j", "g", "["),
        piece(0, None, None, "}"),
        piece(1, None, None, "]"),
    ]
    assert called(*pieces) == {0: ("i", "f", "{}"), 1: ("j", "g", "[]")}


def test_arguments_as_an_object() -> None:
    """Arguments sent as an object instead of text become JSON text."""
    assert called(piece(0, "i", "f", {"a": [1, "é"]})) == {0: ("i", "f", '{"a":[1,"é"]}')}


def test_a_legacy_function_call() -> None:
    """The legacy delta.function_call is read as the only tool call."""
    deltas = decode(
        NAME,
        chunk(function_call={"name": "f", "arguments": ""}),
        chunk(function_call={"arguments": "{}"}),
        chunk("function_call"),
        DONE,
    )
    assert calls(deltas) == {0: ("", "f", "{}")}
    assert only(FinishDelta, deltas)[0].reason is StopReason.TOOL_USE


# --- the turn for the next request ----------------------------------------------------------------------------


def test_the_turn_to_send_back() -> None:
    """The turn has the whole text, and calls with their arguments as text.

    Without text beside calls the content is None. Reasoning is left out.
    """
    decoder = OpenAIChatDecoder()
    deltas = feed(decoder, [chunk(reasoning="Hm", content="x")])
    assert turn_of(NAME, deltas, "{") == {"role": "assistant", "content": "{x"}
    assert turn_of(NAME, []) == {"role": "assistant", "content": ""}
    called = feed(
        decoder,
        [
            chunk(tool_calls=[piece(0, "i", "f", '{"a":'), piece(1, "j", "g", "")]),
            chunk(tool_calls=[piece(0, None, None, "1")]),
        ],
    )
    made = [
        {"id": "i", "type": "function", "function": {"name": "f", "arguments": '{"a":1'}},
        {"id": "j", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert turn_of(NAME, [*deltas, *called]) == {"role": "assistant", "content": "x", "tool_calls": made}
    assert turn_of(NAME, called)["content"] is None


# --- whole replies inside a stream ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"role": "assistant", "content": "whole"}},
        {"text": "whole"},
        {"delta": {"content": [{"type": "output_text", "text": "whole"}]}},
        {"delta": {"content": ["whole"]}},
    ],
    ids=["message", "text", "unknown-part", "bare-part"],
)
def test_a_reply_in_another_shape_is_not_lost(choice: dict[str, Any]) -> None:
    """A whole reply inside a stream, or one of the completions API, as gateways send them, loses no text."""
    deltas = decode(NAME, {"choices": [{"index": 0, **choice, "finish_reason": "stop"}]}, DONE)
    assert text(deltas) == "whole"
    assert type(deltas[-1]) is EndDelta

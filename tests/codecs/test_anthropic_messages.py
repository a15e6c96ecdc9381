from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest

from aprefill._codecs.anthropic_messages import CODEC, STOP_REASONS, AnthropicDecoder
from aprefill._deltas import (
    BlockDelta,
    EndDelta,
    FinishDelta,
    ModelInput,
    ReasoningDelta,
    TextDelta,
    ToolDelta,
    UsageDelta,
)
from aprefill._errors import ProtocolError, Truncated, UsageError
from aprefill._types import StopReason

from . import calls, decode, feed, only, reasoning, record, text, turn_of
from .messages import STOP, WHOLE, block, delta, end, finish, said, start

NAME = "anthropic_messages"


# --- the request ----------------------------------------------------------------------------------------------


def body(**fields: Any) -> bytes:
    fields = {"model": "claude", "messages": ({"role": "user", "content": "Hi"},), "max_tokens": 5, **fields}
    return msgspec.json.encode(CODEC.encode(ModelInput(**fields)))


def test_a_small_request_byte_by_byte() -> None:
    """The order and the spelling of the fields are fixed."""
    assert body() == b'{"model":"claude","max_tokens":5,"messages":[{"role":"user","content":"Hi"}],"stream":true}'


def test_a_full_request_byte_by_byte() -> None:
    """Every argument has its field. A list as content and an assistant turn with the prefill are sent unchanged."""
    parts = [{"type": "text", "text": "x"}]
    assert body(
        system="S",
        messages=({"role": "user", "content": parts}, {"role": "assistant", "content": "{"}),
        stop=("a", "b"),
        temperature=0.0,
        thinking={"type": "disabled"},
        tools=({"name": "t"},),
        response_format={"type": "json_schema", "schema": {}},
        fields={"top_k": 3},
    ) == (
        b'{"model":"claude","max_tokens":5,"system":"S",'
        b'"messages":[{"role":"user","content":[{"type":"text","text":"x"}]},'
        b'{"role":"assistant","content":"{"}],"stop_sequences":["a","b"],"temperature":0.0,'
        b'"thinking":{"type":"disabled"},'
        b'"tools":[{"name":"t"}],"output_config":{"format":{"type":"json_schema","schema":{}}},"stream":true,"top_k":3}'
    )


def test_fields_win_and_none_removes() -> None:
    """The fields of the row and of the caller replace aprefill's in place, and None removes a field.

    For example Vertex takes no `model`.
    """
    assert body(fields={"model": None, "anthropic_version": "v", "max_tokens": 7, "stream": False}) == (
        b'{"max_tokens":7,"messages":[{"role":"user","content":"Hi"}],"stream":false,"anthropic_version":"v"}'
    )


def test_leading_system_messages_become_the_system_field() -> None:
    """Only leading system messages move to the `system` field, because the protocol's list has no system role.

    Blocks stay blocks.
    """
    system, user = {"role": "system", "content": "B"}, {"role": "user", "content": "Hi"}
    one = CODEC.encode(ModelInput(model="c", messages=(system, user, system), system="A", max_tokens=1))
    assert one["system"] == "A\n\nB"
    assert one["messages"] == [user, system]
    blocks = {
        "role": "system",
        "content": [{"type": "text", "text": "C", "cache_control": {"type": "ephemeral"}}],
    }
    two = CODEC.encode(ModelInput(model="c", messages=(blocks, system, user), max_tokens=1))
    assert two["system"] == [*blocks["content"], {"type": "text", "text": "B"}]
    assert "system" not in CODEC.encode(ModelInput(model="c", messages=(user,), max_tokens=1))


def test_without_a_token_limit_nothing_is_sent() -> None:
    """Without max_tokens, which the protocol demands, `UsageError` is raised. `fields` may supply it."""
    call = ModelInput(model="c", messages=())
    with pytest.raises(UsageError, match="max_tokens"):
        CODEC.encode(call)
    with pytest.raises(UsageError, match="max_tokens"):
        CODEC.encode(ModelInput(model="c", messages=(), max_tokens=3, fields={"max_tokens": None}))
    assert CODEC.encode(ModelInput(model="c", messages=(), fields={"max_tokens": 3}))["max_tokens"] == 3


# --- the reply ------------------------------------------------------------------------------------------------


def test_a_whole_stream() -> None:
    """Reasoning, text, a tool call, usage, the stop reason and the end come in the host's order.

    Usage is merged as it grows.
    """
    decoded = decode(NAME, *WHOLE)
    assert [delta.step for delta in only(BlockDelta, decoded)] == ["start", "signature", "stop"]
    deltas = [delta for delta in decoded if not isinstance(delta, BlockDelta)]
    assert [type(delta) for delta in deltas] == [
        *(UsageDelta, ReasoningDelta, TextDelta, TextDelta),
        *(ToolDelta, ToolDelta, ToolDelta, UsageDelta, FinishDelta, EndDelta),
    ]
    assert (text(deltas), reasoning(deltas)) == ("Hello there", "Hm.")
    assert calls(deltas) == {0: ("t1", "look", '{"a":1}')}
    usage = only(UsageDelta, deltas)[-1].usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (9, 30, 4)
    assert only(FinishDelta, deltas) == [FinishDelta(StopReason.TOOL_USE, "tool_use", None)]


def test_every_stop_reason_of_the_sdk_is_known() -> None:
    """Every stop reason of the installed SDK is known. A new one becomes OTHER, and its word is kept."""
    words = get_args(pytest.importorskip("anthropic.types").StopReason)
    assert "end_turn" in words
    # older SDKs know fewer
    assert set(words) <= set(STOP_REASONS)
    for word in words:
        (found,) = only(FinishDelta, decode(NAME, finish(word), STOP))
        assert found.reason is not StopReason.OTHER
    assert only(FinishDelta, decode(NAME, finish("new_word"), STOP)) == [FinishDelta(StopReason.OTHER, "new_word")]


def test_the_stop_sequence_is_told() -> None:
    """The stop reason comes with the stop sequence that matched."""
    assert only(FinishDelta, decode(NAME, finish("stop_sequence", "\n\n"), STOP))[0].sequence == "\n\n"


def test_usage_takes_what_is_there() -> None:
    """Cache and thinking tokens are read.

    A value that is no count is ignored, and usage without counts gives no delta.
    """
    odd = {
        "cache_creation_input_tokens": 2,
        "output_tokens_details": {"thinking_tokens": 6},
        "input_tokens": "9",
        "output_tokens": True,
    }
    (found,) = only(UsageDelta, decode(NAME, {"type": "message_delta", "usage": odd}, STOP))
    assert msgspec.to_builtins(found.usage) == {
        "input_tokens": None,
        "output_tokens": None,
        "cache_read_tokens": None,
        "cache_write_tokens": 2,
        "reasoning_tokens": 6,
        "echo_tokens": None,
    }
    assert only(UsageDelta, decode(NAME, start(usage={}), start(usage=[1]), STOP)) == []


def test_unknown_things_are_tolerated() -> None:
    """Unknown events, deltas, blocks and fields, an empty payload and a gateway's [DONE] are ignored."""
    deltas = decode(
        NAME,
        {"type": "message_started_again", "x": 1},
        {**start(), "future": [1]},
        block("future", 3, data={"deep": [1]}),
        delta("future_delta", 3, x=1),
        delta("citations_delta", citation={}),
        b"",
        b" [DONE]",
        *said("Hi"),
        STOP,
    )
    assert text(deltas) == "Hi"


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"index": 0, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_delta", "index": 0},
        {"type": "content_block_delta", "index": 0, "delta": {"text": "x"}},
        delta("text_delta"),
        {"type": "content_block_start", "index": 0},
        {"type": "content_block_start", "index": 0, "content_block": {}},
        {"type": "completion"},
        {"type": "content_block_delta", "index": 0, "delta": ["text_delta"]},
        {"type": ["message_stop"]},
        [],
    ],
    ids=str,
)
def test_a_missing_needed_field_is_a_protocol_error(event: Any) -> None:
    """A missing required field raises `ProtocolError`, never a `KeyError`, and is never ignored."""
    with pytest.raises(ProtocolError):
        AnthropicDecoder().decode(record(event))


def test_the_event_name_stands_in_for_a_missing_type() -> None:
    """If `type` is missing, as behind some proxies, the SSE event's name is used.

    The default names of the framings are not types.
    """
    assert AnthropicDecoder().decode(record({}, "message_stop")) == (EndDelta(),)
    assert AnthropicDecoder().decode(record({}, "ping")) == ()
    for name in ("", "message", "chunk"):
        with pytest.raises(ProtocolError, match="type"):
            AnthropicDecoder().decode(record({}, name))


def test_text_in_the_start_of_a_block_counts() -> None:
    """Text in content_block_start counts, and so does text without any block, as some gateways send it."""
    assert text(decode(NAME, block("text", text="Hel"), delta("text_delta", text="lo"), STOP)) == "Hello"
    assert reasoning(decode(NAME, block("thinking", thinking="H"), delta("thinking_delta", thinking="m"), STOP)) == "Hm"
    assert reasoning(decode(NAME, delta("thinking_delta", thinking="Hm"), STOP)) == "Hm"


def test_a_legacy_completion_gives_its_text_and_no_end() -> None:
    """A record of the legacy Text Completions API loses no text, but without a message_stop the stream is cut."""
    decoder = AnthropicDecoder()
    event = {"type": "completion", "completion": " Hi", "stop_reason": "stop_sequence", "stop": "\n\nHuman:"}
    assert text(feed(decoder, [event])) == " Hi"
    with pytest.raises(Truncated):
        decoder.close()


# --- the turn for the next request ----------------------------------------------------------------------------


def turn(words: str, *events: Any) -> Any:
    deltas = feed(AnthropicDecoder(), events)
    got = text(deltas)
    assert words.endswith(got), "`words` is the prefill and the text"
    message = turn_of(NAME, deltas, words[: len(words) - len(got)])
    assert message["role"] == "assistant"
    json.dumps(message)
    return message["content"]


def test_only_text_is_a_str() -> None:
    """A turn of only text has a str as content, the prefill included, whatever the number of text blocks."""
    assert turn("{Hello", *said("Hel"), block("text", 1, text=""), delta("text_delta", 1, text="lo")) == "{Hello"
    assert turn("") == ""


def test_thinking_text_and_calls() -> None:
    """The turn has the signed thinking, the text, and the call with its parsed input."""
    assert turn("{Hello there", *WHOLE) == [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "text", "text": "{Hello there"},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}},
    ]


def test_thinking_without_a_signature_stays_out() -> None:
    """Thinking without a signature is left out, because Anthropic refuses it.

    An empty thought with a signature stays (the thinking was not shown), and so does a redacted one.
    """
    assert turn("x", block("thinking", thinking=""), delta("thinking_delta", thinking="Hm"), *said("x")) == "x"
    redacted = {"type": "redacted_thinking", "data": "opaque"}
    events = [
        block("thinking", thinking="", signature="s"),
        end(),
        block("redacted_thinking", 1, data="opaque"),
        end(1),
    ]
    assert turn("x", *events) == [
        {"type": "thinking", "thinking": "", "signature": "s"},
        redacted,
        {"type": "text", "text": "x"},
    ]


def test_text_without_ink_makes_no_block() -> None:
    """Text of only white space makes no block, because Anthropic refuses empty text blocks."""
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    events = [{"type": "content_block_start", "index": 0, "content_block": call}, end()]
    assert turn(" \n", *events) == [call]
    assert turn("x", *events) == [{"type": "text", "text": "x"}, call]


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        ([], {}),
        ([""], {}),
        (['{"a"', ":1}"], {"a": 1}),
        (['{"a": NaN', "}"], None),
        (['{"a": "cut he'], {"INVALID_JSON": '{"a": "cut he'}),
        (["[1]"], {"INVALID_JSON": "[1]"}),
    ],
    ids=["none", "empty", "two", "NaN", "cut", "no object"],
)
def test_arguments_in_the_turn(parts: list[str], kept: dict[str, Any] | None) -> None:
    """Arguments are parsed.

    If they are no JSON object, they are kept whole under the key that Anthropic's guide names.
    """
    events = [
        block("tool_use", id="t", name="f", input={}),
        *(delta("input_json_delta", partial_json=part) for part in parts),
    ]
    (got,) = turn("", *events)
    assert got["input"] == kept if kept is not None else set(got["input"]) == {"a"}


def test_a_call_without_arguments_joins_to_json() -> None:
    """The argument pieces of a call always join to JSON.

    This holds even if no piece came, or if the whole input came in the block's start.
    """
    events = [
        *(
            block("tool_use", 0, id="t0", name="f", input={}),
            delta("input_json_delta", 0, partial_json=""),
            end(0),
        ),
        *(block("tool_use", 1, id="t1", name="g", input={"a": [1]}), end(1)),
    ]
    assert calls(decode(NAME, *events, STOP)) == {0: ("t0", "f", "{}"), 1: ("t1", "g", '{"a":[1]}')}


def test_tools_the_host_runs_are_in_the_turn_only() -> None:
    """A tool that the host runs gives no ToolDelta, because the caller has nothing to do.

    The turn has its call and its result unchanged.
    """
    result = {
        "type": "web_search_tool_result",
        "tool_use_id": "s",
        "content": [{"url": "u", "encrypted_content": "e"}],
    }
    events = [
        *said("I look"),
        block("server_tool_use", 1, id="s", name="web_search", input={}),
        delta("input_json_delta", 1, partial_json='{"q":"x"}'),
        end(1),
        {"type": "content_block_start", "index": 2, "content_block": result},
        end(2),
        block("text", 3, text=""),
        delta("text_delta", 3, text=" it up"),
        delta("citations_delta", 3, citation={"url": "u"}),
    ]
    assert only(ToolDelta, decode(NAME, *events, STOP)) == []
    assert turn("I look it up", *events) == [
        {"type": "text", "text": "I look"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": "x"}},
        result,
        {"type": "text", "text": " it up"},
    ]


def test_a_compaction_block_is_filled_by_its_delta() -> None:
    """The content of a compaction block comes in one delta and is in the turn, because the next request needs it."""
    events = [
        block("compaction", content=None),
        delta("compaction_delta", content="summary", encrypted_content="e"),
        end(),
    ]
    assert turn("x", *events)[0] == {"type": "compaction", "content": "summary", "encrypted_content": "e"}


def test_a_repeated_message_start_changes_nothing() -> None:
    """A second message_start with the same id is ignored."""
    assert text(decode(NAME, start(), start(), *said("Hi"), STOP)) == "Hi"
    thinking = [block("thinking", signature="s"), end()]
    assert turn("x", start(), *thinking, start(), *said("x"))[0]["signature"] == "s"


def test_a_message_spliced_into_another() -> None:
    """A message_start with a new id begins a new message.

    The turn is that of the new message, and its call does not continue the old call.
    """
    events = [
        start("m1"),
        block("tool_use", id="t1", name="f", input={}),
        delta("input_json_delta", partial_json='{"a":'),
        start("m2"),
        block("tool_use", id="t2", name="f", input={}),
        delta("input_json_delta", partial_json='{"a":2}'),
    ]
    assert calls(decode(NAME, *events, STOP)) == {0: ("t1", "f", '{"a":'), 1: ("t2", "f", '{"a":2}')}
    assert turn("", *events) == [{"type": "tool_use", "id": "t2", "name": "f", "input": {"a": 2}}]


def test_a_stop_reason_in_message_start() -> None:
    """A stop reason in message_start gives a FinishDelta at the end of the message.

    A host that sends whole blocks sends no message_delta.
    """
    deltas = decode(
        NAME, start(stop_reason="tool_use"), block("tool_use", id="t", name="f", input={"a": 1}), end(), STOP
    )
    assert deltas[-2:] == [FinishDelta(StopReason.TOOL_USE, "tool_use"), EndDelta()]
    assert only(FinishDelta, decode(NAME, start(stop_reason="refusal"), finish("end_turn"), STOP))[0].raw == "end_turn"


def test_a_message_that_is_whole_from_its_start_is_not_lost() -> None:
    """If a gateway puts the whole reply into message_start, its content is read."""
    content = [{"type": "text", "text": "whole"}, {"type": "tool_use", "id": "t", "name": "f", "input": {}}]
    deltas = decode(
        NAME,
        {"type": "message_start", "message": {"id": "m", "content": content, "usage": {"input_tokens": 1}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    )
    assert text(deltas) == "whole"

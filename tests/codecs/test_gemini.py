"""Gemini's own protocol: what a request becomes, what a stream says, and the turn that goes back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from aprefill._codecs._gemini_turn import UNSIGNED
from aprefill._codecs.gemini import CODEC, STOP_REASONS
from aprefill._deltas import (
    BlockDelta,
    EndDelta,
    ErrorDelta,
    FinishDelta,
    ModelInput,
    ReasoningDelta,
    TextDelta,
    ToolDelta,
    UsageDelta,
)
from aprefill._errors import ProtocolError, Truncated, UsageError
from aprefill._types import StopReason, Usage

from . import calls, decode, feed, only, reasoning, record, text, turn_of

NAME = "gemini"


# --- what goes out --------------------------------------------------------------------------------------------


def encoded(**fields: Any) -> dict[str, Any]:
    fields = {"model": "gemini-2.5-flash", "messages": ({"role": "user", "content": "Hi"},), **fields}
    return CODEC.encode(ModelInput(**fields))


def body(**fields: Any) -> bytes:
    return msgspec.json.encode(encoded(**fields))


def contents(*messages: dict[str, Any], model: str = "gemini-2.5-flash") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = encoded(messages=messages, model=model)["contents"]
    return found


def test_a_small_request_byte_by_byte() -> None:
    """A body has neither the model nor a switch for streaming: both are in the path."""
    assert body() == b'{"contents":[{"role":"user","parts":[{"text":"Hi"}]}]}'


def test_a_full_request_byte_by_byte() -> None:
    """Every argument has its place. A part in Gemini's own form and a prefill's turn are there."""
    image = {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
    assert body(
        system="S",
        messages=({"role": "user", "content": [{"text": "x"}, image]}, {"role": "assistant", "content": "{"}),
        max_tokens=5,
        stop=("a", "b"),
        temperature=0.0,
        thinking={"thinkingBudget": 0},
        tools=({"googleSearch": {}},),
        response_format={"type": "object"},
        fields={"generationConfig": {"topK": 3}},
        extra={"generation_config": {"seed": 1}, "safetySettings": []},
    ) == (
        b'{"systemInstruction":{"parts":[{"text":"S"}]},"contents":[{"role":"user","parts":[{"text":"x"},'
        b'{"inlineData":{"mimeType":"image/png","data":"AA=="}}]},{"role":"model","parts":[{"text":"{"}]}],'
        b'"tools":[{"googleSearch":{}}],"generationConfig":{"maxOutputTokens":5,"stopSequences":["a","b"],'
        b'"temperature":0.0,"thinkingConfig":{"thinkingBudget":0},"responseMimeType":"application/json",'
        b'"responseJsonSchema":{"type":"object"},"topK":3,"seed":1},"safetySettings":[]}'
    )


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-2.5-flash", "/models/gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "/models/gemini-2.5-flash"),
        ("tunedModels/mine", "/tunedModels/mine"),
        ("endpoints/123", "/endpoints/123"),
        ("a b/../c?d#e", "/models/a%20b%2F..%2Fc%3Fd%23e"),
        ("../../x", "/models/..%2F..%2Fx"),
    ],
)
def test_the_model_is_in_the_path(model: str, path: str) -> None:
    """No name leads to another path. The query asks for server-sent events."""
    assert CODEC.path(ModelInput(model=model, messages=())) == path + ":streamGenerateContent?alt=sse"


def test_system_messages_become_the_instruction() -> None:
    """The system messages at the start are parts of it. A later one is the caller's error."""
    messages = ({"role": "system", "content": "A"}, {"role": "developer", "content": [{"text": "B"}]})
    made = encoded(system="S", messages=(*messages, {"role": "user", "content": "Hi"}))
    assert made["systemInstruction"] == {"parts": [{"text": "S"}, {"text": "A"}, {"text": "B"}]}
    assert made["contents"] == [{"role": "user", "parts": [{"text": "Hi"}]}]
    with pytest.raises(UsageError, match="system message"):
        encoded(messages=({"role": "user", "content": "Hi"}, *messages))


def test_a_text_part_of_another_protocol_is_translated() -> None:
    """Parts of other kinds are the caller's error, and so is an unknown role."""
    assert contents({"role": "user", "content": [{"type": "text", "text": "x"}]})[0]["parts"] == [{"text": "x"}]
    for part in ({"type": "image_url", "image_url": {}}, {"type": "tool_use", "id": "t"}, 7):
        with pytest.raises(UsageError, match="a part of a message"):
            contents({"role": "user", "content": [part]})
    with pytest.raises(UsageError, match="'critic'"):
        contents({"role": "critic", "content": "x"})


@pytest.mark.parametrize(
    ("response_format", "config"),
    [
        ({"type": "object"}, {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}}),
        ({"type": "json_object"}, {"responseMimeType": "application/json"}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}},
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "array"}},
        ),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, {"responseMimeType": "application/json"}),
        ({"type": "text"}, {"responseMimeType": "text/plain"}),
    ],
)
def test_a_response_format(response_format: dict[str, Any], config: dict[str, Any]) -> None:
    """It is a JSON schema. The objects of chat completions are translated."""
    assert encoded(response_format=response_format)["generationConfig"] == config


def test_other_fields_of_a_message() -> None:
    """A row of the support table may add some to a prefill's turn. Those of another host are left out."""
    first = {"role": "assistant", "content": "a", "refusal": None, "reasoning_content": "Hm"}
    user = {"role": "user", "content": "Go on.", "name": "Ann"}
    assert contents(first, user, {"role": "assistant", "content": "b", "prefix": True}) == [
        {"role": "model", "parts": [{"text": "a"}]},
        {"role": "user", "parts": [{"text": "Go on."}]},
        {"role": "model", "parts": [{"text": "b"}], "prefix": True},
    ]


def test_keys_and_limits() -> None:
    """AI Studio has a header of its own, Vertex takes a token, and a request has at most five stop sequences."""
    assert CODEC.auth("k", "x-goog-api-key") == {"x-goog-api-key": "k"}
    assert CODEC.auth("k", "bearer") == {"authorization": "Bearer k"}
    assert CODEC.max_stop == 5
    assert "application/json" not in CODEC.not_streams
    assert "text/html" in CODEC.not_streams


# --- tools ----------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}, "additionalProperties": False}
NEUTRAL = (
    {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
)
DECLARED = [{"name": "look", "description": "Looks.", "parametersJsonSchema": SCHEMA}, {"name": "now"}]


def test_tools_of_chat_completions_become_one_tool() -> None:
    """Tools in Gemini's own form are unchanged, in their order."""
    own = ({"googleSearch": {}}, {"function_declarations": [{"name": "f"}]})
    assert encoded(tools=NEUTRAL)["tools"] == [{"functionDeclarations": DECLARED}]
    assert encoded(tools=own)["tools"] == list(own)
    assert encoded(tools=(own[0], *NEUTRAL, own[1]))["tools"] == [own[0], {"functionDeclarations": DECLARED}, own[1]]


def call(name: str, arguments: str = "{}", id_: str = "c1") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(content: Any, id_: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content}


def test_calls_and_results_of_chat_completions() -> None:
    """A call has its arguments as an object; the results of one turn are in one content, with their names."""
    turn = {"role": "assistant", "content": "", "tool_calls": [call("look", '{"at":"x"}'), call("now", id_="c2")]}
    sent = contents(
        {"role": "user", "content": "Hi"},
        turn,
        result("noon", "c2"),
        result('{"seen":1}'),
        {"role": "user", "content": "So?"},
    )
    assert sent[1:] == [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"name": "look", "args": {"at": "x"}, "id": "c1"}},
                {"functionCall": {"name": "now", "args": {}, "id": "c2"}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "now", "response": {"output": "noon"}, "id": "c2"}},
                {"functionResponse": {"name": "look", "response": {"seen": 1}, "id": "c1"}},
            ],
        },
        {"role": "user", "parts": [{"text": "So?"}]},
    ]


@pytest.mark.parametrize(
    ("content", "response"),
    [
        ("noon", {"output": "noon"}),
        ("[1]", {"output": "[1]"}),
        ('{"a": 1}', {"a": 1}),
        ("[" * 100_000, {"output": "[" * 100_000}),
        ("", {"output": ""}),
        (None, {"output": None}),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], {"output": "ab"}),
    ],
)
def test_a_result_is_an_object(content: Any, response: dict[str, Any]) -> None:
    """Gemini wants an object. A JSON object is sent as one; everything else is its `output`."""
    turn = {"role": "assistant", "content": None, "tool_calls": [call("now")]}
    sent = contents(turn, result(content))
    assert sent[1]["parts"][0]["functionResponse"]["response"] == response
    json.dumps(sent)


def test_a_result_finds_the_call_before_it() -> None:
    """The ids of two turns may be the same. A result without a call is the caller's error."""
    first = {"role": "assistant", "content": "", "tool_calls": [call("look")]}
    second = {"role": "assistant", "content": "", "tool_calls": [call("now")]}
    sent = contents(first, result("a"), second, result("b"))
    assert [one["parts"][0]["functionResponse"]["name"] for one in sent[1::2]] == ["look", "now"]
    with pytest.raises(UsageError, match="'c9'"):
        contents(first, result("a", "c9"))
    with pytest.raises(UsageError, match="not a JSON object"):
        contents({"role": "assistant", "content": "", "tool_calls": [call("look", "{")]})


def test_a_result_answers_a_call_in_geminis_form() -> None:
    """Also a call that came without an id: the id that it was handed out with is not sent."""
    asked = {"functionCall": {"name": "look", "args": {}}}
    known = {"functionCall": {"name": "now", "args": {}, "id": "g7"}}
    deltas = decode(NAME, said(asked, known), end("STOP"))
    turn = turn_of(NAME, deltas)
    ids = [id_ for id_, _, _ in calls(deltas).values()]
    assert ids == ["call_0", "g7"]
    sent = contents(turn, *(result("x", id_) for id_ in ids))
    assert sent[0] == {"role": "model", "parts": [asked, known]}
    assert [part["functionResponse"] for part in sent[1]["parts"]] == [
        {"name": "look", "response": {"output": "x"}},
        {"name": "now", "response": {"output": "x"}, "id": "g7"},
    ]


@pytest.mark.parametrize(
    ("model", "is_signed"),
    [
        ("gemini-3-pro-preview", True),
        ("models/gemini-3.5-flash", True),
        ("gemini-flash-latest", True),
        ("gemini-2.5-pro", False),
        ("gemini-2.0-flash", False),
        ("gemma-3-27b-it", False),
    ],
)
def test_the_calls_of_another_model_are_signed(model: str, is_signed: bool) -> None:
    """Gemini 3 refuses a call without a signature: the first call of a turn gets the documented one."""
    turn = {"role": "assistant", "content": "Hm.", "tool_calls": [call("look"), call("now", id_="c2")]}
    text_part, first, second = contents(turn, model=model)[0]["parts"]
    assert text_part == {"text": "Hm."}
    assert first.get("thoughtSignature") == (UNSIGNED if is_signed else None)
    assert "thoughtSignature" not in second


def test_turns_in_geminis_form_are_unchanged() -> None:
    """Calls with their signature, and results, whatever model is asked."""
    asked = [{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "s"}, {"functionCall": {"name": "g"}}]
    answered = [
        {"functionResponse": {"name": "f", "response": {}}},
        {"functionResponse": {"name": "g", "response": {}}},
    ]
    for roles in (("assistant", "user"), ("model", "function")):
        made = contents(
            {"role": roles[0], "content": asked}, {"role": roles[1], "content": answered}, model="gemini-3-pro"
        )
        assert [one["parts"] for one in made] == [asked, answered]
        assert made[0]["role"] == "model"


def test_a_tool_result_is_recognized() -> None:
    """In both spellings of Gemini, and in the form of chat completions."""
    for part in ({"functionResponse": {}}, {"function_response": {"name": "f"}}):
        assert CODEC.is_tool_result({"role": "user", "content": [{"text": "x"}, part]})
    assert CODEC.is_tool_result(result("x"))
    assert not CODEC.is_tool_result({"role": "user", "content": [{"functionCall": {}}]})


# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "on"),
    [
        ({"thinkingConfig": {"thinkingBudget": 1024}}, "thinking"),
        ({"thinking_config": {"include_thoughts": True}}, "thinking"),
        ({"thinkingConfig": {"thinkingBudget": 0}}, None),
        ({"thinkingConfig": {"thinking_budget": 0}}, None),
        ({"responseMimeType": "application/json"}, "response_format"),
        ({"response_json_schema": {"type": "object"}}, "response_format"),
        ({"responseSchema": {"type": "OBJECT"}}, "response_format"),
        ({"responseMimeType": "text/plain"}, None),
        ({"topK": 1}, None),
    ],
)
def test_settings_inside_the_config(given: dict[str, Any], on: str | None) -> None:
    """They are found in both spellings of the object, and named as the caller named it."""
    for name in ("generationConfig", "generation_config"):
        assert CODEC.settings_in_use({}, {name: given}) == ({on: f"extra[{name!r}]"} if on else {})


def test_settings_beside_it() -> None:
    """A budget of 0 in `thinking` switches it off; a forced call is in `toolConfig`."""
    assert CODEC.settings_in_use({"thinking": {"thinkingBudget": 0}}, {}) == {}
    assert CODEC.settings_in_use({"thinking": {"thinkingLevel": "LOW"}}, {}) == {"thinking": "thinking"}
    forced = {"functionCallingConfig": {"mode": "ANY"}}
    assert CODEC.settings_in_use({}, {"toolConfig": forced}) == {"tool_choice": "extra['toolConfig']"}
    assert CODEC.settings_in_use({}, {"tool_config": {"function_calling_config": {"mode": "ANY"}}}) == {
        "tool_choice": "extra['tool_config']"
    }
    assert CODEC.settings_in_use({}, {"toolConfig": {"functionCallingConfig": {"mode": "AUTO"}}}) == {}


@pytest.mark.parametrize(
    ("argument", "extra", "name"),
    [
        ("max_tokens", {"generationConfig": {"maxOutputTokens": 1}}, "generationConfig.maxOutputTokens"),
        ("max_tokens", {"generation_config": {"max_output_tokens": 1}}, "generation_config.max_output_tokens"),
        ("stop", {"generationConfig": {"topK": 1}}, None),
        ("stop", {"generationConfig": None}, "generationConfig.stopSequences"),
        ("thinking", {"generationConfig": {"thinkingConfig": {}}}, "generationConfig.thinkingConfig"),
        ("system", {"system_instruction": {}}, "system_instruction"),
    ],
)
def test_what_undoes_an_argument(argument: str, extra: dict[str, Any], name: str | None) -> None:
    """A field of the config undoes its own argument and no other."""
    assert CODEC.undone_by(argument, extra) == name


def test_extra_is_merged_into_the_config() -> None:
    """In both spellings, so that a body never has both."""
    for name in ("generationConfig", "generation_config"):
        made = encoded(max_tokens=5, extra={name: {"topP": 1, "thinkingConfig": {"includeThoughts": True}}})
        assert made["generationConfig"] == {
            "maxOutputTokens": 5,
            "topP": 1,
            "thinkingConfig": {"includeThoughts": True},
        }
        assert "generation_config" not in made


# --- what comes in --------------------------------------------------------------------------------------------


def said(*parts: Any, **more: Any) -> dict[str, Any]:
    parts_ = [{"text": part} if isinstance(part, str) else part for part in parts]
    return {"candidates": [{"content": {"parts": parts_, "role": "model"}, "index": 0, **more}]}


def thought(words: str) -> dict[str, Any]:
    return {"text": words, "thought": True}


def end(reason: Any, **usage: int) -> dict[str, Any]:
    return {**said("", finishReason=reason), **({"usageMetadata": usage} if usage else {})}


def test_text_and_thoughts() -> None:
    """A thought is no text. Empty pieces give nothing."""
    deltas = decode(NAME, said(thought("Hm")), said(thought(""), "a", ""), said("b"), end("STOP"))
    assert deltas == [
        ReasoningDelta("Hm"),
        TextDelta("a"),
        TextDelta("b"),
        FinishDelta(StopReason.END, "STOP"),
        EndDelta(),
    ]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", StopReason.END),
        ("MAX_TOKENS", StopReason.MAX_TOKENS),
        ("CONTINUATION", StopReason.MAX_TOKENS),
        *((word, StopReason.REFUSAL) for word in ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII")),
        *((word, StopReason.OTHER) for word in ("OTHER", "MALFORMED_FUNCTION_CALL", "LANGUAGE", "A_NEW_ONE")),
    ],
)
def test_the_reasons(word: str, reason: StopReason) -> None:
    """The host's own word is kept."""
    assert only(FinishDelta, decode(NAME, end(word))) == [FinishDelta(reason, word)]


@pytest.mark.parametrize(
    ("number", "reason"),
    [(1, StopReason.END), (2, StopReason.MAX_TOKENS), (3, StopReason.REFUSAL), (9, StopReason.OTHER)],
)
def test_reasons_as_numbers(number: int, reason: StopReason) -> None:
    """Vertex sends them if it is asked to."""
    assert only(FinishDelta, decode(NAME, end(number))) == [FinishDelta(reason, str(number))]


def test_every_word_of_the_hosts_client_is_known() -> None:
    """The reasons that mean neither an end, nor a limit, nor a refusal count as other, and there is a list of them."""
    types = pytest.importorskip("google.genai.types", reason="Google's own client is not installed: nox -s sdks")
    words = {one.value for enum in (types.FinishReason, types.BlockedReason) for one in enum}
    others = {
        "FINISH_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED", "OTHER", "LANGUAGE", "MALFORMED_FUNCTION_CALL",
        "IMAGE_OTHER", "NO_IMAGE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE",
        "MALFORMED_RESPONSE",
    }  # fmt: skip
    assert words - STOP_REASONS.keys() - others == set()
    assert words >= STOP_REASONS.keys()


@pytest.mark.parametrize("unset", ["FINISH_REASON_UNSPECIFIED", "", 0, None])
def test_a_reason_that_is_not_set_ends_nothing(unset: Any) -> None:
    """Such a stream was truncated."""
    with pytest.raises(Truncated):
        decode(NAME, said("a", finishReason=unset))


def test_usage() -> None:
    """Thoughts are part of the output, and what a host's tools add to the prompt is part of the input."""
    deltas = decode(
        NAME,
        {**said("a"), "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7}},
        {**said("b"), "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7}},
        end(
            "STOP",
            promptTokenCount=7,
            candidatesTokenCount=3,
            thoughtsTokenCount=2,
            toolUsePromptTokenCount=10,
            cachedContentTokenCount=4,
            totalTokenCount=22,
        ),
    )
    assert [delta.usage for delta in only(UsageDelta, deltas)] == [
        Usage(input_tokens=7),
        Usage(input_tokens=17, output_tokens=5, cache_read_tokens=4, reasoning_tokens=2),
    ]
    assert type(deltas[-1]) is EndDelta


@pytest.mark.parametrize("count", [-1, 2**70, 1.5, "3", True, None])
def test_a_count_that_is_none(count: Any) -> None:
    """It is ignored, and ends nothing."""
    deltas = decode(NAME, {**said("a"), "usageMetadata": {"promptTokenCount": count}}, end("STOP"))
    assert text(deltas) == "a"
    assert only(UsageDelta, deltas) == []


def test_the_record_with_the_reason_is_the_last() -> None:
    """By the rule "strict" nothing after it counts. By the rule "body" the end of the body is the end."""
    records = (said("a", finishReason="STOP"), said("b", finishReason="STOP"))
    strict = decode(NAME, *records)
    assert (text(strict), len(only(FinishDelta, strict)), type(strict[-1])) == ("a", 1, EndDelta)
    whole = decode(NAME, *records, end="body")
    assert (text(whole), len(only(FinishDelta, whole)), type(whole[-1])) == ("ab", 2, EndDelta)
    with pytest.raises(Truncated):
        decode(NAME, said("a"), end="body")


def test_only_the_first_candidate_counts() -> None:
    """A candidate without an index is the first one. The end of another one is no end."""
    first = {"content": {"parts": [{"text": "a"}]}}
    other = {"content": {"parts": [{"text": "no"}]}, "finishReason": "STOP", "index": 1}
    decoder = CODEC.decoder()
    assert feed(decoder, [{"candidates": [other, first]}, {"candidates": [other]}]) == [TextDelta("a")]
    with pytest.raises(Truncated):
        decoder.close()
    last = {"content": {"parts": [{"text": "b"}]}, "finishReason": "STOP", "index": "0"}
    assert text(decode(NAME, {"candidates": [other, first]}, {"candidates": [last]})) == "ab"


def test_a_blocked_prompt() -> None:
    """The reply is empty, and the model refused. It is complete, and the prompt was counted."""
    deltas = decode(
        NAME, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}}
    )
    assert deltas == [
        UsageDelta(Usage(input_tokens=3)),
        FinishDelta(StopReason.REFUSAL, "PROHIBITED_CONTENT"),
        EndDelta(),
    ]
    assert only(FinishDelta, decode(NAME, {"promptFeedback": {"blockReason": "OTHER"}}))[0].reason is StopReason.REFUSAL
    # ratings without a block are no end
    with pytest.raises(Truncated):
        decode(NAME, {"promptFeedback": {"safetyRatings": []}})


def test_a_blocked_reply() -> None:
    """The candidate has no content."""
    deltas = decode(NAME, said("a"), {"candidates": [{"finishReason": "SAFETY", "index": 0, "safetyRatings": []}]})
    assert deltas == [TextDelta("a"), FinishDelta(StopReason.REFUSAL, "SAFETY"), EndDelta()]


ERROR = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}


@pytest.mark.parametrize("payload", [ERROR, [ERROR], {**said("b"), **ERROR}])
def test_an_error_in_the_stream(payload: Any) -> None:
    """As an object, in a list, and beside text; the text before it is kept, and nothing comes after it."""
    deltas = decode(NAME, said("a"), payload, said("late", finishReason="STOP"))
    assert deltas[-1] == ErrorDelta(503, "UNAVAILABLE", "The model is overloaded.")
    assert text(deltas) in {"a", "ab"}


def test_error_bodies() -> None:
    """As AI Studio sends them, and in the list in which the endpoint of the array sends them."""
    for one in (ERROR, [ERROR]):
        data = json.dumps(one).encode()
        assert CODEC.error(503, data, {}) == ("UNAVAILABLE", "The model is overloaded.")
        assert CODEC.error_delta(data) == ErrorDelta(503, "UNAVAILABLE", "The model is overloaded.")


def test_other_records() -> None:
    """Records without candidates that belong to the protocol give nothing; what does not is an error."""
    known = [{"usageMetadata": {}}, {"modelVersion": "m", "responseId": "r"}, {"candidates": []}, b"", b"[DONE]"]
    assert decode(NAME, *known, said("a"), end("STOP"))[0] == TextDelta("a")
    for unknown in ({}, {"choices": []}, b"{", b"nothing", said("a") | {"candidates": "x"}):
        with pytest.raises(ProtocolError):
            decode(NAME, unknown)
    assert decode(NAME, {"message": "no such model"}) == [ErrorDelta(200, "", "no such model")]


def test_only_a_complete_end_counts_without_its_blank_line() -> None:
    """The record with the reason, an error and a block count; text and a half record do not."""
    for payload in (end("STOP"), ERROR, {"promptFeedback": {"blockReason": "SAFETY"}}):
        decoder = CODEC.decoder()
        feed(decoder, [said("a")])
        assert type(decoder.close(record(payload))[-1]) in {EndDelta, ErrorDelta}
    whole = msgspec.json.encode(end("STOP"))
    for payload in (said("b"), whole[:-1], b"", end(0)):
        decoder = CODEC.decoder()
        feed(decoder, [said("a")])
        with pytest.raises(Truncated):
            decoder.close(record(payload))


def test_halves_of_a_character() -> None:
    """In thoughts, in arguments and in a signature there is no half character either."""
    deltas = decode(
        NAME,
        b'{"candidates":[{"content":{"parts":[{"text":"a\\ud83d","thought":true}]}}]}',
        b'{"candidates":[{"content":{"parts":[{"text":"\\ude00b","thought":true},{"text":"\\ud83d"}]}}]}',
        b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"\\ud83d","args":{"\\ud83d":"\\ud83d"}}}]},"finishReason":"STOP"}]}',
    )
    assert reasoning(deltas) == "a😀b"
    assert calls(deltas) == {0: ("call_0", "�", '{"�":"�"}')}
    assert text(deltas) == "�"
    json.dumps(turn_of(NAME, deltas), ensure_ascii=False).encode()


# --- calls ----------------------------------------------------------------------------------------------------


def test_calls() -> None:
    """Each has its arguments as JSON text. Gemini says STOP after a call too."""
    look = {"functionCall": {"name": "look", "args": {"at": "ö", "n": 1}, "id": "x1"}}
    deltas = decode(NAME, said(look, {"functionCall": {"name": "now"}}), end("STOP"))
    assert calls(deltas) == {0: ("x1", "look", '{"at":"ö","n":1}'), 1: ("call_1", "now", "{}")}
    assert only(FinishDelta, deltas)[0].reason is StopReason.TOOL_USE
    assert only(FinishDelta, decode(NAME, said(look), end("MAX_TOKENS")))[0].reason is StopReason.MAX_TOKENS


def piece(path: str, **value: Any) -> dict[str, Any]:
    return {"functionCall": {"partialArgs": [{"jsonPath": path, **value}], "willContinue": True}}


def test_a_call_in_pieces() -> None:
    """The name comes at once, the arguments at the end of the call; the next call begins after it."""
    begun = {"functionCall": {"name": "look", "willContinue": True}, "thoughtSignature": "s"}
    decoder = CODEC.decoder()
    assert feed(decoder, [said(begun)]) == [ToolDelta(0, "call_0", "look")]
    pieces = [
        piece("$.at", stringValue="Ber", willContinue=True),
        piece("$.at", stringValue="lin", willContinue=True),
        piece("$.at", stringValue=""),
        piece("$.days[0]", numberValue=1),
        piece("$.days[1]", numberValue=2.5),
        piece("$['a b'].c", boolValue=False),
        piece('$["a b"].d[0].e', nullValue="NULL_VALUE"),
        piece("$.at", stringValue="!"),
    ]
    assert feed(decoder, [said(one) for one in pieces]) == []
    args = {"at": "Berlin!", "days": [1, 2.5], "a b": {"c": False, "d": [{"e": None}]}}
    block, arguments = feed(decoder, [said({"functionCall": {}})])
    assert block == BlockDelta("part", value={"functionCall": {"name": "look", "args": args}, "thoughtSignature": "s"})
    assert json.loads(arguments.arguments) == args  # type: ignore[union-attr]
    again = feed(decoder, [said({"functionCall": {"name": "now", "willContinue": True}}), end("STOP")])
    assert calls(again) == {1: ("call_1", "now", "{}")}
    assert only(FinishDelta, again)[0].reason is StopReason.TOOL_USE


@pytest.mark.parametrize(
    "bad",
    [
        [{"stringValue": "x"}],
        ["x"],
        [{"jsonPath": "at", "numberValue": 1}],
        [{"jsonPath": "$", "numberValue": 1}],
        [{"jsonPath": "$..at", "numberValue": 1}],
        [{"jsonPath": "$.at[*]", "numberValue": 1}],
        [{"jsonPath": "$.at[999999]", "numberValue": 1}],
        [{"jsonPath": "$.at[9999999]", "numberValue": 1}],
        [{"jsonPath": "$" + ".a" * 1000, "numberValue": 1}],
        [{"jsonPath": "$.at", "numberValue": 1}, {"jsonPath": "$.at.b", "numberValue": 1}],
    ],
)
def test_a_piece_that_cannot_be_read(bad: Any) -> None:
    """A tool must not be run with a part of its arguments, so this is an error."""
    part = {"functionCall": {"name": "f", "partialArgs": bad, "willContinue": True}}
    with pytest.raises(ProtocolError, match="a piece of a function call"):
        decode(NAME, said(part), end("STOP"))


def test_many_pieces_cost_no_more_than_their_bytes() -> None:
    """50,000 pieces of 100 characters are one text. Joining them one by one would copy 125 GB."""
    decoder = CODEC.decoder()
    feed(decoder, [said({"functionCall": {"name": "f", "willContinue": True}})])
    one = record(said(piece("$.a", stringValue="x" * 100, willContinue=True)))
    for _ in range(50_000):
        decoder.decode(one)
    deltas = feed(decoder, [end("STOP")])
    assert len(json.loads(calls(deltas)[0][2])["a"]) == 5_000_000


# --- the turn that goes back ----------------------------------------------------------------------------------


def turn(*payloads: Any, lead: str = "") -> Any:
    return turn_of(NAME, decode(NAME, *payloads, end("STOP")), lead)["content"]


def test_a_turn_of_text_alone_is_text() -> None:
    """Thoughts without a signature are left out."""
    assert turn(said(thought("Hm"), "b"), said("c"), lead="a") == "abc"
    assert turn(lead="a") == "a"


def test_signed_parts_are_kept_as_they_came() -> None:
    """Their text is not joined with the text around it."""
    signed = {"text": "b", "thoughtSignature": "s1"}
    empty = {"text": "", "thoughtSignature": "s2"}
    thoughts = {"text": "Hm", "thought": True, "thoughtSignature": "s3"}
    got = turn(said(thought("H"), thoughts), said("a"), said(signed), said("c", "d"), said(empty), lead="0")
    assert got == [thoughts, {"text": "0a"}, signed, {"text": "cd"}, empty]
    assert turn(said(signed), lead="0") == [{"text": "0"}, signed]


def test_other_parts_are_kept() -> None:
    """Calls with their signature, code that ran on the host, images; all in the host's order."""
    parts = [
        {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s"},
        {"executableCode": {"language": "PYTHON", "code": "1"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
        {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
    ]
    assert turn(said("a", parts[0], parts[1]), said(parts[2], "b", parts[3])) == [
        {"text": "a"}, parts[0], parts[1], parts[2], {"text": "b"}, parts[3],
    ]  # fmt: skip
    assert contents({"role": "assistant", "content": turn(said(*parts))})[0]["parts"] == parts


def test_a_call_that_was_cut_is_not_sent_back() -> None:
    """Half of its arguments would be another call."""
    decoder = CODEC.decoder()
    begun = said("a", {"functionCall": {"name": "f", "willContinue": True}})
    assert turn_of(NAME, feed(decoder, [begun, said(piece("$.a", stringValue="x"))])) == {
        "role": "assistant",
        "content": "a",
    }


def test_an_edit_leaves_signed_parts_alone() -> None:
    """And text, which was edited on arrival."""
    content = [{"text": "a"}, {"functionCall": {"name": "f"}, "thoughtSignature": "s"}, {"functionCall": {"name": "g"}}]
    edited = CODEC.edit({"role": "assistant", "content": content}, lambda part: {"changed": part})
    assert edited["content"] == [*content[:2], {"changed": content[2]}]

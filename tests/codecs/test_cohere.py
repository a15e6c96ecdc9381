"""Cohere's protocol: its events, the plan before its calls, its reasoning, its end and its errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aprefill import Session, stream
from aprefill._codecs import codec
from aprefill._deltas import (
    BlockDelta,
    EndDelta,
    ErrorDelta,
    FinishDelta,
    ReasoningDelta,
    Record,
    TextDelta,
    ToolDelta,
    UsageDelta,
)
from aprefill._errors import ProtocolError, Truncated, UsageError
from aprefill._types import StopReason
from aprefill._wire.sse import SseDecoder
from aprefill.testing import Script, ToolCall, serve

from ..support.contracts import model_input
from . import calls, decode, feed, only, reasoning, text, turn_of

if TYPE_CHECKING:
    from pathlib import Path

COHERE = codec("cohere")

TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "a tree"}


def content(**what: Any) -> dict[str, Any]:
    """A piece of text or of reasoning."""
    return {"type": "content-delta", "index": 0, "delta": {"message": {"content": what}}}


def call(event: str, index: int = 0, arguments: str | None = None, **what: Any) -> dict[str, Any]:
    """An event of a tool call."""
    function = {name: what.pop(name) for name in ("name",) if name in what}
    if arguments is not None:
        function["arguments"] = arguments
    delta = {"message": {"tool_calls": {**what, "function": function}}}
    return {"type": f"tool-call-{event}", "index": index, **({"delta": delta} if event != "end" else {})}


def end(reason: str | None = "COMPLETE", **more: Any) -> dict[str, Any]:
    """The event that ends a reply."""
    return {"type": "message-end", "delta": {**({} if reason is None else {"finish_reason": reason}), **more}}


def body(**more: Any) -> dict[str, Any]:
    return COHERE.encode(model_input(**more))


def sent(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a request."""
    found = body(messages=messages)["messages"]
    assert isinstance(found, list)
    return found


# --- the request ----------------------------------------------------------------------------------------------


def test_everything_a_request_can_say() -> None:
    """In Cohere's own names."""
    thinking = {"type": "enabled", "token_budget": 9}
    assert body(system="Be brief.", stop=("a",), temperature=0.5, thinking=thinking, tools=(TOOL,)) == {
        "model": "a-model",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "stop_sequences": ["a"],
        "temperature": 0.5,
        "thinking": thinking,
        "tools": [TOOL],
        "stream": True,
    }
    assert COHERE.max_stop == 5


@pytest.mark.parametrize(
    ("wanted", "sent_as"),
    [
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}}}, {"a": 1}),
        ({"type": "json_schema", "schema": {"a": 1}}, {"a": 1}),
        ({"type": "json_object", "json_schema": {"a": 1}}, {"a": 1}),
        ({"type": "json_object"}, None),
        ({"type": "json_schema"}, None),
    ],
)
def test_response_format(wanted: dict[str, Any], sent_as: Any) -> None:
    """A schema is beside the type, without OpenAI's or Anthropic's wrapping."""
    schema = {} if sent_as is None else {"json_schema": sent_as}
    assert body(response_format=wanted)["response_format"] == {"type": "json_object", **schema}
    assert body(response_format={"type": "text"})["response_format"] == {"type": "text"}


def test_cohere_requires_parameters() -> None:
    """A tool in the neutral form that has none gets them; one in any other form stays as it is."""
    bare = {"type": "function", "function": {"name": "now"}}
    parameters = {"type": "object", "properties": {}}
    assert body(tools=(bare, {"name": "f"}))["tools"] == [
        {"type": "function", "function": {"name": "now", "parameters": parameters}},
        {"name": "f"},
    ]
    assert "parameters" not in bare["function"]


def test_calls_and_results() -> None:
    """The neutral form of both is Cohere's own: an empty content is left out, and each call has its type."""
    turn = {"role": "assistant", "content": None, "tool_plan": "I look.", "tool_calls": [{**CALL}]}
    turn["tool_calls"][0].pop("type")
    before = json.dumps(turn)
    assert sent(turn, RESULT) == [{"role": "assistant", "tool_plan": "I look.", "tool_calls": [CALL]}, RESULT]
    assert json.dumps(turn) == before
    plain = {"role": "assistant", "content": "", "tool_calls": []}
    assert sent(plain) == [plain]


def test_a_role_that_cohere_has_not() -> None:
    """It is the caller's error, before anything is sent."""
    with pytest.raises(UsageError, match="developer"):
        sent({"role": "developer", "content": "x"})


@pytest.mark.parametrize(
    ("choice", "forced"),
    [("REQUIRED", True), ("required", True), ("NONE", False), ("none", False), (None, False)],
)
def test_a_forced_call(choice: str | None, forced: bool) -> None:
    """In Cohere's words, which are in capitals."""
    assert ("tool_choice" in COHERE.settings_in_use({}, {"tool_choice": choice})) is forced


# --- the reply ------------------------------------------------------------------------------------------------


def test_a_piece_of_text_is_one_delta() -> None:
    """Nothing else is made of it. The start of a content may hold text too; the end of one holds none."""
    start = {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": "a"}}}}
    assert feed(
        COHERE.decoder(), [start, content(text="b"), content(text=""), {"type": "content-end", "index": 0}]
    ) == [
        TextDelta("a"),
        TextDelta("b"),
    ]


def test_reasoning_is_sent_back_as_a_part() -> None:
    """In Cohere's own form, before the text. Without reasoning the content is a str."""
    deltas = decode("cohere", content(thinking="H"), content(thinking="m"), content(text="a"), end())
    assert (reasoning(deltas), text(deltas)) == ("Hm", "a")
    assert turn_of("cohere", deltas, "x ") == {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "x a"}],
    }
    assert turn_of("cohere", deltas[2:]) == {"role": "assistant", "content": "a"}
    assert turn_of("cohere", [ReasoningDelta("Hm")])["content"] == [{"type": "thinking", "thinking": "Hm"}]


def test_calls_in_pieces_and_the_plan_before_them() -> None:
    """The plan is in the turn to send back, and neither text nor reasoning. A call without arguments has an empty object."""
    plan = [{"type": "tool-plan-delta", "delta": {"message": {"tool_plan": piece}}} for piece in ("I ", "look.")]
    deltas = decode(
        "cohere",
        *plan,
        call("start", id="c1", name="look", arguments=""),
        call("delta", arguments='{"at"'),
        call("delta", arguments=":1}"),
        call("end"),
        call("start", 1, id="c2", name="now", arguments=""),
        call("end", 1),
        call("start", 2, id="c3", name="go", arguments=""),
        end("TOOL_CALL"),
    )
    assert calls(deltas) == {0: ("c1", "look", '{"at":1}'), 1: ("c2", "now", "{}"), 2: ("c3", "go", "{}")}
    assert (reasoning(deltas), text(deltas)) == ("", "")
    assert only(BlockDelta, deltas)
    turn = turn_of("cohere", deltas)
    assert (turn["content"], turn["tool_plan"], turn["tool_calls"][0]) == (None, "I look.", CALL)
    assert sent(turn) == [{name: value for name, value in turn.items() if name != "content"}]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("COMPLETE", StopReason.END),
        ("STOP_SEQUENCE", StopReason.STOP_SEQUENCE),
        ("MAX_TOKENS", StopReason.MAX_TOKENS),
        ("TOOL_CALL", StopReason.TOOL_USE),
        ("NEW_WORD", StopReason.OTHER),
    ],
)
def test_why_it_ended(word: str, reason: StopReason) -> None:
    """In Cohere's own word too."""
    assert decode("cohere", end(word)) == [FinishDelta(reason, word), EndDelta()]


def test_counts() -> None:
    """Of the tokens; of what is billed only if nothing else is there. The cached ones are counted apart."""
    billed = {"input_tokens": 12, "output_tokens": 7}
    tokens = {"input_tokens": 507, "output_tokens": 10}
    (counts,) = only(
        UsageDelta, decode("cohere", end(usage={"billed_units": billed, "tokens": tokens, "cached_tokens": 448}))
    )
    usage = counts.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (507, 10, 448)
    (counts,) = only(UsageDelta, decode("cohere", end(usage={"billed_units": billed, "tokens": "x"})))
    assert (counts.usage.input_tokens, counts.usage.output_tokens) == (12, 7)


def test_nothing_after_the_end() -> None:
    """Neither text nor Cohere's own [DONE]."""
    decoder = COHERE.decoder()
    feed(decoder, [content(text="a"), end()])
    assert feed(decoder, [b"[DONE]", content(text="late"), {"error": "late"}]) == []
    assert list(decoder.close()) == []


def test_events_without_text_give_nothing() -> None:
    """Citations, debugging, and what is not known yet."""
    citation = {"type": "citation-start", "index": 0, "delta": {"message": {"citations": {"start": 0, "text": "x"}}}}
    events = [
        citation,
        {"type": "citation-end", "index": 0},
        {"type": "debug", "prompt": "x"},
        {"type": "new", "delta": 1},
    ]
    assert feed(COHERE.decoder(), events) == []


def test_the_plan_of_a_recorded_reply_is_kept(shared: Path) -> None:
    """It is in the turn, and its calls have the arguments of the recording."""
    data = (shared / "recordings" / "cohere" / "ai__cohere-tool-call.sse").read_bytes()
    decoder = COHERE.decoder()
    deltas = [delta for record in SseDecoder().feed(data) for delta in decoder.decode(record)]
    turn = turn_of("cohere", deltas)
    assert turn["tool_plan"].startswith("I will use the weather tool to find")
    assert [one["function"]["arguments"] for one in turn["tool_calls"]] == [
        '{"location": "San Francisco"}',
        '{"city": "San Francisco"}',
    ]


# --- errors and cuts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (end("ERROR", error="it broke"), ErrorDelta(500, "", "it broke")),
        (end("ERROR"), ErrorDelta(500, "", "")),
        (end("TIMEOUT"), ErrorDelta(504, "TIMEOUT", "")),
        (end(None, error="it broke"), ErrorDelta(500, "", "it broke")),
        (end("COMPLETE", error="it broke"), ErrorDelta(500, "", "it broke")),
        ({"id": "e1", "message": "no such model"}, ErrorDelta(200, "", "no such model")),
        ({"error": {"message": "gateway", "code": 502}}, ErrorDelta(502, "", "gateway")),
        (b'[{"error": "in a list"}]', ErrorDelta(200, "", "in a list")),
    ],
)
def test_an_error_in_the_stream(last: Any, error: ErrorDelta) -> None:
    """It ends the reply, whatever its form, and is never taken for an end."""
    deltas = decode("cohere", content(text="a"), last)
    assert (deltas[0], deltas[-1]) == (TextDelta("a"), error)
    assert not only(EndDelta, deltas)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("openllmetry__test_agent_with_multiple_tools__5", 404, "model 'command-r' was removed"),
        (
            "ruby_llm__chat_error_handling_with_cohere_command-a-03-2025_raises_appropriate_auth_error__0",
            401,
            "Incorrect API key provided",
        ),
    ],
)
def test_recorded_error_bodies(shared: Path, name: str, status: int, words: str) -> None:
    """Cohere's own sentence."""
    data = (shared / "recordings" / "_errors" / f"cohere__{name}.body").read_bytes()
    kind, detail = COHERE.error(status, data, {})
    assert kind == ""
    assert detail.startswith(words)


@pytest.mark.parametrize(
    "odd",
    [
        {},
        [],
        b"{",
        {"type": "content-delta"},
        {"type": "content-delta", "delta": {"message": {"content": "x"}}},
        {"type": "content-delta", "delta": {"message": {"content": {"text": 1}}}},
        {"type": "content-start", "delta": {"message": {"content": []}}},
    ],
)
def test_an_event_whose_text_cannot_be_read(odd: Any) -> None:
    """It is an error and not left out in silence."""
    with pytest.raises(ProtocolError):
        feed(COHERE.decoder(), [odd])


def test_a_cut() -> None:
    """`message-end` counts without its blank line if it is whole, and nothing else does; [DONE] alone is a cut."""
    whole = msgspec.json.encode(end())
    for last in (None, Record(whole[:-1]), Record(msgspec.json.encode(content(text="late")))):
        decoder = COHERE.decoder()
        feed(decoder, [content(text="a")])
        with pytest.raises(Truncated):
            decoder.close(last)
    with pytest.raises(Truncated, match="message-end"):
        feed(COHERE.decoder(), [content(text="a"), b"[DONE]"])
    assert [type(delta) for delta in COHERE.decoder().close(Record(whole))] == [FinishDelta, EndDelta]


def test_half_characters_in_every_channel() -> None:
    """Joined across events where both halves come, else replaced; in arguments and in the plan too."""
    deltas = decode(
        "cohere",
        rb'{"type":"content-delta","delta":{"message":{"content":{"thinking":"\ud83d"}}}}',
        rb'{"type":"content-delta","delta":{"message":{"content":{"thinking":"\ude00"}}}}',
        rb'{"type":"content-delta","delta":{"message":{"content":{"text":"\ud83d"}}}}',
        rb'{"type":"tool-plan-delta","delta":{"message":{"tool_plan":"\ud83d"}}}',
        rb'{"type":"tool-plan-delta","delta":{"message":{"tool_plan":"\ude00"}}}',
        rb'{"type":"tool-call-start","index":0,"delta":{"message":{"tool_calls":{"id":"c","function":{"arguments":"\ud83d"}}}}}',
        rb'{"type":"tool-call-delta","index":0,"delta":{"message":{"tool_calls":{"function":{"arguments":"\ude00"}}}}}',
        end(),
    )
    assert (reasoning(deltas), text(deltas)) == ("\U0001f600", "\ufffd")
    assert turn_of("cohere", deltas)["tool_plan"] == "\U0001f600"
    assert calls(deltas)[0][2] == "\U0001f600"
    assert not any("\ud83d" in one.arguments for one in only(ToolDelta, deltas))


# --- the whole way --------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_prefill_is_asked_for_in_the_prompt() -> None:
    """Cohere takes a last assistant turn and does not continue it, so there is none; what the reply repeats is left out."""
    async with serve(Script(text='Ohio"]', asked="obeys")) as server:
        reply = stream("States?", prefill='["', model="cohere:command-a-03-2025", base_url=server.url, api_key="k")
        assert await reply.text() == '["Ohio"]'
    (exchange,) = server.exchanges
    assert (reply.mode, exchange.path, exchange.prefill) == ("emulated", "/v2/chat", "")
    assert exchange.headers["authorization"] == "Bearer k"


@pytest.mark.anyio
async def test_the_key_is_in_either_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """CO_API_KEY, which Cohere's client reads, before COHERE_API_KEY."""
    monkeypatch.setenv("COHERE_API_KEY", "second")
    assert stream("Hi", model="cohere:m")._run.requests.target.headers()["authorization"] == "Bearer second"
    monkeypatch.setenv("CO_API_KEY", "first")
    assert stream("Hi", model="cohere:m")._run.requests.target.headers()["authorization"] == "Bearer first"


@pytest.mark.anyio
async def test_a_conversation_with_a_tool() -> None:
    """The turn of a reply with a call goes into the next request as it is, and the result after it."""
    scripts = [Script(tools=[ToolCall(name="look", arguments={"at": 1}, id="c1")]), Script(text="A tree.")]
    async with serve(scripts) as server, Session("cohere:m", base_url=server.url, api_key="k") as session:
        first = session.stream("Look.", tools=[TOOL])
        assert await first.text() == ""
        assert first.stop_reason is StopReason.TOOL_USE
        assert first.message is not None
        again = session.stream([{"role": "user", "content": "Look."}, first.message, RESULT], tools=[TOOL])
        assert await again.text() == "A tree."
    turns = server.exchanges[1].json["messages"]
    assert turns[1:] == [{"role": "assistant", "tool_calls": [CALL]}, RESULT]

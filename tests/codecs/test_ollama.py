"""Ollama's own protocol: its options, its thinking, its calls with objects, its images, its last object and its errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aprefill import Session, stream
from aprefill._codecs import codec
from aprefill._codecs._neutral import calls_of
from aprefill._deltas import (
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
from aprefill.testing import Script, ToolCall, serve

from ..support.contracts import model_input
from . import calls, decode, feed, only, reasoning, text, turn_of

if TYPE_CHECKING:
    from pathlib import Path

OLLAMA = codec("ollama")

#: The neutral form of a tool, of a call of it and of its result.
TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":{"x":1}}'}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "a tree"}


def piece(content: str = "", **message: Any) -> dict[str, Any]:
    """One object of a stream."""
    return {"model": "m", "message": {"role": "assistant", "content": content, **message}, "done": False}


def done(reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    """The last object of a stream."""
    return {**piece(), "done": True, **({} if reason is None else {"done_reason": reason}), **more}


def called(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {**more, "function": {"name": name, "arguments": arguments}}


def body(**more: Any) -> dict[str, Any]:
    return OLLAMA.encode(model_input(**more))


def sent(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a request."""
    found = body(messages=messages)["messages"]
    assert isinstance(found, list)
    return found


# --- the request ----------------------------------------------------------------------------------------------


def test_the_settings_are_in_options() -> None:
    """The limit, the stop sequences and the temperature; no `options` if there is none of them."""
    user = {"role": "user", "content": "Hi"}
    assert body(max_tokens=None) == {"model": "a-model", "messages": [user], "stream": True}
    assert body(stop=("a", "b"), temperature=0.0)["options"] == {"num_predict": 9, "stop": ["a", "b"], "temperature": 0}


def test_the_callers_options_are_merged() -> None:
    """A field of `extra["options"]` is added, replaces one or, as None, removes it; the others stay."""
    assert body(extra={"options": {"num_ctx": 8192}})["options"] == {"num_predict": 9, "num_ctx": 8192}
    assert body(temperature=1, extra={"options": {"num_predict": None}})["options"] == {"temperature": 1}


def test_the_callers_options_do_not_undo_an_argument_unseen() -> None:
    """The field inside `options` is named, and so are the names of other hosts; another option undoes nothing."""
    assert OLLAMA.undone_by("max_tokens", {"options": {"num_ctx": 1, "num_predict": 2}}) == "options.num_predict"
    assert OLLAMA.undone_by("stop", {"options": {"stop": []}}) == "options.stop"
    assert OLLAMA.undone_by("temperature", {"options": None}) == "options.temperature"
    assert OLLAMA.undone_by("max_tokens", {"max_completion_tokens": 2}) == "max_completion_tokens"
    assert OLLAMA.undone_by("max_tokens", {"options": {"num_ctx": 1}}) is None
    assert OLLAMA.undone_by("thinking", {"think": False}) == "think"
    assert OLLAMA.undone_by("response_format", {"format": "json"}) == "format"


@pytest.mark.parametrize(
    ("thinking", "think"),
    [
        ({"type": "enabled", "budget_tokens": 9}, True),
        ({"type": "adaptive"}, True),
        ({"type": "disabled"}, False),
        ({"type": "disabled", "effort": "high"}, False),
        ({"enabled": False}, False),
        ({"effort": "none"}, False),
        ({"effort": "high"}, "high"),
    ],
)
def test_think(thinking: dict[str, Any], think: Any) -> None:
    """On, off, or one of the levels that gpt-oss knows."""
    found = body(thinking=thinking)
    assert found["think"] is think or found["think"] == think == "high"
    assert "think" not in body()
    assert "think" not in body(thinking={})


def test_think_in_extra_is_a_setting_in_use() -> None:
    """So that it is known to conflict with a prefill."""
    for value in (True, "low"):
        assert OLLAMA.settings_in_use({}, {"think": value}) == {"thinking": "extra['think']"}
    assert OLLAMA.settings_in_use({}, {"think": False}) == {}
    assert OLLAMA.settings_in_use({}, {"format": "json"}) == {"response_format": "extra['format']"}


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("wanted", "format_"),
    [
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}, SCHEMA),
        ({"type": "json_schema", "schema": SCHEMA}, SCHEMA),
        ({"type": "json_object", "schema": SCHEMA}, SCHEMA),
        ({"type": "json_object"}, "json"),
        (SCHEMA, SCHEMA),
    ],
)
def test_format(wanted: dict[str, Any], format_: Any) -> None:
    """The schema without its wrapping, or "json"."""
    assert body(response_format=wanted)["format"] == format_


def test_no_format() -> None:
    """Plain text needs none; a schema that is missing is the caller's error."""
    assert "format" not in body(response_format={"type": "text"})
    with pytest.raises(UsageError, match="schema"):
        body(response_format={"type": "json_schema", "json_schema": {"name": "n"}})


# --- tools and images -----------------------------------------------------------------------------------------


def test_the_neutral_form_is_translated() -> None:
    """Arguments become an object, and a result gets the name of its tool. The caller's messages stay as they are."""
    turn = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    before = json.dumps([turn, RESULT])
    assert sent({"role": "user", "content": "Hi"}, turn, RESULT)[1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {"at": {"x": 1}}}}],
        },
        {**RESULT, "tool_name": "look"},
    ]
    assert json.dumps([turn, RESULT]) == before
    assert body(tools=(TOOL,))["tools"] == [TOOL]


def test_ollamas_own_form_stays() -> None:
    """Calls with an object, results with the name of the tool, images beside the text, and a tool in any form."""
    own = (
        {"role": "user", "content": "What is this?", "images": ["iVBORw0KGgo="]},
        {"role": "assistant", "content": "", "thinking": "Hm", "tool_calls": [called("look", {"at": 1})]},
        {"role": "tool", "tool_name": "look", "content": "a tree"},
        {"role": "control", "content": "thinking"},
    )
    assert sent(*own) == list(own)
    assert body(tools=({"type": "x"},))["tools"] == [{"type": "x"}]


def test_a_result_without_its_call_is_sent_without_a_name() -> None:
    """Ollama takes it, and nothing else is known."""
    assert sent(RESULT) == [RESULT]
    assert sent({**RESULT, "tool_name": "mine"}) == [{**RESULT, "tool_name": "mine"}]


def test_arguments_that_are_no_object_are_the_callers_error() -> None:
    """Ollama would refuse the whole request."""
    for arguments in ("[1]", "{", "1"):
        with pytest.raises(UsageError, match="c1"):
            sent({"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **called("f", arguments)}]})


def test_parts_become_text_and_images() -> None:
    """The parts of other hosts: texts are joined, and the data of an image goes into `images`."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (turn,) = sent({"role": "user", "content": [*texts, image], "images": ["AAAA"]})
    assert turn == {"role": "user", "content": "a\n\nb", "images": ["AAAA", "iVBORw0KGgo="]}
    assert sent({"role": "assistant", "content": texts}) == [{"role": "assistant", "content": "ab"}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://host.test/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png,x"}},
        {"type": "image_url"},
        {"type": "input_audio"},
        {"type": "text", "text": 1},
        "text",
    ],
)
def test_parts_that_ollama_has_no_place_for(part: Any) -> None:
    """An image that would have to be fetched, another medium, or no part at all."""
    with pytest.raises(UsageError):
        sent({"role": "user", "content": [part]})


# --- the reply ------------------------------------------------------------------------------------------------


def test_a_piece_of_text_is_one_delta() -> None:
    """Nothing else is made of it, and a piece without text gives nothing."""
    assert feed(OLLAMA.decoder(), [piece("a"), piece(), piece("b")]) == [TextDelta("a"), TextDelta("b")]


def test_thinking_then_text() -> None:
    """The reasoning comes first, also within one object."""
    deltas = decode("ollama", piece(thinking="H"), piece("a", thinking="m"), done())
    assert deltas[:3] == [ReasoningDelta("H"), ReasoningDelta("m"), TextDelta("a")]
    assert turn_of("ollama", deltas, "x ") == {"role": "assistant", "content": "x a", "thinking": "Hm"}


def test_calls_come_whole() -> None:
    """Each has a number of its own, whatever Ollama's `index`; an old version sends no id."""
    many = [called("look", {"at": "ö"}, id="c1"), called("go", {}, id=7), called("see", '{"a":1}')]
    deltas = decode("ollama", piece(tool_calls=many[:2]), piece(tool_calls=many[2:]), done())
    assert calls(deltas) == {0: ("c1", "look", '{"at":"ö"}'), 1: ("7", "go", "{}"), 2: ("", "see", '{"a":1}')}
    assert only(FinishDelta, deltas) == [FinishDelta(StopReason.TOOL_USE, "stop")]


def test_a_reply_with_calls_can_be_sent_back_here_and_elsewhere() -> None:
    """Its turn has Ollama's form, which a request keeps; the neutral reading of it has the arguments as text."""
    deltas = decode("ollama", piece(tool_calls=[called("look", {"at": 1}, id="c1"), called("go", {})]), done())
    turn = turn_of("ollama", deltas)
    assert turn["tool_calls"] == [{"id": "c1", **called("look", {"at": 1})}, called("go", {})]
    assert sent(turn) == [turn]
    assert [(call.id, call.arguments) for call in calls_of(turn)] == [("c1", '{"at": 1}'), ("", "{}")]


@pytest.mark.parametrize(
    ("word", "reason"),
    [("stop", StopReason.END), ("length", StopReason.MAX_TOKENS), ("load", StopReason.OTHER), ("x", StopReason.OTHER)],
)
def test_why_it_ended(word: str, reason: StopReason) -> None:
    """In Ollama's own word too."""
    assert only(FinishDelta, decode("ollama", piece("a"), done(word))) == [FinishDelta(reason, word)]


def test_a_limit_within_calls_stays_a_limit() -> None:
    """The calls before it do not make a `TOOL_USE` of it."""
    deltas = decode("ollama", piece(tool_calls=[called("f", {})]), done("length"))
    assert only(FinishDelta, deltas) == [FinishDelta(StopReason.MAX_TOKENS, "length")]


def test_the_end_without_a_reason() -> None:
    """Ollama did not send a reason before May 2024: the reply is whole all the same."""
    deltas = decode("ollama", piece("a"), done(None))
    assert deltas == [TextDelta("a"), EndDelta()]


def test_the_last_object_may_hold_text() -> None:
    """And counts; a count that is no number, or not sent because the prompt was cached, is None."""
    deltas = decode(
        "ollama", {**done(prompt_eval_count=3, eval_count=4, total_duration=5), "message": {"content": "a"}}
    )
    assert text(deltas) == "a"
    (counts,) = only(UsageDelta, deltas)
    assert (counts.usage.input_tokens, counts.usage.output_tokens) == (3, 4)
    (counts,) = only(UsageDelta, decode("ollama", done(eval_count=4, prompt_eval_count="x")))
    assert (counts.usage.input_tokens, counts.usage.output_tokens) == (None, 4)
    assert only(UsageDelta, decode("ollama", done())) == []


def test_the_generate_form() -> None:
    """`/api/generate` has its text in `response`; servers in front of Ollama send it for a chat too."""
    pieces = [{"response": "", "thinking": "Hm", "done": False}, {"response": "a", "done": False}]
    deltas = decode("ollama", *pieces, {"response": "", "done": True, "done_reason": "stop"})
    assert (reasoning(deltas), text(deltas)) == ("Hm", "a")


def test_nothing_after_the_end() -> None:
    """Neither text nor an error."""
    decoder = OLLAMA.decoder()
    feed(decoder, [piece("a"), done()])
    assert feed(decoder, [piece("late"), {"error": "late"}, b"{"]) == []
    assert list(decoder.close()) == []


# --- errors and cuts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        ({"error": "model runner has unexpectedly stopped"}, 200, "model runner has unexpectedly stopped"),
        ({"StatusCode": 429, "Status": "429 Too Many Requests", "error": "slow down"}, 200, "slow down"),
        ({"error": "busy", "done": True}, 200, "busy"),
        ({"error": {"message": "gateway", "code": 502}}, 502, "gateway"),
        (b'{"error": "half \\ud83d"}', 200, "half \ufffd"),
        (b'[{"error": "in a list"}]', 200, "in a list"),
    ],
)
def test_an_error_in_the_stream(error: Any, status: int, detail: str) -> None:
    """It ends the reply. The status is that of the answer unless the error says another."""
    deltas = decode("ollama", piece("a"), error)
    assert deltas == [TextDelta("a"), ErrorDelta(status, "", detail)]


def test_recorded_error_body(shared: Path) -> None:
    """A model that is not there."""
    name = "ollama__openinference__test_chat_error_records_model_name__0"
    data = (shared / "recordings" / "_errors" / f"{name}.body").read_bytes()
    assert OLLAMA.error(404, data, {}) == ("", "model 'nonexistent-model:latest' not found")


@pytest.mark.parametrize(
    "odd", [{}, {"status": "pulling"}, {"message": None}, {"message": "x"}, [], 1, b"{", b"[DONE]"]
)
def test_an_object_that_is_no_piece(odd: Any) -> None:
    """It could have held text, so it is an error and not left out in silence."""
    with pytest.raises(ProtocolError):
        feed(OLLAMA.decoder(), [odd])


def test_a_cut() -> None:
    """The last object counts without its line end if it is whole, and nothing else does."""
    whole, half = msgspec.json.encode(done()), msgspec.json.encode(done())[:-1]
    for last in (None, Record(half), Record(msgspec.json.encode(piece("late")))):
        decoder = OLLAMA.decoder()
        feed(decoder, [piece("a")])
        with pytest.raises(Truncated):
            decoder.close(last)
    assert [type(delta) for delta in OLLAMA.decoder().close(Record(whole))] == [FinishDelta, EndDelta]
    assert [type(delta) for delta in OLLAMA.decoder().close(Record(b'{"error":"x"}'))] == [ErrorDelta]


def test_half_characters_in_every_channel() -> None:
    """Joined across objects where both halves come, else replaced; in arguments too."""
    halves = [
        rb'{"message":{"thinking":"\ud83d","content":""}}',
        rb'{"message":{"thinking":"\ude00","content":"\ud83d"}}',
        rb'{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":"\ud83d"}}}]}}',
        done(),
    ]
    deltas = decode("ollama", *halves)
    assert (reasoning(deltas), text(deltas)) == ("\U0001f600", "\ufffd")
    assert only(ToolDelta, deltas) == [ToolDelta(0, "", "f", '{"a":"\ufffd"}')]


# --- the whole way --------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_prefill_is_continued_without_thinking() -> None:
    """As a last assistant turn, which Ollama leaves out of its reply; without a prefill the model may think."""
    async with serve([Script(text='Ohio"]', prefill="eats"), Script(text="Ohio", reasoning="Hm")]) as server:
        async with Session("ollama:qwen3:8b", base_url=server.url) as session:
            reply = session.stream("States?", prefill='["', max_tokens=9)
            assert await reply.text() == '["Ohio"]'
            thought = session.stream("A state?", thinking={"type": "enabled"})
            assert await thought.text() == "Ohio"
    first, second = server.exchanges
    assert (reply.mode, first.path, first.prefill) == ("native", "/api/chat", '["')
    assert (first.json["think"], first.json["options"]) == (False, {"num_predict": 9})
    assert (thought.message, second.json["think"]) == (
        {"role": "assistant", "content": "Ohio", "thinking": "Hm"},
        True,
    )
    assert "authorization" not in first.headers
    assert reply.usage.input_tokens == 10


@pytest.mark.anyio
@pytest.mark.parametrize("how", [{"thinking": {"effort": "high"}}, {"extra": {"think": True}}])
async def test_thinking_and_a_prefill_do_not_go_together(how: dict[str, Any]) -> None:
    """The caller is told so, and nothing is sent."""
    async with serve(Script(text="x")) as server:
        with pytest.raises(UsageError, match="think"):
            await stream("Hi", prefill="a", model="ollama:qwen3:8b", base_url=server.url, **how).text()
    assert server.exchanges == []


@pytest.mark.anyio
async def test_a_conversation_with_a_tool() -> None:
    """The turn of a reply with a call goes into the next request as it is; the result gets the name of the tool."""
    scripts = [Script(tools=[ToolCall(name="look", arguments={"at": 1}, id="c1")]), Script(text="A tree.")]
    async with serve(scripts) as server, Session("ollama:m", base_url=server.url) as session:
        first = session.stream("Look.", tools=[TOOL])
        assert await first.text() == ""
        assert first.stop_reason is StopReason.TOOL_USE
        assert first.message is not None
        again = session.stream([{"role": "user", "content": "Look."}, first.message, RESULT], tools=[TOOL])
        assert await again.text() == "A tree."
    turns = server.exchanges[1].json["messages"]
    assert turns[1]["tool_calls"] == [{"id": "c1", **called("look", {"at": 1})}]
    assert turns[2] == {**RESULT, "tool_name": "look"}

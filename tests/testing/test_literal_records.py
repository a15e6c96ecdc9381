"""The exact records of the formats that aprefill does not use: a rich and an empty reply, streamed and whole."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from anyio import fail_after

from aprefill.testing import Script, ToolCall, serve

from .asking import records
from .asking_others import MODEL, ask, content, objects

if TYPE_CHECKING:
    import httpx2

pytestmark = pytest.mark.asyncio

RICH = Script(
    text="Ab",
    reasoning="Hm",
    tools=[ToolCall(name="f", arguments={"a": 1}), ToolCall(name="g", id="own")],
    cached_tokens=3,
    stop_reason="length",
)
EMPTY = Script(stop_reason="")


async def both(script: Script, wire: str) -> tuple[httpx2.Response, Any]:
    """Return the streamed response, and the whole reply as JSON."""
    with fail_after(10):
        async with serve(script) as server:
            return await ask(server, wire), (await ask(server, wire, stream=False)).json()


# --- Ollama ---------------------------------------------------------------------------------------------------


def line(done: bool = False, **message: Any) -> dict[str, Any]:
    head = {"model": MODEL, "created_at": "2026-11-18T11:06:40Z"}
    return {**head, "message": {"role": "assistant", "content": "", **message}, "done": done}


def durations(**more: Any) -> dict[str, Any]:
    times = {"total_duration": 30_000_000, "load_duration": 10_000_000}
    return {**more, **times, "prompt_eval_duration": 10_000_000, "eval_duration": 10_000_000}


async def test_ollama() -> None:
    """Ollama sends one record per piece. The last record has the stop reason and the counts."""
    streamed, whole = await both(RICH, "ollama")
    calls = [
        {"id": "call_00000000", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
        {"id": "own", "function": {"index": 1, "name": "g", "arguments": {}}},
    ]
    end = durations(done_reason="length", prompt_eval_count=10, eval_count=2)
    assert objects(streamed.text, "ollama") == [
        line(thinking="Hm"),
        line(content="Ab"),
        line(tool_calls=calls[:1]),
        line(tool_calls=calls[1:]),
        line(done=True) | end,
    ]
    calls[0]["id"] = "call_00010000"  # the id for the second request
    assert whole == line(done=True, thinking="Hm", content="Ab", tool_calls=calls) | end
    assert streamed.headers["content-type"] == "application/x-ndjson"


async def test_ollama_says_nothing() -> None:
    """An empty reply of Ollama is one record. An empty stop reason is left out."""
    streamed, whole = await both(EMPTY, "ollama")
    assert objects(streamed.text, "ollama") == [whole]
    assert whole == line(done=True) | durations(prompt_eval_count=10, eval_count=0)


# --- Gemini ---------------------------------------------------------------------------------------------------


def candidate(*parts: dict[str, Any], number: int, ends: dict[str, Any] | None = None, **usage: int) -> dict[str, Any]:
    details = {"promptTokenCount": 10, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}]}
    return {
        "candidates": [{"content": {"parts": [*parts], "role": "model"}, **(ends or {}), "index": 0}],
        "usageMetadata": {**details, "totalTokenCount": 10, **usage},
        "modelVersion": MODEL,
        "responseId": f"resp_{number:018d}",
    }


@pytest.mark.parametrize(
    ("wire", "kind"),
    [("gemini", "text/event-stream; charset=utf-8"), ("gemini-array", "application/json; charset=UTF-8")],
)
async def test_gemini(wire: str, kind: str) -> None:
    """Gemini sends one record per piece, with the prompt's tokens.

    The last record has the stop reason and the counts. Thoughts are counted separately.
    """
    streamed, whole = await both(RICH, wire)
    parts: list[dict[str, Any]] = [
        {"text": "Hm", "thought": True},
        {"text": "Ab"},
        {"functionCall": {"name": "f", "args": {"a": 1}}},
        {"functionCall": {"name": "g", "args": {}, "id": "own"}},
    ]
    usage = {"candidatesTokenCount": 1, "thoughtsTokenCount": 1, "cachedContentTokenCount": 3, "totalTokenCount": 12}
    ends = {"finishReason": "MAX_TOKENS"}
    assert objects(streamed.text, wire) == [
        *(candidate(part, number=0) for part in parts),
        candidate({"text": ""}, number=0, ends=ends, **usage),
    ]
    assert whole == candidate(*parts, number=1, ends=ends, **usage)
    assert streamed.headers["content-type"] == kind


@pytest.mark.parametrize("wire", ["gemini", "gemini-array"])
async def test_gemini_says_nothing(wire: str) -> None:
    """An empty reply of Gemini is one record with an empty part. An empty stop reason is left out."""
    streamed, whole = await both(EMPTY, wire)
    assert objects(streamed.text, wire) == [candidate({"text": ""}, number=0, candidatesTokenCount=0)]
    assert whole == candidate({"text": ""}, number=1, candidatesTokenCount=0)


# --- /responses -----------------------------------------------------------------------------------------------


def item_id(kind: str, number: int, request: int = 0) -> str:
    return f"{kind}_{request:040d}{number:08d}"


def items(request: int) -> list[dict[str, Any]]:
    """Return the items of the rich reply in their final state."""
    text = {"type": "output_text", "text": "Ab", "annotations": [], "logprobs": []}
    return [
        {"id": item_id("rs", 0, request), "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]},
        {
            "id": item_id("msg", 1, request),
            "type": "message",
            "role": "assistant",
            "status": "incomplete",
            "content": [text],
        },
        {
            "id": item_id("fc", 2, request),
            "type": "function_call",
            "status": "completed",
            "name": "f",
            "call_id": f"call_{request:020d}0000",
            "arguments": '{"a":1}',
        },
        {
            "id": item_id("fc", 3, request),
            "type": "function_call",
            "status": "completed",
            "name": "g",
            "call_id": "own",
            "arguments": "{}",
        },
    ]


async def test_responses() -> None:
    """/responses opens each item empty, fills it and closes it.

    Every event has its name twice and a sequence number. The last event has the whole reply.
    """
    streamed, whole = await both(RICH, "responses")
    named = records(streamed.text)
    events = objects(streamed.text, "responses")
    assert [name for name, _ in named] == [event["type"] for event in events]
    assert [event.pop("sequence_number") for event in events] == list(range(len(events)))
    done = items(request=0)
    thought, message, call, own = done
    place = {"item_id": thought["id"], "output_index": 0, "summary_index": 0}
    written = {"item_id": message["id"], "output_index": 1, "content_index": 0}
    asked, asked_own = ({"item_id": one["id"], "output_index": at} for at, one in ((2, call), (3, own)))
    empty_text = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    expected: list[tuple[str, dict[str, Any]]] = [
        ("output_item.added", {"output_index": 0, "item": {**thought, "summary": []}}),
        ("reasoning_summary_part.added", {**place, "part": {"type": "summary_text", "text": ""}}),
        ("reasoning_summary_text.delta", {**place, "delta": "Hm"}),
        ("reasoning_summary_text.done", {**place, "text": "Hm"}),
        ("reasoning_summary_part.done", {**place, "part": thought["summary"][0]}),
        ("output_item.done", {"output_index": 0, "item": thought}),
        ("output_item.added", {"output_index": 1, "item": {**message, "status": "in_progress", "content": []}}),
        ("content_part.added", {**written, "part": empty_text}),
        ("output_text.delta", {**written, "delta": "Ab", "logprobs": []}),
        ("output_text.done", {**written, "text": "Ab", "logprobs": []}),
        ("content_part.done", {**written, "part": message["content"][0]}),
        ("output_item.done", {"output_index": 1, "item": message}),
        ("output_item.added", {"output_index": 2, "item": {**call, "status": "in_progress", "arguments": ""}}),
        ("function_call_arguments.delta", {**asked, "delta": '{"a":1}'}),
        ("function_call_arguments.done", {**asked, "arguments": '{"a":1}'}),
        ("output_item.done", {"output_index": 2, "item": call}),
        ("output_item.added", {"output_index": 3, "item": {**own, "status": "in_progress", "arguments": ""}}),
        ("function_call_arguments.delta", {**asked_own, "delta": "{}"}),
        ("function_call_arguments.done", {**asked_own, "arguments": "{}"}),
        ("output_item.done", {"output_index": 3, "item": own}),
    ]
    created, in_progress, *middle, last = events
    assert middle == [{"type": f"response.{name}", **fields} for name, fields in expected]
    assert (created["type"], in_progress["type"]) == ("response.created", "response.in_progress")
    assert created["response"] == in_progress["response"]
    ended = {
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": done,
        "usage": {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 3},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 1},
            "total_tokens": 12,
        },
    }
    assert last == {"type": "response.incomplete", "response": {**created["response"], **ended}}
    begun = {"status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    assert created["response"].items() >= {**begun, "model": MODEL, "object": "response"}.items()
    assert whole == {**last["response"], "id": f"resp_{1:048d}", "output": items(request=1)}
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_responses_says_nothing() -> None:
    """An empty reply of /responses is one complete message without text."""
    streamed, whole = await both(EMPTY, "responses")
    *_, last = objects(streamed.text, "responses")
    for response, request in ((last["response"], 0), (whole, 1)):
        [message] = response["output"]
        assert message["id"] == item_id("msg", 0, request)
        assert (message["status"], message["content"][0]["text"]) == ("completed", "")
        assert (response["status"], response["usage"]["total_tokens"]) == ("completed", 10)


async def test_responses_that_only_think_have_no_message() -> None:
    """A reply of /responses that has only reasoning has no message, as when a model uses up its limit."""
    _, whole = await both(Script(reasoning="Hm", stop_reason="max_tokens"), "responses")
    assert [item["type"] for item in whole["output"]] == ["reasoning"]
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}


# --- characters that Go and Google escape ---------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["ollama", "gemini", "gemini-array"])
async def test_some_characters_are_escaped(wire: str) -> None:
    """Some characters are escaped as in the recordings.

    So a client that splits at any kind of line end loses no record.
    """
    text = "<a>&\u2028\u2029\u00e9"
    with fail_after(10):
        async with serve(Script(text=text, cuts=50)) as server:
            sent = (await ask(server, wire)).text
    assert r"\u003ca\u003e\u0026\u2028\u2029" + "\u00e9" in sent
    assert not re.search("[<>&\u2028\u2029]", sent)
    assert content(objects(sent, wire)[0], wire) == text

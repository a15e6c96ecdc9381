"""Gemini through `stream()`: both framings, what is said in JSON instead of a stream, and a history with tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from aprefill import (
    PrefillRefused,
    ProtocolError,
    ReasoningEvent,
    Recovery,
    Session,
    StatusError,
    StopReason,
    ToolEvent,
    Truncated,
)
from aprefill.testing import Script, ToolCall, serve

if TYPE_CHECKING:
    from aprefill.testing import Server

pytestmark = [pytest.mark.anyio, pytest.mark.any_loop]

MODEL = "gemini:gemini-2.5-flash"
JSON = "application/json; charset=UTF-8"
GOOD = Script(text="one two three", reasoning="Hm, hm.", tools=[ToolCall(name="look", arguments={"at": "ö"})])


def session(server: Server, model: str = MODEL) -> Session:
    return Session(model, base_url=f"{server.url}/v1beta", api_key="k", recovery=Recovery(retries=0))


async def array_of(script: Script) -> bytes:
    """The body of a reply for a request without `alt=sse`: one JSON array."""
    async with serve(script) as server, httpx2.AsyncClient() as client:
        url = f"{server.url}/v1beta/models/gemini-2.5-flash:streamGenerateContent"
        response = await client.post(url, json={"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]})
    assert response.headers["content-type"] == JSON
    assert response.content.startswith(b"[")
    return response.content


async def seen(server: Server) -> tuple[Any, ...]:
    """What a caller gets of a reply."""
    async with session(server) as gemini:
        reply = gemini.stream("Hi")
        events = [event async for event in reply.events()]
    others = [event for event in events if isinstance(event, ReasoningEvent | ToolEvent)]
    return others, reply.text_so_far, reply.stop_reason, reply.usage, reply.message


@pytest.mark.parametrize("wire_cuts", [None, 1, 7, 4096])
async def test_an_array_is_read_like_events(wire_cuts: int | None) -> None:
    """Text, thoughts, calls, usage and the turn for the next request are the same in both framings, in any pieces."""
    body = await array_of(GOOD)
    async with serve(GOOD) as server:
        events = await seen(server)
    async with serve(Script(body=body, content_type=JSON, framing="chunked", wire_cuts=wire_cuts)) as server:
        array = await seen(server)
    assert array == events
    assert [type(event) for event in array[0]] == [ReasoningEvent, ReasoningEvent, ToolEvent]
    assert array[1:3] == ("one two three", StopReason.TOOL_USE)


async def test_an_array_that_is_cut() -> None:
    """Without the record with the reason it is `Truncated`. Without the last bracket it is complete."""
    body = await array_of(Script(text="one two three"))
    assert body.rstrip().endswith(b"]")
    async with serve(Script(body=body.rstrip()[:-1], content_type=JSON, framing="chunked")) as server:
        async with session(server) as gemini:
            assert await gemini.stream("Hi").text() == "one two three"
    cut = body[: body.rindex(b"finishReason")]
    async with serve(Script(body=cut, content_type=JSON, framing="chunked")) as server, session(server) as gemini:
        with pytest.raises(Truncated) as met:
            await gemini.stream("Hi").text()
    assert met.value.text_so_far == "one two three"


ERROR = '{"error": {"code": 429, "message": "Resource has been exhausted.", "status": "RESOURCE_EXHAUSTED"}}'


@pytest.mark.parametrize("content_type", [JSON, "text/event-stream"])
@pytest.mark.parametrize("body", [ERROR, f"[{ERROR}]", f"\n [\n{ERROR}\n]\n"])
async def test_an_error_with_status_200(body: str, content_type: str) -> None:
    """As an object or in an array, whatever the content type says."""
    async with serve(Script(body=body.encode(), content_type=content_type)) as server, session(server) as gemini:
        with pytest.raises(StatusError, match="exhausted") as met:
            await gemini.stream("Hi").text()
    assert (met.value.status, met.value.error_type, met.value.in_band) == (429, "RESOURCE_EXHAUSTED", True)


@pytest.mark.parametrize("body", ["{}", '{"candidates": []}', '"text"', "", "<html>"])
async def test_json_that_is_no_stream(body: str) -> None:
    """It is a `ProtocolError`, as for every other protocol."""
    async with serve(Script(body=body.encode(), content_type=JSON)) as server, session(server) as gemini:
        with pytest.raises(ProtocolError, match="the answer is"):
            await gemini.stream("Hi").text()


async def test_a_blocked_prompt_is_a_refusal() -> None:
    """The reply is empty and complete."""
    body = b'data: {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}}\r\n\r\n'
    async with serve(Script(body=body, content_type="text/event-stream")) as server, session(server) as gemini:
        reply = gemini.stream("Hi")
        assert await reply.text() == ""
    assert (reply.stop_reason, reply.attempts[-1].raw_stop_reason) == (StopReason.REFUSAL, "PROHIBITED_CONTENT")
    assert reply.usage is not None
    assert reply.usage.input_tokens == 3


async def test_a_refused_prefill_is_emulated() -> None:
    """The host's words are known, so the same request is sent again without the model's turn."""
    async with serve([Script(prefill="refuses"), Script(text='["x"]')]) as server, session(server) as gemini:
        reply = gemini.stream("Hi", prefill='["')
        assert await reply.text() == '["x"]'
        assert reply.mode == "emulated"
    assert server.exchanges[0].prefill == '["'
    assert not server.exchanges[1].ends_with_assistant
    async with serve(Script(prefill="refuses")) as server, session(server, "gemini:gemini-2.5-pro") as strict:
        with pytest.raises(PrefillRefused):
            await strict.stream("Hi", prefill='["', strict=True).text()


async def test_a_history_with_tools_goes_on() -> None:
    """The reply's message and a result in the form of chat completions are the next request, with the signature."""
    signed = (
        b'[{"candidates":[{"content":{"parts":[{"functionCall":{"name":"look","args":{"at":1}},"thoughtSignature":"s"}]},'
        b'"finishReason":"STOP"}]}]'
    )
    async with serve([Script(body=signed, content_type=JSON), Script(text="It is 1.")]) as server:
        async with session(server, "gemini:gemini-3-flash-preview") as gemini:
            first = gemini.stream("Look.", tools=[{"type": "function", "function": {"name": "look"}}])
            (call,) = [event async for event in first.events() if isinstance(event, ToolEvent)]
            answer = {"role": "tool", "tool_call_id": call.id, "content": "1"}
            prompt = [{"role": "user", "content": "Look."}, first.message, answer]
            assert await gemini.stream(prompt).text() == "It is 1."
    assert server.exchanges[0].json["tools"] == [{"functionDeclarations": [{"name": "look"}]}]
    assert server.exchanges[1].json["contents"][1:] == [
        {"role": "model", "parts": [{"functionCall": {"name": "look", "args": {"at": 1}}, "thoughtSignature": "s"}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "look", "response": {"output": "1"}}}]},
    ]


PRETTY = '{\r\n  "error": {\r\n    "code": 503,\r\n    "message": "overloaded",\r\n    "status": "UNAVAILABLE"\r\n  }\r\n}\r\n'


@pytest.mark.parametrize("after", ["", "\r\n", "\r\n\r\n"])
async def test_an_error_between_the_events(after: str) -> None:
    """Google's own client also reads an error that is bare JSON on several lines. The text before it is kept."""
    event = 'data: {"candidates": [{"content": {"parts": [{"text": "one "}]}}]}\r\n\r\n'
    body = (event + PRETTY + after).encode()
    async with serve(Script(body=body, content_type="text/event-stream")) as server, session(server) as gemini:
        with pytest.raises(StatusError, match="overloaded") as met:
            await gemini.stream("Hi").text()
    assert (met.value.status, met.value.error_type, met.value.text_so_far) == (503, "UNAVAILABLE", "one ")


async def test_an_error_between_the_events_of_another_protocol() -> None:
    """A gateway in front of another host gets the same."""
    event = 'data: {"choices": [{"delta": {"content": "one "}}]}\n\n'
    async with serve(Script(body=(event + PRETTY).encode(), content_type="text/event-stream")) as server:
        async with Session("vllm:m", base_url=f"{server.url}/v1", recovery=Recovery(retries=0)) as chat:
            with pytest.raises(StatusError, match="overloaded") as met:
                await chat.stream("Hi").text()
    assert (met.value.status, met.value.text_so_far) == (503, "one ")

"""The official SDKs take the server for a real host, in good replies and in errors."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
from anyio import fail_after

from aprefill.testing import Script, Server, ToolCall, serve

from ..support.sdk_http import http_of
from .asking import CALL, PATHS, REFUSAL, WAYS, WIRES, ask, body, client_of, deltas, is_whole, openai_client, records

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [
    pytest.mark.any_loop,
    pytest.mark.anyio,
    # the SDKs leave their own generators to the garbage collector, which trio reports
    pytest.mark.filterwarnings("ignore:Exception ignored in.*async_generator:pytest.PytestUnraisableExceptionWarning"),
]

MODEL = "claude-haiku-4-5"
PREFILLED: Any = [{"role": "user", "content": "Name two states."}, {"role": "assistant", "content": '["'}]
STATES = 'Alabama", "Alaska"]'
CALL_OPENAI: Any = {"type": "function", "function": {"name": "look_up"}}
CALL_ANTHROPIC: Any = {"name": "look_up", "input_schema": {"type": "object"}}


@asynccontextmanager
async def anthropic_client(server: Server) -> AsyncGenerator[anthropic.AsyncAnthropic, None]:
    http = http_of(anthropic).AsyncClient(verify=server.ssl_context or False)
    async with anthropic.AsyncAnthropic(
        base_url=server.url, api_key="test", max_retries=0, timeout=10, http_client=http
    ) as client:
        yield client


@WAYS
async def test_openai_streams_it(tls: bool, newline: str, wire_cuts: int | None) -> None:
    """The openai SDK streams text, usage and finish reason, with every transport."""
    script = Script(text=STATES, newline=newline, wire_cuts=wire_cuts, input_tokens=21, cached_tokens=20)
    with fail_after(10):
        async with serve(script, tls=tls) as server, openai_client(server) as client:
            stream = await client.chat.completions.create(
                model=MODEL, messages=PREFILLED, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == STATES
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (21, 5, 26)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 20


@WAYS
async def test_anthropic_streams_it(tls: bool, newline: str, wire_cuts: int | None) -> None:
    """The anthropic SDK streams text, usage and stop reason, with every transport."""
    script = Script(text=STATES, newline=newline, wire_cuts=wire_cuts, input_tokens=21, cached_tokens=20)
    with fail_after(10):
        async with serve(script, tls=tls) as server, anthropic_client(server) as client:
            async with client.messages.stream(model=MODEL, max_tokens=99, messages=PREFILLED) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                message = await stream.get_final_message()
    assert text == STATES
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (21, 5, 20)


async def test_openai_reads_reasoning_and_tool_calls() -> None:
    """The openai SDK reads reasoning in `reasoning_content`, and tool arguments in fragments."""
    script = Script(text="I look.", reasoning="Hm, hm.", tools=[CALL, ToolCall(name="f", id="call_1")])
    reasoning, arguments, names = "", ["", ""], []
    with fail_after(10):
        async with serve(script) as server, openai_client(server) as client:
            stream = await client.chat.completions.create(
                model=MODEL, messages=PREFILLED[:1], stream=True, tools=[CALL_OPENAI]
            )
            async for chunk in stream:
                delta = chunk.choices[0].delta
                reasoning += (delta.model_extra or {}).get("reasoning_content") or ""
                for call in delta.tool_calls or []:
                    assert call.function is not None
                    arguments[call.index] += call.function.arguments or ""
                    names += [(call.id, call.function.name)] if call.function.name else []
    assert reasoning == "Hm, hm."
    assert [json.loads(a) for a in arguments] == [CALL.arguments, {}]
    assert [name for _, name in names] == ["look_up", "f"]
    assert names[1][0] == "call_1"
    assert chunk.choices[0].finish_reason == "tool_calls"


async def test_anthropic_reads_thinking_and_tool_calls() -> None:
    """The anthropic SDK reads the blocks in order, with signed thinking and the whole tool input."""
    script = Script(text="I look.", reasoning="Hm, hm.", tools=[CALL])
    with fail_after(10):
        async with serve(script) as server, anthropic_client(server) as client:
            async with client.messages.stream(
                model=MODEL, max_tokens=99, messages=PREFILLED[:1], tools=[CALL_ANTHROPIC]
            ) as stream:
                message = await stream.get_final_message()
    thinking, text, tool = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "Hm, hm."
    assert thinking.signature
    assert text.type == "text"
    assert text.text == "I look."
    assert tool.type == "tool_use"
    assert (tool.name, tool.input) == ("look_up", CALL.arguments)
    assert message.stop_reason == "tool_use"


async def test_both_answer_a_request_without_a_stream() -> None:
    """Both SDKs get the same text from a request without a stream."""
    script = Script(text="I look.", reasoning="Hm.", tools=[CALL], prefill="echoes")
    with fail_after(10):
        async with serve(script) as server, openai_client(server) as one, anthropic_client(server) as other:
            completion = await one.chat.completions.create(model=MODEL, messages=PREFILLED)
            message = await other.messages.create(model=MODEL, max_tokens=99, messages=PREFILLED)
    choice = completion.choices[0]
    assert choice.message.content == '["I look.'
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].type == "function"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == CALL.arguments
    assert choice.finish_reason == "tool_calls"
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[1].model_dump()["text"] == '["I look.'
    assert message.content[2].model_dump()["input"] == CALL.arguments
    assert completion.usage is not None
    assert completion.usage.completion_tokens == message.usage.output_tokens


async def test_a_stop_sequence_is_told_as_each_host_tells_it() -> None:
    """Anthropic names the stop sequence that ended the text. OpenAI says "stop", as for any normal end."""
    with fail_after(10):
        async with serve(Script(text="a\n```\nb")) as server:
            async with anthropic_client(server) as client:
                message = await client.messages.create(
                    model=MODEL, max_tokens=99, messages=PREFILLED[:1], stop_sequences=["```"]
                )
            async with openai_client(server) as other:
                completion = await other.chat.completions.create(model=MODEL, messages=PREFILLED[:1], stop="```")
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "```")
    assert message.content[0].model_dump()["text"] == "a\n"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].message.content == "a\n"


@pytest.mark.parametrize(
    ("word", "on_anthropic", "on_openai"),
    [
        ("max_tokens", "max_tokens", "length"),
        ("content_filter", "refusal", "content_filter"),
        ("model_length", "model_length", "model_length"),
        ("", None, None),
    ],
)
async def test_a_scripted_reason_is_in_the_words_of_the_wire(
    word: str, on_anthropic: str | None, on_openai: str | None
) -> None:
    """A script's stop reason is sent in the protocol's own word.

    A word that neither protocol has is sent unchanged, and an empty one is null, as with Ollama.
    """
    with fail_after(10):
        async with serve(Script(text="x", stop_reason=word)) as server:
            one = (await ask(server, "anthropic", stream=False)).json()
            other = (await ask(server, "openai", stream=False)).json()
    assert one["stop_reason"] == on_anthropic
    assert other["choices"][0]["finish_reason"] == on_openai


async def test_a_refusal_is_the_sdks_bad_request() -> None:
    """A refusal is each SDK's bad request error: with Anthropic's exact body, and in OpenAI's form of an error."""
    with fail_after(10):
        async with serve(Script(text="x", prefill="refuses")) as server:
            async with anthropic_client(server) as client:
                with pytest.raises(anthropic.BadRequestError, match=REFUSAL) as caught:
                    await client.messages.create(model=MODEL, max_tokens=9, messages=PREFILLED, stream=True)
                assert caught.value.body == {
                    "type": "error",
                    "error": {"type": "invalid_request_error", "message": REFUSAL},
                    "request_id": caught.value.request_id,
                }
                assert caught.value.request_id is not None
                assert caught.value.request_id.startswith("req_")
                # without a prefill the model answers
                assert (await client.messages.create(model=MODEL, max_tokens=9, messages=PREFILLED[:1])).content
            async with openai_client(server) as other:
                with pytest.raises(openai.BadRequestError, match=REFUSAL) as refused:
                    await other.chat.completions.create(model=MODEL, messages=PREFILLED, stream=True)
                assert refused.value.type == "invalid_request_error"
                assert refused.value.request_id is not None


@pytest.mark.parametrize(
    ("status", "on_anthropic", "on_openai"),
    [
        (401, anthropic.AuthenticationError, openai.AuthenticationError),
        (404, anthropic.NotFoundError, openai.NotFoundError),
        (429, anthropic.RateLimitError, openai.RateLimitError),
        (500, anthropic.InternalServerError, openai.InternalServerError),
        # a class of its own in anthropic 1.x, a server error in 2.x
        (529, anthropic.APIStatusError, openai.InternalServerError),
    ],
)
async def test_an_error_status_is_the_sdks_error(
    status: int, on_anthropic: type[anthropic.APIStatusError], on_openai: type[openai.APIStatusError]
) -> None:
    """An error status is the SDK's own error. Its type and message are usual ones or the script's."""
    with fail_after(10):
        async with serve(
            [
                Script(status=status),
                Script(status=status, error=("made_up", "My words")),
            ]
        ) as server:
            async with anthropic_client(server) as client:
                with pytest.raises(on_anthropic) as caught:
                    await client.messages.create(model=MODEL, max_tokens=9, messages=PREFILLED)
                assert caught.value.status_code == status
                assert caught.value.body["type"] == "error"
            async with openai_client(server) as other:
                with pytest.raises(on_openai, match="My words") as told:
                    await other.chat.completions.create(model=MODEL, messages=PREFILLED)
                assert told.value.type == "made_up"


async def test_retry_after_is_seconds_or_a_date() -> None:
    """`retry-after` is seconds or a date. The SDKs find it, and their second request succeeds."""
    scripts = [
        Script(status=429, retry_after=0.01),
        Script(status=529, retry_after="Fri, 31 Dec 1999 23:59:59 GMT"),
    ]
    with fail_after(10):
        async with serve([*scripts, Script(text="ok")]) as server, anthropic_client(server) as client:
            with pytest.raises(anthropic.RateLimitError) as caught:
                await client.messages.create(model=MODEL, max_tokens=9, messages=PREFILLED)
            assert caught.value.response.headers["retry-after"] == "0.01"
            with pytest.raises(anthropic.APIStatusError) as dated:
                await client.messages.create(model=MODEL, max_tokens=9, messages=PREFILLED)
            assert dated.value.status_code == 529
            assert dated.value.response.headers["retry-after"].endswith("GMT")
        async with serve([scripts[0], Script(text="ok")]) as server, openai_client(server) as other:
            retrying = other.with_options(max_retries=1)
            completion = await retrying.chat.completions.create(model=MODEL, messages=PREFILLED)
            assert completion.choices[0].message.content == "ok"
            assert len(server.exchanges) == 2


async def test_an_error_event_is_the_sdks_error() -> None:
    """An error event in a response with status 200 is the SDK's error, after the text that came before it."""
    script = Script(text="abcdefgh", after=6, error_event=("overloaded_error", "Overloaded"))
    with fail_after(10):
        async with serve(script) as server:
            async with anthropic_client(server) as client:
                pieces = []
                with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
                    async with client.messages.stream(model=MODEL, max_tokens=9, messages=PREFILLED) as stream:
                        async for piece in stream.text_stream:
                            pieces.append(piece)
                assert pieces == ["abcd", "ef"]
            async with openai_client(server) as other:
                got = ""
                with pytest.raises(openai.APIError, match="Overloaded"):
                    async for chunk in await other.chat.completions.create(
                        model=MODEL, messages=PREFILLED, stream=True
                    ):
                        got += chunk.choices[0].delta.content or ""
                assert got == "abcdef"


async def test_the_events_are_those_of_a_recording() -> None:
    """The events have the names and the order of a recording of api.anthropic.com, with thinking, text and a tool."""
    with fail_after(10):
        async with serve(Script(text="ab", reasoning="c", tools=[ToolCall(name="f")])) as server:
            response = await ask(server, "anthropic")
    block = ["content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"]
    assert [event for event, _ in records(response.text)] == [
        "message_start",
        "content_block_start",
        "ping",
        *block[1:],  # the thinking and its signature
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        *block,
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize("wire", WIRES)
async def test_an_empty_reply_is_a_whole_reply(wire: str) -> None:
    """An empty reply has no delta and a proper end."""
    with fail_after(10):
        async with serve(Script()) as server:
            response = await ask(server, wire, "abc")
    assert deltas(response.text) == []
    assert is_whole(response.text)


@pytest.mark.parametrize("wire", WIRES)
async def test_deltas_may_hold_what_utf8_cannot(wire: str) -> None:
    """A delta can hold half a surrogate pair, as hosts send that cut their text by UTF-16 units."""
    with fail_after(10):
        async with serve(Script(cuts=["a\ud83d", "\ude00b"])) as server:
            response = await ask(server, wire)
    assert deltas(response.text) == ["a\ud83d", "\ude00b"]


@pytest.mark.parametrize("wire", WIRES)
async def test_trailing_white_space_is_refused_where_scripted(wire: str) -> None:
    """With `refuse_trailing_whitespace` a prefill that ends in white space is refused in Anthropic's words."""
    with fail_after(10):
        async with serve(Script(text="x", refuse_trailing_whitespace=True)) as server:
            refused = await ask(server, wire, "Well ")
            taken = await ask(server, wire, "Well")
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == (
        "messages: final assistant content cannot end with trailing whitespace"
    )
    assert taken.status_code == 200


async def test_only_the_two_wires_are_there() -> None:
    """The two protocols are found under any prefix (Azure, proxies). Other paths get a 404 and use no script."""
    with fail_after(10):
        async with serve([Script(text="one"), Script(text="two")]) as server, client_of(server) as client:
            assert (await client.get(server.url + PATHS["openai"])).status_code == 404
            assert (await client.post(server.url + "/v1/embeddings", json={})).status_code == 404
            path = "/openai/deployments/x/chat/completions?api-version=1"
            response = await client.post(server.url + path, json=body(stream=False))
    assert response.json()["choices"][0]["message"]["content"] == "one"

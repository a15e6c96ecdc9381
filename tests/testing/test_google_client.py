"""aprefill beside Google's own client: both ask the same server, and both get the same. `nox -s sdks`."""

from __future__ import annotations

import gc
import json
import re
import warnings
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("google.genai", reason="Google's own client is not installed: nox -s sdks")

from anyio import fail_after
from google import genai
from google.genai import errors, types

from aprefill import ReasoningEvent, Recovery, StatusError, ToolEvent, stream
from aprefill.testing import Script, ToolCall, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aprefill.testing import Server


@pytest.fixture(scope="module", autouse=True)
def _their_own_leftovers() -> Iterator[None]:
    """Streams that are left keep connections for the collector: it finds them here, where such warnings are ignored."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.asyncio]

MODEL = "gemini-2.5-flash"
CALL = ToolCall(name="look_up", arguments={"state": "Alabama", "years": [1819]}, id="c7")
SCHEMA = {"type": "object", "properties": {"state": {"type": "string"}}, "additionalProperties": False}


def ours(server: Server, prompt: Any = "Two states.", **options: Any) -> Any:
    options = {"recovery": Recovery(retries=0), "support": "eats", **options}
    return stream(prompt, model=f"gemini:{MODEL}", base_url=f"{server.url}/v1beta", api_key="any", **options)


async def theirs(server: Server, contents: Any = "Two states.", **config: Any) -> list[Any]:
    client = genai.Client(api_key="any", http_options={"base_url": server.url, "api_version": "v1beta"})
    async with client.aio as asked:
        given = types.GenerateContentConfig(**config) if config else None
        found = await asked.models.generate_content_stream(model=MODEL, contents=contents, config=given)
        return [part async for part in found]


@pytest.mark.parametrize(
    "script",
    [
        Script(text="Alabama, Alaska"),
        Script(text="Älabama <&> 😀", reasoning="Hm, hm.", input_tokens=21, cached_tokens=7),
        Script(text="I look.", tools=[CALL, ToolCall(name="now")]),
        Script(tools=[CALL]),
        Script(text="Alabama, Alaska", stop_reason="max_tokens"),
        Script(text="Alabama, Alaska", stop_reason="SAFETY"),
    ],
    ids=["text", "thoughts", "text and calls", "a call", "a limit", "safety"],
)
@pytest.mark.parametrize("wire_cuts", [None, 7])
async def test_both_read_the_same(script: Script, wire_cuts: int | None) -> None:
    """Text, thoughts, calls, the reason and the counts."""
    with fail_after(20):
        async with serve(script) as server:
            parts = await theirs(server)
            reply = ours(server)
            events = [event async for event in reply.events()]
    said = [one for part in parts for one in part.candidates[0].content.parts]
    assert reply.text_so_far == "".join(one.text or "" for one in said if not one.thought)
    thoughts = [event.text for event in events if isinstance(event, ReasoningEvent)]
    assert "".join(thoughts) == "".join(one.text or "" for one in said if one.thought)
    calls = [one.function_call for one in said if one.function_call]
    made = [event for event in events if isinstance(event, ToolEvent)]
    assert [(event.name, json.loads(event.arguments)) for event in made] == [
        (call.name, call.args or {}) for call in calls
    ]
    assert [call.id or f"call_{at}" for at, call in enumerate(calls)] == [event.id for event in made]
    assert reply.attempts[-1].raw_stop_reason == parts[-1].candidates[0].finish_reason
    usage = parts[-1].usage_metadata
    assert reply.usage.input_tokens == usage.prompt_token_count
    assert reply.usage.output_tokens == (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    assert reply.usage.cache_read_tokens == usage.cached_content_token_count
    assert reply.usage.reasoning_tokens == usage.thoughts_token_count


def in_camel_case(value: Any) -> Any:
    """`value` with its fields in one spelling: their client mixes both, and the host accepts both."""
    if isinstance(value, dict):
        return {
            re.sub(r"_([a-z])", lambda found: found[1].upper(), name): in_camel_case(one) for name, one in value.items()
        }
    return [in_camel_case(one) for one in value] if isinstance(value, list) else value


async def test_both_ask_the_same() -> None:
    """Prompt, system, limits, thinking, a schema and a prefill's turn are the same path, key header and body."""
    with fail_after(20):
        async with serve(Script(text='"]')) as server:
            await theirs(
                server,
                [
                    types.Content(role="user", parts=[types.Part(text="Hi")]),
                    types.Content(role="model", parts=[types.Part(text='["')]),
                ],
                system_instruction=types.Content(parts=[types.Part(text="Be brief.")]),
                max_output_tokens=9,
                stop_sequences=["a", "b"],
                temperature=0.5,
                thinking_config=types.ThinkingConfig(thinking_budget=0),
                response_mime_type="application/json",
                response_json_schema=SCHEMA,
                tools=[
                    types.Tool(
                        function_declarations=[types.FunctionDeclaration(name="f", parameters_json_schema=SCHEMA)]
                    )
                ],
            )
            await ours(
                server,
                "Hi",
                prefill='["',
                system="Be brief.",
                max_tokens=9,
                stop=["a", "b"],
                temperature=0.5,
                thinking={"thinkingBudget": 0},
                response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
                tools=[{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
            ).text()
            google, aprefill = server.exchanges
    assert aprefill.path == google.path
    assert aprefill.headers["x-goog-api-key"] == google.headers["x-goog-api-key"]
    assert aprefill.json == in_camel_case(google.json)


async def test_a_history_with_tools_is_one_that_their_client_knows() -> None:
    """Every field of a history in the form of chat completions has the name and the type that their client gives it."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    async with serve(Script(text="ok")) as server:
        await ours(server, prompt, tools=[{"type": "function", "function": {"name": "f"}}]).text()
    (sent,) = server.exchanges
    contents = [types.Content.model_validate(one) for one in sent.json["contents"]]
    types.Content.model_validate(sent.json["systemInstruction"])
    (tool,) = [types.Tool.model_validate(one) for one in sent.json["tools"]]
    assert contents[1].parts[0].function_call == types.FunctionCall(id="c1", name="f", args={"a": 1})
    assert contents[2].parts[0].function_response == types.FunctionResponse(
        id="c1", name="f", response={"output": "noon"}
    )
    assert tool.function_declarations == [types.FunctionDeclaration(name="f")]
    # the control: their types refuse a field that they do not know
    with pytest.raises(ValueError, match="name_of_function"):
        types.FunctionCall.model_validate({"name_of_function": "f"})


async def test_both_raise_the_error_in_the_stream() -> None:
    """With the same status, the same word and the same message."""
    script = Script(text="Alabama", after=4, error_event=("overloaded_error", "The model is overloaded."))
    with fail_after(20):
        async with serve(script) as server:
            with pytest.raises(errors.APIError) as google:
                await theirs(server)
            with pytest.raises(StatusError) as aprefill:
                await ours(server).text()
    assert (aprefill.value.status, aprefill.value.error_type) == (google.value.code, google.value.status)
    assert google.value.message == aprefill.value.detail
    assert aprefill.value.text_so_far == "Alab"

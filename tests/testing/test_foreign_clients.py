"""Ollama's and Google's own clients take the server for a real host. `nox -s sdks` installs them."""

from __future__ import annotations

import asyncio
import gc
import warnings
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("ollama", reason="Ollama's own client is not installed: nox -s sdks")
pytest.importorskip("google.genai", reason="Google's own client is not installed: nox -s sdks")

import ollama
from anyio import fail_after
from google import genai
from google.genai import errors

from aprefill.testing import Script, Server, ToolCall, serve

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator


@pytest.fixture(scope="module", autouse=True)
def _their_own_leftovers() -> Iterator[None]:
    """Collect what these clients leave open here, where the warnings about it are ignored."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


pytestmark = [
    # both clients use httpx, whose generators are left to the garbage collector
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.asyncio,
]

TEXT = 'Alabama", "Alaska"]'
CALL = ToolCall(name="look_up", arguments={"state": "Alabama", "year": 1819})
GOOD = Script(text=TEXT, reasoning="Hm, hm.", tools=[CALL], input_tokens=21, prefill="echoes")
MESSAGES: Any = [{"role": "user", "content": "Two states."}, {"role": "assistant", "content": '["'}]
CONTENTS: Any = [
    {"role": "user", "parts": [{"text": "Two states."}]},
    {"role": "model", "parts": [{"text": '["'}]},
]


@asynccontextmanager
async def google(server: Server) -> AsyncGenerator[Any, None]:
    client = genai.Client(api_key="any", http_options={"base_url": server.url})
    async with client.aio as asked:
        yield asked


@pytest.mark.parametrize("wire_cuts", [None, 1, 100_000])
async def test_ollama_streams(wire_cuts: int | None) -> None:
    """Ollama's client streams text, thoughts, tool calls, the stop reason and the token counts."""
    with fail_after(10):
        async with serve(replace(GOOD, wire_cuts=wire_cuts)) as server, ollama.AsyncClient(host=server.url) as client:
            parts = [part async for part in await client.chat(model="m", messages=MESSAGES, stream=True)]
            assert server.exchanges[0].prefill == '["'
    assert "".join(part.message.content or "" for part in parts) == '["' + TEXT
    assert "".join(part.message.thinking or "" for part in parts) == "Hm, hm."
    [call] = [call for part in parts for call in part.message.tool_calls or ()]
    assert (call.function.name, call.function.arguments) == ("look_up", CALL.arguments)
    assert (parts[-1].done, parts[-1].done_reason) == (True, "stop")
    assert (parts[-1].prompt_eval_count, parts[-1].eval_count) == (21, 7)


async def test_ollama_reads_a_whole_reply_and_the_errors() -> None:
    """Ollama's client reads a whole reply, an error status, and an error as a line of a stream."""
    scripts = [
        GOOD,
        Script(status=404, error=("not_found_error", "model 'm' not found")),
        Script(text=TEXT, after=6, error_event=("api_error", "it broke")),
    ]
    got = ""
    with fail_after(10):
        static = {"/api/tags": {"models": [{"model": "m"}]}}
        async with serve(scripts, static=static) as server, ollama.AsyncClient(host=server.url) as client:
            whole = await client.chat(model="m", messages=MESSAGES)
            with pytest.raises(ollama.ResponseError, match="not found") as told:
                await client.chat(model="m", messages=MESSAGES)
            with pytest.raises(ollama.ResponseError, match="it broke"):
                async for part in await client.chat(model="m", messages=MESSAGES, stream=True):
                    got += part.message.content or ""
            assert [model.model for model in (await client.list()).models] == ["m"]
    assert (whole.message.content, whole.message.thinking) == ('["' + TEXT, "Hm, hm.")
    assert told.value.status_code == 404
    assert got == "Alabam"


@pytest.mark.parametrize("wire_cuts", [None, 1, 100_000])
async def test_google_streams(wire_cuts: int | None) -> None:
    """Google's client streams text, thoughts, tool calls, the stop reason and the token counts."""
    with fail_after(20):
        async with serve(replace(GOOD, wire_cuts=wire_cuts)) as server, google(server) as client:
            stream = await client.models.generate_content_stream(model="gemini-2.5-flash", contents=CONTENTS)
            parts = [part async for part in stream]
            assert server.exchanges[0].prefill == '["'
            assert server.exchanges[0].path.endswith("alt=sse")
    said = [one for part in parts for one in part.candidates[0].content.parts]
    assert "".join(one.text or "" for one in said if not one.thought) == '["' + TEXT
    assert "".join(one.text or "" for one in said if one.thought) == "Hm, hm."
    [call] = [one.function_call for one in said if one.function_call]
    assert (call.name, call.args) == ("look_up", CALL.arguments)
    assert parts[-1].candidates[0].finish_reason == "STOP"
    usage = parts[-1].usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count) == (21, 5, 2)
    assert parts[-1].model_version == "gemini-2.5-flash"


async def test_google_reads_a_whole_reply_and_the_errors() -> None:
    """Google's client reads a whole reply, an error status, and an error inside a stream."""
    scripts = [
        GOOD,
        Script(prefill="refuses"),
        Script(text=TEXT, after=6, error_event=("overloaded_error", "The model is overloaded.")),
    ]
    got = ""
    with fail_after(20):
        async with serve(scripts) as server, google(server) as client:
            whole = await client.models.generate_content(model="m", contents=CONTENTS)
            with pytest.raises(errors.ClientError, match="Requests ending with a model turn") as told:
                await client.models.generate_content(model="m", contents=CONTENTS)
            with pytest.raises(errors.APIError, match="overloaded"):
                async for part in await client.models.generate_content_stream(model="m", contents=CONTENTS):
                    got += part.text or ""
    parts = whole.candidates[0].content.parts
    assert [(one.text, one.thought) for one in parts[:2]] == [("Hm, hm.", True), ('["' + TEXT, None)]
    assert (told.value.code, told.value.status) == (400, "INVALID_ARGUMENT")
    assert got == "Alabam"


async def test_what_keeps_it_alive_is_passed_over() -> None:
    """Both clients ignore keep-alives, and get no text from them."""
    scripts = Script(text=TEXT, keepalive_after=6, keepalive_s=0.001)
    with fail_after(20):
        async with serve(scripts) as server, google(server) as client:
            text = ""
            stream = await client.models.generate_content_stream(model="m", contents=CONTENTS)
            async for part in stream:
                text += part.text or ""
                if text == "Alabam":
                    break
            exchange = server.exchanges[0]
            before = exchange.sent_bytes
            waiting = asyncio.ensure_future(anext(stream))
            assert await asyncio.wait([waiting], timeout=0.1) == (set(), {waiting})
            assert exchange.sent_bytes > before + 20
            waiting.cancel()
        async with serve(scripts) as server, ollama.AsyncClient(host=server.url) as client:
            text, kept_alive = "", 0
            async for part in await client.chat(model="m", messages=MESSAGES, stream=True):
                text += part.message.content or ""
                kept_alive += not part.message.content
                if kept_alive == 3:
                    break
    assert text == "Alabam"

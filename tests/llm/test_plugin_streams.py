"""That the real plugins' streams are streamed, and closed when they are left. `nox -s llm` installs them all."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

import llm
from anyio.from_thread import start_blocking_portal

from aprefill.testing import serve, serve_in_thread

from .fakes import Host, serving
from .test_plugins import NEW, STATES, plugin, script


async def beginning(model_id: str, *, asynchronous: bool, **options: Any) -> str:
    """The first chunks of a reply, up to some new text."""
    text = ""
    if asynchronous:
        response: Any = llm.get_async_model(f"prefill/{model_id}").prompt("States", prefill='["', **options)
        async for chunk in response:
            text += chunk
            if len(text) > 2:
                break
        return text
    for chunk in llm.get_model(f"prefill/{model_id}").prompt("States", prefill='["', **options):
        text += chunk
        if len(text) > 2:
            break
    return text


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "model_id",
    ["gpt-4o", "anthropic/claude-haiku-4-5-20251001", "anthropic/claude-opus-4-6", "mistral/mistral-small-latest"],
)
@pytest.mark.asyncio
async def test_streams_are_streamed(monkeypatch: pytest.MonkeyPatch, model_id: str, asynchronous: bool) -> None:
    """New text is there while the host has not said the rest, and never will."""
    options = {}
    native = "echoes" if model_id.startswith("mistral") else "eats"
    with serve_in_thread(lambda received: replace(script(received, prefill=native), stall_after=14)) as server:
        for name, url in (("ANTHROPIC_BASE_URL", server.url), ("OPENAI_BASE_URL", server.openai_url)):
            monkeypatch.setenv(name, url)
        if model_id.startswith("anthropic"):
            plugin("llm_anthropic")
        if model_id.startswith("mistral"):
            module = plugin("llm_mistral")
            monkeypatch.setattr(module, "MistralClient", functools.partial(module.MistralClient, server_url=server.url))
        options["key"] = "any"
        assert STATES.startswith(await beginning(model_id, asynchronous=asynchronous, **options))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("model_id", ["gpt-5", "ollama/llama3.2", "ollama/some-tune"])
@pytest.mark.asyncio
async def test_streams_of_other_wires_are_streamed(
    monkeypatch: pytest.MonkeyPatch, model_id: str, asynchronous: bool
) -> None:
    """The same against LLM's responses models and Ollama."""
    if model_id.startswith("ollama"):
        plugin("llm_ollama")
    with serving(Host(NEW * 20, stalls=True)) as host:
        monkeypatch.setenv("OPENAI_BASE_URL", host.url + "/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        monkeypatch.setenv("OLLAMA_HOST", host.url)
        text = await beginning(model_id, asynchronous=asynchronous)
        assert not host.may_go_on.is_set()
    assert (STATES + NEW).startswith(text)


@pytest.mark.asyncio
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_stop_of_ours_closes_the_connection(monkeypatch: pytest.MonkeyPatch, asynchronous: bool) -> None:
    """LLM leaves its OpenAI clients to the collector; here the host sees at once that nobody listens any more."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    endless = functools.partial(script, text='Alabama", ' + "and so on " * 2000, prefill="eats")
    stalls = serve(lambda received: replace(endless(received), stall_after=200))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(stalls) as host:
        model = (llm.get_async_model if asynchronous else llm.get_model)("prefill/gpt-4o")
        model._inner.api_base = host.openai_url
        response = model.prompt("States", prefill='["', stop='"')
        assert (await response.text() if asynchronous else response.text()) == '["Alabama'
        exchange = host.exchanges[0]
        assert "stop" not in exchange.json
        portal.call(host.wait_closed)
        assert exchange.outcome == "client_closed"
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

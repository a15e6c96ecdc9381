"""The real plugins' replies are streamed, and their connections closed when they are left.

`nox -s llm` installs all.
"""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

import llm
from anyio.from_thread import start_blocking_portal

from aprefill.testing import Script, serve

from .hosts import STATES, playing, plugin, says_why_it_ends, script, typed

if TYPE_CHECKING:
    from pathlib import Path


async def beginning(model_id: str, *, asynchronous: bool, **options: Any) -> str:
    """Return the first chunks of a reply, up to some new text."""
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


MODELS = {
    "gpt-4o": None,
    "gpt-5": None,
    "anthropic/claude-haiku-4-5-20251001": "llm_anthropic",
    "anthropic/claude-opus-4-6": "llm_anthropic",
    "mistral/mistral-small-latest": "llm_mistral",
    "ollama/llama3.2": "llm_ollama",
    "ollama/some-tune": "llm_ollama",
    "gemini/gemini-3.6-flash": "llm_gemini",
}
#: Models whose hosts leave a native prefill out, so that there is no repetition.
EATS = {"anthropic/claude-haiku-4-5-20251001", "ollama/llama3.2"}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("model_id", MODELS)
@pytest.mark.asyncio
async def test_streams_are_streamed(monkeypatch: pytest.MonkeyPatch, model_id: str, asynchronous: bool) -> None:
    """New text is yielded while the host has not sent the rest, and never will."""
    if module := MODELS[model_id]:
        plugin(module)
    native = "echoes" if model_id.startswith("mistral") else "eats"
    stalling = lambda received: replace(script(received, prefill=native), stall_after=14)  # noqa: E731
    # Ollama has no keys
    options = {} if model_id.startswith("ollama") else {"key": "any"}
    with playing(monkeypatch, stalling, ollama=model_id.startswith("ollama")) as server:
        text = await beginning(typed(model_id), asynchronous=asynchronous, **options)
        assert server.exchanges[-1].streamed
    assert len(text) > 2
    assert STATES.startswith(text)


@pytest.mark.parametrize(("asynchronous", "stream"), [(False, True), (False, False), (True, True), (True, False)])
@pytest.mark.parametrize("model_id", [*sorted(MODELS.keys() - EATS), "mistral/voxtral-mini-2507"])
@pytest.mark.asyncio
async def test_a_limit_inside_the_repetition(
    monkeypatch: pytest.MonkeyPatch, model_id: str, asynchronous: bool, stream: bool
) -> None:
    """If a token limit ends the reply inside the repetition, an error says so, whatever the host calls its limit."""
    if module := MODELS.get(model_id, "llm_mistral"):
        plugin(module)
    says_why_it_ends(model_id, stream=stream)
    limited = Script(text="The quick brown f", stop_reason="max_tokens", prefill="ignores")
    options: dict[str, Any] = {} if model_id.startswith("ollama") else {"key": "any"}
    if model_id.startswith("anthropic/"):
        options["max_tokens"] = 1000  # with the plugin's own limit, old versions of Anthropic's SDK require a stream
    with playing(monkeypatch, limited, ollama=model_id.startswith("ollama")):
        get = llm.get_async_model if asynchronous else llm.get_model
        prefill = "The quick brown fox jumps over the dog. "
        response: Any = get(f"prefill/{typed(model_id)}").prompt("S", prefill=prefill, stream=stream, **options)
        with pytest.raises(llm.ModelError, match=r"token limit.* while it repeated the prefill"):
            (await response.text()) if asynchronous else response.text()


@pytest.mark.parametrize("end", [{"stop_reason": "refusal"}, {"no_done": True}, {"no_end": True}])
def test_a_reply_that_was_not_complete(monkeypatch: pytest.MonkeyPatch, end: dict[str, Any]) -> None:
    """LLM's models on /responses do not say why a reply is incomplete, so the error names the possible reasons."""
    with playing(monkeypatch, Script(text="The quick brown f", prefill="ignores", **end)):
        response = llm.get_model("prefill/gpt-5").prompt("S", prefill="The quick brown fox jumps", key="any")
        with pytest.raises(
            llm.ModelError, match=r"gpt-5 was incomplete \(a token limit, a filter or a lost connection\)"
        ):
            response.text()


@pytest.mark.parametrize("model_id", ["gpt-4o", "gpt-5"])
@pytest.mark.parametrize("way", [(), ("--async",)])
def test_an_error_is_one_line_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, user_path: Path, model_id: str, way: tuple[str, ...]
) -> None:
    """An error is one line, even if the loop ends right after it while the SDK's generators are still open."""
    ignores = Script(text='{"name": "Bob, and so on and on"}' * 5, prefill="ignores")
    with playing(monkeypatch, ignores):
        command = [
            sys.executable,
            "-m",
            "llm",
            "-m",
            model_id,
            "S",
            "--prefill",
            '{"age": ',
            "--schema",
            "name,age int",
            *way,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, check=False
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [done.stderr.rstrip()]
    assert "did not begin its reply with the prefill" in done.stderr


@pytest.mark.asyncio
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_stop_of_ours_closes_the_connection(monkeypatch: pytest.MonkeyPatch, asynchronous: bool) -> None:
    """A stop sequence that is applied here closes the connection at once.

    LLM would leave it to the garbage collector.
    """
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

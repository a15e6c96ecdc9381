"""The real plugins with hosts on loopback: what each sends for a prefill, and the text of the reply.

The tests of a plugin that is not installed are skipped. `nox -s llm` installs all plugins, at their newest versions.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

import httpx
import llm

from aprefill import SupportTable
from aprefill._plan.emulate import BEGIN
from aprefill.llm_plugin import _hosts, with_prefill
from aprefill.llm_plugin._turn import _refusal_of
from aprefill.testing import Script, Server, serve_in_thread

from .hosts import NEW, STATES, playing, plugin, script, typed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aprefill.testing import Received

    from .conftest import Run

WAYS = [(False, True), (False, False), (True, True), (True, False)]
ways = pytest.mark.parametrize(("asynchronous", "stream"), WAYS)


async def ask(model_id: str, *, asynchronous: bool, stream: bool, **options: Any) -> Any:
    """Return a finished response of `prefill/<model_id>`, and its text."""
    if model_id.startswith("anthropic/"):
        # with the plugin's own limit, old versions of Anthropic's SDK require a stream
        options = {"max_tokens": 1000, **options}
    if asynchronous:
        response: Any = llm.get_async_model(f"prefill/{model_id}").prompt("States", stream=stream, **options)
        return response, await response.text()
    response = llm.get_model(f"prefill/{model_id}").prompt("States", stream=stream, **options)
    return response, response.text()


def how(response: Any) -> tuple[str, str]:
    return response.prompt.options.prefill_mode, response.prompt.options.prefill_verdict


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A host that leaves a native prefill out. The plugins send their requests to it."""
    with playing(monkeypatch, functools.partial(script, prefill="eats")) as server:
        yield server


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The same host, also for Ollama with two models."""
    with playing(monkeypatch, functools.partial(script, prefill="eats"), ollama=True) as server:
        yield server


@pytest.mark.asyncio
@ways
async def test_openai_chat(server: Server, asynchronous: bool, stream: bool) -> None:
    """For LLM's own chat completions models the prefill is asked for in the prompt."""
    response, text = await ask("gpt-4o", asynchronous=asynchronous, stream=stream, prefill='["')
    assert text == STATES
    assert how(response) == ("emulated", "echoed")
    asked = server.exchanges[0].json
    assert [message["role"] for message in asked["messages"]] == ["user"]
    assert asked.get("stream", False) == stream
    assert not {"prefill", "hide_prefill", "prefill_strict", "prefill_mode", "prefill_verdict"} & set(asked)


@pytest.mark.asyncio
@ways
async def test_openai_responses(server: Server, asynchronous: bool, stream: bool) -> None:
    """For LLM's own models on /responses the prefill is asked for in the prompt."""
    response, text = await ask("gpt-5", asynchronous=asynchronous, stream=stream, prefill='["')
    assert text == STATES
    assert how(response) == ("emulated", "echoed")
    asked = server.exchanges[0]
    assert (asked.path, asked.streamed) == ("/v1/responses", stream)
    assert [item["role"] for item in asked.json["input"]] == ["user"]
    assert response.token_usage().startswith("10 input, 6 output")


@pytest.mark.asyncio
@ways
async def test_claude_4_5(server: Server, asynchronous: bool, stream: bool) -> None:
    """Claude 4.5 gets the prefill by llm-anthropic's own option. White space that the API refuses is not sent."""
    plugin("llm_anthropic")
    model = "anthropic/claude-haiku-4-5-20251001"
    response, text = await ask(model, asynchronous=asynchronous, stream=stream, prefill='["', hide_prefill=False)
    assert text == STATES
    assert how(response) == ("native", "absent")
    assert server.exchanges[0].prefill == '["'
    assert BEGIN[:20] not in server.exchanges[0].last_user_text
    response, text = await ask(model, asynchronous=asynchronous, stream=stream, prefill="The answer: ")
    assert text == "The answer: " + NEW
    assert server.exchanges[1].prefill == "The answer:"


@pytest.mark.asyncio
@ways
async def test_claude_4_6(server: Server, asynchronous: bool, stream: bool) -> None:
    """For Claude 4.6, where llm-anthropic's own option raises ValueError, the prefill is asked for in the prompt."""
    plugin("llm_anthropic")
    response, text = await ask("anthropic/claude-opus-4-6", asynchronous=asynchronous, stream=stream, prefill='["')
    assert text == STATES
    assert how(response) == ("emulated", "echoed")
    assert not server.exchanges[0].ends_with_assistant


def test_claude_in_a_conversation(run: Run, server: Server) -> None:
    """The next turn's request has prefill and text as one text block, shown or hidden."""
    plugin("llm_anthropic")
    run("-m", "anthropic/claude-haiku-4-5-20251001", "States", "--prefill", '["', "--hide-prefill")
    run("-c", "Thanks")
    said = [(one["role"], [part["text"] for part in one["content"]]) for one in server.exchanges[1].json["messages"]]
    assert said == [("user", ["States"]), ("assistant", [STATES]), ("user", ["Thanks"])]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--schema", "name, age int"), "cannot combine a prefill with a schema"),
        (("-o", "thinking", "1"), "cannot combine a prefill with -o thinking"),
    ],
)
def test_claude_conflicts_are_one_line(run: Run, server: Server, options: tuple[str, ...], words: str) -> None:
    """A setting that breaks a native prefill is an error of one line before anything is sent."""
    plugin("llm_anthropic")
    done = run("-m", "anthropic/claude-opus-4-5-20251101", "x", "--prefill", "{", *options, code=1)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert server.exchanges == []


def test_claude_whose_plugin_has_its_own_word() -> None:
    """If llm-anthropic refuses its own option, it is not used, whatever the table says about the model."""
    plugin("llm_anthropic")
    model = llm.get_model("anthropic/claude-haiku-4-5-20251001")
    assert _hosts.route_of(model).door == "prefill"
    model.supports_adaptive_thinking = True
    assert _hosts.route_of(model).door is None
    assert not _hosts.route_of(model).native


def test_claude_with_tools_is_asked(run: Run, server: Server) -> None:
    """With tools the prefill is asked for in the prompt, because it is not known whether a native one works."""
    plugin("llm_anthropic")
    functions = 'def look(word: str) -> str:\n    "Look"\n    return word\n'
    done = run("-m", "anthropic/claude-haiku-4-5-20251001", "States", "--prefill", '["', "--functions", functions)
    assert done.stdout.strip() == STATES
    assert server.exchanges[0].json["tools"]
    assert not server.exchanges[0].ends_with_assistant


def test_claude_counts_tokens(run: Run) -> None:
    """`llm anthropic count`, which copies the parameters of `llm prompt`, works with the plugin's new ones."""
    plugin("llm_anthropic")
    assert run("anthropic", "count", "--help").exit_code == 0


@pytest.mark.asyncio
@ways
async def test_a_refusal_is_answered_on_the_same_call(
    server: Server, monkeypatch: pytest.MonkeyPatch, asynchronous: bool, stream: bool
) -> None:
    """If the table is wrong, one more request follows. The refusal is remembered, also with a new model object."""
    plugin("llm_anthropic")
    with playing(monkeypatch, functools.partial(script, prefill="refuses")) as refusing:
        response, text = await ask(
            "anthropic/claude-haiku-4-5-20251001", asynchronous=asynchronous, stream=stream, prefill='["'
        )
        assert text == STATES
        assert how(response) == ("emulated", "echoed")
        assert [exchange.ends_with_assistant for exchange in refusing.exchanges] == [True, False]
        again, text = await ask(
            "anthropic/claude-haiku-4-5-20251001", asynchronous=asynchronous, stream=stream, prefill='["'
        )
        assert again.model is not response.model
        assert text == STATES
        assert len(refusing.exchanges) == 3
        strict = response.model.prompt("States", prefill='["', stream=stream, prefill_strict=True, max_tokens=1000)
        with pytest.raises(llm.ModelError, match="does not take a native prefill"):
            (await strict.text() if asynchronous else strict.text())


def test_another_400_is_llms(run: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another error with status 400 is LLM's, and so is a refusal's text that the prompt itself contains."""
    plugin("llm_anthropic")
    refusal = "This model does not support assistant message prefill."
    for message, prompt in (("max_tokens: too many", "x"), (f"bad prompt: {refusal}", refusal)):
        told = Script(status=400, error=("invalid_request_error", message))
        with playing(monkeypatch, told) as bad:
            done = run("-m", "anthropic/claude-haiku-4-5-20251001", prompt, "--prefill", "{", code=1)
            assert message in done.output
            assert len(bad.exchanges) == 1


def test_a_refusal_behind_llm_mistrals_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is found behind llm-mistral's ModelError, whose cause has the host's answer."""
    plugin("llm_mistral")
    words = "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant"

    def host(received: Received) -> Script:
        if received.ends_with_assistant:
            return Script(status=400, error=("invalid_request_error", words))
        return script(received)

    with playing(monkeypatch, host):
        response = llm.get_model("prefill/mistral/mistral-small-latest").prompt("States", prefill='["', key="any")
        assert response.text() == STATES
        assert how(response) == ("emulated", "echoed")


def test_a_refusal_in_an_error_of_httpx() -> None:
    """A refusal is found in an error of httpx, which plugins without an SDK raise, if its body was read."""
    host = _hosts.Route("mistral", "m", _hosts.builtin_table().row("mistral", "mistral-small-latest"), "prefix")
    words = "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant"
    request = httpx.Request("POST", "http://any.test")

    def error(**answer: Any) -> httpx.HTTPStatusError:
        return httpx.HTTPStatusError("400 Bad Request", request=request, response=httpx.Response(400, **answer))

    assert _refusal_of(host, error(json={"message": words}))
    assert _refusal_of(host, error(json={"message": "max_tokens: too many"})) is None
    assert _refusal_of(host, error(stream=httpx.ByteStream(words.encode()))) is None
    assert _refusal_of(host, httpx.ConnectError("refused", request=request)) is None


@pytest.mark.asyncio
@ways
@pytest.mark.parametrize("echo", ["split", "joined"])
async def test_mistral(monkeypatch: pytest.MonkeyPatch, asynchronous: bool, stream: bool, echo: str) -> None:
    """Mistral gets the prefill by llm-mistral's option `prefix`, and the API's repetition is removed."""
    plugin("llm_mistral")
    with playing(monkeypatch, functools.partial(script, prefill="echoes", echo=echo)) as server:
        response, text = await ask(
            "mistral/mistral-small-latest", asynchronous=asynchronous, stream=stream, prefill='["', key="any"
        )
        assert text == STATES
        assert how(response) == ("native", "echoed")
        assert server.exchanges[0].json["messages"][-1] == {"role": "assistant", "content": '["', "prefix": True}
        # the plugin's own option is a prefill too
        for model in ("mistral/mistral-small-latest", "mistral/voxtral-mini-2507"):
            with pytest.raises(llm.ModelError, match="-o prefix is a prefill as well"):
                await ask(model, asynchronous=asynchronous, stream=stream, prefill="a", prefix="b", key="any")
        # a model that is not in the table
        response, text = await ask(
            "mistral/voxtral-mini-2507", asynchronous=asynchronous, stream=stream, prefill='["', key="any"
        )
        assert text == STATES
        assert how(response) == ("emulated", "echoed")


@pytest.mark.asyncio
@ways
async def test_ollama(ollama: Server, asynchronous: bool, stream: bool) -> None:
    """Ollama gets a last assistant message if the model's template is known to leave it open. Else the prompt asks."""
    plugin("llm_ollama")
    response, text = await ask(typed("ollama/llama3.2"), asynchronous=asynchronous, stream=stream, prefill='["')
    assert text == STATES
    assert how(response) == ("native", "absent")
    asked = ollama.exchanges[-1]
    assert (asked.path, asked.streamed, asked.model) == ("/api/chat", stream, "llama3.2:latest")
    assert asked.messages[-1] == {"role": "assistant", "content": '["'}
    assert asked.json["options"] == {}
    assert response.token_usage() == "10 input, 5 output"
    response, text = await ask(typed("ollama/some-tune"), asynchronous=asynchronous, stream=stream, prefill='["')
    assert text == STATES
    assert how(response) == ("emulated", "echoed")
    assert [message["role"] for message in ollama.exchanges[-1].messages] == ["user"]


@pytest.mark.asyncio
@ways
async def test_gemini(server: Server, asynchronous: bool, stream: bool) -> None:
    """Gemini's own API is not in the table, so the prompt asks for the prefill. The plugin streams in any case."""
    plugin("llm_gemini")
    response, text = await ask(
        "gemini/gemini-3.6-flash", asynchronous=asynchronous, stream=stream, prefill='["', key="any"
    )
    assert text == STATES
    assert how(response) == ("emulated", "echoed")
    asked = server.exchanges[0]
    assert asked.path == "/v1beta/models/gemini-3.6-flash:streamGenerateContent"
    assert [turn["role"] for turn in asked.messages] == ["user"]


@pytest.mark.asyncio
@ways
async def test_echo(asynchronous: bool, stream: bool) -> None:
    """llm-echo reads only the prompt's text and prints it.

    This is not an echo of the prefill, so the prefill is added.
    """
    plugin("llm_echo")
    response, text = await ask("echo", asynchronous=asynchronous, stream=stream, prefill="abc")
    assert text.startswith("abc{")
    assert json.loads(text[3:])["prompt"].startswith("States\n\n" + BEGIN.partition("{")[0])
    assert how(response) == ("emulated", "absent")
    response, text = await ask("echo-needs-key", asynchronous=asynchronous, stream=stream, prefill="abc", key="k")
    assert json.loads(text[3:])["key"] == "k"


@pytest.mark.parametrize(
    ("provider", "model", "turn", "fields"),
    [
        ("vllm", "llama-3", {}, {"continue_final_message": True, "add_generation_prompt": False}),
        ("deepseek", "deepseek-chat", {"prefix": True}, {"thinking": {"type": "disabled"}}),
        ("groq", "llama-3.3-70b", {}, {}),
    ],
)
def test_openai_compatible_hosts(
    run: Run, user_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, model: str, turn: Any, fields: Any
) -> None:
    """The address in extra-openai-models.yaml decides whose row applies, and the request has that host's form."""
    with serve_in_thread(functools.partial(script, prefill="eats")) as server:
        # the table's URL for DeepSeek's prefills would not be this server's
        table = SupportTable.load(
            f'[[host]]\nprovider = "{provider}"\napi = "chat"\nhosts = ["{server.url.removeprefix("http://")}"]\n'
            + (f'prefill_base_url = "{server.openai_url}"\n' if provider == "deepseek" else "")
        )
        monkeypatch.setattr(_hosts, "builtin_table", lambda: table)
        (user_path / "extra-openai-models.yaml").write_text(
            f"- model_id: extra\n  model_name: {model}\n  api_base: {server.openai_url}\n"
        )
        for way in ((), ("--async",), ("--no-stream",)):
            assert run("-m", "extra", "States", "--prefill", '["', *way).stdout == STATES + "\n"
            asked = server.exchanges[-1].json
            assert asked["messages"][-1] == {"role": "assistant", "content": '["', **turn}
            assert {name: asked[name] for name in fields} == fields
        assert "- prefill_mode: native" in run("logs", "-n", "1").output
        assert "native" in run("prefill", "models", "-q", "extra").output
        run("-c", "Thanks")
        assert [one["content"] for one in server.exchanges[-1].json["messages"]] == ["States", STATES, "Thanks"]


def test_an_unknown_address_is_asked(run: Run, user_path: Path) -> None:
    """A model's name at an unknown address says nothing, so the prompt asks for the prefill."""
    with serve_in_thread(functools.partial(script, prefill="ignores")) as server:
        (user_path / "extra-openai-models.yaml").write_text(
            f"- model_id: extra\n  model_name: deepseek-chat\n  api_base: {server.openai_url}\n"
            f"- model_id: old\n  model_name: davinci\n  api_base: {server.openai_url}\n  completion: true\n"
        )
        assert run("-m", "extra", "States", "--prefill", '["').stdout == STATES + "\n"
        assert not server.exchanges[0].ends_with_assistant
        listed = run("prefill", "models", "-q", "old").output.split()
        assert listed[:2] == ["old", "emulated"]


CHAT_4O = ("gpt-4o", "OPENAI_BASE_URL")
CLAUDE = ("anthropic/claude-haiku-4-5-20251001", "ANTHROPIC_BASE_URL")


@pytest.mark.parametrize(
    ("model", "url", "provider", "native"),
    [
        (CHAT_4O, None, "openai", False),
        (CHAT_4O, "https://api.openai.com/v1", "openai", False),
        (CHAT_4O, "https://gateway.test/v1", "", False),
        (CHAT_4O, "http://localhost:11434/v1", "ollama", False),
        (CHAT_4O, "https://api.groq.com/openai/v1", "groq", False),
        (CLAUDE, None, "anthropic", True),
        (CLAUDE, "https://api.anthropic.com", "anthropic", True),
        (CLAUDE, "https://gateway.test", "", False),
        # a host of the table, but with another protocol than this plugin's
        (CLAUDE, "https://api.groq.com/openai/v1", "", False),
    ],
)
def test_the_sdks_variables_name_the_host(
    monkeypatch: pytest.MonkeyPatch, model: tuple[str, str], url: str | None, provider: str, native: bool
) -> None:
    """OPENAI_BASE_URL and ANTHROPIC_BASE_URL decide whose row applies.

    If the host is not known, it is an unknown host's.
    """
    model_id, variable = model
    if model is CLAUDE:
        plugin("llm_anthropic")
    monkeypatch.delenv(variable, raising=False)
    if url:
        monkeypatch.setenv(variable, url)
    host = _hosts.route_of(llm.get_model(model_id))
    assert (host.provider, host.native) == (provider, native)
    assert host.row.provider == (provider or "openai-compatible")
    assert host.row.api == ("messages" if model is CLAUDE else "chat")


@pytest.mark.asyncio
@ways
@pytest.mark.parametrize("beta", [False, True])
async def test_openai_s_model_at_a_host_that_takes_a_prefill(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool, stream: bool, beta: bool
) -> None:
    """A host in OPENAI_BASE_URL gets a native prefill, at its own URL for prefills if it has one."""
    with serve_in_thread(functools.partial(script, prefill="eats")) as server:
        table = SupportTable.load(
            f'[[host]]\nprovider = "deepseek"\napi = "chat"\nhosts = ["{server.url.removeprefix("http://")}"]\n'
            f'prefill_base_url = "{server.url}{"/beta" if beta else "/v1"}"\n'
            '[[host.model]]\nmatch = ["gpt-4o"]\nsupport = "eats"\nevidence = "doc"\nsource = "s"\ndate = 2026-11-28\n'
        )
        monkeypatch.setattr(_hosts, "builtin_table", lambda: table)
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        response, text = await ask("gpt-4o", asynchronous=asynchronous, stream=stream, prefill='["')
        assert (text, how(response)) == (STATES, ("native", "absent"))
        asked = server.exchanges[0]
        assert asked.path == ("/beta/chat/completions" if beta else "/v1/chat/completions")
        assert (asked.json["messages"][-1]["role"], asked.json["messages"][-1]["content"]) == ("assistant", '["')


@pytest.mark.asyncio
@ways
async def test_claude_behind_an_unknown_address_is_asked(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool, stream: bool
) -> None:
    """ANTHROPIC_BASE_URL names a gateway, whose support is not known, so the prompt asks for the prefill."""
    plugin("llm_anthropic")
    with serve_in_thread(functools.partial(script, prefill="eats")) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
        response, text = await ask(CLAUDE[0], asynchronous=asynchronous, stream=stream, prefill='["')
        assert (text, how(response)) == (STATES, ("emulated", "echoed"))
        assert not server.exchanges[0].ends_with_assistant


def test_a_plugin_with_an_execute_of_its_own_is_asked() -> None:
    """A subclass of LLM's chat model with its own `execute` builds its own request, so it gets no native prefill."""
    from llm.default_plugins.openai_models import Chat

    class Own(Chat):
        def execute(self, *args: Any, **kwargs: Any) -> Any:
            yield "x"

    for kind, native in ((Chat, True), (Own, False)):
        model = kind("some", model_name="llama-3.3-70b", api_base="https://api.groq.com/openai/v1")
        assert _hosts.route_of(model).native is native
    assert with_prefill(Own("some")).prompt("x", prefill="a", key="k").text() == "ax"


def test_a_completion_model_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """For LLM's own models on /completions, whose prompt is one text, the prompt asks for the prefill."""
    choice = {"index": 0, "text": '["Alabama"]', "finish_reason": "stop", "logprobs": None}
    told = {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    with serve_in_thread(Script(), static={"/v1/completions": told}) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        done = run("-m", "gpt-3.5-turbo-instruct", "States", "--prefill", '["', "--no-stream")
        assert done.stdout == '["Alabama"]\n'
        assert server.exchanges[-1].json["prompt"].count('\n\n["') == 1


def test_what_llm_prefill_models_says(run: Run, ollama: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """`llm prefill models` shows the table's mode for each model, with provider and name."""
    monkeypatch.delenv("OPENAI_BASE_URL")
    for name in ("llm_anthropic", "llm_mistral", "llm_gemini", "llm_ollama"):
        plugin(name)
    listed = {one["model_id"]: one for one in json.loads(run("prefill", "models", "--json").output)}
    told = {model: (listed[model]["mode"], listed[model]["host"]) for model in (
        "gpt-4o", "gpt-5", "anthropic/claude-haiku-4-5-20251001", "anthropic/claude-opus-4-6",
        "mistral/mistral-small-latest", "gemini/gemini-3.6-flash", typed("ollama/llama3.2:latest"),
    )}  # fmt: skip
    assert told == {
        "gpt-4o": ("emulated", "openai:gpt-4o"),
        "gpt-5": ("emulated", "openai:gpt-5"),
        "anthropic/claude-haiku-4-5-20251001": ("native", "anthropic:claude-haiku-4-5-20251001"),
        "anthropic/claude-opus-4-6": ("emulated", "anthropic:claude-opus-4-6"),
        "mistral/mistral-small-latest": ("native", "mistral:mistral-small-latest"),
        "gemini/gemini-3.6-flash": ("emulated", None),
        typed("ollama/llama3.2:latest"): ("native", "ollama:llama3.2:latest"),
    }

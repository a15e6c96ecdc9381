"""Lets the real plugins send their requests to the testing server, which plays a model that does what it is asked."""

from __future__ import annotations

import functools
import importlib.util
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from aprefill._plan.emulate import BEGIN
from aprefill.testing import Script, serve_in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aprefill.testing import Received, Server
    from aprefill.testing._server import Scripts

NEW = 'Alabama", "Alaska"]'
STATES = '["' + NEW

#: How the plugin asks for the beginning of a reply.
ASKED = re.compile(re.escape(BEGIN.partition("{")[0]) + r"(.*)\Z", re.DOTALL)

#: What Ollama reports about its models. llm-ollama asks for this before anything else.
OLLAMA = {
    "/api/tags": {
        "models": [{"model": name, "name": name, "digest": name} for name in ("llama3.2:latest", "some-tune:latest")]
    },
    "/api/show": {"capabilities": ["completion", "tools"], "model_info": {}},
}


def plugin(name: str) -> Any:
    """Return the plugin's module. Skip the test if it is not installed."""
    return pytest.importorskip(name, reason=f"{name} is not installed: nox -s llm installs it")


def says_why_it_ends(model_id: str, *, stream: bool) -> None:
    """Skip the test if this plugin does not tell LLM of a token limit."""
    if model_id.startswith("mistral/") and stream and not hasattr(plugin("llm_mistral"), "MistralClient"):
        pytest.skip("llm-mistral before 0.16 does not say why a stream has ended")
    if model_id.startswith("ollama/") and stream and hasattr(plugin("llm_ollama"), "Ollama"):
        pytest.skip("llm-ollama before 0.18 does not say why a stream has ended")


def typed(model_id: str) -> str:
    """Return the model's id with the installed plugin: llm-ollama before 0.18 adds no `ollama/`."""
    import llm

    name = model_id.removeprefix("ollama/")
    return name if name in llm.get_model_aliases() else model_id


def script(received: Received, text: str = NEW, **kind: Any) -> Script:
    """Return the script of a model that does what the prompt asks, on a host of this kind."""
    if found := ASKED.search(received.last_user_text):
        return Script(text=text, prefill="echoes", echo_text=found[1])
    return Script(text=text, **kind)


@contextmanager
def playing(monkeypatch: pytest.MonkeyPatch, scripts: Scripts, *, ollama: bool = False) -> Iterator[Server]:
    """Yield a server that plays `scripts` for the models of LLM, Claude, Mistral, Gemini and, if asked, Ollama."""
    with serve_in_thread(scripts, static=OLLAMA) as server:
        _point(monkeypatch, server, ollama=ollama)
        yield server


def _point(monkeypatch: pytest.MonkeyPatch, server: Server, *, ollama: bool) -> None:
    for name, value in {
        "ANTHROPIC_API_KEY": "any",
        "OPENAI_BASE_URL": server.openai_url,
        "OPENAI_API_KEY": "any",
        # llm-ollama requests its list for any model, which would be a request too many in the other tests
        **({"OLLAMA_HOST": server.url} if ollama else {}),
    }.items():
        monkeypatch.setenv(name, value)
    for name, bend in {
        "llm_anthropic": _bend_anthropic,
        "llm_mistral": _bend_mistral,
        "llm_gemini": _bend_gemini,
    }.items():
        if importlib.util.find_spec(name):
            bend(monkeypatch, importlib.import_module(name), server.url)


def _bend_anthropic(monkeypatch: pytest.MonkeyPatch, module: Any, url: str) -> None:
    """Change the client, and not ANTHROPIC_BASE_URL, because a host in that variable does not count as Anthropic's."""
    for name in ("Anthropic", "AsyncAnthropic"):
        real = _real(getattr(module, name))

        def client(*, base_url: str | None, _real: Any = real, **rest: Any) -> Any:
            return _real(base_url=base_url or url, **rest)

        client.of = real  # type: ignore[attr-defined]
        monkeypatch.setattr(module, name, client)


def _bend_mistral(monkeypatch: pytest.MonkeyPatch, module: Any, url: str) -> None:
    if not hasattr(module, "MistralClient"):  # llm-mistral before 0.16
        _bend_httpx(monkeypatch, module, "https://api.mistral.ai", url)
        return
    monkeypatch.setattr(module, "MistralClient", functools.partial(_real(module.MistralClient), server_url=url))


def _bend_gemini(monkeypatch: pytest.MonkeyPatch, module: Any, url: str) -> None:
    _bend_httpx(monkeypatch, module, "https://generativelanguage.googleapis.com", url)


def _bend_httpx(monkeypatch: pytest.MonkeyPatch, module: Any, fixed: str, url: str) -> None:
    """For a plugin whose code has its host's address."""
    real = _real(module.httpx)

    def bent(asked: str) -> str:
        return asked.replace(fixed, url)

    class AsyncClient(real.AsyncClient):
        def build_request(self, method: str, url: str, **rest: Any) -> Any:  # some callers pass them by name
            return super().build_request(method, bent(url), **rest)

    class Client(real.Client):
        def build_request(self, method: str, url: str, **rest: Any) -> Any:  # some callers pass them by name
            return super().build_request(method, bent(url), **rest)

    class Httpx:
        of = real

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def stream(self, method: str, asked: str, **rest: Any) -> Any:
            return real.stream(method, bent(asked), **rest)

    bending = Httpx()
    bending.AsyncClient = AsyncClient
    bending.Client = Client
    monkeypatch.setattr(module, "httpx", bending)


def _real(thing: Any) -> Any:
    """Return the original of something that is bent already."""
    if isinstance(thing, functools.partial):
        return thing.func
    return getattr(thing, "of", thing)

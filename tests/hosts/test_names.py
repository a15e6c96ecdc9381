"""How `model=` is read: aliases, the demo, and suggestions for an unknown name."""

from __future__ import annotations

import pytest

from aprefill import UsageError, stream
from aprefill._hosts.names import meant_by
from aprefill._hosts.table import builtin_table

from ..support.targets import target_of

PROVIDERS = builtin_table().providers


@pytest.mark.parametrize("alias", ["llamacpp", "llama.cpp", "llama-cpp", "llama_cpp"])
def test_llama_cpp_by_all_its_names(alias: str) -> None:
    """All names of llama.cpp mean one provider with both of its protocols, also with a base URL."""
    for api, url in ((None, "http://localhost:8080/v1"), ("messages", "http://localhost:8080")):
        target = target_of(f"{alias}:qwen3:8b", api=api)
        assert (target.row.provider, target.model, target.base_url) == ("llama_cpp", "qwen3:8b", url)
    target = target_of(f"{alias}:m", base_url="http://localhost:1/v1")
    assert (target.row.provider, target.model, target.base_url) == ("llama_cpp", "m", "http://localhost:1/v1")


@pytest.mark.parametrize("alias", ["lmstudio", "lm-studio", "lm_studio"])
def test_lm_studio(alias: str) -> None:
    """LM Studio has no row: it is an unknown host at LM Studio's usual address, unless `base_url` is given."""
    target = target_of(f"{alias}:qwen3")
    assert (target.row.provider, target.model) == ("openai-compatible", "qwen3")
    assert target.base_url == "http://localhost:1234/v1"
    assert target_of(f"{alias}:m", base_url="http://localhost:1/v1").base_url == "http://localhost:1/v1"
    with pytest.raises(UsageError, match="pass base_url="):
        target_of(f"{alias}:m", api="messages")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpt-4o", "openai:gpt-4o"),
        ("gpt-5", "openai:gpt-5"),
        ("o3-mini", "openai:o3-mini"),
        ("claude-haiku-4-5", "anthropic:claude-haiku-4-5"),
        ("Claude-Haiku-4-5", "anthropic:Claude-Haiku-4-5"),
        ("anthropic/claude-haiku-4-5", "anthropic:claude-haiku-4-5"),
        ("openai/gpt-4o", "openai:gpt-4o"),
        ("OpenAI:gpt-4o", "openai:gpt-4o"),
        ("antropic:claude-haiku-4-5", "anthropic:claude-haiku-4-5"),
        ("llama.cpp/qwen3", "llama_cpp:qwen3"),
        ("LMStudio:qwen3", "lmstudio:qwen3"),
        ("ollama/llama3.2:1b", "ollama:llama3.2:1b"),
        ("openrouter/anthropic/claude-haiku-4.5", "openrouter:anthropic/claude-haiku-4.5"),
        ("mistral-small-latest", "mistral:mistral-small-latest"),
        ("deepseek-chat", "deepseek:deepseek-chat"),
    ],
)
def test_did_you_mean(name: str, meant: str) -> None:
    """A name without a known provider raises an error that suggests the right name, and that name works."""
    with pytest.raises(UsageError) as error:
        stream("hi", model=name)
    assert str(error.value) == f'model={name!r} names no known provider; did you mean "{meant}"?'
    stream("hi", model=meant, api_key="k")


@pytest.mark.parametrize(
    "name", ["llama3:8b", "gpt-oss-20b", "nobody:x", "qwen3", "meta-llama/llama-4", "x:", "/", ":"]
)
def test_names_that_many_hosts_serve_get_the_list(name: str) -> None:
    """For a name that many hosts serve nothing is suggested.

    The error lists the providers and says that `base_url` would also do.
    """
    assert meant_by(name, PROVIDERS) is None
    with pytest.raises(UsageError, match=r"write provider:name with one of anthropic, openai, .*, or pass base_url="):
        stream("hi", model=name)


def test_with_a_base_url_a_bare_name_is_verbatim() -> None:
    """With a base URL every name without a known provider is used verbatim, even `gpt-4o` and `anthropic/...`."""
    for name in ("gpt-4o", "anthropic/claude-haiku-4-5", "llama3:8b"):
        target = target_of(name, base_url="http://localhost:1/v1")
        assert (target.row.provider, target.model) == ("openai-compatible", name)


@pytest.mark.anyio
async def test_the_demo_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """`demo:` without a model name means the demo's default model, from the argument and from the environment."""
    text = await stream("US states", prefill='["Ala', model="demo:").text()
    assert text.startswith('["Alabama", "Alaska"')
    monkeypatch.setenv("APREFILL_MODEL", "demo:")
    reply = stream("US states", prefill='["Ala')
    assert (await reply.text(), reply.attempts[0].model) == (text, "eats")


def test_other_providers_need_a_name() -> None:
    """Every other provider needs a model name after the colon."""
    for name in ("openai:", "llama.cpp:", "lmstudio:"):
        with pytest.raises(UsageError, match="no name after the colon"):
            stream("hi", model=name, api_key="k")

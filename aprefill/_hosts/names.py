"""Parses `model=`: the provider, also by an alias, and the model. Suggests what an unknown name may mean."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from .table import split_model

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Alias of a provider -> its name in the support table.
ALIASES = {
    "llamacpp": "llama_cpp",
    "llama.cpp": "llama_cpp",
    "llama-cpp": "llama_cpp",
    "lmstudio": "openai-compatible",
    "lm-studio": "openai-compatible",
    "lm_studio": "openai-compatible",
}
#: Alias of a server that has no row of its own -> the default address of that server.
_URLS: dict[str, str] = dict.fromkeys(("lmstudio", "lm-studio", "lm_studio"), "http://localhost:1234/v1")

#: The model of the built-in provider "demo" if no model is named.
DEMO_MODEL = "eats"

#: Prefix of a model's name -> its provider. Models that many hosts serve are not listed.
_FAMILIES = {
    "claude": "anthropic",
    "gpt-oss": "",
    "gpt-": "openai",
    "chatgpt-": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "mistral-": "mistral",
    "ministral-": "mistral",
    "codestral-": "mistral",
    "magistral-": "mistral",
    "deepseek-": "deepseek",
    "kimi-": "moonshot",
}
#: Minimum similarity, from 0 to 1, to take a name for a misspelled provider.
_ALIKE = 0.85


class ModelName(NamedTuple):
    """The parts of a model's name."""

    #: The provider's name in the support table. None: the name contains no provider.
    provider: str | None
    model: str
    #: The address of an alias's server, if the support table does not have it.
    base_url: str = ""


def parse(name: str, providers: Sequence[str]) -> ModelName:
    """Split ``"provider:name"``. The provider may be an alias. ``"demo:"`` means the default demo model.

    >>> parse("llama.cpp:qwen3", ["llama_cpp"]), parse("llama3:8b", ["llama_cpp"]).provider
    (ModelName(provider='llama_cpp', model='qwen3', base_url=''), None)
    """
    said, model = split_model(name, [*providers, *ALIASES])
    if said is None:
        return ModelName(None, model)
    if said in providers:
        return ModelName(said, model or DEMO_MODEL if said == "demo" else model)
    return ModelName(ALIASES[said], model, _URLS.get(said, ""))


def meant_by(name: str, providers: Sequence[str]) -> str | None:
    """Return the ``"provider:name"`` that a name without a known provider probably means, or None.

    >>> meant_by("gpt-4o", ["openai"]), meant_by("antropic/claude-haiku-4-5", ["anthropic"])
    ('openai:gpt-4o', 'anthropic:claude-haiku-4-5')
    """
    provider_of = {alias: provider for alias, provider in ALIASES.items() if provider in providers}
    provider_of |= {provider: provider for provider in providers}
    for sign in ":/":
        left, _, model = name.partition(sign)
        close = get_close_matches(left.lower(), provider_of, n=1, cutoff=_ALIKE) if model else ()
        if close:
            # Suggest the alias itself if it has its own URL.
            return f"{close[0] if close[0] in _URLS else provider_of[close[0]]}:{model}"
    provider = next((provider for begins, provider in _FAMILIES.items() if name.lower().startswith(begins)), "")
    return f"{provider}:{name}" if provider in providers else None

"""What `model=` names: a provider, also by another of its names, and a model; and what was meant by an unknown name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from .table import split_model

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Another name of a provider -> the name that the support table has for it.
ALIASES = {
    "llamacpp": "llama_cpp",
    "llama.cpp": "llama_cpp",
    "llama-cpp": "llama_cpp",
    "lmstudio": "openai-compatible",
    "lm-studio": "openai-compatible",
    "lm_studio": "openai-compatible",
}
#: Alias of a server without a row of its own -> where that server listens unless it is told otherwise.
_URLS: dict[str, str] = dict.fromkeys(("lmstudio", "lm-studio", "lm_studio"), "http://localhost:1234/v1")

#: The model that answers when only the built-in provider is named.
DEMO_MODEL = "eats"

#: How a model's name begins -> the provider whose model it is. Names that many hosts serve are not here.
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
#: How alike two names of providers must be to take one for a misspelling of the other, from 0 to 1.
_ALIKE = 0.85


class ModelName(NamedTuple):
    """A model's name, taken apart."""

    #: the provider as the support table calls it; None: the name says none
    provider: str | None
    model: str
    #: where an alias's server listens, if the table does not say so
    base_url: str = ""


def parse(name: str, providers: Sequence[str]) -> ModelName:
    """Take ``"provider:name"`` apart. The provider may be an alias, and ``"demo:"`` is the demo's own model.

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
    """The ``"provider:name"`` that was probably meant by a name without a known provider, or None.

    >>> meant_by("gpt-4o", ["openai"]), meant_by("antropic/claude-haiku-4-5", ["anthropic"])
    ('openai:gpt-4o', 'anthropic:claude-haiku-4-5')
    """
    known = {alias: provider for alias, provider in ALIASES.items() if provider in providers}
    known |= {provider: provider for provider in providers}
    for sign in ":/":
        left, _, model = name.partition(sign)
        close = get_close_matches(left.lower(), known, n=1, cutoff=_ALIKE) if model else ()
        if close:
            # an alias with a URL of its own is the better name
            return f"{close[0] if close[0] in _URLS else known[close[0]]}:{model}"
    provider = next((provider for begins, provider in _FAMILIES.items() if name.lower().startswith(begins)), "")
    return f"{provider}:{name}" if provider in providers else None

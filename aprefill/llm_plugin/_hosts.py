"""Which host an installed model of LLM's talks to, what the support table says of it, and how the plugin can be told.

Support belongs to a host and its model, so a plugin's model is mapped to `provider:name` first. What no plugin of
ours to know is behind, or an address the table does not know, is unknown: it is asked in the prompt.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .._hosts.table import builtin_table

if TYPE_CHECKING:
    from .._hosts.row import SupportRow

#: How a plugin can be told of a native prefill: by an option of its own (its name), by a last assistant message, by
#: changing what LLM's own class for chat completions sends, or by adding to the messages that the plugin builds (llm-groq,
#: and llm-ollama before 0.18).
#: None: not at all.
Door: TypeAlias = Literal["prefill", "prefix", "message", "chat", "built"] | None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a model's requests go. `provider` is "" for one that the table does not know."""

    provider: str
    name: str
    row: SupportRow
    door: Door = None
    #: "": the plugin's own
    base_url: str = ""
    #: the requests go to /responses, of which the table's rows say nothing
    on_responses: bool = False

    @property
    def native(self) -> bool:
        """Whether the host takes a prefill and the plugin can be told of it."""
        return self.row.native and self.door is not None


def route_of(model: Any) -> Route:
    """Where this model's requests go."""
    plugin = _plugin_of(model)
    if plugin == "llm_anthropic":
        # the plugin refuses its own option where it has its adaptive thinking, which began with Claude 4.6
        takes = _has_option(model, "prefill") and not getattr(model, "supports_adaptive_thinking", False)
        base_url = model.base_url or _sdk_url("anthropic", "messages")
        return _host("anthropic", model.claude_model_id, base_url, "prefill" if takes else None, api="messages")
    if plugin == "llm_mistral":
        return _host("mistral", model.mistral_model_id, None, "prefix" if _has_option(model, "prefix") else None)
    if plugin == "llm_ollama":
        if hasattr(model, "ollama_name"):
            return _host("ollama", model.ollama_name, None, "message")
        return _host("ollama", model.model_id, None, "built")  # before 0.18
    if plugin == "llm":
        name = model.model_name or model.model_id
        base_url = model.api_base or _sdk_url("openai", "chat")
        found = _host("openai", name, base_url, "chat" if _is_chat(model) else None, api="chat")
        return replace(found, on_responses=hasattr(model, "_build_responses_input"))
    if plugin == "llm_groq":
        found = _host("groq", model.groq_model_id, os.environ.get("GROQ_BASE_URL"), "built")
        # its class for speech has no messages, and fields of the body cannot be added
        can = hasattr(model, "build_messages") and not found.row.body_fields
        return found if can else replace(found, door=None)
    return _host("", getattr(model, "gemini_model_id", None) or model.model_id, None, None)


def _plugin_of(model: Any) -> str:
    """The package of the first of the model's classes that we know; "llm" is its OpenAI plugin."""
    known = {
        "llm_anthropic": "claude_model_id",
        "llm_groq": "groq_model_id",
        "llm_mistral": "mistral_model_id",
        "llm_ollama": "ollama_name",
    }
    # llm-ollama before 0.18 calls its models as Ollama does, and makes the messages itself
    before = {"llm_ollama": "build_messages"}
    for base in type(model).__mro__:
        root = base.__module__.partition(".")[0]
        if root in known and (hasattr(model, known[root]) or hasattr(model, before.get(root, known[root]))):
            return root
        if base.__module__ == "llm.default_plugins.openai_models" and hasattr(model, "api_base"):
            return "llm"
    return ""


def _has_option(model: Any, name: str) -> bool:
    return name in getattr(model.Options, "model_fields", {})


def _is_chat(model: Any) -> bool:
    """Whether it is LLM's chat completions code that makes the request, under whatever name a plugin gives it."""
    module = sys.modules.get("llm.default_plugins.openai_models")
    ours = {getattr(module, name).execute for name in ("Chat", "AsyncChat") if hasattr(module, name)}
    return type(model).execute in ours


def _sdk_url(provider: str, api: str) -> str | None:
    """The URL from the environment variable that the provider's SDK reads where it is given none."""
    return os.environ.get(builtin_table().row(provider, "", api).url_env)


def _host(provider: str, name: str, base_url: str | None, door: Door, *, api: str | None = None) -> Route:
    """The host at `base_url`, or the provider's own; `api` is the protocol that the plugin speaks, None the provider's default."""
    table = builtin_table()
    if base_url:
        # the address decides whose table row applies, not the name of a plugin's class
        provider = table.provider_of_url(base_url) or ""
        if api not in (None, *table.apis(provider)):
            provider = ""
    if not provider:
        return Route("", name, table.row("openai-compatible", name, api))
    return Route(provider, name, table.row(provider, name, api), door, base_url or "")

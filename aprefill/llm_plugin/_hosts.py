"""Finds the host of an installed LLM model, its row of the support table, and the way to pass a prefill to the plugin.

Support depends on the host and the model, so a plugin's model is mapped to `provider:name` first. If the plugin or the
address is unknown, support is unknown too, and the prefill is asked for in the prompt.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .._hosts.table import builtin_table

if TYPE_CHECKING:
    from .._hosts.row import SupportRow

#: How a native prefill is passed to a plugin:
#: "prefill", "prefix": by the plugin's option of this name;
#: "message": as a last assistant message;
#: "chat": by changing what LLM's own class for chat completions sends;
#: "built": by adding to the messages that the plugin builds (llm-groq, and llm-ollama before 0.18);
#: None: not possible.
Door: TypeAlias = Literal["prefill", "prefix", "message", "chat", "built"] | None


@dataclass(frozen=True, slots=True)
class Route:
    """The host of a model's requests. `provider` is "" if the table does not know the host."""

    provider: str
    name: str
    row: SupportRow
    door: Door = None
    #: "": the plugin's default
    base_url: str = ""
    #: whether the requests go to /responses, which the table's rows do not cover
    on_responses: bool = False

    @property
    def native(self) -> bool:
        """Whether the host takes a prefill and the plugin can send it."""
        return self.row.native and self.door is not None


def route_of(model: Any) -> Route:
    """Return the host of this model's requests."""
    plugin = _plugin_of(model)
    if plugin == "llm_anthropic":
        # the plugin refuses its option `prefill` for models with adaptive thinking, which are Claude 4.6 and later
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
        # the plugin's class for speech has no messages, and body fields cannot be added
        can = hasattr(model, "build_messages") and not found.row.body_fields
        return found if can else replace(found, door=None)
    return _host("", getattr(model, "gemini_model_id", None) or model.model_id, None, None)


def _plugin_of(model: Any) -> str:
    """Return the package of the model's first known class; "llm" is LLM's own OpenAI plugin; "" if none is known."""
    name_attribute = {
        "llm_anthropic": "claude_model_id",
        "llm_groq": "groq_model_id",
        "llm_mistral": "mistral_model_id",
        "llm_ollama": "ollama_name",
    }
    # llm-ollama before 0.18 has no `ollama_name`: its model ids are Ollama's names, and it builds the messages itself
    before = {"llm_ollama": "build_messages"}
    for base in type(model).__mro__:
        root = base.__module__.partition(".")[0]
        if root in name_attribute:
            name = name_attribute[root]
            if hasattr(model, name) or hasattr(model, before.get(root, name)):
                return root
        if base.__module__ == "llm.default_plugins.openai_models" and hasattr(model, "api_base"):
            return "llm"
    return ""


def _has_option(model: Any, name: str) -> bool:
    return name in getattr(model.Options, "model_fields", {})


def _is_chat(model: Any) -> bool:
    """Whether LLM's chat completions code makes the request, also in a subclass that a plugin defines."""
    module = sys.modules.get("llm.default_plugins.openai_models")
    ours = {getattr(module, name).execute for name in ("Chat", "AsyncChat") if hasattr(module, name)}
    return type(model).execute in ours


def _sdk_url(provider: str, api: str) -> str | None:
    """Return the URL from the environment variable that the provider's SDK reads if no URL is passed."""
    return os.environ.get(builtin_table().row(provider, "", api).url_env)


def _host(provider: str, name: str, base_url: str | None, door: Door, *, api: str | None = None) -> Route:
    """Return the host at `base_url`, or the provider's own host.

    `api` is the protocol that the plugin uses; None is the provider's default protocol.
    """
    table = builtin_table()
    if base_url:
        # the table row is chosen by the address, not by the plugin
        provider = table.provider_of_url(base_url) or ""
        if api not in (None, *table.apis(provider)):
            provider = ""
    if not provider:
        return Route("", name, table.row("openai-compatible", name, api))
    return Route(provider, name, table.row(provider, name, api), door, base_url or "")

"""Which settings a request switches on, and which body fields have the same meaning, for all hosts that we know.

Gateways pass on fields that they do not know, so a request of one protocol may contain a field of another protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The names that hosts, engines and libraries use for the token limit of a reply.
TOKEN_LIMITS = (
    "max_tokens",
    "max_completion_tokens",
    "max_new_tokens",
    "max_output_tokens",
    "n_predict",
    "num_predict",
)

#: Words for a reply that reached its token limit, in protocols that no codec decodes. LLM's plugins use such protocols:
#: `incomplete_details.reason` of OpenAI's Responses, and Gemini's `finishReason` with the prefix of its enum.
OTHER_LIMIT_WORDS = ("max_output_tokens", "finish_reason_max_tokens")

#: Body fields, of various hosts, that constrain the reply to a schema, a grammar, a pattern or a choice.
_CONSTRAINTS = (
    "format",  # Ollama
    "json_schema",  # llama.cpp, which treats it like `response_format`
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",  # vLLM
    "regex", "ebnf", "structural_tag",  # SGLang
)  # fmt: skip

#: Argument -> fields that are the same setting on some host, so that such a field overrides the argument.
#: `stop_token_ids` is not included, because it adds to `stop=` and does not override it.
_SAME: dict[str, tuple[str, ...]] = {
    "max_tokens": TOKEN_LIMITS,
    "stop": ("stop_sequences",),
    "thinking": ("enable_thinking", "reasoning", "reasoning_effort", "think", "thinking_budget"),
    "response_format": (*_CONSTRAINTS, "output_config", "output_format", "grammar", "guided_decoding"),
}
#: Keys of `chat_template_kwargs` that switch thinking on and off.
_TEMPLATE_SWITCHES = ("enable_thinking", "thinking", "reasoning_effort")


def same_setting(argument: str, extra: Mapping[str, Any]) -> str | None:
    """Return a field of `extra` that is the same setting as an argument under another name, or None."""
    for name in _SAME.get(argument, ()):
        # An empty constraint has no effect. For other settings a false value counts: `enable_thinking` may be False.
        if extra.get(name) if argument == "response_format" else extra.get(name) is not None:
            return name
    template = extra.get("chat_template_kwargs")
    if argument == "thinking" and isinstance(template, Mapping) and not template.keys().isdisjoint(_TEMPLATE_SWITCHES):
        return "chat_template_kwargs"
    return None


def settings_in_use(arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that are on, each with the argument or field to change. See `Codec.settings_in_use`.

    >>> settings_in_use({"thinking": {"type": "enabled"}}, {"tools": [{}]})
    {'thinking': 'thinking', 'tools': "extra['tools']"}
    """
    on: dict[str, str] = {}

    def note(setting: str, spelled: str, is_on: bool) -> None:
        if is_on:
            on.setdefault(setting, spelled)

    def given(name: str) -> tuple[str, Any]:
        return (f"extra[{name!r}]", extra[name]) if name in extra else (name, arguments.get(name))

    spelled, thinking = given("thinking")
    note("thinking", spelled, _thinks(thinking))
    note("thinking", "extra['enable_thinking']", bool(extra.get("enable_thinking")))
    template = extra.get("chat_template_kwargs")
    if isinstance(template, Mapping):
        wants = template.get("enable_thinking") or template.get("thinking")
        note("thinking", "extra['chat_template_kwargs']", bool(wants))
    note("thinking", "extra['reasoning']", _thinks(extra.get("reasoning")))
    note("thinking", "extra['reasoning_effort']", extra.get("reasoning_effort") not in {None, "", "none"})

    for name in ("tools", "functions"):
        spelled, tools = given(name)
        note("tools", spelled, bool(tools))
    for name in ("tool_choice", "function_call"):
        note("tool_choice", f"extra[{name!r}]", _is_forced(extra.get(name)))

    spelled, response_format = given("response_format")
    note("response_format", spelled, _constrains(response_format))
    output = extra.get("output_config")
    if isinstance(output, Mapping):
        note("response_format", "extra['output_config']", _constrains(output.get("format")))
    note("response_format", "extra['output_format']", _constrains(extra.get("output_format")))
    for name in _CONSTRAINTS:
        note("response_format", f"extra[{name!r}]", bool(extra.get(name)))
    note("grammar", "extra['grammar']", bool(extra.get("grammar")))
    return on


def _thinks(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return bool(value)
    if value.get("enabled") is False or value.get("effort") == "none":  # OpenRouter
        return False
    return bool(value) and value.get("type") != "disabled"


def _is_forced(choice: Any) -> bool:
    if isinstance(choice, Mapping):  # `function_call` has only the function's name, no type
        return bool(choice) and choice.get("type") not in ("auto", "none")
    return choice not in (None, "", "auto", "none")


def _constrains(value: Any) -> bool:
    return bool(value) and not (isinstance(value, Mapping) and value.get("type") == "text")


def is_tool_result(turn: Mapping[str, Any]) -> bool:
    """Whether a message is or contains the result of a tool call."""
    content = turn.get("content")
    return turn.get("role") == "tool" or (isinstance(content, list) and any(_is_result(part) for part in content))


def _is_result(part: object) -> bool:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return isinstance(kind, str) and (kind.endswith("tool_result") or kind == "function_call_output")

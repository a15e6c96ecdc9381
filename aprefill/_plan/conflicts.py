"""What a request switches on that may not go together with a native prefill. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._errors import UsageError
from .._types import Support

if TYPE_CHECKING:
    from .._hosts.row import SupportRow
    from .request import Request

#: Body fields of many hosts that constrain the reply: a schema, a grammar, a pattern, a choice.
_CONSTRAINTS = (
    "format",  # Ollama
    "json_schema",  # llama.cpp, which treats it as it does `response_format`
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",  # vLLM
    "regex", "ebnf", "structural_tag",  # SGLang
)  # fmt: skip


#: argument -> fields in which some host has the same setting, so that one of them undoes or outvotes the argument.
#: `stop_token_ids` is not among them: it adds to `stop=`.
_SAME: dict[str, tuple[str, ...]] = {
    "max_tokens": ("max_completion_tokens", "max_new_tokens", "max_output_tokens", "n_predict", "num_predict"),
    "stop": ("stop_sequences",),
    "thinking": ("enable_thinking", "reasoning", "reasoning_effort", "think", "thinking_budget"),
    "response_format": (*_CONSTRAINTS, "output_config", "output_format", "grammar", "guided_decoding"),
}
#: Keys of `chat_template_kwargs` that switch thinking on and off.
_TEMPLATE_SWITCHES = ("enable_thinking", "thinking", "reasoning_effort")


def check_extra(request: Request, arguments: Mapping[str, tuple[str, ...]], row: SupportRow) -> None:
    """Raise `UsageError` for a field of `extra` that would undo an argument, in its own spelling or in any host's.

    `arguments` are the codec's: argument -> the body's fields that it becomes. An argument that was not given leaves
    its field to `extra`. A None removes the field, so it undoes the argument as well.

    ``"tool_choice": "none"`` beside `tools=` is the caller's wish and undoes nothing in silence: an earlier call in the
    messages needs its tool named, also where no other call is wanted.
    """
    extra = request.extra
    if not extra:
        return
    given: dict[str, object] = {
        "model": True,
        "prompt": True,
        "system": request.system is not None
        or any(turn["role"] in {"system", "developer"} for turn in request.messages),
        "max_tokens": request.max_tokens is not None,
        "stop": request.stop,
        "temperature": request.temperature is not None,
        "thinking": request.thinking is not None,
        "tools": request.tools,
        "response_format": request.response_format is not None,
    }
    for argument, fields in arguments.items():
        if not given[argument]:
            continue
        name = next((name for name in (argument, *fields) if name in extra), None) or _same(argument, extra)
        if name is None:
            continue
        keep = "leave the field out" if argument in {"model", "prompt"} else "keep one of the two"
        raise UsageError(f"extra[{name!r}] beside {argument}=: the field would undo the argument", f"{keep}")
    if extra.get("stream", True) is not True:
        raise UsageError("extra['stream']: every reply is streamed", "leave the field out")
    if request.prefill:
        _check_switches(request, row if request.support is None else row.with_support(request.support))


def _same(argument: str, extra: Mapping[str, Any]) -> str | None:
    """A field of `extra` that has the same setting as an argument, under another name."""
    for name in _SAME.get(argument, ()):
        # what is empty constrains nothing; `enable_thinking` may be False
        if extra.get(name) if argument == "response_format" else extra.get(name) is not None:
            return name
    template = extra.get("chat_template_kwargs")
    if argument == "thinking" and isinstance(template, Mapping) and not template.keys().isdisjoint(_TEMPLATE_SWITCHES):
        return "chat_template_kwargs"
    return None


def _check_switches(request: Request, row: SupportRow) -> None:
    """Raise `UsageError` for a field of `extra` that would take away what carries a native prefill.

    The same switch said once more is no error, and neither are the switches with which a caller carries a prefill to a host
    whose row has none. Without `add_generation_prompt` a host is on its own, and says so with an error where it needs the
    field. A field that switches on what goes together with no prefill is found by `switched_on`.
    """
    extra = request.extra
    wanted: dict[str, Any] = {"continue_final_message": True}
    if row.native:
        # without this one a template opens a turn of its own, unless it goes on with the last one
        wanted["add_generation_prompt"] = row.dialect == "continue_final_message"
        wanted |= row.body_fields
        if row.support is Support.EATS:
            wanted["echo"] = False
    named = switched_on(request).values()
    for name, value in wanted.items():
        if name not in extra or f"extra[{name!r}]" in named:
            continue
        if extra[name] is None and name in {"add_generation_prompt", "echo"}:
            continue
        if not _agrees(extra[name], value):
            raise UsageError(f"extra[{name!r}] beside prefill=: the field would undo the argument", "keep one")


def _agrees(given: Any, wanted: Any) -> bool:
    """Whether a field says what is wanted: a switch as much, an object at least as much."""
    if isinstance(wanted, Mapping):
        return isinstance(given, Mapping) and all(key in given and given[key] == wanted[key] for key in wanted)
    if isinstance(wanted, bool):
        return given is not None and bool(given) == wanted
    return bool(given == wanted)


def switched_on(request: Request) -> dict[str, str]:
    """The settings that are on, and what the caller calls each: what to change.

    Settings are those of `SupportRow.conflicts`: "thinking", "tools", "tool_choice" (a forced call), "response_format" (a
    schema or a pattern), "grammar" (llama.cpp's). A field of `extra` wins over the argument of the same name, as it does in the request.
    """
    extra = request.extra
    on: dict[str, str] = {}

    def note(setting: str, spelled: str, is_on: bool) -> None:
        if is_on:
            on.setdefault(setting, spelled)

    def given(name: str, argument: Any) -> tuple[str, Any]:
        return (f"extra[{name!r}]", extra[name]) if name in extra else (name, argument)

    spelled, thinking = given("thinking", request.thinking)
    note("thinking", spelled, _thinks(thinking))
    note("thinking", "extra['enable_thinking']", bool(extra.get("enable_thinking")))
    template = extra.get("chat_template_kwargs")
    if isinstance(template, Mapping):
        wants = template.get("enable_thinking") or template.get("thinking")
        note("thinking", "extra['chat_template_kwargs']", bool(wants))
    note("thinking", "extra['reasoning']", _thinks(extra.get("reasoning")))
    note("thinking", "extra['reasoning_effort']", extra.get("reasoning_effort") not in {None, "", "none"})

    for name, argument in (("tools", request.tools), ("functions", None)):
        spelled, tools = given(name, argument)
        note("tools", spelled, bool(tools))
    for name in ("tool_choice", "function_call"):
        note("tool_choice", f"extra[{name!r}]", _is_forced(extra.get(name)))

    spelled, response_format = given("response_format", request.response_format)
    note("response_format", spelled, _constrains(response_format))
    output = extra.get("output_config")
    if isinstance(output, Mapping):
        note("response_format", "extra['output_config']", _constrains(output.get("format")))
    note("response_format", "extra['output_format']", _constrains(extra.get("output_format")))
    for name in _CONSTRAINTS:
        note("response_format", f"extra[{name!r}]", bool(extra.get(name)))
    note("grammar", "extra['grammar']", bool(extra.get("grammar")))
    return on


def rule(conflicts: Mapping[str, str], setting: str) -> str | None:
    """The word of a row's `conflicts` for a setting. What is said of a response format holds for a grammar too, unless
    the row says something else of that."""
    word = conflicts.get(setting)
    return conflicts.get("response_format") if word is None and setting == "grammar" else word


def _thinks(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return bool(value)
    if value.get("enabled") is False or value.get("effort") == "none":  # OpenRouter
        return False
    return bool(value) and value.get("type") != "disabled"


def _is_forced(choice: Any) -> bool:
    if isinstance(choice, Mapping):  # `function_call` names the function and nothing else
        return bool(choice) and choice.get("type") not in ("auto", "none")
    return choice not in (None, "", "auto", "none")


def _constrains(value: Any) -> bool:
    return bool(value) and not (isinstance(value, Mapping) and value.get("type") == "text")

"""What a request switches on that may not go together with a native prefill. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._errors import UsageError
from .._types import Support

if TYPE_CHECKING:
    from .._codecs import Codec
    from .._hosts.row import SupportRow
    from .request import Request


def check_extra(request: Request, codec: Codec, row: SupportRow) -> None:
    """Raise `UsageError` for a field of `extra` that would undo an argument, in its own spelling or in any host's.

    An argument that was not given leaves its field to `extra`. A None removes the field, so it undoes the argument as
    well.

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
    for argument in codec.arguments:
        if not given[argument]:
            continue
        name = codec.undone_by(argument, extra)
        if name is None:
            continue
        keep = "leave the field out" if argument in {"model", "prompt"} else "keep one of the two"
        raise UsageError(f"extra[{name!r}] beside {argument}=: the field would undo the argument", f"{keep}")
    for name, value in codec.streaming.items():
        if extra.get(name, value) is not value:
            raise UsageError(f"extra[{name!r}]: every reply is streamed", "leave the field out")
    if request.prefill:
        _check_switches(request, codec, row if request.support is None else row.with_support(request.support))


def _check_switches(request: Request, codec: Codec, row: SupportRow) -> None:
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
    named = switched_on(request, codec).values()
    for name, value in wanted.items():
        if name not in extra or f"extra[{name!r}]" in named:
            continue
        if extra[name] is None and name in {"add_generation_prompt", "echo"}:
            continue
        given = codec.merge({name: value}, {name: extra[name]}).get(name)
        if not _agrees(given, value):
            raise UsageError(f"extra[{name!r}] beside prefill=: the field would undo the argument", "keep one")


def _agrees(given: Any, wanted: Any) -> bool:
    """Whether a field says what is wanted: a switch as much, an object at least as much."""
    if isinstance(wanted, Mapping):
        return isinstance(given, Mapping) and all(key in given and given[key] == wanted[key] for key in wanted)
    if isinstance(wanted, bool):
        return given is not None and bool(given) == wanted
    return bool(given == wanted)


def switched_on(request: Request, codec: Codec) -> dict[str, str]:
    """The settings that are on, and what the caller calls each: what to change. See `Codec.settings_in_use`."""
    given = {"thinking": request.thinking, "tools": request.tools, "response_format": request.response_format}
    return codec.settings_in_use(given, request.extra)


def conflict(row: SupportRow, on: Mapping[str, str]) -> tuple[str, str, str] | None:
    """The setting among those that are `on` which decides whether a native prefill is sent; None if all go together with one.

    Returns its word in the row ("breaks" or "unknown"), its name, and what the caller calls it. One that breaks comes before
    one of which nothing is known.
    """
    found = [(word, name, spelled) for name, spelled in on.items() if (word := rule(row.conflicts, name))]
    return min(found, key=lambda one: one[0] != "breaks", default=None)


def rule(conflicts: Mapping[str, str], setting: str) -> str | None:
    """The word of a row's `conflicts` for a setting. What is said of a response format holds for a grammar too, unless
    the row says something else of that."""
    word = conflicts.get(setting)
    return conflicts.get("response_format") if word is None and setting == "grammar" else word

"""Settings of a request that may conflict with a native prefill. Pure."""

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
    """Raise `UsageError` if a field of `extra` would undo an argument, whichever host's name for the field is used.

    If an argument was not given, `extra` may set its field. A None removes the field, so it undoes the argument too.

    ``"tool_choice": "none"`` together with `tools=` is allowed. The caller has chosen it, and it is useful: if the
    messages contain an earlier tool call, the host needs that tool's name even if no further call is wanted.
    """
    extra = request.extra
    if not extra:
        return
    given: dict[str, object] = {
        "model": True,
        "prompt": True,
        "system": request.system is not None or any(turn["role"] in codec.system_roles for turn in request.messages),
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
        raise UsageError(f"extra[{name!r}] together with {argument}=: the field would undo the argument", f"{keep}")
    for name, value in codec.streaming.items():
        if extra.get(name, value) is not value:
            raise UsageError(f"extra[{name!r}]: every reply is streamed", "leave the field out")
    if request.prefill:
        _check_switches(request, codec, row if request.support is None else row.with_support(request.support))


def _check_switches(request: Request, codec: Codec, row: SupportRow) -> None:
    """Raise `UsageError` if a field of `extra` would undo a switch that a native prefill needs.

    The switches are those of the codec, and the fields of the row, which override them. These are allowed: a switch
    with the value that it has anyway, and switches with which a caller sends a prefill to a host that takes no native
    prefill according to the support table. `switched_on` finds the settings that conflict with a prefill.
    """
    extra = request.extra
    switches = codec.prefill_switches(row.dialect, eats=row.support is Support.EATS)
    removable = {name for name, switch in switches.items() if switch.may_be_removed}
    wanted = {name: switch.value for name, switch in switches.items()} | (dict(row.body_fields) if row.native else {})
    named = switched_on(request, codec).values()
    for name, value in wanted.items():
        if name not in extra or f"extra[{name!r}]" in named:
            continue
        if extra[name] is None and name in removable:
            continue
        given = codec.merge({name: value}, {name: extra[name]}).get(name)
        if not _agrees(given, value):
            raise UsageError(
                f"extra[{name!r}] together with prefill=: the field would undo the argument", "keep one of the two"
            )


def _agrees(given: Any, wanted: Any) -> bool:
    """Return whether a field has the wanted value. An object may have more keys than wanted."""
    if isinstance(wanted, Mapping):
        return isinstance(given, Mapping) and all(key in given and given[key] == wanted[key] for key in wanted)
    if isinstance(wanted, bool):
        return given is not None and bool(given) == wanted
    return bool(given == wanted)


def switched_on(request: Request, codec: Codec) -> dict[str, str]:
    """Return the settings that are on, each with the caller's name for it. See `Codec.settings_in_use`."""
    given = {"thinking": request.thinking, "tools": request.tools, "response_format": request.response_format}
    return codec.settings_in_use(given, request.extra)


def conflict(row: SupportRow, on: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Return the setting in `on` that prevents a native prefill; None if no setting conflicts with a native prefill.

    Returns the row's entry for the setting ("breaks" or "unknown"), the setting's name, and the caller's name for it.
    If there are several such settings, a setting with the entry "breaks" is preferred to one with "unknown".
    """
    found = [(word, name, spelled) for name, spelled in on.items() if (word := rule(row.conflicts, name))]
    return min(found, key=lambda one: one[0] != "breaks", default=None)


def rule(conflicts: Mapping[str, str], setting: str) -> str | None:
    """Return the entry for a setting in a row's `conflicts`: "breaks", "unknown" or None.

    A grammar without an entry has the one of `response_format`.
    """
    word = conflicts.get(setting)
    return conflicts.get("response_format") if word is None and setting == "grammar" else word

"""Dialects: the wire forms of a native prefill, and the switches with which a request asks for one.

A host continues a last assistant turn because of the turn itself, or because of a switch on that turn or in the body.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

#: The values of `dialect` in `models.toml`.
Dialect: TypeAlias = Literal["trailing", "prefix", "partial", "continue_final_message"]


class DialectFields(NamedTuple):
    """The fields that a dialect adds to a request."""

    turn: dict[str, Any]
    body: dict[str, Any]


#: Dialect -> its fields of the assistant turn and of the body.
DIALECTS: dict[Dialect, DialectFields] = {
    "trailing": DialectFields({}, {}),
    "prefix": DialectFields({"prefix": True}, {}),
    "partial": DialectFields({"partial": True}, {}),
    "continue_final_message": DialectFields({}, {"continue_final_message": True}),
}


class PrefillSwitch(NamedTuple):
    """A body field that decides whether the host continues a prefill."""

    #: The value that a prefill needs.
    value: Any
    #: Whether a None in `extra`, which removes the field, is allowed.
    may_be_removed: bool = False


def engine_switches(dialect: str, *, eats: bool) -> dict[str, PrefillSwitch]:
    """Return the switches of vLLM, SGLang and llama.cpp. Other hosts of their protocols ignore or refuse them."""
    switches = {"continue_final_message": PrefillSwitch(True)}
    if dialect == "prompt":
        return switches
    # If `add_generation_prompt` is true, a template opens a new turn, unless the request also says to continue the
    # last one. A host that needs the field answers with an error if it is removed.
    opens_turn = dialect == "continue_final_message"
    switches["add_generation_prompt"] = PrefillSwitch(opens_turn, may_be_removed=True)
    if eats:
        switches["echo"] = PrefillSwitch(False, may_be_removed=True)
    return switches

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

"""The options of a reply and their defaults, said once: what `stream()` and `Session` take and the plan works from."""

# Imported at run time, so that `typing.get_type_hints` works on what is public.
# ruff: noqa: TC001
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from .._settings import Limits, Recovery, Timeouts
from .._types import Support
from .emulate import Emulation

#: What the model is asked: the user's text, or a list of messages.
Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
#: When the prefill is handed out.
ShowWhen: TypeAlias = Literal["now", "accepted", "decided", "never"]
#: What to do when the model was asked to begin with the prefill and does not.
Absent: TypeAlias = Literal["join", "retry", "raise"]


class Unset(Enum):
    """The type of an argument that was not given: the session's own value applies."""

    UNSET = "the session's own"

    def __repr__(self) -> str:
        return "..."


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Options:
    """What is said of a reply beside its prompt and its prefill. It has no repr: it may hold a key and a system prompt.

    `stream()` says what each means. Its signature and those of `Session` repeat these lines, for type checkers and for
    people; a test holds them together.
    """

    model: str | None = None
    client: Any = None
    base_url: str | None = None
    api_key: str | None = None
    api: str | None = None
    allow_http: bool = False
    system: str | None = None
    max_tokens: int | None = None
    stop: str | Sequence[str] = ()
    temperature: float | None = None
    thinking: Mapping[str, Any] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    response_format: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] | None = None
    support: Support | str | None = None
    emulate: bool | Emulation = True
    absent: Absent = "join"
    strict: bool = False
    show_when: ShowWhen | None = None
    show_from: int | str = 0
    coalesce: bool = False
    recovery: Recovery = Recovery()  # noqa: RUF009 - frozen
    timeouts: Timeouts = Timeouts()  # noqa: RUF009 - frozen
    limits: Limits = Limits()  # noqa: RUF009 - frozen


_NAMES = tuple(field.name for field in fields(Options))


def merged(defaults: Options, given: Mapping[str, Any]) -> Options:
    """`defaults` with what a call has given: its arguments, of which those that are no option are left alone."""
    return replace(defaults, **{name: given[name] for name in _NAMES if given.get(name, UNSET) is not UNSET})

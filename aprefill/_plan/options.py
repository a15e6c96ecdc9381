"""The options of a reply and their defaults, for `stream()`, `Session` and the plan."""

# These names are imported at run time, so that `typing.get_type_hints` works on the public functions.
# ruff: noqa: TC001
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from .._settings import Limits, Recovery, Timeouts
from .._types import Support
from .emulate import Emulation

#: The input for the model: the user's text, or a list of messages.
Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
#: When to yield the prefill.
ShowWhen: TypeAlias = Literal["now", "accepted", "decided", "never"]
#: What to do if the prompt asked the model to begin with the prefill and the reply does not.
Absent: TypeAlias = Literal["join", "retry", "raise"]


class Unset(Enum):
    """Type of the default value of arguments that were not given. The session's value is used instead."""

    UNSET = "the session's own"

    def __repr__(self) -> str:
        return "..."


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Options:
    """All options of a reply besides its prompt and prefill. It has no repr: it may contain a key and a system prompt.

    `stream()` documents the options. Its signature and those of `Session` repeat the fields below and their defaults,
    for type checkers and readers. A test checks that they agree.
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
    """Return `defaults`, overridden by the arguments of a call. Arguments that are not options are ignored."""
    return replace(defaults, **{name: given[name] for name in _NAMES if given.get(name, UNSET) is not UNSET})

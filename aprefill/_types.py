"""The values that travel between the layers, and those the caller sees.

What a codec makes of a record is a *delta*; what `Reply.events()` gives the caller is an *event*. Deltas are
msgspec structs without GC tracking: one is made for every token. What the caller sees is a frozen dataclass with
`as_dict()`, because web frameworks turn dataclasses into JSON by themselves.
"""

from __future__ import annotations

from dataclasses import Field, dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class Support(StrEnum):
    """What a host does with an assistant prefill (simonw/llm issue 463)."""

    #: native: the reply leaves the prefill out
    EATS = "eats"
    #: native: the reply repeats the prefill
    ECHOES = "echoes"
    #: only by asking in the prompt
    EMULATED = "emulated"
    #: refused, and asking does not help
    UNSUPPORTED = "unsupported"


class Verdict(StrEnum):
    """What the seam found at the start of a provider's text."""

    #: not enough text yet
    UNDECIDED = "undecided"
    #: no echo: the text goes on from the known text
    ABSENT = "absent"
    #: the known text was repeated, and dropped
    ECHOED = "echoed"
    #: it was repeated inside a Markdown fence
    FENCED = "fenced"
    #: it was repeated behind chatter
    PREFACED = "prefaced"
    #: the text began with a tail of the known text
    OVERLAPPED = "overlapped"
    #: the stream was cut inside a possible repetition
    TRUNCATED = "truncated"


class StopReason(StrEnum):
    """Why the model stopped, in one vocabulary. The host's own word is `AttemptReport.raw_stop_reason`."""

    #: the model came to its end
    END = "end"
    #: a stop sequence was met; `stop_sequence` says which, where known
    STOP_SEQUENCE = "stop_sequence"
    #: the token limit of the request
    MAX_TOKENS = "max_tokens"
    #: the model wants a tool called
    TOOL_USE = "tool_use"
    #: the provider's safety layer or the model declined
    REFUSAL = "refusal"
    #: a long-running turn was paused by the host; send it back to go on
    PAUSE = "pause"
    #: the model's context window is full
    CONTEXT_WINDOW = "context_window"
    #: the caller ended the reply with `cancel()`
    CANCELLED = "cancelled"
    #: a word this version does not know
    OTHER = "other"


#: The reply ran into a limit for its tokens: the request's own, or the model's.
TOKEN_LIMIT_REASONS = frozenset({StopReason.MAX_TOKENS, StopReason.CONTEXT_WINDOW})


class Value:
    """What the values that the caller sees have in common. Each of them is a frozen dataclass.

    >>> Usage(input_tokens=7, output_tokens=5).as_dict()["output_tokens"]
    5
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def as_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold: every field, None where nothing is known, enums as words, values inside as dicts."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return value.as_dict()
    return value.value if isinstance(value, Enum) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Value):
    """Tokens as the host counted them. None: the host did not say.

    `input_tokens` are the prompt's tokens billed at the full rate or, on hosts that only give a total, all of
    them; cached ones are counted apart where the host does. `output_tokens` include reasoning, and the repetition
    of an emulated prefill: `echo_tokens` is our estimate of that part, by its share of the text.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    echo_tokens: int | None = None

    def __add__(self, other: Usage) -> Usage:
        def add(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None else a + b

        return Usage(
            input_tokens=add(self.input_tokens, other.input_tokens),
            output_tokens=add(self.output_tokens, other.output_tokens),
            cache_read_tokens=add(self.cache_read_tokens, other.cache_read_tokens),
            cache_write_tokens=add(self.cache_write_tokens, other.cache_write_tokens),
            reasoning_tokens=add(self.reasoning_tokens, other.reasoning_tokens),
            echo_tokens=add(self.echo_tokens, other.echo_tokens),
        )


def sum_of(counted: Iterable[Usage | None]) -> Usage | None:
    """The sum of what is known; None: nothing is."""
    total: Usage | None = None
    for usage in counted:
        if usage is not None:
            total = usage if total is None else total + usage
    return total


# --- wire -----------------------------------------------------------------------------------------------------


# --- deltas ---------------------------------------------------------------------------------------------------


# --- requests -------------------------------------------------------------------------------------------------


# --- what the caller sets -------------------------------------------------------------------------------------


# --- what the caller sees -------------------------------------------------------------------------------------

"""The values that travel between the layers, and those the caller sees.

What a codec makes of a record is a *delta*; what `Reply.events()` gives the caller is an *event*. Deltas are
msgspec structs without GC tracking: one is made for every token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from msgspec import Struct


class Support(Enum):
    """What a host does with an assistant prefill (simonw/llm issue 463)."""

    #: native: the reply leaves the prefill out
    EATS = "eats"
    #: native: the reply repeats the prefill
    ECHOES = "echoes"
    #: only by asking in the prompt
    EMULATED = "emulated"
    #: refused, and asking does not help
    UNSUPPORTED = "unsupported"


class StopReason(Enum):
    """Why the model stopped, in one vocabulary. The host's own word is `Attempt.raw_stop_reason`."""

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


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens as the host counted them. None: the host did not say.

    `input_tokens` are the prompt's tokens billed at the full rate or, on hosts that only give a total, all of
    them; cached ones are counted apart where the host does. `output_tokens` include reasoning.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None

    def __add__(self, other: Usage) -> Usage:
        def add(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None else a + b

        return Usage(
            input_tokens=add(self.input_tokens, other.input_tokens),
            output_tokens=add(self.output_tokens, other.output_tokens),
            cache_read_tokens=add(self.cache_read_tokens, other.cache_read_tokens),
            cache_write_tokens=add(self.cache_write_tokens, other.cache_write_tokens),
            reasoning_tokens=add(self.reasoning_tokens, other.reasoning_tokens),
        )


# --- wire -----------------------------------------------------------------------------------------------------


class Record(Struct, frozen=True, gc=False):
    """One decoded wire event: the payload's bytes and what framed it."""

    data: bytes
    event: str = ""
    id: str = ""


# --- deltas ---------------------------------------------------------------------------------------------------


class TextDelta(Struct, frozen=True, gc=False):
    """Text of the reply itself."""

    text: str


class ReasoningDelta(Struct, frozen=True, gc=False):
    """Text of the model's reasoning, where the host shows it."""

    text: str


class ToolDelta(Struct, frozen=True, gc=False):
    """A piece of a tool call. `arguments` is a fragment of JSON text; `id` and `name` come with the first piece."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class UsageDelta(Struct, frozen=True):
    """What the host has counted so far; a later one replaces an earlier one."""

    usage: Usage


class FinishDelta(Struct, frozen=True):
    """Why the model stopped. `raw` is the host's word."""

    reason: StopReason
    raw: str
    sequence: str | None = None


class ErrorDelta(Struct, frozen=True):
    """The host reported an error inside the stream. Nothing after it counts."""

    status: int
    error_type: str
    detail: str


class EndDelta(Struct, frozen=True):
    """The protocol's end. Text after it is not text of the reply."""


Delta: TypeAlias = TextDelta | ReasoningDelta | ToolDelta | UsageDelta | FinishDelta | ErrorDelta | EndDelta


# --- requests -------------------------------------------------------------------------------------------------

Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Call:
    """One request in neutral terms, ready for a codec to encode. It has no repr: it holds the prompt."""

    model: str
    messages: tuple[Message, ...]
    system: str | None = None
    max_tokens: int | None = None
    #: the sequences the host may be told
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    thinking: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    response_format: dict[str, Any] | None = None
    #: which field carries `max_tokens` on chat completions: "max_tokens" or "max_completion_tokens"
    token_field: str = "max_tokens"  # noqa: S105 - a field's name
    #: body fields that win over everything above: the dialect's first, then the caller's `extra`
    fields: dict[str, Any] = field(default_factory=dict)

"""What a caller is told beside text: events, reports, times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ._types import StopReason, Support, Usage, Value, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing(Value):
    """When things happened, in seconds since the request began; None: not yet, or never.

    `first_token_s` is the first non-empty token of any kind that the model produced (time to first token as
    benchmarks define it); the prefill never counts. `first_text_s` is the first new text that could be handed
    out, `held_s` how long the seam had held it back.
    """

    accepted_s: float | None = None
    first_token_s: float | None = None
    first_text_s: float | None = None
    held_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport(Value):
    """What one request did.

    `mode` is how it carried the prefill: "native", "emulated", or "none" when there was none. `error` is the class
    of what it failed with, ``""`` if it did not; `waited_s` how long was waited before it was sent. `broken_end` is the
    class of what broke the stream after the model had given its stop reason: the reply is complete, so it is no failure.
    """

    number: int
    provider: str
    model: str
    mode: str
    support: Support
    verdict: Verdict
    status: int | None = None
    request_id: str | None = None
    usage: Usage | None = None
    stop_reason: StopReason | None = None
    raw_stop_reason: str | None = None
    stop_sequence: str | None = None
    received_bytes: int = 0
    error: str = ""
    waited_s: float = 0.0
    broken_end: str = ""


@dataclass(frozen=True, slots=True)
class TextEvent(Value):
    """A piece of the reply. `offset` is where it begins in the whole reply, in characters, the prefill counted."""

    text: str
    offset: int
    prefill: bool = False


@dataclass(frozen=True, slots=True)
class HeldEvent(Value):
    """What of the model's text is held back now, because it may still turn out not to be the reply's.

    Only from `events(held=True)`. It may be a repetition of the prefill, a fence or a stop sequence in the making. With
    `more`, `text` comes behind what was held before and still is; without, it is all that is held: ``""`` when everything
    is decided. What was held is then in the `TextEvent` that follows, or in none. Behind the end of the reply, or an
    error, nothing is held.
    """

    text: str
    more: bool = False


@dataclass(frozen=True, slots=True)
class ReasoningEvent(Value):
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolEvent(Value):
    """A piece of a tool call; `arguments` is a fragment of JSON text, to be joined per `index`."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class AttemptStarted(Value):
    """A request goes out: it is sent when the next event is asked for."""

    number: int
    mode: str
    support: Support


@dataclass(frozen=True, slots=True)
class AttemptEnded(Value):
    """A request is over; `report` is what it did."""

    report: AttemptReport


Event: TypeAlias = TextEvent | HeldEvent | ReasoningEvent | ToolEvent | AttemptStarted | AttemptEnded

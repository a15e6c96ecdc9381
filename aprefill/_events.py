"""What the caller can get besides text: events, reports, timings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ._types import StopReason, Support, Usage, Value, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing(Value):
    """Timestamps of a reply, in seconds since its first request began. None: it has not happened, or never will.

    `accepted_s` is when the host accepted the request. `first_token_s` is the first non-empty token of any kind that
    the model produced, which is the time to first token of benchmarks. The prefill never counts. `first_text_s` is the
    first new text that could be yielded. `held_s` is how long that text had been held back before. `total_s` is the end
    of the reply.
    """

    accepted_s: float | None = None
    first_token_s: float | None = None
    first_text_s: float | None = None
    held_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport(Value):
    """What one request did.

    `mode` says how the request carried the prefill: "native", "emulated", or "none" if there was no prefill. `error` is
    the class name of the error with which the request failed, or ``""``. `waited_s` is the wait before the request was
    sent. `broken_end` is the class name of an error that broke the stream after the model had sent its stop reason.
    Such a reply is complete, so the request did not fail.
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
    """A piece of the reply. `offset` is its position in the whole reply, in characters. The prefill counts."""

    text: str
    offset: int
    prefill: bool = False


@dataclass(frozen=True, slots=True)
class HeldEvent(Value):
    """Model text that is held back now, because it may still turn out not to belong to the reply.

    Only `events(held=True)` yields this. Held text may be a repetition of the prefill, a code fence or a stop sequence
    that is not complete yet. If `more` is True, append `text` to the text held so far. If it is False, `text` replaces
    the text held so far, and ``""`` means that nothing is held now. Once it is decided, text that belongs to the reply
    follows in a `TextEvent`, and other held text is dropped. At the end of the reply, or at an error, nothing is held.
    """

    text: str
    more: bool = False


@dataclass(frozen=True, slots=True)
class ReasoningEvent(Value):
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolEvent(Value):
    """A piece of a tool call. `arguments` is a fragment of JSON text. Join the fragments that have the same `index`."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class AttemptStarted(Value):
    """A request is about to be sent. It is sent when the caller asks for the next event."""

    number: int
    mode: str
    support: Support


@dataclass(frozen=True, slots=True)
class AttemptEnded(Value):
    """A request has ended. `report` says what it did."""

    report: AttemptReport


Event: TypeAlias = TextEvent | HeldEvent | ReasoningEvent | ToolEvent | AttemptStarted | AttemptEnded

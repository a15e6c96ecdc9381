"""Decides what follows a request that failed. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .._errors import (
    AprefillError,
    ConnectFailed,
    PrefillIgnored,
    PrefillRefused,
    Stalled,
    StatusError,
    Truncated,
    UsageError,
)
from .._json import flat, texts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .._hosts.row import KnownRefusal
    from .request import Request
    from .step import AttemptPlan
from .first import _emulated

#: `KnownRefusal.why` of a host that will say it again: the others are about one request.
LASTING = frozenset({"model", "thinking", "flags"})


#: The first wait before a retry, its growth and its bound, in seconds, without a word of the host's.
FIRST_WAIT_S = 0.5


GROWTH = 2.0


LONGEST_WAIT_S = 8.0


#: How far chance moves a wait down, so that many callers do not come back at once.
JITTER = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened to the last request, which failed before anything new was handed out."""

    plan: AttemptPlan
    error: AprefillError
    #: the model had produced a token of any kind; a tool call
    has_token: bool
    has_tool: bool = False
    #: how often a request of this reply was sent again because the way to the host or the host failed
    retries: int
    #: of the reply's total clock, in seconds
    left_s: float


def teaches(refusal: KnownRefusal | None, fields: Mapping[str, Any]) -> bool:
    """Whether the next request with the same subject would meet this refusal again, so that it is worth remembering.

    Not where the request, `fields`, holds the refusal's own words: a host that quotes it says nothing about itself.
    """
    return refusal is not None and refusal.why in LASTING and not is_quoted(refusal, [fields])


def is_quoted(refusal: KnownRefusal, values: Iterable[Any]) -> bool:
    """Whether the words of a refusal stand in these JSON values themselves, in a text or in a field's name."""
    words = flat(refusal.text)
    return any(words in flat(text) for text in texts_of(values, names=True))


def plan_next(request: Request, outcome: Outcome, chance: float) -> AttemptPlan | None:
    """What to send after a failure; None: nothing, the error is the caller's. `chance` is from 0 to 1.

    A refusal is answered by asking in the prompt, a missing echo by asking again if the caller wants that, and a
    failure that may pass by the same request again.
    """
    plan, error = outcome.plan, outcome.error
    if isinstance(error, PrefillRefused):
        if plan.mode != "native" or request.forbids_emulation:
            return None
        try:
            return _emulated(request, plan.row, plan.model_input.model)
        except UsageError as why_not:
            error.add_note(f"It was not asked for in the prompt: {why_not}")
            return None
    if isinstance(error, PrefillIgnored):
        if plan.absent != "retry" or outcome.has_tool:
            return None
        return _emulated(request, plan.row, plan.model_input.model, again=True)
    recovery = request.recovery
    if outcome.has_token or outcome.retries >= recovery.retries or not may_pass(error):
        return None
    wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * GROWTH**outcome.retries) * (1 - JITTER * chance)
    asked_s = error.retry_after_s if isinstance(error, StatusError) else None
    if asked_s is not None and asked_s > recovery.max_wait_s:
        return None
    wait_s = asked_s or min(wait_s, recovery.max_wait_s)
    return replace(plan, wait_s=wait_s) if wait_s < outcome.left_s else None


def may_pass(error: AprefillError) -> bool:
    """Whether the same request may well succeed a little later."""
    if isinstance(error, StatusError):
        return error.status in {408, 409, 429} or error.status >= 500
    if isinstance(error, Stalled):
        return error.clock == "connect_s"
    return error.may_pass if isinstance(error, ConnectFailed) else isinstance(error, Truncated)

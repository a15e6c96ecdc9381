"""Decides what follows a request, by a table. Pure: what was asked and what became of it in, one request out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from .._errors import AprefillError, PrefillIgnored, PrefillRefused, StatusError, UsageError
from .._json import flat, texts_of
from .first import Way, plan_emulated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._deltas import FinishDelta
    from .._hosts.row import KnownRefusal
    from .request import Request
    from .step import AttemptPlan

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
    """What became of the last request."""

    plan: AttemptPlan
    #: the prefill and all text that was handed out
    known: str
    #: what it failed with, before anything new was handed out; None: it came to its end
    error: AprefillError | None
    #: why the model stopped, as far as the host said so
    finish: FinishDelta | None = None
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


def plan_next(request: Request, outcome: Outcome, *, chance: float, token: Callable[[], str]) -> AttemptPlan | None:
    """What to send after this outcome; None: nothing, it is the caller's. `chance` is from 0 to 1.

    The first row of `ANSWERS` that is about this outcome says it.
    """
    for answer in ANSWERS:
        if answer.is_about(outcome):
            return answer.plan(request, outcome, chance, token)
    return None


class Answer(NamedTuple):
    """What follows one kind of outcome."""

    name: str
    is_about: Callable[[Outcome], bool]
    plan: Callable[[Request, Outcome, float, Callable[[], str]], AttemptPlan | None]


def _rescue(request: Request, outcome: Outcome, chance: float, token: Callable[[], str]) -> AttemptPlan | None:
    """The host takes no prefill: ask for it in the prompt, if the caller allows that."""
    plan, error = outcome.plan, outcome.error
    if plan.mode != "native" or request.forbids_emulation:
        return None
    try:
        return plan_emulated(request, outcome.known, Way(plan.target, plan.transport, token), plan.row)
    except UsageError as why_not:
        assert error is not None
        error.add_note(f"It was not asked for in the prompt: {why_not}")
        return None


def _ask_again(request: Request, outcome: Outcome, chance: float, token: Callable[[], str]) -> AttemptPlan | None:
    """The reply did not begin as asked: ask once more, in other words, if the caller wants that."""
    plan = outcome.plan
    if plan.absent != "retry" or outcome.has_tool:
        return None
    return plan_emulated(request, outcome.known, Way(plan.target, plan.transport, token), plan.row, again=True)


def _retry(request: Request, outcome: Outcome, chance: float, token: Callable[[], str]) -> AttemptPlan | None:
    """What failed may pass: the same request once more, after a wait."""
    recovery = request.recovery
    if outcome.has_token or outcome.retries >= recovery.retries:
        return None
    wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * GROWTH**outcome.retries) * (1 - JITTER * chance)
    asked_s = outcome.error.retry_after_s if isinstance(outcome.error, StatusError) else None
    if asked_s is not None and asked_s > recovery.max_wait_s:
        return None
    wait_s = asked_s or min(wait_s, recovery.max_wait_s)
    return replace(outcome.plan, wait_s=wait_s) if wait_s < outcome.left_s else None


#: In this order. A clean end is about none of them.
ANSWERS = (
    Answer("rescue", lambda outcome: isinstance(outcome.error, PrefillRefused), _rescue),
    Answer("ask again", lambda outcome: isinstance(outcome.error, PrefillIgnored), _ask_again),
    Answer("retry", lambda outcome: outcome.error is not None and outcome.error.may_pass, _retry),
)

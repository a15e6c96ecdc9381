"""Decides what follows a request, by a table. Pure: it takes the outcome of a request and returns the next one."""

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

#: Values of `KnownRefusal.why` that the host would repeat for later requests. All others concern only one request.
LASTING = frozenset({"model", "thinking", "flags"})

#: Backoff in seconds if the host sent no Retry-After: first wait, growth factor, maximum.
FIRST_WAIT_S = 0.5
GROWTH = 2.0
LONGEST_WAIT_S = 8.0
#: Jitter: each wait is shortened by up to this fraction, so that many callers do not retry at the same moment.
JITTER = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of the last request."""

    plan: AttemptPlan
    #: The prefill and all text that came after it, whether it has been yielded or not.
    known: str
    #: The error, if the request failed. None: it ended cleanly.
    error: AprefillError | None
    #: Why the model stopped, if the host said so.
    finish: FinishDelta | None = None
    #: Whether the model has produced a token of any kind.
    has_token: bool
    #: Whether the model has called a tool.
    has_tool: bool = False
    #: Number of retries of this reply after a failure of the connection or of the host.
    retries: int
    #: Seconds left of `Timeouts.total_s`.
    left_s: float


def teaches(refusal: KnownRefusal | None, fields: Mapping[str, Any]) -> bool:
    """Whether later requests would meet this refusal again, so that it must be remembered.

    False if the request itself, `fields`, contains the words of the refusal: the host may only have quoted them.
    """
    return refusal is not None and refusal.why in LASTING and not is_quoted(refusal, [fields])


def is_quoted(refusal: KnownRefusal, values: Iterable[Any]) -> bool:
    """Whether these JSON values contain the words of a refusal, in a string or in the name of a field."""
    words = flat(refusal.text)
    return any(words in flat(text) for text in texts_of(values, names=True))


def plan_next(request: Request, outcome: Outcome, *, chance: float, token: Callable[[], str]) -> AttemptPlan | None:
    """Return the next request after this outcome. None: send nothing more. `chance` is a random number from 0 to 1.

    The first row of `ANSWERS` that applies to the outcome decides.
    """
    for answer in ANSWERS:
        if answer.is_about(outcome):
            return answer.plan(request, outcome, chance, token)
    return None


class Answer(NamedTuple):
    """The rule for one kind of outcome."""

    name: str
    is_about: Callable[[Outcome], bool]
    plan: Callable[[Request, Outcome, float, Callable[[], str]], AttemptPlan | None]


def _rescue(request: Request, outcome: Outcome, chance: float, token: Callable[[], str]) -> AttemptPlan | None:
    """The host refused the prefill: ask for it in the prompt, if the caller allows emulation."""
    plan, error = outcome.plan, outcome.error
    if plan.mode != "native" or request.forbids_emulation:
        return None
    try:
        return plan_emulated(request, outcome.known, Way(plan.target, plan.transport, token), plan.row)
    except UsageError as why_not:
        assert error is not None
        error.add_note(f"The prefill was not asked for in the prompt: {why_not}")
        return None


def _emulated_again(request: Request, outcome: Outcome, chance: float, token: Callable[[], str]) -> AttemptPlan | None:
    """The reply did not begin with the prefill: ask once more with another wording, if the caller wants that."""
    plan = outcome.plan
    if plan.absent != "retry" or outcome.has_tool:
        return None
    return plan_emulated(request, outcome.known, Way(plan.target, plan.transport, token), plan.row, again=True)


def _retry(request: Request, outcome: Outcome, chance: float, token: Callable[[], str]) -> AttemptPlan | None:
    """The failure may be temporary: send the same request again after a wait."""
    recovery = request.recovery
    if outcome.has_token or outcome.retries >= recovery.retries:
        return None
    wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * GROWTH**outcome.retries) * (1 - JITTER * chance)
    error = outcome.error
    retry_after_s = error.retry_after_s if isinstance(error, StatusError) else None
    if retry_after_s is not None and retry_after_s > recovery.max_wait_s:
        return None
    wait_s = retry_after_s or min(wait_s, recovery.max_wait_s)
    return replace(outcome.plan, wait_s=wait_s) if wait_s < outcome.left_s else None


#: The order matters. None of them applies to a clean end.
ANSWERS = (
    Answer("rescue", lambda outcome: isinstance(outcome.error, PrefillRefused), _rescue),
    Answer("emulate again", lambda outcome: isinstance(outcome.error, PrefillIgnored), _emulated_again),
    Answer("retry", lambda outcome: outcome.error is not None and outcome.error.may_pass, _retry),
)

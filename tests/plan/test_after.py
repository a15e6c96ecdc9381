"""What is sent after a failed request, tested as a table without a clock, a network or randomness."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import (
    AprefillError,
    ConnectFailed,
    LimitExceeded,
    PrefillIgnored,
    PrefillRefused,
    ProtocolError,
    Recovery,
    ReplyClosed,
    Stalled,
    StatusError,
    Truncated,
    UsageError,
)
from aprefill._plan.emulate import AGAIN, BEGIN
from aprefill._plan.next import FIRST_WAIT_S, GROWTH, JITTER, LONGEST_WAIT_S, Outcome, plan_next

from ..support.planning import acme, asked, plan_first, token

if TYPE_CHECKING:
    from aprefill._plan.step import AttemptPlan

#: Each error, and whether the same request may succeed a little later.
ERRORS: dict[str, tuple[AprefillError, bool]] = {
    **{f"http-{status}": (StatusError(status), True) for status in (408, 409, 429, 500, 502, 503, 504, 529, 599)},
    **{
        f"http-{status}": (StatusError(status), False)
        for status in (200, 301, 307, 400, 401, 402, 403, 404, 405, 410, 413, 422, 451, 499)
    },
    "in-band-529": (StatusError(529, in_band=True), True),
    "in-band-429": (StatusError(429, in_band=True), True),
    "in-band-without-a-status": (StatusError(200, in_band=True), False),
    "in-band-400": (StatusError(400, in_band=True), False),
    "connect-failed": (ConnectFailed("host", "refused"), True),
    "truncated": (Truncated("no end"), True),
    "stalled-connect_s": (Stalled("connect_s", 1), True),
    **{
        f"stalled-{clock}": (Stalled(clock, 1), False) for clock in ("first_token_s", "progress_s", "idle_s", "total_s")
    },
    "protocol-error": (ProtocolError("no stream"), False),
    "limit-exceeded": (LimitExceeded("record_bytes", 1, "bytes"), False),
    "usage-error": (UsageError("wrong"), False),
    "reply-closed": (ReplyClosed(), False),
}
CASES = [pytest.param(error, passes, id=name) for name, (error, passes) in ERRORS.items()]


@pytest.fixture(autouse=True)
def _short_waits() -> None:
    """Override the fixture that shortens waits: this module tests the waits themselves."""


def following(error: AprefillError, row: Any = None, *, chance: float = 0.0, **told: Any) -> AttemptPlan | None:
    """Return the plan after `error`. `told` holds fields of `Outcome` and the arguments of the request."""
    facts = {name: told.pop(name) for name in ("plan", "has_token", "retries", "left_s") if name in told}
    ask = asked(**{"prefill": "[", **told})
    step = facts.pop("plan", None) or plan_first(ask, row or acme(), "m")
    usual: dict[str, Any] = {"has_token": False, "retries": 0, "left_s": math.inf}
    outcome = Outcome(plan=step, known=ask.prefill, error=error, **{**usual, **facts})
    return plan_next(ask, outcome, chance=chance, token=token)


def waits(error: AprefillError, **told: Any) -> float | None:
    step = following(error, **told)
    return None if step is None else step.wait_s


# --- the same request again --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "passes"), CASES)
@pytest.mark.parametrize("prefill", ["[", ""])
@pytest.mark.parametrize("support", ["eats", "echoes", "emulated"])
def test_what_may_pass_is_sent_again(error: AprefillError, passes: bool, prefill: str, support: str) -> None:
    """After an error that may pass, the same request is sent again after a wait.

    This holds for native and emulated prefills and without a prefill. After any other error nothing is sent.
    """
    before = plan_first(asked(prefill=prefill), acme(support=support), "m")
    again = following(error, plan=before, prefill=prefill)
    assert error.may_pass is passes
    assert again == (replace(before, wait_s=FIRST_WAIT_S) if passes else None)


@pytest.mark.parametrize(("error", "passes"), CASES)
def test_nothing_is_sent_again_once_there_is_a_token(error: AprefillError, passes: bool) -> None:
    """After the first token nothing is sent again, whatever the error. The control: the same without a token."""
    assert following(error, has_token=True) is None
    assert (following(error) is not None) is passes


@pytest.mark.parametrize(
    ("allowed", "used", "goes_on"),
    [(0, 0, False), (1, 0, True), (1, 1, False), (2, 1, True), (2, 2, False), (2, 5, False), (10, 9, True)],
)
@pytest.mark.parametrize(("error", "passes"), CASES)
def test_so_many_times_and_no_more(error: AprefillError, passes: bool, allowed: int, used: int, goes_on: bool) -> None:
    """`retries` counts requests beyond the first."""
    again = following(error, retries=used, recovery=Recovery(retries=allowed))
    assert (again is not None) is (goes_on and passes)


def test_the_usual_number() -> None:
    """By default there are two retries."""
    error = StatusError(503)
    assert [following(error, retries=used) is not None for used in range(4)] == [True, True, False, False]


# --- the wait before a retry -------------------------------------------------------------------------------------


def test_waits_double_up_to_a_bound() -> None:
    """Waits double from half a second to a maximum of eight seconds."""
    far = Recovery(retries=100)
    found = [waits(ConnectFailed("host", "x"), retries=used, recovery=far) for used in (0, 1, 2, 3, 4, 5, 50)]
    assert found == [0.5, 1, 2, 4, 8, 8, 8]
    assert (FIRST_WAIT_S, GROWTH, LONGEST_WAIT_S) == (0.5, 2, 8)


@pytest.mark.parametrize("used", [0, 1, 9])
def test_chance_makes_a_wait_shorter_by_up_to_a_half(used: int) -> None:
    """Jitter shortens a wait by up to a half, and never lengthens it."""
    far = Recovery(retries=100)
    longest = waits(StatusError(500), retries=used, recovery=far)
    assert longest is not None
    found = [waits(StatusError(500), retries=used, recovery=far, chance=n / 100) for n in range(101)]
    assert found == pytest.approx([longest * (1 - n / 200) for n in range(101)])
    assert JITTER == 0.5


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize("seconds", [0.01, 1, 7.5, 60])
def test_a_host_that_says_how_long_is_believed(seconds: float, status: int, chance: float) -> None:
    """The wait that a host asks for is used exactly, without growth or jitter."""
    for used in (0, 1):
        assert waits(StatusError(status, retry_after_s=seconds), retries=used, chance=chance) == seconds


def test_a_host_that_says_now_gets_the_usual_wait() -> None:
    """`Retry-After: 0` gets the same backoff as no `Retry-After`."""
    assert waits(StatusError(429, retry_after_s=0.0)) == FIRST_WAIT_S


def test_a_host_that_asks_for_a_longer_wait_than_allowed_gets_no_second_request() -> None:
    """If the host asks for a longer wait than `max_wait_s`, no second request is sent.

    The default is 60 seconds.
    """
    for bound, seconds, goes_on in ((None, 60, True), (None, 60.1, False), (5.0, 5, True), (5.0, 5.1, False)):
        recovery = Recovery() if bound is None else Recovery(max_wait_s=bound)
        found = waits(StatusError(429, retry_after_s=seconds), recovery=recovery)
        assert found == (seconds if goes_on else None)


def test_a_retry_after_counts_only_where_the_same_request_may_pass() -> None:
    """A `Retry-After` on an error that cannot pass, such as a 400 or a 401, changes nothing."""
    assert [waits(StatusError(status, retry_after_s=1)) for status in (400, 401, 404)] == [None, None, None]


@pytest.mark.parametrize(
    ("left_s", "error", "wait_s"),
    [
        (math.inf, StatusError(500), 0.5),
        (0.6, StatusError(500), 0.5),
        (0.4, StatusError(500), None),
        (0.0, StatusError(500), None),
        (-1.0, ConnectFailed("host", "x"), None),
        (20.0, StatusError(429, retry_after_s=19), 19),
        (20.0, StatusError(429, retry_after_s=21), None),
    ],
)
def test_no_wait_beyond_what_the_total_clock_has_left(
    left_s: float, error: AprefillError, wait_s: float | None
) -> None:
    """If the wait is longer than what is left of `total_s`, the error is raised at once."""
    assert waits(error, left_s=left_s) == wait_s


@pytest.mark.parametrize("settings", [{"retries": -1}, {"retries": 1.5}, {"retries": True}, {"retries": "2"},
                                      {"max_wait_s": -1}, {"max_wait_s": math.nan}, {"max_wait_s": True},
                                      {"max_wait_s": "1"}, {"max_wait_s": None}])  # fmt: skip
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    """A value that makes no sense raises a `UsageError` that names the setting."""
    with pytest.raises(UsageError, match=rf"Recovery\({next(iter(settings))}="):
        Recovery(**settings)


def test_settings_of_no_limit() -> None:
    """`max_wait_s` may be infinite and `retries` may be 0. A value that is no `Recovery` raises `UsageError`."""
    assert waits(StatusError(429, retry_after_s=1e6), recovery=Recovery(max_wait_s=math.inf)) == 1e6
    assert waits(StatusError(429), recovery=Recovery(retries=0, max_wait_s=math.inf)) is None
    with pytest.raises(UsageError, match=r"recovery is a int; pass an aprefill\.Recovery"):
        asked(recovery=2)


# --- a refusal ---------------------------------------------------------------------------------------------------

REFUSALS = [
    PrefillRefused("m", status=400, quote="no", why=why)
    for why in ("model", "thinking", "tools", "tool_choice", "response_format", "whitespace", "flags")
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.why)
@pytest.mark.parametrize("support", ["eats", "echoes"])
def test_a_refusal_is_answered_by_asking_in_the_prompt(refusal: PrefillRefused, support: str) -> None:
    """A refusal is followed at once by an emulated request with the words of a first request.

    Retries used or left do not matter.
    """
    for more in ({}, {"retries": 7}, {"recovery": Recovery(retries=0)}, {"left_s": 0.0}, {"has_token": True}):
        step = following(refusal, acme(support=support), max_tokens=9, **more)
        assert step is not None
        assert (step.mode, step.wait_s, step.sends_prefill) == ("emulated", 0, False)
        (turn,) = step.model_input.messages
        assert turn["role"] == "user"
        assert turn["content"].startswith("Hi\n\n" + BEGIN.partition("{")[0])
        assert AGAIN.partition("{")[0] not in turn["content"]
        assert step.show_when == "decided"


@pytest.mark.parametrize("no", [{"emulate": False}, {"strict": True}], ids=["no-emulation", "strict"])
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.why)
def test_a_refusal_is_the_callers_where_it_may_not_be_asked_for(refusal: PrefillRefused, no: dict[str, Any]) -> None:
    """If emulation is not allowed, a refusal reaches the caller and nothing more is sent."""
    assert following(refusal, **no) is None


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.why)
def test_a_refusal_of_what_was_asked_for_is_the_callers(refusal: PrefillRefused) -> None:
    """A refusal of an emulated request, or of one without a prefill, reaches the caller."""
    assert following(refusal, acme(support="emulated")) is None
    assert following(refusal, prefill="") is None


def test_a_refusal_is_the_callers_where_it_cannot_be_asked_for() -> None:
    """If emulation is impossible, as after a tool's result, the refusal itself reaches the caller.

    It says more than an error about the messages would.
    """
    messages = [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "4"}]
    ask = asked(messages, prefill="[")
    outcome = Outcome(
        plan=plan_first(ask, acme(), "m"),
        known=ask.prefill,
        error=REFUSALS[0],
        has_token=False,
        retries=0,
        left_s=math.inf,
    )
    assert outcome.plan.mode == "native"
    assert plan_next(ask, outcome, chance=0.5, token=token) is None


# --- a missing echo ----------------------------------------------------------------------------------------------


def test_a_missing_echo_is_asked_for_once_more() -> None:
    """With `absent="retry"` a missing echo causes one more request at once in other words.

    Its text is then joined. It does not count as a retry.
    """
    row = acme(support="emulated")
    ignored = PrefillIgnored("m")
    for more in ({}, {"retries": 7}, {"recovery": Recovery(retries=0)}, {"has_token": True}):
        step = following(ignored, row, absent="retry", **more)
        assert step is not None
        assert (step.mode, step.absent, step.wait_s) == ("emulated", "join", 0)
        assert step.model_input.messages[-1]["content"].startswith("Hi\n\n" + AGAIN.partition("{")[0])
        assert following(ignored, row, absent="retry", plan=step) is None


def test_a_missing_echo_is_the_callers_otherwise() -> None:
    """With `absent="raise"` or "join", and with `strict`, a missing echo causes no further request."""
    ignored = PrefillIgnored("m")
    assert following(ignored, acme(support="emulated"), absent="raise") is None
    assert following(ignored, acme(support="emulated")) is None
    assert following(ignored, acme(support="echoes"), strict=True) is None


def test_a_request_in_other_words_is_sent_again_as_it_is() -> None:
    """A retry of the request in other words repeats that request.

    It does not return to the first words.
    """
    in_other_words = following(PrefillIgnored("m"), acme(support="emulated"), absent="retry")
    assert in_other_words is not None
    again = following(StatusError(500), plan=in_other_words, absent="retry")
    assert again == replace(in_other_words, wait_s=FIRST_WAIT_S)


def test_a_refused_prefill_may_still_be_asked_for_once_more() -> None:
    """A refusal, and then a reply without the echo, lead to three requests at most."""
    emulated = following(REFUSALS[0], absent="retry")
    assert emulated is not None
    assert emulated.absent == "retry"
    in_other_words = following(PrefillIgnored("m"), plan=emulated, absent="retry")
    assert in_other_words is not None
    assert in_other_words.absent == "join"

"""One attempt's deltas joined to the known text: what is handed out, what is counted, and how a limit ends it."""

from __future__ import annotations

from typing import Any

import pytest

from aprefill import (
    PrefillIgnored,
    ReasoningEvent,
    Recovery,
    StopReason,
    ToolEvent,
    Truncated,
    Usage,
    Verdict,
)
from aprefill._deltas import Delta, FinishDelta, ReasoningDelta, TextDelta, ToolDelta, UsageDelta
from aprefill._engine.splice import Splice
from aprefill._engine.transcript import Transcript
from aprefill.testing import Script, serve

from ..support.loopback import ask
from ..support.splicing import END, LIMIT, Done, planned

WINDOW = FinishDelta(StopReason.CONTEXT_WINDOW, "model_context_window_exceeded")
LETTER = "Dear Ann, thank you for "


# --- the tokens of the repetition --------------------------------------------------------------------------------


def counted(output: int | None, reasoning: int | None = None) -> UsageDelta:
    return UsageDelta(Usage(input_tokens=3, output_tokens=output, reasoning_tokens=reasoning))


ESTIMATES = [
    # what arrived for the prefill "abcd", the tokens of the repetition
    pytest.param(["abcd", "efgh", counted(10)], 5, id="half-of-it"),
    pytest.param(["abcd", "e" * 12, counted(100)], 25, id="a-quarter"),
    pytest.param(["abcdefg", counted(10)], 6, id="rounded-up"),
    pytest.param(["ab", "cdef", "gh", counted(10)], 5, id="cut-anywhere"),
    pytest.param(["abcd", "efgh", counted(30, 20)], 5, id="reasoning-is-no-text"),
    pytest.param(["abcd", "efgh", counted(10, 20)], 0, id="more-reasoning-than-output"),
    pytest.param(["```\n", "abcd", "efgh", "\n```", counted(12)], 8, id="with-the-fence-around-it"),
    pytest.param(["abcd", counted(10)], 10, id="nothing-new"),
    pytest.param([counted(0)], 0, id="nothing-at-all"),
    pytest.param(["efgh", counted(10)], 0, id="no-repetition"),
    pytest.param(["abcd", "efgh", counted(None)], 1, id="the-host-counts-no-output"),
    pytest.param(["abcd", "efgh"], 1, id="the-host-counts-nothing"),
]


@pytest.mark.parametrize(("parts", "tokens"), ESTIMATES)
@pytest.mark.parametrize("coalesce", [False, True])
def test_the_repetitions_share_of_the_tokens(parts: list[Any], tokens: int, coalesce: bool) -> None:
    """The tokens of the repetition are estimated by its share of the text.

    If the host counts none, four characters count as one token.
    """
    done = Done(planned("abcd"), *parts, END, coalesce=coalesce)
    assert done.error is None
    assert done.text.startswith("abcd")
    assert done.echo_tokens == tokens


def test_the_hosts_own_numbers_stay() -> None:
    """The host's own numbers are kept, and the estimate is added."""
    usage = Done(planned("abcd"), "abcdefgh", counted(10, 2), END).splice.usage
    assert usage == Usage(input_tokens=3, output_tokens=10, reasoning_tokens=2, echo_tokens=4)


@pytest.mark.parametrize("support", ["eats", "echoes"])
def test_a_native_prefill_has_no_estimate(support: str) -> None:
    """A native prefill has no estimate. The control: with emulation the same parts have one."""
    parts = ["abcd", "efgh", counted(10), END]
    assert Done(planned("abcd", support), *parts).echo_tokens is None
    assert Done(planned("abcd", support), "efgh").splice.usage is None
    assert Done(planned("abcd"), *parts).echo_tokens == 5


def test_a_cut_attempt_has_an_estimate_as_well() -> None:
    """A cut attempt has an estimate for what arrived."""
    assert Done(planned("abcd"), "abcd", "efgh", cut=True).echo_tokens == 1


# --- a token limit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [LIMIT, WINDOW], ids=["tokens", "window"])
@pytest.mark.parametrize("length", [1, 5, len(LETTER.rstrip()) - 1])
def test_a_limit_inside_the_repetition_is_an_error(limit: FinishDelta, length: int) -> None:
    """The error says where the limit was met and what to change.

    Nothing is handed out, not even a part of the repetition.
    """
    done = Done(planned(LETTER), LETTER[:length], limit)
    assert isinstance(done.error, Truncated)
    message = str(done.error)
    assert f"the token limit was reached inside the repetition of the prefill, after {length} characters" in message
    assert "; no new text came, and the same request would end there again; raise max_tokens=" in message
    assert done.chunks == []
    assert done.verdict is Verdict.TRUNCATED


def test_a_limit_inside_the_end_that_was_asked_back_is_one_as_well() -> None:
    """For a long prefill, a limit inside the last line, the part that is asked back, is an error too."""
    long = "x" * 300 + "\n" + LETTER.rstrip()
    for length in (1, 10, len(LETTER.rstrip()) - 1):
        done = Done(planned(long), LETTER[:length], LIMIT)
        assert isinstance(done.error, Truncated)
        assert f"after {length} characters" in str(done.error)
        assert done.chunks == []
    assert Done(planned(long), LETTER, "all", LIMIT).text == long + " all"


def test_a_limit_behind_the_repetition_is_none() -> None:
    """A limit after the repetition is no error: the reply ends with the text so far, which may be only the prefill."""
    for new in ("", "your", "your ```"):
        done = Done(planned(LETTER), LETTER + new, LIMIT)
        assert (done.error, done.text) == (None, LETTER + new)
        assert done.verdict is Verdict.ECHOED


def test_a_cut_or_an_end_inside_the_repetition_is_no_limit() -> None:
    """Inside the repetition, a cut drops the incomplete part, and a clean end makes it the model's own text.

    Neither raises.
    """
    assert (Done(planned(LETTER), "Dear", cut=True).error, Done(planned(LETTER), "Dear", cut=True).text) == (None, "")
    done = Done(planned(LETTER), "Dear", END)
    assert (done.error, done.text) == (None, LETTER + "Dear")


@pytest.mark.parametrize("raw", ["No.", "Of course.\nIt is", "Deer Ann", "The answer:\n\n```\nDear Bob"])
def test_a_limit_while_chatter_may_stand_in_front_leaves_the_models_own_text(raw: str) -> None:
    """Text that is no part of a repetition is held only because one may follow.

    At a limit it is handed out, and nothing is lost.
    """
    for pieces in ([raw], list(raw)):
        done = Done(planned(LETTER), *pieces, LIMIT)
        assert (done.error, done.text) == (None, LETTER + raw)
        assert done.verdict is Verdict.ABSENT
        assert done.echo_tokens == 0


@pytest.mark.parametrize("chatter", ["Sure:\n", "Sure:\n```\n", "One\n\n\n"])
@pytest.mark.parametrize("echo", ["Dear", "Dear Ann, thank"])
def test_a_limit_inside_a_repetition_behind_chatter_is_an_error_as_well(chatter: str, echo: str) -> None:
    """If the held text ends with a part of the prefill, a limit is an error.

    Handed out, that part would appear twice.
    """
    done = Done(planned(LETTER), chatter + echo, LIMIT)
    assert isinstance(done.error, Truncated)
    assert done.chunks == []


def test_control_a_cut_there_drops_what_is_held() -> None:
    """The control: when the connection drops, the same held text is dropped.

    The next request writes it again.
    """
    done = Done(planned(LETTER), "Of course.\n", cut=True)
    assert (done.text, done.verdict) == ("", Verdict.TRUNCATED)


def test_a_native_hosts_limit_inside_its_repetition_is_no_error() -> None:
    """A limit inside a native host's repetition is no error: the reply is the prefill."""
    done = Done(planned(LETTER, "echoes"), "Dear", LIMIT)
    assert (done.error, done.text) == (None, LETTER)


# --- no repetition -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", ["raise", "retry"])
@pytest.mark.parametrize("parts", [["Other text, and more of it."], ["Other"], [], ["Sure:\n", "Other"]])
def test_a_missing_repetition_is_an_error_before_anything_is_shown(absent: Any, parts: list[str]) -> None:
    """With `absent="raise"` and "retry" a missing repetition is an error, also for an empty reply.

    With "join" the prefill is put before the text.
    """
    done = Done(planned(LETTER, absent=absent), *parts, END)
    assert isinstance(done.error, PrefillIgnored)
    assert done.chunks == []
    joined = Done(planned(LETTER), *parts, END)
    assert (joined.error, joined.text) == (None, LETTER + "".join(parts))


@pytest.mark.parametrize("absent", ["raise", "retry", "join"])
def test_a_repetition_is_no_error(absent: Any) -> None:
    """A repetition is found plain, in a fence, after chatter, without new text after it, and after reasoning."""
    step = planned(LETTER, absent=absent)
    for parts in (
        [LETTER, "all"],
        ["```\n" + LETTER, "all"],
        ["Sure:\n" + LETTER, "all"],
        [ReasoningDelta("hm"), LETTER + "all"],
    ):
        done = Done(step, *parts, END)
        assert (done.error, done.text) == (None, LETTER + "all")
    assert Done(step, LETTER, END).text == LETTER


# --- whole replies -----------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_limit_inside_the_repetition_ends_a_reply() -> None:
    """A limit inside the repetition causes no second request: it would end at the same place."""
    script = Script(prefill="ignores", cuts=["Dear An"], stop_reason="max_tokens")
    async with serve(script) as server:
        reply = ask(server, "chat", prefill=LETTER, support="emulated", max_tokens=2, recovery=Recovery())
        with pytest.raises(Truncated, match="inside the repetition of the prefill, after 7 characters"):
            await reply.text()
        assert len(server.exchanges) == 1
        assert reply.text_so_far == LETTER
        (report,) = reply.attempts
        assert (report.mode, report.error, report.verdict) == ("emulated", "Truncated", Verdict.TRUNCATED)


@pytest.mark.anyio
async def test_the_estimate_is_in_the_usage() -> None:
    """The estimate is in the usage of the reply and of the attempt."""
    script = Script(prefill="echoes", echo_text="abcd", text="efgh", output_tokens=10)
    async with serve(script) as server:
        reply = ask(server, "chat", prefill="abcd", support="emulated")
        assert await reply.text() == "abcdefgh"
        assert reply.usage is not None
        assert (reply.usage.output_tokens, reply.usage.echo_tokens) == (10, 5)
        assert reply.attempts[0].usage == reply.usage


def test_a_marker_cut_by_usage_or_by_another_call_stays_out_of_tool_calls() -> None:
    """A delta between two pieces of one call or of reasoning does not let a part of a marker through."""
    step = planned("one long line of a story, " * 10)
    name = step.marker
    usage = UsageDelta(Usage(output_tokens=1))
    deltas: list[Delta] = [
        ReasoningDelta("Hm <tex"), usage, ReasoningDelta(name[3:] + "> and"),
        TextDelta("Hello"),
        ToolDelta(0, "a", "look", '{"a": "</tex'), usage, ToolDelta(1, "b", "look", '{"b": "<'),
        ToolDelta(0, arguments=name[3:] + '>x"}'), ToolDelta(1, arguments=name + '>y"}'),
    ]  # fmt: skip
    for reads in ([[delta] for delta in deltas], [deltas]):
        transcript = Transcript(step.seam.known)
        transcript.wants_events = True
        splice = Splice(step, transcript, lead=step.seam.known, coalesce=False)
        for read in reads:
            splice.take(read)
        splice.close(cut=False)
        events = transcript.items
        calls = ["".join(e.arguments for e in events if isinstance(e, ToolEvent) and e.index == n) for n in (0, 1)]
        assert calls == ['{"a": "x"}', '{"b": "y"}']
        assert "".join(e.text for e in events if isinstance(e, ReasoningEvent)) == "Hm  and"
        text = "".join(item for item in events if isinstance(item, str))[len(step.seam.known) :]
        told = [part for part in splice.parts(text, whole=True) if isinstance(part, ToolDelta)]
        assert "".join(one.arguments for one in told) == '{"a": "{"b": "x"}y"}'

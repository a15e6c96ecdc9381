"""What is known of a reply: its requests with a report each, what they cost, when things happened, and its message."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from .._deltas import FinishDelta
from .._events import AttemptEnded, AttemptReport, Timing
from .._types import StopReason, Usage, Verdict, sum_of
from .phases import Phase

if TYPE_CHECKING:
    from .._deltas import Delta, Message
    from .._errors import AprefillError
    from .._plan.step import AttemptPlan
    from .attempt import Attempt
    from .phases import State
    from .splice import Splice
    from .transcript import Transcript

#: began, accepted, token, text, shown: all but the last of the moments
_ALL_MOMENTS = 5


class Entry(NamedTuple):
    """One request and its answer."""

    plan: AttemptPlan
    attempt: Attempt
    splice: Splice
    #: where its text begins in the reply's, in characters
    start: int


class Ledger:
    """Kept by a run while it goes. Moments are noted once; those of text that was dropped are forgotten."""

    __slots__ = ("_earlier", "_moments", "_state", "entry", "replaced", "transcript")

    def __init__(self, state: State, transcript: Transcript) -> None:
        self._state = state
        self.transcript = transcript
        self._moments: dict[str, float] = {}
        #: the request under way, or the last one
        self.entry: Entry | None = None
        # those before it that gave some of the text
        self._earlier: list[Entry] = []
        #: reports of the requests that another has taken the place of
        self.replaced: tuple[AttemptReport, ...] = ()

    # --- while it goes ----------------------------------------------------------------------------------------

    def begin(self, plan: AttemptPlan, attempt: Attempt, splice: Splice) -> None:
        """A request is about to be sent."""
        self.entry = Entry(plan, attempt, splice, len(self.transcript.known))

    def note(self, moment: str) -> None:
        """Something happened now, if for the first time: "began", "accepted" or "over"."""
        self._moments.setdefault(moment, time.perf_counter())

    def note_progress(self, splice: Splice) -> None:
        """What of "token", "text" and "shown" has happened."""
        if len(self._moments) >= _ALL_MOMENTS:
            return
        if splice.has_token:
            self.note("token")
        if splice.has_text:
            self.note("text")
        if splice.has_shown:
            self.note("shown")

    def replace(self, report: AttemptReport) -> None:
        """Another request takes the place of this one."""
        entry, self.entry = self.entry, None
        assert entry is not None
        if len(self.transcript.known) > entry.start:
            self._earlier.append(entry)
        self.replaced += (report,)
        for moment in ("token", "text"):
            self._moments.pop(moment, None)

    # --- what is known ----------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Of the request under way, or of the next one; from 1 on."""
        return len(self.replaced) + 1

    @property
    def verdict(self) -> Verdict:
        """Of the request that the reply's text is from."""
        if self.entry is not None:
            return self.entry.splice.verdict
        return Verdict.UNDECIDED if self.transcript.prefill_length else Verdict.ABSENT

    @property
    def usage(self) -> Usage | None:
        """What the hosts counted, over all requests."""
        return sum_of([*(report.usage for report in self.replaced), self._last_word()[0]])

    @property
    def finish(self) -> FinishDelta | None:
        """Why the text ended."""
        return FinishDelta(StopReason.CANCELLED, "cancelled") if self._state.cancelled else self._last_word()[1]

    def timing(self) -> Timing:
        """When things happened."""
        at = self._moments
        since = {name: moment - at["began"] for name, moment in at.items() if "began" in at}
        return Timing(
            accepted_s=since.get("accepted"),
            first_token_s=since.get("token"),
            first_text_s=since.get("shown"),
            held_s=since["shown"] - since["text"] if "shown" in since else None,
            total_s=since.get("over"),
        )

    def reports(self) -> tuple[AttemptReport, ...]:
        """What each request did."""
        if self.entry is None:
            return self.replaced
        usage, finish = self._last_word()[0], self.finish
        return (*self.replaced, _ended(replace(self.report(), usage=usage), finish))

    def report(self, error: AprefillError | None = None) -> AttemptReport:
        """What the request under way has done, and with `error` what it failed with."""
        assert self.entry is not None
        plan, attempt, splice, _ = self.entry
        state = self._state
        error = error or state.failure
        report = AttemptReport(
            number=self.number,
            provider=plan.row.provider,
            model=plan.model_input.model,
            mode=plan.mode,
            support=plan.support,
            verdict=splice.verdict,
            status=attempt.status,
            request_id=attempt.request_id,
            usage=splice.usage,
            stop_reason=None,
            raw_stop_reason=None,
            stop_sequence=None,
            received_bytes=attempt.received_bytes,
            error=state.failed if error is None else type(error).__name__,
            waited_s=plan.wait_s,
            broken_end=attempt.broken_end,
        )
        return _ended(report, FinishDelta(StopReason.CANCELLED, "cancelled") if state.cancelled else splice.finish)

    def message(self) -> Message:
        """The assistant turn for the next request, of all requests that gave text."""
        text = self.transcript.text_so_far
        if self.entry is None:
            return {"role": "assistant", "content": text}
        entries = [*self._earlier, self.entry]
        ends = [*(entry.start for entry in entries[1:]), len(text)]
        parts: list[str | Delta] = []
        for entry, end in zip(entries, ends, strict=True):
            whole = entry is not self.entry or self.is_whole()
            parts += entry.splice.parts(text[entry.start : end], whole=whole)
        _, attempt, splice, _ = self.entry
        message = attempt.codec.message(parts, lead=text[: self.transcript.prefill_length])
        return splice.clean(message, attempt.codec)

    def is_whole(self) -> bool:
        """Whether the reader got all of the reply and knows it: it was told the end, or got the last event."""
        state, transcript = self._state, self.transcript
        items = transcript.items
        last = items[-1] if items and transcript.next == len(items) else None
        handing_out = state.phase is Phase.HANDING_OUT and state.failure is None
        return state.told_end or (handing_out and type(last) is AttemptEnded)

    def _last_word(self) -> tuple[Usage | None, FinishDelta | None]:
        """Usage and end of the last request, as of what was handed out; of a failed one or a whole one, all of it."""
        if self.entry is None:
            return None, None
        splice, state = self.entry.splice, self._state
        if state.failed or self.is_whole():
            return splice.usage, splice.finish
        usage, finish = splice.handed_out(self.transcript.text_so_far[self.entry.start :])
        # a reply whose last text was handed out has ended, although its reader did not wait to be told so
        return usage, splice.finish if state.phase is Phase.DONE else finish


def _ended(report: AttemptReport, finish: FinishDelta | None) -> AttemptReport:
    """`report` with why the text ended."""
    return replace(
        report,
        stop_reason=None if finish is None else finish.reason,
        raw_stop_reason=None if finish is None else finish.raw,
        stop_sequence=None if finish is None else finish.sequence,
    )

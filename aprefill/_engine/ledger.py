"""The facts about a reply: the report of each request, usage, timestamps, and the message for the next request."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from .._deltas import FinishDelta, ToolDelta
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

#: Number of moments before "over": began, accepted, token, text, shown. Once all are set, `note_progress` stops
#: looking.
_ALL_MOMENTS = 5


class Entry(NamedTuple):
    """One request and its response."""

    plan: AttemptPlan
    attempt: Attempt
    splice: Splice
    #: Where its text begins in the reply's text, in characters.
    start: int


class Ledger:
    """Collects the reports, usage and timestamps of one reply.

    A timestamp is set once. It is removed if its text is dropped.
    """

    __slots__ = ("_earlier", "_is_unread", "_moments", "_state", "entry", "replaced", "transcript")

    def __init__(self, state: State, transcript: Transcript) -> None:
        self._state = state
        self.transcript = transcript
        self._moments: dict[str, float] = {}
        #: The current request, or the last one.
        self.entry: Entry | None = None
        # Earlier requests that contributed text.
        self._earlier: list[Entry] = []
        # Whether the reader may not have got everything of the last of them.
        self._is_unread = False
        #: Reports of the requests that were replaced by another one.
        self.replaced: tuple[AttemptReport, ...] = ()

    # --- during the reply -------------------------------------------------------------------------------------

    def begin(self, plan: AttemptPlan, attempt: Attempt, splice: Splice) -> None:
        """A request is about to be sent."""
        self.note_read()
        self.entry = Entry(plan, attempt, splice, len(self.transcript.all_text))

    def note(self, moment: str) -> None:
        """Set the timestamp "began", "accepted" or "over" to now, unless it is set already."""
        self._moments.setdefault(moment, time.perf_counter())

    def note_progress(self, splice: Splice) -> None:
        """Set the timestamps "token", "text" and "shown" as far as these have happened."""
        if len(self._moments) >= _ALL_MOMENTS:
            return
        if splice.has_token:
            self.note("token")
        if splice.has_text:
            self.note("text")
        if splice.has_shown:
            self.note("shown")

    def replace(self, report: AttemptReport) -> None:
        """Close the entry of the current request, because another request replaces it."""
        entry, self.entry = self.entry, None
        assert entry is not None
        self.replaced += (report,)
        if len(self.transcript.all_text) > entry.start:
            self._earlier.append(entry)
            self._is_unread = True
        elif not self._earlier:
            for moment in ("token", "text"):
                self._moments.pop(moment, None)

    def note_read(self) -> None:
        """The reader has got everything of the replaced request, and wants more."""
        self._is_unread = False

    # --- results ----------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Number of the current or next request. The first has number 1."""
        return len(self.replaced) + 1

    @property
    def verdict(self) -> Verdict:
        """The verdict of the request that the reply's text is from."""
        entry = self._earlier[-1] if self.entry is None and self._earlier else self.entry
        if entry is not None:
            return entry.splice.verdict
        return Verdict.UNDECIDED if self.transcript.prefill_length else Verdict.ABSENT

    @property
    def usage(self) -> Usage | None:
        """Token counts as reported by the hosts, summed over all requests."""
        return sum_of([*(report.usage for report in self._replaced_so_far()), self._last_word()[0]])

    @property
    def finish(self) -> FinishDelta | None:
        """Why the text ended."""
        return FinishDelta(StopReason.CANCELLED, "cancelled") if self._state.cancelled else self._last_word()[1]

    def timing(self) -> Timing:
        """Return the timestamps relative to the beginning."""
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
        """Return one report per request."""
        if self.entry is None:
            return self._replaced_so_far()
        usage, finish = self._last_word()[0], self.finish
        return (*self.replaced, _ended(replace(self.report(), usage=usage), finish))

    def report(self, error: AprefillError | None = None) -> AttemptReport:
        """Return the report of the current request. `error` is the error with which it failed, if it did."""
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
        """Return the assistant turn for the next request, from all requests that contributed text."""
        text = self.transcript.text_so_far
        entries = self._earlier if self.entry is None else [*self._earlier, self.entry]
        if not entries:
            return {"role": "assistant", "content": text}
        last = entries[-1]
        is_whole = not self._has_unread() if self.entry is None else self.is_whole()
        ends = [*(entry.start for entry in entries[1:]), len(text)]
        parts: list[str | Delta] = []
        for entry, end in zip(entries, ends, strict=True):
            found = entry.splice.parts(text[entry.start : end], whole=entry is not last or is_whole)
            parts += _numbered_after(parts, found)
        codec = last.attempt.codec
        message = codec.message(parts, lead=text[: self.transcript.prefill_length])
        for entry in entries:
            message = entry.splice.clean(message, codec)
        return message

    def is_whole(self) -> bool:
        """Whether the reader has got the whole reply and knows it: it was told the end, or it got the last event."""
        state = self._state
        handing_out = state.phase is Phase.HANDING_OUT and state.failure is None
        return state.told_end or (handing_out and self._has_last_event())

    def _has_last_event(self) -> bool:
        """Whether the last item that was yielded is the end of a request."""
        items = self.transcript.items
        return bool(items) and self.transcript.next == len(items) and type(items[-1]) is AttemptEnded

    def _has_unread(self) -> bool:
        """Whether the reader may not have got everything of the last request, which was replaced."""
        return self._is_unread and not self._has_last_event()

    def _last_word(self) -> tuple[Usage | None, FinishDelta | None]:
        """Usage and finish of the last request, as of the text yielded so far.

        After a failure, or at the end of the reply, these are the final values.
        """
        if self.entry is None:
            return None, self._handed_out(self._earlier[-1])[1] if self._has_unread() else None
        splice, state = self.entry.splice, self._state
        if state.failed or self.is_whole():
            return splice.usage, splice.finish
        usage, finish = self._handed_out(self.entry)
        # A reply whose last text was yielded has ended, even if the reader did not wait to be told the end.
        return usage, splice.finish if state.phase is Phase.DONE else finish

    def _replaced_so_far(self) -> tuple[AttemptReport, ...]:
        """Return the reports of the replaced requests, the last one as of the text yielded so far."""
        if not self._has_unread():
            return self.replaced
        last = replace(self.replaced[-1], usage=self._handed_out(self._earlier[-1])[0])
        return (*self.replaced[:-1], _ended(last, self.finish))

    def _handed_out(self, entry: Entry) -> tuple[Usage | None, FinishDelta | None]:
        """Usage and finish of this request, as of the text yielded so far."""
        return entry.splice.handed_out(self.transcript.text_so_far[entry.start :])


def _numbered_after(parts: list[str | Delta], more: list[str | Delta]) -> list[str | Delta]:
    """Return `more` with tool calls numbered after those of `parts`. Each request numbers its calls from 0."""
    first = 1 + max((part.index for part in parts if isinstance(part, ToolDelta)), default=-1)
    if not first:
        return more
    return [
        ToolDelta(first + part.index, part.id, part.name, part.arguments) if isinstance(part, ToolDelta) else part
        for part in more
    ]


def _ended(report: AttemptReport, finish: FinishDelta | None) -> AttemptReport:
    """Return `report` with the reason why the text ended."""
    return replace(
        report,
        stop_reason=None if finish is None else finish.reason,
        raw_stop_reason=None if finish is None else finish.raw,
        stop_sequence=None if finish is None else finish.sequence,
    )

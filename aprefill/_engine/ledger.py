"""What is known of a reply's requests: a report each, what they cost, and when things happened."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .._events import AttemptReport, Timing
from .._types import Usage, sum_of

if TYPE_CHECKING:
    from .._plan.step import AttemptPlan
    from .attempt import Attempt
    from .splice import Splice

#: began, accepted, token, text, shown: all but the last of the moments
_ALL_MOMENTS = 5


class Ledger:
    """Kept by a run while it goes. Moments are noted once; those of text that was dropped are forgotten."""

    __slots__ = ("_moments", "replaced")

    def __init__(self) -> None:
        self._moments: dict[str, float] = {}
        #: reports of the requests that another has taken the place of
        self.replaced: tuple[AttemptReport, ...] = ()

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
        """Another request takes the place of this one, of whose text nothing was shown."""
        self.replaced += (report,)
        for moment in ("token", "text"):
            self._moments.pop(moment, None)

    def report(self, plan: AttemptPlan, attempt: Attempt, splice: Splice, error: str) -> AttemptReport:
        """What the request under way has done; `error` is the class that it failed with."""
        finish = splice.finish
        return AttemptReport(
            number=len(self.replaced) + 1,
            provider=plan.row.provider,
            model=plan.model_input.model,
            mode=plan.mode,
            support=plan.support,
            verdict=splice.seam.verdict,
            status=attempt.status,
            request_id=attempt.request_id,
            usage=splice.usage,
            stop_reason=None if finish is None else finish.reason,
            raw_stop_reason=None if finish is None else finish.raw,
            stop_sequence=None if finish is None else finish.sequence,
            received_bytes=attempt.received_bytes,
            error=error,
            waited_s=plan.wait_s,
            broken_end=attempt.broken_end,
        )

    def usage(self, last: Usage | None) -> Usage | None:
        """What the hosts counted, over all requests: those that were replaced, and the last one."""
        return sum_of([*(report.usage for report in self.replaced), last])

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

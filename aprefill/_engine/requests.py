"""The requests of one reply: what `_plan` decides is made ready here, one after the other."""

from __future__ import annotations

import math
import random
import secrets
from typing import TYPE_CHECKING

from .._errors import AprefillError, PrefillIgnored, PrefillRefused
from .._events import AttemptEnded, AttemptStarted
from .._plan.first import Way, plan_first, refusal_key
from .._plan.next import Outcome, plan_next, teaches
from .attempt import Attempt
from .splice import Splice

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._hosts.refusals import RefusalKey, RefusalMemory
    from .._hosts.target import Target
    from .._plan.request import Request
    from .._plan.step import AttemptPlan
    from .._transports import Transport
    from .connection import Connection
    from .ledger import Ledger
    from .log import Log
    from .transcript import Transcript

#: From 0 to 1, for the waits between requests.
chance = random.random


def token() -> str:
    """A name that nobody can guess, for the markers in a prompt."""
    return secrets.token_hex(8)


class Requests:
    """Asks the plan what to send, first and next, and makes that the attempt under way."""

    __slots__ = (
        "_because",
        "_connection",
        "_ledger",
        "_log",
        "_make_transport",
        "_refusals",
        "_request",
        "_retries",
        "_target",
        "_total_at",
        "_transcript",
        "plan",
        "splice",
    )

    def __init__(
        self,
        request: Request,
        target: Target,
        make_transport: Callable[[], Transport],
        refusals: RefusalMemory,
        transcript: Transcript,
        ledger: Ledger,
        connection: Connection,
        log: Log,
    ) -> None:
        self._request = request
        self._target = target
        self._make_transport = make_transport
        self._refusals = refusals
        self._transcript = transcript
        self._ledger = ledger
        self._connection = connection
        self._log = log
        #: the request under way, or the next one, once it was decided on
        self.plan: AttemptPlan | None = None
        self.splice: Splice | None = None
        self._retries = 0
        # when the total clock runs out
        self._total_at = math.inf
        # what the replaced requests failed with, the last one first on its chain
        self._because: AprefillError | None = None

    def first(self) -> Transport:
        """Decide on the first request. Raises what `plan_first` raises."""
        refused = len(self._refusals) > 0 and self._subject() in self._refusals
        way = Way(self._target, self._make_transport, token)
        self.plan = plan_first(self._request, self._request.prefill, way, refused=refused)
        transport: Transport = self.plan.transport()
        return transport

    def start_clock(self) -> None:
        """The total clock runs from now on."""
        if self._request.timeouts.total_s is not None:
            self._total_at = self._connection.now() + self._request.timeouts.total_s

    def prepare(self, transport: Transport, *, reads_ahead: bool) -> None:
        """Make ready what was decided on."""
        request, transcript, plan, ledger = self._request, self._transcript, self.plan, self._ledger
        assert plan is not None
        lead = request.shown if plan.show_when == "decided" and transcript.lead_at < 0 else ""
        splice = Splice(plan, transcript, lead=lead, coalesce=request.coalesce, reply_chars=request.limits.reply_chars)
        attempt = Attempt(plan, request, transport, total_at=self._total_at, reads_ahead=reads_ahead)
        self.splice = splice
        self._connection.use(attempt, transport)
        ledger.begin(plan, attempt, splice)
        if transcript.wants_events:
            transcript.items.append(AttemptStarted(number=ledger.number, mode=plan.mode, support=plan.support))

    def go_on(self, error: AprefillError | None) -> bool:
        """Put another request in the place of the one that failed with `error`, or ended cleanly; False: none follows."""
        transcript, ledger, splice = self._transcript, self._ledger, self.splice
        assert splice is not None
        following = self._following(error)
        if error is not None:
            self._chain(error)
            self._log.failed(error, following)
        if following is None:
            return False
        if error is not None:
            # Kept for the chain of what may come, without the frames, which lead back to the run: that would be a cycle.
            self._because = error.with_traceback(None)
            self._retries += not isinstance(error, PrefillRefused | PrefillIgnored)
        report = ledger.report(error)
        ledger.replace(report)
        splice.settle_held()
        if transcript.wants_events:
            transcript.items.append(AttemptEnded(report))
        self.plan, self.splice = following, None
        self._connection.give_up()
        return True

    def _following(self, error: AprefillError | None) -> AttemptPlan | None:
        entry = self._ledger.entry
        assert entry is not None
        if teaches(entry.attempt.refusal, entry.attempt.fields):
            self._refusals.add(self._subject())
        outcome = Outcome(
            plan=entry.plan,
            known=self._transcript.known,
            error=error,
            finish=entry.splice.finish,
            has_token=entry.splice.has_token,
            has_tool=entry.splice.has_tool,
            retries=self._retries,
            left_s=self._total_at - self._connection.now(),
        )
        return plan_next(self._request, outcome, chance=chance(), token=token)

    def _subject(self) -> RefusalKey:
        """What a refusal here is about."""
        target = self._target
        return refusal_key(self._request, target.row, target.base_url, target.model)

    def _chain(self, error: AprefillError) -> None:
        """Say on `error` what went wrong before it: as its cause if it has none, and in a note.

        Never on an exception of somebody else's: a client may raise the same one each time.
        """
        earlier, self._because = self._because, None
        if earlier is None:
            return
        if error.__cause__ is None:
            error.__cause__ = earlier
        for note in (f"Before it: {type(earlier).__name__}: {earlier}", *getattr(earlier, "__notes__", ())):
            error.add_note(note)

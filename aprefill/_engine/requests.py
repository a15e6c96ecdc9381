"""The requests of one reply: what `_plan` decides is made ready here, one after the other."""

from __future__ import annotations

import math
import random
import secrets
from typing import TYPE_CHECKING

import anyio

from .._errors import AprefillError, PrefillIgnored, PrefillRefused
from .._events import AttemptEnded, AttemptStarted
from .._plan.first import Way, plan_first, refusal_key
from .._plan.next import Outcome, plan_next, teaches
from .attempt import Attempt
from .splice import Splice

if TYPE_CHECKING:
    from .._hosts.refusals import RefusalKey, RefusalMemory
    from .._plan.request import Request
    from .._plan.step import AttemptPlan
    from .._transports import Transport
    from .connection import Connection
    from .ledger import Ledger
    from .log import Log

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
        "_pause",
        "_refusals",
        "_request",
        "_retries",
        "_total_at",
        "_transcript",
        "_way",
        "plan",
        "splice",
    )

    def __init__(
        self, request: Request, way: Way, refusals: RefusalMemory, ledger: Ledger, connection: Connection, log: Log
    ) -> None:
        self._request = request
        self._way = way
        self._refusals = refusals
        self._ledger = ledger
        self._transcript = ledger.transcript
        self._connection = connection
        self._log = log
        #: the request under way, or the next one, once it was decided on
        self.plan: AttemptPlan | None = None
        self.splice: Splice | None = None
        self._retries = 0
        # when the total clock runs out
        self._total_at = math.inf
        # the wait before a request is sent again
        self._pause: anyio.CancelScope | None = None
        # what the replaced requests failed with, the last one first on its chain
        self._because: AprefillError | None = None

    def first(self) -> None:
        """Decide on the first request. Raises what `plan_first` raises."""
        refused = len(self._refusals) > 0 and self._subject() in self._refusals
        self.plan = plan_first(self._request, self._request.prefill, self._way, refused=refused)

    def transport(self) -> Transport:
        """What sends the request that was decided on."""
        assert self.plan is not None
        transport: Transport = self.plan.transport()
        return transport

    def start_clock(self) -> None:
        """The total clock runs from now on."""
        self.show_prefill("now")
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

    def show_prefill(self, when: str) -> None:
        """Hand the prefill out, if this is when it is to be shown and it was not."""
        assert self.plan is not None
        if self._request.shown and self.plan.show_when == when and self._transcript.lead_at < 0:
            self._transcript.show(self._request.shown)

    async def wait(self) -> None:
        """Wait until the last connection is closed, then for as long as the plan says."""
        plan = self.plan
        assert plan is not None
        try:
            with anyio.CancelScope() as self._pause:
                await self._connection.wait()
                if plan.wait_s:
                    await anyio.sleep(plan.wait_s)
        finally:
            self._pause = None

    def interrupt(self) -> None:
        """End the wait between two requests."""
        if self._pause is not None:
            self._pause.cancel()

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
        target = self._way.target
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

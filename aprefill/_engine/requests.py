"""The requests of one reply, one after the other. `_plan` decides on them; this module prepares them."""

from __future__ import annotations

import math
import random
import secrets
from typing import TYPE_CHECKING

import anyio

from .._errors import AprefillError, PrefillIgnored, PrefillRefused, Stalled
from .._events import AttemptEnded, AttemptStarted
from .._plan.first import Way, plan_first, refusal_key
from .._plan.next import Outcome, plan_next, teaches
from .attempt import Attempt
from .splice import Splice

if TYPE_CHECKING:
    from .._hosts.refusals import RefusalKey, RefusalMemory
    from .._hosts.target import Target
    from .._plan.request import Request
    from .._plan.step import AttemptPlan
    from .._transports import Transport
    from .connection import Connection
    from .ledger import Ledger
    from .log import Log

#: Returns a random number from 0 to 1, for the jitter of the waits between requests.
chance = random.random


def token() -> str:
    """Return a name that nobody can guess, for the markers in a prompt."""
    return secrets.token_hex(8)


class Requests:
    """Asks the plan which request to send, first and next, and makes it the current attempt."""

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
        #: The plan of the current request, or of the next one once it has been decided on.
        self.plan: AttemptPlan | None = None
        self.splice: Splice | None = None
        self._retries = 0
        # The time at which `Timeouts.total_s` expires.
        self._total_at = math.inf
        # Cancel scope of the wait before a retry.
        self._pause: anyio.CancelScope | None = None
        # The error of the last replaced request. The errors of earlier ones are its `__cause__`.
        self._because: AprefillError | None = None

    @property
    def target(self) -> Target:
        """The host and model of the current request, or of the next one once it has been decided on."""
        return self._way.target if self.plan is None else self.plan.target

    def first(self) -> None:
        """Decide on the first request. Raises the same errors as `plan_first`."""
        refused = len(self._refusals) > 0 and self._subject() in self._refusals
        self.plan = plan_first(self._request, self._request.prefill, self._way, refused=refused)

    def transport(self) -> Transport:
        """Return the transport that sends the planned request."""
        assert self.plan is not None
        transport: Transport = self.plan.transport()
        return transport

    def start_clock(self) -> None:
        """Start the total clock, and yield the prefill if it is to be shown before the request."""
        self.show_prefill("now")
        if self._request.timeouts.total_s is not None:
            self._total_at = self._connection.now() + self._request.timeouts.total_s

    def prepare(self, transport: Transport, *, reads_ahead: bool) -> None:
        """Make the attempt for the planned request."""
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
        """Yield the prefill, if it is to be shown at this moment and has not been shown yet."""
        assert self.plan is not None
        if self._request.shown and self.plan.show_when == when and self._transcript.lead_at < 0:
            self._transcript.show(self._request.shown)

    async def wait(self) -> None:
        """Wait until the last connection is closed, then for the time in the plan. `Timeouts.total_s` ends both."""
        plan = self.plan
        assert plan is not None
        try:
            with anyio.CancelScope() as self._pause:
                await self._connection.wait(self._left_s())
                wait_s = min(plan.wait_s, self._left_s())
                if wait_s > 0:
                    await anyio.sleep(wait_s)
        finally:
            self._pause = None

    def check_clock(self) -> None:
        """Raise `Stalled` if `Timeouts.total_s` has expired, so that no further request is sent."""
        total_s = self._request.timeouts.total_s
        if total_s is not None and self._left_s() <= 0:
            self._connection.wait_no_more()
            # No variable here may keep the error, because its traceback has this frame: that would be a cycle.
            raise self._chain(Stalled("total_s", total_s))

    def _left_s(self) -> float:
        """Return the seconds left of `Timeouts.total_s`."""
        return self._total_at - self._connection.now()

    def interrupt(self) -> None:
        """End the wait between two requests."""
        if self._pause is not None:
            self._pause.cancel()

    def go_on(self, error: AprefillError | None) -> bool:
        """Replace the request that failed with `error`, or ended cleanly, by another one. False: no request follows."""
        transcript, ledger, splice = self._transcript, self._ledger, self.splice
        assert splice is not None
        following = self._following(error)
        if error is not None:
            self._chain(error)
            self._log.failed(error, following)
        if following is None:
            return False
        if error is not None:
            # Kept as the cause of a later error. Without its frames, which lead back to the run: that would be a cycle.
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
            known=self._transcript.all_text,
            error=error,
            finish=entry.splice.finish,
            has_token=entry.splice.has_token,
            has_tool=entry.splice.has_tool,
            retries=self._retries,
            left_s=self._left_s(),
        )
        return plan_next(self._request, outcome, chance=chance(), token=token)

    def _subject(self) -> RefusalKey:
        """Return the key under which a refusal of the current request is remembered."""
        target = self.target
        return refusal_key(self._request, target.row, target.base_url, target.model)

    def _chain(self, error: AprefillError) -> AprefillError:
        """Add the error of the previous request to `error`: as its cause if it has none, and as a note.

        Only our own errors are changed. A client may raise the same exception object several times.
        """
        earlier, self._because = self._because, None
        if earlier is not None:
            if error.__cause__ is None:
                error.__cause__ = earlier
            for note in (f"Before it: {type(earlier).__name__}: {earlier}", *getattr(earlier, "__notes__", ())):
                error.add_note(note)
        return error

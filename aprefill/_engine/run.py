"""The run: what stands behind a `Reply`, owns its connection and waits for its text.

A run is in one `Phase` at a time. `pull` does what the phase asks for until there is something to hand out; `drop` ends
the run from any phase, while a reader waits or not.
"""

from __future__ import annotations

import logging
import math
import os
import random
from dataclasses import replace
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import ref

import anyio

from .._deltas import FinishDelta, Message
from .._errors import (
    AprefillError,
    PrefillIgnored,
    PrefillRefused,
    ProviderError,
    ReplyClosed,
    StatusError,
    Truncated,
    UsageError,
)
from .._events import AttemptEnded, AttemptReport, AttemptStarted, Timing
from .._loops import CLOSE_S, clock_of, native_loop, spawn_closing
from .._plan.first import plan_first, refusal_key
from .._plan.next import Outcome, plan_next, teaches
from .._types import StopReason, Usage, Verdict
from .attempt import Attempt
from .ledger import Ledger
from .splice import Splice
from .transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .._deltas import Delta
    from .._hosts.refusals import RefusalKey, RefusalMemory
    from .._hosts.target import Target
    from .._plan.request import Request
    from .._plan.step import AttemptPlan
    from .._transports import Transport

_log = logging.getLogger("aprefill")
#: Numbers the replies of this process in the log.
_numbers = count(1)

#: Runs that have begun, and whose connection is not released yet.
_live: set[Run] = set()

#: From 0 to 1, for the waits between requests.
chance = random.random

#: So many turns of the event loop the end of a reply waits for its connection to be free again. What a host has sent
#: already is read in these, so that the next request finds the connection in the pool; nobody waits for the network.
_TURNS = 12

#: So much is taken in one pull by a reader in another thread: what goes to another thread costs less by the piece.
_ITEMS_A_PULL = 256


#: So long a session waits for its connections to be closed, also where its replies took the whole second, in seconds.
_CLOSE_AT_LEAST_S = 0.1


async def close_all(transports: Sequence[Transport]) -> None:
    """End all runs that are under way over these transports, side by side, then close those, side by side too.

    Waits for that, in all about a second; what takes longer goes on in tasks of its own.
    """
    runs = [run for run in _live if run.transport in transports]
    for run in runs:
        run.drop()
    deadline = anyio.current_time() + CLOSE_S
    with anyio.CancelScope(deadline=deadline, shield=True):
        for run in runs:
            await run.released()
    loop = native_loop()
    closing = [spawn_closing(transport.aclose, loop) for transport in transports]
    with anyio.CancelScope(deadline=max(deadline, anyio.current_time() + _CLOSE_AT_LEAST_S), shield=True):
        for closed in closing:
            if closed is not None:
                await closed.wait()


async def _wait_for(closed: anyio.Event | None) -> None:
    """Wait until something is closed, at most a second, also when the task is being cancelled."""
    if closed is not None:
        with anyio.move_on_after(CLOSE_S, shield=True):
            await closed.wait()


class Phase(Enum):
    """Where a run is, and so what a pull waits for."""

    #: no request was decided on
    NEW = "new"
    #: a request is decided on; it is sent, and the head of its answer awaited
    OPENING = "opening"
    #: the answer's body is being read
    READING = "reading"
    #: a request was given up; its connection is closed, and then it may be too early for the next one
    PAUSING = "pausing"
    #: nothing more will come; what came is being handed out
    HANDING_OUT = "handing out"
    #: the reply came to its end
    DONE = "done"
    #: it was left early, cancelled, or failed
    CLOSED = "closed"


#: Phase -> the phases that may follow.
_FOLLOWING = {
    Phase.NEW: {Phase.OPENING, Phase.CLOSED},
    Phase.OPENING: {Phase.READING, Phase.PAUSING, Phase.CLOSED},
    Phase.READING: {Phase.HANDING_OUT, Phase.PAUSING, Phase.CLOSED},
    Phase.PAUSING: {Phase.OPENING, Phase.CLOSED},
    Phase.HANDING_OUT: {Phase.DONE, Phase.CLOSED},
    Phase.DONE: set(),
    Phase.CLOSED: set(),
}

_OVER = frozenset({Phase.DONE, Phase.CLOSED})
#: Looked at for every chunk; an attribute of an enumeration takes several times as long as a name.
_READING = Phase.READING


def _nobody() -> None:
    """In place of a weak reference."""


class Run:
    """One reply under way: asks for deltas, has them spliced, ends the connection.

    It refers to neither the `Reply` nor a cursor, so that dropping those can end it.
    """

    def __init__(
        self, request: Request, target: Target, make_transport: Callable[[], Transport], refusals: RefusalMemory
    ) -> None:
        self._request = request
        self.target = target
        self._make_transport = make_transport
        self._refusals = refusals
        self.transport: Transport | None = None
        self.phase = Phase.NEW
        #: who reads: the id of a cursor or of a call of `text()`; 0: nobody
        self.reader = 0
        # the cursor in whose body the `text()` was called that reads now; 0: none
        self._reader_before = 0
        #: gives the task or the thread that reads, noted before each pull: a cursor may be handed to another one. No number
        #: of it, which may be another one's later.
        self.reader_task: Callable[[], object] = _nobody
        #: used with `async with`: losing a cursor does not end it, `aclose` does
        self.owned = False
        #: for a reader in another thread: what is there is taken in one pull, and read ahead of it, up to a bound
        self.reads_ahead = False
        self.transcript = Transcript(request.prefill)
        self._ledger = Ledger()
        # the request under way, or the last one
        self._plan: AttemptPlan | None = None
        self._attempt: Attempt | None = None
        self._splice: Splice | None = None
        self._retries = 0
        # when the total clock runs out
        self._total_at = math.inf
        # the wait before a request is sent again
        self._pause: anyio.CancelScope | None = None
        # what the replaced requests failed with, the last one first on its chain
        self._because: AprefillError | None = None
        self._pulling = False
        self._cancelled = False
        # the reader has asked for more and was told that there is nothing
        self._told_end = False
        # what is raised when all that came was handed out
        self._failure: AprefillError | None = None
        # the class of what the reply failed with
        self._failed = ""
        # the loop in which the reply runs, and what is set when its last connection is released
        self._loop: Any = None
        self._now: Callable[[], float] = anyio.current_time
        self._released: anyio.Event | None = None
        # the process that opened the connection: a forked child must leave it alone
        self._pid = 0
        self._number = 0

    def _go(self, phase: Phase) -> None:
        assert phase in _FOLLOWING[self.phase], f"{phase} after {self.phase}"
        self.phase = phase

    # --- reading ----------------------------------------------------------------------------------------------

    def claim(self, reader: int, task: object, *, joins_task: bool = False) -> None:
        """Make `reader` the one that reads. `task` is the task or thread that it is in.

        Raises `UsageError` while another one has neither ended nor been dropped; with `joins_task` not if that one was
        read last in the same task, which waits for this reader anyway. It reads on after `let_go`.
        """
        before = self.reader
        if before and self.phase not in _OVER and not (joins_task and self.reader_task() is task):
            raise self.with_text(
                UsageError(
                    "this reply is being read already; read it in one loop, end that one first, or give each reader its "
                    "own stream()"
                )
            )
        self.reader, self._reader_before = reader, before if joins_task else 0
        self.reader_task = ref(task)

    def is_read_by_thread(self, thread: int) -> bool:
        """Whether the reader is in the thread of this number."""
        return getattr(self.reader_task(), "ident", None) == thread

    def let_go(self, reader: int) -> bool:
        """`reader` has ended or was dropped; whether it was the one that reads."""
        if self.reader == reader:
            self.reader, self._reader_before = self._reader_before, 0
            return True
        if self._reader_before == reader:
            self._reader_before = 0
        return False

    async def pull(self) -> bool:
        """Wait for more of the transcript, one network read at a time; False at the end. Raises what went wrong.

        To be called when everything in the transcript was handed out.
        """
        if self._pulling:
            raise self._read_twice()
        self._pulling = True
        items = self.transcript.items
        have = len(items)
        attempt = self._attempt
        if attempt is not None:
            attempt.resume()
        try:
            while len(items) == have or (self.reads_ahead and self._has_more(len(items) - have)):
                if self.phase is _READING:
                    attempt = self._attempt
                    assert attempt is not None
                    deltas = await attempt.read()
                    # `await` may have ended the run
                    if self.phase is _READING:
                        self._take(deltas)
                elif self.is_over():
                    return False
                else:
                    await _WAITS[self.phase](self)
            return True
        except GeneratorExit:
            self.drop()
            raise
        except BaseException as exc:
            self.drop()
            await _wait_for(self._released)
            if isinstance(exc, AprefillError):
                self.with_text(exc)
            if isinstance(exc, ProviderError):
                self._failed = type(exc).__name__
            raise
        finally:
            self._pulling = False

    def _read_twice(self) -> AprefillError:
        return self.with_text(
            UsageError("two tasks are reading one reply; give each its own stream(), or read in one of them")
        )

    def _has_more(self, taken: int) -> bool:
        """Whether more of the answer is here, for which nobody has to wait, and a pull that has `taken` items may take it."""
        return (
            taken < _ITEMS_A_PULL and self.phase is _READING and self._attempt is not None and self._attempt.has_more()
        )

    def is_over(self) -> bool:
        """Whether nothing more will come. Raises `ReplyClosed` for a reply that was left early or has failed."""
        if self.phase is Phase.CLOSED and not self._cancelled:
            raise self.with_text(ReplyClosed())
        return self.phase in _OVER

    async def read_to_end(self) -> str:
        """Hand everything out, and give the whole text. Raises what went wrong."""
        if self._pulling:
            raise self._read_twice()
        transcript = self.transcript
        transcript.next = len(transcript.items)
        while not self.is_done():
            if not await self.pull() and self.phase is Phase.CLOSED:
                raise self.with_text(ReplyClosed())
            transcript.next = len(transcript.items)
        return transcript.text_so_far

    async def _begin(self) -> None:
        """NEW: decide on the first request."""
        request = self._request
        refused = len(self._refusals) > 0 and self._subject() in self._refusals
        plan = plan_first(request, self.target.row, self.target.model, refused=refused)
        transport = self._make_transport()
        self._loop = native_loop()
        self._now = clock_of(self._loop)
        self._pid = os.getpid()
        self._number = next(_numbers)
        if request.timeouts.total_s is not None:
            self._total_at = self._now() + request.timeouts.total_s
        if plan.show_when == "now" and request.shown:
            self.transcript.show(request.shown)
        _live.add(self)
        self._prepare(plan, transport)

    def _prepare(self, plan: AttemptPlan, transport: Transport) -> None:
        """Make ready to send a request."""
        request, transcript = self._request, self.transcript
        lead = request.shown if plan.show_when == "decided" and transcript.lead_at < 0 else ""
        self._plan = plan
        self._splice = Splice(
            plan, transcript, lead=lead, coalesce=request.coalesce, reply_chars=request.limits.reply_chars
        )
        self.transport = transport
        self._attempt = Attempt(
            plan, request, self.target, transport, total_at=self._total_at, reads_ahead=self.reads_ahead
        )
        self._released = None
        if transcript.wants_events:
            number = len(self._ledger.replaced) + 1
            transcript.items.append(AttemptStarted(number=number, mode=plan.mode, support=plan.support))
        self._go(Phase.OPENING)

    async def _open(self) -> None:
        """OPENING: send the request and wait for the head of the answer."""
        request, transcript, plan, attempt = self._request, self.transcript, self._plan, self._attempt
        assert plan is not None
        assert attempt is not None
        self._ledger.note("began")
        self._tell(logging.DEBUG, "sent to %s, model %s, mode %s", self.target.host, self.target.model, plan.mode)
        try:
            await attempt.open()
        except AprefillError as error:
            if self.phase is Phase.OPENING and not self._replace(error):
                raise
            return
        if self.phase is not Phase.OPENING:
            return
        self._ledger.note("accepted")
        self._tell(logging.DEBUG, "accepted with HTTP %s", attempt.status)
        transcript.accepted = True
        self._go(Phase.READING)
        if request.shown and plan.show_when == "accepted" and transcript.lead_at < 0:
            transcript.show(request.shown)

    def _take(self, deltas: list[Delta]) -> None:
        """READING: splice what one read gave, and see whether that was all."""
        attempt, splice = self._attempt, self._splice
        assert attempt is not None
        assert splice is not None
        before = len(self.transcript.items)
        try:
            if deltas:
                splice.take(deltas)
                self._ledger.note_progress(splice)
                attempt.failure = splice.exceeded or attempt.failure
            if attempt.failure is not None:
                if self._replace(attempt.failure):
                    return
                self._failure = attempt.failure
                splice.close(cut=True)
            elif attempt.ended or splice.stopped:
                splice.close(cut=False)
                self._failure = splice.exceeded
            else:
                return
        except (PrefillIgnored, Truncated) as error:
            if self._replace(error):
                return
            if self.transcript.next == before:
                raise
            # raised when everything is handed out that earlier reads of the same pull gave
            del self.transcript.items[before:]
            self._failure = error.with_traceback(None)
            self._end_early(attempt)
            return
        self._ledger.note_progress(splice)
        if self._failure is not None or splice.stopped:
            # a host would go on past a stop sequence of ours: cut it off before the last text is handed out
            self._end_early(attempt)
        else:
            self._go(Phase.HANDING_OUT)
        if self.transcript.wants_events:
            self.transcript.items.append(AttemptEnded(self._report()))

    def _end_early(self, attempt: Attempt) -> None:
        """End the connection; what came is still to be handed out."""
        self._go(Phase.HANDING_OUT)
        attempt.kill()
        self._released = spawn_closing(self._release, self._loop)

    async def _hand_out(self) -> None:
        """HANDING_OUT: all was handed out. Raise what went wrong, or let the connection go back to its pool."""
        if self._failure is not None:
            self._ledger.note("over")
            self._go(Phase.CLOSED)
            raise self._hand_over_failure()
        self._told_end = True
        self._ledger.note("over")
        self._tell(logging.DEBUG, "complete, %d characters", len(self.transcript.text_so_far))
        self._go(Phase.DONE)
        if self._released is None:
            # nobody waits for it, so it may take the time that the caller gives it
            within_s = self._request.limits.drain_s + CLOSE_S
            self._released = spawn_closing(self._drain_and_release, self._loop, within_s=within_s)
        turns = _TURNS
        while turns and self._released is not None and not self._released.is_set():
            # the reply is complete: a cancellation takes nothing of it away
            await anyio.lowlevel.cancel_shielded_checkpoint()
            turns -= 1

    async def _wait_to_ask_again(self) -> None:
        """PAUSING: wait until the last connection is closed, then for as long as the plan says."""
        plan = self._plan
        assert plan is not None
        try:
            with anyio.CancelScope() as self._pause:
                await _wait_for(self._released)
                if plan.wait_s:
                    await anyio.sleep(plan.wait_s)
        finally:
            self._pause = None
        if self.phase is Phase.PAUSING:
            self._prepare(plan, self._make_transport())

    # --- the next request -------------------------------------------------------------------------------------

    def _replace(self, error: AprefillError) -> bool:
        """Put another request in the place of the one that failed with `error`; False if there is none to send.

        Nothing new of the failed one was handed out.
        """
        plan, attempt, splice = self._plan, self._attempt, self._splice
        assert plan is not None
        assert attempt is not None
        assert splice is not None
        outcome = Outcome(
            plan=plan,
            error=error,
            has_token=splice.has_token,
            has_tool=splice.has_tool,
            retries=self._retries,
            left_s=self._total_at - self._now(),
        )
        if teaches(attempt.refusal, attempt.fields):
            self._refusals.add(self._subject())
        following = plan_next(self._request, outcome, chance())
        self._chain(error)
        why = f"{type(error).__name__}, HTTP {error.status}" if isinstance(error, StatusError) else type(error).__name__
        if following is None:
            self._tell(logging.INFO, "failed: %s", why)
            return False
        self._tell(
            logging.INFO, "failed: %s; another follows in %.3g s, mode %s", why, following.wait_s, following.mode
        )
        # Kept for the chain of what may come, without the frames, which lead back here: that would be a cycle.
        self._because = error.with_traceback(None)
        attempt.failure = None
        report = self._report(error)
        self._ledger.replace(report)
        splice.settle_held()
        if self.transcript.wants_events:
            self.transcript.items.append(AttemptEnded(report))
        self._retries += not isinstance(error, PrefillRefused | PrefillIgnored)
        self._plan, self._attempt, self._splice = following, None, None
        self._released = spawn_closing(attempt.aclose, self._loop)
        self._go(Phase.PAUSING)
        return True

    def _subject(self) -> RefusalKey:
        """What a refusal here is about."""
        target = self.target
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

    def _hand_over_failure(self) -> AprefillError:
        """The failure, and no reference to it here: its traceback will lead back to this run, which would be a cycle."""
        failure = self._failure
        assert failure is not None
        self._failure = None
        if self._attempt is not None:
            self._attempt.failure = None
        return failure

    # --- ending -----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Shut the connection down, from any thread. `drop` has to follow, in the loop."""
        if self._attempt is not None and self.phase not in _OVER and os.getpid() == self._pid:
            self._attempt.kill()

    def drop(self) -> None:
        """End it now, from any task or a finaliser: shut the socket down, leave the rest to the loop. Raises nothing.

        A reader that waits comes back. A reply of which nobody has asked for a chunk yet stays as it is: for that there is
        `close_unsent`.
        """
        if self.phase is Phase.NEW or self.phase in _OVER or os.getpid() != self._pid:
            return
        self._ledger.note("over")
        whole = (
            self.phase is Phase.HANDING_OUT
            and self._failure is None
            and self.transcript.next == len(self.transcript.items)
        )
        # who left at the last event got everything, and still has it now
        self._told_end = self._is_whole()
        self._tell(logging.DEBUG, "left %s", "at its end" if whole else f"while {self.phase.value}")
        self._go(Phase.DONE if whole else Phase.CLOSED)
        self.transcript.forget_rest()
        if self._pause is not None:
            self._pause.cancel()
        attempt = self._attempt
        if attempt is not None:
            attempt.interrupt()
            if self._released is None:
                self._released = spawn_closing(self._release, self._loop)
        if attempt is None or self._released is None:
            # between two requests; or the loop is gone, and its sockets with it
            _live.discard(self)

    def close_unsent(self) -> None:
        """Close a reply of which nobody has asked for a chunk yet, so that it sends nothing. In its loop, if it has one."""
        if self.phase is Phase.NEW:
            self._go(Phase.CLOSED)

    async def _release(self) -> None:
        """Close the attempt's connection, or give it back to its pool if it was read to its end."""
        try:
            if self._attempt is not None:
                await self._attempt.aclose()
        finally:
            _live.discard(self)

    async def _drain_and_release(self) -> None:
        """Read the body to its end first, so that the connection can be used again."""
        try:
            if self._attempt is not None and self.target.keep:
                await self._attempt.drain()
        finally:
            await self._release()

    async def released(self) -> None:
        """Wait until the last connection is released."""
        if self._released is not None:
            await self._released.wait()

    async def aclose(self) -> None:
        """End it now and release its connection. Shielded from cancellation, at most a second, idempotent."""
        self.close_unsent()
        self.drop()
        if self.phase is Phase.CLOSED or not self.target.keep:
            # a connection that is read to its end for its pool is nothing to wait for
            await _wait_for(self._released)

    def cancel(self) -> None:
        """End it from any task of its loop; its reader's loop ends as if the reply had ended.

        A reply whose last text was handed out stays what it is.
        """
        if self.phase in _OVER:
            return
        self._cancelled = (
            self.phase is not Phase.HANDING_OUT
            or self._failure is not None
            or self.transcript.next < len(self.transcript.items)
        )
        self.close_unsent()
        self.drop()

    def _tell(self, level: int, what: str, *facts: object) -> None:
        """Write to the log: never a prompt, a key or the host's own words."""
        if _log.isEnabledFor(level):
            _log.log(level, f"reply %d, request %d: {what}", self._number, len(self._ledger.replaced) + 1, *facts)

    # --- what is known ----------------------------------------------------------------------------------------

    def is_done(self) -> bool:
        """Whether the reply came to its end."""
        return self.phase is Phase.DONE

    @property
    def prefill_length(self) -> int:
        """Characters of the prefill."""
        return len(self._request.prefill)

    @property
    def coalesces(self) -> bool:
        """Whether one chunk a network read was asked for."""
        return self._request.coalesce

    def with_text(self, error: AprefillError) -> AprefillError:
        """Put the text so far on `error`."""
        error.text_so_far = self.transcript.text_so_far
        return error

    @property
    def plan(self) -> AttemptPlan | None:
        """The request that was decided on, once it was."""
        return self._plan

    @property
    def closes_at_once(self) -> bool | None:
        """Whether leaving shuts the connection down at once; None before the host accepted."""
        return None if self._attempt is None else self._attempt.closes_at_once

    @property
    def verdict(self) -> Verdict:
        """Of the attempt that the reply's text is from."""
        if self._splice is not None:
            return self._splice.seam.verdict
        return Verdict.UNDECIDED if self._request.prefill else Verdict.ABSENT

    @property
    def usage(self) -> Usage | None:
        """What the hosts counted, over all attempts."""
        return self._ledger.usage(self._last_word()[0])

    @property
    def finish(self) -> FinishDelta | None:
        """Why the text ended."""
        return FinishDelta(StopReason.CANCELLED, "cancelled") if self._cancelled else self._last_word()[1]

    def _is_whole(self) -> bool:
        """Whether the reader got all of the reply and knows it: it was told the end, or got the last event."""
        items = self.transcript.items
        last = items[-1] if items and self.transcript.next == len(items) else None
        handing_out = self.phase is Phase.HANDING_OUT and self._failure is None
        return self._told_end or (handing_out and type(last) is AttemptEnded)

    def _new_text(self) -> str:
        """What was handed out behind the prefill."""
        return self.transcript.text_so_far[self.prefill_length :]

    def _last_word(self) -> tuple[Usage | None, FinishDelta | None]:
        """Usage and end of the last attempt, as of what was handed out; of a failed one or a whole one, all of it."""
        splice = self._splice
        if splice is None:
            return None, None
        if self._failed or self._is_whole():
            return splice.usage, splice.finish
        usage, finish = splice.handed_out(self._new_text())
        # a reply whose last text was handed out has ended, although its reader did not wait to be told so
        return usage, splice.finish if self.phase is Phase.DONE else finish

    def reports(self) -> tuple[AttemptReport, ...]:
        """What each attempt did."""
        replaced = self._ledger.replaced
        if self._attempt is None:
            return replaced
        usage, finish = self._last_word()[0], self.finish
        report = replace(
            self._report(),
            usage=usage,
            stop_reason=None if finish is None else finish.reason,
            raw_stop_reason=None if finish is None else finish.raw,
            stop_sequence=None if finish is None else finish.sequence,
        )
        return (*replaced, report)

    def _report(self, error: AprefillError | None = None) -> AttemptReport:
        """What the attempt under way has done."""
        assert self._plan is not None
        assert self._attempt is not None
        assert self._splice is not None
        error = error or self._failure
        name = self._failed if error is None else type(error).__name__
        report = self._ledger.report(self._plan, self._attempt, self._splice, name)
        if self._cancelled:
            return replace(report, stop_reason=StopReason.CANCELLED, raw_stop_reason="cancelled", stop_sequence=None)
        return report

    def timing(self) -> Timing:
        """When things happened."""
        return self._ledger.timing()

    def message(self) -> Message:
        """The assistant turn for the next request."""
        text = self.transcript.text_so_far
        if self._attempt is None or self._splice is None:
            return {"role": "assistant", "content": text}
        parts = self._splice.parts(self._new_text(), whole=self._is_whole())
        return self._splice.clean(self._attempt.codec.message(parts, lead=text[: self.prefill_length]))


#: Phase -> what a pull waits for there. READING is in `pull` itself: it is on the path of every chunk.
_WAITS: dict[Phase, Callable[[Run], Awaitable[None]]] = {
    Phase.NEW: Run._begin,
    Phase.OPENING: Run._open,
    Phase.PAUSING: Run._wait_to_ask_again,
    Phase.HANDING_OUT: Run._hand_out,
}

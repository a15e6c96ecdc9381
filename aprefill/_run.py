"""The run: what stands behind a `Reply`, owns its connection and waits for its text.

Pulling, asking again and ending are one module, because they share one state, and each can meet the others half way.
"""

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

import anyio

from ._account import Account
from ._attempt import Attempt
from ._errors import (
    AprefillError,
    PrefillIgnored,
    PrefillRefused,
    ProviderError,
    ReplyClosed,
    Truncated,
    UsageError,
)
from ._plan import Past, after, first, refusal_of, teaches
from ._splice import Splice, Transcript
from ._types import (
    AttemptEnded,
    AttemptReport,
    AttemptStarted,
    FinishDelta,
    Message,
    StopReason,
    Timing,
    Usage,
    Verdict,
)
from ._watch import CLOSE_S, spawn_closing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._ask import Ask
    from ._plan import Refused, Step
    from ._refusals import Refusals
    from ._target import Target
    from .transports import Transport

#: Runs that have begun and not ended.
_live: set[Run] = set()

#: From 0 to 1, for the waits between requests.
chance = random.random


def live_runs(transports: Sequence[Transport]) -> list[Run]:
    """The runs that are under way over one of `transports`."""
    return [run for run in _live if run.transport in transports]


async def _wait_for(closed: anyio.Event | None) -> None:
    """Wait until something is closed, at most a second, also when the task is being cancelled."""
    if closed is not None:
        with anyio.move_on_after(CLOSE_S, shield=True):
            await closed.wait()


class State(Enum):
    """Where a run is."""

    #: nothing was sent
    NEW = "new"
    #: a request is under way, or its text is still being handed out
    OPEN = "open"
    #: it came to its end
    DONE = "done"
    #: it was left early, cancelled, or failed
    CLOSED = "closed"


class Run:
    """One reply under way: asks for deltas, has them spliced, ends the connection. Knows no cursor and no `Reply`."""

    def __init__(self, ask: Ask, target: Target, make_transport: Callable[[], Transport], refusals: Refusals) -> None:
        self._ask = ask
        self.target = target
        self._make_transport = make_transport
        self._refusals = refusals
        self.transport: Transport | None = None
        self.state = State.NEW
        self.cursors = 0
        #: `async with` took the reply: cursors come and go, `aclose` ends it
        self.owned = False
        self.transcript = Transcript(ask.prefill)
        self._account = Account()
        # the request under way, or the last one
        self._step: Step | None = None
        self._attempt: Attempt | None = None
        self._splice: Splice | None = None
        self._retries = 0
        self._spent_s = 0.0
        # the wait before a request is sent again
        self._pause: anyio.CancelScope | None = None
        # another task has ended the reply while this one waits for it
        self._interrupted = False
        # what the replaced requests failed with, the last one first on its chain
        self._because: AprefillError | None = None
        self._pulling = False
        # nothing more will come; what came is still being handed out
        self._exhausted = False
        # the reader has asked for more and was told that there is nothing
        self._told_end = False
        self._cancelled = False
        self._failure: AprefillError | None = None
        # the class of what the reply failed with
        self._failed = ""
        # the process that opened the connection: a forked child must leave it alone
        self._pid = 0

    # --- pulling ----------------------------------------------------------------------------------------------

    async def pull(self) -> bool:
        """Wait for more of the transcript, one network read at a time; False at the end. Raises what went wrong.

        To be called when everything in the transcript was handed out.
        """
        if self._pulling:
            raise self.with_text(
                UsageError("two tasks are reading one reply; give each its own stream(), or read in one of them")
            )
        if self.state is State.DONE:
            return False
        self._pulling = True
        items = self.transcript.items
        have = len(items)
        try:
            if self.state is State.CLOSED:
                return self._ended_early()
            while len(items) == have:
                if self._failure is not None:
                    raise self._hand_over_failure()
                if not await self._advance():
                    return False
            return True
        except GeneratorExit:
            self.drop()
            raise
        except BaseException as exc:
            await self._end()
            if isinstance(exc, AprefillError):
                self.with_text(exc)
            if isinstance(exc, ProviderError):
                self._failed = type(exc).__name__
            raise
        finally:
            self._pulling = False

    async def _advance(self) -> bool:
        """Do the next thing that waits: open, read, or release. False when there is nothing more to do."""
        if self._interrupted:
            await self._end()
            return self._ended_early()
        if self._attempt is None:
            if self._step is None:
                refused = len(self._refusals) > 0 and self._subject() in self._refusals
                self._step = first(self._ask, self.target.row, self.target.model, refused=refused)
                if self._step.show_when == "now" and self._ask.shown:
                    self.transcript.show(self._ask.shown)
                    return True
            return await self._open(self._step)
        attempt, splice = self._attempt, self._splice
        assert splice is not None
        if self._exhausted:
            if not splice.stopped:
                await attempt.drain()
            self.state = State.DONE
            self._told_end = True
            await self._release()
            return False
        deltas = await attempt.read()
        if attempt.interrupted:
            return True
        try:
            if deltas:
                splice.take(deltas)
                self._account.note_progress(splice)
                attempt.failure = splice.exceeded or attempt.failure
            if attempt.failure is not None:
                if await self._again(attempt.failure):
                    return True
                self._failure = attempt.failure
                splice.close(cut=True)
            elif attempt.ended or splice.stopped:
                splice.close(cut=False)
                self._failure = splice.exceeded
                self._exhausted = self._failure is None
            else:
                return True
        except (PrefillIgnored, Truncated) as error:
            if not await self._again(error):
                raise
            return True
        self._account.note_progress(splice)
        if self._failure is not None or splice.stopped:
            # a host would go on past a stop sequence of ours: cut it off before the last text is handed out
            await self._release()
        if self.transcript.wants_events:
            self.transcript.items.append(AttemptEnded(self._report()))
        return True

    async def _open(self, step: Step) -> bool:
        ask, transcript = self._ask, self.transcript
        lead = ask.shown if step.show_when == "decided" and transcript.lead_at < 0 else ""
        self._splice = Splice(step, transcript, lead=lead, coalesce=ask.coalesce, reply_chars=ask.limits.reply_chars)
        self.transport = self._make_transport()
        self._attempt = attempt = Attempt(step, ask, self.target, self.transport, spent_s=self._spent_s)
        self._account.note("began")
        self._pid = os.getpid()
        self.state = State.OPEN
        _live.add(self)
        if transcript.wants_events:
            number = len(self._account.replaced) + 1
            transcript.items.append(AttemptStarted(number=number, mode=step.mode, support=step.support))
        try:
            await attempt.open()
        except AprefillError as error:
            if not attempt.interrupted and not await self._again(error):
                raise
            return True
        if attempt.interrupted:
            return True
        self._account.note("accepted")
        transcript.accepted = True
        if ask.shown and step.show_when == "accepted" and transcript.lead_at < 0:
            transcript.show(ask.shown)
        return True

    # --- the next request -------------------------------------------------------------------------------------

    async def _again(self, error: AprefillError) -> bool:
        """Put another request in the place of the one that failed with `error`; False if there is none to send.

        Nothing new of the failed one was handed out.
        """
        step, attempt, splice = self._step, self._attempt, self._splice
        assert step is not None
        assert attempt is not None
        assert splice is not None
        spent_s = self._spent_s + attempt.waited_s
        total_s = self._ask.timeouts.total_s
        past = Past(
            step=step,
            error=error,
            has_token=splice.has_token,
            has_tool=splice.has_tool,
            retries=self._retries,
            left_s=math.inf if total_s is None else total_s - spent_s,
        )
        if teaches(attempt.refusal, attempt.fields):
            self._refusals.add(self._subject())
        following = after(self._ask, past, chance())
        self._chain(error)
        if following is None:
            return False
        # Kept for the chain of what may come, without the frames, which lead back here: that would be a cycle.
        self._because = error.with_traceback(None)
        attempt.failure = None
        report = self._report(error)
        self._account.replace(report)
        splice.settle_held()
        if self.transcript.wants_events:
            self.transcript.items.append(AttemptEnded(report))
        self._retries += not isinstance(error, PrefillRefused | PrefillIgnored)
        self._spent_s = spent_s + following.wait_s
        self._step, self._attempt, self._splice = following, None, None
        await _wait_for(spawn_closing(attempt.aclose, attempt.loop))
        if following.wait_s and not self._interrupted:
            try:
                with anyio.CancelScope() as self._pause:
                    await anyio.sleep(following.wait_s)
            finally:
                self._pause = None
        return True

    def _subject(self) -> Refused:
        """What a refusal here is about."""
        target = self.target
        return refusal_of(self._ask, target.row, target.base_url, target.model)

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

    def _ended_early(self) -> bool:
        """What a reader finds after the reply was ended under it: a quiet end after `cancel()`, else an error."""
        if not self._cancelled:
            raise ReplyClosed
        return False

    def _interrupt(self) -> None:
        """Make the task that waits for this reply come back now."""
        self._interrupted = True
        if self._attempt is not None:
            self._attempt.interrupt()
        if self._pause is not None:
            self._pause.cancel()

    async def _release(self) -> None:
        """Close the attempt, whose connection goes back to its pool if it was read to its end."""
        self._account.note("over")
        try:
            if self._attempt is not None:
                await self._attempt.aclose()
        finally:
            _live.discard(self)

    async def aclose(self) -> None:
        """End it now. Shielded from cancellation, bounded, idempotent."""
        if self._pulling:
            self._interrupt()
        await self._end()

    async def _end(self) -> None:
        """End it and wait for that, at most a second."""
        await _wait_for(self.drop())

    def drop(self) -> anyio.Event | None:
        """End it now, also from a finaliser: shut the socket down, leave the rest to the loop. Raises nothing.

        A reply of which nobody has asked for a chunk yet stays as it is. Gives what is set when all is closed.
        """
        if self.state is State.NEW and self._step is not None:
            self.state = State.CLOSED
        if self.state is not State.OPEN or os.getpid() != self._pid:
            return None
        whole = self._exhausted and self._failure is None and self.transcript.next == len(self.transcript.items)
        self.state = State.DONE if whole else State.CLOSED
        self.transcript.forget_rest()
        attempt = self._attempt
        closed = None
        if attempt is not None:
            attempt.kill()
            closed = spawn_closing(self._release, attempt.loop)
        if closed is None:
            # between two requests; or the loop is gone, and its sockets with it
            _live.discard(self)
        return closed

    def cancel(self) -> None:
        """End it from another task of the same loop; its reader's loop ends as if the reply had ended.

        A reply whose last text was handed out stays what it is.
        """
        if self.state is State.NEW:
            self._cancelled = True
            self.state = State.CLOSED
        elif self.state is State.OPEN:
            self._cancelled = not self._exhausted or self.transcript.next < len(self.transcript.items)
            if self._pulling:
                self._interrupt()
            else:
                self.drop()

    # --- what is known ----------------------------------------------------------------------------------------

    @property
    def prefill_length(self) -> int:
        """Characters of the prefill."""
        return len(self._ask.prefill)

    @property
    def coalesces(self) -> bool:
        """Whether one chunk a network read was asked for."""
        return self._ask.coalesce

    def with_text(self, error: AprefillError) -> AprefillError:
        """Put the text so far on `error`."""
        error.text_so_far = self.transcript.text_so_far
        return error

    @property
    def step(self) -> Step | None:
        """The request that was decided on, once it was."""
        return self._step

    @property
    def closes_at_once(self) -> bool | None:
        """Whether leaving shuts the connection down at once; None before the host accepted."""
        return None if self._attempt is None else self._attempt.closes_at_once

    @property
    def verdict(self) -> Verdict:
        """Of the attempt that the reply's text is from."""
        if self._splice is not None:
            return self._splice.seam.verdict
        return Verdict.UNDECIDED if self._ask.prefill else Verdict.ABSENT

    @property
    def usage(self) -> Usage | None:
        """What the hosts counted, over all attempts."""
        return self._account.usage(self._last_word()[0])

    @property
    def finish(self) -> FinishDelta | None:
        """Why the text ended."""
        return FinishDelta(StopReason.CANCELLED, "cancelled") if self._cancelled else self._last_word()[1]

    def _is_whole(self) -> bool:
        """Whether the reader got all of the reply and knows it: it was told the end, or got the last event."""
        items = self.transcript.items
        last = items[-1] if items and self.transcript.next == len(items) else None
        return self._told_end or (self._exhausted and type(last) is AttemptEnded)

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
        return usage, splice.finish if self.state is State.DONE else finish

    def reports(self) -> tuple[AttemptReport, ...]:
        """What each attempt did."""
        replaced = self._account.replaced
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
        assert self._step is not None
        assert self._attempt is not None
        assert self._splice is not None
        error = error or self._failure
        name = self._failed if error is None else type(error).__name__
        report = self._account.report(self._step, self._attempt, self._splice, name)
        if self._cancelled:
            return replace(report, stop_reason=StopReason.CANCELLED, raw_stop_reason="cancelled", stop_sequence=None)
        return report

    def timing(self) -> Timing:
        """When things happened."""
        return self._account.timing()

    def message(self) -> Message:
        """The assistant turn for the next request."""
        text = self.transcript.text_so_far
        if self._attempt is None or self._splice is None:
            return {"role": "assistant", "content": text}
        parts = self._splice.parts(self._new_text(), whole=self._is_whole())
        return self._attempt.codec.message(parts, lead=text[: self.prefill_length])

"""The run: what stands behind a `Reply`, owns its connection and waits for its text."""

from __future__ import annotations

import os
import time
from enum import Enum
from typing import TYPE_CHECKING

import anyio

from ._attempt import Attempt
from ._errors import AprefillError, ReplyClosed, UsageError
from ._plan import first
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
from ._watch import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._plan import Ask, Step
    from ._target import Target
    from .transports import Transport

#: How long closing may take after a cancellation, in seconds.
CLOSE_S = 1.0

#: began, accepted, token, text, shown: all but the last of the moments that a run notes
_ALL_MOMENTS = 5

#: Runs whose connection is open.
_live: set[Run] = set()


def live_runs(transports: Sequence[Transport]) -> list[Run]:
    """The runs whose connection is open over one of `transports`."""
    return [run for run in _live if run.transport in transports]


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

    def __init__(self, ask: Ask, target: Target, make_transport: Callable[[], Transport]) -> None:
        self._ask = ask
        self.target = target
        self._make_transport = make_transport
        self.transport: Transport | None = None
        self.state = State.NEW
        self.cursors = 0
        #: `async with` took the reply: cursors come and go, `aclose` ends it
        self.owned = False
        self.transcript = Transcript(ask.prefill)
        self._step: Step | None = None
        self._attempt: Attempt | None = None
        self._splice: Splice | None = None
        self._pulling = False
        # nothing more will come; what came is still being handed out
        self._exhausted = False
        self._cancelled = False
        self._failure: AprefillError | None = None
        # the process that opened the connection: a forked child must leave it alone
        self._pid = 0
        self._moments: dict[str, float] = {}

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
            raise
        finally:
            self._pulling = False

    async def _advance(self) -> bool:
        """Do the next thing that waits: open, read, or release. False when there is nothing more to do."""
        if self.state is State.NEW:
            if self._step is None:
                self._step = first(self._ask, self.target.row, self.target.model)
                if self._step.show_when == "now" and self._ask.shown:
                    self.transcript.show(self._ask.shown)
                    return True
            return await self._open(self._step)
        attempt, splice = self._attempt, self._splice
        assert attempt is not None
        assert splice is not None
        if self._exhausted:
            if not splice.stopped:
                await attempt.drain()
            self.state = State.DONE
            await self._release()
            return False
        deltas = await attempt.read()
        if attempt.interrupted:
            return await self._interrupted()
        if deltas:
            splice.take(deltas)
            if len(self._moments) < _ALL_MOMENTS:
                self._stamp_progress(splice)
        if attempt.failure is not None:
            self._failure = attempt.failure
            splice.close(cut=True)
        elif attempt.ended or splice.stopped:
            self._exhausted = True
            splice.close(cut=False)
        else:
            return True
        self._stamp_progress(splice)
        if self._failure is not None or splice.stopped:
            # a host would go on past a stop sequence of ours: cut it off before the last text is handed out
            await self._release()
        if self.transcript.wants_events:
            self.transcript.items += [AttemptEnded(report) for report in self.reports()]
        return True

    async def _open(self, step: Step) -> bool:
        ask = self._ask
        lead = ask.shown if step.show_when == "decided" else ""
        self._splice = Splice(step, self.transcript, lead=lead, coalesce=ask.coalesce)
        self.transport = self._make_transport()
        self._attempt = attempt = Attempt(step, self.target, self.transport, ask.timeouts)
        self._stamp("began")
        self._pid = os.getpid()
        self.state = State.OPEN
        _live.add(self)
        try:
            await attempt.open()
        except AprefillError:
            if not attempt.interrupted:
                raise
        if attempt.interrupted:
            return await self._interrupted()
        self._stamp("accepted")
        self.transcript.accepted = True
        if self.transcript.wants_events:
            self.transcript.items.append(AttemptStarted(number=1, mode=step.mode, support=step.support))
        if ask.shown and step.show_when == "accepted":
            self.transcript.show(ask.shown)
        return True

    def _hand_over_failure(self) -> AprefillError:
        """The failure, and no reference to it here: its traceback will lead back to this run, which would be a cycle."""
        failure = self._failure
        assert failure is not None
        self._failure = None
        if self._attempt is not None:
            self._attempt.failure = None
        return failure

    # --- ending -----------------------------------------------------------------------------------------------

    async def _interrupted(self) -> bool:
        await self._end()
        return self._ended_early()

    def _ended_early(self) -> bool:
        """What a reader finds after the reply was ended under it: a quiet end after `cancel()`, else an error."""
        if not self._cancelled:
            raise ReplyClosed
        return False

    async def _release(self) -> None:
        """Close the attempt, whose connection goes back to its pool if it was read to its end."""
        self._stamp("over")
        try:
            if self._attempt is not None:
                await self._attempt.aclose()
        finally:
            _live.discard(self)

    async def aclose(self) -> None:
        """End it now. Shielded from cancellation, bounded, idempotent."""
        if self._pulling and self._attempt is not None:
            self._attempt.interrupt()
        await self._end()

    async def _end(self) -> None:
        """End it and wait for that, at most a second.

        The closing runs in a task of its own: a second native `Task.cancel()` goes through every shield, and would
        strand a pool slot half closed.
        """
        closed = self.drop()
        if closed is not None:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await closed.wait()

    def drop(self) -> anyio.Event | None:
        """End it now, also from a finaliser: shut the socket down, leave the rest to the loop. Raises nothing.

        A reply of which nobody has asked for a chunk yet stays as it is. Gives what is set when all is closed.
        """
        if self.state is State.NEW and self._step is not None:
            self.state = State.CLOSED
        attempt = self._attempt
        if self.state is not State.OPEN or attempt is None or os.getpid() != self._pid:
            return None
        whole = self._exhausted and self._failure is None and self.transcript.next == len(self.transcript.items)
        self.state = State.DONE if whole else State.CLOSED
        self.transcript.forget_rest()
        attempt.kill()
        closed = anyio.Event()

        async def close_quietly() -> None:
            try:
                with anyio.move_on_after(CLOSE_S, shield=True):
                    await self._release()
            except Exception:  # noqa: S110 - nobody waits for this; the socket is shut down already
                pass
            finally:
                closed.set()

        if not spawn(attempt.loop, close_quietly):
            # the loop is gone, and its sockets with it
            _live.discard(self)
            return None
        return closed

    def cancel(self) -> None:
        """End it from another task of the same loop; its reader's loop ends as if the reply had ended.

        A reply whose last text was handed out stays what it is.
        """
        if self.state is State.NEW:
            self._cancelled = True
            if self._pulling and self._attempt is not None:
                self._attempt.interrupt()
            else:
                self.state = State.CLOSED
        elif self.state is State.OPEN:
            attempt = self._attempt
            assert attempt is not None
            self._cancelled = not self._exhausted or self.transcript.next < len(self.transcript.items)
            if self._pulling:
                attempt.interrupt()
            else:
                self.drop()

    # --- what is known ----------------------------------------------------------------------------------------

    def _stamp(self, name: str) -> None:
        self._moments.setdefault(name, time.perf_counter())

    def _stamp_progress(self, splice: Splice) -> None:
        if splice.has_token:
            self._stamp("token")
        if splice.has_text:
            self._stamp("text")
        if splice.has_shown:
            self._stamp("shown")

    @property
    def prefill_length(self) -> int:
        """Characters of the prefill."""
        return len(self._ask.prefill)

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
        """The first attempt's."""
        if self._splice is not None:
            return self._splice.seam.verdict
        return Verdict.UNDECIDED if self._ask.prefill else Verdict.ABSENT

    @property
    def usage(self) -> Usage | None:
        """What the host counted."""
        return None if self._splice is None else self._splice.usage

    @property
    def finish(self) -> FinishDelta | None:
        """Why the text ended."""
        if self._cancelled:
            return FinishDelta(StopReason.CANCELLED, "cancelled")
        return None if self._splice is None else self._splice.finish

    def reports(self) -> tuple[AttemptReport, ...]:
        """What each attempt did."""
        step, attempt, finish = self._step, self._attempt, self.finish
        if step is None or attempt is None:
            return ()
        report = AttemptReport(
            number=1,
            provider=step.row.provider,
            model=step.call.model,
            mode=step.mode,
            support=step.support,
            verdict=self.verdict,
            status=attempt.status,
            request_id=attempt.request_id,
            usage=self.usage,
            stop_reason=None if finish is None else finish.reason,
            raw_stop_reason=None if finish is None else finish.raw,
            stop_sequence=None if finish is None else finish.sequence,
            received_bytes=attempt.received_bytes,
        )
        return (report,)

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

    def message(self) -> Message:
        """The assistant turn for the next request."""
        text = self.transcript.text_so_far
        if self._attempt is None:
            return {"role": "assistant", "content": text}
        return self._attempt.decoder.message(text)

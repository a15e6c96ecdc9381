"""The reply: what `stream()` returns, and the run behind it that owns the connection.

Three objects, so that leaving early in any way closes the provider's connection (measured, and tested):

- `Reply` is what the caller holds.
- a *cursor* is what one `async for` holds. Only the loop's stack refers to it, so `break`, `return`, an exception
  or a cancel in the body drops it at that instant, even while the reply or a traceback is kept; its finaliser
  shuts the socket down.
- the *run* owns the connection and the text. It refers to neither of the others, and is held by `_live` while
  its connection is open, so that nothing is collected half closed.
"""

from __future__ import annotations

import time
import warnings
from enum import Enum
from typing import TYPE_CHECKING, Self

import anyio

from ._attempt import Attempt
from ._errors import AprefillError, PrefillIgnored, ReplyClosed, ReplyConsumed, UsageError
from ._plan import first
from ._seam import Seam
from ._stop import StopStage
from ._types import (
    AttemptEnded,
    AttemptReport,
    AttemptStarted,
    Event,
    FinishDelta,
    Message,
    ReasoningDelta,
    ReasoningEvent,
    StopReason,
    Support,
    TextDelta,
    TextEvent,
    Timing,
    ToolDelta,
    ToolEvent,
    Usage,
    UsageDelta,
    Verdict,
)
from ._watch import spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType

    from ._plan import Ask, Step
    from ._target import Target
    from ._types import Delta
    from .transports import Transport

#: How long closing may take after a cancellation, in seconds.
CLOSE_S = 1.0

#: Runs whose connection is open.
_live: set[Run] = set()


def live_runs(transports: Sequence[Transport]) -> list[Run]:
    """The runs whose connection is open over one of `transports`."""
    return [run for run in _live if run.transport in transports]


_CUT_BY_LIMIT = frozenset({StopReason.MAX_TOKENS, StopReason.CONTEXT_WINDOW})


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
    """One reply under way: asks for deltas, splices them, keeps what was said. Knows no cursor and no `Reply`."""

    def __init__(self, ask: Ask, target: Target, make_transport: Callable[[], Transport]) -> None:
        self._ask = ask
        self.target = target
        self._make_transport = make_transport
        self.transport: Transport | None = None
        self.state = State.NEW
        self.cursors = 0
        #: `async with` took the reply: cursors come and go, `aclose` ends it
        self.owned = False
        #: text, and for `events()` other events too, in order; `next` is the first not handed out
        self.items: list[str | Event] = []
        self.next = 0
        self.want_events = False
        #: where in `items` the shown prefill stands
        self.lead_at = -1
        # how many characters of that item are the prefill's
        self._lead_length = 0
        self._lead_due = False
        self._accepted = False
        self._exhausted = False
        self._pulling = False
        self._failure: AprefillError | None = None
        self._attempt: Attempt | None = None
        self._step: Step | None = None
        self._seam = Seam(ask.prefill)
        self._stop: StopStage | None = None
        self._cut_here = False
        self.finish: FinishDelta | None = None
        self.usage: Usage | None = None
        self._began = 0.0
        self._accepted_at = self._token_at = self._text_delta_at = self._text_at = self._over_at = 0.0

    # --- pulling ----------------------------------------------------------------------------------------------

    async def pull(self) -> bool:
        """Wait for more `items`, one network read at a time; False at the end. Raises what went wrong.

        To be called when everything in `items` was handed out.
        """
        if self._pulling:
            raise UsageError("two tasks are reading one reply; give each its own stream(), or read in one of them")
        if self.state is State.DONE:
            return False
        self._pulling = True
        try:
            if self.state is State.CLOSED:
                return self._closed()
            have = len(self.items)
            while len(self.items) == have:
                if self._failure is not None:
                    raise self._failure
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
        if self.state is State.NEW:
            if self._step is None:
                self._step = first(self._ask, self.target.row, self.target.model)
                self._began = time.perf_counter()
                if self._step.show_when == "now" and self._ask.shown:
                    self._show_prefill()
                    return True
            return await self._open(self._step)
        attempt = self._attempt
        assert attempt is not None
        if self._exhausted:
            await self._finish(attempt)
            return False
        deltas = await attempt.read()
        if attempt.interrupted:
            return await self._interrupted()
        self._take(deltas)
        if attempt.failure is not None:
            self._failure = attempt.failure
            self._flush(cut=True)
            await self._close(State.OPEN)
        elif attempt.ended or self._cut_here:
            limit = self.finish is not None and self.finish.reason in _CUT_BY_LIMIT
            self._flush(cut=limit)
            self._show_due_prefill()
            self._exhausted = True
            if self._cut_here:
                # the host would go on past the stop sequence: end it before the last text is handed out
                await self._close(State.OPEN)
        return True

    async def _open(self, step: Step) -> bool:
        self._seam = Seam(step.known, **step.rules)
        self._stop = StopStage(step.stop) if step.stop else None
        self.transport = self._make_transport()
        self._attempt = attempt = Attempt(step, self.target, self.transport, self._ask.timeouts)
        self.state = State.OPEN
        _live.add(self)
        try:
            await attempt.open()
        except AprefillError:
            if not attempt.interrupted:
                raise
        if attempt.interrupted:
            return await self._interrupted()
        self._accepted_at = time.perf_counter()
        self._accepted = True
        if self.want_events:
            self.items.append(AttemptStarted(number=1, mode=step.mode, support=step.support))
        if self._ask.shown:
            if step.show_when == "accepted":
                self._show_prefill()
            elif step.show_when == "decided":
                self._lead_due = True
        return True

    async def _interrupted(self) -> bool:
        await self._close(State.CLOSED)
        return self._closed()

    def _closed(self) -> bool:
        """What a reader finds after the reply was ended under it: a quiet end after `cancel()`, else an error."""
        if self.finish is None or self.finish.reason is not StopReason.CANCELLED:
            raise ReplyClosed
        return False

    async def _finish(self, attempt: Attempt) -> None:
        if attempt.ended and not self._cut_here:
            await attempt.drain()
        await self._close(State.DONE)

    # --- splicing ---------------------------------------------------------------------------------------------

    def _take(self, deltas: list[Delta]) -> None:
        """Run one read's deltas through the seam and the stop stage into `items`."""
        if not deltas:
            return
        before = len(self.items)
        feed = self._seam.feed
        append = self.items.append
        stop = self._stop
        for delta in deltas:
            if type(delta) is TextDelta:
                piece = delta.text
                if not piece:
                    continue
                if not self._text_delta_at:
                    self._stamp_text_delta()
                text = feed(piece)
                if stop is not None:
                    text = stop.feed(text)
                    if stop.fired is not None:
                        self._put(text)
                        self._stopped(stop.fired)
                        break
                if text:
                    if not self._text_at:
                        self._put(text)
                    else:
                        append(text)
            elif self._other(delta):
                break
        self._coalesce(before)

    def _put(self, text: str) -> None:
        """Append new text, after the prefill if that is due. The first of it is checked and timed here."""
        if not text:
            return
        if not self._text_at:
            step = self._step
            assert step is not None
            if step.echo_required and self._seam.verdict is Verdict.ABSENT:
                raise PrefillIgnored(step.call.model)
            self._text_at = time.perf_counter()
            self._show_due_prefill()
        self.items.append(text)

    def _other(self, delta: Delta) -> bool:
        """Take a delta that is not text; True if nothing after it counts."""
        match delta:
            case ReasoningDelta() if delta.text:
                self._stamp_token()
                if self.want_events:
                    self.items.append(ReasoningEvent(delta.text))
            case ToolDelta():
                self._stamp_token()
                if self.want_events:
                    self.items.append(ToolEvent(delta.index, delta.id, delta.name, delta.arguments))
            case UsageDelta():
                self.usage = delta.usage
            case FinishDelta():
                self.finish = delta
            case _:
                return False
        return False

    def _stopped(self, sequence: str) -> None:
        self.finish = FinishDelta(StopReason.STOP_SEQUENCE, "stop", sequence)
        self._cut_here = True

    def _flush(self, *, cut: bool) -> None:
        """Close the seam and the stop stage; what they give up is the last text."""
        before = len(self.items)
        if not self._cut_here:
            tail = self._seam.close(cut)
            stop = self._stop
            if stop is not None:
                tail = stop.feed(tail)
                if stop.fired is not None:
                    self._stopped(stop.fired)
                else:
                    tail += stop.close()
            self._put(tail)
        if self.want_events and (report := self.report()) is not None:
            self.items.append(AttemptEnded(report))
        self._coalesce(before)

    def _show_due_prefill(self) -> None:
        if self._lead_due:
            self._lead_due = False
            self._show_prefill()

    def _show_prefill(self) -> None:
        self.lead_at = len(self.items)
        self._lead_length = len(self._ask.shown)
        self.items.append(self._ask.shown)

    def _coalesce(self, start: int) -> None:
        if self._ask.coalesce and not self.want_events and len(self.items) - start > 1:
            if self.lead_at > start:
                self.lead_at = start
            self.items[start:] = ["".join(item for item in self.items[start:] if isinstance(item, str))]

    def _stamp_text_delta(self) -> None:
        self._text_delta_at = time.perf_counter()
        self._stamp_token()

    def _stamp_token(self) -> None:
        if not self._token_at:
            self._token_at = time.perf_counter()

    # --- ending -----------------------------------------------------------------------------------------------

    async def _close(self, state: State) -> None:
        self.state = state
        if not self._over_at:
            self._over_at = time.perf_counter()
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
        if self.state is State.OPEN:
            assert self._attempt is not None
            self.state = State.CLOSED
            self._attempt.kill()
            with anyio.move_on_after(CLOSE_S, shield=True):
                await self._close(State.CLOSED)
        elif self.state is State.NEW:
            self.state = State.CLOSED

    def drop(self) -> None:
        """End it now, from a finaliser: shut the socket down, leave the rest to the loop. Raises nothing.

        A reply of which nobody has asked for a chunk yet stays as it is.
        """
        if self.state is State.NEW and self._step is not None:
            self.state = State.CLOSED
        if self.state is not State.OPEN:
            return
        self.state = State.CLOSED
        attempt = self._attempt
        assert attempt is not None
        attempt.kill()
        spawn(attempt.loop, self._close_quietly)

    async def _close_quietly(self) -> None:
        try:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await self._close(State.CLOSED)
        except Exception:  # noqa: S110 - nobody waits for this; the socket is shut down already
            pass

    def cancel(self) -> None:
        """End it from another task of the same loop; its reader's loop ends as if the reply had ended."""
        if self.state in {State.DONE, State.CLOSED}:
            return
        self.finish = FinishDelta(StopReason.CANCELLED, "cancelled")
        if self._pulling and self._attempt is not None:
            self._attempt.interrupt()
        elif self.state is State.NEW:
            self.state = State.CLOSED
        else:
            self.drop()

    # --- what is known ----------------------------------------------------------------------------------------

    @property
    def offset(self) -> int:
        """Characters of the reply handed out so far, the prefill counted whole."""
        return max(len(self.text_so_far), len(self._ask.prefill))

    def with_text(self, error: AprefillError) -> AprefillError:
        error.text_so_far = self.text_so_far
        return error

    @property
    def text_so_far(self) -> str:
        if not (self._accepted or self.lead_at >= 0):
            return ""
        handed = self.items[: self.next]
        parts = [self._ask.prefill]
        for at, item in enumerate(handed):
            if isinstance(item, str):
                parts.append(item[self._lead_length :] if at == self.lead_at else item)
        return "".join(parts)

    @property
    def verdict(self) -> Verdict:
        return self._seam.verdict

    @property
    def mode(self) -> str | None:
        return None if self._step is None else self._step.mode

    @property
    def support(self) -> Support | None:
        return None if self._step is None else self._step.support

    def report(self) -> AttemptReport | None:
        step, attempt, finish = self._step, self._attempt, self.finish
        if step is None or attempt is None:
            return None
        return AttemptReport(
            number=1,
            provider=step.row.provider,
            model=step.call.model,
            mode=step.mode,
            support=step.support,
            verdict=self._seam.verdict,
            status=attempt.status,
            request_id=attempt.request_id,
            usage=self.usage,
            stop_reason=None if finish is None else finish.reason,
            raw_stop_reason=None if finish is None else finish.raw,
            stop_sequence=None if finish is None else finish.sequence,
            received_bytes=attempt.received_bytes,
        )

    def timing(self) -> Timing:
        def since(moment: float) -> float | None:
            return moment - self._began if moment else None

        return Timing(
            accepted_s=since(self._accepted_at),
            first_token_s=since(self._token_at),
            first_text_s=since(self._text_at),
            held_s=self._text_at - self._text_delta_at if self._text_at else None,
            total_s=since(self._over_at),
        )

    def message(self) -> Message:
        text = self.text_so_far
        if self._attempt is None:
            return {"role": "assistant", "content": text}
        return self._attempt.decoder.message(text)


class Cursor:
    """What one `async for` over the text holds. Dropping the last one of a reply that nobody owns closes it."""

    __slots__ = ("_ended", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ended = False
        run.cursors += 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        run = self._run
        while True:
            if run.next == len(run.items) and (self._ended or not await run.pull()):
                self._ended = True
                raise StopAsyncIteration
            item = run.items[run.next]
            run.next += 1
            if type(item) is str:
                return item

    async def aclose(self) -> None:
        """End the reply, as an async generator's `aclose` would."""
        await self._run.aclose()

    def __del__(self) -> None:
        run = self._run
        run.cursors -= 1
        if run.cursors == 0 and not run.owned:
            run.drop()


class EventCursor(Cursor):
    """What one `async for` over `events()` holds."""

    __slots__ = ("_offset",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._offset = run.offset

    async def __anext__(self) -> Event:  # type: ignore[override]
        run = self._run
        if run.next == len(run.items) and (self._ended or not await run.pull()):
            self._ended = True
            raise StopAsyncIteration
        at = run.next
        item = run.items[at]
        run.next += 1
        if not isinstance(item, str):
            return item
        if at == run.lead_at:
            return TextEvent(item, self._offset - len(item), prefill=True)
        self._offset += len(item)
        return TextEvent(item, self._offset - len(item))


class Reply:
    """One reply, streamed. Iterate it once, or use it as an async context manager to keep it over several loops.

    Nothing is sent before the first chunk is asked for. Leaving the loop early in any way, or cancelling the task,
    closes the provider's connection at once; so do `aclose()`, `cancel()`, and the end of `async with`. What is
    known is on the attributes, during the stream as far as known and after it.

    Not possible, and why: an iterator made by hand (`it = aiter(reply)`) closes when it is dropped, not when it is
    idle; on PyPy, and for reference cycles, dropping means the next collection; over HTTP/2 the connection is
    shared, so it is the stream that ends, a moment later.
    """

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def __aiter__(self) -> AsyncIterator[str]:
        self._check_fresh()
        return Cursor(self._run)

    def events(self) -> AsyncIterator[Event]:
        """Typed events in place of bare text: text with offsets, reasoning, tool calls, attempts.

        Text is never joined here, whatever `coalesce` says.
        """
        self._check_fresh()
        self._run.want_events = True
        return EventCursor(self._run)

    def _check_fresh(self) -> None:
        run = self._run
        if run.state is State.DONE and not run.owned and run.next == len(run.items):
            raise run.with_text(ReplyConsumed())

    async def text(self) -> str:
        """The whole reply, prefill included and whatever `show_when` says. Runs the stream to its end first.

        Raises what went wrong, with `text_so_far`; `ReplyClosed` for a reply that was left or cancelled.
        """
        run = self._run
        run.next = len(run.items)
        while run.state is not State.DONE:
            if not await run.pull() and run.state is State.CLOSED:
                raise run.with_text(ReplyClosed())
            run.next = len(run.items)
        return run.text_so_far

    def cancel(self) -> None:
        """End the reply from any task of its loop, at once and without awaiting.

        A loop that is reading it ends quietly, `stop_reason` is `StopReason.CANCELLED`; a waiting `text()` raises
        `ReplyClosed`.
        """
        self._run.cancel()

    async def aclose(self) -> None:
        """End the reply and release its connection. Idempotent; shielded from cancellation, at most a second."""
        await self._run.aclose()

    async def __aenter__(self) -> Self:
        self._run.owned = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._run.aclose()
        self._run.owned = False

    def __del__(self) -> None:
        run = self._run
        if run.owned and run.state is State.OPEN:
            warnings.warn(f"{self!r} was dropped inside its `async with`", ResourceWarning, stacklevel=2, source=self)
            run.drop()

    def __repr__(self) -> str:
        run = self._run
        target = run.target
        return (
            f"<Reply {target.row.provider}:{target.model} {run.state.value}, {run.verdict.value}, "
            f"{len(run.text_so_far)} characters>"
        )

    @property
    def text_so_far(self) -> str:
        """The reply as far as it was handed out, the prefill first; ``""`` before the host accepted the request."""
        return self._run.text_so_far

    @property
    def verdict(self) -> Verdict:
        """What the first attempt's seam found."""
        return self._run.verdict

    @property
    def mode(self) -> str | None:
        """How the first attempt carried the prefill: "native", or "none" without one; None before it began."""
        return self._run.mode

    @property
    def support(self) -> Support | None:
        """What the host does with a prefill, as the first attempt took it; None before it began."""
        return self._run.support

    @property
    def attempts(self) -> tuple[AttemptReport, ...]:
        """A report a request, the first one first."""
        report = self._run.report()
        return () if report is None else (report,)

    @property
    def usage(self) -> Usage | None:
        """Tokens, summed over the attempts; None: the host has not said."""
        return self._run.usage

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the model stopped; None: it has not, or the host did not say."""
        finish = self._run.finish
        return None if finish is None else finish.reason

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that was met, where known."""
        finish = self._run.finish
        return None if finish is None else finish.sequence

    @property
    def timing(self) -> Timing:
        """When things happened."""
        return self._run.timing()

    @property
    def message(self) -> Message:
        """The assistant turn for the next request: the text whole, prefill included; tool calls; signed thinking."""
        return self._run.message()

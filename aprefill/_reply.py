"""The reply: what `stream()` returns.

Three objects, so that leaving early in any way closes the provider's connection (measured, and tested):

- `Reply` is what the caller holds.
- a *cursor* is what one `async for` holds. Only the loop's stack refers to it, so `break`, `return`, an exception
  or a cancel in the body drops it at that instant, even while the reply or a traceback is kept; its finaliser
  shuts the socket down.
- the *run* (`_engine.run`) owns the connection and the text. It refers to neither of the others, and is held by a module
  while its connection is open, so that nothing is collected half closed.
"""

# Imported at run time, so that `typing.get_type_hints` works on what is public.
# ruff: noqa: TC001, TC003
from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import takewhile
from types import TracebackType
from typing import Any, NoReturn, Self, cast
from weakref import ref

from ._deltas import Message
from ._engine.deadline import task_getter
from ._engine.phases import Phase
from ._engine.run import Run, read_to_end
from ._errors import ReplyConsumed
from ._events import AttemptReport, Event, HeldEvent, TextEvent, Timing
from ._loops import native_loop
from ._types import StopReason, Support, Usage, Verdict


def _no_task() -> None:
    """In place of a loop's own function, before the loop is known."""


class Cursor:
    """What one `async for` over the text holds. Dropping it while it reads a reply that nobody owns ends that reply."""

    __slots__ = ("_current_task", "_ended", "_readers", "_run", "_transcript")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._readers = run.readers
        self._transcript = run.transcript
        self._ended = False
        self._current_task: Callable[[], Any] = _no_task

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._readers.now != id(self):
            self._begin()
        transcript = self._transcript
        while True:
            at = transcript.next
            if at == len(transcript.items):
                self._readers.task = ref(self._current_task())
                if not await self._run.pull():
                    self._end()
            item = transcript.items[at]
            transcript.next = at + 1
            if type(item) is str:
                return item

    def _begin(self) -> None:
        """Become the reply's reader. Raises `UsageError` while there is another one."""
        if self._ended:
            raise StopAsyncIteration
        self._current_task = task_getter(native_loop())
        self._readers.claim(id(self), self._current_task())

    def _end(self) -> NoReturn:
        self._ended = True
        self._readers.let_go(id(self))
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the reply, as an async generator's `aclose` would."""
        await self._run.aclose()

    def __del__(self) -> None:
        run = self._run
        if self._readers.let_go(id(self)) and not run.owned:
            # at interpreter exit half of the modules are gone, and a finaliser must not raise
            with suppress(Exception):
                run.drop()


class Events:
    """Makes events of what is in the transcript, for one loop over `events()`."""

    __slots__ = ("_coalesce", "_held", "_offset", "_transcript")

    def __init__(self, run: Run, *, coalesce: bool | None, held: bool) -> None:
        self._transcript = run.transcript
        # where the next new text begins in the whole reply
        self._offset = max(len(run.transcript.text_so_far), run.transcript.prefill_length)
        self._coalesce = run.request.coalesce if coalesce is None else coalesce
        self._held = held

    def begin(self) -> None:
        """From now on the transcript keeps events."""
        self._transcript.wants_events = True
        self._transcript.wants_held = self._held

    def take(self, at: int) -> Event | None:
        """Hand out the item at `at`, perhaps with some behind it; None: it is of a kind that was not asked for."""
        transcript = self._transcript
        item = transcript.items[at]
        transcript.next = at + 1
        if not isinstance(item, str):
            if type(item) is not HeldEvent:
                return item
            if not self._held:
                return None  # an earlier loop asked for these, this one did not
            if self._coalesce:
                following = takewhile(lambda other: type(other) is HeldEvent, transcript.items[at + 1 :])
                for other in cast("Iterator[HeldEvent]", following):
                    item = HeldEvent(item.text + other.text, item.more) if other.more else other
                    transcript.next += 1
            return item
        if at == transcript.lead_at:
            return TextEvent(item, self._offset - len(item), prefill=True)
        if self._coalesce:
            # all that is here came in one read: the next one is asked for when this is handed out
            texts = [*takewhile(lambda other: isinstance(other, str), transcript.items[at:])]
            transcript.next = at + len(texts)
            item = "".join(cast("list[str]", texts))
        self._offset += len(item)
        return TextEvent(item, self._offset - len(item))


class EventCursor(Cursor):
    """What one `async for` over `events()` holds."""

    __slots__ = ("_events",)

    def __init__(self, run: Run, events: Events) -> None:
        super().__init__(run)
        self._events = events

    async def __anext__(self) -> Event:  # type: ignore[override]  # the same loop over another kind of item
        if self._readers.now != id(self):
            self._begin()
        transcript = self._transcript
        self._events.begin()
        while True:
            at = transcript.next
            if at == len(transcript.items):
                self._readers.task = ref(self._current_task())
                if not await self._run.pull():
                    self._end()
            event = self._events.take(at)
            if event is not None:
                return event


class Known:
    """What is known of a reply, during the stream as far as known and after it."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def _check_fresh(self) -> None:
        run = self._run
        if run.phase is Phase.DONE and not run.owned and run.transcript.next == len(run.transcript.items):
            raise run.transcript.put_on(ReplyConsumed())

    def __repr__(self) -> str:
        run = self._run
        target = run.target
        return (
            f"<{type(self).__name__} {target.row.provider}:{target.model} {run.phase.value}, {run.ledger.verdict.value}, "
            f"{len(run.transcript.text_so_far)} characters>"
        )

    @property
    def text_so_far(self) -> str:
        """The reply as far as it was handed out, the prefill first; ``""`` before the host accepted the request.

        Each time it is read after new text it is a copy of the whole text. Reading it after every chunk is cheap as long
        as earlier copies are not kept.
        """
        return self._run.transcript.text_so_far

    @property
    def verdict(self) -> Verdict:
        """What the seam found, of the attempt that the text is from."""
        return self._run.ledger.verdict

    @property
    def mode(self) -> str | None:
        """How the prefill was carried, of the attempt that the text is from: "native", "emulated", or "none" without one.

        None before the first request. What other requests there were is in `attempts`.
        """
        plan = self._run.requests.plan
        return None if plan is None else plan.mode

    @property
    def support(self) -> Support | None:
        """What the host does with a prefill, as the attempt took it that the text is from; None before the first."""
        plan = self._run.requests.plan
        return None if plan is None else plan.support

    @property
    def closes_at_once(self) -> bool | None:
        """Whether leaving the reply shuts its connection down at once; None before the host accepted the request.

        False where only an asynchronous close is possible, which the loop does soon after: over HTTP/2, where a
        shutdown would cut the other replies on the connection, and where there is no socket, as behind a mock, an
        ASGI transport or the demo model.
        """
        return self._run.connection.closes_at_once

    @property
    def attempts(self) -> tuple[AttemptReport, ...]:
        """A report a request, the first one first."""
        return self._run.ledger.reports()

    @property
    def usage(self) -> Usage | None:
        """Tokens, summed over the attempts; None: the host has not said."""
        return self._run.ledger.usage

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the model stopped; None: it has not, or the host did not say."""
        finish = self._run.ledger.finish
        return None if finish is None else finish.reason

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that was met, where known."""
        finish = self._run.ledger.finish
        return None if finish is None else finish.sequence

    @property
    def timing(self) -> Timing:
        """When things happened."""
        return self._run.ledger.timing()

    @property
    def message(self) -> Message:
        """The assistant turn for the next request: the text whole, prefill included; tool calls; signed thinking."""
        return self._run.ledger.message()


class Reply(Known):
    """One reply, streamed. Iterate it once, or use it as an async context manager to keep it over several loops.

    It has one reader at a time, a loop or a `text()`. A second one gets a `UsageError` while the first one has neither
    ended nor been dropped, and the first one goes on.

    Nothing is sent before the first chunk is asked for. Leaving the loop early in any way, or cancelling the task,
    closes the provider's connection at once; so do `aclose()`, `cancel()`, and the end of `async with`. What is
    known is on the attributes, during the stream as far as known and after it.

    Not possible, and why: an iterator made by hand (`it = aiter(reply)`) closes when it is dropped, not when it is
    idle; on PyPy, and for reference cycles, dropping means the next collection; over HTTP/2 (only with a `client` of
    yours) the connection is shared and httpx resets no stream, so the provider goes on to the reply's end.
    """

    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[str]:
        self._check_fresh()
        return Cursor(self._run)

    def events(self, *, coalesce: bool | None = None, held: bool = False) -> AsyncIterator[Event]:
        """Typed events in place of bare text: text with offsets, reasoning, tool calls, attempts.

        With `coalesce` the text of one network read is one event, as far as nothing else came in between; so is what
        is held. The prefill stays one of its own. None: as `coalesce` of the reply says. With `held` there are also `HeldEvent`s:
        the model's text that is not handed out yet, for a page that greys it or a log of what the model really wrote
        first. Begun in the middle of a reply, they tell of what comes from then on.
        """
        self._check_fresh()
        return EventCursor(self._run, Events(self._run, coalesce=coalesce, held=held))

    async def text(self) -> str:
        """The whole reply, prefill included and whatever `show_when` says. Runs the stream to its end first.

        Raises what went wrong, with `text_so_far`; `ReplyClosed` for a reply that was left or cancelled; `UsageError`
        while another task reads the reply. It may be called in the body of a loop over the reply: which task reads a loop
        is what counts, not where the loop was made.
        """
        run = self._run
        if run.phase is Phase.DONE:
            # all of it was handed out
            return run.transcript.text_so_far
        reader = object()
        run.readers.claim(id(reader), task_getter(native_loop())(), joins_task=True)
        try:
            return await read_to_end(run)
        finally:
            run.readers.let_go(id(reader))

    def cancel(self) -> None:
        """End the reply from any task of its loop, at once and without awaiting.

        A loop that is reading it ends quietly, `stop_reason` is `StopReason.CANCELLED`; a waiting `text()` raises
        `ReplyClosed`.
        """
        self._run.cancel()

    async def aclose(self) -> None:
        """End the reply and release its connection. Idempotent; shielded from cancellation, at most a second.

        Of a reply that has not begun, nothing is sent any more.
        """
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
        if run.owned and run.phase not in {Phase.NEW, Phase.DONE, Phase.CLOSED}:
            warnings.warn(f"{self!r} was dropped inside its `async with`", ResourceWarning, stacklevel=2, source=self)
            run.drop()

"""The reply that `stream()` returns.

It consists of three objects. This makes sure that leaving a reply early, in any way, closes the provider's connection:

- `Reply` is the object that the caller holds.
- A *cursor* is the iterator of one `async for` loop. Only the loop's stack refers to it. So `break`, `return`, an
  exception or a cancellation in the loop body drops the cursor at once, even while the reply or a traceback is kept.
  The cursor's finalizer shuts down the socket.
- The *run* (`_engine.run`) owns the connection and the text. It refers to neither of the others. A module-level dict
  holds the run while its connection is open, so that it is not garbage collected before the connection is closed.
"""

# These names are imported at run time, so that `typing.get_type_hints` works on the public classes.
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
    """Placeholder for the loop's `current_task`, until the loop is known."""


class Cursor:
    """The iterator of one `async for` over the text. Dropping it ends the reply if no `async with` holds the reply."""

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
        """Become the reader of the reply. Raises `UsageError` while there is another reader."""
        if self._ended:
            raise StopAsyncIteration
        self._current_task = task_getter(native_loop())
        self._readers.claim(id(self), self._current_task())

    def _end(self) -> NoReturn:
        self._ended = True
        self._readers.let_go(id(self))
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the reply, like `aclose` of an async generator."""
        await self._run.aclose()

    def __del__(self) -> None:
        run = self._run
        if self._readers.let_go(id(self)) and not run.owned:
            # At interpreter exit some modules are gone already, and a finalizer must not raise.
            with suppress(Exception):
                run.drop()


class Events:
    """Makes events from the items of the transcript, for one loop over `events()`."""

    __slots__ = ("_coalesce", "_held", "_offset", "_transcript")

    def __init__(self, run: Run, *, coalesce: bool | None, held: bool) -> None:
        self._transcript = run.transcript
        # The position of the next new text in the whole reply.
        self._offset = max(len(run.transcript.text_so_far), run.transcript.prefill_length)
        self._coalesce = run.request.coalesce if coalesce is None else coalesce
        self._held = held

    def begin(self) -> None:
        """Make the transcript keep events from now on."""
        self._transcript.wants_events = True
        self._transcript.wants_held = self._held

    def take(self, at: int) -> Event | None:
        """Take the item at `at`, and maybe some after it, as one event. None if this loop did not ask for this kind."""
        transcript = self._transcript
        item = transcript.items[at]
        transcript.next = at + 1
        if not isinstance(item, str):
            if type(item) is not HeldEvent:
                return item
            if not self._held:
                return None  # an earlier loop asked for held text, this loop did not
            if self._coalesce:
                following = takewhile(lambda other: type(other) is HeldEvent, transcript.items[at + 1 :])
                for other in cast("Iterator[HeldEvent]", following):
                    item = HeldEvent(item.text + other.text, item.more) if other.more else other
                    transcript.next += 1
            return item
        if at == transcript.lead_at:
            return TextEvent(item, self._offset - len(item), prefill=True)
        if self._coalesce:
            # Everything here came in one network read. The next read happens only after this is yielded.
            texts = [*takewhile(lambda other: isinstance(other, str), transcript.items[at:])]
            transcript.next = at + len(texts)
            item = "".join(cast("list[str]", texts))
        self._offset += len(item)
        return TextEvent(item, self._offset - len(item))


class EventCursor(Cursor):
    """The iterator of one `async for` over `events()`."""

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


class ReplyFacts:
    """The attributes of a reply. During the stream they have the values known so far, after it the final ones."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def _check_fresh(self) -> None:
        run = self._run
        if run.phase is Phase.DONE and not run.owned and run.transcript.next == len(run.transcript.items):
            raise run.transcript.put_on(ReplyConsumed())

    def __repr__(self) -> str:
        run = self._run
        target = run.requests.target
        return (
            f"<{type(self).__name__} {target.row.provider}:{target.model} {run.phase.value}, "
            f"{run.ledger.verdict.value}, {len(run.transcript.text_so_far)} characters>"
        )

    @property
    def text_so_far(self) -> str:
        """The text yielded so far, with the prefill first. ``""`` until the host accepts the request.

        The prefill is always included as a whole. With ``show_when="now"`` it is there before the request is sent. Each
        access after new text copies the whole text. Access after every chunk is cheap if you do not keep the earlier
        copies.
        """
        return self._run.transcript.text_so_far

    @property
    def verdict(self) -> Verdict:
        """What the model did with the prefill at the start of its text, in the attempt that the text is from."""
        return self._run.ledger.verdict

    @property
    def mode(self) -> str | None:
        """How the attempt that the text is from carried the prefill: "native", "emulated", or "none" without a prefill.

        None before the first request. `attempts` has the modes of the other requests.
        """
        plan = self._run.requests.plan
        return None if plan is None else plan.mode

    @property
    def support(self) -> Support | None:
        """The support assumed for the attempt that the text is from. None before the first request."""
        plan = self._run.requests.plan
        return None if plan is None else plan.support

    @property
    def closes_at_once(self) -> bool | None:
        """Whether leaving the reply closes its connection at once. None before the host has accepted the request.

        False means that only an asynchronous close is possible. The event loop does it soon afterwards. This is so with
        HTTP/2, where a shutdown would cut the other replies on the connection. It is also so if there is no socket:
        with a mock, an ASGI transport or the demo model.
        """
        return self._run.connection.closes_at_once

    @property
    def attempts(self) -> tuple[AttemptReport, ...]:
        """One report per request, oldest first."""
        return self._run.ledger.reports()

    @property
    def usage(self) -> Usage | None:
        """Token counts, summed over all attempts. None if no host reported any."""
        return self._run.ledger.usage

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the model stopped. None if it has not stopped, or if the host did not say why."""
        finish = self._run.ledger.finish
        return None if finish is None else finish.reason

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that ended the reply. None if there was none, or if it is not known."""
        finish = self._run.ledger.finish
        return None if finish is None else finish.sequence

    @property
    def timing(self) -> Timing:
        """Timestamps of the reply, as far as they are known."""
        return self._run.ledger.timing()

    @property
    def message(self) -> Message:
        """The assistant turn for the next request: the whole text with the prefill, tool calls and signed reasoning."""
        return self._run.ledger.message()


class Reply(ReplyFacts):
    """One streamed reply. Iterate it once, or use it as an async context manager to read it in several loops.

    Nothing is sent before the first chunk is requested. Leaving the loop early in any way, or cancelling the task,
    closes the provider's connection at once. So do `aclose()`, `cancel()` and the end of an `async with` block. The
    attributes can be read during the stream and after it.

    A reply has one reader at a time: a loop or a call of `text()`. A second reader gets a `UsageError` until the first
    one has ended or was dropped. The first reader is not disturbed.

    Limitations:

    - An iterator that you made yourself (`it = aiter(reply)`) closes the connection when it is dropped, not when it is
      idle.
    - On PyPy, and in reference cycles, an object is dropped at the next garbage collection.
    - Over HTTP/2, which needs a `client` of yours, several replies share one connection, and httpx does not reset
      single streams. So the provider continues to the end of the reply.
    """

    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[str]:
        self._check_fresh()
        return Cursor(self._run)

    def events(self, *, coalesce: bool | None = None, held: bool = False) -> AsyncIterator[Event]:
        """Iterate over typed events instead of plain text: text with offsets, reasoning, tool calls, attempts.

        With `coalesce`, consecutive text of one network read is one event, and so is consecutive held text. The prefill
        stays a separate event. The default, None, is the `coalesce` setting of the reply. With `held` there is also a
        `HeldEvent` for model text that is held back, for example to show it in grey, or to log what the model really
        wrote. A loop that starts in the middle of a reply yields only the events from then on.
        """
        self._check_fresh()
        return EventCursor(self._run, Events(self._run, coalesce=coalesce, held=held))

    async def text(self) -> str:
        """Return the whole reply, after reading the stream to its end. It has the prefill, whatever `show_when` says.

        Raises the error of the stream, with `text_so_far`. Raises `ReplyClosed` if the reply was left early or
        cancelled, and `UsageError` while another task reads the reply. A call from the body of a loop over the same
        reply is allowed. The task that runs the loop counts, not the one that created its iterator.
        """
        run = self._run
        if run.phase is Phase.DONE:
            # Everything has been yielded.
            return run.transcript.text_so_far
        reader = object()
        run.readers.claim(id(reader), task_getter(native_loop())(), joins_task=True)
        try:
            return await read_to_end(run)
        finally:
            run.readers.let_go(id(reader))

    def cancel(self) -> None:
        """End the reply at once, without awaiting. Can be called from any task of the reply's event loop.

        A loop that reads the reply ends normally, and `stop_reason` is `StopReason.CANCELLED`. A waiting `text()`
        raises `ReplyClosed`.
        """
        self._run.cancel()

    async def aclose(self) -> None:
        """End the reply and release its connection. Idempotent. Shielded from cancellation, for at most a second.

        If the reply has not begun, its request is never sent.
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

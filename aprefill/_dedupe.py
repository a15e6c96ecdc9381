"""`dedupe`: turns any stream of text into one that contains the prefill exactly once, without the rest of the SDK."""

# Imported at run time, so that `typing.get_type_hints` works on what is public.
# ruff: noqa: TC003
from __future__ import annotations

import inspect
import sys
import warnings
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import Any, Literal, TypeAlias, TypeVar

from ._errors import UsageError
from ._seam.seam import Echo, Seam, Verdict
from ._seam.stage import TextStage

#: When the prefill is yielded.
DedupeShowWhen: TypeAlias = Literal["now", "decided", "never"]
_Iterator = TypeVar("_Iterator")


def dedupe(
    chunks: AsyncIterable[str | None],
    prefill: str,
    *,
    echo: Echo = "maybe",
    whitespace: bool = False,
    fence: bool = False,
    preamble: int = 0,
    show_when: DedupeShowWhen = "decided",
) -> Deduped:
    """Return an async iterator of `prefill` and the new text in `chunks`, whether or not they repeat the prefill.

    None and empty chunks are skipped, and no empty str is yielded. `echo`, `whitespace`, `fence` and `preamble` say
    which repetitions of the prefill are recognized. They are the arguments of `Seam`, and `docs/seam.md` has the rules.
    The prefill is always yielded as a chunk of its own. `show_when` says when: "now" is before the first chunk is
    requested, "decided" is before the first new text and at the latest at the end, and "never" does not yield the
    prefill. Wrong arguments raise UsageError at the call.

    An exception from `chunks` counts as a cut. Text that may have been a repetition is dropped, nothing more is
    yielded, and the exception is raised to the caller. If no new text came before it, "decided" does not yield the
    prefill either.

    `chunks` is closed with its `aclose()`, or with its `close()` if it has no `aclose()`. This happens at the end,
    after an exception, on `aclose()`, and when an `async for` over the result is left early, even if the result is
    still referenced. Leaving a loop cannot await anything. So a source whose closing must be awaited is closed a tick
    later by the running event loop (on trio in a cancelled scope), and not at all if the event loop has ended. Where
    objects outlive their last reference (PyPy, reference cycles), leaving is noticed at the next garbage collection.
    `async with contextlib.aclosing(dedupe(...))` has none of these limits.

    >>> import asyncio
    >>> async def chunks():
    ...     for chunk in ("", None, "abc", "def"):
    ...         yield chunk
    >>> async def listed():
    ...     return [chunk async for chunk in dedupe(chunks(), "abc")]
    >>> asyncio.run(listed())
    ['abc', 'def']
    """
    if not hasattr(chunks, "__aiter__"):
        raise UsageError(
            f"chunks is of type {type(chunks).__name__}, which is not an async iterable",
            "use dedupe_sync() for a plain iterable",
        )
    return Deduped(chunks, _Splice(prefill, show_when, echo, whitespace, fence, preamble))


def dedupe_sync(
    chunks: Iterable[str | None],
    prefill: str,
    *,
    echo: Echo = "maybe",
    whitespace: bool = False,
    fence: bool = False,
    preamble: int = 0,
    show_when: DedupeShowWhen = "decided",
) -> DedupedSync:
    """Return an iterator of `prefill` and the new text in `chunks`: `dedupe` for plain iterables.

    `chunks` is closed if it has a `close()`. This happens at the end, after an exception, on `close()`, and when a
    `for` over the result is left early.

    >>> list(dedupe_sync(["", None, "abc", "def"], "abc"))
    ['abc', 'def']
    >>> list(dedupe_sync([], "abc"))
    ['abc']
    """
    if not hasattr(chunks, "__iter__"):
        raise UsageError(
            f"chunks is of type {type(chunks).__name__}, which is not an iterable", "use dedupe() for an async iterable"
        )
    return DedupedSync(chunks, _Splice(prefill, show_when, echo, whitespace, fence, preamble))


class _Splice:
    """Turns the source's chunks into the chunks to yield, without waiting. `ready` contains those to yield next."""

    def __init__(
        self, prefill: str, show_when: DedupeShowWhen, echo: Echo, whitespace: bool, fence: bool, preamble: int
    ) -> None:
        if not isinstance(prefill, str):
            raise UsageError(f"prefill is of type {type(prefill).__name__}", "pass a str")
        if show_when not in {"now", "decided", "never"}:
            raise UsageError(f"show_when={show_when!r} is unknown", "pass 'now', 'decided' or 'never'")
        try:
            seam = Seam(prefill, echo=echo, whitespace=whitespace, fence=fence, preamble=preamble)
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from error
        self._stage = TextStage(seam, lead="" if show_when == "never" else prefill)
        self.ready: deque[str] = deque()
        if show_when == "now":
            self._show_prefill()

    @property
    def verdict(self) -> Verdict:
        return self._stage.verdict

    def feed(self, chunk: str | None) -> None:
        if isinstance(chunk, str):
            self._put(self._stage.feed(chunk))
        elif chunk is not None:
            raise UsageError(
                f"a chunk is of type {type(chunk).__name__}, not str or None", "map the stream to its text"
            )

    def end(self) -> None:
        self._put(self._stage.close())
        self._show_prefill()

    def cut(self) -> None:
        self._stage.close(cut=True)

    def _put(self, text: str) -> None:
        if text:
            self._show_prefill()
            self.ready.append(text)

    def _show_prefill(self) -> None:
        if lead := self._stage.take_lead():
            self.ready.append(lead)


class Deduped:
    """The result of `dedupe`: an async iterator of str that closes its source."""

    def __init__(self, chunks: AsyncIterable[str | None], splice: _Splice) -> None:
        self._splice = splice
        self._chunks = chunks
        self._source = _Source(chunks)
        self._next: Callable[[], Any] | None = None
        #: the event loop's function that closes an abandoned async generator in the background (PEP 525)
        self._finalize: Callable[[Any], object] | None = sys.get_asyncgen_hooks().finalizer
        self._ended = False
        self._left = False

    @property
    def verdict(self) -> Verdict:
        """What was found at the start of `chunks`, as far as it is known."""
        return self._splice.verdict

    def __aiter__(self) -> AsyncIterator[str]:
        # A new cursor. Only the `async for` refers to it, so that leaving the loop drops it at once.
        return _Cursor(self)

    async def __anext__(self) -> str:
        ready = self._splice.ready
        while not ready:
            if self._left:
                raise _left_early()
            if self._ended:
                await self._source.aclose()
                raise StopAsyncIteration
            try:
                if self._next is None:
                    self._finalize = sys.get_asyncgen_hooks().finalizer
                    self._next = self._source.iterator(aiter(self._chunks)).__anext__
                self._splice.feed(await self._next())
            except StopAsyncIteration:
                self._ended = True
                self._splice.end()
            except GeneratorExit:  # dropped while waiting, together with its task: nothing can be awaited any more
                self._drop()
                raise
            except BaseException:
                self._ended = True
                self._splice.cut()
                with suppress(Exception):  # the first exception is the one to report
                    await self._source.aclose()
                raise
        return ready.popleft()

    async def aclose(self) -> None:
        """Close the source. Nothing more is yielded."""
        self._ended = True
        self._left = False
        self._splice.ready.clear()
        await self._source.aclose()

    def _drop(self) -> None:
        """Close what can be closed without waiting, and leave the rest to the event loop. Raises nothing."""
        self._left = not self._ended
        self._splice.ready.clear()
        self._source.close_at_once()
        finalize, self._finalize = self._finalize, None
        if self._source.open and finalize is not None:
            with suppress(Exception), warnings.catch_warnings():
                # trio warns about async generators that nobody closed, but this one was left on purpose
                warnings.simplefilter("ignore", ResourceWarning)
                finalize(self._source)

    def __del__(self) -> None:
        self._drop()


class _Cursor:
    __slots__ = ("_of",)

    def __init__(self, of: Deduped) -> None:
        self._of = of

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    def __anext__(self) -> Coroutine[Any, Any, str]:
        return self._of.__anext__()

    def __del__(self) -> None:
        self._of._drop()


class DedupedSync:
    """The result of `dedupe_sync`: an iterator of str that closes its source."""

    def __init__(self, chunks: Iterable[str | None], splice: _Splice) -> None:
        self._splice = splice
        self._chunks = chunks
        self._source = _Source(chunks)
        self._next: Callable[[], str | None] | None = None
        self._ended = False
        self._left = False

    @property
    def verdict(self) -> Verdict:
        """What was found at the start of `chunks`, as far as it is known."""
        return self._splice.verdict

    def __iter__(self) -> Iterator[str]:
        # A new generator per loop, for the same reason as in `Deduped`: it is closed when the loop is left.
        try:
            while True:
                try:
                    text = self.__next__()
                except StopIteration:
                    return
                yield text
        finally:
            self._drop()

    def __next__(self) -> str:
        ready = self._splice.ready
        while not ready:
            if self._left:
                raise _left_early()
            if self._ended:
                self._source.close()
                raise StopIteration
            try:
                if self._next is None:
                    self._next = self._source.iterator(iter(self._chunks)).__next__
                self._splice.feed(self._next())
            except StopIteration:
                self._ended = True
                self._splice.end()
            except BaseException:
                self._ended = True
                self._splice.cut()
                with suppress(Exception):
                    self._source.close()
                raise
        return ready.popleft()

    def close(self) -> None:
        """Close the source. Nothing more is yielded."""
        self._ended = True
        self._left = False
        self._splice.ready.clear()
        self._source.close()

    def _drop(self) -> None:
        self._left = not self._ended
        self._splice.ready.clear()
        with suppress(Exception):
            self._source.close()

    def __del__(self) -> None:
        self._drop()


def _left_early() -> UsageError:
    return UsageError("an earlier loop over this iterator was left early, which closed the source", "use one loop")


class _Source:
    """The objects to close: the iterator, which is closed first, and the caller's iterable. Each is closed once."""

    def __init__(self, chunks: object) -> None:
        self.open = [chunks]

    def iterator(self, iterator: _Iterator) -> _Iterator:
        if iterator is not self.open[0]:
            self.open.append(iterator)
        return iterator

    async def aclose(self) -> None:
        try:
            while self.open:
                thing = self.open.pop()
                close = getattr(thing, "aclose", None) or getattr(thing, "close", None)
                closing = close() if close is not None else None
                if inspect.isawaitable(closing):
                    await closing
        finally:
            if self.open:
                await self.aclose()

    def close(self) -> None:
        try:
            while self.open:
                close = getattr(self.open.pop(), "close", None)
                if close is not None:
                    close()
        finally:
            if self.open:
                self.close()

    def close_at_once(self) -> None:
        """Close the objects that have only a plain `close()`. Those whose closing must be awaited stay open."""
        things, self.open = self.open, []
        for thing in things:
            close = getattr(thing, "close", None)
            if hasattr(thing, "aclose") or inspect.iscoroutinefunction(close):
                self.open.append(thing)
            elif close is not None:
                with suppress(Exception):
                    close()

"""The buffer stage alone: anyone's stream of text, with the prefill in it exactly once."""

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
    """Give an async iterator of `prefill` and what is new in `chunks`, whether or not they repeat the prefill.

    It yields no empty str; None and empty chunks are skipped. The rules are those of `Seam`. `show_when` says when
    the prefill is yielded, always on its own: "now", before the first pull; "decided", ahead of the first new text,
    at the latest at the end; "never". Wrong arguments raise UsageError at the call.

    An exception of `chunks` counts as a cut: what may have been a repetition is dropped, nothing more is yielded
    (while nothing new has come, "decided" keeps the prefill back too), and the exception goes on.

    `chunks` is closed, by its `aclose()` or else its `close()`: at the end, after an exception, by `aclose()`, and
    when an `async for` over this is left early, even if this is still held. Leaving cannot wait: a source whose
    closing must be awaited is closed a tick later by the running loop (in a cancelled scope on trio), and not at all
    once the loop has ended. Where objects outlive their last reference (PyPy, reference cycles), leaving is noticed
    at the next collection. `async with contextlib.aclosing(dedupe(...))` has none of these limits.

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
            f"chunks is no async iterable but of type {type(chunks).__name__}", "dedupe_sync() takes plain iterables"
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
    """Give an iterator of `prefill` and what is new in `chunks`: `dedupe` for plain iterables.

    `chunks` is closed, if it has a `close()`, at the end, after an exception, by `close()`, and when a `for` over this
    is left early.

    >>> list(dedupe_sync(["", None, "abc", "def"], "abc"))
    ['abc', 'def']
    >>> list(dedupe_sync([], "abc"))
    ['abc']
    """
    if not hasattr(chunks, "__iter__"):
        raise UsageError(
            f"chunks is no iterable but of type {type(chunks).__name__}", "dedupe() takes asynchronous ones"
        )
    return DedupedSync(chunks, _Splice(prefill, show_when, echo, whitespace, fence, preamble))


class _Splice:
    """Chunks in, chunks out, no waiting: `ready` is what may be handed out."""

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
                f"chunks are str or None, not of type {type(chunk).__name__}", "map the stream to its text"
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
    """What `dedupe` gives: an async iterator of str that owns its source."""

    def __init__(self, chunks: AsyncIterable[str | None], splice: _Splice) -> None:
        self._splice = splice
        self._chunks = chunks
        self._source = _Source(chunks)
        self._next: Callable[[], Any] | None = None
        #: how the running loop closes a generator that was abandoned, without anyone waiting for it (PEP 525)
        self._finalize: Callable[[Any], object] | None = sys.get_asyncgen_hooks().finalizer
        self._ended = False
        self._left = False

    @property
    def verdict(self) -> Verdict:
        """What stood at the front of `chunks`, as far as it is known."""
        return self._splice.verdict

    def __aiter__(self) -> AsyncIterator[str]:
        # A fresh cursor: only the loop's stack refers to it, so that leaving the loop drops it at that instant.
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
            except GeneratorExit:  # dropped while it waited, with its task: nothing can be awaited any more
                self._drop()
                raise
            except BaseException:
                self._ended = True
                self._splice.cut()
                with suppress(Exception):  # the first exception is the one to tell
                    await self._source.aclose()
                raise
        return ready.popleft()

    async def aclose(self) -> None:
        """Close the source; nothing more is yielded."""
        self._ended = True
        self._left = False
        self._splice.ready.clear()
        await self._source.aclose()

    def _drop(self) -> None:
        """Close what closes without waiting, and leave the rest to the loop. Raises nothing."""
        self._left = not self._ended
        self._splice.ready.clear()
        self._source.close_at_once()
        finalize, self._finalize = self._finalize, None
        if self._source.open and finalize is not None:
            with suppress(Exception), warnings.catch_warnings():
                # trio's, about generators that were forgotten; this one was left on purpose
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
    """What `dedupe_sync` gives: an iterator of str that owns its source."""

    def __init__(self, chunks: Iterable[str | None], splice: _Splice) -> None:
        self._splice = splice
        self._chunks = chunks
        self._source = _Source(chunks)
        self._next: Callable[[], str | None] | None = None
        self._ended = False
        self._left = False

    @property
    def verdict(self) -> Verdict:
        """What stood at the front of `chunks`, as far as it is known."""
        return self._splice.verdict

    def __iter__(self) -> Iterator[str]:
        # a fresh one, as for `Deduped`: a generator closes when the loop that holds it is left
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
        """Close the source; nothing more is yielded."""
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
    return UsageError("an earlier loop over this was left before its end, and that closed the source", "use one loop")


class _Source:
    """What is to be closed: the caller's iterable and, closed first, its iterator. Each is closed once."""

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
        """Close what has nothing but a plain `close()`; what must be awaited stays open."""
        things, self.open = self.open, []
        for thing in things:
            close = getattr(thing, "close", None)
            if hasattr(thing, "aclose") or inspect.iscoroutinefunction(close):
                self.open.append(thing)
            elif close is not None:
                with suppress(Exception):
                    close()

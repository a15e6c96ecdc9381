"""`dedupe` and `dedupe_sync`: a source that raises, and how the source is closed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from aprefill import UsageError, Verdict, dedupe, dedupe_sync

from .support.sources import Boom, Held, Source, gives, gives_sync, listed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator


# --- a source that raises ------------------------------------------------------------------------------------------

CUTS: list[tuple[list[Any], dict[str, Any], list[str]]] = [
    ([Boom()], {}, []),
    ([Boom()], {"show_when": "now"}, ["abc"]),
    (["ab", Boom()], {}, []),
    (["abc", Boom()], {}, []),
    (["abc", "d", Boom()], {}, ["abc", "d"]),
    (["```\nabcd", "\n``", Boom()], {"fence": True}, ["abc", "d"]),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("chunks", "rules", "expected"), CUTS)
async def test_an_exception_counts_as_a_cut(chunks: list[Any], rules: dict[str, Any], expected: list[str]) -> None:
    """An exception of the source is raised unchanged.

    Held text is dropped, and a prefill that is not shown yet is not shown.
    """
    got: list[str] = []
    with pytest.raises(Boom) as caught:
        async for chunk in dedupe(gives(*chunks), "abc", **rules):
            got.append(chunk)
    assert got == expected
    assert caught.value is chunks[-1]
    got.clear()
    with pytest.raises(Boom):
        got.extend(dedupe_sync(gives_sync(*chunks), "abc", **rules))
    assert got in ([], expected)


@pytest.mark.anyio
async def test_after_an_exception_there_is_no_more() -> None:
    """After an exception the iterator is exhausted, and its verdict is `TRUNCATED`."""
    chunks = dedupe(gives("ab", Boom()), "abc")
    with pytest.raises(Boom):
        await anext(chunks)
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)
    assert chunks.verdict is Verdict.TRUNCATED
    sync = dedupe_sync(gives_sync("ab", Boom()), "abc")
    with pytest.raises(Boom):
        next(sync)
    assert (next(sync, "ended"), sync.verdict) == ("ended", Verdict.TRUNCATED)


@pytest.mark.anyio
async def test_the_first_exception_is_the_one_to_tell() -> None:
    """If the source raises and then fails to close, its first exception is raised."""

    class FailsTwice:
        def __aiter__(self) -> FailsTwice:
            return self

        async def __anext__(self) -> str:
            raise Boom

        async def aclose(self) -> None:
            raise OSError

    with pytest.raises(Boom):
        await listed(dedupe(FailsTwice(), "abc"))


# --- closing -------------------------------------------------------------------------------------------------------


class LikeAnSdk(Source):
    """Like the SDKs' `AsyncStream`: `__aiter__` is an async generator, and `close()` is a coroutine function."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        for chunk in self.chunks:
            await anyio.lowlevel.checkpoint()
            yield chunk

    async def close(self) -> None:
        self.note()


class Plain(Source):
    """Like aiohttp's `ClientResponse`: `close()` is a plain function."""

    def close(self) -> None:
        self.note()


class Generator:
    """An async generator that records when it is closed."""

    def __init__(self) -> None:
        self.closed = anyio.Event()
        self.closings = 0

    async def run(self) -> AsyncIterator[str]:
        try:
            for chunk in Source.chunks:
                await anyio.lowlevel.checkpoint()
                yield chunk
        finally:
            self.closings += 1
            self.closed.set()


def held() -> tuple[Any, Any]:
    source = Held()
    return source, source


def like_an_sdk() -> tuple[Any, Any]:
    source = LikeAnSdk()
    return source, source


def generator() -> tuple[Any, Any]:
    source = Generator()
    return source, source.run()


async def to_its_end(chunks: AsyncIterator[str]) -> None:
    async for _ in chunks:
        pass


async def break_at(chunks: AsyncIterator[str], stop: str = "d") -> None:
    async for chunk in chunks:
        if chunk == stop:
            break


async def raise_in_the_body(chunks: AsyncIterator[str]) -> None:
    with pytest.raises(Boom) as caught:
        async for chunk in chunks:
            if chunk == "d":
                raise Boom
    assert caught  # its traceback refers to this frame


async def close_it(chunks: Any) -> None:
    await anext(chunks)
    await chunks.aclose()
    await chunks.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


async def close_it_unused(chunks: Any) -> None:
    await chunks.aclose()


async def leave_a_with(chunks: Any) -> None:
    async with contextlib.aclosing(chunks):
        await break_at(chunks)


async def cancel_in_the_body(chunks: AsyncIterator[str]) -> None:
    with anyio.CancelScope() as scope:
        async for _ in chunks:
            scope.cancel()
            await anyio.lowlevel.checkpoint()


EXITS = [to_its_end, break_at, raise_in_the_body, close_it, leave_a_with, cancel_in_the_body]


@pytest.mark.anyio
@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("make", [held, like_an_sdk, generator])
async def test_leaving_closes_the_source(
    make: Callable[[], tuple[Any, Any]], exit_: Callable[[AsyncIterator[str]], Any]
) -> None:
    """However the loop is left, the source is closed once, although source and iterator are still referenced."""
    source, chunks = make()
    iterator = dedupe(chunks, "abc")
    await exit_(iterator)
    with anyio.fail_after(5):
        await source.closed.wait()
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    assert source.closings == 1


@pytest.mark.anyio
@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("make", [held, like_an_sdk, generator])
async def test_dropping_closes_the_source(make: Callable[[], tuple[Any, Any]]) -> None:
    """If an iterator that was read with `anext` is dropped, its source is closed."""
    source, chunks = make()
    iterator = dedupe(chunks, "abc")
    assert await anext(iterator) == "abc"
    del iterator
    with anyio.fail_after(5):
        await source.closed.wait()
    assert source.closings == 1


@pytest.mark.anyio
@pytest.mark.usefixtures("no_gc")
async def test_an_explicit_close_has_closed_when_it_returns() -> None:
    """`aclose()` returns after the source is closed, even if a loop over it was left before."""
    source, chunks = like_an_sdk()
    async with contextlib.aclosing(dedupe(chunks, "abc")) as iterator:
        await break_at(iterator)
    assert source.closings == 1


@pytest.mark.anyio
async def test_an_iterator_that_was_never_pulled_closes_as_well() -> None:
    """If the iterator was never read, its `aclose()` closes the source."""
    source, chunks = held()
    await close_it_unused(dedupe(chunks, "abc"))
    assert source.closings == 1


@pytest.mark.anyio
@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("make", [held, like_an_sdk, generator])
async def test_cancelled_while_waiting(make: Callable[[], tuple[Any, Any]]) -> None:
    """A cancellation while the source waits closes the source."""
    source, chunks = make()
    with anyio.CancelScope() as scope:
        async for chunk in dedupe(chunks, "abc"):
            if chunk == "d":
                scope.cancel()
    assert scope.cancelled_caught
    with anyio.fail_after(5):
        await source.closed.wait()
    assert source.closings == 1


@pytest.mark.anyio
@pytest.mark.usefixtures("no_gc")
async def test_a_plain_close_is_called_at_once() -> None:
    """If closing the source needs no await, the source is closed when the loop has been left."""

    source = Plain()
    await break_at(dedupe(source, "abc"))
    assert source.closings == 1


@pytest.mark.anyio
async def test_a_second_loop_after_a_break_says_so() -> None:
    """A second loop after a `break` raises `UsageError`, because the source is closed."""
    iterator = dedupe(gives("abc", "d", "e"), "abc")
    await break_at(iterator)
    with pytest.raises(UsageError, match="left early"):
        await listed(iterator)
    sync = dedupe_sync(["abc", "d", "e"], "abc")
    for _ in sync:
        break
    with pytest.raises(UsageError, match="left early"):
        list(sync)


@pytest.mark.anyio
async def test_a_second_loop_after_the_end_is_empty() -> None:
    """A second loop after the end gives no chunks."""
    iterator = dedupe(gives("abc", "d"), "abc")
    assert await listed(iterator) == ["abc", "d"]
    assert await listed(iterator) == []


@pytest.mark.anyio
@pytest.mark.usefixtures("no_gc")
async def test_control_an_async_generator_leaks() -> None:
    """Control: a plain async generator in place of `dedupe` keeps its source open as long as it is referenced."""

    async def naive(chunks: AsyncIterator[str]) -> AsyncGenerator[str, None]:
        async for chunk in chunks:
            yield chunk

    source, chunks = generator()
    iterator = naive(chunks)
    await break_at(iterator)
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    assert not source.closed.is_set()
    await iterator.aclose()
    await chunks.aclose()


class PlainSource:
    """An iterable with a `close()` method."""

    def __init__(self) -> None:
        self.closings = 0

    def __iter__(self) -> Iterator[str]:
        return iter(("abc", "d", "e"))

    def close(self) -> None:
        self.closings += 1


@pytest.mark.usefixtures("no_gc")
def test_sync_leaving_closes_the_source() -> None:
    """The source is closed at once and only once: at the end, on `break`, an exception, `close()`, or when dropped."""
    source = PlainSource()
    list(dedupe_sync(source, "abc"))
    assert source.closings == 1

    source = PlainSource()
    iterator = dedupe_sync(source, "abc")
    for _ in iterator:
        break
    assert source.closings == 1

    source = PlainSource()
    with pytest.raises(Boom):
        for _ in dedupe_sync(source, "abc"):
            raise Boom
    assert source.closings == 1

    source = PlainSource()
    iterator = dedupe_sync(source, "abc")
    next(iterator)
    iterator.close()
    iterator.close()
    assert (source.closings, list(iterator)) == (1, [])

    source = PlainSource()
    iterator = dedupe_sync(source, "abc")
    del iterator
    assert source.closings == 1


@pytest.mark.usefixtures("no_gc")
def test_sync_generators_are_closed_at_once() -> None:
    """A generator that is still referenced is closed when the loop is left."""
    ended = []

    def run() -> Iterator[str]:
        try:
            yield from ("abc", "d", "e")
        finally:
            ended.append(True)

    source = run()
    for _ in dedupe_sync(source, "abc"):
        break
    assert ended == [True]

"""Sources for `dedupe`: iterators that can fail, and that record whether they were closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Boom(Exception):
    """The exception that a source raises."""


async def listed(chunks: AsyncIterator[str]) -> list[str]:
    return [chunk async for chunk in chunks]


async def gives(*chunks: Any) -> AsyncIterator[Any]:
    for chunk in chunks:
        await anyio.lowlevel.checkpoint()
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


def gives_sync(*chunks: Any) -> Iterator[Any]:
    for chunk in chunks:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


class Source:
    """Yields chunks from `__anext__`. Its subclasses differ in how they are closed."""

    chunks: tuple[Any, ...] | list[Any] = ("abc", "d", "e", "f")

    def __init__(self) -> None:
        self.closed = anyio.Event()
        self.closings = 0
        self.left = iter(self.chunks)

    def __aiter__(self) -> AsyncIterator[Any]:
        self.left = iter(self.chunks)
        return self

    async def __anext__(self) -> Any:
        await anyio.lowlevel.checkpoint()
        for chunk in self.left:
            return chunk
        raise StopAsyncIteration

    def note(self) -> None:
        self.closings += 1
        self.closed.set()


class Held(Source):
    """Has `aclose()`, like a response."""

    async def aclose(self) -> None:
        self.note()

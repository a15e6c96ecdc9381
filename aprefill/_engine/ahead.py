"""Reads a response ahead of its reader, up to a limit, for a reader in another thread."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio

from .._loops import spawn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Receiving pauses while this much waits to be read: a number of bytes, and a number of pieces.
AHEAD_BYTES = 16_384
AHEAD_PIECES = 256


class Ahead:
    """Receives in its own task, so that the reader can see what is already there without waiting for more.

    `receive()` works like the response's. An HTTP library returns pieces one by one, even if they arrived together, and
    cannot say whether there is another piece without waiting for it. The task starts with the first `receive()`. It
    ends at the end of the body or with `aclose()`.
    """

    __slots__ = ("_came", "_ended", "_failure", "_loop", "_over", "_pieces", "_receive", "_room", "_scope", "_size")

    def __init__(self, receive: Callable[[], Awaitable[bytes]], loop: Any) -> None:
        self._receive = receive
        self._loop = loop
        self._pieces: deque[bytes] = deque()
        self._size = 0
        # The receiver waits for `_room` while the buffer is full. The reader waits for `_came` while it is empty.
        self._room: anyio.Event | None = None
        self._came: anyio.Event | None = None
        # The cancel scope of the receiver, once it has started, and an event that is set when it has ended.
        self._scope: anyio.CancelScope | None = None
        self._ended: anyio.Event | None = None
        self._over = False
        self._failure: BaseException | None = None

    def has_more(self) -> bool:
        """Whether `receive()` will return without waiting."""
        return bool(self._pieces) or self._over

    async def receive(self) -> bytes:
        """Return the next piece of the body. Raises `StopAsyncIteration` at its end, or the error of the receiver."""
        pieces = self._pieces
        if not pieces:
            if self._ended is None:
                self._begin()
            if self._room is not None:
                self._room.set()
            if not self._over:
                self._came = anyio.Event()
                try:
                    await self._came.wait()
                finally:
                    self._came = None
            if not pieces:
                failure, self._failure = self._failure, None
                raise StopAsyncIteration if failure is None else failure
        piece = pieces.popleft()
        self._size -= len(piece)
        return piece

    def _begin(self) -> None:
        self._ended = anyio.Event()
        self._scope = anyio.CancelScope()
        if not spawn(self._loop, self._run):
            self._over = True
            self._ended.set()

    async def _run(self) -> None:
        assert self._scope is not None
        assert self._ended is not None
        pieces = self._pieces
        try:
            with self._scope:
                while True:
                    piece = await self._receive()
                    pieces.append(piece)
                    self._size += len(piece)
                    if self._came is not None:
                        self._came.set()
                    if self._size >= AHEAD_BYTES or len(pieces) >= AHEAD_PIECES:
                        self._room = anyio.Event()
                        await self._room.wait()
                        self._room = None
        except StopAsyncIteration:
            pass
        except Exception as exc:
            self._failure = exc
        finally:
            self._over = True
            if self._came is not None:
                self._came.set()
            self._ended.set()

    async def aclose(self) -> None:
        """Cancel the task and wait until it has ended."""
        if self._scope is not None and self._ended is not None:
            self._scope.cancel()
            await self._ended.wait()
        self._failure = None

"""The connection of a reply's request: interrupted from anywhere, closed in its own event loop, and waited for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import anyio

from .._loops import CLOSE_S, clock_of, native_loop, spawn_closing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._transports import Transport
    from .attempt import Attempt
    from .run import Run

#: Connections that are not closed yet -> their runs, which nothing else may hold.
live: dict[Connection, Run] = {}

#: So long a session waits for its connections to be closed, also where its replies took the whole second, in seconds.
_CLOSE_AT_LEAST_S = 0.1


async def close_all(transports: Sequence[Transport]) -> None:
    """End all runs that are under way over these transports, side by side, then close those, side by side too.

    Waits for that, in all about a second; what takes longer goes on in tasks of its own.
    """
    open_ones = {connection: run for connection, run in live.items() if connection.transport in transports}
    for run in open_ones.values():
        run.drop()
    deadline = anyio.current_time() + CLOSE_S
    with anyio.CancelScope(deadline=deadline, shield=True):
        for connection in open_ones:
            if connection.closed is not None:
                await connection.closed.wait()
    loop = native_loop()
    closing = [spawn_closing(transport.aclose, loop) for transport in transports]
    with anyio.CancelScope(deadline=max(deadline, anyio.current_time() + _CLOSE_AT_LEAST_S), shield=True):
        for closed in closing:
            if closed is not None:
                await closed.wait()


class Connection:
    """What a run has to close: the attempt under way, or the last one.

    It does not refer to the run. `live` holds both until the connection is closed, so that nothing is collected half closed.
    """

    __slots__ = ("_loop", "_pid", "attempt", "closed", "now", "transport")

    def __init__(self) -> None:
        self.attempt: Attempt | None = None
        self.transport: Transport | None = None
        #: what is set when it is closed; None: nobody closes it yet, or nobody can
        self.closed: anyio.Event | None = None
        #: the clock of the loop in which the reply runs
        self.now: Callable[[], float] = anyio.current_time
        self._loop: Any = None
        # the process that opened the connection: a forked child must leave it alone
        self._pid = 0

    def begin(self, run: Run) -> None:
        """From now on it belongs to this loop and this process."""
        self._loop = native_loop()
        self.now = clock_of(self._loop)
        self._pid = os.getpid()
        live[self] = run

    def use(self, attempt: Attempt, transport: Transport) -> None:
        """An attempt is about to be sent."""
        self.attempt, self.transport, self.closed = attempt, transport, None

    @property
    def closes_at_once(self) -> bool | None:
        """Whether leaving shuts it down at once; None before the host accepted."""
        return None if self.attempt is None else self.attempt.closes_at_once

    def has_more(self) -> bool:
        """Whether more of the answer is here, for which nobody has to wait."""
        return self.attempt is not None and self.attempt.has_more()

    @property
    def is_ours(self) -> bool:
        """Whether this process has opened it."""
        return os.getpid() == self._pid

    def give_up(self) -> None:
        """Close the attempt; another one follows."""
        attempt, self.attempt = self.attempt, None
        assert attempt is not None
        self.closed = spawn_closing(attempt.aclose, self._loop)

    def kill(self) -> None:
        """Shut it down, from any thread. It still has to be closed, in its loop."""
        if self.attempt is not None and self.is_ours:
            self.attempt.kill()

    def interrupt(self) -> None:
        """Make who waits for it come back, and have it closed. From a task of its loop, or a finaliser."""
        if self.attempt is not None:
            self.attempt.interrupt()
            if self.closed is None:
                self.close()
        if self.attempt is None or self.closed is None:
            # between two requests; or the loop is gone, and its sockets with it
            live.pop(self, None)

    def close(self, *, drain_s: float | None = None) -> None:
        """Have it closed in a task of its own, or given back to its pool if its body was read to the end.

        With `drain_s` that is done first, for at most so many seconds, so that it can be used again.
        """
        if drain_s is None:
            self.closed = spawn_closing(self._release, self._loop)
        else:
            self.closed = spawn_closing(self._drain, self._loop, within_s=drain_s + CLOSE_S)

    async def _release(self) -> None:
        try:
            if self.attempt is not None:
                await self.attempt.aclose()
        finally:
            live.pop(self, None)

    async def _drain(self) -> None:
        try:
            if self.attempt is not None:
                await self.attempt.drain()
        finally:
            await self._release()

    def forget_failure(self) -> None:
        """Keep no reference to what the attempt failed with."""
        if self.attempt is not None:
            self.attempt.forget_failure()

    async def wait(self) -> None:
        """Wait until it is closed, at most a second, also when the task is being cancelled."""
        if self.closed is not None:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await self.closed.wait()

    async def wait_turns(self, turns: int) -> None:
        """Wait until it is closed, for at most so many turns of the event loop."""
        while turns and self.closed is not None and not self.closed.is_set():
            # the reply is complete: a cancellation takes nothing of it away
            await anyio.lowlevel.cancel_shielded_checkpoint()
            turns -= 1

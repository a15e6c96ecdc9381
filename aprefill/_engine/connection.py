"""The connection of a reply: it can be interrupted from anywhere, and is closed in its own event loop."""

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

#: Connections that are not closed yet -> their runs. Nothing else may keep these runs alive.
live: dict[Connection, Run] = {}

#: Minimum time that a session waits for its own connections to close, in seconds, even if its replies took all the
#: time.
_CLOSE_AT_LEAST_S = 0.1


async def close_all(transports: Sequence[Transport]) -> None:
    """End all runs that use these transports, at the same time. Then close the transports, at the same time.

    Waits for about a second in total. Whatever takes longer continues in its own tasks.
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
    """The part of a run that must be closed: the current attempt, or the last one.

    It does not refer to the run. `live` keeps both alive until the connection is closed, so that neither is garbage
    collected before.
    """

    __slots__ = ("_loop", "_pid", "attempt", "closed", "now", "transport")

    def __init__(self) -> None:
        self.attempt: Attempt | None = None
        self.transport: Transport | None = None
        #: An event that is set when the connection is closed. None: nobody is closing it yet, or nobody can.
        self.closed: anyio.Event | None = None
        #: The clock of the event loop in which the reply runs.
        self.now: Callable[[], float] = anyio.current_time
        self._loop: Any = None
        # The process that opened the connection. A forked child must leave the connection alone.
        self._pid = 0

    def begin(self, run: Run) -> None:
        """From now on the connection belongs to the current event loop and process."""
        self._loop = native_loop()
        self.now = clock_of(self._loop)
        self._pid = os.getpid()
        live[self] = run

    def use(self, attempt: Attempt, transport: Transport) -> None:
        """Remember an attempt that is about to be sent, and its transport."""
        self.attempt, self.transport, self.closed = attempt, transport, None

    @property
    def closes_at_once(self) -> bool | None:
        """Whether leaving the reply shuts down the connection at once. None before the host has accepted a request."""
        return None if self.attempt is None else self.attempt.closes_at_once

    def has_more(self) -> bool:
        """Whether more of the response can be read without waiting."""
        return self.attempt is not None and self.attempt.has_more()

    @property
    def is_ours(self) -> bool:
        """Whether this process opened the connection."""
        return os.getpid() == self._pid

    def give_up(self) -> None:
        """Close the attempt. Another attempt follows."""
        attempt, self.attempt = self.attempt, None
        assert attempt is not None
        self.closed = spawn_closing(attempt.aclose, self._loop)

    def kill(self) -> None:
        """Shut down the connection, from any thread. It must still be closed in its event loop."""
        if self.attempt is not None and self.is_ours:
            self.attempt.kill()

    def interrupt(self) -> None:
        """Wake up a waiting reader and start closing. Call it from a task of the event loop, or from a finalizer."""
        if self.attempt is not None:
            self.attempt.interrupt()
            if self.closed is None:
                self.close()
        if self.attempt is None or self.closed is None:
            # Either no request is running, or the event loop is gone and its sockets with it.
            live.pop(self, None)

    def close(self, *, drain_s: float | None = None) -> None:
        """Close the connection in a new task. If its body was read to the end, it goes back to its pool instead.

        With `drain_s`, first read the body for at most this many seconds, so that the connection can be reused.
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
        """Drop the reference to the error of the attempt."""
        if self.attempt is not None:
            self.attempt.forget_failure()

    async def wait(self, within_s: float = CLOSE_S) -> None:
        """Wait until the connection is closed, at most a second, even if the task is being cancelled.

        With `within_s`, wait at most this many seconds.
        """
        if self.closed is not None:
            with anyio.move_on_after(min(within_s, CLOSE_S), shield=True):
                await self.closed.wait()

    def wait_no_more(self) -> None:
        """Do not wait any longer for the close of an attempt that was given up. It continues in its own task."""
        self.closed = None

    async def wait_turns(self, turns: int) -> None:
        """Wait until the connection is closed, at most this many turns of the event loop."""
        while turns and self.closed is not None and not self.closed.is_set():
            # Shielded: the reply is already complete, so a cancellation must not interrupt it here.
            await anyio.lowlevel.cancel_shielded_checkpoint()
            turns -= 1

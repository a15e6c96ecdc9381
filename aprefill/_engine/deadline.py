"""Deadlines around network reads that cost a store where a cancel scope would cost ten microseconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .._loops import is_trio

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task, TimerHandle
    from collections.abc import Callable

_NEVER = float("inf")


def task_getter(native: Any) -> Callable[[], Any]:
    """What gives the task that is running in the loop `native`."""
    if is_trio(native):
        import trio

        return trio.lowlevel.current_task
    import asyncio

    return asyncio.current_task


class ReadDeadline:
    """Ends a read of one asyncio connection when its deadline passes, or when somebody asks for it.

    A cancel scope for each read costs most of what the read itself costs (measured: 9 us beside 14 us). Here a read only
    stores its deadline and its task. One loop timer, armed again when it comes too early, calls `kill`, which shuts the
    socket down, and the read ends by itself. Where that fails, the waiting task is cancelled, and `absorbs` tells the
    read that this cancellation was ours.
    """

    __slots__ = ("_armed_for", "_cancelled", "_current_task", "_deadline", "_kill", "_loop", "_task", "_timer", "fired")

    def __init__(self, loop: AbstractEventLoop, kill: Callable[[], bool]) -> None:
        from asyncio import current_task

        self._current_task = current_task
        self._loop = loop
        #: shuts the connection down; False: it could not
        self._kill = kill
        self._timer: TimerHandle | None = None
        self._armed_for = _NEVER
        #: `time.monotonic` seconds; infinity while nobody waits
        self._deadline = _NEVER
        #: the task that waits
        self._task: Task[Any] | None = None
        #: that task was cancelled by `interrupt`
        self._cancelled = False
        #: whether the deadline passed
        self.fired = False

    def start(self, deadline: float) -> None:
        """A read begins that must be over at `deadline`."""
        self._deadline = deadline
        self._task = self._current_task(self._loop)
        if deadline < self._armed_for:
            self._arm(deadline)

    def stop(self) -> None:
        """The read is over."""
        self._deadline = _NEVER
        self._task = None

    def interrupt(self) -> None:
        """End the read that is under way, if there is one."""
        task = self._task
        if not self._kill() and task is not None and not task.cancelling():
            self._cancelled = task.cancel()

    def absorbs(self, exc: BaseException) -> bool:
        """Whether `exc`, with which a read ended, is the cancellation by `interrupt` and nobody else's."""
        task = self._current_task(self._loop)
        if not self._cancelled or task is None or type(exc).__name__ != "CancelledError":
            return False
        self._cancelled = False
        return not task.uncancel()

    def close(self) -> None:
        """Let the timer go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, deadline: float) -> None:
        self.close()
        self._armed_for = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._armed_for = _NEVER
        if self._deadline == _NEVER:
            return
        if time.monotonic() >= self._deadline:
            self.fired = True
            self.interrupt()
        else:
            self._arm(self._deadline)

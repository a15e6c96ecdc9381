"""Deadlines around network reads that cost a store where a cancel scope would cost ten microseconds."""

from __future__ import annotations

import time
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task, TimerHandle
    from collections.abc import Awaitable, Callable, Coroutine

_NEVER = float("inf")

#: How long closing may take, in seconds.
CLOSE_S = 1.0


def native_loop() -> Any:
    """The running event loop: an asyncio loop, or trio's token."""
    token = current_token()
    # anyio before 4.11 gives the loop itself
    return getattr(token, "native_token", token)


def is_trio(native: Any) -> bool:
    """Whether `native_loop()` gave trio's token."""
    return hasattr(native, "run_sync_soon")


def clock_of(native: Any) -> Callable[[], float]:
    """The monotonic clock of the running loop, in seconds. Trio's may be a test's own."""
    return anyio.current_time if is_trio(native) else time.monotonic


def task_getter(native: Any) -> Callable[[], Any]:
    """What gives the task that is running in the loop `native`."""
    if is_trio(native):
        import trio

        return trio.lowlevel.current_task
    import asyncio

    return asyncio.current_task


#: Closing tasks under way: asyncio itself holds its tasks only weakly.
_closing: set[Any] = set()


def spawn(native: Any, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Run `work` in the loop `native` with nobody waiting for it. `work` must not raise, and keep on when cancelled.

    Started at once from the loop's own thread, so that it is under way even if the program's main function returns
    next; from any other thread, soon. False when the loop is gone, or the interpreter is about to be.
    """
    try:
        if is_trio(native):
            _spawn_trio(native, work)
        else:
            _spawn_asyncio(native, work)
    except (RuntimeError, ImportError):
        # the loop is closed, or (trio) closing; nothing can be imported any more
        return False
    return True


def _spawn_asyncio(loop: AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    import asyncio

    def start() -> None:
        task = loop.create_task(work())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    if asyncio._get_running_loop() is loop:
        start()
    else:
        # not in the context of this thread, where trio may be running: anyio would take this loop for trio's
        loop.call_soon_threadsafe(start, context=Context())


def _spawn_trio(token: Any, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    import trio

    def start() -> None:
        # a closed system nursery must not crash the run from within its entry queue
        with suppress(RuntimeError):
            trio.lowlevel.spawn_system_task(work)

    if trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is token:
        start()
    else:
        token.run_sync_soon(start)


def spawn_closing(close: Callable[[], Awaitable[None]], loop: Any, *, within_s: float = CLOSE_S) -> anyio.Event | None:
    """Run `close` in a task of its own and give what is set when it is through; None: the loop is gone.

    After `within_s` it is given up. In its own task, because a second native `Task.cancel()` goes through every shield, and would strand a pool slot
    half closed.
    """
    closed = anyio.Event()

    async def close_quietly() -> None:
        try:
            with anyio.move_on_after(within_s, shield=True):
                await close()
        except Exception:  # noqa: S110 - nobody waits for this; the socket is shut down already
            pass
        finally:
            closed.set()

    return closed if spawn(loop, close_quietly) else None


class Watch:
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

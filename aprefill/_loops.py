"""The differences between event loops: the running loop, its clock, and how to start a task in it from anywhere."""

from __future__ import annotations

import time
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable, Coroutine


#: Timeout for closing, in seconds.
CLOSE_S = 1.0


def native_loop() -> Any:
    """Return the running event loop: an asyncio loop, or a trio token."""
    token = current_token()
    # anyio before 4.11 returns the loop itself.
    return getattr(token, "native_token", token)


def is_trio(native: Any) -> bool:
    """Return whether `native`, a result of `native_loop()`, is a trio token."""
    return hasattr(native, "run_sync_soon")


def clock_of(native: Any) -> Callable[[], float]:
    """Return the monotonic clock of the running loop, in seconds. In tests, trio's clock may be virtual."""
    return anyio.current_time if is_trio(native) else time.monotonic


#: Closing tasks in progress. asyncio itself keeps only weak references to its tasks.
_closing: set[Any] = set()


def spawn(native: Any, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Run `work` in the loop `native` without waiting for it. `work` must not raise and must continue when cancelled.

    From the loop's own thread, `work` is started at once, so that it runs even if the main function of the program
    returns next. From any other thread, it is started soon. Return False if the loop has ended, or if the interpreter
    is shutting down.
    """
    try:
        if is_trio(native):
            _spawn_trio(native, work)
        else:
            _spawn_asyncio(native, work)
    except (RuntimeError, ImportError):
        # The loop is closed, trio is closing, or the interpreter cannot import anything any more.
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
        # Not in this thread's context: trio may be running in it, and anyio would mistake this loop for trio's.
        loop.call_soon_threadsafe(start, context=Context())


def _spawn_trio(token: Any, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    import trio

    def start() -> None:
        # When a trio run is ending, it refuses new system tasks with a RuntimeError. An error in a function that was
        # passed to `run_sync_soon` would crash the whole run.
        with suppress(RuntimeError):
            trio.lowlevel.spawn_system_task(work)

    if trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is token:
        start()
    else:
        token.run_sync_soon(start)


def spawn_closing(close: Callable[[], Awaitable[None]], loop: Any, *, within_s: float = CLOSE_S) -> anyio.Event | None:
    """Run `close` in its own task, for at most `within_s`. Return an event that is set at its end. None: no loop.

    A separate task is necessary because a second native `Task.cancel()` breaks through every shield. It would leave a
    slot of the connection pool half closed.
    """
    closed = anyio.Event()

    async def close_quietly() -> None:
        try:
            with anyio.move_on_after(within_s, shield=True):
                await close()
        except Exception:  # noqa: S110 - nobody waits for this, and the socket is shut down already
            pass
        finally:
            closed.set()

    return closed if spawn(loop, close_quietly) else None

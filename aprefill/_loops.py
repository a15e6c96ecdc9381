"""What differs between event loops: the loop at hand, its clock, and work that is started in it from anywhere."""

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

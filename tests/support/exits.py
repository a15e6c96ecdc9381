"""Every way to leave a reply early, and what must be gone afterwards."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import trio

from aprefill import Reply, Session, StopReason
from aprefill._engine.connection import live
from aprefill.testing import Script

#: Each round is measured at most this often, because a shared machine sometimes stops for 50 ms. A close that does not
#: come fails at once, after two seconds.
ROUNDS = 3
#: A host that sends three chunks and then nothing, until the client leaves.
STALLING = Script(text="one two three four", cuts=4, stall_after=12, prefill="eats")
Open: TypeAlias = Callable[[], Reply]
#: Leaves the reply. Returns the time of leaving, and what the caller still holds.
Exit: TypeAlias = Callable[[Open], Awaitable[tuple[float, Any]]]


async def break_dropped(open_reply: Open) -> tuple[float, Any]:
    seen = 0
    async for _ in open_reply():
        seen += 1
        if seen == 3:
            break
    return time.perf_counter(), None


async def break_held(open_reply: Open) -> tuple[float, Any]:
    reply = open_reply()
    seen = 0
    async for _ in reply:
        seen += 1
        if seen == 3:
            break
    return time.perf_counter(), reply


async def exception_kept(open_reply: Open) -> tuple[float, Any]:
    reply = open_reply()
    seen = 0
    try:
        async for _ in reply:
            seen += 1
            if seen == 3:
                raise KeyError("the body's own")
    except KeyError as exc:
        return time.perf_counter(), (reply, exc, exc.__traceback__)
    raise AssertionError("the body did not raise")


async def cancel_waiting(open_reply: Open) -> tuple[float, Any]:
    reply = open_reply()
    left = 0.0

    async def read() -> None:
        seen = 0
        async for _ in reply:
            seen += 1
            if seen == 4:
                stalled.set()

    stalled = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await stalled.wait()
        await anyio.lowlevel.checkpoint()
        left = time.perf_counter()
        group.cancel_scope.cancel()
    return left, reply


async def cancel_in_body(open_reply: Open) -> tuple[float, Any]:
    reply = open_reply()
    left = 0.0
    working = anyio.Event()

    async def read() -> None:
        seen = 0
        async for _ in reply:
            seen += 1
            if seen == 3:
                working.set()
                await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await working.wait()
        left = time.perf_counter()
        group.cancel_scope.cancel()
    return left, reply


async def timeout(open_reply: Open) -> tuple[float, Any]:
    reply = open_reply()
    left = math.inf
    with anyio.move_on_after(5) as scope:
        seen = 0
        async for _ in reply:
            seen += 1
            if seen == 4:
                left = time.perf_counter()
                scope.deadline = anyio.current_time()
    return left, reply


async def aclose(open_reply: Open) -> tuple[float, Any]:
    reply = open_reply()
    cursor = aiter(reply)
    await anext(cursor)
    left = time.perf_counter()
    await reply.aclose()
    return left, (reply, cursor)


async def cancel_method(open_reply: Open) -> tuple[float, Any]:
    reply = open_reply()
    left = 0.0
    stalled = anyio.Event()

    async def read() -> None:
        seen = 0
        async for _ in reply:
            seen += 1
            if seen == 4:
                stalled.set()
        assert reply.stop_reason is StopReason.CANCELLED

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await stalled.wait()
        await anyio.lowlevel.checkpoint()
        left = time.perf_counter()
        reply.cancel()
    return left, reply


async def async_with(open_reply: Open) -> tuple[float, Any]:
    async with open_reply() as reply:
        async for _ in reply:
            break
        async for _ in reply:  # `break` does not close a reply in `async with`: a second loop continues
            break
        left = time.perf_counter()
    return left, reply


EXITS: list[Exit] = [
    break_dropped, break_held, exception_kept, cancel_waiting, cancel_in_body, timeout, aclose, cancel_method, async_with,
]  # fmt: skip


async def seen_close_after(server: Any, left: float) -> float:
    """Return the seconds from `left` until the server saw the close of its last exchange."""
    exchange = server.exchanges[-1]
    with anyio.fail_after(2):
        await exchange.closed.wait()
    return exchange.closed_at - left


async def delay_of(leave: Exit, server: Any, session: Session) -> float:
    left, held = await leave(lambda: session.stream("hi", prefill="zero "))
    delay = await seen_close_after(server, left)
    del held
    return delay


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def living_tasks(anyio_backend_name: str) -> int:
    """Return the number of tasks of the running loop, with system tasks."""
    if anyio_backend_name == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


async def exits(session: Session, times: int) -> None:
    for number in range(times):
        await EXITS[number % len(EXITS)](lambda: session.stream("hi", prefill="zero "))


async def settle(server: Any) -> None:
    """Wait until the server has seen every close and the scheduled closers have finished."""
    with anyio.fail_after(5):
        await server.wait_closed()
        while live:
            await anyio.lowlevel.checkpoint()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()

"""A reply that has ended is freed by reference counting alone, however it ended.

CPython frees it at once, other interpreters later.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import pytest

from aprefill import AprefillError, Recovery, Reply, Session, Timeouts
from aprefill._engine.connection import live
from aprefill.testing import Script, serve

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_gc")]

STALLING = Script(text="one two three four", cuts=4, stall_after=12)

End: TypeAlias = Callable[[Reply], Awaitable[None]]


async def fail(reply: Reply) -> None:
    with pytest.raises(AprefillError):
        await reply.text()


async def leave(reply: Reply) -> None:
    async for _ in reply:
        break


async def close(reply: Reply) -> None:
    async with reply:
        async for _ in reply:
            break


async def cancel(reply: Reply) -> None:
    async for _ in reply:
        reply.cancel()


async def time_out(reply: Reply) -> None:
    with anyio.move_on_after(5) as scope:
        async for _ in reply:
            scope.cancel()
            await anyio.lowlevel.checkpoint()


ENDS: dict[str, tuple[Script, End]] = {
    "refused": (Script(status=401), fail),
    "hang-up": (Script(hang_up=True), fail),
    "drop": (Script(text="a" * 400, drop_after_bytes=900), fail),
    "reset": (Script(text="a" * 400, reset_after_bytes=900), fail),
    "stalled": (STALLING, fail),
    "left": (STALLING, leave),
    "closed": (STALLING, close),
    "cancelled": (STALLING, cancel),
    "timed out": (STALLING, time_out),
}


async def is_freed(script: Script, end: End) -> bool:
    """Return whether the reply's run is freed once the reply has ended and been closed."""
    async with serve(script) as server, Session("openai:gpt", base_url=server.openai_url) as session:
        # This fills caches. Some of them refer to the frame that filled them.
        await end(session.stream("hi", timeouts=SOON, recovery=ONE))
        reply = session.stream("hi", timeouts=SOON, recovery=ONE)
        run = weakref.ref(reply._run)
        await end(reply)
        del reply
        with anyio.fail_after(2):
            await server.wait_closed()
            while live:
                await anyio.lowlevel.checkpoint()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        return run() is None


SOON = Timeouts(idle_s=0.1)
ONE = Recovery(retries=0)


@pytest.mark.parametrize(("script", "end"), ENDS.values(), ids=ENDS)
async def test_a_reply_is_freed_at_once(script: Script, end: End) -> None:
    """No reference cycle holds the reply, neither through its error nor through an error that was caught on the way."""
    assert await is_freed(script, end)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_control_a_cycle_is_seen() -> None:
    """The control: a run that refers to itself is not freed."""

    async def tie(reply: Reply) -> None:
        run: Any = reply._run
        run.itself = run
        await leave(reply)

    assert not await is_freed(STALLING, tie)

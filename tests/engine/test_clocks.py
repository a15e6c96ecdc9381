"""Which timeouts are reset by what: only the provider's tokens count, not its keep-alives or the caller's own time."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import httpx2
import pytest

from aprefill import ReasoningEvent, Recovery, Stalled, TextEvent, Timeouts
from aprefill._engine.attempt import Attempt
from aprefill.testing import Script, serve

from ..conftest import LOOPS
from ..support.loopback import WIRES, ask

pytestmark = pytest.mark.anyio

#: Ten pieces of reasoning, one every 40 ms, and then the text.
THINKS = Script(reasoning="hm, " * 10, text="done", pace_s=0.04)
CLIENTS: list[Any] = [
    None,
    pytest.param(httpx2.AsyncClient, marks=pytest.mark.any_loop),
    pytest.param(httpx.AsyncClient, marks=pytest.mark.any_loop),
]


@pytest.mark.any_loop
@pytest.mark.parametrize("wire", WIRES)
async def test_reasoning_is_progress(wire: str) -> None:
    """A model whose reasoning takes longer than each of these timeouts is not reported as stalled."""
    timeouts = Timeouts(first_token_s=0.25, progress_s=0.25, idle_s=0.25)
    async with serve(THINKS) as server:
        # The first request of a process imports modules. That time must not count as the host's.
        await ask(server, wire).text()
        events = [event async for event in ask(server, wire, timeouts=timeouts).events()]
    assert "".join(e.text for e in events if isinstance(e, ReasoningEvent)) == "hm, " * 10
    assert "".join(e.text for e in events if isinstance(e, TextEvent)) == "done"


@pytest.mark.parametrize("wire", WIRES)
async def test_keep_alives_are_no_progress(wire: str) -> None:
    """Pings and comments every 20 ms reset only the idle timeout."""
    script = Script(text="abcd", cuts=1, keepalive_after=2, keepalive_s=0.02)
    async with serve(script) as server:
        with pytest.raises(Stalled, match=r"0\.15 s \(progress_s\)") as stalled, anyio.fail_after(3):
            await ask(server, wire, timeouts=Timeouts(progress_s=0.15, idle_s=0.1)).text()
    assert stalled.value.text_so_far == "ab"


@pytest.mark.parametrize("client", CLIENTS)
async def test_the_callers_time_does_not_count(client: Any) -> None:
    """A consumer that is slower than every timeout triggers none, with every client. A slow provider triggers one."""
    tight = Timeouts(first_token_s=0.25, progress_s=0.25, idle_s=0.25)
    async with serve([Script(text="abcdef", cuts=1), Script(text="abcdef", cuts=1, pace_s=0.4)]) as server:
        made = None if client is None else client(trust_env=False)
        options = {"timeouts": tight, "client": made, "recovery": Recovery(retries=0)}
        text = ""
        async for chunk in ask(server, "chat", **options):
            text += chunk
            await anyio.sleep(0.06)
        assert text == "abcdef"
        with pytest.raises(Stalled), anyio.fail_after(3):
            await ask(server, "chat", **options).text()
        if made is not None:
            await made.aclose()


async def test_no_clock_at_all() -> None:
    """`None` switches a timeout off."""
    never = Timeouts(connect_s=None, first_token_s=None, progress_s=None, idle_s=None, total_s=None)
    async with serve(Script(text="abcdef", cuts=1, pace_s=0.02)) as server:
        assert await ask(server, "messages", timeouts=never).text() == "abcdef"


class Scopes:
    """Counts the cancel scopes that an attempt creates, and its network reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = self.reads = 0
        real_scope, real_read = anyio.CancelScope, Attempt.read

        def scope(**options: Any) -> Any:
            self.made += 1
            return real_scope(**options)

        async def read(attempt: Attempt) -> Any:
            self.reads += 1
            return await real_read(attempt)

        monkeypatch.setattr(anyio, "CancelScope", scope)
        monkeypatch.setattr(Attempt, "read", read)


async def test_a_clock_costs_a_scope_a_network_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeouts cost one cancel scope per network read.

    200 chunks that arrive in a few reads need only a few scopes.
    """
    async with serve(Script(text="x" * 200, cuts=1, wire_cuts=1 << 16)) as server:
        count = Scopes(monkeypatch)
        chunks = [chunk async for chunk in ask(server, "chat")]
        monkeypatch.undo()
    assert len(chunks) == 200
    # This includes the scopes of connecting and of closing.
    assert count.made < count.reads + 10 < 20


@pytest.mark.parametrize("anyio_backend", LOOPS[2:])
async def test_control_of_the_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a text that arrives one chunk per read needs one scope per read, and the counter sees them."""
    async with serve(Script(text="x" * 30, cuts=1, pace_s=0.002)) as server:
        count = Scopes(monkeypatch)
        await ask(server, "chat").text()
        monkeypatch.undo()
    assert count.made > 20

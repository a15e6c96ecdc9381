"""The table of phases has a row for every event in every phase, and an interrupt has one end in each phase."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

import aprefill
from aprefill import AprefillError, Recovery, Reply, ReplyClosed, Session, Stalled, StatusError, Timeouts, stream
from aprefill._engine.connection import live
from aprefill._engine.phases import OVER, TABLE, Phase, Row, State
from aprefill.testing import Script, serve

from ..conftest import LOOPS
from ..support.loopback import server_has

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = str(Path(aprefill.__file__).parent)
GOOD = Script(text="one two three four", cuts=4)


# --- the table ----------------------------------------------------------------------------------------------------


def test_every_event_in_every_phase_has_its_row() -> None:
    """Each phase defines what may follow each event, and each phase but the first can be reached."""
    assert set(TABLE) == set(Phase)
    reached = {Phase.NEW}
    for phase, row in TABLE.items():
        for event in Row._fields:
            following = getattr(row, event)
            assert set(following) <= set(Phase), (phase, event)
            reached |= set(following)
    assert reached == set(Phase)


def test_nothing_leads_out_of_an_end() -> None:
    """A reply that has ended stays in its phase and cannot fail any more."""
    for phase in OVER:
        row = TABLE[phase]
        assert {following for event in Row._fields for following in getattr(row, event)} == {phase}
        assert not row.failed


def test_an_interrupt_ends_every_phase() -> None:
    """`cancel` and `aclose` end every phase.

    A dropped reader ends every phase but NEW, in which nothing was sent.
    """
    for phase, event in product(Phase, ("cancel", "aclose", "drop")):
        if (phase, event) != (Phase.NEW, "drop"):
            assert set(getattr(TABLE[phase], event)) <= OVER, (phase, event)


@pytest.mark.parametrize(("phase", "event", "to"), list(product(Phase, Row._fields, Phase)))
def test_the_state_goes_nowhere_else(phase: Phase, event: str, to: Phase) -> None:
    """A transition that is not in the table is rejected."""
    state = State()
    state.phase = phase
    if to in getattr(TABLE[phase], event):
        state.go(event, to)
        assert state.phase is to
    else:
        with pytest.raises(AssertionError, match=event):
            state.go(event, to)
        assert state.phase is phase


# --- with a loopback host -----------------------------------------------------------------------------------------

#: Phase -> what the host plays first, so that the reply stays in this phase.
PLAYED = {
    Phase.NEW: [],
    Phase.OPENING: [Script(first_byte_s=math.inf)],
    Phase.READING: [Script(text="one two three four", cuts=4, stall_after=8)],
    Phase.PAUSING: [Script(status=503, retry_after=30)],
    # all records arrive in one read
    Phase.HANDING_OUT: [replace(GOOD, wire_cuts=1 << 16)],
    Phase.DONE: [GOOD],
}
#: The only error that the host sends itself, inside the body.
ERROR = [Script(text="one two", cuts=4, error_event=("overloaded_error", "busy"))]


async def reach(reply: Reply, phase: Phase) -> Any:
    """Return a cursor over the reply, which is in this phase now or enters it when the next chunk is pulled."""
    cursor = aiter(reply)
    if phase is Phase.READING:
        assert await anext(cursor) == "one "
    elif phase is Phase.HANDING_OUT:
        while reply._run.phase is not Phase.HANDING_OUT:
            await anext(cursor)
    elif phase is Phase.DONE:
        async for _ in cursor:
            pass
    return cursor


async def wait_for(reply: Reply, phase: Phase) -> None:
    with anyio.fail_after(2):
        while reply._run.phase is not phase:
            await anyio.lowlevel.checkpoint()


async def interrupted(server: Any, reply: Reply, phase: Phase, interrupt: str) -> list[object]:
    """Interrupt the reply in this phase, while its reader waits if the phase has one. Return what the reader got."""
    got: list[object] = []

    async def read(cursor: Any, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                async for _ in cursor:
                    pass
                got.append("end")
        except AprefillError as exc:
            got.append(type(exc))

    cursor = await reach(reply, phase)
    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        if phase in {Phase.OPENING, Phase.READING, Phase.PAUSING}:
            group.start_soon(read, cursor, scope)
            del cursor
            await wait_for(reply, phase)
            if phase is Phase.OPENING:
                await server_has(server, 1)
            if phase is Phase.READING:
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
        match interrupt:
            case "cancel":
                reply.cancel()
            case "aclose":
                await reply.aclose()
            case "drop":
                # A reader that waits is dropped together with its task.
                scope.cancel()
                cursor = None
    return got


MATRIX = [(phase, interrupt) for phase, interrupt in product(PLAYED, ("cancel", "aclose", "drop"))]


@pytest.mark.anyio
@pytest.mark.parametrize(("phase", "interrupt"), MATRIX)
async def test_an_interrupt_has_one_end(phase: Phase, interrupt: str) -> None:
    """After an interrupt the connection is closed or free, its only slot is free, and the table allows the phase."""
    limits = httpx2.Limits(max_connections=1)
    async with serve([*PLAYED[phase], GOOD]) as server, httpx2.AsyncClient(limits=limits, trust_env=False) as client:
        session = Session("vllm:m", base_url=server.openai_url, client=client)
        reply = session.stream("hi", recovery=Recovery(retries=1))
        got = await interrupted(server, reply, phase, interrupt)
        assert reply._run.phase in getattr(TABLE[phase], interrupt)
        if got:
            assert got == [{"cancel": "end", "aclose": ReplyClosed, "drop": None}[interrupt]]
        with anyio.fail_after(2):
            assert await session.stream("hi").text() == GOOD.text
        await session.aclose()
        assert len(live) == 0


@pytest.mark.anyio
async def test_a_timeout_and_an_error_in_the_body_end_it_too() -> None:
    """A timeout in each waiting phase and an error in the body also end the reply, and the slot is free."""
    limits = httpx2.Limits(max_connections=1)
    cases = [(Phase.OPENING, Stalled), (Phase.READING, Stalled), (Phase.PAUSING, StatusError), (None, StatusError)]
    for phase, error in cases:
        played = ERROR if phase is None else PLAYED[phase]
        async with serve([*played, GOOD]) as server, httpx2.AsyncClient(limits=limits, trust_env=False) as client:
            options: dict[str, Any] = {"model": "vllm:m", "base_url": server.openai_url, "client": client}
            reply = stream("hi", timeouts=Timeouts(total_s=0.2), recovery=Recovery(retries=1), **options)
            with pytest.raises(error):
                await reply.text()
            assert reply._run.phase is Phase.CLOSED
            with anyio.fail_after(2):
                assert await stream("hi", **options).text() == GOOD.text


@pytest.mark.parametrize("anyio_backend", LOOPS[:2])
@pytest.mark.anyio
async def test_control_a_slot_that_is_kept_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a connection that nobody closes fails the check."""
    monkeypatch.setattr("aprefill._engine.attempt.Attempt.interrupt", lambda self: None)
    monkeypatch.setattr("aprefill._engine.attempt.Attempt.kill", lambda self: False)

    async def aclose(self: Any) -> None:
        """Do nothing."""

    monkeypatch.setattr("aprefill._engine.attempt.Attempt.aclose", aclose)
    limits = httpx2.Limits(max_connections=1)
    async with serve([*PLAYED[Phase.READING], GOOD]) as server:
        async with httpx2.AsyncClient(limits=limits, trust_env=False) as client:
            options: dict[str, Any] = {"model": "vllm:m", "base_url": server.openai_url, "client": client}
            async for _ in stream("hi", **options):
                break
            with anyio.move_on_after(0.5) as scope:
                await stream("hi", **options).text()
            assert scope.cancelled_caught


# --- frames -------------------------------------------------------------------------------------------------------


def frames(coroutine: Any) -> Iterator[Any]:
    """Yield the code objects of the chain of waiting coroutines, starting with `coroutine`."""
    while coroutine is not None and hasattr(coroutine, "cr_code"):
        yield coroutine.cr_code
        coroutine = coroutine.cr_await


@pytest.mark.parametrize("anyio_backend", LOOPS[:1])
@pytest.mark.anyio
@pytest.mark.parametrize("events", [False, True], ids=["text", "events"])
async def test_two_frames_between_the_reader_and_the_transport(events: bool) -> None:
    """While a reader waits for the network, only `Run.pull` and `Attempt.read` are between it and the transport."""
    async with serve(PLAYED[Phase.READING][0]) as server:
        async with stream("hi", model="vllm:m", base_url=server.openai_url) as reply:
            cursor: Any = aiter(reply.events() if events else reply)
            for _ in range(3 if events else 2):
                await anext(cursor)
            waiting = asyncio.ensure_future(cursor.__anext__())
            for _ in range(20):
                await asyncio.sleep(0)
            ours = [code for code in frames(waiting.get_coro()) if code.co_filename.startswith(PACKAGE)]
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    names = [code.co_qualname for code in ours if "_transports" not in code.co_filename]
    assert names[0].endswith("Cursor.__anext__")
    assert names[1:] == ["Run.pull", "Attempt.read"]

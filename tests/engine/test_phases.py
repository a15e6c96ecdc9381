"""The table of phases has a row for every event in every phase, and an interrupt has one end in each phase."""

from __future__ import annotations

import asyncio
import math
import sys
import time
import weakref
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

import aprefill
from aprefill import (
    AprefillError,
    Recovery,
    Reply,
    ReplyClosed,
    Session,
    Stalled,
    StatusError,
    StopReason,
    Timeouts,
    stream,
)
from aprefill._engine.attempt import Attempt
from aprefill._engine.connection import live
from aprefill._engine.phases import OVER, TABLE, Phase, State, Transitions
from aprefill._engine.requests import Requests
from aprefill._plan.next import ANSWERS, Answer, Outcome
from aprefill._reply import Cursor
from aprefill._transports.http import HttpResponse
from aprefill.testing import Script, serve

from ..conftest import LOOPS
from ..support.loopback import server_has

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

PACKAGE = str(Path(aprefill.__file__).parent)
GOOD = Script(text="one two three four", cuts=4)


# --- the table ----------------------------------------------------------------------------------------------------


def test_every_event_in_every_phase_has_its_row() -> None:
    """Each phase defines what may follow each event, and each phase but the first can be reached."""
    assert set(TABLE) == set(Phase)
    reached = {Phase.NEW}
    for phase, row in TABLE.items():
        for event in Transitions._fields:
            following = getattr(row, event)
            assert set(following) <= set(Phase), (phase, event)
            reached |= set(following)
    assert reached == set(Phase)


def test_nothing_leads_out_of_an_end() -> None:
    """A reply that has ended stays in its phase and cannot fail any more."""
    for phase in OVER:
        row = TABLE[phase]
        assert {following for event in Transitions._fields for following in getattr(row, event)} == {phase}
        assert not row.failed


def test_an_interrupt_ends_every_phase() -> None:
    """`cancel` and `aclose` end every phase.

    A dropped reader ends every phase but NEW, in which nothing was sent.
    """
    for phase, event in product(Phase, ("cancel", "aclose", "drop")):
        if (phase, event) != (Phase.NEW, "drop"):
            assert set(getattr(TABLE[phase], event)) <= OVER, (phase, event)


@pytest.mark.parametrize(("phase", "event", "to"), list(product(Phase, Transitions._fields, Phase)))
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

#: All records arrive in one read.
AT_ONCE = 1 << 16
#: The only error that the host sends itself, inside the body.
ERROR = Script(text="one two", cuts=4, error_event=("overloaded_error", "busy"))
#: Where the reply is -> its phase there, and what the host plays first, so that the reply stays there.
PLAYED = {
    "new": (Phase.NEW, []),
    "opening": (Phase.OPENING, [Script(first_byte_s=math.inf)]),
    "reading": (Phase.READING, [Script(text="one two three four", cuts=4, stall_after=8)]),
    "pausing": (Phase.PAUSING, [Script(status=503, retry_after=30)]),
    "handing out": (Phase.HANDING_OUT, [replace(GOOD, wire_cuts=AT_ONCE)]),
    "handing out before an error": (Phase.HANDING_OUT, [replace(ERROR, wire_cuts=AT_ONCE)]),
    "done": (Phase.DONE, [GOOD]),
    "closed": (Phase.CLOSED, [GOOD]),
}
#: A change of phase: the event, the phase before it and the phase after it.
Move = tuple[str, Phase, Phase]


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[Move]:
    """The changes of phase of all replies."""
    found: list[Move] = []
    go = State.go

    def noted(self: State, event: str, phase: Phase) -> None:
        before = self.phase
        go(self, event, phase)
        found.append((event, before, phase))

    monkeypatch.setattr(State, "go", noted)
    return found


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
    elif phase is Phase.CLOSED:
        await anext(cursor)
        await reply.aclose()
    return cursor


async def wait_for(reply: Reply, phase: Phase) -> None:
    with anyio.fail_after(2):
        while reply._run.phase is not phase:
            await anyio.lowlevel.checkpoint()


async def interrupted(server: Any, reply: Reply, cursor: Any, phase: Phase, interrupt: str) -> list[object]:
    """Interrupt the reply in this phase, while its reader waits if the phase has one. Return what the reader got."""
    got: list[object] = []
    waits = phase in {Phase.OPENING, Phase.READING, Phase.PAUSING}

    async def read(cursor: Any, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                async for _ in cursor:
                    pass
                got.append("end")
        except AprefillError as exc:
            got.append(type(exc))

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        if waits:
            group.start_soon(read, cursor, scope)
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
                del cursor
    if not waits and interrupt != "drop":
        await read(cursor, scope)
    return got


MATRIX = [(where, interrupt) for where, interrupt in product(PLAYED, ("cancel", "aclose", "drop"))]


@pytest.mark.anyio
@pytest.mark.parametrize(("where", "interrupt"), MATRIX)
async def test_an_interrupt_has_one_end(where: str, interrupt: str) -> None:
    """After an interrupt the connection is closed or free, its only slot is free, and the table allows the phase."""
    phase, played = PLAYED[where]
    limits = httpx2.Limits(max_connections=1)
    async with serve([*played, GOOD]) as server, httpx2.AsyncClient(limits=limits, trust_env=False) as client:
        session = Session("vllm:m", base_url=server.openai_url, client=client)
        reply = session.stream("hi", recovery=Recovery(retries=1))
        cursors = [await reach(reply, phase)]
        assert reply._run.phase is phase or phase in {Phase.OPENING, Phase.PAUSING}
        assert (reply._run.state.failure is not None) == ("error" in where)
        got = await interrupted(server, reply, cursors.pop(), phase, interrupt)
        assert reply._run.phase in getattr(TABLE[phase], interrupt)
        if interrupt == "drop":
            assert got == []
        elif phase in OVER:
            assert got == ["end" if phase is Phase.DONE else ReplyClosed]
        else:
            assert got == ["end" if interrupt == "cancel" else ReplyClosed]
        with anyio.fail_after(2):
            assert await session.stream("hi").text() == GOOD.text
        await session.aclose()
        assert len(live) == 0


@pytest.fixture
def slow_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the close of each response take until its timeout."""
    aclose = HttpResponse.aclose

    async def slowly(self: HttpResponse) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await aclose(self)

    monkeypatch.setattr(HttpResponse, "aclose", slowly)


#: The seconds of `Timeouts.total_s`, and the most that a reply with this timeout may take on a busy machine. Closing
#: may take a second.
TOTAL_S, MOST_S = 0.2, 0.9
#: What ends the reply -> the phase in which it does, what the host plays, and the error.
ENDINGS = {
    "no answer": (Phase.OPENING, Script(first_byte_s=math.inf), Stalled),
    "stall": (Phase.READING, Script(text="one two three four", cuts=4, stall_after=8), Stalled),
    "error in the body": (Phase.READING, ERROR, StatusError),
    "longer wait than total_s": (Phase.OPENING, Script(status=503, retry_after=30), StatusError),
}


@pytest.mark.anyio
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_timeout_and_an_error_in_the_body_end_it_too(ending: str, moves: list[Move]) -> None:
    """A timeout and an error of the host also end the reply in the phase in which they happen. The slot is free."""
    phase, played, error = ENDINGS[ending]
    limits = httpx2.Limits(max_connections=1)
    async with serve([played, GOOD]) as server, httpx2.AsyncClient(limits=limits, trust_env=False) as client:
        options: dict[str, Any] = {"model": "vllm:m", "base_url": server.openai_url, "client": client}
        reply = stream("hi", timeouts=Timeouts(total_s=TOTAL_S), recovery=Recovery(retries=1), **options)
        with pytest.raises(error):
            await reply.text()
        assert moves[-2:] == [
            ("failed", phase, Phase.HANDING_OUT),
            ("failed", Phase.HANDING_OUT, Phase.CLOSED),
        ]
        with anyio.fail_after(2):
            assert await stream("hi", **options).text() == GOOD.text


@pytest.mark.anyio
@pytest.mark.usefixtures("slow_close", "no_gc")
async def test_a_timeout_while_pausing_ends_it_too(moves: list[Move]) -> None:
    """If a close is slow, `total_s` ends the wait for it. No further request is sent, and the slot is free later."""
    limits = httpx2.Limits(max_connections=1)
    async with serve([Script(status=503), GOOD]) as server:
        async with httpx2.AsyncClient(limits=limits, trust_env=False) as client:
            options: dict[str, Any] = {"model": "vllm:m", "base_url": server.openai_url, "client": client}
            reply = stream("hi", timeouts=Timeouts(total_s=TOTAL_S), recovery=Recovery(retries=1), **options)
            began = time.perf_counter()
            with pytest.raises(Stalled) as stalled:
                await reply.text()
            assert TOTAL_S <= time.perf_counter() - began < MOST_S
            assert moves[-2:] == [
                ("failed", Phase.OPENING, Phase.PAUSING),
                ("failed", Phase.PAUSING, Phase.CLOSED),
            ]
            assert (stalled.value.clock, len(server.exchanges)) == ("total_s", 1)
            assert isinstance(stalled.value.__cause__, StatusError)
            assert [attempt.error for attempt in reply.attempts] == ["StatusError"]
            run = weakref.ref(reply._run)
            del reply, stalled
            with anyio.fail_after(3):
                assert await stream("hi", **options).text() == GOOD.text
            assert run() is None


# --- what else ends a reply ---------------------------------------------------------------------------------------


class Broken(Exception):
    """An exception that no library of ours knows."""


async def breaks_later(*args: Any) -> Any:
    await anyio.lowlevel.checkpoint()
    raise Broken


@pytest.mark.anyio
@pytest.mark.parametrize("phase", [Phase.OPENING, Phase.READING, Phase.PAUSING], ids=lambda phase: phase.value)
async def test_an_unknown_exception_is_a_failure(
    phase: Phase, moves: list[Move], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is not ours reaches the reader. The reply has failed, as after an error of ours."""
    async with serve([*PLAYED[phase.value][1], GOOD]) as server:
        reply = stream("hi", model="vllm:m", base_url=server.openai_url, recovery=Recovery(retries=1))
        if phase is Phase.PAUSING:
            monkeypatch.setattr(Requests, "wait", breaks_later)
        else:
            monkeypatch.setattr(Attempt, {Phase.OPENING: "open", Phase.READING: "read"}[phase], breaks_later)
        with pytest.raises(Broken):
            await reply.text()
        assert moves[-1] == ("failed", phase, Phase.CLOSED)
        with anyio.fail_after(2):
            await server.wait_closed()
    assert len(live) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("phase", [Phase.OPENING, Phase.READING, Phase.PAUSING], ids=lambda phase: phase.value)
async def test_a_cancelled_reader_has_left(phase: Phase, moves: list[Move]) -> None:
    """A reader whose task is cancelled has left the reply. That is no failure."""
    async with serve([*PLAYED[phase.value][1], GOOD]) as server:
        reply = stream("hi", model="vllm:m", base_url=server.openai_url, recovery=Recovery(retries=1))
        cursor = await reach(reply, phase)
        assert await interrupted(server, reply, cursor, phase, "drop") == []
        assert moves[-1] == ("drop", phase, Phase.CLOSED)


@pytest.mark.anyio
async def test_a_clean_end_may_be_followed_by_a_request(moves: list[Move], monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule may follow a clean end by another request. The reply has not failed then."""

    def again(request: Any, outcome: Outcome, chance: float, token: Any) -> Any:
        return outcome.plan

    rules = (Answer("again", lambda outcome: outcome.error is None and outcome.known == "one", again), *ANSWERS)
    monkeypatch.setattr("aprefill._plan.next.ANSWERS", rules)
    async with serve([Script(text="one"), Script(text="two")]) as server:
        assert await stream("hi", model="vllm:m", base_url=server.openai_url).text() == "onetwo"
    assert ("read", Phase.READING, Phase.PAUSING) in moves
    assert all(event != "failed" for event, _, _ in moves)


@pytest.mark.anyio
async def test_cancel_in_a_forked_child_does_nothing(moves: list[Move], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a forked child `cancel()` changes nothing, because the connection belongs to the parent."""
    async with serve(GOOD) as server:
        reply = stream("hi", model="vllm:m", base_url=server.openai_url)
        cursor = aiter(reply)
        assert await anext(cursor) == "one "
        before = (reply._run.phase, list(moves), reply.stop_reason)
        with monkeypatch.context() as child:
            child.setattr("aprefill._engine.connection.os.getpid", lambda: -1)
            reply.cancel()
            reply._run.drop()
        assert (reply._run.phase, moves, reply.stop_reason) == before
        assert not reply._run.state.cancelled
        async for _ in cursor:
            pass
        assert reply.text_so_far == GOOD.text
        assert reply.stop_reason is StopReason.END


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
    async with serve([*PLAYED["reading"][1], GOOD]) as server:
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
    async with serve(PLAYED["reading"][1][0]) as server:
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


async def calls_for_a_buffered_chunk(reply: Reply, kind: type[Cursor]) -> list[str]:
    """Return the names of the Python functions that run while the reader takes a chunk that is there already."""
    cursor = kind(reply._run)
    await anext(cursor)
    transcript = reply._run.transcript
    assert transcript.next < len(transcript.items)
    names: list[str] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            names.append(frame.f_code.co_qualname)

    waiting = cursor.__anext__()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        waiting.send(None)
    except StopIteration as done:
        chunk = done.value
    finally:
        sys.setprofile(before)
    assert chunk == "two "
    return names


class SlowCursor(Cursor):
    """Calls two functions more for each chunk."""

    __slots__ = ()

    def _check(self) -> None:
        """Do nothing."""

    async def __anext__(self) -> str:
        self._check()
        return await super().__anext__()


@pytest.mark.anyio
async def test_a_buffered_chunk_is_one_call() -> None:
    """A chunk that came with an earlier one takes one Python call. The control is seen to take more."""
    async with serve(PLAYED["handing out"][1][0]) as server:
        async with stream("hi", model="vllm:m", base_url=server.openai_url) as reply:
            assert await calls_for_a_buffered_chunk(reply, Cursor) == ["Cursor.__anext__"]
    async with serve(PLAYED["handing out"][1][0]) as server:
        async with stream("hi", model="vllm:m", base_url=server.openai_url) as reply:
            names = await calls_for_a_buffered_chunk(reply, SlowCursor)
            assert names == ["SlowCursor.__anext__", "SlowCursor._check", "Cursor.__anext__"]

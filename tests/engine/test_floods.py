"""A host that floods: the total timeout is wall-clock time, and other tasks of the event loop still run."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from aprefill import Recovery, Stalled, Timeouts, stream
from aprefill.testing import Script, serve

from ..support.flood_host import FLOODS
from ..support.loopback import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

#: Period of the heartbeat in seconds, and by how many seconds a flood may delay its latest beat.
BEAT_S = 0.005
MORE_S = 0.05
#: If even a lone heartbeat is this late (seconds), the machine is too busy: measure again.
BUSY_S = 0.02
LOOKS = 8


@contextmanager
def flooding(kind: str) -> Iterator[str]:
    """Yield the base URL of a host in another process that floods."""
    command = [sys.executable, "-P", str(Path(__file__).parents[1] / "support/flood_host.py"), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        assert host.stdin is not None
        try:
            yield f"http://127.0.0.1:{int(host.stdout.readline())}/v1"
        finally:
            host.stdin.close()


async def latest_beat(until: anyio.Event) -> float:
    """Return by how many seconds the latest beat was late."""
    late = 0.0
    while not until.is_set():
        due = time.perf_counter() + BEAT_S
        await anyio.sleep(BEAT_S)
        late = max(late, time.perf_counter() - due)
    return late


async def longest_turn(until: anyio.Event) -> float:
    """Return the CPU seconds of the longest turn of the event loop. Other work on the machine does not count."""
    longest = 0.0
    while not until.is_set():
        began = time.thread_time()
        await anyio.lowlevel.checkpoint()
        longest = max(longest, time.thread_time() - began)
    return longest


async def beats_beside(url: str | None, heart: Any = latest_beat) -> tuple[float, float]:
    """Return the seconds until a reply with `total_s=1` ended, and what `heart` measured meanwhile.

    If `url` is None, measure one second without a reply.
    """
    ended = anyio.Event()
    late: list[float] = []

    async def beat() -> None:
        late.append(await heart(ended))

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        began = time.perf_counter()
        if url is None:
            await anyio.sleep(1)
        else:
            options = {"timeouts": Timeouts(total_s=1), "recovery": Recovery(retries=0)}
            with pytest.raises(Stalled, match=r"not complete within 1 s \(total_s\)"):
                await stream("hi", model="m", base_url=url, **options).text()
        took = time.perf_counter() - began
        ended.set()
    return took, late[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_neither_outlives_the_total_clock_nor_blocks_the_loop(kind: str) -> None:
    """A flooded reply ends within two seconds, and no turn of the event loop takes 50 ms."""
    with flooding(kind) as url:
        for _ in range(LOOKS):
            took, longest = await beats_beside(url, longest_turn)
            if took < 2:
                break
    assert took < 2
    assert longest < MORE_S


@pytest.mark.perf
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_makes_no_heartbeat_late(kind: str) -> None:
    """A flood delays no beat by more than 50 ms compared with the latest beat without a stream.

    Other work on the machine delays both, so the test measures up to eight times.
    """
    with flooding(kind) as url:
        for _ in range(LOOKS):
            _, before = await beats_beside(None)
            took, late = await beats_beside(url)
            _, after = await beats_beside(None)
            control = max(before, after)
            if took < 2 and late < control + MORE_S and control < BUSY_S:
                break
    assert took < 2
    assert late < control + MORE_S


@pytest.mark.slow
async def test_control_a_reply_decoded_in_one_go_blocks_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a reader that decodes everything in one turn blocks the event loop and fails the check."""
    monkeypatch.setattr("aprefill._engine.attempt.READS_A_TURN", 1 << 30)
    monkeypatch.setattr("aprefill._engine.reading.SLICE_BYTES", 1 << 30)
    monkeypatch.setattr("aprefill._engine.reading.SLICE_RECORDS", 1 << 30)
    with flooding("3 bytes") as url:
        _, longest = await beats_beside(url, longest_turn)
    assert longest > MORE_S


async def test_the_total_clock_counts_the_consumers_time_and_fires_at_the_next_pull() -> None:
    """The total timeout counts the consumer's time and fires at the next pull.

    A consumer that works for longer is not interrupted. It gets the buffered text first, then the error.
    """
    async with serve(Script(text="abcdef", cuts=1, pace_s=0.02, prefill="eats")) as server:
        text = ""
        began = time.perf_counter()
        with pytest.raises(Stalled, match=r"not complete within 0\.2 s \(total_s\), after \d+ bytes") as stalled:
            async for chunk in ask(server, "chat", timeouts=Timeouts(total_s=0.2)):
                text += chunk
                if text == "ab":
                    await anyio.sleep(0.4)
                    worked = time.perf_counter() - began
        assert worked > 0.4
        with anyio.fail_after(2):
            await server.exchanges[0].closed.wait()
    assert stalled.value.clock == "total_s"
    assert stalled.value.text_so_far == text
    assert "ab" in text < "abcdef"


async def test_the_total_clock_leaves_a_complete_reply_alone() -> None:
    """The total timeout does not affect a reply that has arrived completely: a slow consumer gets all of it."""
    async with serve(Script(text="abcdef", cuts=1, wire_cuts=1 << 16, prefill="eats")) as server:
        text = ""
        async for chunk in ask(server, "chat", timeouts=Timeouts(total_s=0.2)):
            text += chunk
            await anyio.sleep(0.06)
    assert text == "abcdef"


@pytest.mark.parametrize("clock", ["first_token_s", "progress_s"])
async def test_the_other_clocks_run_while_a_flood_is_decoded(clock: str) -> None:
    """The other timeouts also run while a flood is decoded, although the reader never has to wait for the host."""
    flood = b'data: {"choices":[{"index":0,"delta":{"content":""}}]}\n\n' * 40_000
    after = 1 if clock == "progress_s" else 0
    script = Script(text="ab", cuts=1, after=after, insert=flood * 4, stall_after=1 << 30)
    timeouts = Timeouts(**{clock: 0.1, "idle_s": 30})
    async with serve(script) as server:
        with pytest.raises(Stalled, match=clock), anyio.fail_after(10):
            await ask(server, "chat", timeouts=timeouts).text()

"""Without async: the cost of a chunk that is already received, and the limit on reading ahead."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

import aprefill._engine.run
import aprefill._sync
from aprefill import (
    stream,
    stream_sync,
)
from aprefill._engine.ahead import AHEAD_BYTES, Ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

# --- what it costs --------------------------------------------------------------------------------------------------

CHUNKS = 4000
MOST_US = 20.0


@contextmanager
def burst_host() -> Iterator[str]:
    """Yield the URL of a host that sends many chunks at once."""
    command = [sys.executable, "-P", str(Path(__file__).parent / "support/burst_host.py"), str(CHUNKS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        process.stdin.close()


def more_a_chunk_us(url: str, looks: int = 12) -> tuple[float, float]:
    """Return the additional cost per chunk compared with async, in microseconds: CPU of all threads, and wall time."""

    async def asynchronous() -> tuple[float, float]:
        reply = stream("hi", model="vllm:m", base_url=url)
        cursor = aiter(reply)
        await anext(cursor)
        cpu, began = time.process_time(), time.perf_counter()
        assert len([chunk async for chunk in cursor]) == CHUNKS - 1
        return time.process_time() - cpu, time.perf_counter() - began

    def synchronous() -> tuple[float, float]:
        chunks = iter(stream_sync("hi", model="vllm:m", base_url=url))
        next(chunks)
        cpu, began = time.process_time(), time.perf_counter()
        assert len(list(chunks)) == CHUNKS - 1
        return time.process_time() - cpu, time.perf_counter() - began

    best = [float("inf")] * 4
    more = (0.0, 0.0)
    for look in range(looks):
        best = [min(pair) for pair in zip(best, (*synchronous(), *anyio.run(asynchronous)), strict=True)]
        more = ((best[0] - best[2]) / CHUNKS * 1e6, (best[1] - best[3]) / CHUNKS * 1e6)
        if look > 1 and max(more) < MOST_US:
            break
    return more


def test_a_chunk_that_is_there_costs_little_more() -> None:
    """A chunk that is already received costs at most 20 microseconds more than with async, in CPU and in wall time."""
    with burst_host() as url:
        cpu, passed = more_a_chunk_us(url)
    assert cpu < MOST_US
    assert passed < MOST_US


@pytest.mark.perf
def test_control_of_what_a_chunk_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with one switch to the other thread per chunk, the same measurement is above the limit."""
    monkeypatch.setattr(aprefill._engine.run, "_ITEMS_A_PULL", 1)
    with burst_host() as url:
        assert max(more_a_chunk_us(url, looks=3)) > MOST_US


# --- reading ahead --------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_reading_ahead_is_bounded() -> None:
    """While nobody reads an endless body, at most the limit and one piece more are received."""
    received = 0

    async def receive() -> bytes:
        nonlocal received
        await anyio.lowlevel.checkpoint()
        received += 1000
        return b"x" * 1000

    from aprefill._loops import native_loop

    ahead = Ahead(receive, native_loop())
    assert not ahead.has_more()
    await ahead.receive()
    for _ in range(200):
        await anyio.lowlevel.checkpoint()
    assert AHEAD_BYTES <= received - 1000 < AHEAD_BYTES + 2000
    taken = 1
    while ahead.has_more():
        await ahead.receive()
        taken += 1
    assert taken == received / 1000
    await ahead.receive()
    assert received > taken * 1000
    await ahead.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("failure", [StopAsyncIteration(), OSError("gone")])
async def test_the_end_of_reading_ahead_comes_behind_what_was_received(failure: BaseException) -> None:
    """The end or the error of the body is raised after every received piece was handed out."""
    pieces = [b"a", b"b"]

    async def receive() -> bytes:
        if not pieces:
            raise failure
        return pieces.pop(0)

    from aprefill._loops import native_loop

    ahead = Ahead(receive, native_loop())
    assert [await ahead.receive(), await ahead.receive()] == [b"a", b"b"]
    assert ahead.has_more()
    with pytest.raises(type(failure)):
        await ahead.receive()
    await ahead.aclose()

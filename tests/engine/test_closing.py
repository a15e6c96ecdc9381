"""Leaving a reply early, in any way, closes the provider's connection at once."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import socket
import statistics
import sys
import time
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import httpx2
import openai
import pytest

from aprefill import Reply, Session, Truncated, stream
from aprefill._engine.connection import live
from aprefill._transports._kill import KillHandle
from aprefill._transports.http import HttpResponse
from aprefill.testing import Script, serve, serve_in_thread

from ..conftest import LOOPS
from ..support.exits import (
    EXITS,
    ROUNDS,
    STALLING,
    Exit,
    delay_of,
    exits,
    living_tasks,
    open_descriptors,
    seen_close_after,
    settle,
)
from ..support.thorough import usually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_gc")]

#: How often each way of leaving a reply is tested, per event loop and transport.
TIMES = int(os.environ.get("APREFILL_CLOSING_TIMES", "8"))


@asynccontextmanager
async def host(*, tls: bool, monkeypatch: pytest.MonkeyPatch, script: Script = STALLING) -> AsyncIterator[Any]:
    async with serve(script, tls=tls) as server:
        if tls:
            monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        yield server


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("leave", EXITS, ids=lambda leave: leave.__name__)
async def test_the_server_sees_the_close_at_once(leave: Exit, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sees the close within 50 ms every time, with a median under 5 ms, however the reply is left."""
    async with host(tls=tls, monkeypatch=monkeypatch) as server:
        async with Session("openai:gpt", base_url=server.openai_url, support="eats") as session:
            for _ in range(ROUNDS):
                delays = [await delay_of(leave, server, session) for _ in range(TIMES)]
                if max(delays) < 0.050:
                    break
    print(f"median {statistics.median(delays) * 1e3:.2f} ms, worst {max(delays) * 1e3:.2f} ms")
    assert max(delays) < 0.050
    assert statistics.median(delays) < 0.005


@pytest.mark.parametrize("leave", EXITS, ids=lambda leave: leave.__name__)
async def test_a_bare_stream_closes_as_well(leave: Exit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a session, the connection and the client of the call are closed the same way, on the Anthropic wire."""
    async with host(tls=False, monkeypatch=monkeypatch) as server:

        def bare() -> Reply:
            return stream("hi", prefill="zero ", model="anthropic:claude-haiku-4-5", base_url=server.url, api_key="k")

        for _ in range(usually(2, 5)):
            left, held = await leave(bare)
            assert await seen_close_after(server, left) < 0.050
            del held
        with anyio.fail_after(2):
            await server.wait_closed()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_control_the_openai_sdk_fails_the_same_test() -> None:
    """The control: the OpenAI SDK's own stream, left by `break` and still referenced, keeps its connection open."""
    async with serve(STALLING) as server:
        client = openai.AsyncOpenAI(api_key="k", base_url=server.openai_url, max_retries=0)
        held = await client.chat.completions.create(
            model="gpt", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        seen = 0
        async for _ in held:
            seen += 1
            if seen == 3:
                break
        with pytest.raises(TimeoutError), anyio.fail_after(0.2):
            await server.exchanges[-1].closed.wait()
        await held.close()
        await client.close()


async def left_over(server: Any, session: Session, times: int, backend: str) -> dict[str, int]:
    """Return what is left over after `times` mixed exits. A round of exits before the count warms everything up."""
    await exits(session, len(EXITS))
    await settle(server)
    descriptors, tasks = open_descriptors(), living_tasks(backend)
    await exits(session, times)
    await settle(server)
    pool = next(iter(session._pool._transports.values()))._client._transport_for_url(httpx2.URL(server.url))._pool
    return {
        "descriptors": open_descriptors() - descriptors,
        "tasks": living_tasks(backend) - tasks,
        "slots": len(pool._requests),
        "live": len(live),
    }


NOTHING = {"descriptors": 0, "tasks": 0, "slots": 0, "live": 0}


@pytest.mark.slow
async def test_two_thousand_mixed_exits_leave_nothing(anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 2,000 replies left in every way, no socket, task, file descriptor or pool slot is left."""
    async with host(tls=False, monkeypatch=monkeypatch) as server:
        async with Session("openai:gpt", base_url=server.openai_url, support="eats") as session:
            assert await left_over(server, session, 2000, anyio_backend_name) == NOTHING


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_control_a_lazy_close_leaves_pool_slots(anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a response that shuts its socket down but does not return its pool slot fails the same check."""

    async def aclose(self: HttpResponse) -> None:
        self.kill()

    monkeypatch.setattr(HttpResponse, "aclose", aclose)
    async with host(tls=False, monkeypatch=monkeypatch) as server:
        async with Session("openai:gpt", base_url=server.openai_url, support="eats") as session:
            left = await left_over(server, session, 18, anyio_backend_name)
    assert left["slots"] > 0


class NoShutdown:
    """Replaces the module `socket`. No socket object can be created, as on a system without free file descriptors."""

    SHUT_RDWR = socket.SHUT_RDWR

    @staticmethod
    def socket(fileno: int) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("can_shut_down", [True, False], ids=["shut down", "cannot be shut down"])
@pytest.mark.parametrize("library", [httpx2, httpx], ids=lambda library: library.__name__)
@pytest.mark.parametrize("anyio_backend", LOOPS[:2])
async def test_a_second_native_cancel_strands_no_pool_slot(
    library: Any, can_shut_down: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two calls of `Task.cancel()`, which interrupt even a shielded close, the pool slot is free again.

    httpx (and httpx2 up to 2.0) is interrupted while it closes its connection, and does not close it later by itself.
    """
    if not can_shut_down:
        monkeypatch.setattr("aprefill._transports._kill.socket", NoShutdown)
    async with serve(STALLING) as server:
        limits = library.Limits(max_connections=1)
        async with library.AsyncClient(limits=limits) as client:
            for number in range(10):
                reply = stream("hi", model="m", client=client, base_url=server.openai_url)
                task = asyncio.get_running_loop().create_task(reply.text())
                with anyio.fail_after(2):
                    exchange = await server.wait_exchange(number)
                    await exchange.waiting.wait()
                task.cancel()
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                with anyio.fail_after(2):
                    await exchange.closed.wait()


@pytest.mark.parametrize("library", [httpx2, httpx], ids=lambda library: library.__name__)
@pytest.mark.parametrize("anyio_backend", LOOPS[:2])
async def test_a_second_native_cancel_before_the_answer_strands_no_pool_slot(library: Any) -> None:
    """Two cancellations before the head of the answer arrives also free the only slot, and the host sees the close."""
    async with serve([*[Script(first_byte_s=math.inf)] * 3, Script(text="ab", prefill="eats")]) as server:
        async with library.AsyncClient(limits=library.Limits(max_connections=1), trust_env=False) as client:
            for number in range(3):
                reply = stream("hi", model="m", client=client, base_url=server.openai_url)
                task = asyncio.get_running_loop().create_task(reply.text())
                exchange = await server.wait_exchange(number)
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                task.cancel()
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                with anyio.fail_after(2):
                    await exchange.closed.wait()
            with anyio.fail_after(2):
                assert await stream("hi", model="m", client=client, base_url=server.openai_url).text() == "ab"


def test_the_fin_goes_out_before_the_loop_runs_again() -> None:
    """After `break`, the provider sees the close although the caller then blocks the event loop's thread."""

    async def main(url: str) -> float:
        async for _ in stream("hi", prefill="zero ", model="vllm:m", base_url=url):
            break
        left = time.perf_counter()
        time.sleep(0.3)  # noqa: ASYNC251 - blocking the event loop is what this test needs
        return left

    with serve_in_thread(STALLING) as server:
        left = anyio.run(main, server.openai_url)
        closed_at = server.exchanges[0].closed_at
    assert closed_at is not None
    assert closed_at - left < 0.2


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_reply_whose_loop_has_ended_is_not_kept() -> None:
    """A reply left open when its event loop ended is not kept alive once the caller drops it."""
    before = len(live)
    with serve_in_thread(STALLING) as server:
        kept: list[Any] = []

        async def main() -> None:
            reply = stream("hi", prefill="zero ", model="vllm:m", base_url=server.openai_url)
            cursor = aiter(reply)
            await anext(cursor)
            kept.extend([reply, cursor])

        anyio.run(main)
        assert len(live) == before + 1
        kept.clear()
        assert len(live) == before


def drop_in_a_child(cursors: list[Any]) -> None:
    child = os.fork()
    if not child:
        cursors.clear()
        os._exit(0)
    os.waitpid(child, 0)


def test_a_forked_child_leaves_the_parents_connection_alone() -> None:
    """A forked child that drops the inherited cursor does not close the parent's connection: the parent reads on."""

    async def main(url: str) -> str:
        cursors = [aiter(stream("hi", model="m", base_url=url))]
        text = await anext(cursors[0])
        drop_in_a_child(cursors)
        async for chunk in cursors[0]:
            text += chunk
        return text

    with serve_in_thread(Script(text="one two three four", cuts=4, pace_s=0.02)) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork() in a process with threads warns
        assert anyio.run(main, server.openai_url) == "one two three four"


GOOD = Script(text="one two three four", cuts=4, prefill="eats")


async def test_twenty_replies_in_a_row_use_one_connection() -> None:
    """A reply that was read to its end returns its connection to the pool."""
    async with serve(GOOD) as server, Session("openai:gpt", base_url=server.openai_url) as session:
        for _ in range(20):
            assert await session.stream("hi").text() == "one two three four"
        assert server.connections == 1


async def read_two(session: Session) -> str:
    """Read two replies over one connection.

    In the middle of the second, drop, cancel and kill everything of the first.
    """
    first = session.stream("hi")
    stale = aiter(first)
    async for _ in stale:
        pass
    handle = first._run.connection.attempt._response._kill
    text = ""
    async for chunk in session.stream("hi"):
        if not text:
            del stale
            first.cancel()
            handle.kill()
        text += chunk
    return text


SLOW = Script(text="one two three four", cuts=4, prefill="eats", pace_s=0.002)


async def test_a_stale_cursor_does_not_cut_the_next_reply() -> None:
    """The next reply on a reused connection is complete, although the first reply is dropped in the middle of it."""
    async with serve(SLOW) as server, Session("openai:gpt", base_url=server.openai_url) as session:
        assert await read_two(session) == "one two three four"
        assert server.connections == 1


async def test_control_without_disarming_it_cuts_the_next_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: if the handles of the first reply are not disarmed, the second reply is cut."""
    monkeypatch.setattr(KillHandle, "disarm", lambda self: None)
    async with serve(SLOW) as server, Session("openai:gpt", base_url=server.openai_url) as session:
        with pytest.raises(Truncated):
            await read_two(session)


async def seconds_of(server: Any) -> float:
    """Return the time of the fastest of five replies over one session."""
    async with Session("openai:gpt", base_url=server.openai_url) as session:
        took = []
        for _ in range(5):
            began = time.perf_counter()
            assert await session.stream("hi").text() == "one two three four"
            took.append(time.perf_counter() - began)
        return min(took)


async def test_a_host_that_holds_the_connection_costs_no_time() -> None:
    """After the protocol's end at most 50 ms and 64 KiB more of the body are read, and the reader does not wait."""
    async with serve(GOOD) as server:
        free = await seconds_of(server)
    async with serve(Script(text=GOOD.text, cuts=4, hold_open_s=30)) as server:
        held = await seconds_of(server)
        with anyio.fail_after(2):
            await server.exchanges[0].closed.wait()
    async with serve(Script(text=GOOD.text, cuts=4, text_after_end="x" * 1_000_000)) as server:
        flooded = await seconds_of(server)
        assert server.connections == 5
    assert held - free < 0.030
    assert flooded - free < 0.030


LAST_WORDS = """
import asyncio, sys
from aprefill import stream
async def main():
    async for chunk in stream("hi", model="m", base_url=sys.argv[1]):
        break
{run}
print("left")
"""

RUNS = {
    "asyncio": "asyncio.run(main())",
    "uvloop": "import uvloop; uvloop.run(main())",
    "trio": "import trio; trio.run(main)",
}


async def test_break_as_the_last_thing_a_program_does(anyio_backend: Any) -> None:
    """An event loop that ends right after `break` gives no warning, traceback or hang, and the host sees the close."""
    name = "uvloop" if anyio_backend[1].get("use_uvloop") else anyio_backend[0]
    code = LAST_WORDS.format(run=RUNS[name])
    async with serve(STALLING) as server:
        with anyio.fail_after(20):
            done = await anyio.run_process([sys.executable, "-W", "error", "-c", code, server.openai_url])
            await server.exchanges[0].closed.wait()
        assert (done.stdout.decode().strip(), done.stderr.decode()) == ("left", "")

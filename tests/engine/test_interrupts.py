"""Interrupts while the engine waits: what arrives afterwards is closed, and nobody waits for it."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import sys
import time
from typing import Any

import anyio
import anyio.abc
import anyio.streams.buffered
import httpx
import httpx2
import pytest

from aprefill import (
    ConnectFailed,
    Limits,
    ProviderError,
    Recovery,
    Reply,
    ReplyClosed,
    Session,
    Stalled,
    Timeouts,
    UsageError,
    stream,
)
from aprefill._engine.attempt import Attempt
from aprefill._engine.connection import live
from aprefill._transports._kill import KillHandle
from aprefill.testing import Script, serve, serve_in_thread

from ..support.loopback import ask, chunks_of, server_has

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("small_ca")]

#: One context for all clients of these tests: loading the system certificates takes longer than most tests.
TLS = ssl.create_default_context()

#: How often a connection is left while it is being opened, per event loop and kind of client.
TIMES = int(os.environ.get("APREFILL_CLOSING_TIMES", "12"))
#: How long a caller's response hook takes, in seconds.
HOOK_S = float(os.environ.get("APREFILL_HOOK_S", "0.02"))
STALLING = Script(text="one two three four", cuts=4, stall_after=12, prefill="eats")
GOOD = Script(text="one two three four", cuts=4, prefill="eats")


async def leave_while_opening(server: Any, open_reply: Any, number: int, hooked: Hook | None = None) -> None:
    """Start a reply, and close it from another task while its answer is on the way or is held by the hook."""
    reply: Reply = open_reply()

    async def read() -> None:
        with pytest.raises(UsageError, match="left before its end"):
            await chunks_of(reply)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await server_has(server, number + 1)
        if hooked is not None:
            await hooked.was_called(number + 1)
        # Each reply is closed a little later after the first byte of its request, so the answer falls somewhere in
        # between.
        for _ in range(number % 40):
            await anyio.lowlevel.checkpoint()
        await reply.aclose()


async def still_open(server: Any) -> int:
    """Return how many connections are still open after two seconds at most."""
    with anyio.move_on_after(2):
        await server.wait_closed(timeout_s=3)
    return int(server.open_connections)


async def open_after_leaving(times: int) -> int:
    async with serve(STALLING) as server, Session("openai:gpt", base_url=server.openai_url) as session:
        for number in range(times):
            await leave_while_opening(server, lambda: session.stream("hi"), number)
        assert len(server.exchanges) == times
        return await still_open(server)


async def test_a_connection_left_while_it_opens_is_closed() -> None:
    """With aprefill's own pool, an answer that arrives at any time after `aclose()` is closed."""
    assert await open_after_leaving(TIMES) == 0


@pytest.fixture
def short_close(monkeypatch: pytest.MonkeyPatch) -> float:
    """How long a close is waited for here, in seconds: one test waits the real second."""
    for module in ("_engine.connection", "_transports.http"):
        monkeypatch.setattr(f"aprefill.{module}.CLOSE_S", 0.4)
    return 0.4


class Hook:
    """A response hook that shields itself from cancellation. It takes `seconds`, or ends when `going_on` is set."""

    def __init__(self, seconds: float = 60) -> None:
        self._calls = 0
        self._seconds = seconds
        self.going_on = anyio.Event()

    async def __call__(self, response: httpx2.Response) -> None:
        self._calls += 1
        with anyio.move_on_after(self._seconds, shield=True):
            await self.going_on.wait()

    async def was_called(self, calls: int) -> None:
        while self._calls < calls:
            await anyio.lowlevel.checkpoint()


def one_slot(hook: Any) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=1)
    return httpx2.AsyncClient(limits=limits, event_hooks={"response": [hook]}, verify=TLS, trust_env=False)


async def test_a_shielded_hook_keeps_no_slot() -> None:
    """After each `aclose()` the only slot of a caller's client is free again, although its hook was shielded."""
    hook = Hook(HOOK_S)
    async with serve(STALLING) as server, one_slot(hook) as client:
        for number in range(TIMES // 4):
            open_reply = lambda: stream("hi", model="m", client=client, base_url=server.openai_url)  # noqa: E731
            with anyio.fail_after(5):
                await leave_while_opening(server, open_reply, number, hook)
        assert await still_open(server) == 0


@pytest.mark.any_loop
async def test_a_hook_slower_than_the_bound_is_waited_for_a_second() -> None:
    """`aclose()` waits one second for a shielded hook. The answer is closed later, when the hook returns."""
    hook = Hook()
    async with serve(STALLING) as server, one_slot(hook) as client:
        reply = stream("hi", model="m", client=client, base_url=server.openai_url)
        async with anyio.create_task_group() as group:

            async def read() -> None:
                with pytest.raises(UsageError, match="left before its end"):
                    await reply.text()

            group.start_soon(read)
            await hook.was_called(1)
            began = time.perf_counter()
            with anyio.fail_after(3):
                await reply.aclose()
            assert 0.9 < time.perf_counter() - began < 2
            assert server.open_connections == 1
            hook.going_on.set()
        assert await still_open(server) == 0


async def test_session_aclose_closes_what_is_being_opened() -> None:
    """`Session.aclose()` also closes a connection that is being opened.

    The caller's client stays open and its slot is free.
    """
    hook = Hook(HOOK_S)
    async with serve([STALLING, GOOD]) as server, one_slot(hook) as client:
        session = Session("m", client=client, base_url=server.openai_url)
        async with anyio.create_task_group() as group:

            async def read() -> None:
                with pytest.raises(UsageError, match="left before its end"):
                    await session.stream("hi").text()

            group.start_soon(read)
            await hook.was_called(1)
            await session.aclose()
        with anyio.fail_after(5):
            assert await stream("hi", model="m", client=client, base_url=server.openai_url).text() == GOOD.text


async def test_control_of_what_arrives_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: an attempt that closes only what exists at the interrupt leaves the late answer open."""

    kept = []

    async def aclose(self: Attempt) -> None:
        # Keep the attempt, or the garbage collector would close the answer.
        kept.append(self)
        if self._response is not None:
            await self._response.aclose()

    monkeypatch.setattr(Attempt, "aclose", aclose)
    hook = Hook(HOOK_S)
    async with serve(STALLING) as server, one_slot(hook) as client:
        open_reply = lambda: stream("hi", model="m", client=client, base_url=server.openai_url)  # noqa: E731
        await leave_while_opening(server, open_reply, 0, hook)
        with anyio.move_on_after(0.1):
            await server.wait_closed()
        assert server.open_connections == 1


# --- without a file descriptor ----------------------------------------------------------------------------------

NO_DESCRIPTOR = """
import os, resource, sys, time
import anyio
from aprefill import Recovery, Stalled, Timeouts, stream

async def main():
    options = {"model": "m", "base_url": sys.argv[1], "recovery": Recovery(retries=0)}
    # the first request makes the client, which takes a moment
    await stream("hi", **options).text()
    clocked = stream("hi", **options, timeouts=Timeouts(idle_s=0.3))
    cancelled = stream("hi", **options)
    first, second = aiter(clocked), aiter(cancelled)
    for cursor in (first, second):
        while (chunk := await anext(cursor)) != "thre":
            pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            os.open("/dev/null", os.O_RDONLY)
    except OSError as exc:
        assert exc.errno == 24, exc
    began = time.perf_counter()
    try:
        await anext(first)
    except Stalled as exc:
        print("stalled", exc.clock, time.perf_counter() - began < 1)

    ends = []
    async def read():
        async for chunk in second:
            ends.append(chunk)
        ends.append(None)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        began = time.perf_counter()
        cancelled.cancel()
    print("woken", ends, time.perf_counter() - began < 0.5)

anyio.run(main, backend=sys.argv[2], backend_options={"use_uvloop": True} if sys.argv[3] == "uvloop" else {})
"""

THREE_WORDS = Script(text="one two three", cuts=4, stall_after=12, prefill="eats")


async def test_clocks_and_cancel_work_without_a_file_descriptor(anyio_backend: Any) -> None:
    """Without free file descriptors, `idle_s=0.3` still ends the wait in time, and `cancel()` wakes the reader."""
    name, options = anyio_backend
    loop = "uvloop" if options.get("use_uvloop") else name
    with serve_in_thread([GOOD, THREE_WORDS, THREE_WORDS]) as server:
        command = [sys.executable, "-c", NO_DESCRIPTOR, server.openai_url, name, loop]
        with anyio.fail_after(30):
            done = await anyio.run_process(command, check=False)
    assert done.stderr.decode() == ""
    assert done.stdout.decode().split("\n") == ["stalled idle_s True", "woken [None] True", ""]


@pytest.mark.parametrize("how", ["clock", "cancel"])
async def test_a_connection_that_cannot_be_shut_down_keeps_nobody_waiting(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the socket cannot be shut down, the waiting task is woken in another way and is not itself left cancelled."""
    monkeypatch.setattr(KillHandle, "kill", lambda self: False)
    async with serve([STALLING, GOOD]) as server:
        timeouts = Timeouts(idle_s=0.1) if how == "clock" else Timeouts()
        reply = ask(server, "chat", timeouts=timeouts)
        cursor = aiter(reply)
        for _ in range(3):
            await anext(cursor)
        with anyio.fail_after(2):
            if how == "clock":
                with pytest.raises(Stalled, match="idle_s"):
                    await anext(cursor)
            else:
                async with anyio.create_task_group() as group:

                    async def read() -> None:
                        assert [chunk async for chunk in cursor] == []

                    group.start_soon(read)
                    await server.exchanges[0].waiting.wait()
                    for _ in range(10):
                        await anyio.lowlevel.checkpoint()
                    reply.cancel()
            await server.exchanges[0].closed.wait()
            # The reading task itself is not cancelled.
            await anyio.sleep(0.01)
            assert await ask(server, "chat").text() == GOOD.text


# --- sessions, and who may read ---------------------------------------------------------------------------------


async def test_a_session_closes_its_replies_side_by_side(short_close: float) -> None:
    """A session closes its replies concurrently: five replies with hanging clients take about one second together."""

    hook = Hook()
    async with serve(STALLING) as server:
        async with httpx2.AsyncClient(event_hooks={"response": [hook]}, verify=TLS, trust_env=False) as client:
            session = Session("m", client=client, base_url=server.openai_url)
            async with anyio.create_task_group() as group:

                async def read() -> None:
                    with pytest.raises(UsageError, match="left before its end"):
                        await session.stream("hi").text()

                for _ in range(5):
                    group.start_soon(read)
                await hook.was_called(5)
                began = time.perf_counter()
                await session.aclose()
                took = time.perf_counter() - began
                hook.going_on.set()
        assert 0.9 * short_close < took < 2.5 * short_close
        assert await still_open(server) == 0


class Stuck:
    """A client, or a run and its connection, whose `aclose()` never returns."""

    def __init__(self, transport: Any = None) -> None:
        self.transport = transport
        self.closed = anyio.Event()
        self.began = 0

    def drop(self) -> None:
        self.began += 1

    async def aclose(self) -> None:
        self.began += 1
        await anyio.sleep_forever()


async def test_what_never_closes_is_waited_for_once(short_close: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging reply and both hanging clients of a pool take one second together, not one each."""
    async with serve(GOOD) as server:
        session = Session("vllm:m", base_url=server.openai_url)
        assert await session.stream("hi").text() == GOOD.text
        (transport,) = session._pool._transports.values()
        client, stuck = transport._client, [Stuck(transport), Stuck(), Stuck()]  # type: ignore[attr-defined]
        transport._client, transport._fresh = stuck[1:]  # type: ignore[attr-defined]
        monkeypatch.setattr("aprefill._engine.connection.live", {**live, stuck[0]: stuck[0]})
        began = time.perf_counter()
        await session.aclose()
        took = time.perf_counter() - began
        assert [one.began for one in stuck] == [1, 1, 1]
        assert 0.9 * short_close < took < 1.9 * short_close
        await client.aclose()


def test_a_session_is_closed_in_its_own_loop() -> None:
    """Closing a session in another event loop raises an error that says so."""

    async def use(session: Session) -> None:
        await session.stream("hi").text()

    session = Session("demo:eats")
    anyio.run(use, session)
    with pytest.raises(UsageError, match="belongs to another event loop"):
        anyio.run(session.aclose)


async def test_a_second_cursor_gets_an_error_and_the_first_goes_on() -> None:
    """A second cursor gets an error and the first loses no chunk, whether or not text was already buffered."""
    async with serve(Script(text="abcdef", cuts=1, wire_cuts=1 << 16, prefill="eats")) as server:
        async with ask(server, "chat") as reply:
            first = aiter(reply)
            text = await anext(first)
            for second in (aiter(reply), reply.events()):
                with pytest.raises(UsageError, match="being read already") as raised:
                    await anext(second)
                assert raised.value.text_so_far == text
            del second
            text += "".join([chunk async for chunk in first])
    assert text == "abcdef"


async def test_text_beside_a_loop_in_another_task_gets_an_error() -> None:
    """`reply.text()` during a loop in another task raises `UsageError`: the caller is at fault, not the provider."""
    async with serve(Script(text="abcdef", cuts=1, pace_s=0.01, prefill="eats")) as server:
        reply = ask(server, "chat")
        text = ""
        async with anyio.create_task_group() as group:

            async def second() -> None:
                with pytest.raises(UsageError, match="being read already"):
                    await reply.text()

            async for chunk in reply:
                text += chunk
                if text == "abc":
                    group.start_soon(second)
    assert text == "abcdef"


async def test_a_reader_follows_one_that_has_ended_or_was_dropped() -> None:
    """After `break` inside `async with`, another loop or `text()` continues reading.

    `text()` may also be called from the body of the loop.
    """
    async with serve(Script(text="abcdef", cuts=1, prefill="eats")) as server:
        async with ask(server, "chat") as reply:
            async for _ in reply:
                break
            async for _ in reply:
                break
            assert await reply.text() == "abcdef"
        async with ask(server, "chat") as reply:
            seen = []
            async for chunk in reply:
                seen.append(chunk)
                assert await reply.text() == "abcdef"
            assert seen == ["a"]


async def test_text_is_judged_by_the_task_that_reads_now() -> None:
    """Whether `text()` is allowed depends on the task that reads now, not on the task that created the cursor.

    The task that received the cursor may call it. The task that created the cursor gets an error.
    """
    async with serve(Script(text="abcdef", cuts=1, pace_s=0.01, prefill="eats")) as server:
        for make in (Reply.__aiter__, lambda reply: reply.events()):
            async with ask(server, "chat") as reply, anyio.create_task_group() as group:
                cursor: Any = make(reply)
                await anext(cursor)
                has_read, going_on = anyio.Event(), anyio.Event()
                whole: list[str] = []

                async def other(
                    reply: Any = reply,
                    cursor: Any = cursor,
                    whole: Any = whole,
                    has_read: Any = has_read,
                    go: Any = going_on,
                ) -> None:
                    while len(reply.text_so_far) < 3:
                        await anext(cursor)
                    has_read.set()
                    await go.wait()
                    whole.append(await reply.text())

                group.start_soon(other)
                await has_read.wait()
                at = reply._run.transcript.next
                with pytest.raises(UsageError, match="being read already") as raised:
                    await reply.text()
                assert (reply._run.transcript.next, raised.value.text_so_far) == (at, "abc")
                going_on.set()
            assert whole == ["abcdef"]


async def test_a_task_that_took_a_number_over_is_another_one() -> None:
    """A new task that has the id of an ended task is not taken for it, so it does not get its cursor."""
    async with serve(Script(text="abcdef", cuts=1, pace_s=0.01, prefill="eats")) as server:
        async with ask(server, "chat") as reply:
            cursor = aiter(reply)
            numbers = set()

            async def begin() -> None:
                numbers.add(anyio.get_current_task().id)
                await anext(cursor)

            async def rob() -> None:
                numbers.add(anyio.get_current_task().id)
                with pytest.raises(UsageError, match="being read already"):
                    await reply.text()

            async with anyio.create_task_group() as group:
                group.start_soon(begin)
            for _ in range(50):
                async with anyio.create_task_group() as group:
                    group.start_soon(rob)
            # The ids were in fact reused.
            assert len(numbers) < 51
            assert reply.text_so_far == "a"


async def test_text_while_another_pull_waits_changes_nothing() -> None:
    """If another task waits in a pull, `text()` raises an error and leaves the received text for that reader."""
    async with serve(GOOD) as server:
        reply = ask(server, "chat")
        run = reply._run
        run.readers.wait = True
        run.transcript.items.append("one ")
        with pytest.raises(UsageError, match="two tasks"):
            await reply.text()
        assert (run.transcript.next, reply.text_so_far) == (0, "")


async def test_a_cursor_dropped_while_text_reads_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a cursor is dropped while `text()` reads, then after `text()` the next reader in any task may read."""
    async with serve(GOOD) as server:
        async with ask(server, "chat") as reply:
            cursors = [aiter(reply)]
            made = reply._run.requests._way
            drops: list[bool] = [False, True]

            def refuse() -> Any:
                if drops.pop(0):
                    cursors.clear()
                raise UsageError("not yet")

            monkeypatch.setattr(reply._run.requests, "_way", made._replace(transport=refuse))
            with pytest.raises(UsageError, match="not yet"):
                await anext(cursors[0])
            with pytest.raises(UsageError, match="not yet"):
                await reply.text()
            assert not cursors
            monkeypatch.setattr(reply._run.requests, "_way", made)

            async def next_reader() -> None:
                assert "".join(await chunks_of(reply)) == GOOD.text

            async with anyio.create_task_group() as group:
                group.start_soon(next_reader)


# --- a pooled connection that the host has just closed ----------------------------------------------------------


class ClosesAfterOne:
    """A host that keeps a connection open for one answer, and closes it when the next request arrives.

    Before it closes the first such connection, it sends `part`. With `reset` it closes with a reset.
    """

    def __init__(self, *, on_first: bool = False, part: bytes = b"", reset: bool = False) -> None:
        self.requests = 0
        self.connections = 0
        self._on_first = on_first
        self._part = part
        self._reset = reset

    async def __call__(self, stream: Any) -> None:
        self.connections += 1
        async with stream:
            buffered = anyio.streams.buffered.BufferedByteReceiveStream(stream)
            answered = 0
            while True:
                try:
                    head = await buffered.receive_until(b"\r\n\r\n", 65_536)
                    length = next(
                        int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length")
                    )
                    await buffered.receive_exactly(length)
                except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.EndOfStream):
                    return
                self.requests += 1
                if answered or self._on_first:
                    if self._part:
                        await stream.send(self._part)
                    if self._reset:
                        sock = stream.extra(anyio.abc.SocketAttribute.raw_socket)
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                answered += 1
                body = b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
                await stream.send(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%s"
                    % (len(body), body)
                )


async def running(host: ClosesAfterOne, group: Any) -> str:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def run() -> None:
        async with listener:
            await listener.serve(host)

    group.start_soon(run)
    return f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/v1"


def sdk_client(url: str) -> Any:
    import openai

    return openai.AsyncOpenAI(api_key="k", base_url=url)


CLIENTS: list[Any] = [
    pytest.param(None, id="ours"),
    pytest.param(lambda url: httpx2.AsyncClient(verify=TLS, trust_env=False), id="httpx2"),
    pytest.param(lambda url: httpx.AsyncClient(verify=TLS, trust_env=False), id="httpx"),
    pytest.param(sdk_client, id="openai"),
]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("make", CLIENTS)
async def test_a_kept_connection_that_breaks_costs_no_retry(make: Any, reset: bool) -> None:
    """If a reused connection breaks, the request is sent once more at once.

    With `retries=0` the reply is complete in one attempt without a wait.
    """
    host = ClosesAfterOne(reset=reset)
    async with anyio.create_task_group() as group:
        url = await running(host, group)
        client = None if make is None else make(url)
        options: dict[str, Any] = {} if make is sdk_client else {"base_url": url}
        async with Session("m", client=client, recovery=Recovery(retries=0), **options) as session:
            assert await session.stream("hi").text() == "hi"
            began = time.perf_counter()
            reply = session.stream("hi")
            assert await reply.text() == "hi"
            took = time.perf_counter() - began
        assert (len(reply.attempts), host.requests, host.connections) == (1, 3, 2)
        assert took < 2
        if client is not None:
            await (client.close() if make is sdk_client else client.aclose())
        group.cancel_scope.cancel()


PARTS = [b"H", b"HTTP/1.1 2", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"]


@pytest.mark.any_loop
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("part", PARTS, ids=["one byte", "part of a head", "103"])
@pytest.mark.parametrize("make", CLIENTS)
async def test_an_answer_that_has_begun_is_not_asked_for_again(make: Any, part: bytes, reset: bool) -> None:
    """If any byte of the answer arrived, the request is not repeated silently: it would be paid for twice."""
    host = ClosesAfterOne(part=part, reset=reset)
    async with anyio.create_task_group() as group:
        url = await running(host, group)
        client = None if make is None else make(url)
        options: dict[str, Any] = {} if make is sdk_client else {"base_url": url}
        async with Session("m", client=client, recovery=Recovery(retries=0), **options) as session:
            assert await session.stream("hi").text() == "hi"
            with pytest.raises(ConnectFailed):
                await session.stream("hi").text()
        assert (host.requests, host.connections) == (2, 1)
        if client is not None:
            await (client.close() if make is sdk_client else client.aclose())
        group.cancel_scope.cancel()


async def test_a_client_with_a_trace_of_its_own_is_asked_again_too() -> None:
    """The retry also works with a client that has its own `trace` extension, which is still called."""
    events: list[str] = []

    async def trace(name: str, info: Any) -> None:
        events.append(name)

    class Tracing(httpx2.AsyncClient):
        def build_request(self, *args: Any, **options: Any) -> httpx2.Request:
            return super().build_request(*args, **options, extensions={"trace": trace})

    host = ClosesAfterOne()
    async with anyio.create_task_group() as group:
        url = await running(host, group)
        async with Tracing(verify=TLS, trust_env=False) as client:
            session = Session("m", client=client, base_url=url, recovery=Recovery(retries=0))
            assert await session.stream("hi").text() == await session.stream("hi").text() == "hi"
        assert (host.requests, events.count("connection.connect_tcp.started")) == (3, 2)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("make", CLIENTS)
async def test_a_new_connection_that_breaks_is_a_failure(make: Any) -> None:
    """If a new connection breaks, the request is not repeated silently."""
    host = ClosesAfterOne(on_first=True)
    async with anyio.create_task_group() as group:
        url = await running(host, group)
        client = None if make is None else make(url)
        options: dict[str, Any] = {} if make is sdk_client else {"base_url": url}
        async with Session("m", client=client, recovery=Recovery(retries=0), **options) as session:
            with pytest.raises(ConnectFailed):
                await session.stream("hi").text()
        assert (host.requests, host.connections) == (1, 1)
        if client is not None:
            await (client.close() if make is sdk_client else client.aclose())
        group.cancel_scope.cancel()


# --- in the middle of a TLS handshake ---------------------------------------------------------------------------


class NeverAnswers:
    """A host that accepts a connection and never sends anything, so that a TLS handshake with it does not end."""

    def __init__(self) -> None:
        self.open = 0
        self.was_greeted = anyio.Event()
        self.closed = anyio.Event()

    async def __call__(self, stream: Any) -> None:
        self.open += 1
        async with stream:
            try:
                while True:
                    await stream.receive()
                    self.was_greeted.set()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
            self.open -= 1
            self.closed.set()


async def leave_in_handshake(host: NeverAnswers, make: Any, how: str, within_s: float = 2) -> bool:
    """Leave a reply during the TLS handshake. Return whether the host sees the close in time."""
    async with anyio.create_task_group() as group:
        url = (await running(host, group)).replace("http:", "https:")
        client = None if make is None else make(url)
        options: dict[str, Any] = {} if make is sdk_client else {"base_url": url}
        timeouts = Timeouts(total_s=0.2) if how == "total_s" else Timeouts()
        reply = stream("hi", model="m", client=client, timeouts=timeouts, **options)
        scope = anyio.CancelScope()

        async def read() -> None:
            with scope:
                if how == "aclose":
                    with pytest.raises(ReplyClosed):
                        await chunks_of(reply)
                elif how == "total_s":
                    with pytest.raises(Stalled, match="total_s"):
                        await chunks_of(reply)
                else:
                    assert await chunks_of(reply) == []

        async with anyio.create_task_group() as readers:
            readers.start_soon(read)
            await host.was_greeted.wait()
            if how == "aclose":
                await reply.aclose()
            elif how == "cancel":
                reply.cancel()
            elif how == "task":
                scope.cancel()
        with anyio.move_on_after(within_s):
            await host.closed.wait()
        is_closed = host.closed.is_set()
        if client is not None:
            await (client.close() if make is sdk_client else client.aclose())
        group.cancel_scope.cancel()
    return is_closed


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("how", ["aclose", "cancel", "task", "total_s"])
@pytest.mark.parametrize("make", CLIENTS)
async def test_a_handshake_that_is_left_is_closed(make: Any, how: str) -> None:
    """A connection left during its TLS handshake is closed.

    The HTTP libraries leave it to the garbage collector.
    """
    assert await leave_in_handshake(NeverAnswers(), make, how)


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("make", CLIENTS)
async def test_control_a_handshake_that_nobody_closes(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: if only the HTTP library closes the connection, the host still waits."""
    left: list[Any] = []
    monkeypatch.setattr("aprefill._transports._left.spawn_closing", lambda close, loop: left.append(close))
    assert not await leave_in_handshake(NeverAnswers(), make, "aclose", 0.2)
    for close in left:
        await close()
    assert len(left) == 1


# --- the end of a reply -----------------------------------------------------------------------------------------


async def test_the_end_of_a_reply_does_not_wait_for_the_end_of_its_body() -> None:
    """The reader does not wait for the end of the body after the last record: the loop and `total_s` end at once."""
    async with serve(Script(text="abc", prefill="eats", hold_open_s=30)) as server:
        async with Session("vllm:m", base_url=server.openai_url) as session:
            took = []
            for _ in range(5):
                reply = session.stream("hi")
                async for _ in reply:
                    at = time.perf_counter()
                took.append(time.perf_counter() - at)
                assert reply.timing.total_s is not None
                assert reply.timing.first_text_s is not None
                took.append(reply.timing.total_s - reply.timing.first_text_s)
    # The body is read for 50 ms more in the background.
    assert min(took[::2]) < 0.02
    assert min(took[1::2]) < 0.02


@pytest.mark.parametrize("fault", [{"drop_after_bytes": 700}, {"reset_after_bytes": 700}, {"stall_after": 3}])
async def test_a_reply_that_failed_stays_failed(fault: dict[str, Any]) -> None:
    """Text before an error is never returned as a complete reply, even if the cursor and the error are kept."""
    async with serve(Script(text="abcdef", cuts=1, prefill="eats", **fault)) as server:
        async with ask(server, "messages", timeouts=Timeouts(idle_s=0.2)) as reply:
            cursor = aiter(reply)
            with pytest.raises(ProviderError) as kept:
                async for _ in cursor:
                    pass
            for _ in range(2):
                with pytest.raises(ReplyClosed):
                    await reply.text()
            with pytest.raises(ReplyClosed):
                await chunks_of(reply)
            assert kept.value.text_so_far == reply.text_so_far


@pytest.mark.parametrize("how", ["reply", "cursor", "async with"])
async def test_after_aclose_a_reply_that_had_not_begun_sends_nothing(how: str) -> None:
    """After `aclose()` a reply that had not begun sends nothing, even if a reader was started but has not run yet.

    Dropping a cursor that was never read does not close the reply.
    """
    async with serve(GOOD) as server:
        reply = ask(server, "chat")
        async with anyio.create_task_group() as group:

            async def read(cursor: Any = None) -> None:
                with pytest.raises(ReplyClosed):
                    await (reply.text() if cursor is None else anext(cursor))

            group.start_soon(read)
            group.start_soon(read, aiter(reply))
            if how == "reply":
                await reply.aclose()
            elif how == "cursor":
                cursor: Any = aiter(reply)
                await cursor.aclose()
            else:
                async with reply:
                    pass
        await read()
        await reply.aclose()
        assert (len(reply.attempts), server.connections) == (0, 0)
        dropped = ask(server, "chat")
        aiter(dropped)
        assert await dropped.text() == GOOD.text


@pytest.mark.usefixtures("short_close")
async def test_a_body_is_read_on_for_as_long_as_the_caller_says() -> None:
    """With `drain_s=3` a host may take longer to end its body than closing may take, and its connection is reused."""
    async with serve(Script(text="abc", prefill="eats", hold_open_s=0.6)) as server:
        async with Session("vllm:m", base_url=server.openai_url, limits=Limits(drain_s=3)) as session:
            began = time.perf_counter()
            reply = session.stream("hi")
            assert await reply.text() == "abc"
            # The caller does not wait for the end of the body.
            await reply.aclose()
            assert time.perf_counter() - began < 0.3
            with anyio.fail_after(3):
                await reply._run.connection.closed.wait()
            assert time.perf_counter() - began > 0.5
            assert await session.stream("hi").text() == "abc"
            assert server.connections == 1


async def test_after_aclose_a_kept_cursor_blames_nobody() -> None:
    """After `aclose()` the next reader gets `ReplyClosed`, although an old cursor is still referenced."""
    async with serve(STALLING) as server:
        reply = ask(server, "chat")
        cursor = aiter(reply)
        await anext(cursor)
        await reply.aclose()
        with pytest.raises(ReplyClosed):
            await chunks_of(reply)
        with pytest.raises(ReplyClosed):
            await reply.text()

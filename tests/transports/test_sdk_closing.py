"""The closing matrix over the SDKs' clients: leaving a reply closes the provider's connection at once, and leaks nothing."""

from __future__ import annotations

import os
import statistics
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from aprefill import Session
from aprefill._engine.connection import live
from aprefill._transports._kill import KillHandle
from aprefill._transports.http import HttpResponse
from aprefill.testing import Script, serve

from ..conftest import LOOPS
from ..support.exits import EXITS, ROUNDS, STALLING, delay_of, exits, living_tasks, open_descriptors, settle
from .sdks import BY_NAME, KINDS, Kind, cells, is_on_aiohttp

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("small_ca", "no_gc")]


#: How often each way out is taken, a class, a loop and an HTTP stack; and how many mixed exits are looked for leaks.
TIMES = int(os.environ.get("APREFILL_SDK_CLOSING_TIMES", "2"))
MIXED = len(EXITS) * TIMES

#: Another key of the same class closes the same way.
CLASSES = [kind for kind in KINDS if kind.name not in {"anthropic-token", "azure-entra"}]
STACKS = [BY_NAME["openai"], BY_NAME["anthropic"]]

#: Below the SDK all classes of one are alike: one of each has all the loops.
by_class = pytest.mark.parametrize(
    ("anyio_backend", "kind", "stack"),
    [*cells(STACKS), *cells([kind for kind in CLASSES if kind not in STACKS], marks=pytest.mark.any_loop)],
)
by_stack = pytest.mark.parametrize(("anyio_backend", "kind", "stack"), cells(STACKS))


@by_class
async def test_the_server_sees_the_close_at_once(kind: Kind, stack: str) -> None:
    """Within 50 ms each time, median under 5 ms, whichever of the nine ways the reply is left."""
    async with serve(STALLING) as server, kind.client(server.url, stack) as client, kind.session(client) as session:
        await delay_of(EXITS[0], server, session)  # the SDKs look up the platform, the first time, in a thread
        for leave in EXITS:
            for _ in range(ROUNDS):
                delays = [await delay_of(leave, server, session) for _ in range(TIMES)]
                if max(delays) < 0.050 and statistics.median(delays) < 0.005:
                    break
            print(
                f"{leave.__name__}: median {statistics.median(delays) * 1e3:.2f} ms, worst {max(delays) * 1e3:.2f} ms"
            )
            assert max(delays) < 0.050, leave.__name__
            assert statistics.median(delays) < 0.005, leave.__name__


@by_stack
async def test_over_tls_as_well(kind: Kind, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same exits and the same bounds: it is the socket below TLS that is shut down."""
    async with serve(STALLING, tls=True) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        async with kind.client(server.url, stack) as client, kind.session(client) as session:
            await delay_of(EXITS[0], server, session)
            for _ in range(ROUNDS):
                delays = [await delay_of(leave, server, session) for leave in EXITS]
                if max(delays) < 0.050:
                    break
            assert max(delays) < 0.050
            with anyio.fail_after(2):
                await server.wait_closed()


@pytest.mark.parametrize("anyio_backend", LOOPS[:2])
async def test_the_public_aiohttp_client_for_httpx() -> None:
    """Passed as it is, not through an SDK."""
    httpx_aiohttp = pytest.importorskip("httpx_aiohttp")
    async with serve(STALLING) as server, httpx_aiohttp.HttpxAiohttpClient() as client:
        async with Session("openai:gpt", client=client, base_url=server.openai_url, support="eats") as session:
            assert max([await delay_of(leave, server, session) for leave in EXITS]) < 0.050


def slots(client: Any, stack: str, url: str) -> int:
    """Connections of the client's pool that somebody still holds."""
    http = client._client
    library = httpx if stack.startswith("httpx-") or stack == "httpx" else httpx2
    transport = http._transport_for_url(library.URL(url))
    if is_on_aiohttp(stack):
        return len(transport.client.connector._acquired)
    return len(transport._pool._requests)


async def left_over(server: Any, session: Session, client: Any, stack: str, backend: str, times: int) -> dict[str, int]:
    """What `times` mixed exits leave behind, counted after as many as warm everything up."""
    await exits(session, len(EXITS))
    await settle(server)
    descriptors, tasks = open_descriptors(), living_tasks(backend)
    await exits(session, times)
    await settle(server)
    with anyio.move_on_after(1):  # aiohttp's own callbacks take some turns of the loop
        while open_descriptors() > descriptors or slots(client, stack, server.url):
            await anyio.lowlevel.checkpoint()
    return {
        "descriptors": max(0, open_descriptors() - descriptors),
        "tasks": living_tasks(backend) - tasks,
        "slots": slots(client, stack, server.url),
        "live": len(live),
    }


NOTHING = {"descriptors": 0, "tasks": 0, "slots": 0, "live": 0}


@by_stack
async def test_mixed_exits_leave_nothing(kind: Kind, stack: str, anyio_backend_name: str) -> None:
    """No socket, task, file descriptor or pool slot is left, whichever ways the replies were left."""
    async with serve(STALLING) as server, kind.client(server.url, stack) as client, kind.session(client) as session:
        assert await left_over(server, session, client, stack, anyio_backend_name, MIXED) == NOTHING


def lazy(monkeypatch: pytest.MonkeyPatch) -> list[HttpResponse]:
    """Responses that neither shut their socket down nor are closed, and are held, as a forgotten reference would."""
    kept: list[HttpResponse] = []

    async def aclose(self: HttpResponse) -> None:
        kept.append(self)

    monkeypatch.setattr(HttpResponse, "aclose", aclose)
    monkeypatch.setattr(KillHandle, "kill", lambda self: False)
    return kept


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@by_stack
async def test_control_a_lazy_close_is_found(kind: Kind, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same exit and the same checks, without the kill handle and the close: not seen, and the slots stay taken."""
    async with serve(STALLING) as server, kind.client(server.url, stack) as client:
        session = kind.session(client)
        with monkeypatch.context() as broken:
            kept = lazy(broken)
            for _ in range(3):
                async for _ in session.stream("hi", prefill="zero "):
                    break
                while live:
                    await anyio.lowlevel.checkpoint()
            with pytest.raises(TimeoutError), anyio.fail_after(0.1):
                await server.exchanges[-1].closed.wait()
            assert slots(client, stack, server.url) == 3
        for response in kept:
            response.kill()
            await response.aclose()


# --- the handle itself ----------------------------------------------------------------------------------------

GOOD = Script(text="one two three four", cuts=4, prefill="eats")
SLOW = Script(text="one two three four", cuts=4, prefill="eats", pace_s=0.002)


async def read_two(session: Session) -> str:
    """Two replies over one connection; in the middle of the second everything of the first is let go and pulled."""
    first = session.stream("hi")
    stale = aiter(first)
    async for _ in stale:
        pass
    response: Any = first._run.connection.attempt._response
    text = ""
    async for chunk in session.stream("hi"):
        if not text:
            del stale
            first.cancel()
            response.kill()
            response._kill.kill()
        text += chunk
    return text


@by_stack
async def test_a_stale_cursor_does_not_cut_the_next_reply(kind: Kind, stack: str) -> None:
    """The next reply on the reused connection is whole, though the first one is let go in its middle."""
    async with serve(SLOW) as server, kind.client(server.url, stack) as client, kind.session(client) as session:
        assert await read_two(session) == "one two three four"
        assert server.connections == 1


@pytest.mark.parametrize("anyio_backend", LOOPS[:2])
@pytest.mark.parametrize("kind", STACKS, ids=lambda kind: kind.name)
async def test_a_connection_that_aiohttp_has_given_back_is_not_touched(kind: Kind) -> None:
    """All of the body was received, long before it was read: leaving then cuts neither the pool's connection nor the next reply."""
    async with serve([GOOD, SLOW]) as server, kind.client(server.url, "aiohttp") as client:
        async with kind.session(client) as session:
            first = session.stream("hi")
            cursor = aiter(first)
            assert await anext(cursor) == "one "
            response: Any = first._run.connection.attempt._response
            aiohttp_response = response._kill._stream._response
            with anyio.fail_after(2):
                while aiohttp_response.connection is not None:
                    await anyio.lowlevel.checkpoint()
            second = session.stream("hi")
            text = ""
            async for chunk in second:
                if not text:
                    assert not response.kill()
                    del cursor
                text += chunk
            assert text == "one two three four"
            assert server.connections == 1


@by_stack
async def test_the_fin_goes_out_from_another_thread(kind: Kind, stack: str) -> None:
    """A finaliser may run in any thread: the kill needs no loop."""
    async with serve(STALLING) as server, kind.client(server.url, stack) as client, kind.session(client) as session:
        reply = session.stream("hi")
        async with reply:
            cursor = aiter(reply)
            await anext(cursor)
            response: Any = reply._run.connection.attempt._response
            assert await anyio.to_thread.run_sync(response.kill)
            with anyio.fail_after(2):
                await server.exchanges[-1].closed.wait()

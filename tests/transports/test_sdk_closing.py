"""Leaving a reply over an SDK's client closes the provider's connection at once and leaks nothing."""

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


#: How often each way to leave a reply is used, per class, event loop and HTTP stack; and the number of exits in the
#: leak test.
TIMES = int(os.environ.get("APREFILL_SDK_CLOSING_TIMES", "2"))
MIXED = len(EXITS) * TIMES

#: Classes that differ only in their authentication close in the same way, so they are left out.
CLASSES = [kind for kind in KINDS if kind.name not in {"anthropic-token", "azure-entra"}]
STACKS = [BY_NAME["openai"], BY_NAME["anthropic"]]

#: Two classes run on every event loop. The others behave the same below the SDK and run on one.
by_class = pytest.mark.parametrize(
    ("anyio_backend", "kind", "stack"),
    [*cells(STACKS), *cells([kind for kind in CLASSES if kind not in STACKS], marks=pytest.mark.any_loop)],
)
by_stack = pytest.mark.parametrize(("anyio_backend", "kind", "stack"), cells(STACKS))


@by_class
async def test_the_server_sees_the_close_at_once(kind: Kind, stack: str) -> None:
    """The server sees the close within 50 ms, with a median under 5 ms, for each of the nine ways to leave a reply."""
    async with serve(STALLING) as server, kind.client(server.url, stack) as client, kind.session(client) as session:
        await delay_of(EXITS[0], server, session)  # the first request looks up the platform in a thread
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
    """Over TLS the bound of 50 ms is the same, because the socket below TLS is shut down."""
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
    """httpx-aiohttp's client can be passed as `client=` without an SDK."""
    httpx_aiohttp = pytest.importorskip("httpx_aiohttp")
    async with serve(STALLING) as server, httpx_aiohttp.HttpxAiohttpClient() as client:
        async with Session("openai:gpt", client=client, base_url=server.openai_url, support="eats") as session:
            assert max([await delay_of(leave, server, session) for leave in EXITS]) < 0.050


def slots(client: Any, stack: str, url: str) -> int:
    """Return the number of connections of the client's pool that are in use."""
    http = client._client
    library = httpx if stack.startswith("httpx-") or stack == "httpx" else httpx2
    transport = http._transport_for_url(library.URL(url))
    if is_on_aiohttp(stack):
        return len(transport.client.connector._acquired)
    return len(transport._pool._requests)


async def left_over(server: Any, session: Session, client: Any, stack: str, backend: str, times: int) -> dict[str, int]:
    """Return what `times` exits leave behind, after a warm-up."""
    await exits(session, len(EXITS))
    await settle(server)
    descriptors, tasks = open_descriptors(), living_tasks(backend)
    await exits(session, times)
    await settle(server)
    with anyio.move_on_after(1):  # aiohttp's callbacks need several iterations of the loop
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
    """After many exits of every kind no socket, task, file descriptor or pool slot is left."""
    async with serve(STALLING) as server, kind.client(server.url, stack) as client, kind.session(client) as session:
        assert await left_over(server, session, client, stack, anyio_backend_name, MIXED) == NOTHING


def lazy(monkeypatch: pytest.MonkeyPatch) -> list[HttpResponse]:
    """Make responses that are never closed and stay referenced. Returns the list of them."""
    kept: list[HttpResponse] = []

    async def aclose(self: HttpResponse) -> None:
        kept.append(self)

    monkeypatch.setattr(HttpResponse, "aclose", aclose)
    monkeypatch.setattr(KillHandle, "kill", lambda self: False)
    return kept


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@by_stack
async def test_control_a_lazy_close_is_found(kind: Kind, stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the kill handle and the close, the server sees no close and the pool slots stay in use."""
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
    """Read two replies over one connection.

    In the middle of the second the first one is dropped, cancelled and killed.
    """
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
    """Dropping a finished reply does not cut the next reply on the same connection."""
    async with serve(SLOW) as server, kind.client(server.url, stack) as client, kind.session(client) as session:
        assert await read_two(session) == "one two three four"
        assert server.connections == 1


@pytest.mark.parametrize("anyio_backend", LOOPS[:2])
@pytest.mark.parametrize("kind", STACKS, ids=lambda kind: kind.name)
async def test_a_connection_that_aiohttp_has_given_back_is_not_touched(kind: Kind) -> None:
    """When aiohttp has the whole body and reuses the connection, leaving the reply does not cut the next one."""
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
    """The kill works from another thread, because a finaliser may run in any thread."""
    async with serve(STALLING) as server, kind.client(server.url, stack) as client, kind.session(client) as session:
        reply = session.stream("hi")
        async with reply:
            cursor = aiter(reply)
            await anext(cursor)
            response: Any = reply._run.connection.attempt._response
            assert await anyio.to_thread.run_sync(response.kill)
            with anyio.fail_after(2):
                await server.exchanges[-1].closed.wait()

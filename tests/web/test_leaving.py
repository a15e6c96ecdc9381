"""A client that goes away closes the provider's connection at once, whatever the server is doing for it."""

from __future__ import annotations

import statistics
import time
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from aprefill import Reply
from aprefill.testing import Script, serve

from .site import HTTP, SOCKETS, Raw, Sends, Site, application, session_of, site

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("no_gc"),
    pytest.mark.filterwarnings("ignore:.*websockets.*:DeprecationWarning", "ignore:.*websockets.*:UserWarning"),
]

#: How often each way out is taken.
TIMES = 5
#: As in tests/test_closing.py: a shared machine stands still now and then, so a slow round is taken again.
ROUNDS = 3

#: The model says three words and falls silent; goes on and on; says more than all buffers hold.
SILENT = Script(text="one two three four", cuts=4, stall_after=12)
GOING_ON = Script(text="word " * 2000, cuts=5, pace_s=0.005)
FLOOD = Script(text="x" * 40_000_000, cuts=16_000)

SCRIPTS = {"silent": SILENT, "going on": GOING_ON, "blocked": FLOOD}
MARKS = {"silent": b'"offset":8', "going on": b"word "}


async def seconds_to_close(here: Site, provider: Any, sends: Sends, state: str, leave: str, path: str) -> float:
    """From the client's leaving to the provider's seeing it."""
    number = len(provider.exchanges)
    blocked = state == "blocked"
    client = await Raw.open(here, path, upgrade=path == "/ws", receive_bytes=4096 if blocked else None)
    exchange = await provider.wait_exchange(number)
    if blocked:
        await sends.blocked()
    else:
        await client.read_until(MARKS[state])
        if state == "silent":
            await exchange.waiting.wait()
    left = time.perf_counter()
    if leave == "close frame":
        await client.close_frame()
    else:
        getattr(client, leave)()
    with anyio.fail_after(2):
        await exchange.closed.wait()
    if leave == "close frame":
        client.fin()
    assert exchange.outcome == "client_closed"
    return float(exchange.closed_at - left)


async def measure(state: str, leave: str, path: str, **served: Any) -> None:
    sends = Sends()
    async with serve(SCRIPTS[state]) as provider, session_of(provider) as session:
        app = application(lambda: session.stream("hi"), wrap=sends)
        async with site(app, **served) as here:
            for _ in range(ROUNDS):
                delays = [
                    await seconds_to_close(here, provider, sends, state, leave, path) for _ in range(TIMES)
                ]
                if max(delays) < 0.050:
                    break
        await provider.wait_closed()
    print(f"median {statistics.median(delays) * 1e3:.2f} ms, worst {max(delays) * 1e3:.2f} ms")
    assert max(delays) < 0.050


@pytest.mark.parametrize("leave", ["fin", "rst"])
@pytest.mark.parametrize("state", SCRIPTS)
@pytest.mark.parametrize("http", HTTP)
async def test_a_reader_of_events_leaves(http: str, state: str, leave: str) -> None:
    """Within 50 ms: while the model is silent, between chunks, and in the middle of a send that waits."""
    await measure(state, leave, "/sse", http=http)


@pytest.mark.parametrize("leave", ["close frame", "fin", "rst"])
@pytest.mark.parametrize("state", SCRIPTS)
@pytest.mark.parametrize("ws", SOCKETS)
async def test_a_websocket_leaves(ws: str, state: str, leave: str) -> None:
    """Within 50 ms, with a close frame or without, on each of uvicorn's WebSocket protocols."""
    await measure(state, leave, "/ws", ws=ws)

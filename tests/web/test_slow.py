"""A client that reads nothing slows the provider down. Text does not pile up, and the client is given up in the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from aprefill.testing import Script, serve

from ..conftest import LOOPS
from .site import Raw, Sends, application, session_of, site

if TYPE_CHECKING:
    from starlette.requests import Request

pytestmark = pytest.mark.anyio

SIZE = 40_000_000
FLOOD = Script(text="x" * SIZE, cuts=16_000)


async def sent_bytes_at_rest(exchange: Any) -> int:
    """Return the bytes that the provider has sent when it cannot send more, or when the reply has ended."""
    with anyio.fail_after(10):
        while True:
            before = exchange.sent_bytes
            with anyio.move_on_after(0.15):
                await exchange.done.wait()
            if exchange.sent_bytes == before or exchange.done.is_set():
                return int(exchange.sent_bytes)


@pytest.mark.parametrize("path", ["/sse", "/ws"])
async def test_a_slow_client_slows_the_provider_down(path: str) -> None:
    """While the client reads nothing, the provider can send only what the kernel's buffers take of 40 MB."""
    sends = Sends()
    async with serve(FLOOD) as provider, session_of(provider) as session:
        replies = []

        def ask() -> Any:
            replies.append(session.stream("hi"))
            return replies[-1]

        async with site(application(ask, wrap=sends)) as here:
            client = await Raw.open(here, path, upgrade=path == "/ws", receive_bytes=4096)
            exchange = await provider.wait_exchange()
            await sends.blocked()
            stopped = await sent_bytes_at_rest(exchange)
            print(f"{path}: the provider was stopped after {stopped / 1e6:.1f} MB, {replies[0]!r}")
            # The rest is in the kernel's socket buffers on both sides. The kernel chooses their size.
            assert stopped < SIZE * 2 // 3
            assert len(replies[0].text_so_far) < stopped
            client.fin()
            with anyio.fail_after(5):
                await exchange.closed.wait()


@pytest.mark.parametrize("anyio_backend", LOOPS[:1])
async def test_control_a_queue_without_bound_takes_it_all() -> None:
    """Control: with a back end that reads ahead into an unbounded queue, all 40 MB are received."""
    chunks: asyncio.Queue[str] = asyncio.Queue()

    async with serve(FLOOD) as provider, session_of(provider) as session:

        async def read() -> None:
            async for chunk in session.stream("hi"):
                chunks.put_nowait(chunk)

        async def events(request: Request) -> Response:
            tasks.append(asyncio.ensure_future(read()))
            return StreamingResponse(blocks())

        async def blocks() -> Any:
            while True:
                yield await chunks.get()

        tasks: list[Any] = []
        async with site(Starlette(routes=[Route("/sse", events)])) as here:
            client = await Raw.open(here, "/sse", receive_bytes=4096)
            exchange = await provider.wait_exchange()
            assert await sent_bytes_at_rest(exchange) > SIZE
            client.fin()
            await asyncio.gather(*tasks)


@pytest.mark.parametrize("anyio_backend", LOOPS[:1])
@pytest.mark.parametrize("path", ["/sse", "/ws"])
async def test_a_client_that_takes_nothing_is_let_go(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """After `send_timeout_s` the provider's connection is closed, although the client is still connected."""
    sends = Sends()
    async with serve(FLOOD) as provider, session_of(provider) as session:
        async with site(application(lambda: session.stream("hi"), wrap=sends, send_timeout_s=0.2)) as here:
            await Raw.open(here, path, upgrade=path == "/ws", receive_bytes=4096)
            exchange = await provider.wait_exchange()
            await sends.blocked()
            with anyio.fail_after(5):
                await exchange.closed.wait()
    assert exchange.outcome == "client_closed"
    assert "a record could not be sent to it for 0.2 s" in caplog.text


@pytest.mark.parametrize("anyio_backend", LOOPS[:1])
async def test_a_client_that_is_merely_slow_gets_all() -> None:
    """A client with many pauses shorter than `send_timeout_s` gets the whole reply."""
    text = "0123456789" * 300_000
    async with serve(Script(text=text, cuts=16_000)) as provider, session_of(provider) as session:
        async with site(application(lambda: session.stream("hi"), send_timeout_s=3)) as here:
            client = await Raw.open(here, "/sse", receive_bytes=4096)
            await provider.wait_exchange()
            for megabyte in range(1, 4):
                await anyio.sleep(0.1)
                await client.read_until(b'"offset":%d000' % (megabyte * 960))
            await client.read_until(b'"type":"end"')
            client.fin()
    assert client.seen.count(b"0123456789") > 290_000
    assert b'"length":3000000' in client.seen

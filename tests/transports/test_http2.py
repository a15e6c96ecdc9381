"""Over HTTP/2 replies share a connection, so leaving one reply must not shut the connection down."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import httpx2
import openai
import pytest

from aprefill import ConnectFailed, ProtocolError, Recovery, Reply, Stalled, Timeouts, Truncated, stream
from aprefill._transports._kill import KillHandle
from aprefill.testing import Script, serve

pytest.importorskip("h2", reason="the tests over HTTP/2 need h2, of the dependency group test")

from .h2host import Host, http2_host
from .sdks import OPENAI_HTTP

pytestmark = pytest.mark.anyio

WHOLE = "zero one two three"


def opened(client: Any, host: Host, prompt: str, **options: Any) -> Reply:
    where = {} if isinstance(client, openai.AsyncOpenAI) else {"base_url": host.url}
    return stream(prompt, prefill="zero ", model="vllm:m", client=client, **where, **options)


CLIENTS = {
    "httpx2": lambda host: httpx2.AsyncClient(http2=True, verify=host.ssl_context),
    "httpx": lambda host: httpx.AsyncClient(http2=True, verify=host.ssl_context),
    "openai": lambda host: openai.AsyncOpenAI(
        api_key="k", base_url=host.url, http_client=OPENAI_HTTP.AsyncClient(http2=True, verify=host.ssl_context)
    ),
}


@pytest.fixture(params=CLIENTS)
def make_client(request: pytest.FixtureRequest) -> Any:
    return CLIENTS[request.param]


async def leave_by_break(reply: Reply) -> None:
    async for chunk in reply:
        if chunk == "two ":
            break


async def leave_by_aclose(reply: Reply) -> None:
    async with reply:
        async for chunk in reply:
            if chunk == "two ":
                await reply.aclose()
                return


async def leave_by_timeout(reply: Reply) -> None:
    with anyio.move_on_after(5) as scope:
        seen = 0
        async for _ in reply:
            seen += 1
            if seen == 2:
                # the host is silent from here on, so the timeout is in the middle of the reply
                scope.deadline = anyio.current_time()


async def leave_by_stall(reply: Reply) -> None:
    with pytest.raises(Stalled):
        await reply.text()


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_aclose, leave_by_timeout, leave_by_stall])
async def test_leaving_one_reply_leaves_its_neighbour_alone(make_client: Any, leave: Any) -> None:
    """Of two replies over one connection one is left in the middle. The other is whole, and so is a third one."""
    async with http2_host() as host, make_client(host) as client:
        neighbour = opened(client, host, "stall")
        async with neighbour:
            cursor = aiter(neighbour)
            text = await anext(cursor) + await anext(cursor)
            timeouts = Timeouts(progress_s=0.1) if leave is leave_by_stall else Timeouts()
            left = opened(client, host, "stall", timeouts=timeouts)
            await leave(left)
            host.go_on.set()
            text += "".join([chunk async for chunk in cursor])
        assert text == WHOLE
        assert await opened(client, host, "hi").text() == WHOLE
        assert (host.connections, host.open_connections, host.requests) == (1, 1, 3)
        assert neighbour.closes_at_once is left.closes_at_once is False


async def test_control_a_shutdown_cuts_the_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with a kill handle that does not check for HTTP/2, the other reply is cut."""
    monkeypatch.setattr(
        KillHandle, "of", classmethod(lambda cls, extensions, body=None: cls(extensions["network_stream"]))
    )
    async with http2_host() as host, httpx2.AsyncClient(http2=True, verify=host.ssl_context) as client:
        neighbour = opened(client, host, "stall")
        cursor = aiter(neighbour)
        await anext(cursor)
        await leave_by_break(opened(client, host, "stall"))
        with anyio.fail_after(2):
            while host.open_connections:
                await anyio.lowlevel.checkpoint()
        await neighbour.aclose()


async def test_over_http1_the_same_client_closes_at_once() -> None:
    """Over HTTP/1.1 the same client can close at once. The connection's protocol decides, not the client's settings."""
    async with serve(Script(text="x")) as server, httpx2.AsyncClient(http2=True) as client:
        reply = stream("hi", model="m", client=client, base_url=server.openai_url)
        assert await reply.text() == "x"
        assert reply.closes_at_once is True


async def test_a_kept_connection_that_breaks_is_asked_again(make_client: Any) -> None:
    """If a kept connection breaks before any byte of the answer, the request is sent once more. That is not a retry."""
    async with http2_host() as host, make_client(host) as client:
        assert await opened(client, host, "hi").text() == WHOLE
        reply = opened(client, host, "hang up", recovery=Recovery(retries=0))
        assert await reply.text() == WHOLE
        assert (len(reply.attempts), host.connections, host.requests) == (1, 2, 3)


#: Bytes for stream 3, the second request: a part of a frame of a head; a frame of a head that is not the last; a whole
#: head; a reset.
BEGUN = {
    "part of a frame": b"\x00\x00\x10\x01\x04",
    "part of a head": b"\x00\x00\x01\x01\x00\x00\x00\x00\x03\x88",
    "a head": b"\x00\x00\x01\x01\x04\x00\x00\x00\x03\x88",
    "a reset": b"\x00\x00\x04\x03\x00\x00\x00\x00\x03\x00\x00\x00\x02",
}


@pytest.mark.parametrize("part", BEGUN.values(), ids=BEGUN)
async def test_an_answer_that_has_begun_is_not_asked_for_again(make_client: Any, part: bytes) -> None:
    """If the answer has begun, the request is not sent again, because the host may bill it twice."""
    async with http2_host() as host, make_client(host) as client:
        host.hang_up = part
        assert await opened(client, host, "hi").text() == WHOLE
        with pytest.raises((ConnectFailed, Truncated, ProtocolError)):
            await opened(client, host, "hang up", recovery=Recovery(retries=0)).text()
        assert (host.connections, host.requests) == (1, 2)

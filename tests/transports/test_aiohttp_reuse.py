"""If the host has just closed a kept connection of aiohttp and sent no byte, the request is sent once more."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

from aprefill import ConnectFailed, Recovery, Session

from ..conftest import LOOPS
from .sdks import BY_NAME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", LOOPS[:2])]

BODY = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
#: What the host sends before it closes the connection.
BEFORE = {"nothing": b"", "reset": b"", "part of a head": b"HTTP/1.1 2", "103": b"HTTP/1.1 103 Early Hints\r\n\r\n"}


@asynccontextmanager
async def host(kind: str, hangs_up_on: int) -> AsyncIterator[tuple[str, list[int]]]:
    """Answer every request but one. Yields the host's URL, and the number of the connection of each request."""
    requests: list[int] = []
    connections = 0

    async def play(stream: Any) -> None:
        nonlocal connections
        connections += 1
        mine = connections
        reader = BufferedByteReceiveStream(stream)
        async with stream:
            while True:
                try:
                    head = await reader.receive_until(b"\r\n\r\n", 65_536)
                except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                    return
                lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                await reader.receive_exactly(int(lines[b"content-length"]))
                requests.append(mine)
                if len(requests) == hangs_up_on:
                    if BEFORE[kind]:
                        await stream.send(BEFORE[kind])
                    if kind == "reset":
                        raw = stream.extra(SocketAttribute.raw_socket)
                        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                await stream.send(ANSWER)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, play)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}", requests
        group.cancel_scope.cancel()


async def ask_twice(kind: str, *, hangs_up_on: int = 2) -> tuple[list[Any], list[int]]:
    got: list[Any] = []
    async with host(kind, hangs_up_on) as (url, requests):
        async with BY_NAME["openai"].client(url, "aiohttp") as client:
            session = Session("m", client=client, recovery=Recovery(retries=0))
            for _ in range(2):
                try:
                    got.append(await session.stream("hi").text())
                except ConnectFailed as exc:
                    got.append(type(exc))
            await session.aclose()
    return got, requests


@pytest.mark.parametrize("kind", ["nothing", "reset"])
async def test_a_kept_connection_that_ends_before_any_byte_is_no_failure(kind: str) -> None:
    """If a kept connection ends before any byte, the request is sent again over a new connection."""
    assert await ask_twice(kind) == (["Hi", "Hi"], [1, 1, 2])


@pytest.mark.parametrize("kind", ["part of a head", "103"])
async def test_after_a_byte_it_is_one(kind: str) -> None:
    """If a kept connection ends after a byte of the answer, it is an error and the request is not sent again."""
    assert await ask_twice(kind) == (["Hi", ConnectFailed], [1, 1])


async def test_a_new_connection_that_ends_is_a_failure() -> None:
    """If a new connection ends before any byte, it is an error and the request is not sent again."""
    got, requests = await ask_twice("nothing", hangs_up_on=1)
    assert got == [ConnectFailed, "Hi"]
    assert requests == [1, 2]

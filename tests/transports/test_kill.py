"""The kill handle sends a FIN without awaiting, and never to another connection's socket."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import anyio
import httpx2
import pytest

from aprefill._transports._kill import KillHandle
from aprefill.testing import Script, serve

pytestmark = pytest.mark.anyio

STALLING = Script(text="abcdefgh", stall_after=4)


async def open_response(client: httpx2.AsyncClient, server: Any) -> httpx2.Response:
    request = client.build_request("POST", f"{server.openai_url}/chat/completions", json={"stream": True})
    return await client.send(request, stream=True)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("thread", [False, True], ids=["loop", "thread"])
async def test_it_shuts_the_connection_down_from_anywhere(tls: bool, thread: bool) -> None:
    """The handle can be used from the loop or another thread, with or without TLS. A second kill does nothing."""
    async with serve(STALLING, tls=tls) as server, httpx2.AsyncClient(verify=server.ssl_context or True) as client:
        response = await open_response(client, server)
        handle = KillHandle.of(response.extensions)
        assert handle is not None
        assert handle.armed
        done: list[bool] = []
        if thread:
            worker = threading.Thread(target=lambda: done.append(handle.kill()))
            worker.start()
            worker.join()
        else:
            done.append(handle.kill())
        assert done == [True]
        with anyio.fail_after(2):
            await server.exchanges[0].closed.wait()
        assert not handle.armed
        assert not handle.kill()
        await response.aclose()


async def test_a_socket_closed_meanwhile_is_never_mistaken() -> None:
    """If the descriptor was closed and is now another socket's, that socket is not shut down."""
    async with serve(STALLING) as server, httpx2.AsyncClient() as client:
        response = await open_response(client, server)
        handle = KillHandle.of(response.extensions)
        assert handle is not None
        fd = response.extensions["network_stream"].get_extra_info("socket").fileno()
        await response.aclose()
        with anyio.fail_after(2):  # uvloop closes the descriptor one iteration of the loop later
            while descriptor_is_open(fd):
                await anyio.lowlevel.checkpoint()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if ours.fileno() != fd:
                os.dup2(ours.fileno(), fd)
            assert not handle.kill()
            ours.send(b"alive")
            assert theirs.recv(5) == b"alive"
            if ours.fileno() != fd:
                os.close(fd)


def descriptor_is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_there_is_none_over_http2_and_without_a_socket() -> None:
    """There is no handle over HTTP/2, where a shutdown would cut other streams, or without a network stream."""

    class Stream:
        def get_extra_info(self, name: str) -> Any:
            raise AssertionError("not to be asked")

    assert KillHandle.of({"http_version": b"HTTP/2", "network_stream": Stream()}) is None
    assert KillHandle.of({"http_version": b"HTTP/1.1"}) is None

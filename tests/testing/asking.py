"""How these tests send requests to the server: plain httpx2, and a small reader for both formats."""

from __future__ import annotations

import json
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import openai
import pytest

from aprefill.testing import Server, ToolCall, serve

from ..support.sdk_http import http_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aprefill.testing import Script, Server

WIRES = ("anthropic", "openai")
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
REFUSAL = "This model does not support assistant message prefill. The conversation must end with a user message."


def body(prefill: str | None = None, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Name two states."}]
    if prefill is not None:
        messages.append({"role": "assistant", "content": prefill})
    return {"model": "claude-haiku-4-5", "max_tokens": 100, "stream": stream, "messages": messages, **more}


@asynccontextmanager
async def client_of(server: Server) -> AsyncGenerator[httpx2.AsyncClient, None]:
    verify = server.ssl_context or False
    async with httpx2.AsyncClient(verify=verify, timeout=10) as client:
        yield client


async def ask(server: Server, wire: str, prefill: str | None = None, **more: Any) -> httpx2.Response:
    """Return the whole response to one request, which has its own connection."""
    async with client_of(server) as client:
        return await client.post(server.url + PATHS[wire], json=body(prefill, **more))


async def sent(script: Script, wire: str, prefill: str | None = '["', *, ask: Any = ask) -> str:
    """Return the whole decoded body of a good answer. `ask` sends the request."""
    with anyio.fail_after(10):
        async with serve(script) as server:
            response = await ask(server, wire, prefill)
            await server.exchanges[0].done.wait()
            assert server.exchanges[0].outcome == "complete"
            assert response.status_code == 200
            return str(response.text)


async def raw_answer(
    server: Server, wire: str, prefill: str | None = None, *, version: str = "1.1", **more: Any
) -> bytes:
    """Return every byte of the answer until the server's FIN, with its HTTP framing. Raises `Reset` on a RST."""
    content = json.dumps(body(prefill, **more)).encode()
    head = (
        f"POST {PATHS[wire]} HTTP/{version}\r\nhost: x\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
    )
    received = bytearray()
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send(head.encode() + content)
        try:
            async for data in stream:
                received += data
        except anyio.BrokenResourceError:
            raise Reset(bytes(received)) from None
    return bytes(received)


class Reading:
    """Reads an answer in its own task.

    `run` is the task, and `until` waits until the body has at least `size` bytes.
    """

    def __init__(self, server: Server, wire: str, path: str = "", asked: dict[str, Any] | None = None) -> None:
        self._server = server
        self._path = path or PATHS[wire]
        self._asked = asked or body()
        self._grew = anyio.Event()
        self.seen = b""

    async def run(self) -> None:
        async with (
            client_of(self._server) as client,
            client.stream("POST", self._server.url + self._path, json=self._asked) as response,
            aclosing(response.aiter_raw()) as pieces,
        ):
            async for piece in pieces:
                self.seen += piece
                self._grew.set()

    async def until(self, size: int) -> str:
        while len(self.seen) < size:
            self._grew = anyio.Event()
            await self._grew.wait()
        return self.seen.decode()


class Reset(Exception):
    """The server sent a RST. `args[0]` has the bytes that came before it."""


def records(text: str) -> list[tuple[str, str]]:
    """Return (event, data) of every complete event."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            found.append((fields.get("event", ""), fields["data"]))
    return found


def deltas(text: str) -> list[str]:
    """Return the text of each delta, for either format."""
    found = []
    for _, data in records(text):
        if data == "[DONE]":
            continue
        record = json.loads(data)
        if record.get("type") == "content_block_delta":
            found.append(record["delta"].get("text"))
        elif record.get("choices"):
            found.append(record["choices"][0]["delta"].get("content"))
    return [piece for piece in found if piece]


def is_whole(text: str) -> bool:
    """Return whether the last event is the terminal record."""
    return bool(records(text)) and records(text)[-1] in {
        ("message_stop", '{"type":"message_stop"}'),
        ("", "[DONE]"),
    }


CALL = ToolCall(name="look_up", arguments={"state": "Alabama", "year": 1819})

#: Every way of transport that an SDK must not notice.
WAYS = pytest.mark.parametrize(
    ("tls", "newline", "wire_cuts"),
    [
        pytest.param(False, "\n", None, id="http"),
        pytest.param(True, "\n", None, id="https"),
        pytest.param(False, "\r\n", 1, id="byte-by-byte-crlf"),
        pytest.param(True, "\r\n", 7, id="https-seven-bytes-crlf"),
        pytest.param(False, "\n", 100_000, id="burst"),
    ],
)


@asynccontextmanager
async def openai_client(server: Server) -> AsyncGenerator[openai.AsyncOpenAI, None]:
    http = http_of(openai).AsyncClient(verify=server.ssl_context or False)
    async with openai.AsyncOpenAI(
        base_url=server.openai_url, api_key="test", max_retries=0, timeout=10, http_client=http
    ) as client:
        yield client

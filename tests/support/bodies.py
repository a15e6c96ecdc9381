"""A host in memory. Its body comes in exactly the pieces that a test gives, one per network read."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx2

from aprefill import Recovery, Reply, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

SSE = "text/event-stream"


class Body(httpx2.AsyncByteStream):
    """Yields the pieces and then ends. A piece that is an exception is raised."""

    def __init__(self, pieces: Sequence[bytes | Exception]) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        piece = next(self._pieces, None)
        if piece is None:
            raise StopAsyncIteration
        if isinstance(piece, Exception):
            raise piece
        return piece


@asynccontextmanager
async def host(
    *answers: Sequence[bytes | Exception],
    headers: dict[str, str] | None = None,
    status: int = 200,
    sent: list[Any] | None = None,
) -> AsyncIterator[Callable[..., Reply]]:
    """Yield a function like `stream`. Its host answers each request with the next body, and repeats the last one.

    The bodies of the requests are appended to `sent`.
    """
    left = list(answers)

    def answer(request: httpx2.Request) -> httpx2.Response:
        if sent is not None:
            sent.append(json.loads(request.content))
        pieces = left.pop(0) if len(left) > 1 else left[0]
        return httpx2.Response(status, headers={"content-type": SSE, **(headers or {})}, stream=Body(pieces))

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:

        def ask(wire: str, **options: Any) -> Reply:
            model = {"messages": "anthropic:claude-haiku-4-5", "chat": "vllm:m"}[wire]
            options = {"model": model, "api_key": "k", "recovery": Recovery(retries=0), **options}
            return stream(options.pop("prompt", "hi"), client=client, base_url="https://host.test", **options)

        yield ask


def event(value: Any, name: str = "") -> bytes:
    """Return one server-sent event."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return (b"event: %s\n" % name.encode() if name else b"") + b"data: " + data + b"\n\n"


def chat(content: str | None = None, reason: str | None = None, **delta: Any) -> bytes:
    """Return one chunk of chat completions."""
    if content is not None:
        delta["content"] = content
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


def call(index: int, id_: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    """Return one piece of a tool call of chat completions."""
    return {"tool_calls": [{"index": index, "id": id_, "function": {"name": name, "arguments": arguments}}]}


DONE = event(b"[DONE]")


def block(index: int, kind: str, **fields: Any) -> bytes:
    """Return the start of a content block of the Messages protocol."""
    return event({"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}})


def piece(index: int, kind: str, **fields: Any) -> bytes:
    """Return a delta of a content block."""
    return event({"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}})


def end(index: int) -> bytes:
    """Return the end of a content block."""
    return event({"type": "content_block_stop", "index": index})


def finish(reason: str, **usage: int) -> bytes:
    """Return the event of the Messages protocol that has the stop reason."""
    return event({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage})


STOP = event({"type": "message_stop"})

"""A minimal loopback host in a separate process. It sends 2,000 chunks of 4 characters in both protocols.

`running()` starts it, and it ends with the benchmark. The path says how it writes the events: `/each/...` makes one
write per event, as hosts do. `/burst/...` makes as few writes as possible. `/first/...` sends a reply of 10 chunks in
one write.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNKS = 2000
TEXT = "abcd"
PREFILL = "zero one two three "


def _event(record: object, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(record)}\n\n".encode()


def _chat(texts: list[str]) -> list[bytes]:
    def record(delta: object, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return _event({**base, "choices": [choice]})

    return [*(record({"content": text}) for text in texts), record({}, "stop"), b"data: [DONE]\n\n"]


def _messages(texts: list[str]) -> list[bytes]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m", "usage": usage}
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}

    def delta(text: str) -> bytes:
        inner = {"type": "text_delta", "text": text}
        return _event({"type": "content_block_delta", "index": 0, "delta": inner}, "content_block_delta")

    return [
        _event({"type": "message_start", "message": {**message, "stop_reason": None}}, "message_start"),
        _event(start, "content_block_start"),
        *map(delta, texts),
        _event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
        _event(end, "message_delta"),
        _event({"type": "message_stop"}, "message_stop"),
    ]


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def _handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    texts = [PREFILL, *[TEXT] * CHUNKS]
    wires = {b"/v1/messages": _messages, b"/chat/completions": _chat}
    long = {path: [_http_chunk(e) for e in make(texts)] for path, make in wires.items()}
    short = {path: [_http_chunk(e) for e in make(texts[:11])] for path, make in wires.items()}
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            if length:
                await reader.readexactly(int(length[1]))
            path = head.split(b" ")[1]
            wire = next(w for w in wires if path.endswith(w))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            if path.startswith(b"/each"):
                for event in long[wire]:
                    writer.write(event)
                    await writer.drain()
                    await asyncio.sleep(0)
            else:
                writer.writelines((long if path.startswith(b"/burst") else short)[wire])
            writer.write(b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_handle, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # the standard input closes when the benchmark ends, and then the host ends too
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


@contextmanager
def running() -> Iterator[str]:
    """Run the host while the block runs, and yield its base URL."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(10)


if __name__ == "__main__":
    asyncio.run(_main())

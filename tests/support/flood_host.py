"""A host in a process of its own that answers each request with endless data.

`python flood_host.py KIND` prints its port. It ends when its standard input ends, or after a minute.
"""

from __future__ import annotations

import asyncio
import sys

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _record(json: str) -> bytes:
    return f"data: {json}\n\n".encode()


#: What is sent without end. None of it is text of the model.
FLOODS = {
    "comments": _chunk(b": keep-alive\n\n" * 2000),
    "blank lines": _chunk(b"\n" * 32_768),
    "empty deltas": _chunk(_record('{"choices":[{"index":0,"delta":{"content":""}}]}') * 500),
    "pings": _chunk(b'event: ping\ndata: {"type": "ping"}\n\n' * 800),
    "NaN": _chunk(_record('{"choices":[{"index":0,"delta":{},"logprobs":NaN}]}') * 500),
    "3 bytes": _chunk(b": \n") * 4000,
    "reasoning": _chunk(_record('{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}') * 500),
}


async def main(kind: str) -> None:
    flood = FLOODS[kind]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_HEAD)
            while True:
                writer.write(flood)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    await asyncio.wait_for(loop.run_in_executor(None, sys.stdin.read), 60)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

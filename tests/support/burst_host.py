"""A host in a process of its own. It answers with many records at once, each in its own HTTP chunk.

`python burst_host.py COUNT` prints its port. It ends when its standard input ends, or after two minutes.
"""

from __future__ import annotations

import asyncio
import sys

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(json: str) -> bytes:
    data = f"data: {json}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


async def main(count: int) -> None:
    record = _chunk('{"choices":[{"index":0,"delta":{"content":"word "}}]}')
    end = _chunk('{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}') + _chunk("[DONE]") + b"0\r\n\r\n"
    answer_body = _HEAD + record * count + end

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer_body)
            await writer.drain()
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    await asyncio.wait_for(loop.run_in_executor(None, sys.stdin.read), 120)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

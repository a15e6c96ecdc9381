"""Measure the time to decode a record from the wire: `python benchmarks/wire.py`.

Each time is compared with a baseline of the same run: `data.split(b"\\n\\n")` and one `Record` for each block. No
decoder in Python can do less. Times are the best of many rounds, in microseconds.
"""

from __future__ import annotations

import platform
from base64 import b64encode
from struct import pack
from timeit import repeat
from typing import TYPE_CHECKING
from zlib import crc32

from aprefill._deltas import Record
from aprefill._wire.eventstream import EventStreamDecoder
from aprefill._wire.ndjson import NdjsonDecoder
from aprefill._wire.sse import SseDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

CHAT = b'{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" hello"}}]}'
MESSAGES = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" hello"}}'
OLLAMA = b'{"model":"llama3.2","created_at":"2026-11-22T10:00:00Z","message":{"role":"assistant","content":" a"}}'


def frame(payload: bytes) -> bytes:
    """Return a frame as Bedrock's InvokeModelWithResponseStream sends it."""
    body = b'{"bytes":"%b","p":"abcdef"}' % b64encode(payload)
    headers = b"".join(
        pack("!B", len(name)) + name + pack("!BH", 7, len(value)) + value
        for name, value in ((b":event-type", b"chunk"), (b":message-type", b"event"))
    )
    prelude = pack("!II", 16 + len(headers) + len(body), len(headers))
    whole = prelude + pack("!I", crc32(prelude)) + headers + body
    return whole + pack("!I", crc32(whole))


SHAPES: dict[str, tuple[Callable[[], SseDecoder | NdjsonDecoder | EventStreamDecoder], bytes]] = {
    "sse  data": (SseDecoder, b"data: " + CHAT + b"\n\n"),
    "sse  data, CRLF": (SseDecoder, b"data: " + CHAT + b"\r\n\r\n"),
    "sse  data, no space": (SseDecoder, b"data:" + CHAT + b"\n\n"),
    "sse  event + data": (SseDecoder, b"event: content_block_delta\ndata: " + MESSAGES + b"\n\n"),
    "sse  event + data, CRLF": (SseDecoder, b"event: content_block_delta\r\ndata: " + MESSAGES + b"\r\n\r\n"),
    "sse  id + event + data": (SseDecoder, b"id: 17\nevent: output\ndata: " + CHAT + b"\n\n"),
    "ndjson": (NdjsonDecoder, OLLAMA + b"\n"),
    "eventstream chunk": (EventStreamDecoder, frame(MESSAGES)),
}
MANY = 100  # number of records in one large network read


def baseline(data: bytes) -> list[Record]:
    return [Record(block) for block in data.split(b"\n\n")]


def best_us(feed: Callable[[bytes], object], pieces: list[bytes], records: int) -> float:
    """Return the microseconds per record when `pieces` are fed in turn. They hold `records` records."""

    def work() -> None:
        for piece in pieces:
            feed(piece)

    rounds = max(1, 5000 // records)
    return min(repeat(work, number=rounds, repeat=40)) / rounds / records * 1e6


def main() -> None:
    print(f"Python {platform.python_version()}, microseconds per record, in brackets the ratio to the baseline\n")
    print(f"{'shape':24}{'bytes':>6}{'one per call':>18}{f'{MANY} per call':>18}{'pieces of 97 bytes':>20}")
    for name, (new, record) in SHAPES.items():
        feed = new().feed
        # The baseline's records have the same length, and the end that it splits at.
        plain = b"x" * (len(record) - 2) + b"\n\n"
        whole = record * MANY
        columns = []
        for pieces, same in (
            ([record] * MANY, [plain] * MANY),
            ([whole], [plain * MANY]),
            ([whole[at : at + 97] for at in range(0, len(whole), 97)], [plain * MANY]),
        ):
            assert sum(len(feed(piece)) for piece in pieces) == MANY
            cost = best_us(feed, pieces, MANY)
            columns.append(f"{cost:7.2f} ({cost / best_us(baseline, same, MANY):4.1f}x)")
        print(f"{name:24}{len(record):6}    {columns[0]}    {columns[1]}     {columns[2]}")


if __name__ == "__main__":
    main()

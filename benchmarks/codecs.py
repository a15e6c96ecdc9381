"""Measure the time to decode one text record, compared with msgspec alone on the same struct in the same run.

    python benchmarks/codecs.py

Prints a table with four columns: microseconds per record (best of nine rounds), the same for msgspec alone, their
ratio, and the time for a record that msgspec rejects. Such a record is decoded by the standard library, which joins its
surrogates.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

from aprefill._codecs import anthropic_messages, codec, gemini, openai_chat, openai_responses
from aprefill._deltas import Record, TextDelta

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

TEXT = " word"
RECORDS = {
    "openai_chat": (
        b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
        b'"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}'
    ),
    "anthropic_messages": (
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" word"},'
        b'"p":"as long as the other"}'
    ),
    "gemini": (
        b'{"candidates":[{"content":{"parts":[{"text":" word"}],"role":"model"},"index":0}],'
        b'"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9},"modelVersion":"m"}'
    ),
    "openai_responses": (
        b'{"type":"response.output_text.delta","sequence_number":9,"item_id":"m","output_index":0,"content_index":0,'
        b'"delta":" word","logprobs":[]}'
    ),
}
BARE: dict[str, Callable[[bytes], object]] = {
    "openai_chat": openai_chat._READER.fast,
    "anthropic_messages": anthropic_messages._READER.fast,
    "gemini": gemini._READER.fast,
    "openai_responses": openai_responses._READER.fast,
}
ROUNDS = 9
CALLS = 100_000


def best_us(call: Callable[[T], object], argument: T, calls: int = CALLS) -> float:
    """Return the microseconds per call: the best of the rounds, without the time of the loop itself."""
    best = empty = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(calls):
            call(argument)
        best = min(best, time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(calls):
            pass
        empty = min(empty, time.perf_counter() - began)
    return (best - empty) / calls * 1e6


def main() -> None:
    print(f"Python {sys.version.split()[0]}, {CALLS:,} records per round, best of {ROUNDS}")
    print(f"{'protocol':<20} {'bytes':>6} {'decode us':>10} {'msgspec us':>11} {'ratio':>6} {'rejected us':>11}")
    for name, data in RECORDS.items():
        decoder, record = codec(name).decoder(), Record(data)
        assert next(iter(decoder.decode(record))) == TextDelta(TEXT)
        rejected = Record(data.replace(b" ", rb" \ude00", 1))
        ours = best_us(decoder.decode, record)
        bare = best_us(BARE[name], data)
        slow = best_us(codec(name).decoder().decode, rejected, CALLS // 20)
        print(f"{name:<20} {len(data):>6} {ours:>10.3f} {bare:>11.3f} {ours / bare:>6.2f} {slow:>11.3f}")


if __name__ == "__main__":
    main()

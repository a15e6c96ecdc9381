"""Helpers for the tests of the decoders: a stream cut in every way, its cost in time and its cost in memory."""

from __future__ import annotations

import gc
import os
import tracemalloc
from itertools import pairwise
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest

from aprefill._errors import LimitExceeded, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aprefill._deltas import Record

#: Files that are not in the package, such as recordings.
SHARED = Path(os.environ.get("APREFILL_SHARED") or Path(__file__).parents[2].parent / "shared")


class Decoder(Protocol):
    def feed(self, data: bytes) -> list[Record]: ...

    def close(self) -> Record | None: ...


class Seen(NamedTuple):
    """The results of decoding one stream."""

    records: list[Record]
    #: the result of close()
    last: Record | None = None
    error: type[Exception] | None = None


def shared(name: str) -> Path:
    """Return the path of a shared file. If it is missing, the test is skipped."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not here: set APREFILL_SHARED to the folder that has it")
    return path


def run(decoder: Decoder, pieces: Iterable[bytes]) -> Seen:
    """Feed all pieces, then close. Any error but the two typed ones is raised and fails the test."""
    records: list[Record] = []
    try:
        for piece in pieces:
            records += decoder.feed(piece)
        return Seen(records, decoder.close())
    except (LimitExceeded, ProtocolError) as error:
        return Seen(records, error=type(error))


def by(size: int, data: bytes) -> list[bytes]:
    """Return `data` in pieces of `size` bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Return `data` cut at these offsets, taken modulo its length. An offset given twice makes an empty piece."""
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(ends)]


def ways(data: bytes) -> Iterator[list[bytes]]:
    """Yield `data` whole, byte by byte, with empty pieces, and cut in two at every place."""
    yield [data]
    yield by(1, data)
    yield [b"", data, b""]
    for place in range(1, len(data)):
        yield [data[:place], data[place:]]


def assert_linear(new: Callable[[], Decoder], pieces: Callable[[int], list[bytes]], *, tries: int = 4) -> None:
    """Check that twice the input takes less than 2.6 times the CPU time.

    A busy machine gets several tries.
    """
    small, large = pieces(1), pieces(2)
    ratio = 0.0
    for _ in range(tries):
        # The two alternate, so that a slow moment affects both.
        times = [(_seconds(new, small), _seconds(new, large)) for _ in range(3)]
        ratio = min(large for _, large in times) / min(small for small, _ in times)
        if ratio < 2.6:
            return
    raise AssertionError(f"twice the input takes {ratio:.1f} times as long")


def _seconds(new: Callable[[], Decoder], pieces: list[bytes]) -> float:
    feed = new().feed
    gc.disable()
    try:
        begin = process_time()
        for piece in pieces:
            feed(piece)
        return process_time() - begin
    finally:
        gc.enable()


def peak_bytes(decoder: Decoder, pieces: Iterable[bytes]) -> tuple[int, Seen]:
    """Return the most memory taken while decoding, without the pieces themselves, and the results."""
    gc.collect()
    tracemalloc.start()
    try:
        seen = run(decoder, pieces)
        return tracemalloc.get_traced_memory()[1], seen
    finally:
        tracemalloc.stop()

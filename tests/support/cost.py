"""Measures CPU time without the garbage collector, takes the best of several runs, and repeats before it fails."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: The time for twice the input may be this many times as long. Linear is 2, quadratic is 4.
DOUBLING = 2.6


def cpu_s(run: Callable[[], object]) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.thread_time()
        run()
        return time.thread_time() - start
    finally:
        gc.enable()


def doubling(once: Callable[[], object], twice: Callable[[], object], looks: int = 60) -> float:
    """Return how many times as long `twice` takes as `once`.

    Each runs up to `looks` times while the result is too high.
    """
    a = b = float("inf")
    for look in range(looks):
        a, b = min(a, cpu_s(once)), min(b, cpu_s(twice))
        if look and b < DOUBLING * a:
            break
        if look > 2:
            # other work on the machine comes in bursts, so measure again later
            time.sleep(0.05)
    return b / a


class Empty:
    """A call that does nothing, to measure what a call costs."""

    def feed(self, piece: str) -> str:
        return piece


def over_an_empty_call(
    feed: Callable[[str], str], piece: str, most: float, calls: int = 50_000, looks: int = 40
) -> float:
    """Return how much more a call of `feed` costs than an empty method call, in empty method calls.

    Both are measured in turns, at least nine times each. If the result is more than `most`, they are measured up to
    `looks` times.
    """

    def run(feed: Callable[[str], str]) -> None:
        for _ in range(calls):
            feed(piece)

    empty = Empty().feed
    a = b = float("inf")
    for look in range(looks):
        a, b = min(a, cpu_s(lambda: run(feed))), min(b, cpu_s(lambda: run(empty)))
        if look >= 8 and a - b <= most * b:
            break
    return (a - b) / b

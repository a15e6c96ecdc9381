"""Measuring: CPU time, the collector off, the best of several, and a second look before anything is called slow."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: What doubling the input may multiply the time by. Linear is 2, quadratic 4.
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
    """How many times as long `twice` takes as `once`. Up to `looks` runs of each, so long as it looks too slow."""
    a = b = float("inf")
    for look in range(looks):
        a, b = min(a, cpu_s(once)), min(b, cpu_s(twice))
        if look and b < DOUBLING * a:
            break
        if look > 2:
            # what else the machine does comes in bursts: look again when it is over
            time.sleep(0.05)
    return b / a


class Empty:
    """What a call costs that does nothing."""

    def feed(self, piece: str) -> str:
        return piece


def over_an_empty_call(
    feed: Callable[[str], str], piece: str, most: float, calls: int = 50_000, looks: int = 40
) -> float:
    """What a call of `feed` costs more than an empty method call, in empty method calls, measured in turns in the same run.

    At least nine runs of each; up to `looks` so long as it is more than `most`.
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

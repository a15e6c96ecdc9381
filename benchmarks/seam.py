"""Measure the time of the seam and of the stop stage. ``python benchmarks/seam.py [--quick]`` prints two tables.

The *seam* is the code that joins the model's text to the prefill and removes a repetition of it. The first table has
nanoseconds per call, less the time of an empty method call. The second has nanoseconds per character for a text of one
size and for a text twice as long, and the factor between the two times. A factor of 2 means linear time.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import TYPE_CHECKING, Any

from aprefill import Seam
from aprefill._seam.stop import StopStage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RULES: dict[str, Any] = {"whitespace": True, "fence": True, "preamble": 400, "overlap": 16}


class Empty:
    def feed(self, piece: str) -> str:
        return piece


def best_s(run: Callable[[], object], looks: int) -> float:
    times = []
    for _ in range(looks):
        gc.collect()
        gc.disable()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        gc.enable()
    return min(times)


def call_ns(feed: Callable[[str], str], piece: str, calls: int) -> float:
    def run() -> None:
        for _ in range(calls):
            feed(piece)

    return best_s(run, 7) / calls * 1e9


def decided(raw: str, **rules: Any) -> Callable[[str], str]:
    seam = Seam("known text", **rules)
    seam.feed(raw)
    return seam.feed


def calls(count: int) -> None:
    empty = call_ns(Empty().feed, " word", count)
    print(f"{'per call, after the verdict':44}{'more than empty call':>20}")
    print(f"{'(an empty method call)':44}{empty:>17.0f} ns")
    stages: dict[str, tuple[Callable[[str], str], str]] = {
        "absent": (decided("other"), " word"),
        "echoed": (decided("known text and", **RULES), " word"),
        "fenced, fence still open": (decided("```\nknown text and", **RULES), " word"),
        "fenced, piece ends in a line end": (decided("```\nknown text and", **RULES), "word\n"),
        "fenced, piece holds a backtick": (decided("```\nknown text and", **RULES), " a `word"),
        "fenced, after an inner opening fence": (decided("```\nknown text and\n```sh\nls", **RULES), " word"),
        "fenced, after the closing fence": (decided("```\nknown text and\n```\nso", **RULES), " word"),
        "stop stage, two sequences": (StopStage(["END", "\n\n"]).feed, " word"),
        "stop stage, piece may begin a sequence": (StopStage(["END", "\n\n"]).feed, "word\n"),
    }
    for name, (feed, piece) in stages.items():
        print(f"{name:44}{call_ns(feed, piece, count) - empty:>17.0f} ns")


def words(n: int) -> str:
    return ("a word, " * n)[:n]


def whole(known: str, rules: dict[str, Any], pieces: Sequence[str]) -> Callable[[], None]:
    def run() -> None:
        seam = Seam(known, **rules)
        for piece in pieces:
            seam.feed(piece)
        seam.close()

    return run


def texts() -> dict[str, Callable[[int], Callable[[], None]]]:
    return {
        "exact echo, by character": lambda n: whole(words(n), {}, words(n)),
        "exact echo, in one piece": lambda n: whole(words(n), {}, [words(n)]),
        "every rule: echo, by character": lambda n: whole(words(n), RULES, words(n)),
        "every rule: fenced echo, by character": lambda n: whole(words(n), RULES, "```\n" + words(n)),
        "every rule: fenced echo, in one piece": lambda n: whole(words(n), RULES, ["```\n" + words(n)]),
        "chatter, by character": lambda n: whole("x" * 99, RULES | {"preamble": 2 * n}, words(n)),
        "fenced code in one piece": lambda n: whole("x", RULES, ["```\nx" + "a `word`\n\n" * (n // 10)]),
        "joint: blanks around line ends": lambda n: whole("x" + "\n" * n, RULES, "x" + " \n" * (n // 2)),
        "white space before an echo, by character": lambda n: whole("x" * n, RULES, " " * n),
        "white space before a fence's end": lambda n: whole("x" * n, RULES, ["```\n" + "x" * n, *"\n" * n]),
        "overlap, by character": lambda n: whole("b" + "a" * n, {"overlap": 9}, "a" * (n - 1) + "c"),
    }


def main() -> None:
    quick = "--quick" in sys.argv
    calls(2_000 if quick else 300_000)
    n = 2_000 if quick else 500_000
    print(f"\n{'text of ' + format(n, ',') + ' characters':44}{'per character':>20}{'twice':>12}{'factor':>10}")
    for name, make in texts().items():
        once, twice = (best_s(make(size), 3) for size in (n, 2 * n))
        print(f"{name:44}{once / n * 1e9:>17.1f} ns{twice / n / 2 * 1e9:>9.1f} ns{twice / once:>10.2f}")


if __name__ == "__main__":
    main()

"""The cost of a seam: linear time for all rules and cuts, very little time once decided, and bounded memory."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import Seam, Verdict

from ..support.cost import DOUBLING, doubling, over_an_empty_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Made = tuple[str, dict[str, Any], Iterable[str]]

#: Maximum cost of a piece once the seam is decided, in empty method calls.
MOST_CALLS = 5

EVERYTHING: dict[str, Any] = {"whitespace": True, "fence": True, "preamble": 10**9, "overlap": 16}


def words(n: int) -> str:
    return ("a word, " * n)[:n]


def fibonacci(n: int) -> str:
    """Return a word with borders (prefixes that are also suffixes) at all sizes: the worst case for a naive matcher."""
    a, b = "a", "ab"
    while len(b) < n:
        a, b = b, b + a
    return b[:n]


def stairs(n: int) -> str:
    """Return ab aab aaab ...: a match that fails again and again, each time one character later."""
    return "".join("a" * k + "b" for k in range(1, int((2 * n) ** 0.5)))


#: Each case is named after the part that is long. It returns (known, rules, pieces) for a size in characters.
CASES: dict[str, tuple[int, Callable[[int], Made]]] = {
    "exact echo of 1 MB, by character": (500_000, lambda n: (words(n), {}, words(n))),
    "white space before an echo": (60_000, lambda n: ("a" * n, {"whitespace": True}, " " * n)),
    "white space inside an echo": (60_000, lambda n: ("a" * n, {"whitespace": True}, " a" * n)),
    "white space in one piece": (500_000, lambda n: ("a" * n, {"whitespace": True}, [" " * n, "b" * n])),
    "fenced echo, every rule": (60_000, lambda n: (words(n), EVERYTHING, "```\n" + words(n) + "\n```")),
    "closing fence: white space": (
        60_000,
        lambda n: ("a" * n, {"fence": True}, ["```\n" + "a" * n, "\n", *" " * n]),
    ),
    "closing fence: backticks": (60_000, lambda n: ("a", {"fence": True}, "```\na\n" + "`" * n)),
    "closing fence: fences": (60_000, lambda n: ("a", {"fence": True}, "```\na\n" + "```\n" * (n // 4))),
    "closing fence: fences in one piece": (
        200_000,
        lambda n: ("a", {"fence": True}, ["```\na\n" + "```\n" * (n // 4)]),
    ),
    "closing fence: white space in one piece": (
        2_000_000,
        lambda n: ("a", {"fence": True}, ["```\na\n" + " " * n + "```"]),
    ),
    "closing fence: line ends and no fence": (
        60_000,
        lambda n: ("a", {"fence": True}, ["```\na\n", *["b` \n" * 20] * (n // 80)]),
    ),
    "closing fence: line ends in one piece": (500_000, lambda n: ("a", {"fence": True}, ["```\na`" + "\n" * n + "`b"])),
    "closing fence: blanks in one piece": (500_000, lambda n: ("a", {"fence": True}, ["```\na" + "\n " * n + "`b"])),
    "closing fence: behind an inner one": (
        60_000,
        lambda n: ("a", {"fence": True}, "```\na\n```x\n" + "```\nb " * (n // 6)),
    ),
    "closing fence: behind an inner one, in one piece": (
        200_000,
        lambda n: ("a" * n, {"fence": True}, ["```\n" + "a" * n + "\n```x\n" + "``` \n \n" * n + "b"]),
    ),
    "closing fence: behind it": (
        60_000,
        lambda n: ("a" * n, {"fence": True}, "```\n" + "a" * n + "\n```" + "\n" * n + "b" * n),
    ),
    "overlap: one letter": (60_000, lambda n: ("b" + "a" * n, {"overlap": 4}, "a" * (n - 1) + "c")),
    "overlap: borders": (60_000, lambda n: (fibonacci(n), {"echo": "never", "overlap": 4}, fibonacci(n))),
    "overlap: borders in one piece": (
        250_000,
        lambda n: (fibonacci(n), {"echo": "never", "overlap": 4}, [fibonacci(n)]),
    ),
    "overlap: stairs": (60_000, lambda n: ("x" + stairs(n), {"overlap": 4}, "a" * n)),
    "overlap: echo given up late": (60_000, lambda n: ("ab" * n, {"overlap": 4}, "ab" * (n - 1) + "ac")),
    "preamble: line ends": (
        60_000,
        lambda n: ("\n" * (n // 2) + "x" * 16, {"preamble": 10**9}, "c" + "\n" * n),
    ),
    "preamble: lines that begin the echo": (
        30_000,
        lambda n: ("```\n" * (n // 8) + "```x", EVERYTHING, "c" + "\n```" * (n // 2)),
    ),
    "preamble: in one piece": (
        60_000,
        lambda n: ("```\n" * (n // 8) + "```x", EVERYTHING, ["c" + "\n```" * (n // 2)]),
    ),
    "preamble: a line of white space": (60_000, lambda n: ("x" * n, EVERYTHING, "c\n" + " " * n)),
    "preamble: chatter": (60_000, lambda n: ("x" * n, EVERYTHING, words(n))),
    "preamble: openers": (60_000, lambda n: ("x" * 16, EVERYTHING, "c\n" + "```\n" * (n // 4))),
    "joint": (60_000, lambda n: ("a" + " " * n, {"stripped": " " * n}, "a" + " " * n)),
    "joint: line ends": (60_000, lambda n: ("a" + "\n" * n, {"whitespace": True}, "a" + " \n" * n)),
    "joint: line ends in one piece": (
        200_000,
        lambda n: ("a" + "\n" * n, {"whitespace": True}, ["a" + " \n" * n]),
    ),
    "joint: blanks": (60_000, lambda n: ("a" * n + "\n", {"whitespace": True}, "a" * n + " " * n)),
}


def run(made: Made) -> Callable[[], object]:
    known, rules, pieces = made
    pieces = list(pieces)

    def whole() -> None:
        seam = Seam(known, **rules)
        feed = seam.feed
        for piece in pieces:
            feed(piece)
        seam.close()

    return whole


@pytest.mark.perf
@pytest.mark.parametrize("name", CASES)
def test_doubling_the_input_doubles_the_time(name: str) -> None:
    """Invariant 4 holds: if known and the text are both twice as long, the time is less than 2.6 times as long."""
    size, made = CASES[name]
    assert doubling(run(made(size)), run(made(2 * size))) < DOUBLING


@pytest.mark.perf
def test_control_of_the_doubling() -> None:
    """A seam that compares all of raw for each piece fails the same measurement."""

    def compares(n: int) -> Callable[[], object]:
        known = words(n)

        def whole() -> None:
            raw = ""
            for piece in known:
                raw += piece
                assert known[: len(raw)] == "".join(raw)[:]

        return whole

    # the maximum of three, because noise can make it look faster than it is
    assert max(doubling(compares(2_000), compares(4_000), looks=5) for _ in range(3)) > DOUBLING


def decided(known: str, rules: dict[str, Any], raw: str, verdict: Verdict) -> Seam:
    seam = Seam(known, **rules)
    seam.feed(raw)
    assert seam.verdict is verdict
    return seam


@pytest.mark.perf
@pytest.mark.parametrize(
    ("rules", "raw", "verdict"),
    [
        ({}, "other", Verdict.ABSENT),
        (EVERYTHING, "known text", Verdict.ECHOED),
        ({"fence": True}, "```\nknown text", Verdict.FENCED),
        ({"fence": True}, "```\nknown text\n```x", Verdict.FENCED),
        ({"fence": True}, "```\nknown text\n```\n", Verdict.FENCED),
        ({"echo": "never"}, "", Verdict.ABSENT),
    ],
)
def test_a_decided_seam_costs_next_to_nothing(rules: dict[str, Any], raw: str, verdict: Verdict) -> None:
    """A piece costs at most five empty method calls (150 ns if one takes 30), also before a closing fence."""
    seam = decided("known", rules, raw, verdict)
    seam.feed("x")
    assert over_an_empty_call(seam.feed, " word", MOST_CALLS) <= MOST_CALLS


@pytest.mark.perf
def test_control_of_the_decided_cost() -> None:
    """A seam that still compares after the decision fails the same measurement."""

    class Compares(Seam):
        raw = ""

        def feed(self, piece: str) -> str:
            self.raw = (self.raw + piece)[-5:]
            return super().feed(piece) if self.raw.strip().lower() != "known" else ""

    seam = Compares("known")
    seam.feed("other")
    assert over_an_empty_call(seam.feed, " word", MOST_CALLS) > MOST_CALLS


@pytest.mark.parametrize("rules", [{}, {"whitespace": True}, EVERYTHING, {"overlap": 16}], ids=str)
def test_memory_is_a_small_multiple_of_known(rules: dict[str, Any]) -> None:
    """Known has 40 KB and is echoed by character until the last one differs: memory stays below 0.6 MB."""
    known = "x" + words(40_000)
    pieces = [*known[1 if "overlap" in rules and len(rules) == 1 else 0 : -1], "-"]
    tracemalloc.start()
    try:
        seam = Seam(known, **rules)
        for piece in pieces:
            seam.feed(piece)
        seam.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 600_000

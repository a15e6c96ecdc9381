"""Tests `StopStage` against a slow version that tries every sequence at every position of the whole text."""

from __future__ import annotations

import itertools
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprefill._seam.stop import StopStage

from ..support.cost import DOUBLING, doubling, over_an_empty_call
from ..support.seam_reference import common_prefix, cuttings
from ..support.stop_reference import until_stop
from ..support.thorough import usually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CASES = int(os.environ.get("APREFILL_STOP_CASES", "2000"))


def agreed(sequences: Sequence[str], text: str, tails: Sequence[str]) -> str:
    """Return the longest text on which all continuations agree."""
    shown = until_stop(sequences, text)[0]
    for tail in tails:
        shown = common_prefix(shown, until_stop(sequences, text + tail)[0])
    return shown


def cases(count: int, seed: int) -> Iterator[tuple[list[str], str]]:
    rng = random.Random(seed)
    for _ in range(count):
        letters = rng.choice(["ab", "ab", "abc", "`\n "])
        sequences = ["".join(rng.choices(letters, k=rng.randint(1, 5))) for _ in range(rng.randint(1, 4))]
        yield sequences, "".join(rng.choices(letters, k=rng.randint(0, 9)))


def through(make: type[StopStage], sequences: Sequence[str], pieces: Sequence[str]) -> tuple[str, str | None]:
    stage = make(sequences)
    shown = "".join([stage.feed(piece) for piece in pieces]) + stage.close()
    return shown, stage.fired


def check_minimal(make: type[StopStage], sequences: Sequence[str], text: str) -> str:
    """Return what is wrong after some character, or "". The continuations are all tails of all sequences."""
    tails = sorted({sequence[i:] for sequence in sequences for i in range(len(sequence))})
    stage = make(sequences)
    shown = ""
    for j in range(len(text) + 1):
        if j:
            shown += stage.feed(text[j - 1])
        expected = agreed(sequences, text[:j], tails)
        if shown != expected:
            return f"{shown!r} of {text[:j]!r} with {sequences}, all agree on {expected!r}"
        if stage.held != (0 if stage.fired is not None else j - len(shown)):
            return f"{stage.held} held of {text[:j]!r} with {sequences}"
        if stage.held >= max(map(len, sequences)):
            return "more held than a sequence can need"
    return "" if (shown + stage.close(), stage.fired) == until_stop(sequences, text) else "wrong at the end"


def check_cuts(make: type[StopStage], sequences: Sequence[str], text: str, seed: int) -> str:
    """Return what is wrong for some way of cutting, or ""."""
    expected = until_stop(sequences, text)
    for pieces in cuttings(text, random.Random(seed)):
        if through(make, sequences, pieces) != expected:
            return f"{pieces} with {sequences} gives {through(make, sequences, pieces)} instead of {expected}"
    return ""


# --- what it does --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequences", "text", "shown", "fired"),
    [
        (["```"], "select 1\n```\nHope", "select 1\n", "```"),
        (["\n\n", "END"], "one\n\nEND", "one", "\n\n"),
        (["bc", "abc"], "xabcx", "x", "abc"),
        (["b", "abc"], "xabcx", "xa", "b"),
        (["END"], "EEND", "E", "END"),
        (["END"], "the EN", "the EN", None),
        (["aab"], "aaab", "a", "aab"),
        ([], "all of it", "all of it", None),
        (["^]-\\"], "a^]-\\b", "a", "^]-\\"),
        (["\ud800"], "a\ud800b", "a", "\ud800"),
    ],
)
def test_it_cuts_in_front_of_the_first_match(sequences: list[str], text: str, shown: str, fired: str | None) -> None:
    """The match that ends first fires, or the longest if two end at the same place. Nothing after it is shown."""
    assert until_stop(sequences, text) == (shown, fired)
    for pieces in cuttings(text, random.Random(0)):
        assert through(StopStage, sequences, pieces) == (shown, fired)


def test_nothing_is_held_longer_or_shown_earlier_than_it_must_be() -> None:
    """After every character, the shown text is the longest on which all continuations agree."""
    for sequences, text in cases(CASES, seed=1):
        assert not check_minimal(StopStage, sequences, text)


def test_the_tails_are_enough_continuations() -> None:
    """The tails of the sequences agree on the same text as all continuations of up to six letters do."""
    everything = ["".join(c) for n in range(7) for c in itertools.product("ab", repeat=n)]
    rng = random.Random(2)
    for _ in range(60):
        sequences = ["".join(rng.choices("ab", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        text = "".join(rng.choices("ab", k=rng.randint(0, 5)))
        tails = [sequence[i:] for sequence in sequences for i in range(len(sequence))]
        assert agreed(sequences, text, tails) == agreed(sequences, text, everything)


def test_cuts_do_not_matter() -> None:
    """All cuts give the same result: whole, by character, with empty pieces, every two-way cut and random cuts."""
    for seed, (sequences, text) in enumerate(cases(CASES // 4, seed=3)):
        assert not check_cuts(StopStage, sequences, text, seed)


@settings(derandomize=True, max_examples=usually(100, 200), deadline=None)
@given(
    sequences=st.lists(st.text(min_size=1, max_size=6), max_size=5),
    parts=st.lists(st.text(max_size=5) | st.integers(0, 4), max_size=8),
)
def test_any_text_and_any_sequences(sequences: list[str], parts: list[str | int]) -> None:
    """The result is right for any characters, in the sequences and around them."""
    words = [*sequences, *[""] * 5]
    pieces = [words[part] if isinstance(part, int) else part for part in parts]
    expected = until_stop(sequences, "".join(pieces))
    assert through(StopStage, sequences, pieces) == through(StopStage, sequences, "".join(pieces)) == expected


def test_after_it_fired_nothing_comes() -> None:
    """After a sequence has fired, later pieces and the end return an empty str, and `fired` does not change."""
    stage = StopStage(["b"])
    assert stage.feed("abc") == "a"
    assert (stage.feed("abc"), stage.close(), stage.fired, stage.held) == ("", "", "b", 0)


def test_a_sequence_that_can_never_fire_holds_nothing() -> None:
    """Of "ab" and "xaby", the first always fires before the second is complete. So an "x" is not held."""
    assert StopStage(["xaby", "ab"]).feed("x") == "x"


def test_misuse() -> None:
    """An empty sequence, one str instead of a list, and the use of a closed stage raise errors."""
    with pytest.raises(ValueError, match="empty stop sequence"):
        StopStage(["a", ""])
    with pytest.raises(TypeError):
        StopStage("abc")
    stage = StopStage(["a"])
    stage.close()
    with pytest.raises(RuntimeError):
        stage.feed("")
    with pytest.raises(RuntimeError):
        stage.close()


# --- cost ----------------------------------------------------------------------------------------------------------

COSTS: dict[str, tuple[int, Callable[[int], tuple[list[str], Any]]]] = {
    "a long sequence in the making, by character": (40_000, lambda n: (["a" * (n // 20) + "b"], "a" * n)),
    "the same in one piece": (60_000, lambda n: (["a" * (n // 20) + "b"], ["a" * n])),
    "many sequences": (40_000, lambda n: (["a" * k + "b" for k in range(1, 60)], "a" * n)),
    "borders": (
        40_000,
        lambda n: (["abaababaabaababaababa" * (n // 2000) + "c"], "abaababaabaababaababa" * (n // 20)),
    ),
    "ordinary text": (400_000, lambda n: (["END", "\n\n"], ["some ordinary text\n" * (n // 10)])),
}


@pytest.mark.perf
@pytest.mark.parametrize("name", COSTS)
def test_doubling_the_input_doubles_the_time(name: str) -> None:
    """The time is linear: if the text and the sequences are twice as long, it is less than 2.6 times as long."""

    def run(sequences: list[str], pieces: Any) -> Callable[[], object]:
        def whole() -> None:
            feed = StopStage(sequences).feed
            for piece in pieces:
                feed(piece)

        return whole

    size, made = COSTS[name]
    assert doubling(run(*made(size)), run(*made(2 * size))) < DOUBLING


@pytest.mark.perf
def test_ordinary_text_never_enters_the_automaton() -> None:
    """A piece in which no sequence begins costs less than 30 empty calls: it is only searched for first characters."""
    assert over_an_empty_call(StopStage(["END", "\n\n"]).feed, " word", 30) < 30


# --- controls ------------------------------------------------------------------------------------------------------


class HoldsAlways(StopStage):
    """Always holds as many characters as the longest sequence could need, even if they match no sequence."""

    kept = ""

    def __init__(self, sequences: Sequence[str]) -> None:
        super().__init__(sequences)
        self.most = max(map(len, sequences)) - 1

    def feed(self, piece: str) -> str:
        text = self.kept + super().feed(piece)
        keep = max(0, min(len(text), self.most - self.held))
        self.kept = text[len(text) - keep :]
        return text[: len(text) - keep]

    def close(self) -> str:
        return self.kept + super().close()


class ForgetsAtTheCut(StopStage):
    """Looks at each piece alone, so that it misses a sequence that is cut."""

    def feed(self, piece: str) -> str:
        text = super().feed(piece)
        node, self._node = self._node, 0
        return text + self._beginnings.owner[node][: self._beginnings.length[node]]


class CutsOneLate(StopStage):
    """Shows the first character of the match."""

    def feed(self, piece: str) -> str:
        before = self.fired
        text = super().feed(piece)
        return text + self.fired[0] if before is None and self.fired is not None else text


@pytest.mark.parametrize("broken", [HoldsAlways, ForgetsAtTheCut, CutsOneLate])
def test_control_of_minimal_holding(broken: type[StopStage]) -> None:
    """The same check catches each broken stage within 500 cases."""
    assert any(check_minimal(broken, sequences, text) for sequences, text in cases(500, seed=1))


@pytest.mark.parametrize("broken", [ForgetsAtTheCut, CutsOneLate])
def test_control_of_the_cuts(broken: type[StopStage]) -> None:
    """The same check catches each broken stage within 500 cases."""
    assert any(check_cuts(broken, sequences, text, 0) for sequences, text in cases(500, seed=3))

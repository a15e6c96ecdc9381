"""Tests `safe_overlap`: the shortest overlap with the end of a known text that cannot be new text by chance."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from aprefill import Seam
from aprefill._seam.finders import safe_overlap

from ..support.seam_reference import through

LEAST = 16


def could_be_new(known: str, length: int) -> bool:
    """Whether the last `length` characters also occur earlier in known, or are one piece repeated several times."""
    tail = known[-length:]
    if tail in known[:-1]:
        return True
    return any(tail == tail[:size] * (length // size) for size in range(1, length // 2 + 1) if length % size == 0)


@pytest.mark.parametrize("letters", ["a", "ab", "ab\n"])
def test_the_least_overlap_that_counts(letters: str) -> None:
    """For every text over some letters, the result is the least length from which no overlap can be new text, or 0."""
    for length in range(1, 17 if letters == "a" else 10 if letters == "ab" else 7):
        for parts in product(letters, repeat=length):
            known = "".join(parts)
            for least in (1, 2, 3):
                found = safe_overlap(known, least)
                new = [k for k in range(least, length) if could_be_new(known, k)]
                expected = max(new, default=least - 1) + 1
                assert found == (expected if expected < length else 0), (known, least)


CAPITAL = "Sure! The capital of France is"
LIST = "1. Alabama\n2. Alaska\n3. Arizona\n4. "
OVERLAPS = [
    (CAPITAL, 16),
    ("Dear Ann,", 0),
    ("The capital of F", 0),
    (LIST, 16),
    ("ha " * 80, 0),
    ("ha " * 40, 118),
    ("0" * 300, 0),
    ("|---" * 12 + "|", 0),
    ("no, never " * 3 + "no", 31),
    ("no, never " * 2 + "no, n", 21),
    ("- a line of a list\n" * 3 + "- another line of a list\n", 17),
    (
        "a long line that is there twice, and it has more than a hundred and twenty characters, for it goes on and on\n"
        * 3,
        0,
    ),
]


@pytest.mark.parametrize(("known", "least"), OVERLAPS)
def test_worked_cases(known: str, least: int) -> None:
    """It is 16 if known does not repeat itself at its end, more if it does, and 0 if all of known is a repetition."""
    assert safe_overlap(known, LEAST) == least


def rules(known: str, overlap: int) -> dict[str, Any]:
    return {"whitespace": True, "fence": True, "preamble": 120, "overlap": overlap}


REPETITIONS = [
    # a known text, and a reply of a model that continues it without repeating it
    ("x = [" + "0, " * 30, "0, " * 25 + "0]"),
    ("They say: " + "no, never " * 3, "no, never " * 2 + "again"),
    ("They say: " + "never, no " * 2, "never, no " * 2 + "again"),
    ("Chorus:\n" + "We go on and on and on\n" * 4, "We go on and on and on\n" * 2 + "The end\n"),
    ("| a | b | c | d |\n|---|---|---|---|\n" + "|   |   |   |   |\n" * 3, "|   |   |   |   |\n" * 2 + "| x |\n"),
]


@pytest.mark.parametrize(("known", "raw"), REPETITIONS)
def test_new_text_that_is_equal_to_known_text_stays(known: str, raw: str) -> None:
    """With the safe overlap every character is shown. The control is a fixed overlap, which drops new text."""
    assert through(Seam, known, rules(known, safe_overlap(known, LEAST)), [raw])[:2] == (raw, "absent")
    assert through(Seam, known, rules(known, LEAST), [raw])[:2] != (raw, "absent")


def test_a_model_that_begins_a_little_later_is_joined_at_any_length() -> None:
    """If a model begins a little later in the known text, the overlap is dropped also if the known text is short."""
    for known, raw, text in (
        (CAPITAL, "The capital of France is Paris.", " Paris."),
        (LIST, "2. Alaska\n3. Arizona\n4. Arkansas\n", "Arkansas\n"),
    ):
        assert through(Seam, known, rules(known, safe_overlap(known, LEAST)), list(raw))[:2] == (text, "overlapped")

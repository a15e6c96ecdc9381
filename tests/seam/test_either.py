"""Tests `FallbackSeam` (two seams over one stream) and `FenceOpenerSeam` (a fence in any language), at every cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import Seam, Verdict
from aprefill._seam.fallback import FallbackSeam
from aprefill._seam.opener import FenceOpenerSeam, is_opener
from aprefill._seam.plan import SeamPlan
from aprefill._seam.stage import TextStage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KNOWN = "The first line of a long text.\nAnd the last line of it is "
END = "And the last line of it is "


def both() -> FallbackSeam:
    rules: dict[str, Any] = {"whitespace": True, "fence": True}
    return FallbackSeam(Seam(KNOWN, **rules, overlap=16), Seam(END, **rules, preamble=200, stripped=" "))


def cuts(raw: str) -> Iterator[list[str]]:
    yield [raw]
    yield list(raw)
    yield from ([raw[:at], raw[at:]] for at in range(len(raw) + 1))


def through(make: Any, pieces: list[str], *, cut: bool = False) -> tuple[str, Verdict]:
    stage = make()
    text = "".join(map(stage.feed, pieces)) + stage.close(cut)
    assert stage.held == 0
    return text, stage.verdict


@pytest.mark.parametrize(
    ("raw", "text", "verdict"),
    [
        (KNOWN + "here.", "here.", Verdict.ECHOED),
        (END + "here.", "here.", Verdict.OVERLAPPED),
        ("the last line of it is here.", "here.", Verdict.OVERLAPPED),
        ("```\n" + END + "here.\n```", "here.", Verdict.FENCED),
        ("Sure:\n" + END + "here.", "here.", Verdict.PREFACED),
        ("And the  last line\nof it is here.", "here.", Verdict.ECHOED),
        ("here, and on.", "here, and on.", Verdict.ABSENT),
        ("", "", Verdict.ABSENT),
    ],
)
def test_the_first_that_finds_something(raw: str, text: str, verdict: Verdict) -> None:
    """The first seam's result is used, or the second's if the first finds nothing, however the text is cut."""
    for pieces in cuts(raw):
        assert through(both, pieces) == (text, verdict)


@pytest.mark.parametrize("raw", ["And the la", "The first line of a", "```\nAnd the"])
def test_a_cut_inside_a_repetition(raw: str) -> None:
    """If the stream breaks off inside a repetition, no part of the repetition is shown."""
    for pieces in cuts(raw):
        assert through(both, pieces, cut=True) == ("", Verdict.TRUNCATED)


OPENERS = [
    ("```python\n", "```py\ncode", "code", Verdict.ECHOED),
    ("```python\n", "\n ```\r\ncode", "code", Verdict.ECHOED),
    ("```python\n", "Sure:\n```py\ncode", "code", Verdict.PREFACED),
    ("```python", "```py\ncode", "\ncode", Verdict.ECHOED),
    ("```python\n", "code\n```\nmore", "code\n```\nmore", Verdict.ABSENT),
    ("```python\n", "code", "code", Verdict.ABSENT),
    ("```python\n", "x" * 400, "x" * 400, Verdict.ABSENT),
    ("```python\n", "``", "``", Verdict.ABSENT),
    ("```python\n", "\n" * 266 + "```\n", "", Verdict.ECHOED),
    ("```python\n", "\nSure:\n\n \n```py\ncode", "code", Verdict.PREFACED),
    ("```python\n", "import os\nimport re\n```sh\nls", "import os\nimport re\n```sh\nls", Verdict.ABSENT),
    ("```python\n", "x" * 119 + "\n```py\ncode", "code", Verdict.PREFACED),
    ("```python\n", "x" * 120 + "\n```py\ncode", "x" * 120 + "\n```py\ncode", Verdict.ABSENT),
    ("```python\n", "\n" * 267 + "```\n", "\n" * 267 + "```\n", Verdict.ABSENT),
]


@pytest.mark.parametrize(("known", "raw", "text", "verdict"), OPENERS)
def test_an_opener_of_any_language(known: str, raw: str, text: str, verdict: Verdict) -> None:
    """An opener of any language is dropped. A fence that closes the model's own code is kept."""
    for pieces in cuts(raw):
        assert through(lambda: FenceOpenerSeam(known), pieces) == (text, verdict)


def test_a_seam_alone_knows_the_opener_that_was_asked_for() -> None:
    """To `Seam` alone, an opener of another language is the model's own text. `FallbackSeam` accepts it as the echo."""
    rules: dict[str, Any] = {"whitespace": True, "fence": True, "preamble": 120}
    for pieces in cuts("```js\n{}"):
        assert through(lambda: Seam("```json\n", **rules), pieces) == ("```js\n{}", Verdict.ABSENT)
        assert through(lambda: SeamPlan("```json\n", rules, asked=True).seam(), pieces) == ("{}", Verdict.ECHOED)


def test_the_vectors_hold_with_the_second_reading(shared: Path) -> None:
    """Every case of `seam-vectors-2.json` gives the same result with the two seams that emulation uses."""
    openers = 0
    for case in json.loads((shared / "spec" / "seam-vectors-2.json").read_text(encoding="utf-8")):
        known, rules, raw, cut = case["known"], case["rules"], case["raw"], case["cut"]
        openers += is_opener(known)
        for pieces in ([raw], list(raw)):
            text, verdict = through(lambda: SeamPlan(known, rules, asked=True).seam(), pieces, cut=cut)  # noqa: B023
            assert (text, verdict.value) == (case["emitted"], case["verdict"])
    assert openers


@pytest.mark.parametrize(
    "raw",
    ["Sure:\nH", "Sure:\n```\n", "Sure:\n``x", "x" * 120, "```a`", "```" + "a" * 65, "Sure: `", "`x", "Sure:\n``` "],
)
def test_text_is_shown_as_soon_as_it_can_be_no_opener(raw: str) -> None:
    """Text is shown at the character that rules out an opener, and not one character earlier."""
    seam = FenceOpenerSeam("```python\n")
    assert [seam.feed(c) for c in raw[:-1]] == [""] * (len(raw) - 1)
    assert seam.verdict is Verdict.UNDECIDED
    assert seam.feed(raw[-1]) == raw
    assert seam.verdict is Verdict.ABSENT


OPENER_RULES: dict[str, Any] = {"whitespace": True, "fence": True, "preamble": 120}
OWN_TEXT = [
    # known, the end that the prompt asked for, the model's text, whether it is the model's own
    ('["', "", "I can help you with that.\n\n", True),
    ('["', "", "Sure:", True),
    ('["', "", "[", False),
    ('["', "", " \n", False),
    ('["', "", "Sure:\n`", False),
    ('["', "", "Sure:\n```js\n", False),
    ('["', "", "``", False),
    ("```python\n", "", "Sure:\n\n", True),
    ("```python\n", "", "```sh\n", True),
    ("```python\n", "", "Sure:\n``", False),
    ("```python\n", "", "Sure:\n```py", False),
    ("```python\n", "", "``", False),
    (KNOWN, END, "Of course:\n", True),
    (KNOWN, END, "Of course:\nAnd", False),
    (KNOWN, END, "The first", False),
    (KNOWN, END, "line of a", False),
]


@pytest.mark.parametrize(("known", "end", "raw", "own"), OWN_TEXT)
def test_whose_text_is_held(known: str, end: str, raw: str, own: bool) -> None:
    """Held text is the model's own, unless it contains a part of an echo, of an overlap or of a fence."""
    rules = {"whitespace": True, "fence": True, "overlap": 4} if end else OPENER_RULES
    for pieces in ([raw], list(raw)):
        stage = TextStage(SeamPlan(known, rules, end, OPENER_RULES, asked=True).seam())
        assert [stage.feed(piece) for piece in pieces] == [""] * len(pieces)
        assert stage.holds_own_text is own


def test_an_overlap_in_the_making_is_not_the_models_own_text() -> None:
    """A partial overlap does not count as own text. A complete overlap does, and so does text that cannot be one."""
    rules = {**OPENER_RULES, "overlap": 16}
    known = "Sure! The capital of France is"
    for raw, own in (("The cap", False), ("The capital of France is", True), ("The cat", True), ("Yes.\n\n", True)):
        for pieces in ([raw], list(raw)):
            stage = TextStage(SeamPlan(known, rules, asked=True).seam())
            for piece in pieces:
                stage.feed(piece)
            assert stage.holds_own_text is own


def test_what_is_an_opener() -> None:
    """An opener is three backticks, optionally with a name and white space, and nothing else."""
    assert all(map(is_opener, ("```", "```python", "\n```json \n")))
    assert not any(map(is_opener, ("", "``", "```python\nimport", "x```", "```a``")))

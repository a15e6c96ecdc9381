"""Two seams over one stream, and the opener of a fence in any language: whole, in pieces, at every cut."""

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
    """However the text is cut."""
    for pieces in cuts(raw):
        assert through(both, pieces) == (text, verdict)


@pytest.mark.parametrize("raw", ["And the la", "The first line of a", "```\nAnd the"])
def test_a_cut_inside_a_repetition(raw: str) -> None:
    """Nothing of it is given out."""
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
    """Is dropped; a fence that closes the model's own code is not."""
    for pieces in cuts(raw):
        assert through(lambda: FenceOpenerSeam(known), pieces) == (text, verdict)


def test_a_seam_alone_knows_the_opener_that_was_asked_for() -> None:
    """Another language's is the model's own text to it, by the rules of the seam; only behind it the other reading counts."""
    rules: dict[str, Any] = {"whitespace": True, "fence": True, "preamble": 120}
    for pieces in cuts("```js\n{}"):
        assert through(lambda: Seam("```json\n", **rules), pieces) == ("```js\n{}", Verdict.ABSENT)
        assert through(lambda: SeamPlan("```json\n", rules, asked=True).seam(), pieces) == ("{}", Verdict.ECHOED)


def test_the_vectors_hold_with_the_second_reading(shared: Path) -> None:
    """Every case of the specification gives the same where it is asked of both, as emulation does."""
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
    """And not one character earlier: what it was before that could have gone on to an opener."""
    seam = FenceOpenerSeam("```python\n")
    assert [seam.feed(c) for c in raw[:-1]] == [""] * (len(raw) - 1)
    assert seam.verdict is Verdict.UNDECIDED
    assert seam.feed(raw[-1]) == raw
    assert seam.verdict is Verdict.ABSENT


OPENER_RULES: dict[str, Any] = {"whitespace": True, "fence": True, "preamble": 120}
OWN_TEXT = [
    # what is known, the end that was asked back, what the model wrote, whether it is its own
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
    """The model's own, unless a part of an echo, of an overlap or of a fence is in it."""
    rules = {"whitespace": True, "fence": True, "overlap": 4} if end else OPENER_RULES
    for pieces in ([raw], list(raw)):
        stage = TextStage(SeamPlan(known, rules, end, OPENER_RULES, asked=True).seam())
        assert [stage.feed(piece) for piece in pieces] == [""] * len(pieces)
        assert stage.holds_own_text is own


def test_an_overlap_in_the_making_is_not_the_models_own_text() -> None:
    """Behind chatter there is none; one that is complete is dropped, and what follows it is shown."""
    rules = {**OPENER_RULES, "overlap": 16}
    known = "Sure! The capital of France is"
    for raw, own in (("The cap", False), ("The capital of France is", True), ("The cat", True), ("Yes.\n\n", True)):
        for pieces in ([raw], list(raw)):
            stage = TextStage(SeamPlan(known, rules, asked=True).seam())
            for piece in pieces:
                stage.feed(piece)
            assert stage.holds_own_text is own


def test_what_is_an_opener() -> None:
    """Three backticks, perhaps a name, perhaps white space."""
    assert all(map(is_opener, ("```", "```python", "\n```json \n")))
    assert not any(map(is_opener, ("", "``", "```python\nimport", "x```", "```a``")))

"""Tests `TextStage` against slow versions of its parts, which are applied to the whole text one after the other."""

from __future__ import annotations

import random
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from aprefill import Seam, Verdict
from aprefill._seam.plan import SeamPlan
from aprefill._seam.stage import TextStage

from ..support.seam_reference import Batch, common_prefix, cuttings
from ..support.stop_reference import until_stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Case(NamedTuple):
    known: str
    rules: dict[str, Any]
    letters: str
    stop: tuple[str, ...]
    most: int | None
    raw: str


#: The random cases are made from these: known, rules, letters.
KINDS: list[tuple[str, dict[str, Any], str]] = [
    ("ab", {}, "ab"),
    ("aba", {}, "ab"),
    ("aab", {"overlap": 2}, "ab"),
    ("a b", {"whitespace": True}, "ab "),
    ("ab ", {"stripped": " "}, "ab "),
    ("ab", {"echo": "never"}, "ab"),
    ("", {"echo": "never"}, "ab"),
]
FENCED: tuple[str, dict[str, Any], str] = ("ab", {"fence": True, "preamble": 9, "whitespace": True}, "ab`\n ")


def cases(count: int, seed: int, kinds: Sequence[tuple[str, dict[str, Any], str]]) -> Iterator[Case]:
    rng = random.Random(seed)
    for _ in range(count):
        known, rules, letters = rng.choice(kinds)
        stop = tuple("".join(rng.choices(letters, k=rng.randint(1, 3))) for _ in range(rng.randint(0, 2)))
        front = rng.choice(
            ["", known, known, f"```\n{known}", f"```\n{known}b\n```\n"] if "fence" in rules else ["", known]
        )
        raw = front + "".join(rng.choices(letters, k=rng.randint(0, 5)))
        yield Case(known, rules, letters, stop, rng.choice([None, None, 0, 1, 3]), raw)


def stage_of(make: type[TextStage], case: Case) -> TextStage:
    return make(Seam(case.known, **case.rules), lead=case.known, stop=case.stop, most=case.most)


def whole(case: Case, raw: str) -> tuple[str, str | None, bool]:
    """Return the text of raw that may be shown, the stop sequence that was found, and whether `most` was exceeded."""
    text, fired = until_stop(case.stop, Batch(case.known, **case.rules)(raw).emitted)
    return text[: case.most], fired, case.most is not None and len(text) > case.most


def through(make: type[TextStage], case: Case, pieces: Sequence[str]) -> tuple[str, str | None, bool]:
    stage = stage_of(make, case)
    shown = ""
    for piece in pieces:
        shown += stage.feed(piece)
        if stage.over:
            break
    return shown + stage.close(), stage.fired, stage.exceeded


def check_cuts(make: type[TextStage], case: Case, seed: int) -> str:
    """Return what is wrong for some way of cutting, or ""."""
    shown, fired, exceeded = whole(case, case.raw)
    for pieces in cuttings(case.raw, random.Random(seed)):
        got = through(make, case, pieces)
        # If the limit ends the text, it depends on the piece whether a stop sequence after it is still found.
        if (got[0], got[2]) != (shown, exceeded) or (got[1] != fired and not exceeded):
            return f"{got} instead of {(shown, fired, exceeded)} for {pieces}, {case}"
    return ""


def check_minimal(make: type[TextStage], case: Case, tails: Sequence[str]) -> str:
    """Return what is wrong after some character, or "". Checks the counts, and the text against all continuations."""
    stage = stage_of(make, case)
    shown = ""
    for end in range(1, len(case.raw) + 1):
        shown += stage.feed(case.raw[end - 1])
        raw = case.raw[:end]
        agreed = whole(case, raw)[0]
        for tail in tails:
            agreed = common_prefix(agreed, whole(case, raw + tail)[0])
        if shown != agreed:
            return f"{shown!r} of {raw!r}, all agree on {agreed!r}: {case}"
        if stage.shown != len(shown):
            return f"{stage.shown} counted as shown of {raw!r}: {case}"
        if stage.over:
            return ""
        if stage.place != end - (stage.dropped if stage.decided else 0):
            return f"the next character of {raw!r} is put at {stage.place}: {case}"
    return ""


def tails_of(letters: str, longest: int) -> list[str]:
    return ["".join(tail) for length in range(1, longest + 1) for tail in product(letters, repeat=length)]


#: Long enough to complete the known text or any stop sequence, and to continue after it.
TAILS = {letters: tails_of(letters, 5 if len(letters) == 2 else 4) for _, _, letters in KINDS}


# --- what it does --------------------------------------------------------------------------------------------------


def test_cuts_do_not_matter() -> None:
    """All cuts give the same result, also with a fence and chatter."""
    for seed, case in enumerate(cases(1500, seed=1, kinds=[*KINDS, FENCED, FENCED])):
        assert not check_cuts(TextStage, case, seed)


def test_nothing_is_held_longer_or_shown_earlier_than_it_must_be() -> None:
    """After every character, the shown text is the longest on which all continuations of up to five letters agree."""
    for case in cases(400, seed=2, kinds=KINDS):
        assert not check_minimal(TextStage, case, TAILS[case.letters])


def test_what_is_counted() -> None:
    """The stage counts what was dropped around the repetition, what was fed until the decision, and what was shown."""
    stage = TextStage(Seam("ab", whitespace=True, fence=True), stop=["END"])
    assert (stage.feed("```\n"), stage.feed("ab"), stage.decided, stage.fed, stage.place) == ("", "", False, 6, 6)
    assert (stage.feed(" c E"), stage.decided, stage.fed, stage.dropped, stage.shown) == (" c ", True, 10, 6, 3)
    assert (stage.held, stage.place, stage.verdict) == (1, 4, Verdict.FENCED)
    assert (stage.feed("ND"), stage.fired, stage.over, stage.held, stage.shown) == ("", "END", True, 0, 3)


def test_the_lead_is_taken_once_and_is_in_no_text() -> None:
    """`take_lead` returns the lead once. The new text is the same with a lead and without."""
    with_it, without = TextStage(Seam("ab"), lead="ab"), TextStage(Seam("ab"))
    for piece in ("ab", "c", "", "d"):
        assert with_it.feed(piece) == without.feed(piece)
        assert (with_it.lead, without.lead) == ("ab", "")
    assert (with_it.close(), with_it.take_lead(), with_it.take_lead(), without.take_lead()) == ("", "ab", "", "")


def test_a_length_that_is_reached_is_not_exceeded() -> None:
    """Text of exactly the limit does not exceed it. With one more character, the text up to the limit is shown."""
    stage = TextStage(Seam("", echo="never"), most=3)
    assert (stage.feed("abc"), stage.exceeded, stage.over) == ("abc", False, False)
    assert (stage.feed("d"), stage.exceeded, stage.over, stage.shown) == ("", True, True, 3)
    assert (stage.feed("e"), stage.close()) == ("", "")


@pytest.mark.parametrize("stop", [(), ("b",)])
def test_a_cut_drops_what_may_be_a_repetition_only(stop: tuple[str, ...]) -> None:
    """After a cut, text that the stop stage holds is shown, as the model's own. After a stop sequence, nothing is."""
    stage = TextStage(Seam("xy"), stop=(*stop, "END"))
    assert (stage.feed("x"), stage.close(cut=True), stage.verdict) == ("", "", Verdict.TRUNCATED)
    stage = TextStage(Seam("xy"), stop=(*stop, "END"))
    assert (stage.feed("xyaE"), stage.close(cut=True)) == ("a", "E")
    stage = TextStage(Seam("xy"), stop=("END",))
    assert (stage.feed("xyaEND b"), stage.close(cut=True), stage.close()) == ("a", "", "")


def test_a_stage_that_is_closed_takes_nothing() -> None:
    """`feed` raises RuntimeError after `close`, also if the seam was skipped before."""
    for pieces in ([], ["ab"], ["abc"]):
        stage = TextStage(Seam("ab"))
        for piece in pieces:
            stage.feed(piece)
        stage.close()
        with pytest.raises(RuntimeError, match="closed"):
            stage.feed("d")


def test_a_seam_that_lets_everything_through_is_not_asked_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of seam is skipped after its echo. After an opened fence it is not, as the closing fence may come."""
    fenced = {"whitespace": True, "fence": True, "preamble": 9}
    plans = [
        (SeamPlan("ab"), "c", False),
        (SeamPlan("ab", {}), "abc", False),
        (SeamPlan("```js\n", fenced, asked=True), "```sh\nc", False),
        (SeamPlan("a long text, and ab", {"overlap": 4}, "and ab", fenced), "and abc", False),
        (SeamPlan("ab", fenced), "```\nabc", True),
    ]
    for plan, front, is_asked in plans:
        stage = TextStage(plan.seam())
        asked = []
        assert stage.feed(front) == "c"
        feed = Seam.feed
        with monkeypatch.context() as patch:
            patch.setattr(Seam, "feed", lambda self, piece: asked.append(piece) or feed(self, piece))  # noqa: B023
            assert stage.feed("d") == "d"
        assert bool(asked) is is_asked, plan.known
        assert stage.close() == ""


# --- controls ------------------------------------------------------------------------------------------------------


class HoldsOnePiece(TextStage):
    """Returns each text one piece late."""

    late = ""

    def feed(self, piece: str) -> str:
        late, self.late = self.late, super().feed(piece)
        return late

    def close(self, cut: bool = False) -> str:
        return self.late + super().close(cut)


class StopsInTheRepetition(TextStage):
    """Looks for the stop sequences before the seam instead of after it."""

    def feed(self, piece: str) -> str:
        text = piece if self._stop is None else self._stop.feed(piece)
        self.over = self.fired is not None
        self._is_limited = self._most is not None
        stop, self._stop = self._stop, None
        try:
            return super().feed(text)
        finally:
            self._stop = stop


class AsksNoSeam(TextStage):
    """Skips the seam after its first piece."""

    def feed(self, piece: str) -> str:
        text = super().feed(piece)
        self._passes = True
        return text


class ForgetsItsEnd(TextStage):
    """Drops the text that the stop stage still holds at the end."""

    def pass_on(self, text: str, *, last: bool = False) -> str:
        return super().pass_on(text)


@pytest.mark.parametrize("broken", [StopsInTheRepetition, AsksNoSeam, ForgetsItsEnd])
def test_control_of_the_cuts(broken: type[TextStage]) -> None:
    """The same check catches each broken stage within 300 cases."""
    assert any(check_cuts(broken, case, 0) for case in cases(300, seed=1, kinds=KINDS))


@pytest.mark.parametrize("broken", [HoldsOnePiece, StopsInTheRepetition, AsksNoSeam])
def test_control_of_minimal_holding(broken: type[TextStage]) -> None:
    """The same check catches each broken stage within 100 cases."""
    assert any(check_minimal(broken, case, TAILS[case.letters]) for case in cases(100, seed=2, kinds=KINDS))

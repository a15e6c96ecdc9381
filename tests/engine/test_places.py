"""The place in the new text of a delta that is not text: characters that the stages drop before it do not count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aprefill._deltas import FinishDelta, TextDelta, ToolDelta
from aprefill._engine.history import History
from aprefill._engine.splice import Splice
from aprefill._engine.transcript import Transcript
from aprefill._types import StopReason

from ..support.splicing import planned
from ..support.thorough import usually

if TYPE_CHECKING:
    from aprefill._plan.step import AttemptPlan

NAME = "text-e9c0123456789abc"
LONG = "The first of many lines.\n" * 9 + 'and then the last line: {"name": "'
CALL = ToolDelta(0, "t", "look", "{}")
END = FinishDelta(StopReason.END, "stop")

#: What the model writes, in parts, each with whether it is new text.
CASES = {
    "a marker": [(LONG, False), ("Tom ", True), (f"<{NAME}>", False), (" and Bob", True)],
    "two beginnings": [(LONG, False), ("a <t", True), (f"</{NAME}>", False), (" b", True)],
    "text before it in one piece": [(LONG, False), ("a <to ", True), (f"</{NAME}>", False), (" b", True)],
    "one in another": [(LONG, False), ("a ", True), (f"<te<{NAME}>xt{NAME[4:]}>", False), (" b", True)],
    "a bracket in JSON": [(LONG, False), ("a ", True), (f"\\u003c{NAME}\\u003e", False), ("\\u00e9 b", True)],
    "no bracket": [(LONG, False), ("a ", True), (NAME, False), ("\\u00e9 b", True)],
    "a beginning at the end": [(LONG, False), ("a <t", True), ("</text-e9c", False)],
    "a fence": [("```json\n" + LONG, False), ("a\n``b", True), ("\n```", False), ("\nmore\n``` text", True)],
    "a fence and a marker": [("```json\n" + LONG, False), ("a", True), (f"\n<{NAME}>```", False), ("\nmore", True)],
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the markers of every request the same name."""
    monkeypatch.setattr("aprefill._plan.emulate.markers", lambda *_: (f"<{NAME}>", f"</{NAME}>"))


def places(parts: list[Any]) -> tuple[str, list[int]]:
    """Return the text that these parts make, and the places in the new text of the deltas among them."""
    step: AttemptPlan = planned(LONG)
    transcript = Transcript(LONG)
    transcript.accepted = True
    splice = Splice(step, transcript, lead=LONG, coalesce=False)
    for part in parts:
        splice.take([TextDelta(part) if isinstance(part, str) else part])
    splice.close(cut=False)
    return "".join(item for item in transcript.items if isinstance(item, str)), splice._history._places


def wrong(case: str) -> list[str]:
    """Return the ways of cutting this reply around a call for which the place of the call is wrong."""
    raw = "".join(text for text, _ in CASES[case])
    is_new = [new for text, new in CASES[case] for _ in text]
    found = []
    for at in range(len(LONG), len(raw) + 1, usually(2, 1)):
        ahead, behind = raw[:at], raw[at:]
        for before in ([ahead], list(ahead), [raw[: at - 3], raw[at - 3 : at]]):
            for after in ([behind], list(behind), [behind[:3], behind[3:]], [behind[:9], behind[9:]]):
                text, at_last = places([*before, CALL, *after, END])
                assert text == LONG + "".join(c for c, new in zip(raw, is_new, strict=True) if new)
                if at_last[0] != sum(is_new[:at]):
                    found.append(f"{[*before, CALL, *after]}: {at_last[0]}, not {sum(is_new[:at])}")
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_call_stands_where_it_came(case: str) -> None:
    """A call stays between the same characters of the new text, however the text around it is cut."""
    assert wrong(case) == []


@pytest.mark.parametrize("coalesce", [False, True])
def test_the_prefill_that_is_shown_early_is_no_new_text(coalesce: bool) -> None:
    """A prefill that is shown early does not count as new text, with and without `coalesce`.

    The prefill is shown when the host accepts the request, before anything is decided.
    """
    transcript = Transcript(LONG)
    transcript.accepted = True
    splice = Splice(planned(LONG), transcript, lead="", coalesce=coalesce)
    transcript.show(LONG)
    for part in (LONG[:9], LONG[9:], "Tom", CALL, " and Bob", END):
        splice.take([TextDelta(part) if isinstance(part, str) else part])
    splice.close(cut=False)
    assert transcript.items == [LONG, "Tom", " and Bob"]
    assert splice._history._places == [3, 11]


def test_control_without_the_correction_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a history that counts characters dropped later fails the check."""
    monkeypatch.setattr(History, "clip", lambda self, place: None)
    assert wrong("a marker")

"""Tests the seam, as emulation uses it, on real replies of small models whose prompt asked for the prefill.

The replies are not part of the project. The tests that need them are skipped if the shared folder does not have them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import Truncated, Verdict

from ..support.seam_reference import Batch
from ..support.splicing import END, LIMIT, Done, planned

if TYPE_CHECKING:
    from pathlib import Path

    from aprefill._plan.step import AttemptPlan

#: A partial opener, or an opener with nothing after it.
PART_OF_AN_OPENER = re.compile(r"\s*(?:`{1,2}|```[^`\r\n]{0,64}(?:\r?\n\s*|\r?))\Z")
OPENER = re.compile(r"\s*```[^`\r\n]{0,64}\r?\n")


@pytest.fixture(scope="module")
def replies(shared: Path) -> list[dict[str, Any]]:
    path = shared / "recordings" / "_emulated" / "replies.jsonl"
    if not path.is_file():
        pytest.skip(f"no recorded replies of emulated prefills at {path}")
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(found) >= 680
    return found


def ink(text: str) -> str:
    return "".join(text.split())


def is_in_the_making(raw: str, known: str, rules: dict[str, Any]) -> bool:
    """Whether raw ends with a part of an echo, of an overlap or of a fence, by the rules of the specification."""
    batch = Batch(known, **rules)
    wanted = ink(batch.want)
    for p in [0, *batch.places(raw)]:
        tail = raw[p:]
        if ink(tail) and (batch.plain_behind or not p) and wanted.startswith(ink(tail)):
            return True
        if (batch.fence_behind if p else batch.fence) and tail.strip():
            opener = OPENER.match(tail)
            if PART_OF_AN_OPENER.match(tail) or (opener and wanted.startswith(ink(tail[opener.end() :]))):
                return True
    return any(tail.startswith(raw) for tail in batch.tails)


def may_be_dropped(raw: str, step: AttemptPlan) -> bool:
    seams = [(step.seam.known, dict(step.seam.rules))] + (
        [(step.seam.tail, dict(step.seam.tail_rules))] if step.seam.tail else []
    )
    if any(is_in_the_making(raw, known, rules) for known, rules in seams):
        return True
    # if the prefill is an opener, the model may repeat it with any language
    last = raw.rstrip().rpartition("\n")[2]
    return ink(step.seam.known).startswith("```") and PART_OF_AN_OPENER.match(last) is not None


def lost(reply: dict[str, Any]) -> str:
    """Return the model's own text that is lost if the reply ends at a token limit, or ""."""
    step = planned(reply["prefill"])
    limited = Done(step, *reply["reply"], LIMIT)
    whole = Done(step, *reply["reply"], END)
    if isinstance(limited.error, Truncated):
        return "" if may_be_dropped(reply["reply"], step) else f"all of {reply['reply']!r}"
    rest = whole.text.removeprefix(limited.text)
    # this may be white space of the joint, or a closing fence
    soft = not rest.strip(" \t\r\n`") and whole.verdict in {Verdict.ECHOED, Verdict.FENCED, Verdict.PREFACED}
    return "" if not rest or soft else rest


def test_a_token_limit_loses_nothing_of_the_models_own_text(replies: list[dict[str, Any]]) -> None:
    """At a token limit, only a part of an echo, an overlap or a fence is dropped. 0.1.0 lost 35 more replies."""
    limited = [reply for reply in replies if reply["finish"] == "length"]
    assert len(limited) > 300
    for reply in limited:
        assert not lost(reply), reply["prefill"]


def test_control_a_limit_that_drops_whatever_is_held(
    replies: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If all held text is dropped at a token limit, the same check finds at least 30 lost replies."""
    monkeypatch.setattr("aprefill._seam.stage.TextStage.holds_own_text", False)
    assert sum(map(bool, map(lost, (reply for reply in replies if reply["finish"] == "length")))) >= 30


def test_the_text_is_what_the_batch_rules_give(replies: list[dict[str, Any]]) -> None:
    """The text and the verdict are those of `Batch` for every reply to a prompt that asked for the whole prefill."""
    compared = 0
    seen = set()
    for reply in replies:
        step = planned(reply["prefill"])
        if step.seam.tail or re.fullmatch(r"\s*```[^\n`]*\s*", step.seam.known):
            continue  # these use two seams, and `Batch` implements only one
        emitted, verdict, _ = Batch(step.seam.known, **dict(step.seam.rules))(reply["reply"])
        done = Done(step, *reply["reply"], END)
        assert (done.text, done.verdict.value) == (step.seam.known + emitted, verdict)
        compared += 1
        seen.add(verdict)
    assert compared > 500
    assert seen >= {"absent", "echoed", "fenced", "prefaced"}


@pytest.mark.parametrize(
    ("prefill", "reply"),
    [
        ('["', "I can help you with that.\n\n"),
        ('["', "I can help you with that."),
        ('["', "I can help you with that.\n\n \n"),
        ("```python\n", "I can help you with that.\n\n"),
        ("```python\n", "I can help\nyou with that.\n\n"),
        ("Sure! The capital of France is", "Paris is the capital.\n\n"),
        ("Dear Ann, thank you for the ", "No."),
    ],
)
def test_a_reply_that_is_no_echo_is_shown_at_a_token_limit(prefill: str, reply: str) -> None:
    """A reply in which only an echo after chatter could still follow is the model's own text, with its blank lines."""
    for pieces in ([reply], list(reply)):
        done = Done(planned(prefill), *pieces, LIMIT)
        assert (done.error, done.text, done.verdict) == (None, prefill + reply, Verdict.ABSENT)


@pytest.mark.parametrize(
    ("prefill", "reply"),
    [
        ('["', "["),
        ('["', "Sure:\n\n``"),
        ('["', "Sure:\n\n```js"),
        ('["', "Sure:\n\n```json\n ["),
        ("```python\n", "Sure:\n\n```py"),
        ("Dear Ann, thank you for the ", "Sure:\n\nDea"),
        ("x" * 300 + "\nThe end of a long text is ", "Sure:\nThe end of a"),
    ],
)
def test_control_a_part_of_a_repetition_is_not(prefill: str, reply: str) -> None:
    """A part of a repetition is not shown. Otherwise it would come twice, or half a fence would be shown."""
    for pieces in ([reply], list(reply)):
        done = Done(planned(prefill), *pieces, LIMIT)
        assert isinstance(done.error, Truncated)
        assert done.chunks == []

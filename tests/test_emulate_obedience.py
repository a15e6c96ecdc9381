"""The checker of `docs/_obedience.py` finds lost and repeated text.

Otherwise its counts of zero would prove nothing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from aprefill import Verdict
from aprefill._plan.emulate import DEFAULT

from .support.planning import emulate

PATH = Path(__file__).parents[1] / "docs/_obedience.py"


@pytest.fixture(scope="module")
def page() -> Any:
    spec = importlib.util.spec_from_file_location("_obedience", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["_obedience"] = module
    spec.loader.exec_module(module)
    return module


def answer(page: Any, prefill: str, raw: str) -> Any:
    asked = emulate(DEFAULT, [{"role": "user", "content": "x"}], prefill)
    return page.Answer(raw.replace("NAME", asked.marker), asked, prefill)


LONG = "A line of some length, and then another. " * 5 + "The last of these lines is here, and it"


@pytest.mark.parametrize(
    ("prefill", "raw"),
    [
        ('["', '["Alabama", "Alaska"]'),
        ('["', '```json\n["Alabama"]\n```\nThat is all.'),
        ('["', 'Alabama", "Alaska"]'),
        ("The capital of France is", "Sure, here it is:\nThe capital of France is Paris."),
        ("Sure! The capital of France is", "The capital of France is Paris."),
        (LONG, f"<NAME>{LONG}</NAME> ends."),
        (LONG, "The last of these lines is here, and it ends."),
        (LONG, "</NAME> I do not know."),
        (LONG, "I do not know <NAM"),
        (LONG, "<NAME>I know\n<NAME>\n nothing"),
        ("```bash\n", "```\n\nYour answer is here."),
        ("```bash\n", "```python\nprint(1)"),
        ("```python\n", "```\n\n```python\ndef add_two_numbers(num1, num2):"),
    ],
)
def test_right_texts_pass_and_broken_ones_do_not(page: Any, prefill: str, raw: str) -> None:
    """A correct text passes.

    A text fails if its first or last characters are missing, or if the repetition is left in.
    """
    one = answer(page, prefill, raw)
    new, verdict = page.spliced(one)
    assert not page.is_wrong(one, new, verdict)
    assert "text-" not in new
    assert len(new) > 5
    assert page.is_wrong(one, new[:-2], verdict)
    assert page.is_wrong(one, new[3:], verdict)
    # a fence alone has no letters that could be repeated
    if verdict is not Verdict.ABSENT and not prefill.startswith("```"):
        assert page.is_wrong(one, one.clean, verdict)
    if verdict is Verdict.ECHOED and not prefill.startswith("```"):
        assert page.is_wrong(one, one.clean, Verdict.ABSENT)


@pytest.mark.parametrize(("end", "left"), [(7, True), (8, False), (20, False)])
def test_a_beginning_of_a_marker_is_judged_as_the_stage_takes_it(page: Any, end: int, left: bool) -> None:
    """An incomplete marker of 8 or more characters, with its bracket, does not count as the model's text."""
    for opening in ("", "<", "</"):
        one = answer(page, LONG, "")
        tail = (opening + one.asked.marker)[:end]
        one.raw = f"I know {tail}"
        assert one.clean == (one.raw if left else "I know ")
        assert not page.is_wrong(one, *page.spliced(one))


def test_obedience_is_judged_on_the_models_own_text(page: Any) -> None:
    """A reply in a fence or with other white space obeys.

    A reply after a marker obeys only if the marker was removed.
    """
    assert answer(page, "a b", "a  bc").begins_with("a b", raw=True)
    assert answer(page, '["', '```json\n["x').begins_with('["', raw=True)
    assert not answer(page, "abc", "xabc").begins_with("abc", raw=True)
    one = answer(page, LONG, f"<NAME>{LONG}")
    assert one.begins_with(LONG)
    assert not one.begins_with(LONG, raw=True)
    assert one.starts_over()

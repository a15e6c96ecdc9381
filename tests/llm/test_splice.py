"""One reply's chunks, spliced: the six cases of LLM's pull request 473, every cut, and what is not text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

from aprefill._emulate import DEFAULT, emulate
from aprefill.llm_plugin._splice import Ignored, Splice

if TYPE_CHECKING:
    from collections.abc import Sequence

#: prefill, what the model writes, what the reply is: PR 473's worked cases, with no space that nobody wrote
CASES = [
    pytest.param('["', ['Alabama", "Alaska"]'], '["Alabama", "Alaska"]', id="left out"),
    pytest.param('["', ['["Alabama", "Alaska"]'], '["Alabama", "Alaska"]', id="repeated"),
    pytest.param("abc", ["", None, "abc", "def"], "abcdef", id="repeated in a chunk of its own"),
    pytest.param("abc", ["a", "bcd", "ef"], "abcdef", id="repeated across chunks"),
    pytest.param("abc", [], "abc", id="nothing came"),
    pytest.param("The answer is ", [" forty-two."], "The answer is forty-two.", id="one space"),
]


def rules(prefill: str) -> dict[str, Any]:
    """Those of an emulated prefill."""
    return dict(emulate(DEFAULT, [{"role": "user", "content": "x"}], prefill).rules)


def joined(splice: Splice, chunks: Sequence[str | None]) -> str:
    out = [one for chunk in chunks for one in splice.take(chunk)]
    return "".join(out + splice.end())


@pytest.mark.parametrize(("prefill", "chunks", "reply"), CASES)
def test_worked_cases_of_pull_request_473(prefill: str, chunks: list[str | None], reply: str) -> None:
    """Exact text."""
    if prefill.endswith(" "):
        # natively, where the host does not take the space; asked for, where the model repeats the words
        assert joined(Splice(prefill, rules={"echo": "never", "stripped": " "}), chunks) == reply
        chunks = [prefill.rstrip(), *chunks]
    assert joined(Splice(prefill, rules=rules(prefill)), chunks) == reply


@pytest.mark.parametrize(
    "text", ['Alabama", "Alaska"]', '["Alabama", "Alaska"]', '```json\n["Alabama", "Alaska"]\n```']
)
def test_cuts_do_not_matter(text: str) -> None:
    """Every cut in two, and letter by letter."""
    for cut in range(len(text)):
        assert joined(Splice('["', rules=rules('["')), [text[:cut], text[cut:]]) == '["Alabama", "Alaska"]'
    assert joined(Splice('["', rules=rules('["')), list(text)) == '["Alabama", "Alaska"]'


@dataclass
class Event:
    type: str
    chunk: str
    part_index: int | None = None
    provider_metadata: dict[str, Any] | None = None


def told(splice: Splice, events: list[Event]) -> list[tuple[str, str, int | None]]:
    out = [one for event in events for one in splice.take(event)]
    return [(one.type, one.chunk, one.part_index) if isinstance(one, Event) else ("str", one, None) for one in
            out + splice.end()]  # fmt: skip


def test_the_prefill_is_in_the_part_of_the_text() -> None:
    """Reasoning keeps its place before it, and the conversation has one text part."""
    events = [Event("reasoning", "hm", 0), Event("text", '["A', 1), Event("text", '"]', 1)]
    assert told(Splice('["', rules=rules('["')), events) == [
        ("reasoning", "hm", 0),
        ("text", '["', 1),
        ("text", "A", 1),
        ("text", '"]', 1),
    ]


def test_held_text_comes_before_a_tool_call() -> None:
    """What might be an echo is decided when the model turns to a tool, so that the order stays."""
    events = [Event("text", "ab", 0), Event("tool_call_name", "look", 1), Event("tool_call_args", "{}", 1)]
    assert told(Splice("abc", rules=rules("abc")), events) == [
        ("text", "abc", 0),
        ("text", "ab", 0),
        ("tool_call_name", "look", 1),
        ("tool_call_args", "{}", 1),
    ]
    events = [Event("text", "abc", 0), Event("tool_call_name", "look", 1), Event("text", "more", 2)]
    assert told(Splice("abc", rules=rules("abc")), events) == [
        ("text", "abc", 0),
        ("tool_call_name", "look", 1),
        ("text", "more", 2),
    ]


@pytest.mark.parametrize("tail", [[], [Event("text", " ")], [Event("reasoning", "")]])
def test_a_reply_of_tool_calls_only_has_no_prefill(tail: list[Event]) -> None:
    """It wrote no text; the answer after the tool's result will. llm-anthropic puts a space behind a call."""
    events = [Event("tool_call_name", "look", 0), Event("tool_call_args", "{}", 0), *tail]
    splice = Splice("abc", rules=rules("abc"))
    assert told(splice, events) == [(event.type, event.chunk, event.part_index) for event in events]
    assert not splice.delivered


def test_metadata_is_not_lost_with_the_echo() -> None:
    """An event of an echo goes through empty if it has something for the provider."""
    splice = Splice("abc", rules=rules("abc"))
    assert splice.take(Event("text", "abc", 0, {"signature": "x"})) == [Event("text", "", 0, {"signature": "x"})]
    assert splice.take(Event("text", "def", 0)) == [Event("text", "abc", 0), Event("text", "def", 0)]


def test_hidden() -> None:
    """Hidden is not undelivered."""
    splice = Splice("abc", rules=rules("abc"), hidden=True)
    assert joined(splice, ["abcdef"]) == "def"
    assert splice.delivered


def test_stop_sequences_of_ours() -> None:
    """Nothing after one, and the source is to be left."""
    splice = Splice("```python", rules=rules("```python"), stop=("```",))
    out = [one for chunk in ("```python\nprint()\n", "```\nThat", " was it") for one in splice.take(chunk)]
    assert "".join(out + splice.end()) == "```python\nprint()\n"
    assert splice.stopped


def test_must_echo() -> None:
    """Nothing has been given out when the reply turns out not to begin with the prefill."""
    splice = Splice("abc", rules=rules("abc"), must_echo=True)
    with pytest.raises(Ignored):
        joined(splice, ["xyz and more text that is no echo at all\n" * 20])
    with pytest.raises(Ignored):
        joined(Splice("abc", rules=rules("abc"), must_echo=True), [])
    assert joined(Splice("abc", rules=rules("abc"), must_echo=True), ["abcdef"]) == "abcdef"

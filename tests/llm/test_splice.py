"""The chunks of one reply, spliced: LLM's pull request 473, every cut, tool calls, and how replies end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from .splices import CASES

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

from aprefill import Verdict
from aprefill._plan.emulate import DEFAULT
from aprefill._seam.plan import SeamPlan
from aprefill.llm_plugin._splice import ChunkSplicer, Cut, Ignored

from ..support.planning import emulate
from .mocks import FAVE, PULL_REQUEST_473

if TYPE_CHECKING:
    from collections.abc import Sequence


def emulated(prefill: str, **options: Any) -> ChunkSplicer:
    """Return the splicer for a prefill that the prompt asked for."""
    asked = emulate(DEFAULT, [{"role": "user", "content": "x"}], prefill)
    return ChunkSplicer(prefill, asked.seam, **options)


def joined(splice: ChunkSplicer, chunks: Sequence[str | None]) -> str:
    out = [one for chunk in chunks for one in splice.take(chunk)]
    return "".join(out + splice.end())


@pytest.mark.parametrize(("prefill", "chunks", "reply"), CASES)
def test_the_prefill_comes_once(prefill: str, chunks: list[str | None], reply: str) -> None:
    """The text is exact with an emulated prefill, and with a native one that the host leaves out or repeats."""
    assert joined(emulated(prefill), chunks) == reply
    repeats = "".join(filter(None, chunks)).startswith(prefill)
    rules: dict[str, Any] = {} if repeats else {"echo": "never"}
    assert joined(ChunkSplicer(prefill, SeamPlan(prefill, rules)), chunks) == reply


@pytest.mark.parametrize(("chunks", "reply"), PULL_REQUEST_473)
def test_the_cases_of_pull_request_473(chunks: str, reply: str) -> None:
    """The six replies of pull request 473 are right, emulated and natively, also with any other cut."""
    parts = chunks.split("|")
    text = "".join(parts)
    cuts = [parts, [text], list(text), *([text[:at], text[at:]] for at in range(1, len(text)))]
    for cut in cuts:
        assert joined(emulated(FAVE), cut) == reply
        assert joined(ChunkSplicer(FAVE, SeamPlan(FAVE, {})), cut) == reply


def test_white_space_at_the_joint() -> None:
    """White space at the joint comes once, and none is invented or removed.

    White space that was not sent is not doubled, and repeated white space is dropped. If the model repeats nothing of
    the prefill, all of its own white space stays.
    """
    native = ChunkSplicer("The answer is ", SeamPlan("The answer is ", {"echo": "never", "stripped": " "}))
    assert joined(native, [" forty-two."]) == "The answer is forty-two."
    assert joined(emulated("The answer is "), ["The answer is", " forty-two."]) == "The answer is forty-two."
    assert joined(emulated("The answer is "), ["forty-two."]) == "The answer is forty-two."
    assert joined(emulated("The answer is "), [" forty-two."]) == "The answer is  forty-two."


@pytest.mark.parametrize(
    "text", ['Alabama", "Alaska"]', '["Alabama", "Alaska"]', '```json\n["Alabama", "Alaska"]\n```']
)
def test_cuts_do_not_matter(text: str) -> None:
    """The text is the same for every cut in two, and letter by letter."""
    for cut in range(len(text)):
        assert joined(emulated('["'), [text[:cut], text[cut:]]) == '["Alabama", "Alaska"]'
    assert joined(emulated('["'), list(text)) == '["Alabama", "Alaska"]'


@dataclass
class Event:
    type: str
    chunk: str
    part_index: int | None = None
    provider_metadata: dict[str, Any] | None = None


def told(splice: ChunkSplicer, events: list[Event]) -> list[tuple[str, str, int | None]]:
    out = [one for event in events for one in splice.take(event)]
    return [(one.type, one.chunk, one.part_index) if isinstance(one, Event) else ("str", one, None) for one in
            out + splice.end()]  # fmt: skip


def test_the_prefill_is_in_the_part_of_the_text() -> None:
    """The prefill is in the same part as the text, after the reasoning."""
    events = [Event("reasoning", "hm", 0), Event("text", '["A', 1), Event("text", '"]', 1)]
    assert told(emulated('["'), events) == [
        ("reasoning", "hm", 0),
        ("text", '["', 1),
        ("text", "A", 1),
        ("text", '"]', 1),
    ]


CALL = [Event("tool_call_name", "look", 1), Event("tool_call_args", "{}", 1)]
CALLED = [("tool_call_name", "look", 1), ("tool_call_args", "{}", 1)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # text before a call is as the model wrote it, even if it could have become an echo
        (["I'll look."], [], [("text", "I'll look.", 0), *CALLED]),
        (["ab"], [], [("text", "ab", 0), *CALLED]),
        # an echo alone is dropped, because the answer will have the prefill
        (["abc"], [], CALLED),
        # an echo with more text after it was the beginning of the answer
        (["abc", "def"], [], [("text", "abc", 0), ("text", "def", 0), *CALLED]),
        (["abcdef"], ["more"], [("text", "abc", 0), ("text", "def", 0), *CALLED, ("text", "more", 2)]),
        # the host runs this tool itself, so the text after it is the answer
        (["I'll look."], ["abc", "def"], [("text", "I'll look.", 0), *CALLED, ("text", "abc", 2), ("text", "def", 2)]),
        (["I'll look."], ["def"], [("text", "I'll look.", 0), *CALLED, ("text", "abc", 2), ("text", "def", 2)]),
        (["abc"], ["def"], [*CALLED, ("text", "abc", 2), ("text", "def", 2)]),
    ],
)
def test_the_answer_begins_with_the_prefill_and_not_what_leads_to_a_tool(
    before: list[str], after: list[str], expected: list[Any]
) -> None:
    """The answer begins with the prefill, and text before a tool call does not.

    Cuts do not matter, and order is kept.
    """
    events = [*(Event("text", text, 0) for text in before), *CALL, *(Event("text", text, 2) for text in after)]
    assert told(emulated("abc", may_call=True), events) == expected
    cut = [Event("text", c, 0) for c in "".join(before)] + CALL + [Event("text", c, 2) for c in "".join(after)]
    text = "".join(chunk for kind, chunk, _ in expected if kind == "text")
    assert "".join(chunk for kind, chunk, _ in told(emulated("abc", may_call=True), cut) if kind == "text") == text


def test_text_behind_a_call_that_is_to_be_run_is_no_answer() -> None:
    """Text after a call that LLM will run is not the answer. LLM's own models always have it there without a stream."""
    for may_call in (True, False):
        splice = emulated("abc", may_call=may_call)
        out = [one for event in (*CALL, Event("text", "I look.", 2)) for one in splice.take(event)]
        out += splice.end(calls=True)
        assert [(one.type, one.chunk, one.part_index) for one in out] == [*CALLED, ("text", "I look.", 2)]
        assert not splice.delivered
        assert splice.verdict is Verdict.ABSENT


def test_a_stop_of_ours_takes_the_call_behind_it_away() -> None:
    """If a stop sequence ends the text before a call, the call is dropped too."""
    splice = emulated("abc", stop=("x",), may_call=True)
    out = [one for event in (Event("text", "ab x", 0), *CALL) for one in splice.take(event)]
    assert splice.stopped
    assert "".join(one.chunk for one in out + splice.end()) == "abcab "
    assert {one.type for one in out} == {"text"}


def test_white_space_behind_a_call_is_part_of_the_text_that_follows() -> None:
    """White space after a call belongs to the text that follows, however it is cut. Alone it is passed on."""
    for cut in (["\n- apple"], ["\n", "- apple"], ["\n", "- ", "apple"]):
        events = [*CALL, *(Event("text", text, 2) for text in cut)]
        assert "".join(text for kind, text, _ in told(emulated("\n- "), events) if kind == "text") == "\n- apple"
    assert told(emulated("abc"), [*CALL, Event("text", "\n", 2)]) == [*CALLED, ("text", "\n", 2)]
    assert told(emulated("abc"), [*CALL, Event("text", "\n", 2), *CALL]) == [*CALLED, ("text", "\n", 2), *CALLED]


def test_what_waits_keeps_its_place() -> None:
    """Held text stays before reasoning that came later, and newer metadata stays after older metadata."""
    splice = ChunkSplicer("abc", SeamPlan("abc", {}), may_call=True)
    events = [
        Event("text", "xyz", 0, {"n": 1}),
        Event("text", "", 0, {"n": 2}),
        Event("reasoning", "hm", 1),
        *CALL,
    ]
    out = [one for event in events for one in splice.take(event)]
    assert [(one.type, one.chunk, one.provider_metadata) for one in out] == [
        ("text", "xyz", {"n": 1}),
        ("text", "", {"n": 2}),
        ("reasoning", "hm", None),
        *((kind, text, None) for kind, text, _ in CALLED),
    ]


def test_text_that_may_lead_to_a_tool_call_waits() -> None:
    """With tools, text is held until it is known not to lead to a tool call, unless it begins as asked."""
    for may_call, expected in ((True, []), (False, ["abc", "xyz"])):
        splice = ChunkSplicer("abc", SeamPlan("abc", {}), may_call=may_call)
        assert splice.take("xyz") == expected
        assert splice.take("!") == ([] if may_call else ["!"])
        assert "".join(splice.end()) == ("abcxyz!" if may_call else "")
    splice = emulated("abc", may_call=True)
    assert splice.take("abcd") == ["abc", "d"]


def test_stop_sequences_hold_behind_a_tool_call() -> None:
    """Stop sequences apply to the text after a tool call too."""
    events = [Event("text", "abcx ", 0), *CALL, Event("text", "more ``", 2), Event("text", "` after", 2)]
    assert told(emulated("abc", stop=("```",)), events) == [
        ("text", "abc", 0), ("text", "x ", 0), *CALLED, ("text", "more ", 2),
    ]  # fmt: skip
    events = [Event("text", "abcx ``", 0), *CALL, Event("text", "`", 2)]
    assert (
        "".join(chunk for kind, chunk, _ in told(emulated("abc", stop=("```",)), events) if kind == "text")
        == "abcx ```"
    )


LONG = "The answer to it all is "


@pytest.mark.parametrize(
    ("chunks", "kept"),
    [
        (["There are 50 states, ", "namely"], LONG + "There are 50 states, namely"),
        (["The answer to"], ""),
        (["Sure:\nThe answer"], ""),
        (["```\nThe"], ""),
        ([LONG, "42, "], LONG + "42, "),
        ([], ""),
    ],
)
def test_what_is_held_when_the_host_dies(chunks: list[str], kept: str) -> None:
    """If the host breaks off, held text of the model is yielded. The beginning of a repetition is not."""
    splice = emulated(LONG)
    out = [one for chunk in chunks for one in splice.take(chunk)]
    assert "".join(out + splice.cut()) == kept


def test_a_token_limit_inside_the_repetition() -> None:
    """A token limit inside the repetition raises `Cut`. If it cut the model's own text, that text is the reply."""
    splice = emulated(LONG)
    splice.take("The answer to")
    with pytest.raises(Cut):
        splice.end(limited=True)
    splice = emulated(LONG)
    splice.take("There are 50")
    assert "".join(splice.end(limited=True)) == LONG + "There are 50"
    splice = emulated(LONG)
    assert "".join([*splice.take(LONG + "42"), *splice.end(limited=True)]) == LONG + "42"


@pytest.mark.parametrize("tail", [[], [Event("text", " ")], [Event("reasoning", "")]])
def test_a_reply_of_tool_calls_only_has_no_prefill(tail: list[Event]) -> None:
    """A reply without text has no prefill, because the answer after the tool's result will have it.

    llm-anthropic yields a space after a call.
    """
    events = [Event("tool_call_name", "look", 0), Event("tool_call_args", "{}", 0), *tail]
    splice = emulated("abc")
    assert told(splice, events) == [(event.type, event.chunk, event.part_index) for event in events]
    assert not splice.delivered


def test_metadata_is_not_lost_with_the_echo() -> None:
    """If an event of an echo has metadata for the provider, the event is passed on without its text."""
    splice = emulated("abc")
    assert splice.take(Event("text", "abc", 0, {"signature": "x"})) == [Event("text", "", 0, {"signature": "x"})]
    assert splice.take(Event("text", "def", 0)) == [Event("text", "abc", 0), Event("text", "def", 0)]


def test_hidden() -> None:
    """A hidden prefill still counts as delivered."""
    splice = emulated("abc", hidden=True)
    assert joined(splice, ["abcdef"]) == "def"
    assert splice.delivered


def test_stop_sequences_of_ours() -> None:
    """Nothing is yielded after a stop sequence, and `stopped` says that the source must be left."""
    splice = emulated("```python", stop=("```",))
    out = [one for chunk in ("```python\nprint()\n", "```\nThat", " was it") for one in splice.take(chunk)]
    assert "".join(out + splice.end()) == "```python\nprint()\n"
    assert splice.stopped


def test_must_echo() -> None:
    """With `must_echo` nothing has been yielded if the reply turns out not to begin with the prefill."""
    splice = emulated("abc", must_echo=True)
    with pytest.raises(Ignored):
        joined(splice, ["xyz and more text that is no echo at all\n" * 20])
    with pytest.raises(Ignored):
        joined(emulated("abc", must_echo=True), [])
    assert joined(emulated("abc", must_echo=True), ["abcdef"]) == "abcdef"


NAME = "text-0123456789abcdef"


def test_our_markers_are_taken_out() -> None:
    """Markers are removed wherever the text is cut. A short beginning of one at the end is the model's own text."""
    raw = f"<{NAME}>ab{NAME}c</{NAME}> d<te"
    for cut in range(len(raw) + 1):
        splice = ChunkSplicer("abc", SeamPlan("abc", {}), marker=NAME)
        assert joined(splice, [raw[:cut], raw[cut:]]) == "abc d<te"
    splice = ChunkSplicer("abc", SeamPlan("abc", {}), marker=NAME)
    assert joined(splice, [f"abc d</{NAME[:9]}"]) == "abc d"
    splice = ChunkSplicer("abc", SeamPlan("abc", {}), marker=NAME, may_call=True)
    events = [Event("text", f"abc<{NAME}> d", 0), Event("text", "t", 0), *CALL]
    assert told(splice, events) == [("text", "abc", 0), ("text", " d", 0), ("text", "t", 0), *CALLED]
    # control: without the marker's name they stay
    assert NAME in joined(ChunkSplicer("abc", SeamPlan("abc", {})), [raw])

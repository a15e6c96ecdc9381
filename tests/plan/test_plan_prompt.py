"""What the plan makes of the prompt, and of one that has to ask."""

from __future__ import annotations

from typing import Any

import pytest

from aprefill._codecs import codec
from aprefill._deltas import ModelInput
from aprefill._errors import UsageError
from aprefill._plan.emulate import BEGIN, room
from aprefill._plan.step import AttemptPlan
from aprefill._seam.plan import SeamPlan
from aprefill._types import Support

from ..support.planning import USER, acme, asked, known, no_transport, plan_first, step

# --- the prompt -------------------------------------------------------------------------------------------------

TEXT_PART = {"type": "text", "text": "Hi"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]}
CALLS_WITH_TEXT = {**CALLS, "content": "I will look."}
TOOL_USE = {"role": "assistant", "content": [TEXT_PART, {"type": "tool_use", "id": "t", "name": "f", "input": {}}]}
TURN = {"role": "assistant", "content": "Yes?"}


@pytest.mark.parametrize(
    ("content", "prefill"),
    [
        ('["', '["'),
        ([{"type": "text", "text": '["'}], '["'),
        ([{"type": "text", "text": '["A'}, {"type": "text", "text": "la"}], '["Ala'),
    ],
)
def test_a_trailing_assistant_turn_is_the_prefill(content: Any, prefill: str) -> None:
    """As a str or as a list of text parts; it is taken off the messages, and goes out as the dialect wants it."""
    messages = [USER, TURN, USER, {"role": "assistant", "content": content}]
    taken = asked(messages)
    assert (taken.messages, taken.prefill, taken.shown) == ((USER, TURN, USER), prefill, prefill)
    sent = step(acme('dialect = "prefix"'), messages).model_input.messages
    assert sent == (USER, TURN, USER, {"role": "assistant", "content": prefill, "prefix": True})
    assert len(messages) == 4


@pytest.mark.parametrize("turn", [CALLS, CALLS_WITH_TEXT, TOOL_USE], ids=["calls", "calls-with-text", "tool-use"])
def test_a_turn_that_calls_tools_is_no_prefill(turn: dict[str, Any]) -> None:
    """It goes to the host as it is."""
    taken = asked([USER, turn])
    assert (taken.messages, taken.prefill) == ((USER, turn), "")
    assert step(acme(), [USER, turn]).model_input.messages == (USER, turn)


@pytest.mark.parametrize("last", [USER, {"role": "tool", "content": "4"}, {"role": "user", "content": [TEXT_PART]}])
def test_only_the_assistants_last_turn_is_a_prefill(last: dict[str, Any]) -> None:
    """A last turn of anyone else stays, and so does an assistant turn before it."""
    assert asked([USER, TURN, last]).messages == (USER, TURN, last)
    assert asked([USER, TURN, last], prefill="[").prefill == "["
    assert step(acme(), [USER, TURN, last], prefill="[").model_input.messages[:-1] == (USER, TURN, last)


def test_two_prefills_are_one_too_many() -> None:
    """A trailing assistant turn and `prefill=`: which of them?"""
    with pytest.raises(UsageError, match="keep one"):
        asked([USER, TURN], prefill="[")


def test_an_assistant_turn_alone_has_nothing_to_answer() -> None:
    """It would be a prefill to no question."""
    with pytest.raises(UsageError, match="put the user's message before it"):
        asked([TURN])


def test_a_prompt_of_text_is_one_user_turn() -> None:
    """And the messages of a list are copied, so that a plan cannot change the caller's."""
    assert asked("Hi").messages == (USER,)
    mine = dict(USER)
    assert asked([mine]).messages[0] is not mine


@pytest.mark.parametrize(
    ("show_from", "shown"), [(0, '{"a": "'), (6, '"'), (7, ""), ('"', '"a": "'), ("{", '{"a": "'), (': "', ': "')]
)
def test_what_is_shown_of_the_prefill(show_from: int | str, shown: str) -> None:
    """From an offset, or from a marker's first place; the seam still knows all of it."""
    assert asked(prefill='{"a": "', show_from=show_from).shown == shown
    assert step(acme(), prefill='{"a": "', show_from=show_from).seam.known == '{"a": "'


@pytest.mark.parametrize("show_from", [8, -1, "missing"])
def test_what_cannot_be_shown_of_the_prefill(show_from: int | str) -> None:
    """An offset outside of the prefill, or a marker that is not in it."""
    with pytest.raises(UsageError, match="show_from"):
        asked(prefill='{"a": "', show_from=show_from)


# --- asked for in the prompt --------------------------------------------------------------------------------------

EMULATED_STOPS = [
    # keys, prefill, asked for, told to the host
    pytest.param("", "one two", ["@", "END", "three", "***", "##", "</a>"], ["@", "END", "three", "***", "##", "</a>"],
                 id="ordinary"),
    pytest.param("", "one two", ["two", "e t", "o", "one two"], [], id="in-the-prefill"),
    pytest.param("", "ab<", ["<end>", "@"], ["@"], id="across-the-joint"),
    pytest.param("", "ab#", ["##"], [], id="across-the-joint-of-two"),
    pytest.param("", "ab", ["`", "```", "``", "a`b"], [], id="backticks"),
    pytest.param("", "ab", ["\n", "\n\n", "x\ny", "\r\n", "\nUser:", "\x85", "\u2028"], [], id="line-ends"),
    pytest.param("", "ab", [" ", "  ", "\t", "\u3000"], [], id="blanks"),
    pytest.param("", "ab", ["x y", "User:", "\u00e9"], ["x y", "User:", "\u00e9"], id="with-blanks-inside"),
    pytest.param("", "ab", ["json", "js", "son", "JSON", "Python", "c++", "j"], [], id="in-a-language-of-a-fence"),
    pytest.param("", "ab", ["json!", "jsonx"], ["json!", "jsonx"], id="no-language"),
    pytest.param("max_stop = 1", "ab", ["json", "END", "@"], ["END"], id="only-so-many"),
    pytest.param("sends_stop = false", "ab", ["END"], [], id="the-host-takes-none"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "prefill", "stop", "told"), EMULATED_STOPS)
def test_stop_sequences_where_it_is_asked_for(keys: str, prefill: str, stop: list[str], told: list[str]) -> None:
    """The host is told none that could end the repetition, in a fence or behind white space; those are applied here."""
    planned = step(acme(keys, "emulated"), prefill=prefill, stop=stop)
    assert planned.mode == "emulated"
    assert planned.model_input.stop == tuple(told)
    assert planned.stop == tuple(one for one in stop if one not in told)


def test_control_without_a_repetition_they_are_told() -> None:
    """A host that leaves the prefill out is told all of these, and one that is asked no prefill is."""
    stop = ["`", "\n", " ", "json", "ne t"]
    assert step(acme(), prefill="one two", stop=stop).model_input.stop == tuple(stop)
    assert step(acme(support="emulated"), stop=stop).model_input.stop == tuple(stop)


PREDICTS = 'prediction = true\nmax_stop = 4\ntoken_field = "max_completion_tokens"'


@pytest.mark.parametrize(
    ("keys", "options", "predicted"),
    [
        (PREDICTS, {"prefill": '["'}, '["'),
        (PREDICTS, {"prefill": "x" * 300 + "\nthe last line of them"}, "the last line of them"),
        (PREDICTS, {"prefill": '["', "tools": []}, '["'),
        (PREDICTS, {"prefill": '["', "tools": [{"name": "f"}]}, None),
        (PREDICTS, {"prefill": '["', "max_tokens": 5}, None),
        (PREDICTS, {"prefill": "\n"}, None),
        (PREDICTS, {}, None),
        ("", {"prefill": '["'}, None),
    ],
)
def test_a_prediction(keys: str, options: dict[str, Any], predicted: str | None) -> None:
    """Only where the row says that the host takes one, of what is to be repeated; not with tools or a token limit."""
    model_input = step(acme(keys, "emulated"), **options).model_input
    expected = None if predicted is None else {"type": "content", "content": predicted}
    assert codec("openai_chat").encode(model_input).get("prediction") == expected
    assert model_input.fields == {}


def test_a_prediction_is_the_callers_to_remove_or_set() -> None:
    """`extra` wins over it; a native prefill has none."""
    for own in (None, {"type": "content", "content": "mine"}):
        planned = step(acme(PREDICTS, "emulated"), prefill='["', extra={"prediction": own})
        assert codec("openai_chat").encode(planned.model_input).get("prediction") == own
    assert "prediction" not in codec("openai_chat").encode(step(acme(PREDICTS), prefill='["').model_input)


@pytest.mark.parametrize(
    ("model", "prefill", "given", "sent"),
    [
        ("anthropic:claude-opus-4-6", '["', 100, 100 + room('["')),
        ("anthropic:claude-opus-4-6", "x" * 300, 100, 100 + room("x" * 300)),
        ("anthropic:claude-opus-4-6", "\n", 100, 100),
        ("anthropic:claude-opus-4-6", "", 100, 100),
        ("anthropic:claude-opus-4-6", '["', None, 4096 + room('["')),
        ("anthropic:claude-haiku-4-5", '["', None, 4096),
        ("openai:gpt-4o", '["', None, None),
        ("openai:gpt-4o", '["', 1, 1 + room('["')),
        ("anthropic:claude-haiku-4-5", '["', 100, 100),
    ],
)
def test_max_tokens_gets_room_for_the_repetition(model: str, prefill: str, given: int | None, sent: int | None) -> None:
    """It limits the new text, whoever set it; the number of a row with native models is the most that they can write."""
    assert step(known(model), prefill=prefill, max_tokens=given).model_input.max_tokens == sent


def test_a_plan_whole_where_it_is_asked_for() -> None:
    """No turn and no field of the dialect, the ordinary base URL; the request in the user's turn."""
    row = acme('dialect = "prefix"\nbody_fields = { a = 1 }\nprefill_base_url = "https://acme.example/b"', "emulated")
    planned = step(row, prefill='["', system="be brief", stop=["END", "`"], temperature=0.5, extra={"seed": 1})
    (turn,) = planned.model_input.messages
    assert planned == AttemptPlan(
        target=planned.target,
        transport=no_transport,
        row=row,
        model_input=ModelInput(model="m", messages=({"role": "user", "content": turn["content"]},), system="be brief",
                  stop=("END",), temperature=0.5, extra={"seed": 1}),
        mode="emulated",
        support=Support.EMULATED,
        seam=SeamPlan('["', {"whitespace": True, "fence": True, "preamble": 120}, asked=True),
        stop=("`",),
        show_when="decided",
    )  # fmt: skip
    assert turn["content"] == BEGIN.format(text='["').join(("Hi\n\n", ""))


def test_a_refusal_met_lately_is_not_met_again() -> None:
    """The prefill is asked for at once; a caller who wants no emulation gets the host's own answer."""
    for options, mode in (({}, "emulated"), ({"emulate": False}, "native"), ({"strict": True}, "native")):
        planned = plan_first(asked(prefill="[", **options), acme(), "m", refused=True)
        assert planned.mode == mode
    assert plan_first(asked(), acme(), "m", refused=True).mode == "none"

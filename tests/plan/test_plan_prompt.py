"""How the plan changes the prompt, for native and for emulated prefills.

The seam is the code that joins the prefill and the model's text.
A dialect is the form of a request that makes a host continue a prefill: a turn, a flag or a field.
"""

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
    """A trailing assistant turn, which is one at the end of the prompt, is the prefill.

    Its content may be a str or a list of text parts. It is removed from the messages and sent in the host's dialect.
    """
    messages = [USER, TURN, USER, {"role": "assistant", "content": content}]
    taken = asked(messages)
    assert (taken.messages, taken.prefill, taken.shown) == ((USER, TURN, USER), prefill, prefill)
    sent = step(acme('dialect = "prefix"'), messages).model_input.messages
    assert sent == (USER, TURN, USER, {"role": "assistant", "content": prefill, "prefix": True})
    assert len(messages) == 4


@pytest.mark.parametrize("turn", [CALLS, CALLS_WITH_TEXT, TOOL_USE], ids=["calls", "calls-with-text", "tool-use"])
def test_a_turn_that_calls_tools_is_no_prefill(turn: dict[str, Any]) -> None:
    """A last turn that calls tools is no prefill and is sent unchanged."""
    taken = asked([USER, turn])
    assert (taken.messages, taken.prefill) == ((USER, turn), "")
    assert step(acme(), [USER, turn]).model_input.messages == (USER, turn)


@pytest.mark.parametrize("last", [USER, {"role": "tool", "content": "4"}, {"role": "user", "content": [TEXT_PART]}])
def test_only_the_assistants_last_turn_is_a_prefill(last: dict[str, Any]) -> None:
    """A last turn of another role is no prefill, nor is an earlier assistant turn. Both are sent unchanged."""
    assert asked([USER, TURN, last]).messages == (USER, TURN, last)
    assert asked([USER, TURN, last], prefill="[").prefill == "["
    assert step(acme(), [USER, TURN, last], prefill="[").model_input.messages[:-1] == (USER, TURN, last)


def test_two_prefills_are_one_too_many() -> None:
    """An assistant turn at the end together with `prefill=` raises an error."""
    with pytest.raises(UsageError, match="keep one"):
        asked([USER, TURN], prefill="[")


def test_an_assistant_turn_alone_has_nothing_to_answer() -> None:
    """A prompt of only an assistant turn raises an error: there is no question to answer."""
    with pytest.raises(UsageError, match="put the user's message before it"):
        asked([TURN])


def test_a_prompt_of_text_is_one_user_turn() -> None:
    """A str prompt is one user turn. Messages in a list are copied, so the plan cannot change the caller's objects."""
    assert asked("Hi").messages == (USER,)
    mine = dict(USER)
    assert asked([mine]).messages[0] is not mine


@pytest.mark.parametrize(
    ("show_from", "shown"), [(0, '{"a": "'), (6, '"'), (7, ""), ('"', '"a": "'), ("{", '{"a": "'), (': "', ': "')]
)
def test_what_is_shown_of_the_prefill(show_from: int | str, shown: str) -> None:
    """`show_from` is an offset, or a text whose first occurrence counts. The seam still knows the whole prefill."""
    assert asked(prefill='{"a": "', show_from=show_from).shown == shown
    assert step(acme(), prefill='{"a": "', show_from=show_from).seam.known == '{"a": "'


@pytest.mark.parametrize("show_from", [8, -1, "missing"])
def test_what_cannot_be_shown_of_the_prefill(show_from: int | str) -> None:
    """An offset outside of the prefill, or a text that is not in it, raises an error."""
    with pytest.raises(UsageError, match="show_from"):
        asked(prefill='{"a": "', show_from=show_from)


# --- emulated prefills --------------------------------------------------------------------------------------------

EMULATED_STOPS = [
    # keys, prefill, requested sequences, sequences that are sent
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
    """A stop sequence that could end the repetition is not sent but applied locally.

    This includes sequences that match a fence, white space or known text.
    """
    planned = step(acme(keys, "emulated"), prefill=prefill, stop=stop)
    assert planned.mode == "emulated"
    assert planned.model_input.stop == tuple(told)
    assert planned.stop == tuple(one for one in stop if one not in told)


def test_control_without_a_repetition_they_are_told() -> None:
    """The control: a native host that eats the prefill, and a request without one, get all of these sequences."""
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
    """A prediction of the expected echo is sent only if the row supports it, and not with tools or a token limit."""
    model_input = step(acme(keys, "emulated"), **options).model_input
    expected = None if predicted is None else {"type": "content", "content": predicted}
    assert codec("openai_chat").encode(model_input).get("prediction") == expected
    assert model_input.fields == {}


def test_a_prediction_is_the_callers_to_remove_or_set() -> None:
    """`extra` can remove or replace the prediction. A native prefill has none."""
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
    """Room for the echo is added to `max_tokens`, so that it limits the new text.

    The default of a row with native models is their maximum and is not raised.
    """
    assert step(known(model), prefill=prefill, max_tokens=given).model_input.max_tokens == sent


def test_a_plan_whole_where_it_is_asked_for() -> None:
    """An emulated plan has no assistant turn, no dialect field and the ordinary base URL.

    The instruction is in the user's turn.
    """
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
    """After a remembered refusal the prefill is emulated at once.

    If emulation is not allowed, the request is native and the host answers again.
    """
    for options, mode in (({}, "emulated"), ({"emulate": False}, "native"), ({"strict": True}, "native")):
        planned = plan_first(asked(prefill="[", **options), acme(), "m", refused=True)
        assert planned.mode == mode
    assert plan_first(asked(), acme(), "m", refused=True).mode == "none"

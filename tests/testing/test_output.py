"""What the scripted model says: the shapes of the echo, where deltas are cut, and why the text ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aprefill.testing import Received, Script, ToolCall
from aprefill.testing._output import ModelOutput, speak

from .asking import body


def said(script: Script, prefill: str | None = '["', **more: Any) -> ModelOutput:
    content = json.dumps(body(prefill, **more)).encode()
    return speak(script, Received(method="POST", path="/", headers={}, body=content, connection=1, index=0))


STATES = 'Alabama", "Alaska"]'


def test_eaten_and_ignored_prefills_leave_the_text_as_it_is() -> None:
    """With `prefill="eats"` and `prefill="ignores"` the text is the same."""
    for script in (Script(text=STATES, prefill="eats"), Script(text=STATES, prefill="ignores")):
        assert "".join(said(script).content) == STATES


@pytest.mark.parametrize(
    ("echo", "expected"),
    [
        ("split", ['["', "Alab", 'ama"', ', "A', "lask", 'a"]']),
        ("joined", ['["Alab', 'ama"', ', "A', "lask", 'a"]']),
        ("whitespace", ['\n["', "Alab", 'ama"', ', "A', "lask", 'a"]']),
        ("fence", ["```j", "son\n", '["', "Alab", 'ama"', ', "A', "lask", 'a"]\n', "```"]),
        ("chatter", ["Here", ':\n["', "Alab", 'ama"', ', "A', "lask", 'a"]']),
        ("chatter+fence", ["Here", ":\n``", "`jso", 'n\n["', "Alab", 'ama"', ', "A', "lask", 'a"]\n', "```"]),
    ],
)
def test_each_shape_of_an_echo(echo: Any, expected: list[str]) -> None:
    """Each shape of an echo has exact deltas. The new text begins a delta of its own, unless the echo is "joined"."""
    script = Script(text=STATES, prefill="echoes", echo=echo, chatter="Here:\n")
    assert list(said(script).content) == expected


def test_an_echo_over_white_space_differs_in_white_space_alone() -> None:
    """With `echo="whitespace"` the echo differs only in white space: longer runs, and a line break first."""
    text = "".join(said(Script(prefill="echoes", echo="whitespace"), "a b\n\nc").content)
    assert text == "\na \n  b\n\n\n  c"


def test_the_echo_asked_for_in_the_prompt_is_given() -> None:
    """`echo_text` is repeated for a request without a prefill, as if the prompt had asked for it."""
    script = Script(text=STATES, prefill="echoes", echo="joined", echo_text='["')
    assert said(script, None).content[0] == '["Alab'


def test_a_refusing_model_can_echo_when_asked_in_the_prompt() -> None:
    """One script plays both the refusal of a native prefill and the repetition that the prompt asks for."""
    script = Script(text=STATES, prefill="refuses", echo_text='["')
    assert "".join(said(script, None).content) == '["' + STATES
    assert "".join(said(Script(text=STATES, prefill="refuses"), None).content) == STATES


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        (100, ['["', "Alabama"]),
        ((1, 3), ["[", '"Al', "abama"]),
        ((0, 20), ["", '["Alabama']),
        ((2, 2, 5, 9), ['["', "Al", "abama"]),
        (["Ala", "", "bama"], ['["', "Ala", "", "bama"]),
    ],
)
def test_deltas_are_cut_as_told(cuts: Any, expected: list[str]) -> None:
    """Numbers in `cuts` count characters of everything that is sent. Strings in `cuts` are the deltas of the text."""
    assert list(said(Script(text="Alabama", prefill="echoes", cuts=cuts)).content) == expected


def test_given_deltas_can_be_joined_to_the_echo_and_fenced() -> None:
    """Deltas given as strings can be joined to the echo, and can be in a code fence."""
    assert said(Script(prefill="echoes", echo="joined", cuts=["A", "B"])).content == ('["A', "B")
    assert said(Script(prefill="echoes", echo="fence", cuts=["A"])).content == ('```json\n["', "A", "\n```")


def test_the_first_stop_sequence_to_be_complete_ends_the_text() -> None:
    """The stop sequence that is complete first ends the text, not the longest one and not the first in the list."""
    output = said(Script(text="one, two; three"), None, stop_sequences=["three", "; t", ", two; thr", ";"])
    assert "".join(output.content) == "one, two"
    assert (output.stop_reason, output.stop_sequence) == ("stop_sequence", ";")
    assert output.output_tokens == 2


def test_a_native_echo_is_not_generated_and_stops_nothing() -> None:
    """Stop sequences apply to generated text: to an echo that the prompt asked for, and not to a native echo."""
    native = said(Script(text='a"b', prefill="echoes"), stop='"')
    assert "".join(native.content) == '["a'
    asked = said(Script(text='a"b', prefill="echoes", echo_text='["'), None, stop='"')
    assert "".join(asked.content) == "["
    assert said(Script(text='a"b', obey_stop=False), stop='"').stop_reason == "end_turn"


def test_max_tokens_counts_new_deltas() -> None:
    """Each new delta counts as one token of `max_tokens`. A native echo does not count."""
    output = said(Script(text="abcdefgh", prefill="echoes", cuts=2, obey_max_tokens=True), max_tokens=3)
    assert output.content == ('["', "ab", "cd", "ef")
    assert (output.stop_reason, output.output_tokens) == ("max_tokens", 3)
    assert said(Script(text="abcdefgh", obey_max_tokens=True), max_tokens=2).stop_reason == "end_turn"
    assert len(said(Script(text="abcdefgh", cuts=1), max_tokens=3).content) == 8


def test_tools_are_called_unless_the_text_was_cut_short() -> None:
    """Tools are called only if the text was not cut short by a stop sequence."""
    script = Script(text="a;b", tools=[ToolCall(name="f")])
    assert said(script).stop_reason == "tool_use"
    assert said(script, stop=[";"]).tools == ()


def test_a_script_has_the_last_word_on_the_reason() -> None:
    """A script can set the stop reason and the number of tokens, also to values that no request causes."""
    assert said(Script(stop_reason="refusal")).stop_reason == "refusal"
    assert said(Script(stop_sequence="END")).stop_reason == "stop_sequence"
    assert said(Script(text="abc", output_tokens=77)).output_tokens == 77

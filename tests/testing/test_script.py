"""What a script accepts, and its messages for what it does not accept."""

from __future__ import annotations

import dataclasses
import math

import pytest

from aprefill._errors import UsageError
from aprefill.testing import Script, ToolCall


def test_a_good_reply_needs_its_text_alone() -> None:
    """A script of a good reply needs only its text, because every field has a default."""
    assert Script() == Script(text="")
    assert Script(text="Hello").prefill == "eats"


def test_a_script_is_a_frozen_value() -> None:
    """A script is frozen. `dataclasses.replace` makes a variant."""
    script = Script(text="Hello")
    with pytest.raises(dataclasses.FrozenInstanceError):
        script.text = "x"
    assert dataclasses.replace(script, no_end=True).text == "Hello"


def test_pieces_given_as_strings_are_the_text() -> None:
    """If `cuts` is a list of strings, they are the text, and `text` is not needed."""
    assert Script(cuts=["Ala", "", "bama"]).text == "Alabama"
    assert Script(text="Alabama", cuts=["Ala", "bama"]).text == "Alabama"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prefill": "echo"}, "use one of 'eats', 'echoes', 'refuses', 'ignores'"),
        ({"prefill": "echoes", "echo": "loud"}, "'chatter+fence'"),
        ({"framing": "none"}, "'chunked'"),
        ({"newline": "\n\r"}, "newline="),
        ({"no_done": True, "no_last_blank": True}, "no_done and no_last_blank"),
        ({"no_last_blank": True, "text_after_end": "x"}, "no_last_blank and text_after_end"),
        ({"bad_event": "xml"}, "'utf8'"),
        ({"drop_after_bytes": -1}, "drop_after_bytes=-1 is not a count"),
        ({"stall_after": 1.5}, "stall_after=1.5"),
        ({"input_tokens": None, "output_tokens": True}, "output_tokens=True"),
        ({"wire_cuts": 0}, "1 or more"),
        ({"pace_s": -0.1}, "pace_s=-0.1 is not a time"),
        ({"first_byte_s": math.nan}, "first_byte_s"),
        ({"hold_open_s": "1"}, "hold_open_s"),
        ({"status": 101}, "200 to 599"),
        ({"cuts": 0}, "never end"),
        ({"cuts": -1}, "cuts="),
        ({"cuts": "abc"}, "cuts="),
        ({"cuts": [1, "a"]}, "cuts="),
        ({"cuts": ["Ala"], "text": "Alabama"}, "the same text"),
        ({"drop_after_bytes": 0, "reset_after_bytes": 9}, "drop_after_bytes and reset_after_bytes"),
        ({"stall_after": 1, "keepalive_after": 1}, "cannot be played together"),
        ({"error_event": ("a", "b"), "stall_after": 1}, "cannot be played together"),
        ({"body": b"", "redirect": "http://x"}, "redirect and body"),
        ({"no_end": True, "text_after_end": "x"}, "no_end and text_after_end"),
        ({"bad_event": "json", "insert": b""}, "bad_event and insert"),
        ({"echo": "fence"}, "prefill='echoes'"),
        ({"echo_text": "abc", "prefill": "ignores"}, "prefill='echoes'"),
        ({"retry_after": 1}, "status="),
        ({"retry_after": math.inf, "status": 429}, "retry_after"),
        ({"error": ("a", "b")}, "error_event="),
        ({"error_event": "overloaded_error"}, "(type, message)"),
        ({"keepalive_after": 1, "framing": "length"}, "no known length"),
        ({"keepalive_after": 1, "keepalive_s": 0}, "flood"),
    ],
)
def test_what_makes_no_sense_is_said_when_it_is_made(fields: dict[str, object], says: str) -> None:
    """A wrong script is a `UsageError` in the line that creates it."""
    fields = {"input_tokens": 10} | {name: value for name, value in fields.items() if name != "input_tokens"}
    with pytest.raises(UsageError, match="Script: ") as caught:
        Script(**fields)
    assert says in str(caught.value)


def test_arguments_of_a_tool_call_may_be_an_object() -> None:
    """Arguments of a tool call can be an object, which becomes compact JSON. A string stays as it is."""
    assert ToolCall(name="f", arguments={"a": [1]}).arguments_json == '{"a":[1]}'
    assert ToolCall(name="f", arguments='{"a": 1').arguments_json == '{"a": 1'

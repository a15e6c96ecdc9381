"""Which stop sequences the host is sent, and which stay here."""

from __future__ import annotations

from typing import Any

import pytest

from ..support.planning import EATS, ECHOES, acme, known, step

STOPS = [
    # keys, support, prefill, asked for, told to the host
    pytest.param("", EATS, "ab", ["x", "y"], ["x", "y"], id="as-asked"),
    pytest.param("", EATS, "ab", "xy", ["xy"], id="one-str-is-one-sequence"),
    pytest.param("max_stop = 2", EATS, "ab", ["c", "b2", "d", "e"], ["c", "d"], id="only-so-many-and-in-order"),
    pytest.param("max_stop = 2", EATS, "", ["c", "d", "e"], ["c", "d"], id="only-so-many-without-a-prefill"),
    pytest.param("max_stop = 3", EATS, "ab", ["c", "d", "e"], ["c", "d", "e"], id="just-so-many"),
    pytest.param("sends_stop = false", EATS, "ab", ["x", "\n"], [], id="the-host-takes-none"),
    pytest.param("sends_stop = false", EATS, "", ["x"], [], id="the-host-takes-none-without-a-prefill"),
    pytest.param("blank_stop = false", EATS, "ab", [" \n", "x", "\n\n", "\nx"], ["x", "\nx"], id="none-of-white-space"),
    pytest.param("blank_stop = false", EATS, "", ["\n"], [], id="none-of-white-space-without-a-prefill"),
    pytest.param("blank_stop = true", EATS, "ab", [" \n", "x"], [" \n", "x"], id="white-space-too"),
    # the end of the prefill and the beginning of the new text make up a sequence that the model never wrote
    pytest.param("", EATS, "ab<", ["<end>"], [], id="straddle-by-one"),
    pytest.param("", EATS, "ab<end", ["<end>"], [], id="straddle-by-all-but-one"),
    pytest.param("", EATS, "ab#", ["##"], [], id="straddle-of-two"),
    pytest.param("", EATS, "<", ["<end>"], [], id="straddle-from-a-prefill-that-is-shorter"),
    pytest.param("", EATS, "ab<end>", ["<end>"], ["<end>"], id="whole-at-the-end-is-no-straddle"),
    pytest.param("", EATS, "ab<e", ["<end>", "e", "b<", "nd"], ["e", "b<", "nd"], id="the-middle-is-no-straddle"),
    pytest.param("", ECHOES, "ab<", ["<end>", "x"], ["x"], id="straddle-behind-an-echo"),
    pytest.param('whitespace = "strip"', EATS, "a: ", [" b", "x"], ["x"], id="straddle-from-what-was-stripped"),
    # a host that repeats the prefill would stop in the repetition
    pytest.param("", ECHOES, "one two", ["e t"], [], id="in-the-echo"),
    pytest.param("", ECHOES, "one ten", ["one", "ten", "o"], [], id="at-both-ends-of-the-echo"),
    pytest.param("", ECHOES, "one two", ["three"], ["three"], id="not-in-the-echo"),
    pytest.param("", EATS, "one ten", ["e t", "one", "ten"], ["e t", "one", "ten"], id="no-echo-to-be-in"),
    pytest.param("", ECHOES, "", ["one"], ["one"], id="nothing-to-repeat"),
]


@pytest.mark.parametrize(("keys", "support", "prefill", "stop", "told"), STOPS)
def test_stop_sequences(keys: str, support: str, prefill: str, stop: Any, told: list[str]) -> None:
    """The host is told the sequences that it takes and that cannot match known text; the others are applied here."""
    planned = step(acme(keys, support), prefill=prefill, stop=stop)
    assert planned.model_input.stop == tuple(told)
    wanted = (stop,) if isinstance(stop, str) else tuple(stop)
    assert planned.stop == tuple(one for one in wanted if one not in told)


@pytest.mark.parametrize(
    ("model", "prefill", "told"),
    [
        ("openai:gpt-4o", "", ("a", "\n", "b", "c")),
        ("openai:gpt-5", "", ()),
        ("anthropic:claude-haiku-4-5", "[", ("a", "b", "c", "d", "e")),
        ("groq:llama-3.3-70b-versatile", "[", ("a", "\n", "b", "c")),
        ("mistral:mistral-small-latest", "b", ("a", "\n", "c", "d", "e")),
    ],
)
def test_stop_sequences_of_known_hosts(model: str, prefill: str, told: tuple[str, ...]) -> None:
    """OpenAI and Groq take four, newer OpenAI none, Anthropic none of white space, Mistral would stop in its echo."""
    assert step(known(model), prefill=prefill, stop=["a", "\n", "b", "c", "d", "e"]).model_input.stop == told


def test_a_callers_word_decides_which_stop_sequences_are_told() -> None:
    """`support=` counts for stop sequences too: what may be repeated is not to be stopped in."""
    for row in (acme(), acme(support=ECHOES)):
        assert step(row, prefill="one", stop="one", support="echoes").stop == ("one",)
        assert step(row, prefill="one", stop="one", support="eats").stop == ()

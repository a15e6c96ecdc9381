"""Which stop sequences are sent to the host, and which are applied locally."""

from __future__ import annotations

from typing import Any

import pytest

from ..support.planning import EATS, ECHOES, acme, known, step

STOPS = [
    # keys, support, prefill, requested sequences, sequences that are sent
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
    # The end of the prefill and the start of the new text form a sequence that the model did not write.
    pytest.param("", EATS, "ab<", ["<end>"], [], id="straddle-by-one"),
    pytest.param("", EATS, "ab<end", ["<end>"], [], id="straddle-by-all-but-one"),
    pytest.param("", EATS, "ab#", ["##"], [], id="straddle-of-two"),
    pytest.param("", EATS, "<", ["<end>"], [], id="straddle-from-a-prefill-that-is-shorter"),
    pytest.param("", EATS, "ab<end>", ["<end>"], ["<end>"], id="whole-at-the-end-is-no-straddle"),
    pytest.param("", EATS, "ab<e", ["<end>", "e", "b<", "nd"], ["e", "b<", "nd"], id="the-middle-is-no-straddle"),
    pytest.param("", ECHOES, "ab<", ["<end>", "x"], ["x"], id="straddle-behind-an-echo"),
    pytest.param('whitespace = "strip"', EATS, "a: ", [" b", "x"], ["x"], id="straddle-from-what-was-stripped"),
    # A host that repeats the prefill would stop inside the repetition.
    pytest.param("", ECHOES, "one two", ["e t"], [], id="in-the-echo"),
    pytest.param("", ECHOES, "one ten", ["one", "ten", "o"], [], id="at-both-ends-of-the-echo"),
    pytest.param("", ECHOES, "one two", ["three"], ["three"], id="not-in-the-echo"),
    pytest.param("", EATS, "one ten", ["e t", "one", "ten"], ["e t", "one", "ten"], id="no-echo-to-be-in"),
    pytest.param("", ECHOES, "", ["one"], ["one"], id="nothing-to-repeat"),
]


@pytest.mark.parametrize(("keys", "support", "prefill", "stop", "told"), STOPS)
def test_stop_sequences(keys: str, support: str, prefill: str, stop: Any, told: list[str]) -> None:
    """The host is sent the sequences that it takes and that cannot match known text; others are applied locally."""
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
    """The stop sequences that are sent follow the row of the host.

    OpenAI and Groq take four, newer OpenAI models none, Anthropic none of white space. Mistral would stop in its own
    echo.
    """
    assert step(known(model), prefill=prefill, stop=["a", "\n", "b", "c", "d", "e"]).model_input.stop == told


def test_a_callers_word_decides_which_stop_sequences_are_told() -> None:
    """`support=` also decides which stop sequences are sent: none that could match inside a possible echo."""
    for row in (acme(), acme(support=ECHOES)):
        assert step(row, prefill="one", stop="one", support="echoes").stop == ("one",)
        assert step(row, prefill="one", stop="one", support="eats").stop == ()

"""A host's words lose the key and the prompt, whole or cut."""

from __future__ import annotations

import json

import pytest

from aprefill._redact import PROMPT_MIN, TAIL_MIN, Redactor

from .test_plan import asked

KEY = "sk-0123456789abcdef"
PROMPT = 'say "hello"\nto the new neighbours \u00e4'


@pytest.fixture
def redact() -> Redactor:
    messages = (
        {"role": "user", "content": PROMPT},
        {"role": "user", "content": [{"type": "text", "text": "a text part of it"}, {"type": "image"}]},
        {"role": "user", "content": "short"},
    )
    options = {
        "prompt": list(messages),
        "system": "the system prompt of the house",
        "prefill": "the beginning of a reply",
    }
    return Redactor(KEY, asked(**options).texts())


@pytest.mark.parametrize(
    "text",
    [KEY, f"bad key '{KEY}'!", f"{KEY}{KEY}"],
)
def test_the_key_goes(redact: Redactor, text: str) -> None:
    """Wherever it stands."""
    assert KEY not in redact(text)
    assert "[key]" in redact(text)


@pytest.mark.parametrize(
    "said",
    [
        PROMPT,
        json.dumps(PROMPT),
        json.dumps(PROMPT, ensure_ascii=False),
        "a text part of it",
        "the system prompt of the house",
    ],
)
def test_the_prompt_goes(redact: Redactor, said: str) -> None:
    """Plain or as JSON writes it, from messages, parts and the system prompt."""
    assert redact(f"cannot read {said} here") in {"cannot read [prompt] here", 'cannot read "[prompt]" here'}


@pytest.mark.parametrize("secret", [KEY, PROMPT, "the system prompt of the house"])
def test_a_secret_that_a_bound_has_cut_goes_too(redact: Redactor, secret: str) -> None:
    """At every length from which on it could be told."""
    for n in range(TAIL_MIN, len(secret)):
        assert secret[:TAIL_MIN] not in redact("text " + secret[:n])


def test_what_is_no_secret_stays(redact: Redactor) -> None:
    """Short words of the prompt are words of every error."""
    assert len("short") < PROMPT_MIN
    assert redact("a short error: overloaded") == "a short error: overloaded"
    assert Redactor("")("sk-") == "sk-"

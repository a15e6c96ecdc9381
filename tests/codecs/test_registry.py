from __future__ import annotations

import tomllib
from importlib import resources

import pytest

from aprefill._codecs import PROTOCOLS, codec, limit_words
from aprefill._codecs._switches import OTHER_LIMIT_WORDS
from aprefill._deltas import ModelInput
from aprefill._errors import UsageError

from . import BOTH


def test_a_codec_is_found_by_its_name() -> None:
    """Every protocol has a codec that knows its own name, and a path that can be appended to a base URL."""
    assert set(BOTH) <= set(PROTOCOLS)
    for name in PROTOCOLS:
        assert codec(name).name == name
        assert codec(name).path(ModelInput(model="m", messages=())).startswith("/")


def test_an_unknown_name_is_the_callers_error() -> None:
    """An unknown name raises an error that lists the known protocols, and imports no module."""
    with pytest.raises(UsageError, match="openai_chat"):
        codec("os")


def test_words_for_a_token_limit() -> None:
    """The words for a token limit are those of every codec, in lower case, and those of protocols without a codec."""
    words = limit_words()
    assert {"length", "max_tokens", "model_length", *OTHER_LIMIT_WORDS} <= words
    assert {word.lower() for word in words} == words
    assert not words & {"stop", "end_turn", "stop_sequence", "tool_use"}


def test_the_table_names_codecs_and_end_rules_that_exist() -> None:
    """Each row of models.toml with one of these protocols gets a decoder with the row's end rule."""
    rows = tomllib.loads((resources.files("aprefill._hosts") / "models.toml").read_text())["host"]
    ours = [row for row in rows if row["codec"] in BOTH]
    assert ours
    for row in ours:
        assert row.get("end", "strict") in codec(row["codec"]).end_rules


@pytest.mark.parametrize("name", BOTH)
def test_an_unknown_end_rule_is_the_callers_error(name: str) -> None:
    """An unknown end rule raises an error and does not silently become "strict"."""
    with pytest.raises(UsageError, match="strict"):
        codec(name).decoder(end="whenever")

"""The library's messages in the command line's words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aprefill
from aprefill import ConnectFailed, PrefillRefused, ProtocolError, Stalled, StatusError, Truncated, UsageError
from aprefill._target import check_url
from aprefill.cli._wording import _PHRASES, in_options

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_each_phrase_is_one_that_the_library_writes() -> None:
    """A message that is reworded there takes its phrase here along."""
    source = "".join(path.read_text("utf-8") for path in sorted(Path(aprefill.__file__).parent.glob("_*.py")))
    assert [phrase for phrase, _ in _PHRASES if phrase not in source] == []


def errors() -> Iterator[Exception]:
    yield ConnectFailed("host", "refused")
    yield PrefillRefused("m", known_as="support table: emulated")
    yield PrefillRefused("m", status=400, quote="no")
    yield ProtocolError("the answer is text/html")
    yield Stalled("first_token_s", 600)
    yield Truncated("no end")
    yield from (StatusError(status) for status in (400, 401, 404, 429, 500))
    for url in ("x", "http://example.com", "https://a:b@example.com", "https://example.com?x"):
        with pytest.raises(UsageError) as caught:
            check_url(url)
        yield caught.value
    for model, support in (("openai:m", None), ("nobody:m", None), ("demo:eats", "x")):
        with pytest.raises(UsageError) as caught:
            aprefill.stream("x", model=model, support=support)
        yield caught.value


def test_no_message_speaks_of_a_programs_arguments() -> None:
    """What each says to do can be done on a command line."""
    for error in errors():
        message = in_options(str(error))
        assert not re.search(r"\w=(?!['\"])|base_url|text_so_far|\(\)", message), message


def test_values_and_quotations_stay() -> None:
    """An argument shown with its value is told as it was given."""
    assert in_options("model='x' names no known provider") == "model='x' names no known provider"

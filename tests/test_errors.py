"""Every error has a problem, a remedy, and whether the same request may succeed later."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
from dataclasses import fields
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING

import pytest

import aprefill
from aprefill import (
    AprefillError,
    ConnectFailed,
    LimitExceeded,
    Limits,
    PrefillIgnored,
    PrefillRefused,
    ProtocolError,
    ProviderError,
    ReplyClosed,
    ReplyConsumed,
    Stalled,
    StatusError,
    Timeouts,
    Truncated,
    UsageError,
)
from aprefill._errors import _REMEDIES
from aprefill._words import _OTHERS, Words, spelled

if TYPE_CHECKING:
    from collections.abc import Iterator

ERRORS = [
    AprefillError("it broke"),
    ProviderError("it broke", "mend it"),
    UsageError("it is wrong", Words("pass {base_url}")),
    ReplyConsumed(),
    ReplyClosed(),
    ConnectFailed("host", "refused"),
    PrefillRefused("m", known_as="table", off="emulate=False"),
    PrefillRefused("m", status=400, quote='{"error": {}}', why="grammar"),
    PrefillIgnored("m"),
    PrefillIgnored("m", strict=True),
    Truncated("no end", received_bytes=3),
    Stalled("idle_s", 3),
    LimitExceeded("record_bytes", 5, "bytes"),
    LimitExceeded("name_bytes", 5, "bytes"),
    ProtocolError("not JSON"),
    StatusError(400, detail="{x}"),
    StatusError(404),
    StatusError(429, retry_after_s=2.0),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_message_is_the_problem_and_the_remedy(error: AprefillError) -> None:
    """Every error has `problem`, `remedy` and `may_pass`. Its message is the problem and the remedy."""
    assert error.problem
    assert str(error) == f"{error.problem}; {error.remedy}" if error.remedy else error.problem
    assert type(error.may_pass) is bool


def test_every_class_is_tried() -> None:
    """The list above contains every public error class."""
    public = {value for name in aprefill.__all__ if inspect.isclass(value := getattr(aprefill, name))}
    assert {type(error) for error in ERRORS} == {value for value in public if issubclass(value, AprefillError)}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_a_copy_knows_the_same(error: AprefillError, again: object) -> None:
    """A pickled or copied error has the same attributes, notes and remedy."""
    noted = copy.copy(error)
    noted.add_note("a note")
    noted.text_so_far = "text"
    copied = again(noted)  # type: ignore[operator]
    assert vars(copied) == vars(noted)
    assert (type(copied), str(copied), copied.__notes__) == (type(error), str(error), ["a note"])

    def no_word(setting: str, value: str | None) -> str:
        return setting.upper()

    assert spelled(copied.remedy, no_word) == spelled(noted.remedy, no_word)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        *((StatusError(status), True) for status in (408, 409, 429, 500, 503, 529)),
        *((StatusError(status), False) for status in (200, 400, 401, 403, 404, 422)),
        (Stalled("connect_s", 1), True),
        *((Stalled(clock, 1), False) for clock in ("first_token_s", "progress_s", "idle_s", "total_s")),
        (ConnectFailed("host", "refused"), True),
        (ConnectFailed("host", "not trusted", may_pass=False), False),
        (Truncated("no end"), True),
        (Truncated("the token limit", may_pass=False), False),
        *((error, False) for error in (ReplyClosed(), UsageError("x"), ProtocolError("x"), PrefillIgnored("m"))),
    ],
)
def test_what_may_pass(error: AprefillError, passes: bool) -> None:
    """`may_pass` is decided by the error classes."""
    assert error.may_pass is passes


ALWAYS = {Stalled, ReplyClosed}
WITH_NEW_TEXT = {Truncated, ProtocolError}


@pytest.mark.parametrize(
    "error", [*ERRORS, Truncated("the token limit", may_pass=False)], ids=lambda error: type(error).__name__
)
def test_what_can_continue(error: AprefillError) -> None:
    """The error classes decide whether a request with the text so far may continue the reply.

    Without new text it is the same request, so it depends on `may_pass`. After a timeout, or if the reply was closed,
    the host may answer the next time.
    """
    for has_new in (False, True):
        expected = type(error) in ALWAYS or (has_new and type(error) in WITH_NEW_TEXT) or error.may_pass
        assert error._can_continue(has_new=has_new) is expected


def test_a_hosts_words_are_never_a_template() -> None:
    """Braces in a host's text are not treated as a template."""
    error = PrefillRefused("{model}", status=400, quote="{base_url}")
    assert error.problem == "{model} refused the prefill with HTTP 400: '{base_url}'"
    assert Words("no {host}", host="{base_url}") == "no {base_url}"


# --- the settings that messages name -----------------------------------------------------------------------------


def named(ways: list[str], facts: set[str]) -> Iterator[str]:
    for way in ways:
        for _, field, _, _ in Formatter().parse(way):
            if field is not None and field not in facts:
                yield field.partition("=")[0]


def settings_in(source: str) -> Iterator[str]:
    """Yield the settings that the `Words` calls of a module name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Words":
            ways = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            yield from named(ways, {keyword.arg or "" for keyword in node.keywords})


def unknown(settings: set[str]) -> set[str]:
    arguments = {*inspect.signature(aprefill.stream).parameters, *_OTHERS}
    for values in (Timeouts, Limits):
        arguments |= {f"{values.__name__}.{field.name}" for field in fields(values)}
    return settings - arguments


def test_every_setting_that_a_message_names_is_one() -> None:
    """Every setting that a remedy names exists."""
    sources = [path.read_text("utf-8") for path in Path(aprefill.__file__).parent.rglob("*.py")]
    found = {setting for source in sources for setting in settings_in(source)}
    found |= {setting for ways in _REMEDIES.values() for setting in named(list(ways), set())}
    assert {"base_url", "allow_http", "support", "text_so_far"} <= found | set(_OTHERS)
    assert unknown(found) == set()


def test_control_a_setting_that_is_none_is_found() -> None:
    """Control: the same check finds a misspelt setting."""
    assert unknown(set(settings_in('Words("pass {base_ulr}, {host}", host=1)'))) == {"base_ulr"}


def test_a_value_stands_behind_its_setting() -> None:
    """A setting is shown with its value: a literal of the message, or the caller's value, which is not a template."""
    given = Words("{support=given} is unknown", given=repr("{api}"))
    assert given == "support='{api}' is unknown"
    assert pickle.loads(pickle.dumps(given)).facts == {"given": "'{api}'"}
    assert Words("pass {absent=join}", "pass {strict=True}") == 'pass absent="join", or pass strict=True'


def test_every_error_says_when_it_is_raised_and_what_to_do() -> None:
    """The docstring of each public error begins with the cause, and has a paragraph "What to do"."""
    classes = [vars(aprefill)[name] for name in aprefill.__all__ if is_error(getattr(aprefill, name))]
    assert len(classes) > 10
    for kind in classes:
        first, *paragraphs = (inspect.getdoc(kind) or "").split("\n\n")
        assert first.endswith("."), kind
        assert sum(text.startswith("What to do: ") and text.endswith(".") for text in paragraphs) == 1, kind


def is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, AprefillError)

"""The options of a reply are defined once, and the public signatures agree with them."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from aprefill import Limits, Session, stream
from aprefill._plan.options import UNSET, Options, Unset, merged

HINTS = get_type_hints(Options)
DEFAULTS = {field.name: field.default for field in fields(Options)}


def signature(function: Any, *without: str) -> dict[str, tuple[Any, Any]]:
    """Return argument -> its type and its default."""
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    return {name: (hints[name], one.default) for name, one in parameters.items() if name not in {"self", *without}}


@pytest.mark.parametrize(
    ("function", "without"),
    [(stream, ("prompt", "prefill")), (Session.__init__, ("table",))],
    ids=["stream", "Session"],
)
def test_signatures_have_the_options_and_their_defaults(function: Any, without: tuple[str, ...]) -> None:
    """`stream` and `Session` have each option, in this order, with this type and this default."""
    found = signature(function, *without)
    assert list(found.items()) == [(name, (HINTS[name], DEFAULTS[name])) for name in DEFAULTS]


def test_a_sessions_stream_takes_each_as_not_given() -> None:
    """`Session.stream` has each option with the default `UNSET`, except `client`, which is the session's."""
    found = signature(Session.stream, "prompt", "prefill")
    assert list(found.items()) == [(name, (HINTS[name] | Unset, UNSET)) for name in DEFAULTS if name != "client"]


def test_what_is_given_wins_and_nothing_else() -> None:
    """A given value overrides the session's, also None and falsy values. Arguments that are no option are ignored."""
    session = Options(model="m", max_tokens=5, stop="x", strict=True)
    given = {"max_tokens": None, "stop": (), "strict": False, "system": UNSET, "prompt": "p", "self": None}
    assert merged(session, given) == Options(model="m")
    assert merged(session, {}) == session


def test_every_option_gets_from_the_call_to_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option is passed on by `stream()`, by a session's defaults, and by a session's `stream()`."""
    seen: list[Options] = []

    def look(prompt: object, prefill: str, options: Options, *more: object) -> None:
        seen.append(options)

    monkeypatch.setattr("aprefill._session._reply", look)
    mine = {name: Limits() if name == "limits" else object() for name in DEFAULTS}
    stream("hi", **mine)  # type: ignore[arg-type]
    session = Session(**mine)  # type: ignore[arg-type]
    session.stream("hi")
    del mine["client"]
    Session().stream("hi", **mine)  # type: ignore[arg-type]
    for options in seen:
        assert {name: getattr(options, name) for name in mine} == mine
    assert len(seen) == 3


def test_no_key_in_a_repr() -> None:
    """The repr of the options contains no key and no prompt."""
    assert "hidden" not in repr(Options(api_key="hidden", system="hidden"))

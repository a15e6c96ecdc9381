"""Rewords the library's errors for the command line: the argument `base_url=` becomes the option `--base-url`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import joined
from .._words import spelled

if TYPE_CHECKING:
    from .._errors import AprefillError

#: The arguments of `stream()` whose options have the same names. A test compares this with the options.
_SAME = frozenset(
    ("absent", "api", "base_url", "max_tokens", "model", "prefill", "stop", "support", "system", "temperature")
)
#: The arguments whose options have other names.
_OTHERS = {
    "allow_http=True": "--allow-http",
    "emulate=False": "--no-emulate",
    "strict=True": "--strict",
    "support_table": "`aprefill models`",
    "text_so_far": "the text received so far",
}


def in_options(error: AprefillError) -> str:
    """Return the message of `error`, with names of options instead of names of arguments."""
    problem = spelled(error.problem, _option) or error.problem
    return joined(problem, spelled(error.remedy, _option))


def _option(setting: str, value: str | None) -> str | None:
    """Return the option for an argument; None if the command line has no such option.

    >>> _option("base_url", None), _option("emulate", "False"), _option("absent", "retry"), _option("client", None)
    ('--base-url', '--no-emulate', '--absent retry', None)
    """
    given = "" if value is None else value
    if setting in _SAME:
        return f"--{setting.replace('_', '-')} {given}".rstrip()
    return _OTHERS.get(f"{setting}={given}" if given else setting)

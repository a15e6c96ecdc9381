"""The library's errors in the command line's words: a program's `base_url=` is `--base-url` here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import joined
from .._words import spelled

if TYPE_CHECKING:
    from .._errors import AprefillError

#: The arguments of `stream()` that are options under their own names. A test holds this to the options that there are.
_SAME = frozenset(
    ("absent", "api", "base_url", "max_tokens", "model", "prefill", "stop", "support", "system", "temperature")
)
#: What is spelled in another way.
_OTHERS = {
    "allow_http=True": "--allow-http",
    "emulate=False": "--no-emulate",
    "strict=True": "--strict",
    "support_table": "`aprefill models`",
    "text_so_far": "what came",
}


def in_options(error: AprefillError) -> str:
    """The message of `error`, with the names of options for the names of arguments."""
    problem = spelled(error.problem, _option) or error.problem
    return joined(problem, spelled(error.remedy, _option))


def _option(setting: str, value: str | None) -> str | None:
    """The option for an argument; None: the command line has none.

    >>> _option("base_url", None), _option("emulate", "False"), _option("absent", "retry"), _option("client", None)
    ('--base-url', '--no-emulate', '--absent retry', None)
    """
    given = "" if value is None else value
    if setting in _SAME:
        return f"--{setting.replace('_', '-')} {given}".rstrip()
    return _OTHERS.get(f"{setting}={given}" if given else setting)

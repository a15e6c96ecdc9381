"""`aprefill models`: prints the support table as text or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aprefill

from .._errors import UsageError
from .._hosts.names import ALIASES
from ._json import to_json
from ._output import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD = ("provider", "api", "model", "support", "dialect", "evidence")


def models(provider: str | None, *, as_json: bool) -> None:
    """Print the rows of one provider, or of all. Raises `UsageError` for an unknown provider."""
    output = Output()
    rows = aprefill.support_table()
    if provider is not None:
        known = tuple(dict.fromkeys(row.provider for row in rows))
        provider = provider if provider in known else ALIASES.get(provider, provider)
        rows = tuple(row for row in rows if row.provider == provider)
        if not rows:
            raise UsageError(f"unknown provider {provider!r}", f"the known providers are {', '.join(known)}")
    output.write(to_json([_facts(row) for row in rows]) if as_json else _columns(rows))


def _columns(rows: Sequence[aprefill.SupportRow]) -> str:
    """Return the rows as text, with one line per pattern, so that grep finds a model."""
    lines = [
        _HEAD,
        *(
            (row.provider, row.api, pattern, row.support.value, row.dialect, row.evidence)
            for row in rows
            for pattern in row.models
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def _facts(row: aprefill.SupportRow) -> dict[str, Any]:
    return {
        "provider": row.provider,
        "api": row.api,
        "models": row.models,
        "support": row.support.value,
        "dialect": row.dialect,
        "evidence": row.evidence,
        "guess": None if row.guess is None else row.guess.value,
        "source": row.source,
        "date": row.date,
        "note": row.note,
    }

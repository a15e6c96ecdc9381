"""Token counts, out of whatever object the host counts them in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

#: `Usage` field -> the paths it may be found at; the first that holds a count wins.
Table: TypeAlias = "Mapping[str, tuple[tuple[str, ...], ...]]"

#: A larger number is no count of tokens, and JSON encoders refuse it.
_MOST = 2**53


def count(usage: Any, table: Table) -> Mapping[str, int]:
    """The fields of `Usage` that `usage` has a count for.

    Anything that is no count is passed over: nobody's reply should end because of its bill.

    >>> table = {"input_tokens": (("prompt",),), "cache_read_tokens": (("details", "cached"), ("cached",))}
    >>> count({"prompt": 3, "details": {"cached": None}, "cached": 2}, table)
    {'input_tokens': 3, 'cache_read_tokens': 2}
    """
    found: dict[str, int] = {}
    if isinstance(usage, dict):
        for field, paths in table.items():
            for path in paths:
                value: Any = usage
                for key in path:
                    value = value.get(key) if isinstance(value, dict) else None
                if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
                    found[field] = value
                    break
    return found

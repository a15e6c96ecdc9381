"""Reads token counts from the usage objects of different hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

#: `Usage` field -> the paths where the count may be. The first path that has a count is used.
Table: TypeAlias = "Mapping[str, tuple[tuple[str, ...], ...]]"

#: A larger number is not a plausible token count, and some JSON encoders reject it.
_MOST = 2**53


def count(usage: Any, table: Table) -> Mapping[str, int]:
    """Return the fields of `Usage` for which `usage` has a count.

    A value that is not a count is ignored, because a wrong count must not end a reply.

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

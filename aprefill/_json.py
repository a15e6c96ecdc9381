"""Helpers for JSON: write a request body, collect the texts in JSON values, and make two texts comparable."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The encoder of the standard library. msgspec would silently write NaN as null and bytes as base64.
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def to_bytes(body: dict[str, Any]) -> bytes:
    """Return `body` as JSON in UTF-8. Raises `UsageError` if JSON in UTF-8 cannot represent it."""
    try:
        return _JSON.encode(body).encode()
    except UnicodeEncodeError:
        why = "the request holds a lone surrogate, which JSON in UTF-8 cannot carry", "replace it"
    except (TypeError, ValueError, RecursionError) as exc:
        why = f"the request cannot be written as JSON ({type(exc).__name__})", "pass plain JSON values"
    # Raised outside the handler: the encoder's own error quotes the prompt, so it must not be chained.
    raise UsageError(*why)


def texts_of(values: Iterable[Any], *, names: bool = False) -> list[str]:
    """Return all strings in JSON values such as messages, at any depth. With `names`, also the names of the fields."""
    found: list[str] = []
    todo: list[Any] = list(values)
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            todo += value.values()
            if names:
                todo += value
        elif isinstance(value, list | tuple):
            todo += value
    return found


#: Escapes of JSON and `repr`, at any depth. A gateway that quotes an upstream host adds them to its words.
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|[nrt])?")


def flat(text: str) -> str:
    """Return `text` with escapes undone, case folded and white space reduced to single spaces, for comparisons."""
    if "\\" in text:
        text = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else " " * (escape[0][-1] != "\\"), text)
    return " ".join(text.split()).casefold()

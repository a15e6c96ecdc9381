"""A request's body as bytes, and what an answer's headers ask for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


#: The standard library's encoder: msgspec would write NaN as null and bytes as base64, without a word.
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def to_bytes(body: dict[str, Any]) -> bytes:
    """`body` as JSON. Raises `UsageError` for what JSON in UTF-8 cannot carry."""
    try:
        return _JSON.encode(body).encode()
    except UnicodeEncodeError:
        why = "the request holds a lone surrogate, which JSON in UTF-8 cannot carry", "replace it"
    except (TypeError, ValueError, RecursionError) as exc:
        why = f"the request cannot be written as JSON ({type(exc).__name__})", "pass plain JSON values"
    # outside the handler: the encoder's own error quotes the prompt and must not be on the chain
    raise UsageError(*why)


def texts_of(values: Iterable[Any], *, names: bool = False) -> list[str]:
    """Everything in messages, or in any JSON values, that is text, at any depth; with the `names` of fields if asked."""
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


#: What a gateway puts between the words of its upstream: escapes of JSON and `repr`, at any depth.
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|[nrt])?")


def flat(text: str) -> str:
    """`text` in one case and with single blanks, escapes undone: as words of a host are compared."""
    if "\\" in text:
        text = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else " " * (escape[0][-1] != "\\"), text)
    return " ".join(text.split()).casefold()

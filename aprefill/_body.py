"""A request's body as bytes, and what an answer's headers ask for."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from ._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The standard library's encoder: msgspec would write NaN as null and bytes as base64, without a word.
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def to_bytes(body: dict[str, Any]) -> bytes:
    """`body` as JSON. Raises `UsageError` for what JSON in UTF-8 cannot carry."""
    try:
        return _JSON.encode(body).encode()
    except UnicodeEncodeError:
        problem = "the request holds a lone surrogate, which JSON in UTF-8 cannot carry; replace it"
    except (TypeError, ValueError, RecursionError) as exc:
        problem = f"the request cannot be written as JSON ({type(exc).__name__}); pass plain JSON values"
    # outside the handler: the encoder's own error quotes the prompt and must not be on the chain
    raise UsageError(problem)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After` (seconds or an HTTP date, RFC 9110 10.2.3)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds == seconds and seconds < float("inf"):  # neither NaN nor infinite
            return max(0.0, seconds)
    return None

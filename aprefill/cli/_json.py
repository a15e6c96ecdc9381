"""Writes JSON that is safe to print on a terminal."""

from __future__ import annotations

import json
import re
from typing import Any

#: Characters to escape: JSON allows them unescaped, but they are unsafe on a terminal or cannot be encoded in UTF-8.
#: They occur only inside strings, so escaping does not change the meaning. (json.dumps escapes C0 characters itself.)
_ESCAPED = re.compile(r"[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def to_json(value: Any) -> str:
    """Return `value` as one line of JSON, in Unicode, without characters that control a terminal."""
    text = json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"

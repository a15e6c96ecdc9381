"""JSON that can go to a terminal as it is."""

from __future__ import annotations

import json
import re
from typing import Any

#: What JSON may hold as it is but a terminal should not see, or UTF-8 cannot say. Only strings can hold these, so
#: their escapes mean the same. (C0 characters json.dumps escapes itself.)
_ESCAPED = re.compile(r"[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def to_json(value: Any) -> str:
    """`value` as one line of JSON, in Unicode, with nothing in it that a terminal would obey."""
    text = json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"

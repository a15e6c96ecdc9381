"""Takes out of a host's words what must not be repeated: the key, and the prompt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


#: Texts of the prompt shorter than this are words that any error may hold, in characters.
PROMPT_MIN = 12
#: A beginning this long at the very end is taken for a secret that a bound has cut, in characters.
TAIL_MIN = 6


class Redactor:
    """Replaces keys and a prompt in other people's texts.

    >>> redact = Redactor("sk-0123456789", ["tell me a secret"])
    >>> redact('bad key sk-0123456789 for "tell me a secret"')
    'bad key [key] for "[prompt]"'
    >>> redact("a long text that was cut inside sk-01234")
    'a long text that was cut inside [key]'
    """

    __slots__ = ("_secrets",)

    def __init__(self, keys: str | Iterable[str], prompt: Iterable[str] = ()) -> None:
        texts = {text.strip() for text in prompt}
        texts = {text for text in texts if len(text) >= PROMPT_MIN}
        texts |= {json.dumps(text)[1:-1] for text in texts} | {
            json.dumps(text, ensure_ascii=False)[1:-1] for text in texts
        }
        keys = {keys} if isinstance(keys, str) else set(keys)
        # the longest first: one may hold another
        secrets = [(key, "[key]") for key in sorted(keys - {""}, key=len, reverse=True)]
        self._secrets = secrets + [(text, "[prompt]") for text in sorted(texts, key=len, reverse=True)]

    def __call__(self, text: str) -> str:
        for secret, name in self._secrets:
            text = text.replace(secret, name)
            for n in range(min(len(secret) - 1, len(text)), TAIL_MIN - 1, -1):
                if text.endswith(secret[:n]):
                    text = text[:-n] + name
                    break
        return text

"""Texts that name settings, such as "pass {base_url}", and the ways to write the name of a setting."""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter
from typing import Any, Self, TypeAlias

#: Writes a setting, given its name and its value or None. Returns None if the reader cannot set it.
Speller: TypeAlias = Callable[[str, str | None], str | None]

#: Names in a text that are not arguments.
_OTHERS = {"text_so_far": "`text_so_far`", "support_table": "aprefill.support_table()"}


def in_python(setting: str, value: str | None) -> str:
    """Write a setting as Python code.

    >>> in_python("base_url", None), in_python("strict", "True"), in_python("Limits.record_bytes", None)
    ('base_url=', 'strict=True', 'Limits(record_bytes=...)')
    """
    if setting in _OTHERS:
        return _OTHERS[setting]
    owner, _, field = setting.rpartition(".")
    if owner:
        return f"{owner}({field}=...)"
    if value is None:
        return f"{setting}="
    return f"{setting}={value}" if value in {"True", "False"} else f'{setting}="{value}"'


class Words(str):
    """A text about settings. As a str, it names them as Python arguments. `spelled` writes them in another way.

    `ways` are alternatives; the reader may choose one. Braces contain the name of one of the `facts`, or a setting:
    `{base_url}`, `{strict=True}`, `{Timeouts.idle_s}`. In `{model=name}` the fact `name` is the value. An alternative
    is left out if it names a setting that the reader does not have.

    >>> Words("use https", "pass {allow_http=True} if you trust {host}", host="vllm")
    'use https, or pass allow_http=True if you trust vllm'
    """

    __slots__ = ("facts", "ways")

    ways: tuple[str, ...]
    facts: dict[str, str]

    def __new__(cls, *ways: str, **facts: str) -> Self:
        self = super().__new__(cls, _join(ways, facts, in_python))
        self.ways = ways
        self.facts = facts
        return self

    def spelled(self, spell: Speller) -> str:
        return _join(self.ways, self.facts, spell)

    def __reduce__(self) -> Any:
        return _again, (self.ways, self.facts)


def _again(ways: tuple[str, ...], facts: dict[str, str]) -> Words:
    return Words(*ways, **facts)


def spelled(text: str, spell: Speller) -> str:
    """Return `text`, with its settings written by `spell` if it is a `Words`."""
    return text.spelled(spell) if isinstance(text, Words) else text


def _join(ways: tuple[str, ...], facts: dict[str, str], spell: Speller) -> str:
    *others, last = [way for template in ways if (way := _fill(template, facts, spell))] or [""]
    return f"{', '.join(others)}, or {last}" if others else last


def _fill(template: str, facts: dict[str, str], spell: Speller) -> str | None:
    parts = []
    for text, field, rest, _ in Formatter().parse(template):
        parts.append(text)
        if field is None:
            continue
        if field in facts:
            parts.append(spelled(facts[field], spell))
            continue
        setting, _, value = field.partition("=")
        if value in facts:
            # The value is a fact.
            word = spell(setting, None)
            if word is None:
                return None
            parts += [word, "" if word.endswith("=") else " ", facts[value]]
            continue
        # A colon and the text after it belong to the value, as in {model=provider:name}.
        word = spell(setting, f"{value}:{rest}" if rest else value or None)
        if word is None:
            return None
        parts.append(word)
    return "".join(parts)

"""Sentences that name settings, such as "pass {base_url}", and how a program spells those."""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter
from typing import Any, Self, TypeAlias

#: Spells a setting, with its value or None; gives None for a setting that the reader does not have.
Speller: TypeAlias = Callable[[str, str | None], str | None]

#: What is no argument, but a sentence may name.
_OTHERS = {"text_so_far": "`text_so_far`", "support_table": "aprefill.support_table()"}


def in_python(setting: str, value: str | None) -> str:
    """A setting as a program writes it.

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
    """Words about settings. As a str they are a program's; `spelled` has them in another spelling.

    `ways` are alternatives, of which the reader may choose one. A field in braces is one of the `facts`, or names a setting:
    `{base_url}`, `{strict=True}`, `{Timeouts.idle_s}`, or `{model=name}` with the fact `name` as its literal. A way that needs a setting which the reader does not have is left out.

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
    """`text` in this spelling, as far as it names settings."""
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
            # the literal that was given
            word = spell(setting, None)
            if word is None:
                return None
            parts += [word, "" if word.endswith("=") else " ", facts[value]]
            continue
        # what follows a colon is the value's too, as in {model=provider:name}
        word = spell(setting, f"{value}:{rest}" if rest else value or None)
        if word is None:
            return None
        parts.append(word)
    return "".join(parts)

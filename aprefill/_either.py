"""Two seams over one stream, where the model may repeat what it was asked for in two ways. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ._fence import AnyOpener, is_opener
from ._seam import Seam
from ._types import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A code fence's opener and nothing behind it, which the model's own text may have as well.
_OPENER = re.compile(r"\s*`{1,3}(?:[^`\r\n]*\r?\n?\s*)?")


class Either:
    """The word of the first seam counts, unless it finds nothing: then that of the second.

    `feed`, `close`, `verdict` and `held` are a seam's. The first should know soon. Of a long text it looks for the whole
    and for an overlap with it, the second for the end alone, which may come in a fence or behind chatter.

    >>> from aprefill._seam import Seam
    >>> known = "a long text, of which the end is asked back"
    >>> seam = Either(Seam(known, overlap=4), Seam("asked back", whitespace=True, fence=True))
    >>> [seam.feed(piece) for piece in ("```\\n", "asked", " back, and on")], seam.verdict.value
    (['', '', ', and on'], 'fenced')
    """

    __slots__ = ("_chosen", "_first", "_late", "_second")

    def __init__(self, first: Seam, second: Seam | AnyOpener) -> None:
        self._first = first
        self._second = second
        self._chosen: Seam | AnyOpener | None = None
        # what the second has let through while the first was undecided
        self._late: list[str] = []

    @property
    def verdict(self) -> Verdict:
        return (self._chosen or self._first).verdict

    @property
    def held(self) -> int:
        """Characters fed and neither emitted nor dropped yet."""
        return (self._chosen or self._first).held

    def feed(self, piece: str) -> str:
        """Give what may be shown now."""
        if self._chosen is not None:
            return self._chosen.feed(piece)
        out = self._first.feed(piece)
        if late := self._second.feed(piece):
            self._late.append(late)
        return "" if self._first.verdict is Verdict.UNDECIDED else self._choose(out)

    def close(self, cut: bool = False) -> str:
        """End it, after a clean finish or after a cut, and give what is left to show."""
        if self._chosen is not None:
            return self._chosen.close(cut)
        out = self._first.close(cut)
        self._late.append(self._second.close(cut))
        return self._choose(out)

    def _choose(self, out: str) -> str:
        if self._first.verdict is Verdict.ABSENT:
            self._chosen = self._second
            out = "".join(self._late)
        else:
            self._chosen = self._first
        self._late.clear()
        return out


def seam_for(
    known: str, rules: Mapping[str, Any], end: str = "", end_rules: Mapping[str, Any] | None = None
) -> Seam | Either:
    """The seam for a reply whose prompt asked for an echo: see `_emulate.Asked` for what the arguments are."""
    seam = Seam(known, **rules)
    if end:
        return Either(seam, Seam(end, **(end_rules or {})))
    return Either(seam, AnyOpener(known)) if is_opener(known) else seam


def is_own_text(
    held: str, known: str, rules: Mapping[str, Any], end: str = "", end_rules: Mapping[str, Any] | None = None
) -> bool:
    """Whether `held`, all that the model wrote, is held only because chatter may stand before an echo not yet begun.

    Then it is the model's own text, or chatter, and no part of a repetition.
    """

    def may_be_echo(text: str) -> bool:
        seams = [Seam(known, **{**rules, "preamble": 0})]
        if end:
            seams.append(Seam(end, **{**(end_rules or {}), "preamble": 0}))
        for seam in seams:
            seam.feed(text)
        return any(seam.verdict is Verdict.UNDECIDED for seam in seams)

    lines = [held[at + 1 :] for at, c in enumerate(held[:-1]) if c == "\n"]
    if any(may_be_echo(line) and not _OPENER.fullmatch(line) for line in lines):
        return False
    return not may_be_echo(held)

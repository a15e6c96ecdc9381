"""Two seams over one stream, where the model may repeat what it was asked for in two ways. Pure."""

from __future__ import annotations

from .._types import Verdict
from .opener import FenceOpenerSeam
from .seam import Seam, gives_all, holds_chatter_alone


class FallbackSeam:
    """The word of the first seam counts, unless it finds nothing: then that of the second.

    `feed`, `close`, `verdict` and `held` are a seam's. The first should know soon. Of a long text it looks for the whole
    and for an overlap with it, the second for the end alone, which may come in a fence or behind chatter.

    >>> from aprefill._seam.seam import Seam
    >>> known = "a long text, of which the end is asked back"
    >>> seam = FallbackSeam(Seam(known, overlap=4), Seam("asked back", whitespace=True, fence=True))
    >>> [seam.feed(piece) for piece in ("```\\n", "asked", " back, and on")], seam.verdict.value
    (['', '', ', and on'], 'fenced')
    """

    __slots__ = ("_chosen", "_first", "_late", "_second")

    def __init__(self, first: Seam, second: Seam | FenceOpenerSeam) -> None:
        self._first = first
        self._second = second
        self._chosen: Seam | FenceOpenerSeam | None = None
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


def lets_through(stage: Seam | FallbackSeam | FenceOpenerSeam) -> bool:
    """Whether it gives every further piece at once and as it is, so that it need not be asked any more."""
    match stage:
        case FallbackSeam():
            return stage._chosen is not None and lets_through(stage._chosen)
        case FenceOpenerSeam():
            return stage.verdict is not Verdict.UNDECIDED
        case _:
            return gives_all(stage)


def waits_for_chatter(stage: Seam | FallbackSeam | FenceOpenerSeam) -> bool:
    """Whether what it holds may be chatter, and no part of an echo, an overlap or a fence is in it."""
    match stage:
        case FallbackSeam(_chosen=None):
            # The first one waits for an echo. What the second one has found, or has not, is known then as well.
            first, second = stage._first, stage._second
            is_known = second.verdict is not Verdict.UNDECIDED
            return waits_for_chatter(first) and (is_known or waits_for_chatter(second))
        case FallbackSeam():
            return stage._chosen is not None and waits_for_chatter(stage._chosen)
        case FenceOpenerSeam():
            return stage.holds_chatter_alone
        case _:
            return holds_chatter_alone(stage)

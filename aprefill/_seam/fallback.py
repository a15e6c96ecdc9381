"""Two seams over one stream, for a model that may repeat the known text in two ways. Pure."""

from __future__ import annotations

from .._types import Verdict
from .opener import FenceOpenerSeam
from .seam import Seam, gives_all, holds_chatter_alone


class FallbackSeam:
    """Uses the result of the first seam, or of the second seam if the first finds no repetition.

    `feed`, `close`, `verdict` and `held` work as in `Seam`. The first seam should decide early. If the known text is
    long, the first seam looks for all of it and for an overlap with it. The second seam looks for the end of the known
    text only, which may come in a code fence or after chatter.

    >>> from aprefill._seam.seam import Seam
    >>> known = "a long text, and the model repeats its end"
    >>> seam = FallbackSeam(Seam(known, overlap=4), Seam("repeats its end", whitespace=True, fence=True))
    >>> [seam.feed(piece) for piece in ("```\\n", "repeats", " its end, and goes on")], seam.verdict.value
    (['', '', ', and goes on'], 'fenced')
    """

    __slots__ = ("_chosen", "_first", "_late", "_second")

    def __init__(self, first: Seam, second: Seam | FenceOpenerSeam) -> None:
        self._first = first
        self._second = second
        self._chosen: Seam | FenceOpenerSeam | None = None
        # the text that the second seam has let through while the first was undecided
        self._late: list[str] = []

    @property
    def verdict(self) -> Verdict:
        return (self._chosen or self._first).verdict

    @property
    def held(self) -> int:
        """The number of characters that were fed and are neither emitted nor dropped yet."""
        return (self._chosen or self._first).held

    def feed(self, piece: str) -> str:
        """Return the text that can be shown now."""
        if self._chosen is not None:
            return self._chosen.feed(piece)
        out = self._first.feed(piece)
        if late := self._second.feed(piece):
            self._late.append(late)
        return "" if self._first.verdict is Verdict.UNDECIDED else self._choose(out)

    def close(self, cut: bool = False) -> str:
        """End the stream and return the remaining text. With `cut`, the stream broke off, and held text is dropped."""
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
    """Whether `stage` returns every further piece at once and unchanged, so that the caller can skip it."""
    match stage:
        case FallbackSeam():
            return stage._chosen is not None and lets_through(stage._chosen)
        case FenceOpenerSeam():
            return stage.verdict is not Verdict.UNDECIDED
        case _:
            return gives_all(stage)


def waits_for_chatter(stage: Seam | FallbackSeam | FenceOpenerSeam) -> bool:
    """Whether the text that `stage` holds may be chatter and contains no part of an echo, an overlap or a fence."""
    match stage:
        case FallbackSeam(_chosen=None):
            # The first seam waits for an echo after chatter. The second seam must do the same, or be decided.
            first, second = stage._first, stage._second
            is_known = second.verdict is not Verdict.UNDECIDED
            return waits_for_chatter(first) and (is_known or waits_for_chatter(second))
        case FallbackSeam():
            return stage._chosen is not None and waits_for_chatter(stage._chosen)
        case FenceOpenerSeam():
            return stage.holds_chatter_alone
        case _:
            return holds_chatter_alone(stage)

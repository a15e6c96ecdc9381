"""From a model's text to the text that may be shown: the seam, the stop stage, a bound, and what is shown first. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .fallback import lets_through, waits_for_chatter
from .stop import StopStage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._types import Verdict
    from .fallback import FallbackSeam
    from .seam import Seam


class TextStage:
    """The text of one provider's stream: without the repetition of the known text, up to a stop sequence or a length.

    `feed` pieces, then `close` once; both give the new text that may be shown now. `lead`, mostly the prefill, is due
    ahead of the first new text, and at the latest at a clean end. It is never in the text that `feed` and `close` give:
    the caller takes it with `take_lead`, and decides how it is shown.

    >>> from aprefill._seam.seam import Seam
    >>> stage = TextStage(Seam('["'), lead='["', stop=["]"])
    >>> [stage.feed(piece) for piece in ('["', 'Ala', 'bama"', '], and')], stage.fired, stage.close()
    (['', 'Ala', 'bama"', ''], ']', '')
    >>> stage.take_lead(), stage.take_lead()
    ('["', '')
    """

    __slots__ = (
        "_is_limited",
        "_most",
        "_passes",
        "_stop",
        "decided",
        "dropped",
        "exceeded",
        "fed",
        "lead",
        "over",
        "seam",
        "shown",
    )

    def __init__(
        self, seam: Seam | FallbackSeam, *, lead: str = "", stop: Sequence[str] = (), most: int | None = None
    ) -> None:
        self.seam = seam
        self._stop = StopStage(stop) if stop else None
        # how many characters of new text may be shown
        self._most = most
        self._is_limited = bool(stop) or most is not None
        # the seam gives every further piece as it is, so it is not asked: most pieces come then
        self._passes = False
        #: what is due ahead of the first new text
        self.lead = lead
        #: the seam has let text through
        self.decided = False
        #: characters fed to the seam until then
        self.fed = 0
        #: once `decided`: how many of those were the repetition, with what stood around it
        self.dropped = 0
        #: characters of new text that were given
        self.shown = 0
        #: there is more new text than `most` characters
        self.exceeded = False
        #: a stop sequence was met, or `most` exceeded: nothing more is shown
        self.over = False

    @property
    def verdict(self) -> Verdict:
        return self.seam.verdict

    @property
    def fired(self) -> str | None:
        """The stop sequence that was met."""
        return None if self._stop is None else self._stop.fired

    @property
    def held(self) -> int:
        """Characters fed and neither given nor dropped yet."""
        return self.seam.held + (0 if self._stop is None else self._stop.held)

    @property
    def place(self) -> int:
        """How many characters of new text come before what comes now; until `decided`, `dropped` is still in it."""
        return self.shown + self.held if self.decided else self.fed

    @property
    def holds_own_text(self) -> bool:
        """Whether text is held only because it may be chatter ahead of a repetition, of which nothing has come.

        So at a token limit it is the model's own text, and the stage is to be closed with ``cut=False``: rule 7 of the
        seam, its last paragraph.

        >>> from aprefill._seam.plan import SeamPlan
        >>> plan = SeamPlan('["', {"whitespace": True, "fence": True, "preamble": 120}, asked=True)
        >>> stage = TextStage(plan.seam())
        >>> stage.feed("I can help you with that.\\n\\n"), stage.holds_own_text
        ('', True)
        """
        return waits_for_chatter(self.seam)

    def feed(self, piece: str) -> str:
        """Give the new text that may be shown now."""
        if not self._passes:
            text = self.seam.feed(piece)
            if not self.decided:
                self.fed += len(piece)
                if text:
                    self._decide(text)
            piece = text
        if self._is_limited:
            return self.pass_on(piece)
        self.shown += len(piece)
        return piece

    def pass_on(self, text: str, *, last: bool = False) -> str:
        """Give what may be shown of `text`, which the seam has let through. `last`: it is the end of the text.

        For a caller that has fed `seam` itself.
        """
        stop = self._stop
        if stop is not None:
            text = stop.feed(text)
            if stop.fired is not None:
                self.over = True
            elif last:
                text += stop.close()
        if self._most is not None and self.shown + len(text) > self._most:
            self.exceeded = self.over = True
            text = text[: self._most - self.shown]
        self.shown += len(text)
        return text

    def close(self, cut: bool = False) -> str:
        """End it, after a clean finish or after a cut, and give what is left to show."""
        self._passes = False
        if self.over:
            return ""
        text = self.seam.close(cut)
        if text and not self.decided:
            self._decide(text)
        return self.pass_on(text, last=True)

    def take_lead(self) -> str:
        """Give the lead, which is shown now; nothing the second time."""
        lead, self.lead = self.lead, ""
        return lead

    def _decide(self, text: str) -> None:
        """The seam lets `text` through, the first that is no repetition."""
        self.decided = True
        self.dropped = self.fed - len(text) - self.seam.held
        self._passes = lets_through(self.seam)

"""Turns a model's text into the text that may be shown: the seam, stop sequences, a length limit and the lead. Pure."""

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
    """Drops the repetition of the known text from one provider's stream, and ends at a stop sequence or a length limit.

    `feed` pieces, then `close` once. Both return the new text that can be shown now. `lead`, usually the prefill, must
    be shown before the first new text, and at the latest at a clean end. `feed` and `close` never return it. The caller
    takes it with `take_lead` and decides how it is shown.

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
        # maximum number of characters of new text to show
        self._most = most
        self._is_limited = bool(stop) or most is not None
        # Whether the seam returns every further piece unchanged. It is then skipped, which saves time for most pieces.
        self._passes = False
        #: the text to show before the first new text
        self.lead = lead
        #: whether the seam has let text through
        self.decided = False
        #: number of characters fed to the seam until then
        self.fed = 0
        #: once `decided`: number of these characters that were the repetition, with the fence or chatter around it
        self.dropped = 0
        #: number of characters of new text returned so far
        self.shown = 0
        #: whether there is more new text than `most` characters
        self.exceeded = False
        #: whether a stop sequence was found or `most` was exceeded; nothing more is shown
        self.over = False

    @property
    def verdict(self) -> Verdict:
        return self.seam.verdict

    @property
    def fired(self) -> str | None:
        """The stop sequence that was found, or None."""
        return None if self._stop is None else self._stop.fired

    @property
    def held(self) -> int:
        """The number of characters that were fed and are neither returned nor dropped yet."""
        return self.seam.held + (0 if self._stop is None else self._stop.held)

    @property
    def place(self) -> int:
        """The position of the next character in the new text. Until `decided`, the repetition is still counted too."""
        return self.shown + self.held if self.decided else self.fed

    @property
    def holds_own_text(self) -> bool:
        """Whether text is held only because it may be chatter before a repetition, and no part of a repetition came.

        At a token limit such text is the model's own. The stage must then be closed with ``cut=False``: see
        `docs/seam.md`, last paragraph of rule 7.

        >>> from aprefill._seam.plan import SeamPlan
        >>> plan = SeamPlan('["', {"whitespace": True, "fence": True, "preamble": 120}, asked=True)
        >>> stage = TextStage(plan.seam())
        >>> stage.feed("I can help you with that.\\n\\n"), stage.holds_own_text
        ('', True)
        """
        return waits_for_chatter(self.seam)

    def feed(self, piece: str) -> str:
        """Return the new text that can be shown now."""
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
        """Return the part of `text` that can be shown. `last` says that `text` is the end of the stream.

        This is for a caller that feeds `seam` itself. `text` is what the seam has returned.
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
        """End the stream and return the remaining text. With `cut`, the stream broke off.

        After a cut, text that the seam holds is dropped. Text held because of a stop sequence is returned in any case.
        """
        self._passes = False
        if self.over:
            return ""
        text = self.seam.close(cut)
        if text and not self.decided:
            self._decide(text)
        return self.pass_on(text, last=True)

    def take_lead(self) -> str:
        """Return the lead, which the caller shows now. A second call returns ``""``."""
        lead, self.lead = self.lead, ""
        return lead

    def _decide(self, text: str) -> None:
        """Handle `text`, the first text that the seam lets through."""
        self.decided = True
        self.dropped = self.fed - len(text) - self.seam.held
        self._passes = lets_through(self.seam)

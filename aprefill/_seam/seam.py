"""The seam: finds where the known text ends in a provider's stream, and passes on only the new text.

`docs/seam.md` specifies the rules. A stream passes three stages. The finders (`finders.py`) look for a repetition at
the start, in the order of the rules. The joint (`joint.py`) is the place where the repetition meets the new text. The
watch for the closing fence (`closing.py`) runs only if a code fence was opened before the repetition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from .._types import Verdict
from .chatter import Chatter
from .closing import Closing
from .finders import Overlap, Search, Start, ink, longest_tail
from .joint import Joint

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Seam", "Verdict")

#: Invariant 5: at most ``2 * len(known) + SLACK`` characters are held.
SLACK = 8192
#: Whether the stream may begin with a repetition of the known text.
Echo: TypeAlias = Literal["maybe", "never"]

#: Rule 5: the least ink (characters other than white space) of an echo after chatter, with an opener and without one.
INK_FENCED, INK_PLAIN = 2, 16


class Seam:
    """Passes on only the new text of one provider's stream, without a repetition of `known` at its start.

    The seam is the place where the known text ends and the model's new text begins. `feed` each piece of the stream and
    show what is returned. Then call `close` once and show the rest. `docs/seam.md` specifies the rules. Invalid
    arguments raise ValueError. `feed` and `close` after `close` raise RuntimeError. No text raises an error.

    >>> seam = Seam('["')
    >>> [seam.feed(piece) for piece in ("[", '"Ala', 'bama"', "]")], seam.close()
    (['', 'Ala', 'bama"', ']'], '')
    >>> seam.verdict
    <Verdict.ECHOED: 'echoed'>
    """

    __slots__ = (
        "_bound",
        "_closing",
        "_finders",
        "_held",
        "_joint",
        "_known_space",
        "_least",
        "_line_end",
        "_overlap_length",
        "_sink",
        "_stripped",
        "_verdict",
        "_want",
        "_whitespace",
    )

    def __init__(
        self,
        known: str,
        *,
        echo: Echo = "maybe",
        whitespace: bool = False,
        fence: bool = False,
        preamble: int = 0,
        overlap: int = 0,
        stripped: str = "",
    ) -> None:
        if echo not in {"maybe", "never"}:
            raise ValueError(f"echo must be 'maybe' or 'never', not {echo!r}")
        if preamble < 0 or overlap < 0:
            raise ValueError(f"preamble and overlap must not be negative: {preamble}, {overlap}")
        if stripped and not (stripped.isspace() and known.endswith(stripped)):
            raise ValueError(f"stripped must be white space that known ends with, not {stripped!r}")
        if echo == "never" and (whitespace or fence or preamble):
            raise ValueError("whitespace, fence and preamble cannot be used with echo='never', which looks for no echo")

        self._bound = 2 * len(known) + SLACK
        self._want = want = known[: len(known) - len(stripped)]
        self._least = overlap
        self._stripped = stripped
        self._whitespace = whitespace
        # the white space that rule 3 calls T
        self._known_space = known[len(known.rstrip()) :] if whitespace else stripped
        #: Whether the white space at the end of the echo contains a line end. If the echo is only white space, the line
        #: end of the opener before it counts too. With `whitespace`, the echo ends with ink, so this is False.
        text = "\n" + ("|" if whitespace else want)
        self._line_end = "\n" in text[len(text.rstrip()) :]

        self._verdict = Verdict.UNDECIDED
        self._overlap_length = 0
        #: number of characters held while undecided
        self._held = 0
        #: the stage for rule 3, once the start of the stream is decided
        self._joint: Joint | None = None
        #: the watch for the closing fence (rule 4), once an opener and the echo were found
        self._closing: Closing | None = None
        #: takes each piece once the start of the stream and the joint are decided
        self._sink: Callable[[str], str] | None = None
        #: the finders that have not failed yet; the current one is first
        self._finders: list[Start | Search | Overlap] = []

        wanted_ink = ink(want)
        if wanted_ink if whitespace else want:
            if echo == "maybe":
                pattern = wanted_ink if whitespace else want
                is_fence = known.lstrip().startswith("```")
                fence = fence and not is_fence
                names_fence = want.lstrip().startswith("```") and len(wanted_ink) > 3
                plain = preamble if len(wanted_ink) >= INK_PLAIN or names_fence else 0
                fenced = preamble if len(wanted_ink) >= INK_FENCED and fence else 0
                self._finders.append(Start(pattern, whitespace=whitespace))
                if fence or plain:
                    chatter = Chatter(fences=is_fence)
                    self._finders.append(
                        Search(pattern, whitespace=whitespace, fence=fence, plain=plain, fenced=fenced, chatter=chatter)
                    )
            if 0 < overlap < len(want):
                self._finders.append(Overlap(want, overlap))
        if not self._finders:
            self._decide(Verdict.ABSENT)
            self._mend("")

    @property
    def verdict(self) -> Verdict:
        """What was found at the start of the stream, as far as it is known."""
        return self._verdict

    @property
    def held(self) -> int:
        """The number of characters that were fed and are neither emitted nor dropped yet."""
        behind = self._closing if self._joint is None or self._joint.over else self._joint
        return self._held if behind is None else behind.held

    @property
    def overlap_length(self) -> int:
        """The number of characters that the overlap (rule 6) dropped; 0 if there was no overlap."""
        return self._overlap_length

    def __repr__(self) -> str:
        return f"<Seam {self._verdict.value}, {self.held} held>"

    def feed(self, piece: str) -> str:
        """Return the text that can be shown now."""
        if self._sink is not None:
            return self._sink(piece)
        if not piece:
            return ""
        if self._verdict is Verdict.UNDECIDED:
            # Count by character, so that the bound (invariant 5) is met at the same place however the stream is cut.
            room = self._bound + 1 - self._held
            rest = self._find(piece[:room])
            if rest is None:
                self._held += min(len(piece), room)
                if self._held <= self._bound:
                    return ""
                rest = self._settle(self._finders[0].text)
            self._held = 0
            piece = rest + piece[room:]
        return self._mend(piece)

    def close(self, cut: bool = False) -> str:
        """End the stream and return the remaining text. With `cut`, the stream broke off, and held text is dropped."""
        if self._sink is _closed:
            _closed("")
        out = ""
        if self._verdict is Verdict.UNDECIDED:
            if cut:
                self._verdict = Verdict.TRUNCATED if self._held else Verdict.ABSENT
            else:
                out = self._mend(self._settle(self._finders[0].text))
        if not cut and self._joint is not None and not self._joint.over:
            out = self._behind_joint(self._joint.close())
        if self._closing is not None:
            out += self._closing.close(cut)
        self._finders.clear()
        self._held = 0
        self._joint = None
        self._closing = None
        self._sink = _closed
        return out

    def _find(self, piece: str) -> str | None:
        """Try the finders in order. Return the text after the match, or None while a match is still possible."""
        while self._finders:
            finder = self._finders[0]
            n = finder.feed(piece)
            if n is not None:
                if isinstance(finder, Search):
                    chatter, opener = finder.match
                    self._decide(Verdict.PREFACED if chatter else Verdict.FENCED, lines=self._whitespace)
                    if opener:
                        self._closing = Closing(self._bound, line_end=self._line_end)
                else:
                    self._decide(Verdict.ECHOED, lines=self._whitespace)
                return piece[n:]
            if finder.alive:
                return None
            piece = finder.text + piece
            del self._finders[0]
        return self._settle(piece)

    def _settle(self, raw: str) -> str:
        """Decide between an overlap (rule 6) and no repetition, after rules 1 to 5 failed. Return the text after it."""
        if self._least:
            self._overlap_length = longest_tail(self._want, raw, self._least)
        self._decide(Verdict.OVERLAPPED if self._overlap_length else Verdict.ABSENT)
        return raw[self._overlap_length :]

    def _decide(self, verdict: Verdict, *, lines: bool = False) -> None:
        """Set the verdict. Prepare the joint (rule 3), which drops white space after the repetition."""
        self._verdict = verdict
        is_echo = verdict not in {Verdict.ABSENT, Verdict.OVERLAPPED}
        self._joint = Joint(self._known_space if is_echo else self._stripped, lines=lines, bound=self._bound)
        self._finders.clear()  # and free the text that they hold

    def _mend(self, text: str) -> str:
        """Pass `text`, which follows the repetition, through the joint. Return what is new of it."""
        assert self._joint is not None
        text = self._joint.feed(text)
        return self._behind_joint(text) if self._joint.over else ""

    def _behind_joint(self, text: str) -> str:
        if self._closing is None:
            self._sink = _through
        else:
            self._closing.line_end |= self._joint is not None and self._joint.dropped_line_end
            self._sink = self._closing.feed
        return self._sink(text)


def gives_all(seam: Seam) -> bool:
    """Whether the seam returns every further piece at once and unchanged."""
    return seam._sink is _through


def holds_chatter_alone(seam: Seam) -> bool:
    """Whether only rule 5 (chatter) holds text: the text contains no part of an echo, an overlap or a fence.

    At a token limit such a text is the model's own, and it is shown (last paragraph of rule 7).

    >>> seam = Seam('["', fence=True, preamble=40)
    >>> seam.feed("I can help you with that.\\n"), holds_chatter_alone(seam)
    ('', True)
    >>> seam.feed("```"), holds_chatter_alone(seam)
    ('', False)
    """
    search = seam._finders[0] if seam._finders else None
    if not isinstance(search, Search) or search.has_begun:
        return False
    for _ in seam._finders[1:]:  # the finder of the overlap, which has not been fed this text yet
        overlap = Overlap(seam._want, seam._least)
        overlap.feed(search.text)
        return not overlap.alive
    return True


def _through(piece: str) -> str:
    return piece


def _closed(_: str) -> str:
    raise RuntimeError("this seam is closed: make a new Seam for each provider stream")

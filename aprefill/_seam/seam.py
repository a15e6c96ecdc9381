"""The seam: what of a provider's stream is new to a text that is already known (`spec/seam.md`).

Three stages: what stands at the front (the finders of `_echo`, in the order of the rules), the joint (`_joint`), and,
after an opening fence only, the watch for the closing one (`_closing`).
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

#: Invariant 5: never are more than ``2 * len(known) + SLACK`` characters held.
SLACK = 8192
#: Whether the text may begin with a repetition of what is known.
Echo: TypeAlias = Literal["maybe", "never"]

#: Rule 5: how much ink a line must match to count as the echo, behind an opener and without one.
INK_FENCED, INK_PLAIN = 2, 16


class Seam:
    """What is new to `known` in one provider's stream: feed it pieces, show what comes back.

    The rules are those of `spec/seam.md`. Arguments that make no sense raise ValueError; `feed` and `close` after
    `close` raise RuntimeError. No text makes it raise.

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
            raise ValueError(f"echo is 'maybe' or 'never', not {echo!r}")
        if preamble < 0 or overlap < 0:
            raise ValueError(f"preamble and overlap count characters, they are not below 0: {preamble}, {overlap}")
        if stripped and not (stripped.isspace() and known.endswith(stripped)):
            raise ValueError(f"stripped is white space at the end of known, not {stripped!r}")
        if echo == "never" and (whitespace or fence or preamble):
            raise ValueError("echo='never' looks for no echo: it goes without whitespace, fence and preamble")

        self._bound = 2 * len(known) + SLACK
        self._want = want = known[: len(known) - len(stripped)]
        self._least = overlap
        self._stripped = stripped
        self._whitespace = whitespace
        # rule 3: T
        self._known_space = known[len(known.rstrip()) :] if whitespace else stripped
        #: whether the white space at the end of an opener and the echo has a line end in it
        text = "\n" + ("|" if whitespace else want)
        self._line_end = "\n" in text[len(text.rstrip()) :]

        self._verdict = Verdict.UNDECIDED
        self._overlap_length = 0
        #: characters held while undecided
        self._held = 0
        #: rule 3, once the front is decided
        self._joint: Joint | None = None
        #: rule 4, once an opener and the echo were found
        self._closing: Closing | None = None
        #: takes the pieces once front and joint are behind us
        self._sink: Callable[[str], str] | None = None
        #: the rules not yet tried, the current one first
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
        return self._verdict

    @property
    def held(self) -> int:
        """Characters fed and neither emitted nor dropped yet."""
        behind = self._closing if self._joint is None or self._joint.over else self._joint
        return self._held if behind is None else behind.held

    @property
    def overlap_length(self) -> int:
        """Characters dropped by rule 6."""
        return self._overlap_length

    def __repr__(self) -> str:
        return f"<Seam {self._verdict.value}, {self.held} held>"

    def feed(self, piece: str) -> str:
        """Give what may be shown now."""
        if self._sink is not None:
            return self._sink(piece)
        if not piece:
            return ""
        if self._verdict is Verdict.UNDECIDED:
            # By character, so that the bound (invariant 5) falls at one place however raw is cut.
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
        """End it, after a clean finish or after a cut, and give what is left to show."""
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
        """Try the rules; give what is left of raw behind what matched, or None while one of them still may."""
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
        """Say what raw is when rules 1 to 5 have failed; give what is left of it."""
        if self._least:
            self._overlap_length = longest_tail(self._want, raw, self._least)
        self._decide(Verdict.OVERLAPPED if self._overlap_length else Verdict.ABSENT)
        return raw[self._overlap_length :]

    def _decide(self, verdict: Verdict, *, lines: bool = False) -> None:
        """Say what stood at the front, and what is dropped behind it (rule 3)."""
        self._verdict = verdict
        is_echo = verdict not in {Verdict.ABSENT, Verdict.OVERLAPPED}
        self._joint = Joint(self._known_space if is_echo else self._stripped, lines=lines, bound=self._bound)
        self._finders.clear()  # with what they hold

    def _mend(self, text: str) -> str:
        """Give what is new of the text behind the front."""
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
    """Whether it gives every further piece at once and as it is."""
    return seam._sink is _through


def holds_chatter_alone(seam: Seam) -> bool:
    """Whether only rule 5 holds text: no part of an echo, an overlap or a fence is in it.

    At a token limit such a text is the model's own, and is shown (rule 7, the last paragraph).

    >>> seam = Seam('["', fence=True, preamble=40)
    >>> seam.feed("I can help you with that.\\n"), holds_chatter_alone(seam)
    ('', True)
    >>> seam.feed("```"), holds_chatter_alone(seam)
    ('', False)
    """
    search = seam._finders[0] if seam._finders else None
    if not isinstance(search, Search) or search.has_begun:
        return False
    for _ in seam._finders[1:]:  # the overlap, which has seen nothing of the text yet
        overlap = Overlap(seam._want, seam._least)
        overlap.feed(search.text)
        return not overlap.alive
    return True


def _through(piece: str) -> str:
    return piece


def _closed(_: str) -> str:
    raise RuntimeError("this seam is closed: one Seam is for one provider stream")

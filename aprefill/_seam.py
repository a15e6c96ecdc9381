"""The seam: what of a provider's stream is new to a text that is already known (`spec/seam.md`).

Three stages: what stands at the front (the finders of `_echo`, in the order of the rules), the joint, and,
after an opening fence only, the watch for the closing one.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Literal

from ._echo import Overlap, Search, Start, agree, ink, longest_tail
from ._types import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Seam", "Verdict")

#: Invariant 5: never are more than ``2 * len(known) + SLACK`` characters held.
SLACK = 8192
#: Rule 5: how much ink a line must match to count as the echo, behind an opener and without one.
INK_FENCED, INK_PLAIN = 2, 16

#: What a closing fence consists of: all that `str.isspace` calls white space (a test compares), and the backtick.
_SOFT = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000`"
)
_IS_SOFT = frozenset(_SOFT)
_RUNS = re.compile(r"\s+|`+")


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
        "_mended",
        "_overlap_length",
        "_sink",
        "_stripped",
        "_verdict",
        "_want",
    )

    def __init__(
        self,
        known: str,
        *,
        echo: Literal["maybe", "never"] = "maybe",
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
        self._known_space = known[len(known.rstrip()) :] if whitespace else stripped
        #: whether the white space at the end of an opener and the echo has a line end in it
        text = "\n" + ("|" if whitespace else want)
        self._line_end = "\n" in text[len(text.rstrip()) :]

        self._verdict = Verdict.UNDECIDED
        self._overlap_length = 0
        #: characters held while undecided
        self._held = 0
        #: rule 3: what is dropped of the text behind the front, and how much of it has been
        self._joint = stripped
        self._mended = 0
        self._closing: _Closing | None = None
        #: takes the pieces once front and joint are behind us
        self._sink: Callable[[str], str] | None = None
        #: the rules not yet tried, the current one first
        self._finders: list[Start | Search | Overlap] = []

        wanted_ink = ink(want)
        if wanted_ink if whitespace else want:
            if echo == "maybe":
                pattern = wanted_ink if whitespace else want
                fence = fence and not known.lstrip().startswith("```")
                is_opener = want.lstrip().startswith("```") and len(wanted_ink) > 3
                plain = preamble if len(wanted_ink) >= INK_PLAIN or is_opener else 0
                fenced = preamble if len(wanted_ink) >= INK_FENCED and fence else 0
                self._finders.append(Start(pattern, whitespace=whitespace))
                if fence or plain:
                    search = Search(pattern, whitespace=whitespace, fence=fence, plain=plain, fenced=fenced)
                    self._finders.append(search)
            if 0 < overlap < len(want):
                self._finders.append(Overlap(want, overlap))
        if not self._finders:
            self._decide(Verdict.ABSENT, stripped)
            self._mend("")

    @property
    def verdict(self) -> Verdict:
        return self._verdict

    @property
    def held(self) -> int:
        """Characters fed and neither emitted nor dropped yet."""
        return self._held if self._closing is None else self._closing.held

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
        if self._closing is not None:
            out = self._closing.close(cut)
        elif self._verdict is Verdict.UNDECIDED:
            if cut:
                self._verdict = Verdict.TRUNCATED if self._held else Verdict.ABSENT
            else:
                out = self._mend(self._settle(self._finders[0].text))
        self._finders.clear()
        self._held = 0
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
                    self._decide(Verdict.PREFACED if chatter else Verdict.FENCED, self._known_space)
                    if opener:
                        self._closing = _Closing(self._bound, line_end=self._line_end)
                else:
                    self._decide(Verdict.ECHOED, self._known_space)
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
        self._decide(Verdict.OVERLAPPED if self._overlap_length else Verdict.ABSENT, self._stripped)
        return raw[self._overlap_length :]

    def _decide(self, verdict: Verdict, joint: str) -> None:
        self._verdict = verdict
        self._joint = joint
        self._finders.clear()  # with what they hold

    def _mend(self, text: str) -> str:
        """Rule 3: drop what of the joint is in known already."""
        n = agree(text, 0, self._joint, self._mended)
        self._mended += n
        if self._closing is not None and "\n" in text[:n]:
            self._closing.line_end = True
        if n == len(text) and self._mended < len(self._joint):
            return ""
        self._sink = _through if self._closing is None else self._closing.feed
        return self._sink(text[n:])


class _Closing:
    """The other end of rule 4: holds what may be the closing fence, with the white space before it.

    What is held is always white space, or white space, up to three backticks and, behind three, white space again.
    """

    __slots__ = ("_after", "_after_line_end", "_bound", "_text", "_ticks", "held", "line_end")

    def __init__(self, bound: int, *, line_end: bool) -> None:
        self._bound = bound
        self._hold("", line_end=line_end)

    def _hold(self, text: str, *, line_end: bool) -> None:
        self._text = io.StringIO(newline="")
        self._text.write(text)
        self.held = len(text)
        #: whether the white space so far, held or dropped, has a line end in it, so that backticks may follow
        self.line_end = line_end
        self._ticks = 0
        #: the white space held behind the backticks: its length, and whether it has a line end in it
        self._after = 0
        self._after_line_end = False

    def _release(self) -> str:
        text = self._text.getvalue()
        self._hold("", line_end=False)
        return text

    def feed(self, piece: str) -> str:
        if not piece:
            return ""
        if piece[-1] not in _IS_SOFT:
            return self._release() + piece if self.held or self.line_end else piece
        # Behind other ink the watch begins anew. Up to there nothing that is held can be the end.
        body = piece.rstrip(_SOFT)
        out = [self._release(), body] if body else []
        for run in _RUNS.findall(piece[len(body) :]):
            out += self._backticks(run) if run[0] == "`" else self._space(run)
        return "".join(out)

    def close(self, cut: bool) -> str:
        return "" if cut or self._ticks == 3 else self._text.getvalue()

    def _space(self, run: str) -> list[str]:
        out = []
        if 0 < self._ticks < 3:
            out.append(self._release())
        start = 0
        while start < len(run):
            part = run[start : start + self._bound + 1 - self.held]
            start += len(part)
            self._text.write(part)
            self.held += len(part)
            if self._ticks:
                self._after += len(part)
                self._after_line_end |= "\n" in part
            else:
                self.line_end |= "\n" in part
            if self.held > self._bound:
                out.append(self._release())
        return out

    def _backticks(self, run: str) -> list[str]:
        out = []
        if self._after:
            # what looked like the end was not, but the white space behind it may stand before the end
            text = self._text.getvalue()
            out.append(text[: -self._after])
            self._hold(text[-self._after :], line_end=self._after_line_end)
        self._text.write(run)
        self.held += len(run)
        self._ticks += len(run)
        if not self.line_end or self._ticks > 3 or self.held > self._bound:
            out.append(self._release())
        return out


def _through(piece: str) -> str:
    return piece


def _closed(_: str) -> str:
    raise RuntimeError("this seam is closed: one Seam is for one provider stream")

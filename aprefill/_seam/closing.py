"""Drops the closing fence of a code fence that was opened before the echo (`docs/seam.md`, rule 4). Pure."""

from __future__ import annotations

import io
import re
from enum import Enum

#: The characters of a closing fence: the backtick, and what `str.isspace` calls white space (a test compares the two).
_SOFT = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000`"
)
_IS_SOFT = frozenset(_SOFT)
_SAME_KIND = re.compile(r"\s+|`+")
_SPACE_OR_TICKS = re.compile(r"[\s`]+")
#: A line end, and the beginning of the next line if that starts, after blanks, with three backticks.
_FENCE_LINE = re.compile(r"\n[^\S\n]*```")


class _State(Enum):
    #: No line has begun with three backticks yet. The first such line decides.
    FIRST = "first"
    #: That line opened a block inside the text. Now only a fence at the end of the text can be the closing fence.
    INNER = "inner"
    #: That line was the closing fence. White space after it is held, because it is dropped if the text ends there.
    CLOSED = "closed"
    #: Other text came after the closing fence. Everything is passed through.
    OVER = "over"


_FIRST, _INNER, _CLOSED, _OVER = _State


class Closing:
    r"""Removes the closing fence from the text after the echo (rule 4): `feed` pieces, then `close` once.

    The held text is white space, or white space and up to three backticks. After three backticks, white space may
    follow. `line_end` says whether the white space so far, held or dropped, contains a line end. If it does, backticks
    begin a line.

    >>> closing = Closing(100, line_end=False)
    >>> [closing.feed(piece) for piece in (" 1;\n`", "``", "\n", "\n", "It is")], closing.close(cut=False)
    ([' 1;', '', '', '', '\n\nIt is'], '')
    """

    __slots__ = ("_after", "_after_line_end", "_bound", "_state", "_text", "_ticks", "held", "line_end")

    def __init__(self, bound: int, *, line_end: bool) -> None:
        self._bound = bound
        self._state = _FIRST
        self._hold("", line_end=line_end)

    def feed(self, piece: str) -> str:
        """Return the text that can be shown now."""
        # The fast path: no held text can be part of the closing fence, and nothing in the piece can begin it.
        state = self._state
        if state is _FIRST:
            if piece and "```" not in piece and piece[-1] not in _IS_SOFT and not self._ticks:
                return self._release() + piece if self.held or self.line_end else piece
        elif state is _INNER:
            if piece and piece[-1] not in _IS_SOFT and self.held + len(piece) <= self._bound:
                return self._release() + piece if self.held or self.line_end else piece
        elif state is _OVER:
            return piece
        return self._take(piece)

    def close(self, cut: bool) -> str:
        """End the stream and return the remaining text. With `cut`, the stream broke off, and held text is dropped."""
        return "" if cut or self._ticks == 3 else self._text.getvalue()

    def _hold(self, text: str, *, line_end: bool) -> None:
        self._text = io.StringIO(newline="")
        self._text.write(text)
        self.held = len(text)
        self.line_end = line_end
        #: number of backticks held
        self._ticks = 0
        #: the white space held after the backticks: its length, and whether it contains a line end
        self._after = 0
        self._after_line_end = False

    def _release(self) -> str:
        if not self.held:
            self.line_end = False
            return ""
        text = self._text.getvalue()
        self._hold("", line_end=False)
        return text

    def _overflow(self) -> str:
        """Release the held text, because it is longer than the bound (invariant 5)."""
        self._state = _OVER if self._state is _CLOSED else _FIRST
        return self._release()

    def _take(self, piece: str) -> str:
        out: list[str] = []
        at = 0
        while at < len(piece):
            if self._state is _OVER:
                out.append(piece[at:])
                break
            found = _SAME_KIND.match(piece, at)
            if found is None:
                out.append(self._not_closing())
                start, at = at, self._next_doubtful(piece, at)
                out.append(piece[start:at])
            else:
                at = found.end()
                out += self._backticks(found[0]) if found[0][0] == "`" else self._space(found[0])
        return "".join(out)

    def _not_closing(self) -> str:
        """Release the held text, because other ink or a fourth backtick follows: it is not a closing fence."""
        if self._state is _CLOSED:
            self._state = _OVER
        elif self._ticks >= 3:
            self._state = _INNER
        return self._release()

    def _next_doubtful(self, piece: str, at: int) -> int:
        """Return the next position after `at` where the closing fence may begin. At `at` there is ink."""
        if self._state is _OVER:
            return len(piece)
        if self._state is _FIRST and piece.find("```", at) > 0 and (found := _FENCE_LINE.search(piece, at)):
            return at + len(piece[at : found.start()].rstrip())
        if self._state is _INNER and len(piece) - at > self._bound:
            for span in _SPACE_OR_TICKS.finditer(piece, at):
                if span.end() - span.start() > self._bound:
                    # This run of white space and backticks is longer than the bound. So it may not be possible to hold
                    # all of it. Then it is released, and the search for a closing fence starts again (`_overflow`).
                    return span.start()
        return len(piece.rstrip(_SOFT))

    def _space(self, span: str) -> list[str]:
        out = []
        if 0 < self._ticks < 3:
            out.append(self._not_closing())
        start = 0
        while start < len(span):
            if self._state is _OVER:
                out.append(span[start:])
                break
            # Count by character, so that the bound is met at the same place however the text is cut.
            part = span[start : start + self._bound + 1 - self.held]
            if self._state is _FIRST and self._ticks == 3 and "\n" in part:
                line_end = part.index("\n")
                start += line_end + 1
                self._text.write(part[:line_end])
                self._end_line()
            else:
                start += len(part)
                self._text.write(part)
                self.held += len(part)
                if self._ticks:
                    self._after += len(part)
                    self._after_line_end |= "\n" in part
                else:
                    self.line_end |= "\n" in part
            if self.held > self._bound:
                out.append(self._overflow())
        return out

    def _end_line(self) -> None:
        """Handle the line end after the closing fence: drop the held text, and hold the line end (LF or CRLF)."""
        self._hold("\r\n" if self._text.getvalue()[-1] == "\r" else "\n", line_end=False)
        self._ticks = 3  # so that `close` drops what is held and `feed` looks at every piece
        self._state = _CLOSED

    def _backticks(self, span: str) -> list[str]:
        out = []
        if self._state is _CLOSED or (self._state is _FIRST and self._after):
            return [self._not_closing(), span]
        if self._after:
            # The held backticks were not the closing fence, but the white space after them may come before it.
            text = self._text.getvalue()
            out.append(text[: -self._after])
            self._hold(text[-self._after :], line_end=self._after_line_end)
        if not self.line_end:
            return [*out, self._release(), span]
        wanted = min(len(span), 3 - self._ticks)
        if self.held + wanted > self._bound:
            return [*out, self._overflow(), span]
        self._text.write(span)
        self.held += len(span)
        self._ticks += len(span)
        if self._ticks > 3:
            out.append(self._not_closing())
        return out

"""The joint, where the echo meets the new text: drops white space that known already has (`docs/seam.md`, rule 3)."""

from __future__ import annotations

import io

from .finders import agree


class Joint:
    r"""Drops white space after the repetition if known already ends with the same white space. Pure.

    `feed` pieces until it is `over`.

    `space` is the white space at the end of known. It is dropped as far as the text begins with it. With `lines`, line
    ends are matched with line ends instead, and the blanks around them may differ. For this, white space is held as
    long as a matching line end may follow.

    >>> joint = Joint(" \n", lines=True, bound=100)
    >>> [joint.feed(piece) for piece in (" ", " ", "\n", "I'm")], joint.over
    (['', '', '', "I'm"], True)
    """

    __slots__ = ("_agreed", "_bound", "_lines", "_space", "_tail", "_text", "dropped_line_end", "held", "over")

    def __init__(self, space: str, *, lines: bool, bound: int) -> None:
        #: number of line ends that may still be matched
        self._lines = space.count("\n") if lines else 0
        # Before the first line end of the text, only the blanks before the first line end of `space` can agree. After
        # the last matched line end, only the blanks after the last line end of `space` can agree.
        self._space = space[: space.index("\n")] if self._lines else space
        self._tail = space[space.rindex("\n") + 1 :] if self._lines else ""
        #: number of characters of `_space` that the text has agreed with
        self._agreed = 0
        self._bound = bound
        self._text = io.StringIO(newline="")
        #: number of characters fed and neither dropped nor returned yet
        self.held = 0
        self.dropped_line_end = False
        self.over = not space

    def feed(self, text: str) -> str:
        """Return the part of the held text and of `text` that is not dropped; ``""`` while that is not known."""
        at = 0
        if self._lines:
            blank = len(text) - len(text.lstrip())
            while self._lines:
                line_end = text.find("\n", at, blank)
                stop = blank if line_end < 0 else line_end
                if not self.held:
                    at += self._agree(text, at)
                if self.held + stop - at > self._bound:
                    return self._end(text[at:])  # invariant 5
                if line_end < 0:
                    if blank < len(text):
                        return self._end(text[at:])
                    self._text.write(text[at:])
                    self.held += len(text) - at
                    return ""
                at = line_end + 1
                self._match_line_end()
        n = self._agree(text, at)
        if at + n < len(text) or self._agreed == len(self._space):
            return self._end(text[at + n :])
        return ""

    def _agree(self, text: str, at: int) -> int:
        n = agree(text, at, self._space, self._agreed)
        self._agreed += n
        self.dropped_line_end = self.dropped_line_end or "\n" in text[at : at + n]
        return n

    def _match_line_end(self) -> None:
        """Drop a line end that matches, with the blanks that are held before it."""
        self._lines -= 1
        self._space = "" if self._lines else self._tail
        self._agreed = 0
        self._text = io.StringIO(newline="")
        self.held = 0
        self.dropped_line_end = True

    def _end(self, rest: str) -> str:
        self.over = True
        rest = self._text.getvalue() + rest
        self.held = 0
        return rest

    def close(self) -> str:
        """End the joint and return what is held."""
        return self._end("")

"""Chatter: the text that may come before the line that starts the echo (`docs/seam.md`, rule 5). Pure."""

from __future__ import annotations


class Chatter:
    """Decides at each line end whether the text so far is chatter.

    Chatter is at most one line with ink (characters other than white space), and any number of blank lines. The line
    with ink must not begin with three backticks. `fences` is for a known text that begins with three backticks itself.
    Then the line with ink may begin with them. And lines that have no other ink than three backticks are allowed in any
    number, like blank lines.

    >>> chatter = Chatter(fences=False)
    >>> [chatter.feed(line) for line in ("Sure", ":\\n", "\\n", "It is")], chatter.alive
    ([False, True, True, False], False)
    """

    __slots__ = ("_fences", "_has_line", "_shape", "alive", "to_go")

    def __init__(self, *, fences: bool) -> None:
        self._fences = fences
        # whether a line with ink is complete
        self._has_line = False
        # The kind of the current line. It depends on the text of the line from its first ink on:
        #   ""           no ink yet
        #   "`", "``"    one or two backticks so far, which may become three
        #   "```"        three backticks
        #   "``` "       three backticks, then white space
        #   "```x"       three backticks, then other ink
        #   "x"          anything else
        self._shape = ""
        #: whether the text may still be chatter at a later line end
        self.alive = True
        #: if so, the least number of characters until that line end
        self.to_go = 1

    def feed(self, line: str) -> bool:
        """Take a line or a part of it, with a line end only as its last character. Return whether chatter ends here."""
        if not self.alive:
            return False
        shape = self._shape = _shape(self._shape, line)
        is_bare = shape in {"```", "``` "}
        self.to_go = 1
        if self._has_line:
            self.alive = not shape or (self._fences and (is_bare or shape in {"`", "``"}))
            if shape in {"`", "``"}:
                self.to_go += 3 - len(shape)
        elif not self._fences:
            self.alive = shape[:3] != "```"
        if not self.alive or line[-1] != "\n":
            return False
        self._has_line = self._has_line or (shape != "" and not is_bare)
        self._shape = ""
        self.to_go = 1
        return True


def _shape(shape: str, more: str) -> str:
    if shape in {"x", "```x"}:
        return shape
    text = (shape + more).lstrip()
    if text in {"", "`", "``", "```"}:
        return text
    if text[:3] != "```":
        return "x"
    return "``` " if not text[3:].strip() else "```x"

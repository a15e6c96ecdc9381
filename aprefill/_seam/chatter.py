"""What may stand before the line that starts the echo (`spec/seam.md`, rule 5). Pure."""

from __future__ import annotations


class Chatter:
    """Says at which line ends the text so far is chatter: at most one line with ink, and any number of blank lines.

    That line does not begin with three backticks. With `fences`, for a known text that begins with three itself, it may,
    and lines of nothing but three backticks are not counted.

    >>> chatter = Chatter(fences=False)
    >>> [chatter.feed(line) for line in ("Sure", ":\\n", "\\n", "It is")], chatter.alive
    ([False, True, True, False], False)
    """

    __slots__ = ("_fences", "_has_line", "_shape", "alive", "to_go")

    def __init__(self, *, fences: bool) -> None:
        self._fences = fences
        # a line with ink is complete
        self._has_line = False
        # the current line, without the white space before its ink, as far as it matters: "`" and "``" may become three
        # backticks, "``` " is three and blanks, "x" any other ink
        self._shape = ""
        #: some line end to come may still be one
        self.alive = True
        #: if so, how many characters there are at least until then
        self.to_go = 1

    def feed(self, line: str) -> bool:
        """Take a line, or a part of one: only its last character may be a line end. Say whether chatter ends here."""
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

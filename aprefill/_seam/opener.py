"""A second seam for a known text that is only the opener of a code fence, such as "```python" and a line end. Pure."""

from __future__ import annotations

import re

from .._types import Verdict

#: A text that is an opener and nothing more.
_IS_OPENER = re.compile(r"\s*```[^`\r\n]*\s*")
#: An opener of any language. It may come after chatter, which is one line with ink, as in rule 5 of `docs/seam.md`.
#: There it must name a language, because a bare fence may be the closing fence of the model's own text.
_FOUND = re.compile(
    r"\s*```[^`\r\n]{0,64}(?P<end>\r?\n)"
    r"|(?P<chatter>\s*[^`\s][^`\n]*\n)\s*```[^`\s][^`\r\n]{0,63}(?P<late_end>\r?\n)"
)
#: Text that may still become such an opener.
_OPENING = re.compile(
    r"\s*(?:`{0,2}|```[^`\r\n]{0,64}\r?)"
    r"|(?P<chatter>\s*[^`\s][^`\n]*(?:\n|(?P<line>\Z)))\s*(?:`{0,2}|```(?:[^`\s][^`\r\n]{0,63}\r?)?)"
)
#: Fewer characters than this are held.
_BOUND = 270


def is_opener(known: str) -> bool:
    """Whether `known` is the opener of a code fence and nothing else.

    >>> is_opener("```python\\n"), is_opener("```python\\nimport")
    (True, False)
    """
    return _IS_OPENER.fullmatch(known) is not None


class FenceOpenerSeam:
    """Accepts an opener of another language as the echo: ```` ```py ```` if ```` ```python ```` was asked for.

    `feed`, `close`, `verdict` and `held` work as in `Seam`. This class is used only if the prompt asked for the echo,
    and only where `Seam` finds no repetition (see `FallbackSeam`). So the rules of `docs/seam.md` hold unchanged for
    every `Seam`.

    The class follows from rule 4, which drops an opener with any info string of up to 64 characters before the echo.
    Here the opener is all that was asked for. So no echo can follow it, and the opener itself counts as the echo. Only
    this line is dropped, and before it the chatter that rule 5 allows.

    Of 26 real replies to such a prefill, 12 repeated it, 5 began with an opener of another language, and 5 began with a
    bare opener. Without this class, the last two kinds would open a fence inside the fence. A stop sequence of three
    backticks would then end the reply before its first line.

    >>> seam = FenceOpenerSeam("```python\\n")
    >>> [seam.feed(piece) for piece in ("Sure:\\n``", "`py\\n", "print()")], seam.verdict.value
    (['', '', 'print()'], 'prefaced')
    """

    def __init__(self, known: str, preamble: int = 120) -> None:
        # whether known lacks the line end after the opener, so that the model's line end is new text
        self._keeps_line_end = not known.rstrip(" \t").endswith("\n")
        # maximum number of characters of the chatter
        self._preamble = preamble
        self._raw = ""
        self.verdict = Verdict.UNDECIDED

    @property
    def held(self) -> int:
        """The number of characters that were fed and are neither emitted nor dropped yet."""
        return len(self._raw)

    @property
    def holds_chatter_alone(self) -> bool:
        """Whether the held text may be chatter and contains no part of an opener."""
        return self._raw.strip() != "" and "`" not in self._raw

    def feed(self, piece: str) -> str:
        """Return the text that can be shown now."""
        if self.verdict is not Verdict.UNDECIDED:
            return piece
        self._raw += piece
        # Do not match beyond the bound. Otherwise the result would depend on how the text is cut.
        found = _FOUND.match(self._raw, 0, _BOUND)
        if found is not None and len(found["chatter"] or "") <= self._preamble:
            end = "end" if found["chatter"] is None else "late_end"
            at = found.start(end) if self._keeps_line_end else found.end(end)
            return self._decide(Verdict.ECHOED if found["chatter"] is None else Verdict.PREFACED, at)
        return "" if self._may_match() else self._decide(Verdict.ABSENT, 0)

    def _may_match(self) -> bool:
        found = _OPENING.fullmatch(self._raw) if len(self._raw) < _BOUND else None
        if found is None or found["chatter"] is None:
            return found is not None
        # a line that has not ended needs at least one more character, its line end
        return len(found["chatter"]) + (found["line"] is not None) <= self._preamble

    def close(self, cut: bool = False) -> str:
        """End the stream and return the remaining text. With `cut`, the stream broke off, and held text is dropped."""
        if self.verdict is not Verdict.UNDECIDED:
            return ""
        if cut:
            return self._decide(Verdict.TRUNCATED if self._raw else Verdict.ABSENT, len(self._raw))
        return self._decide(Verdict.ABSENT, 0)

    def _decide(self, verdict: Verdict, at: int) -> str:
        self.verdict = verdict
        rest, self._raw = self._raw[at:], ""
        return rest

"""The opener of a code fence, where the known text is one. Pure."""

from __future__ import annotations

import re

from .._types import Verdict

#: A text that is an opener and no more, such as "```python" and a line end.
_IS_OPENER = re.compile(r"\s*```[^`\r\n]*\s*")
#: An opener of any language. It may stand behind chatter, which is one line with ink, as in rule 5 of `spec/seam.md`;
#: there it must name a language, for a bare one may close what the model's own text goes on with.
_FOUND = re.compile(
    r"\s*```[^`\r\n]{0,64}(?P<end>\r?\n)"
    r"|(?P<chatter>\s*[^`\s][^`\n]*\n)\s*```[^`\s][^`\r\n]{0,63}(?P<late_end>\r?\n)"
)
#: What may still become one.
_OPENING = re.compile(
    r"\s*(?:`{0,2}|```[^`\r\n]{0,64}\r?)"
    r"|(?P<chatter>\s*[^`\s][^`\n]*(?:\n|(?P<line>\Z)))\s*(?:`{0,2}|```(?:[^`\s][^`\r\n]{0,63}\r?)?)"
)
_BOUND = 270


def is_opener(known: str) -> bool:
    """Whether `known` opens a code fence and says nothing else.

    >>> is_opener("```python\\n"), is_opener("```python\\nimport")
    (True, False)
    """
    return _IS_OPENER.fullmatch(known) is not None


class FenceOpenerSeam:
    """Takes another language's opener for the echo of the one that was asked for: ```` ```py ```` for ```` ```python ````.

    `feed`, `close`, `verdict` and `held` are a seam's. It is asked only about a reply to a request for the echo, and only
    where the seam itself has found nothing (`Either`), so the rules of `spec/seam.md` hold for every `Seam` as they stand.
    It rests on rule 4: an opener with any info string of up to 64 characters, and its line end, is dropped before the
    echo. Here the opener is all that was asked for, so no echo can follow it, and it is one itself. Nothing but that line
    is dropped, and the chatter before it as rule 5 allows. Of 26 real replies to such a prefill 12 repeated it, 5 began
    with another language's opener and 5 with a bare one. Without this they would open a fence inside the fence, and a stop
    sequence of three backticks would end them before their first line.

    >>> seam = FenceOpenerSeam("```python\\n")
    >>> [seam.feed(piece) for piece in ("Sure:\\n``", "`py\\n", "print()")], seam.verdict.value
    (['', '', 'print()'], 'prefaced')
    """

    def __init__(self, known: str, preamble: int = 120) -> None:
        # the line end behind the opener is known's, or else the first new text
        self._keeps_line_end = not known.rstrip(" \t").endswith("\n")
        # how many characters the chatter may have
        self._preamble = preamble
        self._raw = ""
        self.verdict = Verdict.UNDECIDED

    @property
    def held(self) -> int:
        """Characters fed and neither emitted nor dropped yet."""
        return len(self._raw)

    @property
    def holds_chatter_alone(self) -> bool:
        """Whether text is held that may be chatter, and no part of an opener is in it."""
        return self._raw.strip() != "" and "`" not in self._raw

    def feed(self, piece: str) -> str:
        """Give what may be shown now."""
        if self.verdict is not Verdict.UNDECIDED:
            return piece
        self._raw += piece
        # no further than the bound, or a match would depend on how the text is cut
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
        # a line that has not ended needs at least its line end
        return len(found["chatter"]) + (found["line"] is not None) <= self._preamble

    def close(self, cut: bool = False) -> str:
        """End it, after a clean finish or after a cut, and give what is left to show."""
        if self.verdict is not Verdict.UNDECIDED:
            return ""
        if cut:
            return self._decide(Verdict.TRUNCATED if self._raw else Verdict.ABSENT, len(self._raw))
        return self._decide(Verdict.ABSENT, 0)

    def _decide(self, verdict: Verdict, at: int) -> str:
        self.verdict = verdict
        rest, self._raw = self._raw[at:], ""
        return rest

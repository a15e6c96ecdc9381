"""Finders: they find where the repetition at the start of a stream ends (`docs/seam.md`, rules 1, 2, 4, 5 and 6).

The three finders `Start`, `Search` and `Overlap` are tried one after the other, each on all of the stream's text, which
is called raw. They look for `want`: the known text as it was sent to the provider. Each finder is fed pieces. `feed`
returns how many characters of the piece belong to the match, or None without a match. Once `alive` is False, the finder
can never match. `text` is what the finder was fed, without the piece that ended its last chance to match.

The cost of all finders is linear in the text fed, however it is cut. So no text is compared twice from its beginning.
If one candidate fails, the next one is taken from the borders of the text that matched (Knuth, Morris and Pratt).
"""

from __future__ import annotations

import io
import re
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .chatter import Chatter

#: Rule 4: an opener is three backticks, an info string and a line end. The caller removes white space before it.
_OPENER = re.compile(r"```[^`\r\n]{0,64}\r?\n")
#: Text that may still become an opener.
_OPENING = re.compile(r"`{0,2}|```[^`\r\n]{0,64}\r?")
#: Flags: what comes before a place in `Search`.
_CHATTER, _OPENED = 2, 1


def ink(text: str) -> str:
    """Return `text` without its white space."""
    if len(text) > 4096:  # a list of all its words would take ten times the memory of the text
        return "".join([ink(text[i : i + 4096]) for i in range(0, len(text), 4096)])
    return "".join(text.split())


def agree(text: str, i: int, pattern: str, q: int) -> int:
    """Return the length of the longest common prefix of ``text[i:]`` and ``pattern[q:]``.

    The time depends on this length only, and not on the lengths of `text` and `pattern`.

    >>> agree("say abcd", 4, "xxabce", 2)
    3
    """
    if not i and pattern.startswith(text, q):
        return len(text)  # this is by far the most frequent case, and it copies nothing
    most = min(len(text) - i, len(pattern) - q)
    n = 0
    step = min(most, 64)
    while step and text[i + n : i + n + step] == pattern[q + n : q + n + step]:
        n += step
        step = min(2 * step, most - n)
    wrong = n + step  # the first n characters agree, the first `wrong` characters do not
    while wrong - n > 1:
        middle = (n + wrong) // 2
        if text[i + n : i + middle] == pattern[q + n : q + middle]:
            n = middle
        else:
            wrong = middle
    return n


class _Borders:
    """The longest border (proper prefix that is also a suffix) of each prefix of `pattern`, computed on demand."""

    __slots__ = ("_pattern", "_table")

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._table = array("I", (0, 0))  # four bytes per character; a list of ints would take 36

    def of(self, length: int) -> int:
        """Return the length of the longest border of ``pattern[:length]``."""
        pattern, table = self._pattern, self._table
        border = table[-1]
        for i in range(len(table) - 1, length):
            c = pattern[i]
            while border and pattern[border] != c:
                border = table[border]
            border += pattern[border] == c
            table.append(border)
        return table[length]


def longest_tail(want: str, raw: str, least: int) -> int:
    """Return the largest k with ``least <= k < len(want)`` for which `raw` starts with ``want[-k:]``, or 0 (rule 6).

    >>> longest_tail("xabab", "ababab", 2), longest_tail("xabab", "abb", 2), longest_tail("xabab", "bb", 2)
    (4, 2, 0)
    """
    most = min(len(raw), len(want) - 1)
    if most < least:
        return 0
    text, pattern = want[-most:], raw[:most]
    seed = pattern[:least]
    borders = _Borders(pattern)
    i = q = 0
    while True:
        if not q:
            i = text.find(seed, i)
            if i < 0:
                return 0
        n = agree(text, i, pattern, q)
        i += n
        q += n
        if i == len(text):
            return q if q >= least else 0
        q = borders.of(q)


def safe_overlap(known: str, least: int, most: int = 120) -> int:
    """Return the shortest overlap that counts: `least`, or more if known repeats itself at its end; 0 if none counts.

    A model that continues a text that repeats itself, such as a row of zeros, writes the end of known as new text. So
    an overlap does not count if it also occurs earlier in known, or if it is one piece repeated several times. Overlaps
    longer than `most` are not examined: if the last `most` characters also occur earlier in known, no overlap counts.

    >>> safe_overlap("Sure! The capital of France is", 16)
    16
    >>> safe_overlap("- a line of a list\\n" * 3 + "- another line of a list\\n", 16), safe_overlap("0" * 300, 16)
    (17, 0)
    """

    def is_unique(length: int) -> bool:
        return known.find(known[-length:]) == len(known) - length

    most = min(most, len(known) - 1)
    lengths = range(least, most + 1)
    overlap = least + bisect_left(lengths, True, key=is_unique)  # a text that ends with a unique text is unique too
    for size in range(1, overlap):
        times = max(2, -(-overlap // size))  # the least number of pieces of this size that could be an overlap
        while size * times <= most and known.endswith(known[-size:] * times):
            overlap = size * times + 1
            times += 1
    return overlap if overlap <= most else 0


class Start:
    """Rules 1 and 2: finds the echo at the very start of raw. With `whitespace`, `want` contains no white space."""

    __slots__ = ("_held", "_n", "_want", "alive")

    def __init__(self, want: str, *, whitespace: bool) -> None:
        self._want = want
        self._n = 0
        self._held = io.StringIO(newline="") if whitespace else None
        self.alive = True

    @property
    def text(self) -> str:
        # the beginning of an exact echo is always want[:n], so storing n is enough
        return self._want[: self._n] if self._held is None else self._held.getvalue()

    def feed(self, piece: str) -> int | None:
        text = piece if self._held is None else ink(piece)
        n = agree(text, 0, self._want, self._n)
        if self._n + n == len(self._want):
            return n if self._held is None else _after_ink(piece, n)
        self.alive = n == len(text)
        if self.alive:
            self._n += n
            if self._held is not None:
                self._held.write(piece)
        return None


class Search:
    """Rules 4 and 5: finds the echo after an opener or after chatter, if it is not at the start of raw.

    The echo may begin at several *places*: after an opener, and where chatter ends within the first `plain` characters.
    An opener may begin at the start of raw (if `fence`), and where chatter ends within the first `fenced` characters.
    Rule 5 asks for the first place at which an echo begins. That is the place at which an echo is complete first: the
    echo is the same text at every place, so an echo that begins earlier also ends earlier.

    After a match, `match` says what came before the echo: (chatter, an opener).
    """

    __slots__ = (
        "_behind",
        "_chatter",
        "_count",
        "_fenced",
        "_head",
        "_held",
        "_limit",
        "_places",
        "_plain",
        "_whitespace",
        "alive",
    )

    def __init__(self, want: str, *, whitespace: bool, fence: bool, plain: int, fenced: int, chatter: Chatter) -> None:
        self._whitespace = whitespace
        self._plain = plain
        self._fenced = fenced
        self._limit = max(plain, fenced)
        self._places = _Places(want)
        self._held = io.StringIO(newline="")
        self._count = 0
        #: the current line from its first ink on, while it may become an opener; None: it cannot be an opener
        self._head: str | None = "" if fence else None
        #: what comes before that opener: 0 (nothing) or `_CHATTER`
        self._behind = 0
        self._chatter = chatter
        self.alive = fence or self._limit > 0

    @property
    def text(self) -> str:
        return self._held.getvalue()

    @property
    def match(self) -> tuple[bool, bool]:
        return self._places.label & _CHATTER > 0, self._places.label & _OPENED > 0

    @property
    def has_begun(self) -> bool:
        """Whether the text contains a part of an echo or of an opener, and not only possible chatter."""
        opens = self._head is not None and (self._head != "" or not self._behind)
        return opens or self._places.has_begun

    def feed(self, piece: str) -> int | None:
        start = 0
        while start < len(piece):
            stop = piece.find("\n", start) + 1 or len(piece)
            n = self._line(piece[start:stop])
            if n is not None:
                return start + n
            if not self.alive:
                return None
            start = stop
        self._held.write(piece)
        return None

    def _line(self, line: str) -> int | None:
        """Take a line or a part of it, with a LF only as its last character. Return what `feed` returns."""
        if self._places.alive:
            n = self._places.feed(ink(line) if self._whitespace else line)
            if n is not None:
                return _after_ink(line, n) if self._whitespace else n
        self._count += len(line)
        if self._head is not None and self._opener(self._head, line):
            self._places.add(self._behind | _OPENED)
        if self._chatter.feed(line):
            if self._count <= self._plain:
                self._places.add(_CHATTER)
            if self._head is None and self._count <= self._fenced:
                self._head = ""
                self._behind = _CHATTER
        may_end = self._chatter.alive and self._count + self._chatter.to_go <= self._limit
        self.alive = may_end or self._places.alive or self._head is not None
        return None

    def _opener(self, head: str, line: str) -> bool:
        """Return whether `line` completes an opener. Store text that may still become one."""
        head = head + line if head else line.lstrip()
        self._head = head if _OPENING.fullmatch(head) else None
        return self._head is None and _OPENER.fullmatch(head) is not None


class _Places:
    """Finds the pattern at one of several places in a text. The first place that matches counts.

    `add` makes the end of the text fed so far a place, with a label of 0 to 3. Of two places at one position, the first
    one counts.
    """

    __slots__ = ("_at", "_borders", "_first", "_later", "_pattern", "_q", "alive", "label")

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._borders = _Borders(pattern)
        self._at = 0  # number of characters fed
        # The current place is the first one that may still match. This is the number of characters that agree there.
        self._q = 0
        #: the later places, as 4 * place + label; an array, because every second character may be a place
        self._later = array("Q")
        self._first = 0  # index of the first of them that may still match
        self.alive = False
        self.label = 0

    @property
    def has_begun(self) -> bool:
        """Whether a part of the pattern, or an opener before it, was found at a place that may still match."""
        return self.alive and (self._q > 0 or self.label & _OPENED > 0)

    def add(self, label: int) -> None:
        if not self.alive:
            self.alive = True
            self.label = label
            self._q = 0
            del self._later[:]
            self._first = 0
        elif self._q and (self._first == len(self._later) or self._later[-1] >> 2 != self._at):
            self._later.append(4 * self._at + label)

    def feed(self, text: str) -> int | None:
        """Return the number of characters of `text` that complete the pattern, or None if they do not."""
        i = 0
        while self.alive:
            n = agree(text, i, self._pattern, self._q)
            i += n
            self._q += n
            if self._q == len(self._pattern):
                return i
            if i == len(text):
                break
            self._fall_back(self._at + i)
        self._at += len(text)
        return None

    def _fall_back(self, at: int) -> None:
        """Go on to the next place before `at` where the pattern may begin."""
        later, head, q = self._later, self._first, self._q
        while q and head < len(later):
            q = self._borders.of(q)
            while head < len(later) and later[head] >> 2 < at - q:
                head += 1
            if head < len(later) and later[head] >> 2 == at - q:
                self._q = q
                self.label = later[head] & 3
                self._first = head + 1
                if self._first > 4096 and 2 * self._first > len(later):
                    del later[: self._first]
                    self._first = 0
                return
        self.alive = False


class Overlap:
    """Rule 6: says whether the overlap may still grow (`alive`).

    It may grow while raw so far occurs somewhere in `want` after its start, and does not reach the end of `want` there.
    Once `alive` is False, `longest_tail` says how much of raw is dropped.
    """

    __slots__ = ("_at", "_least", "_n", "_want", "alive")

    def __init__(self, want: str, least: int) -> None:
        self._want = want
        self._least = least
        self._at = 0  # the first position in want after its start where raw occurs; 0: not searched yet
        self._n = 0
        self.alive = True

    @property
    def text(self) -> str:
        return self._want[self._at : self._at + self._n]

    def feed(self, piece: str) -> None:
        want = self._want
        n = self._n + len(piece)
        last = min(len(want) - n - 1, len(want) - self._least)
        at = self._at
        if at > last or not (at and want.startswith(piece, at + self._n)):
            # The cost of all calls together is linear, although each search reads all of raw again. The period of raw
            # is the smallest number p > 0 for which every character of raw equals the one p characters before it. The
            # next position where raw occurs is at least p characters further on. This pays for a search while raw is
            # shorter than 2 * p. A longer raw is searched only in one call each time that new text ends its period.
            at = want.find(self.text + piece, at + 1, last + n) if at < last else -1
        self.alive = at > 0
        if self.alive:
            self._at = at
            self._n = n


def _after_ink(text: str, n: int) -> int:
    """Return the position in `text` after its n-th ink character. n is at least 1 and at most their number."""
    end = 0
    for word in re.finditer(r"\S+", text):
        end = word.end()
        n -= end - word.start()
        if n <= 0:
            break
    return end + n

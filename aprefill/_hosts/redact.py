"""Removes secrets from the words of others: keys, header values, and text that the caller wrote. Pure.

Nothing here runs before something has failed. An error is short and a prompt may be long, so the error is indexed. The
prompt is read once, four characters at a time. The work is proportional to the sum of both lengths.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: A run of characters in an error is replaced if the request contains it too and it has at least this length. A blank
#: between two words counts as one character if the error or the request has it.
MATCH_MIN = 16
#: A whole text of the caller is replaced in an error if it has at least this length, in characters.
WHOLE_MIN = 12
#: If an error ends with this many first characters of a secret, they are taken for a secret that a limit has cut.
TAIL_MIN = 6
#: Only this many characters of an error are examined. The rest is dropped, because unexamined text cannot be shown.
LOOKED_AT = 8192

# Every run of MATCH_MIN characters has at least _GRAM characters other than white space. Every run of _GRAM such
# characters contains a block of _STEP characters whose offset in the prompt is a multiple of _STEP.
_GRAM = 8
_STEP = 4
#: Maximum comparison steps per character of the prompt and of the error. After that, every shared run of _GRAM
#: characters is replaced. So texts that are made to share very many short runs lose too much, never too little.
_EFFORT = 4

_HEX = "[0-9a-fA-F]"
#: An escape of JSON, of `repr`, or of both one after the other, in upper or lower case. Or backslashes without an
#: escape. The two surrogates of one character are one escape, and so are the bytes of one character.
_ESCAPE = re.compile(
    rf"\\+(?:[uU]([dD][89abAB]{_HEX}{{2}})\\+[uU]([dD][c-fC-F]{_HEX}{{2}})|U({_HEX}{{8}})|[uU]({_HEX}{{4}})"
    rf"|([xX]{_HEX}{{2}}(?:\\+[xX]{_HEX}{{2}})*)|([0abfnrtvABFNRTV]))?"
)
# An escape whose beginning or end was cut off by a limit. `_ESCAPE` only matches whole escapes. So here each surrogate
# and each byte counts by itself. A whole character is written as two surrogates or as up to four bytes.
_PART = rf"(?:\\+(?:[uU][dD][89a-fA-F]{_HEX}{{2}}|[xX][89a-fA-F]{_HEX}))"
# Digits without a backslash are part of an escape only directly before the text that was found. If white space is in
# between, they may be a number from the host, so they are kept.
_CUT_BEFORE = re.compile(rf"(?<![0-9A-Za-z\\])(?:(?:[uUxX]?{_HEX}{{1,8}})?{_PART}{{1,3}}\s?|[uUxX]?{_HEX}{{1,8}})\Z")
_CUT_AFTER = re.compile(
    rf"\s?(?:{_PART}{{1,3}}(?:\\+(?:[uU]{_HEX}{{0,7}}|[xX]{_HEX}?)?)?"
    rf"|\\+(?:[uU]{_HEX}{{0,7}}|[xX]{_HEX}?))(?![0-9A-Za-z])"
)
_TOKEN = re.compile(_ESCAPE.pattern + "|.", re.DOTALL)
#: Down to this depth (the parts of a message), values of ``type`` and ``role`` are words of the API, not the caller's.
_API_DEPTH = 3
_API_WORD = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_API_NAME = re.compile(r"[A-Za-z0-9_.$-]{1,40}")
#: Inside these fields, the names of fields are the caller's.
_NAMED_BY_CALLER = {"properties", "$defs", "definitions", "patternProperties"}


def written(value: Any) -> list[str]:
    """Return what the caller wrote in a JSON value, in order: every string, and names that the caller chose.

    Words of the API are left out: the names of its fields, and the values of ``type`` and ``role`` in messages and
    tools.

    >>> written([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
    ['Hi']
    >>> written({"type": "object", "properties": {"pet_name": {"type": "string", "enum": ["Rex"]}}})
    ['pet_name', 'Rex']
    """
    found: list[str] = []
    # (value, depth, whether the names in it are the caller's)
    todo: list[tuple[Any, int, bool]] = [(value, 0, False)]
    while todo:
        value, depth, named = todo.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            inner: list[tuple[Any, int, bool]] = []
            for name, item in value.items():
                if isinstance(name, str) and (named or not _API_NAME.fullmatch(name)):
                    inner.append((name, depth, False))
                if (
                    name in {"type", "role"}
                    and not named
                    and depth <= _API_DEPTH
                    and isinstance(item, str)
                    and _API_WORD.fullmatch(item)
                ):
                    continue
                inner.append((item, depth + 1, name in _NAMED_BY_CALLER))
            todo += reversed(inner)
        elif isinstance(value, list | tuple):
            todo += [(item, depth + 1, False) for item in reversed(value)]
    return found


class Redactor:
    """Replaces keys, header values and prompts in the texts of others.

    For runs of 16 characters or more, these differences are ignored: case, white space, and the escapes of JSON and of
    `repr`.

    >>> redact = Redactor("sk-0123456789", ["tell me a secret of the old house"])
    >>> redact('bad key sk-0123456789 for "tell me a secret of the old house"')
    'bad key [key] for "[prompt]"'
    >>> redact("Invalid text: '...A SECRET\\\\nOF THE OLD hou...'")
    "Invalid text: '...[prompt]...'"
    >>> redact("a long text that was cut inside sk-01234")
    'a long text that was cut inside [key]'
    >>> redact("the old house has no secret")
    'the old house has no secret'

    Args:
        keys: Keys and header values. A key of 16 characters or more is also replaced in parts, a shorter key only as a
            whole. A key that is a word, such as ``ollama``, is replaced only as a separate word.
        prompt: What the caller wrote.
        spare: Names that stay readable even if the prompt contains them: the model's, and those of the body fields.
    """

    __slots__ = ("_keys", "_long_keys", "_prompt", "_spare")

    def __init__(self, keys: str | Iterable[str], prompt: Iterable[str] = (), *, spare: Iterable[str] = ()) -> None:
        given = {keys} if isinstance(keys, str) else set(keys)
        self._keys = sorted(given - {""}, key=len, reverse=True)
        self._long_keys = _Haystack([key for key in self._keys if len(key) >= MATCH_MIN])
        self._prompt = _Haystack(prompt)
        self._spare = [name for name in {*spare} if len(name) >= WHOLE_MIN]

    def __call__(self, text: str) -> str:
        text = text[:LOOKED_AT]
        spans = [(start, end, "[key]") for start, end in self._whole_keys(text)]
        needle = _Needle(text)
        if len(needle.ink) >= TAIL_MIN:
            spans += [(start, end, "[key]") for start, end in self._long_keys.matches_in(needle)]
            spared = [place for name in self._spare for place in _places(text, name)]
            for start, end in self._prompt.matches_in(needle):
                if not any(first <= start and end <= last for first, last in spared):
                    spans.append((*_with_cut_escapes(text, start, end), "[prompt]"))
        return _replaced(text, spans)

    def _whole_keys(self, text: str) -> Iterator[tuple[int, int]]:
        for key in self._keys:
            word = key.isalpha() or len(key) < TAIL_MIN
            for start, end in _places(text, key):
                inside = word and (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum())
                if not inside:
                    yield start, end
            if not word:
                n = next((n for n in range(len(key) - 1, TAIL_MIN - 1, -1) if text.endswith(key[:n])), 0)
                if n:
                    yield len(text) - n, len(text)


def _with_cut_escapes(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the start and end of a run of the prompt, extended by parts of an escape directly before and after it.

    >>> _with_cut_escapes("001f600the old house\\\\ud83d", 7, 20)
    (0, 26)
    """
    before = _CUT_BEFORE.search(text, max(0, start - 64), start)
    after = _CUT_AFTER.match(text, end)
    return (start if before is None else before.start()), (end if after is None else after.end())


def _places(text: str, word: str) -> Iterator[tuple[int, int]]:
    at = text.find(word)
    while at >= 0:
        yield at, at + len(word)
        at = text.find(word, at + 1)


def _replaced(text: str, spans: list[tuple[int, int, str]]) -> str:
    """Replace each span of `text` by its label. Overlapping spans are merged, and the label of a key wins."""
    parts: list[str] = []
    at = 0
    merged: list[tuple[int, int, str]] = []
    for start, end, name in sorted(spans):
        if merged and start < merged[-1][1]:
            first, last, label = merged[-1]
            merged[-1] = (first, max(last, end), min(label, name))
        else:
            merged.append((start, end, name))
    for start, end, name in merged:
        parts += [text[at:start], name]
        at = end
    return "".join([*parts, text[at:]])


def _unescaped(text: str) -> str:
    """Return `text` with each escape replaced by the character that it stands for."""
    return _ESCAPE.sub(_meant, text) if "\\" in text else text


def _meant(match: re.Match[str]) -> str:
    high, low, eight, four, data, control = match.groups()
    if high:
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    if four or eight:
        number = int(eight or four, 16)
        return chr(number) if number <= 0x10FFFF else ""
    if data:
        octets = bytes.fromhex(re.sub(r"[\\xX]", "", data))
        # Either the `repr` of a UTF-8 body, whose first or last character may be cut, or the `ascii` of a text.
        return _utf8(octets) or octets.decode("latin-1")
    return " " if control else ""


def _utf8(octets: bytes) -> str:
    """Decode the complete characters of UTF-8 bytes. ``""`` if the bytes are not UTF-8."""
    start = next((at for at, octet in enumerate(octets[:3]) if octet & 0xC0 != 0x80), 3)
    try:
        return octets[start:].decode()
    except UnicodeDecodeError as error:
        if error.end < len(octets) - start or "unexpected end" not in error.reason:
            return ""
        return octets[start : start + error.start].decode()


class _Needle:
    """An error to be searched: its case-folded ink (all but white space), and the position of each character."""

    __slots__ = ("ends", "gaps", "grams", "ink", "starts", "steps")

    def __init__(self, text: str) -> None:
        ink: list[str] = []
        #: Start and end of each character in the text.
        self.starts: list[int] = []
        self.ends: list[int] = []
        #: For each character: the blanks before it, plus the extra length of escapes.
        self.gaps: list[int] = []
        gaps, blank, lead = 0, False, -1
        for match in _TOKEN.finditer(text):
            token = match[0]
            meant = _meant(match) if token[0] == "\\" else token
            start, lead = (match.start() if lead < 0 else lead), -1
            if not meant:
                lead = start  # backslashes alone belong to the character after them
                continue
            # Count an escape with its written length: it may be text of the prompt that only looks like an escape.
            gaps += len(token) - len(meant)
            for c in meant:
                if c.isspace():
                    blank = True
                elif c.isprintable():
                    gaps, blank = gaps + blank, False
                    for folded in c.casefold():
                        ink.append(folded)
                        self.starts.append(start)
                        self.ends.append(match.end())
                        self.gaps.append(gaps)
        self.ink = "".join(ink)
        #: Start positions of each gram, a run of _GRAM characters.
        self.grams: dict[str, list[int]] = {}
        for at in range(len(self.ink) - _GRAM + 1):
            self.grams.setdefault(self.ink[at : at + _GRAM], []).append(at)
        self.steps = {self.ink[at : at + _STEP] for at in range(len(self.ink) - _STEP + 1)}

    def span(self, start: int, end: int) -> tuple[int, int]:
        return self.starts[start], self.ends[end - 1]


class _Haystack:
    """The texts in which runs of an error are searched. They are prepared at the first search."""

    __slots__ = ("_beginnings", "_ink", "_texts", "_wholes", "_words")

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts: Sequence[str] | None = [*dict.fromkeys(texts)]
        self._ink = ""
        #: End position of each word in the ink.
        self._words: list[int] = []
        self._wholes: set[str] = set()
        self._beginnings: set[str] = set()

    def _prepare(self, texts: Sequence[str]) -> None:
        words: list[str] = []
        for text in texts:
            own = _unescaped(text).casefold().split()
            if not all(map(str.isprintable, own)):
                own = [kept for word in own if (kept := "".join(c for c in word if c.isprintable()))]
            length = sum(map(len, own)) + len(own) - 1
            if length >= WHOLE_MIN:
                if length < MATCH_MIN:
                    self._wholes.add("".join(own))
                self._beginnings.add("".join(own[:MATCH_MIN])[: MATCH_MIN - 1])
            words += own
        self._ink = "".join(words)
        self._words = list(accumulate(map(len, words)))
        self._texts = None

    def matches_in(self, needle: _Needle) -> list[tuple[int, int]]:
        """Return the start and end of each run, as positions in the needle's text."""
        if self._texts is not None:
            self._prepare(self._texts)
        ink, size = needle.ink, len(needle.ink)
        covered = bytearray(size)
        if len(self._ink) >= _GRAM and size >= _GRAM:
            self._cover(needle, covered)
        for whole in self._wholes:
            for start, end in _places(ink, whole):
                covered[start:end] = b"\1" * (end - start)
        for beginning in self._beginnings:
            n = next((n for n in range(len(beginning), TAIL_MIN - 1, -1) if ink.endswith(beginning[:n])), 0)
            covered[size - n :] = b"\1" * n
        return [needle.span(*match.span()) for match in re.finditer(b"\1+", bytes(covered))]

    def _cover(self, needle: _Needle, covered: bytearray) -> None:
        hay, steps, grams = self._ink, needle.steps, dict(needle.grams)
        effort = _EFFORT * (len(hay) + len(needle.ink))
        for at in [at for at in range(0, len(hay), _STEP) if hay[at : at + _STEP] in steps]:
            for start in range(max(0, at - _GRAM + _STEP), at + 1):
                gram = hay[start : start + _GRAM]
                if gram not in grams:
                    continue
                kept: list[int] = []
                for place in grams[gram]:
                    if all(covered[place : place + _GRAM]):
                        continue
                    first, last = self._widest(needle.ink, place, start) if effort > 0 else (place, place + _GRAM)
                    effort -= last - first
                    if effort <= 0 or self._is_long(needle, first, last, start - (place - first)):
                        covered[first:last] = b"\1" * (last - first)
                    else:
                        kept.append(place)
                if kept:
                    grams[gram] = kept
                else:
                    del grams[gram]

    def _is_long(self, needle: _Needle, first: int, last: int, start: int) -> bool:
        """Whether a run of the needle has `MATCH_MIN` characters, as written in the needle's text or in this text.

        `start` is the position at which the run begins in this text.
        """
        # An escape at the start of the run counts with its written length, like an escape inside.
        length = last - first + needle.ends[first] - needle.starts[first] - 1
        blanks = bisect_left(self._words, start + length) - bisect_right(self._words, start)
        return length + max(blanks, needle.gaps[last - 1] - needle.gaps[first]) >= MATCH_MIN

    def _widest(self, ink: str, place: int, start: int) -> tuple[int, int]:
        """Return the longest run around `place` in the needle that also exists around `start` in this text."""
        hay = self._ink
        back = 0
        while back < place and back < start and ink[place - back - 1] == hay[start - back - 1]:
            back += 1
        end, there = place + _GRAM, start + _GRAM
        while end < len(ink) and there < len(hay) and ink[end] == hay[there]:
            end, there = end + 1, there + 1
        return place - back, end

"""Removes from a reply the markers that its prompt put around a text. Pure.

A prompt that asks the model to repeat a text may put the text between two markers, which are tags with a random name. A
model may copy the markers into its reply.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: If a reply ends with at least this many characters of a marker's beginning, they are removed.
SHORTEST = 8

#: The brackets before and after the name in a marker, as they are and as JSON may spell them.
_OPENINGS = ("", *(less + slash for less in ("<", "\\u003c", "\\u003C") for slash in ("", "/", "\\/")))
_CLOSINGS = (">", "\\u003e", "\\u003E")
#: Where a marker may begin. The lookahead skips most words that contain a ``t``.
_FIRST = re.compile(r"[<\\]|t(?=\Z|[<\\t]|e(?:\Z|[<\\tx]))")
_ESCAPED_BRACKET = re.compile(r"\\u003[cC]")


class Markers:
    """Removes the markers called `name` from a model's text: `feed` pieces and use what is returned, then `close` once.

    A marker is the name (``text-`` and 16 hexadecimal digits, made for one request). If an opening bracket is directly
    before the name, or a closing bracket directly after it, the bracket belongs to the marker. An opening bracket is
    ``<`` or ``</``. A closing bracket is ``>``. In the spelling of JSON, brackets are also ``<\\/``, ``\\u003c`` and
    ``\\u003e``.

    - The first marker in the text is removed, again and again, until there is none. So the text before a marker and the
      text after it do not form a new marker.
    - If the text then ends with at least 8 characters of a marker's beginning, they are removed, again and again. An
      escaped bracket counts as the characters that it stands for. A token limit leaves such a beginning.
    - Everything else is kept, because it is the model's own text. This includes white space around a marker, and a copy
      of a marker in which one character is different.

    It does not matter how the text is cut into pieces. The cost is linear. Text is held only if it may still become
    part of a marker.

    >>> stage = Markers("text-0123456789abcdef")
    >>> [stage.feed(piece) for piece in ('{"name": "To</te', 'xt-0123456789abcdef"', ', "age"')], stage.close()
    (['{"name": "To', '"', ', "age"'], '')
    """

    __slots__ = ("_beginnings", "_chain", "_closing", "_shown", "_whole", "passed", "taken", "taken_at")

    def __init__(self, name: str) -> None:
        self._beginnings = frozenset(
            text[:end] for opening in _OPENINGS for text in (opening + name,) for end in range(1, len(text))
        )
        self._whole = frozenset(opening + name for opening in _OPENINGS)
        # The held text: beginnings of markers, each directly after the one before it. If the last one becomes a marker,
        # it is removed, and the one before it continues with the text after that marker.
        self._chain: list[str] = []
        # Directly after a name: the part of a closing bracket that has come so far; None elsewhere.
        self._closing: str | None = None
        # number of the held characters that `show` returned early
        self._shown = 0
        #: number of characters passed on so far, and removed so far
        self.passed = self.taken = 0
        #: The first position, in the text that is passed on, where something was removed since a caller set this to
        #: `sys.maxsize`.
        self.taken_at = sys.maxsize

    @property
    def held(self) -> int:
        """The number of characters that were fed and are neither passed on nor removed yet."""
        return sum(map(len, self._chain)) + len(self._closing or "")

    @property
    def doubtful(self) -> str:
        """The held text, unless it is so long that it would be removed if the reply ended now."""
        chain = [] if any(_weight(beginning) >= SHORTEST for beginning in self._chain) else self._chain
        return "".join(chain) + (self._closing or "")

    def feed(self, piece: str) -> str:
        """Return the text that can be passed on now."""
        if self._shown:
            return self._after_shown(lambda: self.feed(piece))
        out: list[str] = []
        chain = self._chain
        at = 0
        while at < len(piece):
            if self._closing is not None:
                closing = self._closing + piece[at]
                if any(one.startswith(closing) for one in _CLOSINGS):
                    at += 1
                    self._closing = closing
                    if closing in _CLOSINGS:
                        self._closing = None
                        self._take(len(closing))
                    continue
                # It is not a bracket, so it is ordinary text.
                text, self._closing = self._closing, None
                if text:
                    out.append(self.feed(text))
            if not chain:
                first = _FIRST.search(piece, at)
                start, at = at, len(piece) if first is None else first.start()
                out.append(piece[start:at])
                self.passed += at - start
                if first is None:
                    break
                chain.append("")
            beginning = chain[-1] + piece[at]
            at += 1
            if beginning in self._beginnings:
                chain[-1] = beginning
            elif beginning in self._whole:
                chain.pop()
                self._take(len(beginning))
                self._closing = ""
            else:
                self._begin_again(beginning, out)
        return "".join(out)

    def show(self) -> str:
        """Return the held text early, unless it is long enough to be removed at the end. It is not returned again.

        This is for text that is interrupted by something else. If the text becomes a marker later, the rest of the
        marker is removed.
        """
        if any(_weight(beginning) >= SHORTEST for beginning in self._chain):
            return ""
        held = "".join(self._chain) + (self._closing or "")
        text = held[self._shown :]
        self._shown = len(held)
        return text

    def close(self, cut: bool = False) -> str:
        """End the text and return the rest. With `cut`, return ``""``: the next request produces the rest again."""
        if self._shown:
            return self._after_shown(lambda: self.close(cut))
        left = self.held
        if not self._closing:
            while self._chain and _weight(self._chain[-1]) >= SHORTEST:
                self._chain.pop()
        text = "" if cut else "".join(self._chain) + (self._closing or "")
        self._chain.clear()
        self._closing = None
        self.passed += len(text)
        if left > len(text):
            self._take(left - len(text))
        return text

    def _after_shown(self, give: Callable[[], str]) -> str:
        """Return what `give` returns, without the text that was returned early."""
        shown, self._shown = self._shown, 0
        before, self.taken_at = self.passed, sys.maxsize
        text = give()
        shown = min(shown, self.taken_at - before)  # characters after this were part of a marker
        self._shown = max(0, shown - len(text))
        return text[shown:]

    def _take(self, length: int) -> None:
        """Count `length` characters as removed, at the position after the text that is passed on or held now."""
        self.taken += length
        self.taken_at = min(self.taken_at, self.passed + sum(map(len, self._chain)))

    def _begin_again(self, text: str, out: list[str]) -> None:
        """Handle held text that cannot become a marker any more, because of its last character.

        If some of the last characters of `text` can begin another marker, all held text stays held. If not, all of it
        is passed on.
        """
        for at in range(1, len(text)):
            if text[at:] in self._beginnings:
                self._chain[-1] = text[:at]
                self._chain.append(text[at:])
                return
        self._chain[-1] = text
        out += self._chain
        self.passed += sum(map(len, self._chain))
        self._chain.clear()


def without_markers(value: Any, name: str) -> Any:
    """Return a JSON value without the markers called `name` in its strings and in its field names, at any depth.

    A string without a marker is not changed. A marker's beginning at the end of a string is kept, because the string is
    not where the reply ends.

    >>> name = "text-0123456789abcdef"
    >>> without_markers({"query": [f"<{name}>cats</{name}>", 1]}, name)
    {'query': ['cats', 1]}
    """
    whole = [value]
    # (container, key, value); a list and not recursion, because the value may be nested very deep
    todo: list[tuple[Any, Any, Any]] = [(whole, 0, value)]
    while todo:
        place, key, item = todo.pop()
        if isinstance(item, str):
            place[key] = _without_markers(item, name)
        elif isinstance(item, dict):
            place[key] = {_without_markers(field, name): inner for field, inner in item.items()}
            todo += [(place[key], field, inner) for field, inner in place[key].items()]
        elif isinstance(item, list):
            place[key] = list(item)
            todo += [(place[key], at, inner) for at, inner in enumerate(item)]
    return whole[0]


def _without_markers(text: str, name: str) -> str:
    if name not in text:
        return text
    stage = Markers(name)
    return stage.feed(text) + "".join(stage._chain) + (stage._closing or "")


def _weight(beginning: str) -> int:
    """Return the length of a beginning, with each escaped bracket counted as the characters that it stands for."""
    return len(_ESCAPED_BRACKET.sub("<", beginning).replace("\\/", "/"))

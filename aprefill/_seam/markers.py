"""Takes the markers that a prompt put around a text out of the reply to it. Pure."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: A beginning of a marker of so many characters is taken out where the reply ends with it.
SHORTEST = 8

#: What may stand before and behind the name in a marker, as it is and as JSON may spell it.
_OPENINGS = ("", *(less + slash for less in ("<", "\\u003c", "\\u003C") for slash in ("", "/", "\\/")))
_CLOSINGS = (">", "\\u003e", "\\u003E")
#: Where a marker may begin. The look ahead passes over most of the words that have a ``t`` in them.
_FIRST = re.compile(r"[<\\]|t(?=\Z|[<\\t]|e(?:\Z|[<\\tx]))")
_ESCAPED_BRACKET = re.compile(r"\\u003[cC]")


class Markers:
    """A model's text without the markers called `name`. Feed it pieces, use what comes back.

    A marker is the name (``text-`` and 16 hexadecimal digits, made for one request) with an opening bracket directly
    before it, if there is one, and a closing bracket directly behind it, if there is one. An opening bracket is ``<`` or
    ``</``, a closing one is ``>``; in the spelling of JSON they are also ``<\\/``, ``\\u003c`` and ``\\u003e``.

    - The first marker in the text is taken out, again and again, until there is none. (So what stands before and behind
      a marker makes no new one.)
    - Then, if the text ends with a beginning of a marker of at least 8 characters, that is taken out, again and again. An
      escaped bracket counts as many characters as it stands for. This is what a token limit leaves of a marker.
    - Everything else stays, white space around a marker included: it is the model's own. So does a copy of a marker in
      which one character is different.

    Cuts do not matter, the cost is linear, and only text which some continuation would make a part of a marker is held.

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
        # What is held: beginnings, each directly behind the one before. If the last becomes a marker, which is taken out,
        # the one before it goes on with the text behind that marker.
        self._chain: list[str] = []
        # Directly behind a name: the part of a closing bracket that has come; None elsewhere.
        self._closing: str | None = None
        # how many of the characters held were given early
        self._shown = 0
        #: characters passed on so far, and taken out so far
        self.passed = self.taken = 0
        #: behind how many characters of the text that is passed on something was taken out; the least of them since
        #: somebody set this to `sys.maxsize`
        self.taken_at = sys.maxsize

    @property
    def held(self) -> int:
        """Characters fed and neither passed on nor taken out yet."""
        return sum(map(len, self._chain)) + len(self._closing or "")

    @property
    def doubtful(self) -> str:
        """The held text, if it is too short to be taken out were the reply to end now."""
        chain = [] if any(_weight(beginning) >= SHORTEST for beginning in self._chain) else self._chain
        return "".join(chain) + (self._closing or "")

    def feed(self, piece: str) -> str:
        """Give the text that can be passed on now."""
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
                # It is no bracket, so it is text like any other.
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
        """Give what is held early, unless it is long enough to be taken out at the end. It is not given again.

        For text after which something else comes first. If the text goes on to a marker, the rest of that is taken out.
        """
        if any(_weight(beginning) >= SHORTEST for beginning in self._chain):
            return ""
        held = "".join(self._chain) + (self._closing or "")
        text = held[self._shown :]
        self._shown = len(held)
        return text

    def close(self, cut: bool = False) -> str:
        """End it, and give what is left. After a `cut` nothing is: the next request has it written again."""
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
        """What `give` gives, without what was given early."""
        shown, self._shown = self._shown, 0
        before, self.taken_at = self.passed, sys.maxsize
        text = give()
        shown = min(shown, self.taken_at - before)  # the others were part of a marker
        self._shown = max(0, shown - len(text))
        return text[shown:]

    def _take(self, length: int) -> None:
        """Count `length` characters as taken out behind what is passed on or held now."""
        self.taken += length
        self.taken_at = min(self.taken_at, self.passed + sum(map(len, self._chain)))

    def _begin_again(self, text: str, out: list[str]) -> None:
        """`text` is no beginning, but was one without its last character: look for one at its end, or pass it on."""
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
    """A JSON value without the markers called `name` in its strings and in the names of its fields, at any depth.

    What has none is given back as it is. A beginning of a marker at the end of a string stays: the reply goes on.

    >>> name = "text-0123456789abcdef"
    >>> without_markers({"query": [f"<{name}>cats</{name}>", 1]}, name)
    {'query': ['cats', 1]}
    """
    whole = [value]
    # where a value stands, and the value: not by recursion, as it may be nested very deep
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
    """The length of a beginning with each escaped bracket counted as what it stands for."""
    return len(_ESCAPED_BRACKET.sub("<", beginning).replace("\\/", "/"))

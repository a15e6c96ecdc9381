"""Takes the markers that a prompt put around a text out of the reply to it. Pure."""

from __future__ import annotations

import re

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

    __slots__ = ("_beginnings", "_chain", "_closing", "_whole", "taken")

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
        #: characters taken out so far
        self.taken = 0

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
                        self.taken += len(closing)
                        self._closing = None
                    continue
                # It is no bracket, so it is text like any other.
                text, self._closing = self._closing, None
                if text:
                    out.append(self.feed(text))
            if not chain:
                first = _FIRST.search(piece, at)
                if first is None:
                    out.append(piece[at:])
                    break
                out.append(piece[at : first.start()])
                at = first.start()
                chain.append("")
            beginning = chain[-1] + piece[at]
            at += 1
            if beginning in self._beginnings:
                chain[-1] = beginning
            elif beginning in self._whole:
                self.taken += len(beginning)
                chain.pop()
                self._closing = ""
            else:
                self._begin_again(beginning, out)
        return "".join(out)

    def close(self, cut: bool = False) -> str:
        """End it, and give what is left. After a `cut` nothing is: the next request has it written again."""
        left = self.held
        if not self._closing:
            while self._chain and _weight(self._chain[-1]) >= SHORTEST:
                self._chain.pop()
        text = "" if cut else "".join(self._chain) + (self._closing or "")
        self.taken += left - len(text)
        self._chain.clear()
        self._closing = None
        return text

    def _begin_again(self, text: str, out: list[str]) -> None:
        """`text` is no beginning, but was one without its last character: look for one at its end, or pass it on."""
        for at in range(1, len(text)):
            if text[at:] in self._beginnings:
                self._chain[-1] = text[:at]
                self._chain.append(text[at:])
                return
        out += self._chain[:-1]
        out.append(text)
        self._chain.clear()


def _weight(beginning: str) -> int:
    """The length of a beginning with each escaped bracket counted as what it stands for."""
    return len(_ESCAPED_BRACKET.sub("<", beginning).replace("\\/", "/"))

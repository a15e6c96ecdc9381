"""Keeps a terminal safe from text that a model wrote: removes escape sequences, however the text is cut.

Text for a terminal can be a program for it: it can set the clipboard (OSC 52), the window's title, move the cursor
over what was written before, or make the terminal type an answer. The grammar is ECMA-48's, with xterm's BEL as a
second end of a string. Only what a terminal is shown goes through here; a pipe gets the model's text as it is.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

#: C0 without tab and line feed, DEL, C1; and the nine bidirectional embeddings, overrides and isolates, which
#: make a line read otherwise than it is ("Trojan Source", CVE-2021-42574). Text in Arabic or Hebrew is shown
#: right without them, by its letters' own direction; the marks LRM, RLM and ALM move no letters and stay.
#: A carriage return goes too: alone it would write over the line, before a line feed it does nothing.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_SAFE = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*")


class _State(Enum):
    #: between sequences
    TEXT = "text"
    #: after ESC
    ESCAPE = "escape"
    #: after ESC and an intermediate byte: one more final byte ends it
    INTERMEDIATE = "intermediate"
    #: after ESC [ or its one-character form
    CSI = "csi"
    #: inside OSC, DCS, SOS, PM or APC: anything, up to a terminator
    STRING = "string"


def _range(first: str, last: str, then: _State) -> dict[str, _State | None]:
    return {chr(code): then for code in range(ord(first), ord(last) + 1)}


#: What begins a sequence; any other unsafe character is one by itself. U+0080 to U+009F are ESC and a letter in one.
_BEGINS: Final = {
    "\x1b": _State.ESCAPE,
    "\x9b": _State.CSI,
    **dict.fromkeys("\x90\x98\x9d\x9e\x9f", _State.STRING),
}

#: state -> (by character; any other): the state after that character is dropped. None: the character is no part
#: of the sequence, which is over; it is looked at again as text. So ESC always begins anew, and a line end ends
#: a string that nobody closed.
_STEPS: Final[dict[_State, tuple[dict[str, _State | None], _State | None]]] = {
    _State.ESCAPE: (
        {
            **_range(" ", "/", _State.INTERMEDIATE),
            **_range("0", "~", _State.TEXT),
            "[": _State.CSI,
            **dict.fromkeys("]PX^_", _State.STRING),
        },
        None,
    ),
    _State.INTERMEDIATE: ({**_range(" ", "/", _State.INTERMEDIATE), **_range("0", "~", _State.TEXT)}, None),
    _State.CSI: ({**_range(" ", "?", _State.CSI), **_range("@", "~", _State.TEXT)}, None),
    _State.STRING: (
        # BEL, CAN, SUB and ST end it; ESC \ does too: ESC ends the string, and ESC \ is then a sequence by itself
        {**dict.fromkeys("\x07\x18\x1a\x9c", _State.TEXT), "\n": None, "\x1b": None},
        _State.STRING,
    ),
}


class TerminalFilter:
    r"""Text without anything that a terminal would obey but tab and line feed.

    What comes out does not depend on how the text is cut. Nothing is held back: a character is handed out at once,
    or dropped. A sequence that is never closed takes at most `max_sequence_chars` characters after the one that
    began it, and a string (OSC and its kin) never more than its line.

    >>> screen = TerminalFilter()
    >>> screen.feed("plain \x1b]52;c;ZXZp"), screen.feed("bA==\x07text"), screen.close()
    ('plain ', 'text', '')
    """

    __slots__ = ("_length", "_limit", "_state")

    def __init__(self, *, max_sequence_chars: int = 4096) -> None:
        self._limit = max_sequence_chars
        self._state = _State.TEXT
        # characters dropped since the one that began the sequence
        self._length = 0

    def feed(self, piece: str) -> str:
        """What of `piece` is fit to be shown."""
        if self._state is _State.TEXT and not _UNSAFE.search(piece):
            return piece
        out: list[str] = []
        at = 0
        while at < len(piece):
            if self._state is _State.TEXT:
                safe = _SAFE.match(piece, at)
                assert safe is not None
                out.append(safe[0])
                at = safe.end()
                if at < len(piece):
                    self._state = _BEGINS.get(piece[at], _State.TEXT)
                    self._length = 0
                    at += 1
            elif self._is_part(piece[at]):
                at += 1
        return "".join(out)

    def _is_part(self, char: str) -> bool:
        """Step the sequence over `char`; False if it ended before that."""
        by_char, other = _STEPS[self._state]
        then = by_char.get(char, other)
        self._length += 1
        self._state = then if then is not None and self._length < self._limit else _State.TEXT
        return then is not None

    def close(self) -> str:
        """What was held back: nothing. An unfinished sequence is forgotten."""
        self._state = _State.TEXT
        return ""


def one_line(text: str) -> str:
    """`text` on one line and fit to be shown, for messages that quote a provider."""
    # white space first: a filter that drops a carriage return would join two words
    return TerminalFilter().feed(" ".join(text.split()))

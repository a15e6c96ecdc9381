"""Removes escape sequences from a model's text before it is printed on a terminal.

A terminal interprets escape sequences as commands. They can set the clipboard (OSC 52) or the window's title, move the
cursor over earlier text, or make the terminal send input. The grammar is ECMA-48's; in addition, xterm ends a string
with BEL. The filter is used only for a terminal. A pipe gets the model's text unchanged.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

#: Unsafe characters: C0 except tab and line feed, DEL, C1, and the nine bidirectional embeddings, overrides and
#: isolates, which can display a line in a misleading order ("Trojan Source", CVE-2021-42574). Arabic and Hebrew text is
#: displayed correctly without them, because letters have a direction of their own. The marks LRM, RLM and ALM are kept,
#: because they do not move letters. A carriage return is unsafe too: it moves the cursor to the start of the line.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_SAFE = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*")


class _State(Enum):
    #: outside a sequence
    TEXT = "text"
    #: after ESC
    ESCAPE = "escape"
    #: after ESC and an intermediate byte; a final byte ends the sequence
    INTERMEDIATE = "intermediate"
    #: after ESC [ or its one-character form
    CSI = "csi"
    #: inside OSC, DCS, SOS, PM or APC: any characters, up to a terminator
    STRING = "string"


def _range(first: str, last: str, then: _State) -> dict[str, _State | None]:
    return {chr(code): then for code in range(ord(first), ord(last) + 1)}


#: The characters that begin a sequence -> the state after them. Any other unsafe character is removed by itself.
#: U+0080 to U+009F are one-character forms of ESC and a letter.
_BEGINS: Final = {
    "\x1b": _State.ESCAPE,
    "\x9b": _State.CSI,
    **dict.fromkeys("\x90\x98\x9d\x9e\x9f", _State.STRING),
}

#: State -> (next state by character, next state for any other character). The character is removed. None: the sequence
#: has ended before this character, which is processed again as text. So ESC always begins a new sequence, and a line
#: feed ends a string without a terminator.
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
        # BEL, CAN, SUB and ST end a string. So does ESC \: ESC ends the string, and ESC \ is a sequence by itself.
        {**dict.fromkeys("\x07\x18\x1a\x9c", _State.TEXT), "\n": None, "\x1b": None},
        _State.STRING,
    ),
}


class TerminalFilter:
    r"""Removes escape sequences and control characters except tab and line feed.

    The result does not depend on how the text is cut into pieces. Nothing is held back: each character is returned at
    once or removed. An unterminated sequence removes at most `max_sequence_chars` characters after its first one, and
    an unterminated string (OSC, DCS, SOS, PM or APC) at most the rest of its line.

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
        """Return the safe characters of `piece`."""
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
        """Process `char` inside a sequence. Return False if the sequence ended before `char`."""
        by_char, other = _STEPS[self._state]
        then = by_char.get(char, other)
        self._length += 1
        self._state = then if then is not None and self._length < self._limit else _State.TEXT
        return then is not None

    def close(self) -> str:
        """End the text. Return "", because nothing is held back. An unfinished sequence is forgotten."""
        self._state = _State.TEXT
        return ""


def one_line(text: str) -> str:
    """Return `text` on one line and safe to print, for messages that quote a provider."""
    # Replace white space first: the filter removes carriage returns, which would join two words.
    return TerminalFilter().feed(" ".join(text.split()))

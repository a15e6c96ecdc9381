"""Joins surrogate pairs that were split between two deltas, and replaces lone surrogates.

A host that escapes its JSON in UTF-16 units can send one character in two deltas, `"\\ud83d"` and `"\\ude00"`. If they
were passed on unchanged, the caller's `.encode()` would raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aprefill._deltas import ReasoningDelta, TextDelta, ToolDelta

if TYPE_CHECKING:
    from aprefill._deltas import Delta


def mend(text: str) -> str:
    """Return `text` with surrogate pairs joined and lone surrogates replaced by U+FFFD.

    >>> mend("a" + chr(0xD83D) + chr(0xDE00) + chr(0xD83D))
    'a😀�'
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mend_all(value: Any) -> Any:
    """Apply `mend` to every string in a JSON value. Raises RecursionError if the value is nested too deeply."""
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, dict):
        return {mend(key): mend_all(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mend_all(item) for item in value]
    return value


class Joiner:
    """Joins surrogate pairs that are split between two pieces of one channel.

    A channel is ``"text"``, ``"reasoning"``, or the index of a tool call. The joiner holds at most one character per
    channel: the high surrogate at the end of the last piece.

    >>> joiner = Joiner()
    >>> joiner.feed("text", "a" + chr(0xD83D)), joiner.feed("text", chr(0xDE00) + "b")
    ('a', '😀b')
    >>> joiner.feed("text", chr(0xD83D)), joiner.close()
    ('', [TextDelta(text='�')])
    """

    __slots__ = ("_high",)

    def __init__(self) -> None:
        self._high: dict[str | int, str] = {}

    def feed(self, channel: str | int, piece: str) -> str:
        text = self._high.pop(channel, "") + piece
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._high[channel] = text[-1]
            text = text[:-1]
        return mend(text)

    def close(self) -> list[Delta]:
        """Return one U+FFFD for every channel whose last piece ended with a high surrogate."""
        deltas: list[Delta] = []
        for channel in self._high:
            if isinstance(channel, int):
                deltas.append(ToolDelta(channel, arguments="\ufffd"))
            else:
                deltas.append(TextDelta("\ufffd") if channel == "text" else ReasoningDelta("\ufffd"))
        self._high.clear()
        return deltas

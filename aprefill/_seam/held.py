"""What a reader of `events(held=True)` is told of the text that is held back."""

from __future__ import annotations

from .._events import HeldEvent


class Held:
    """The end of the model's text that was fed and not decided yet. Pure; a character is looked at when it is told.

    >>> held = Held()
    >>> held.feed('["', 2), held.feed("Al", 4), held.feed("aska", 0)
    (HeldEvent(text='["', more=False), HeldEvent(text='Al', more=True), HeldEvent(text='', more=False))
    """

    __slots__ = ("_length", "_pieces", "_tail", "_told")

    def __init__(self) -> None:
        # what is held, in pieces, so that a long repetition in short ones costs its length and not its square
        self._pieces: list[str] = []
        self._length = 0
        # what was told behind that
        self._tail = ""
        self._told = False

    def feed(self, piece: str, length: int, tail: str = "") -> HeldEvent | None:
        """What to say now that `piece` has come and the last `length` characters are held; None: nothing is new.

        `tail` is text behind `piece` that is held as well, by a stage before. It comes again in a later piece, or not at
        all.
        """
        before, self._tail = self._tail, tail
        new = piece + tail
        if length and length == self._length + len(piece) and new.startswith(before):
            self._pieces.append(piece)
            self._length = length
            if self._told and new == before:
                return None
            more, self._told = self._told, True
            return HeldEvent(new[len(before) :] if more else "".join((*self._pieces, tail)), more=more)
        rest = "".join((*self._pieces, piece))[-length:] if length else ""
        self._pieces = [rest] if rest else []
        self._length = length
        if not rest and not tail:
            return self.settle()
        self._told = True
        return HeldEvent(rest + tail)

    def settle(self) -> HeldEvent | None:
        """Nothing that was told is held any more; None: nothing was."""
        if not self._told:
            return None
        self._told = False
        return HeldEvent("")

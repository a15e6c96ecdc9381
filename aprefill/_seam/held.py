"""The events that tell a reader of `events(held=True)` which text is held back."""

from __future__ import annotations

from .._events import HeldEvent


class Held:
    """Tracks the undecided end of the model's text, and reports it as events. Pure. Each character is processed once.

    >>> held = Held()
    >>> held.feed('["', 2), held.feed("Al", 4), held.feed("aska", 0)
    (HeldEvent(text='["', more=False), HeldEvent(text='Al', more=True), HeldEvent(text='', more=False))
    """

    __slots__ = ("_length", "_pieces", "_tail", "_told")

    def __init__(self) -> None:
        # the held text as a list of pieces, so that the cost of a long repetition in short pieces is linear
        self._pieces: list[str] = []
        self._length = 0
        # text after it that was reported too: the `tail` of the last call
        self._tail = ""
        # whether text was reported that is still held
        self._told = False

    def feed(self, piece: str, length: int, tail: str = "") -> HeldEvent | None:
        """Return the event for a new `piece`, after which the last `length` characters are held; None for no change.

        `tail` is text after `piece` that an earlier stage holds. It comes again in a later piece, or never.
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
        """Return the event that says that nothing is held any more; None if no held text was reported."""
        if not self._told:
            return None
        self._told = False
        return HeldEvent("")

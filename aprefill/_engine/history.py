"""What a host sent beside text, and where: enough to tell what had come at any character that was handed out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from .._deltas import Delta

D = TypeVar("D")


class History:
    """The deltas of one request that are not text, each with its place in the new text.

    A decoder runs ahead: all of one network read is decoded before any of it is handed out. So what belongs to a reply
    that was left is decided here, by what was handed out, and does not depend on how the network cut the stream. A
    delta was handed out if it was an event that the reader got, or if anything after it was: text or an event.

    >>> from aprefill._deltas import ToolDelta
    >>> history = History()
    >>> history.note(ToolDelta(0, "t", "look"), place=2)
    >>> history.parts("He", 1), len(history.parts("Hel", 2))
    (['He'], 3)
    """

    __slots__ = ("_deltas", "_items", "_places")

    def __init__(self) -> None:
        self._deltas: list[Delta] = []
        # how many characters of the new text come before each
        self._places: list[int] = []
        # where it stands among the items to be handed out; -1: it is none
        self._items: list[int] = []

    def note(self, delta: Delta, *, place: int, item: int = -1) -> None:
        """Keep one delta."""
        self._deltas.append(delta)
        self._places.append(place)
        self._items.append(item)

    def drop_front(self, length: int) -> None:
        """The first `length` characters before the deltas so far turned out to be no new text, but a repetition."""
        self._places = [max(0, place - length) for place in self._places]

    def clip(self, place: int) -> None:
        """No delta so far stands behind `place`: what was thought to come before it is no text of the reply."""
        self._places = [min(one, place) for one in self._places]

    def drop(self, place: int, length: int) -> None:
        """`length` characters behind `place`, before which deltas stand already, turned out to be no new text."""
        self._places = [max(place, one - length) if one > place else one for one in self._places]

    @property
    def last_place(self) -> int:
        """How many characters of the new text come before the last delta so far; -1 where there is none."""
        return self._places[-1] if self._places else -1

    def count(self, length: int, handed_out: int) -> int:
        """How many deltas had come when `length` characters and the first `handed_out` items were handed out."""
        for number in range(len(self._deltas), 0, -1):
            if self._places[number - 1] < length or -1 < self._items[number - 1] < handed_out:
                return number
        return 0

    def count_until(self, length: int) -> int:
        """How many deltas come no later than the end of the first `length` characters."""
        return sum(place <= length for place in self._places)

    def last(self, kind: type[D], count: int) -> D | None:
        """The last delta of that kind among the first `count`."""
        for number in range(count - 1, -1, -1):
            delta = self._deltas[number]
            if isinstance(delta, kind):
                return delta
        return None

    def parts(self, text: str, handed_out: int, count: int | None = None) -> list[str | Delta]:
        """`text`, which was handed out, with the deltas in their places: those that `count` says, or the first ones."""
        if count is None:
            count = self.count(len(text), handed_out)
        out: list[str | Delta] = []
        at = 0
        for delta, place in zip(self._deltas[:count], self._places[:count], strict=True):
            if at < place and at < len(text):
                out.append(text[at:place])
                at = place
            out.append(delta)
        if at < len(text):
            out.append(text[at:])
        return out

"""The deltas of a request other than text, each with its position in the text. Deltas are what a codec decodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from .._deltas import Delta

D = TypeVar("D")


class History:
    """The deltas of one request other than text, each with its place: its position in the new text.

    A decoder runs ahead: it decodes a whole network read before any of it is yielded to the reader. If the reply is
    left early, this class decides which deltas belong to it. That depends only on what the reader got, not on how the
    network cut the stream. A delta belongs to the reply if the reader got its event, or got any text or event after it.

    >>> from aprefill._deltas import ToolDelta
    >>> history = History()
    >>> history.note(ToolDelta(0, "t", "look"), place=2)
    >>> history.parts("He", 1), len(history.parts("Hel", 2))
    (['He'], 3)
    """

    __slots__ = ("_deltas", "_items", "_places")

    def __init__(self) -> None:
        self._deltas: list[Delta] = []
        # For each delta: the number of characters of new text before it.
        self._places: list[int] = []
        # For each delta: the index of its event in the transcript. -1: it has no event.
        self._items: list[int] = []

    def note(self, delta: Delta, *, place: int, item: int = -1) -> None:
        """Add a delta."""
        self._deltas.append(delta)
        self._places.append(place)
        self._items.append(item)

    def drop_front(self, length: int) -> None:
        """Remove the first `length` characters from all places: they were not new text, but a repetition."""
        self._places = [max(0, place - length) for place in self._places]

    def clip(self, place: int) -> None:
        """Limit all places to `place`: text after it turned out not to belong to the reply."""
        self._places = [min(one, place) for one in self._places]

    def drop(self, place: int, length: int) -> None:
        """Move the later places forward: `length` characters after `place` turned out not to be new text."""
        self._places = [max(place, one - length) if one > place else one for one in self._places]

    @property
    def last_place(self) -> int:
        """The place of the last delta: the number of characters of new text before it. -1 if there is no delta."""
        return self._places[-1] if self._places else -1

    def count(self, length: int, handed_out: int) -> int:
        """Return how many deltas had come when `length` characters and the first `handed_out` items were yielded."""
        for number in range(len(self._deltas), 0, -1):
            if self._places[number - 1] < length or -1 < self._items[number - 1] < handed_out:
                return number
        return 0

    def count_until(self, length: int) -> int:
        """Return how many deltas are not placed after the first `length` characters."""
        return sum(place <= length for place in self._places)

    def last(self, kind: type[D], count: int) -> D | None:
        """Return the last delta of this kind among the first `count` deltas, or None."""
        for number in range(count - 1, -1, -1):
            delta = self._deltas[number]
            if isinstance(delta, kind):
                return delta
        return None

    def parts(self, text: str, handed_out: int, count: int | None = None) -> list[str | Delta]:
        """Return `text`, which was yielded, and the first `count` deltas in their places.

        If `count` is None, the method `count` calculates it.
        """
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

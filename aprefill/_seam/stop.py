"""Stop sequences that this library applies itself, because the request does not send them to the host."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class StopStage:
    """Passes text on up to the first stop sequence: `feed` pieces and show what is returned, then `close` once.

    The sequence whose match ends first fires. If several matches end at the same character, the longest sequence fires.
    The text before the match is returned, and nothing after it. Only text that may become a match is held. An empty
    sequence raises ValueError. `feed` and `close` after `close` raise RuntimeError.

    >>> stage = StopStage(["\\n\\n", "END"])
    >>> [stage.feed(piece) for piece in ("one\\n", "two\\nE", "ND", " three")], stage.fired, stage.close()
    (['one', '\\ntwo\\n', '', ''], 'END', '')
    """

    __slots__ = ("_beginnings", "_closed", "_fired", "_first", "_node")

    def __init__(self, sequences: Iterable[str]) -> None:
        if isinstance(sequences, str):
            raise TypeError("sequences must be an iterable of str, not one str, which would be taken letter by letter")
        chosen = set(sequences)
        if "" in chosen:
            raise ValueError("an empty stop sequence would stop the text before its first character")
        # Of "ab" and "xaby" the second can never fire. So no text must be held for it.
        chosen = {one for one in chosen if not any(other in one[:-1] for other in chosen)}
        self._beginnings = _Beginnings(chosen)
        #: the longest beginning of a sequence that the text fed so far ends with; it is all that is held
        self._node = 0
        #: matches the first characters of the sequences; ordinary text is skipped in C up to the next one
        self._first = re.compile("[" + "".join(map(re.escape, self._beginnings.next[0])) + "]") if chosen else None
        self._fired: str | None = None
        self._closed = False

    @property
    def fired(self) -> str | None:
        """The sequence that was found, or None."""
        return self._fired

    @property
    def held(self) -> int:
        """The number of characters fed and not returned yet. They are fewer than the longest sequence has."""
        return self._beginnings.length[self._node]

    def __repr__(self) -> str:
        return f"<StopStage {'watching' if self._fired is None else 'fired'}, {self.held} held>"

    def feed(self, piece: str) -> str:
        """Return the text that can be shown now. After a sequence has fired, return ``""``."""
        if self._closed:
            raise RuntimeError("this stop stage is closed")
        if self._fired is not None:
            return ""
        first = self._first
        before = node = self._node
        if first is None or not (node or first.search(piece)):
            return piece
        known = self._beginnings
        follow, shorter, fires = known.next, known.shorter, known.fires
        i = 0
        keep: str | None = None
        while i < len(piece) and keep is None:
            if not node:
                found = first.search(piece, i)
                if found is None:
                    i = len(piece)
                    break
                i = found.start()
            c = piece[i]
            i += 1
            while node and c not in follow[node]:
                node = shorter[node]
            node = follow[node].get(c, 0)
            keep = fires[node]
        if keep is None:
            self._node = node
            unseen = known.length[node]
        else:
            self._fired = keep
            self._node = 0
            unseen = len(keep)
        # The result is (held text + piece[:i]) without the last `unseen` characters. Nothing longer is copied.
        length = known.length[before]
        shown = length + i - unseen
        text = known.owner[before]
        return text[:shown] if shown <= length else text[:length] + piece[: shown - length]

    def close(self) -> str:
        """End the text and return what is held: it is the model's own text, because no match was completed."""
        if self._closed:
            raise RuntimeError("this stop stage is closed")
        self._closed = True
        held = self._beginnings.owner[self._node][: self.held]
        self._node = 0
        return held


class _Beginnings:
    """All beginnings of the sequences as a numbered automaton (Aho and Corasick). Number 0 is the empty beginning.

    The tables contain numbers and not nodes that refer to each other. Such nodes would be a reference cycle, which
    stays in memory until the next garbage collection.
    """

    __slots__ = ("fires", "length", "next", "owner", "shorter")

    def __init__(self, sequences: Iterable[str]) -> None:
        #: for each beginning: the beginnings that are one character longer, by that character
        self.next: list[dict[str, int]] = [{}]
        #: for each beginning: its longest proper suffix that is a beginning too
        self.shorter = [0]
        #: for each beginning: the longest sequence that it ends with, or None
        self.fires: list[str | None] = [None]
        #: each beginning is ``owner[:length]``
        self.owner = [""]
        self.length = [0]
        for sequence in sequences:
            self._add(sequence)
        self._connect()

    def _add(self, sequence: str) -> None:
        node = 0
        for length, c in enumerate(sequence, 1):
            after = self.next[node].setdefault(c, len(self.next))
            if after == len(self.next):
                self.next.append({})
                self.shorter.append(0)
                self.fires.append(None)
                self.owner.append(sequence)
                self.length.append(length)
            node = after
        self.fires[node] = sequence

    def _connect(self) -> None:
        """Compute `shorter` and complete `fires`, from the short beginnings to the long ones."""
        queue = deque([0])
        while queue:
            node = queue.popleft()
            for c, after in self.next[node].items():
                end = self.shorter[node]
                while end and c not in self.next[end]:
                    end = self.shorter[end]
                self.shorter[after] = self.next[end].get(c, 0) if node else 0
                if self.fires[after] is None:
                    self.fires[after] = self.fires[self.shorter[after]]
                queue.append(after)

"""Who reads a reply: one reader at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable


def _nobody() -> None:
    """In place of a weak reference."""


class Readers:
    """The reader that a reply has now: the id of a cursor or of a call of `text()`."""

    __slots__ = ("_before", "now", "task")

    def __init__(self) -> None:
        #: who reads; 0: nobody
        self.now = 0
        # the cursor in whose body the `text()` was called that reads now; 0: none
        self._before = 0
        #: gives the task or the thread that reads, noted before each pull: a cursor may be handed to another one. No number
        #: of it, which may be another one's later.
        self.task: Callable[[], object] = _nobody

    def claim(self, reader: int, task: object, *, joins_task: bool) -> bool:
        """Make `reader` the one that reads, in this task or thread. False while another one has neither ended nor been dropped.

        With `joins_task` one that was read last in the same task waits for this one anyway: it reads on after `let_go`.
        """
        before = self.now
        if before and not (joins_task and self.task() is task):
            return False
        self.now, self._before = reader, before if joins_task else 0
        self.task = ref(task)
        return True

    def let_go(self, reader: int) -> bool:
        """`reader` has ended or was dropped; whether it was the one that reads."""
        if self.now == reader:
            self.now, self._before = self._before, 0
            return True
        if self._before == reader:
            self._before = 0
        return False

    def is_in_thread(self, thread: int) -> bool:
        """Whether the reader is in the thread of this number."""
        return getattr(self.task(), "ident", None) == thread

"""Who reads a reply: one reader at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from .._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .phases import State
    from .transcript import Transcript


def _nobody() -> None:
    """In place of a weak reference."""


class Readers:
    """The reader that a reply has now: the id of a cursor or of a call of `text()`."""

    __slots__ = ("_before", "_state", "_transcript", "now", "task", "wait")

    def __init__(self, state: State, transcript: Transcript) -> None:
        self._state = state
        self._transcript = transcript
        #: who reads; 0: nobody
        self.now = 0
        # the cursor in whose body the `text()` was called that reads now; 0: none
        self._before = 0
        #: gives the task or the thread that reads, noted before each pull: a cursor may be handed to another one. No number
        #: of it, which may be another one's later.
        self.task: Callable[[], object] = _nobody
        #: it waits for more
        self.wait = False

    def claim(self, reader: int, task: object, *, joins_task: bool = False) -> None:
        """Make `reader` the one that reads, in this task or thread.

        Raises `UsageError` while another one has neither ended nor been dropped; with `joins_task` not if that one was read
        last in the same task, which waits for this reader anyway. It reads on after `let_go`.
        """
        before = self.now
        if before and not self._state.is_over and not (joins_task and self.task() is task):
            raise self._transcript.put_on(
                UsageError(
                    "this reply is being read already",
                    "read it in one loop, end that one first, or give each reader its own stream()",
                )
            )
        self.now, self._before = reader, before if joins_task else 0
        self.task = ref(task)

    def check_alone(self) -> None:
        """Raise `UsageError` while a reader waits."""
        if self.wait:
            raise self._transcript.put_on(
                UsageError("two tasks are reading one reply", "give each its own stream(), or read in one of them")
            )

    def begin_to_wait(self) -> None:
        """The reader waits for more, if none does already."""
        self.check_alone()
        self.wait = True

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

"""The reader of a reply. There is only one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from .._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .phases import State
    from .transcript import Transcript


def _nobody() -> None:
    """Placeholder for a weak reference."""


class Readers:
    """The current reader of a reply: the id of a cursor, or of a call of `text()`."""

    __slots__ = ("_before", "_state", "_transcript", "now", "task", "wait")

    def __init__(self, state: State, transcript: Transcript) -> None:
        self._state = state
        self._transcript = transcript
        #: Id of the current reader. 0: nobody.
        self.now = 0
        # Id of the cursor whose loop body called the `text()` that reads now. 0: none.
        self._before = 0
        #: A weak reference to the task or thread that reads. Call it to get the object. This attribute is set before
        #: each pull, because a cursor may be passed to another task. A reference is stored and not the task's id,
        #: because the id of an ended task may be reused.
        self.task: Callable[[], object] = _nobody
        #: Whether the reader is waiting for more.
        self.wait = False

    def claim(self, reader: int, task: object, *, joins_task: bool = False) -> None:
        """Make `reader` the current reader, in this task or thread.

        Raises `UsageError` while another reader has neither ended nor been dropped. With `joins_task`, this is allowed
        if the other reader last read in the same task: that task waits for this reader anyway. The other reader
        continues after `let_go`.
        """
        before = self.now
        if before and not self._state.is_over and not (joins_task and self.task() is task):
            raise self._transcript.put_on(
                UsageError(
                    "this reply is being read already",
                    "read it in one loop, end the other reader first, or make a stream() for each reader",
                )
            )
        self.now, self._before = reader, before if joins_task else 0
        self.task = ref(task)

    def check_alone(self) -> None:
        """Raise `UsageError` while a reader is waiting."""
        if self.wait:
            raise self._transcript.put_on(
                UsageError("two tasks are reading one reply", "read it in one task, or make a stream() for each task")
            )

    def begin_to_wait(self) -> None:
        """Note that the reader waits for more. Raises `UsageError` if another one waits already."""
        self.check_alone()
        self.wait = True

    def let_go(self, reader: int) -> bool:
        """`reader` has ended or was dropped. Return whether it was the current reader."""
        if self.now == reader:
            self.now, self._before = self._before, 0
            return True
        if self._before == reader:
            self._before = 0
        return False

    def is_in_thread(self, thread: int) -> bool:
        """Whether the reader runs in the thread with this id."""
        return getattr(self.task(), "ident", None) == thread

"""The phases of a reply, and the events that are allowed in each. Pure."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .._errors import AprefillError


class Phase(Enum):
    """The phase of a reply. It determines what a pull (a request for more) waits for."""

    #: No request has been decided on.
    NEW = "new"
    #: A request has been decided on. It is sent, and the head of its response is awaited.
    OPENING = "opening"
    #: The body of the response is being read.
    READING = "reading"
    #: Another request follows: after the last connection is closed, and after the wait that the plan asks for.
    PAUSING = "pausing"
    #: Nothing more will come. What has come is being yielded to the reader.
    HANDING_OUT = "handing out"
    #: The reply came to its end.
    DONE = "done"
    #: The reply was left early or cancelled, or it failed.
    CLOSED = "closed"


class Transitions(NamedTuple):
    """For one phase: each possible event and the phases to which it may lead. (): the event is not allowed."""

    #: The reader wants more, and everything so far has been yielded.
    pull: tuple[Phase, ...]
    #: A request was accepted.
    opened: tuple[Phase, ...]
    #: A part of the body was read. After the last part, the plan may have another request.
    read: tuple[Phase, ...]
    #: The request or the whole reply failed.
    failed: tuple[Phase, ...]
    #: `Reply.cancel()`, `aclose()`, and a reader that was dropped.
    cancel: tuple[Phase, ...]
    aclose: tuple[Phase, ...]
    drop: tuple[Phase, ...]


_NEW, _OPENING, _READING, _PAUSING, _HANDING_OUT, _DONE, _CLOSED = Phase

#: In every phase, `cancel`, `aclose` and `drop` close the connection and free its slot in the pool. The reply is DONE
#: if it was yielded completely, otherwise CLOSED. A reply that has sent nothing stays NEW when its reader is dropped.
#: In a forked child these events do not happen, because the connection belongs to the parent.
TABLE = {
    Phase.NEW: Transitions(
        pull=(_OPENING,),
        opened=(),
        read=(),
        failed=(_NEW,),
        cancel=(_CLOSED,),
        aclose=(_CLOSED,),
        drop=(_NEW,),
    ),
    Phase.OPENING: Transitions(
        pull=(_OPENING,),
        opened=(_READING,),
        read=(),
        failed=(_PAUSING, _HANDING_OUT, _CLOSED),
        cancel=(_CLOSED,),
        aclose=(_CLOSED,),
        drop=(_CLOSED,),
    ),
    Phase.READING: Transitions(
        pull=(_READING,),
        opened=(),
        read=(_READING, _PAUSING, _HANDING_OUT),
        failed=(_PAUSING, _HANDING_OUT, _CLOSED),
        cancel=(_CLOSED,),
        aclose=(_CLOSED,),
        drop=(_CLOSED,),
    ),
    Phase.PAUSING: Transitions(
        pull=(_OPENING,),
        opened=(),
        read=(),
        failed=(_CLOSED,),
        cancel=(_CLOSED,),
        aclose=(_CLOSED,),
        drop=(_CLOSED,),
    ),
    Phase.HANDING_OUT: Transitions(
        pull=(_DONE,),
        opened=(),
        read=(),
        failed=(_CLOSED,),
        cancel=(_DONE, _CLOSED),
        aclose=(_DONE, _CLOSED),
        drop=(_DONE, _CLOSED),
    ),
    Phase.DONE: Transitions(
        pull=(_DONE,),
        opened=(),
        read=(),
        failed=(),
        cancel=(_DONE,),
        aclose=(_DONE,),
        drop=(_DONE,),
    ),
    Phase.CLOSED: Transitions(
        pull=(_CLOSED,),
        opened=(),
        read=(),
        failed=(),
        cancel=(_CLOSED,),
        aclose=(_CLOSED,),
        drop=(_CLOSED,),
    ),
}

OVER = frozenset({Phase.DONE, Phase.CLOSED})


class State:
    """The current phase of a reply, and how the reply ended."""

    __slots__ = ("cancelled", "failed", "failure", "phase", "told_end")

    def __init__(self) -> None:
        self.phase = Phase.NEW
        #: Whether `cancel()` ended it.
        self.cancelled = False
        #: Whether the reader asked for more and learned that there is nothing more.
        self.told_end = False
        #: The error to raise after everything that came has been yielded.
        self.failure: AprefillError | None = None
        #: The class name of the error that was raised.
        self.failed = ""

    def go(self, event: str, phase: Phase) -> None:
        """Change the phase because of `event`, a column of the table."""
        assert phase in getattr(TABLE[self.phase], event), f"{event}: {phase} after {self.phase}"
        self.phase = phase

    def take_failure(self) -> AprefillError:
        """Return the error and drop the reference to it. Its traceback leads back to the run: that would be a cycle."""
        failure, self.failure = self.failure, None
        assert failure is not None
        return failure

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.phase in OVER

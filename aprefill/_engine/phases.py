"""The phases of a reply, and what may happen in each. Pure."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .._errors import AprefillError


class Phase(Enum):
    """Where a reply is, and so what a pull waits for."""

    #: no request was decided on
    NEW = "new"
    #: a request is decided on; it is sent, and the head of its answer awaited
    OPENING = "opening"
    #: the answer's body is being read
    READING = "reading"
    #: a request was given up; its connection is closed, and then it may be too early for the next one
    PAUSING = "pausing"
    #: nothing more will come; what came is being handed out
    HANDING_OUT = "handing out"
    #: the reply came to its end
    DONE = "done"
    #: it was left early, cancelled, or failed
    CLOSED = "closed"


class Row(NamedTuple):
    """What may happen in a phase, and the phases that it may lead to. None: it cannot happen there."""

    #: the reader wants more, and there is nothing left to hand out
    pull: tuple[Phase, ...]
    #: a request was accepted
    opened: tuple[Phase, ...]
    #: a part of the body was read
    read: tuple[Phase, ...]
    #: the request failed, or its reply did
    failed: tuple[Phase, ...]
    #: `Reply.cancel()`, `aclose()`, and a reader that was dropped
    cancel: tuple[Phase, ...]
    aclose: tuple[Phase, ...]
    drop: tuple[Phase, ...]


_NEW, _OPENING, _READING, _PAUSING, _HANDING_OUT, _DONE, _CLOSED = Phase

#: An interrupt has one end in every phase: the connection is closed and its pool slot is back. Where a reply was handed out
#: whole it is DONE, else CLOSED; one that has sent nothing stays NEW when its reader is dropped.
TABLE = {
    Phase.NEW: Row(
        pull=(_OPENING,),
        opened=(),
        read=(),
        failed=(_NEW,),
        cancel=(_CLOSED,),
        aclose=(_CLOSED,),
        drop=(_NEW,),
    ),
    Phase.OPENING: Row(
        pull=(_OPENING,),
        opened=(_READING,),
        read=(),
        failed=(_PAUSING, _HANDING_OUT, _CLOSED),
        cancel=(_CLOSED,),
        aclose=(_CLOSED,),
        drop=(_CLOSED,),
    ),
    Phase.READING: Row(
        pull=(_READING,),
        opened=(),
        read=(_READING, _HANDING_OUT),
        failed=(_PAUSING, _HANDING_OUT, _CLOSED),
        cancel=(_CLOSED,),
        aclose=(_CLOSED,),
        drop=(_CLOSED,),
    ),
    Phase.PAUSING: Row(
        pull=(_OPENING,),
        opened=(),
        read=(),
        failed=(_CLOSED,),
        cancel=(_CLOSED,),
        aclose=(_CLOSED,),
        drop=(_CLOSED,),
    ),
    Phase.HANDING_OUT: Row(
        pull=(_DONE,),
        opened=(),
        read=(),
        failed=(_CLOSED,),
        cancel=(_DONE, _CLOSED),
        aclose=(_DONE, _CLOSED),
        drop=(_DONE, _CLOSED),
    ),
    Phase.DONE: Row(
        pull=(_DONE,),
        opened=(),
        read=(),
        failed=(),
        cancel=(_DONE,),
        aclose=(_DONE,),
        drop=(_DONE,),
    ),
    Phase.CLOSED: Row(
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
    """The phase that a reply is in, and how it ended."""

    __slots__ = ("cancelled", "failed", "failure", "phase", "told_end")

    def __init__(self) -> None:
        self.phase = Phase.NEW
        #: `cancel()` has ended it
        self.cancelled = False
        #: the reader has asked for more and was told that there is nothing
        self.told_end = False
        #: what is raised when all that came was handed out
        self.failure: AprefillError | None = None
        #: the class of what was raised
        self.failed = ""

    def go(self, event: str, phase: Phase) -> None:
        """`event`, a column of the table, leads to `phase`."""
        assert phase in getattr(TABLE[self.phase], event), f"{event}: {phase} after {self.phase}"
        self.phase = phase

    def take_failure(self) -> AprefillError:
        """The failure, and no reference to it here: its traceback will lead back to the run, which would be a cycle."""
        failure, self.failure = self.failure, None
        assert failure is not None
        return failure

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.phase in OVER

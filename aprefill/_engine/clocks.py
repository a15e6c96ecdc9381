"""The timeouts of one request: how long the next wait may take, and which timeout ends it. Pure: takes the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import Stalled

if TYPE_CHECKING:
    from .._settings import Timeouts

_NEVER = float("inf")


class Clocks:
    """The running clocks of `Timeouts`. All times are seconds of one monotonic clock, which the caller reads.

    Every clock except the total one runs while a reader waits for the provider. It stops while the reader works on a
    chunk. The total clock is wall clock time since the first request of the reply.

    >>> from aprefill import Timeouts
    >>> clocks = Clocks(Timeouts(idle_s=5, first_token_s=8), total_at=100.0)
    >>> clocks.left(now=10.0)
    5
    >>> clocks.count(4.0)
    >>> clocks.left(now=14.0)
    4.0
    >>> clocks.due
    'first_token_s'
    """

    __slots__ = ("_first_token_s", "_idle_s", "_progress_s", "_timeouts", "_total_at", "_waited", "due", "saw_token")

    def __init__(self, timeouts: Timeouts, *, total_at: float) -> None:
        self._timeouts = timeouts
        self._first_token_s = _NEVER if timeouts.first_token_s is None else timeouts.first_token_s
        self._progress_s = _NEVER if timeouts.progress_s is None else timeouts.progress_s
        self._idle_s = _NEVER if timeouts.idle_s is None else timeouts.idle_s
        # Deadline of the whole reply.
        self._total_at = total_at
        # Seconds waited since the last progress, or since the request was sent.
        self._waited = 0.0
        #: Whether the model has written text, reasoning or a tool call.
        self.saw_token = False
        #: The clock that the last call of `left` found to expire first.
        self.due = "idle_s"

    def left(self, now: float) -> float:
        """Return the seconds until the first clock expires, for a wait that begins now. 0 or less: one has expired."""
        if self.saw_token:
            left, due = self._progress_s - self._waited, "progress_s"
        else:
            left, due = self._first_token_s - self._waited, "first_token_s"
        if self._idle_s <= left:
            left, due = self._idle_s, "idle_s"
        if self._total_at - now < left:
            left, due = self._total_at - now, "total_s"
        self.due = due
        return left

    def count(self, waited_s: float) -> None:
        """Add to the time that the reader has waited."""
        self._waited += waited_s

    def note_progress(self) -> None:
        """The model has written something, so the progress clock starts again."""
        self.saw_token = True
        self._waited = 0.0

    def stalled(self, received_bytes: int) -> Stalled:
        """Return the error for the clock that `left` found."""
        return Stalled(self.due, getattr(self._timeouts, self.due), received_bytes=received_bytes)

"""Measures how late this machine wakes a thread: the control for a limit of some milliseconds."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

#: If a machine wakes a thread this many seconds too late, it cannot keep a limit of 50 ms.
LATE_S = 0.015

_EVERY_S = 0.002


class Lateness:
    """Sleeps repeatedly in its own thread, and records the longest delay with which it was woken.

    The thread does not use the event loop that is measured, so a fault that blocks the loop does not look like a slow
    machine. Code that holds the interpreter's lock delays the thread by at most the switch interval, 5 ms.
    """

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def late(self) -> bool:
        """Whether the machine was too slow for a limit of 50 ms to mean anything."""
        return self.worst_s > LATE_S

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            began = time.perf_counter()
            time.sleep(_EVERY_S)
            self.worst_s = max(self.worst_s, time.perf_counter() - began - _EVERY_S)

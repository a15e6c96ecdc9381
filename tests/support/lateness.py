"""How late this machine is: the control beside a bound of some milliseconds."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

#: A machine that wakes a thread so much too late, in seconds, cannot keep a bound of 50 ms.
LATE_S = 0.015

_EVERY_S = 0.002


class Lateness:
    """Sleeps again and again in a thread of its own, and knows by how much it was woken too late at worst.

    The thread shares no event loop with what is measured, so that a fault that blocks the loop does not look like a
    machine that is late. What holds the interpreter's lock delays it by at most the switch interval, 5 ms.
    """

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def late(self) -> bool:
        """Whether the machine was too late for a bound of 50 ms to mean anything."""
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

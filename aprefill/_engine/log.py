"""Messages to the logger `aprefill`. They never contain a prompt, a key or the host's own words."""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING

from .._errors import AprefillError, StatusError

if TYPE_CHECKING:
    from .._plan.step import AttemptPlan

_log = logging.getLogger("aprefill")
#: Counts the replies of this process.
_numbers = count(1)


class Log:
    """The log messages of one reply."""

    __slots__ = ("_number", "_request")

    def __init__(self) -> None:
        self._number = next(_numbers)
        self._request = 0

    def _write(self, level: int, what: str, *facts: object) -> None:
        if _log.isEnabledFor(level):
            _log.log(level, f"reply %d, request %d: {what}", self._number, self._request, *facts)

    def sent(self, plan: AttemptPlan) -> None:
        self._request += 1
        target = plan.target
        self._write(logging.DEBUG, "sent to %s, model %s, mode %s", target.host, target.model, plan.mode)

    def accepted(self, status: int | None) -> None:
        self._write(logging.DEBUG, "accepted with HTTP %s", status)

    def failed(self, error: AprefillError, following: AttemptPlan | None) -> None:
        why = f"{type(error).__name__}, HTTP {error.status}" if isinstance(error, StatusError) else type(error).__name__
        if following is None:
            self._write(logging.INFO, "failed: %s", why)
        else:
            after = "failed: %s; another request follows in %.3g s, mode %s"
            self._write(logging.INFO, after, why, following.wait_s, following.mode)

    def complete(self, characters: int) -> None:
        self._write(logging.DEBUG, "complete, %d characters", characters)

    def broke(self, when: str) -> None:
        self._write(logging.INFO, "failed while %s", when)

    def left(self, when: str) -> None:
        self._write(logging.DEBUG, "left %s", when)

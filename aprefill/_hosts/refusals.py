"""Remembers what hosts have refused, for a limited time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long a refusal is remembered, in seconds. A host may support a prefill later, or another server may answer.
BELIEVED_S = 3600.0
#: Maximum number of remembered refusals. The least recently used one is removed first.
KEPT = 1024


class RefusalMemory:
    """A bounded memory of refusals. Thread-safe.

    >>> from aprefill._hosts.refusals import RefusalKey
    >>> memory = RefusalMemory()
    >>> what = RefusalKey("anthropic_messages", "https://api.anthropic.com", "claude-next", False)
    >>> memory.add(what)
    >>> what in memory, what._replace(model="claude-other") in memory
    (True, False)
    """

    def __init__(
        self, *, kept: int = KEPT, believed_s: float = BELIEVED_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kept = kept
        self._believed_s = believed_s
        self._clock = clock
        self._until: OrderedDict[RefusalKey, float] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, what: RefusalKey) -> None:
        """Remember a refusal that has just happened."""
        with self._lock:
            self._until[what] = self._clock() + self._believed_s
            self._until.move_to_end(what)
            while len(self._until) > self._kept:
                self._until.popitem(last=False)

    def __contains__(self, what: RefusalKey) -> bool:
        if not self._until:
            return False
        with self._lock:
            until = self._until.get(what)
            if until is None:
                return False
            if self._clock() >= until:
                del self._until[what]
                return False
            self._until.move_to_end(what)
            return True

    def __len__(self) -> int:
        return len(self._until)


#: The refusals of all `stream()` calls of this process that use no session.
of_this_process = RefusalMemory()


class RefusalKey(NamedTuple):
    """Key of a remembered refusal. Another protocol, host or model, or thinking on instead of off, is another key."""

    protocol: str
    base_url: str
    model: str
    thinking: bool

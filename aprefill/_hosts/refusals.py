"""What hosts have refused, remembered for a while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

from typing import TYPE_CHECKING, NamedTuple

#: How long a refusal is believed, in seconds; a host may learn to take a prefill, or another one answer in its place.
BELIEVED_S = 3600.0
#: How many are kept; the one that was used longest ago goes first.
KEPT = 1024


class RefusalMemory:
    """A bounded memory of what was refused. Safe to use from several threads.

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
        """Remember a refusal that was just met."""
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


#: What bare `stream()` calls of this process have met.
of_this_process = RefusalMemory()


class RefusalKey(NamedTuple):
    """What a refusal is about: another protocol, host, model, or thinking the other way is another matter."""

    protocol: str
    base_url: str
    model: str
    thinking: bool

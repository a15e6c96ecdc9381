"""Stream a model's reply of which you wrote the beginning: one clean stream, the prefill exactly once.

async for chunk in stream("JSON list of US state names", prefill='["', model="anthropic:claude-haiku-4-5"):
    print(chunk, end="")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from ._dedupe import dedupe as dedupe
    from ._dedupe import dedupe_sync as dedupe_sync
    from ._emulate import Emulation as Emulation
    from ._errors import AprefillError as AprefillError
    from ._errors import ConnectFailed as ConnectFailed
    from ._errors import LimitExceeded as LimitExceeded
    from ._errors import PrefillIgnored as PrefillIgnored
    from ._errors import PrefillRefused as PrefillRefused
    from ._errors import ProtocolError as ProtocolError
    from ._errors import ProviderError as ProviderError
    from ._errors import ReplyClosed as ReplyClosed
    from ._errors import ReplyConsumed as ReplyConsumed
    from ._errors import Stalled as Stalled
    from ._errors import StatusError as StatusError
    from ._errors import Truncated as Truncated
    from ._errors import UsageError as UsageError
    from ._reply import Reply as Reply
    from ._seam import Seam as Seam
    from ._session import Session as Session
    from ._session import stream as stream
    from ._support import Row as Row
    from ._support import Table as Table
    from ._support import support_table as support_table
    from ._sync import SyncReply as SyncReply
    from ._sync import SyncSession as SyncSession
    from ._sync import stream_sync as stream_sync
    from ._types import AttemptEnded as AttemptEnded
    from ._types import AttemptReport as AttemptReport
    from ._types import AttemptStarted as AttemptStarted
    from ._types import Event as Event
    from ._types import HeldEvent as HeldEvent
    from ._types import Limits as Limits
    from ._types import ReasoningEvent as ReasoningEvent
    from ._types import Recovery as Recovery
    from ._types import StopReason as StopReason
    from ._types import Support as Support
    from ._types import TextEvent as TextEvent
    from ._types import Timeouts as Timeouts
    from ._types import Timing as Timing
    from ._types import ToolEvent as ToolEvent
    from ._types import Usage as Usage
    from ._types import Verdict as Verdict

#: Where each public name lives. Resolved on first use (PEP 562), so that `import aprefill` costs next to nothing.
_HOMES = {
    "_dedupe": ("dedupe", "dedupe_sync"),
    "_emulate": ("Emulation",),
    "_errors": (
        "AprefillError",
        "ConnectFailed",
        "LimitExceeded",
        "PrefillIgnored",
        "PrefillRefused",
        "ProtocolError",
        "ProviderError",
        "ReplyClosed",
        "ReplyConsumed",
        "Stalled",
        "StatusError",
        "Truncated",
        "UsageError",
    ),
    "_reply": ("Reply",),
    "_seam": ("Seam",),
    "_session": ("Session", "stream"),
    "_support": ("Row", "Table", "support_table"),
    "_sync": ("SyncReply", "SyncSession", "stream_sync"),
    "_types": (
        "AttemptEnded",
        "AttemptReport",
        "AttemptStarted",
        "Event",
        "HeldEvent",
        "Limits",
        "ReasoningEvent",
        "Recovery",
        "StopReason",
        "Support",
        "TextEvent",
        "Timeouts",
        "Timing",
        "ToolEvent",
        "Usage",
        "Verdict",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = (
    "AprefillError",
    "AttemptEnded",
    "AttemptReport",
    "AttemptStarted",
    "ConnectFailed",
    "Emulation",
    "Event",
    "HeldEvent",
    "LimitExceeded",
    "Limits",
    "PrefillIgnored",
    "PrefillRefused",
    "ProtocolError",
    "ProviderError",
    "ReasoningEvent",
    "Recovery",
    "Reply",
    "ReplyClosed",
    "ReplyConsumed",
    "Row",
    "Seam",
    "Session",
    "Stalled",
    "StatusError",
    "StopReason",
    "Support",
    "SyncReply",
    "SyncSession",
    "Table",
    "TextEvent",
    "Timeouts",
    "Timing",
    "ToolEvent",
    "Truncated",
    "Usage",
    "UsageError",
    "Verdict",
    "dedupe",
    "dedupe_sync",
    "stream",
    "stream_sync",
    "support_table",
)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

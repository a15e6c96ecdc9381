"""Stream a model's reply whose beginning you wrote. The beginning (the prefill) is in the reply exactly once.

async for chunk in stream("JSON list of US state names", prefill='["', model="anthropic:claude-haiku-4-5"):
    print(chunk, end="")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from ._dedupe import Deduped as Deduped
    from ._dedupe import DedupedSync as DedupedSync
    from ._dedupe import DedupeShowWhen as DedupeShowWhen
    from ._dedupe import dedupe as dedupe
    from ._dedupe import dedupe_sync as dedupe_sync
    from ._deltas import Message as Message
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
    from ._events import AttemptEnded as AttemptEnded
    from ._events import AttemptReport as AttemptReport
    from ._events import AttemptStarted as AttemptStarted
    from ._events import Event as Event
    from ._events import HeldEvent as HeldEvent
    from ._events import ReasoningEvent as ReasoningEvent
    from ._events import TextEvent as TextEvent
    from ._events import Timing as Timing
    from ._events import ToolEvent as ToolEvent
    from ._hosts.row import KnownRefusal as KnownRefusal
    from ._hosts.row import SupportRow as SupportRow
    from ._hosts.table import SupportTable as SupportTable
    from ._hosts.table import support_table as support_table
    from ._plan.emulate import Emulation as Emulation
    from ._plan.options import Absent as Absent
    from ._plan.options import Prompt as Prompt
    from ._plan.options import ShowWhen as ShowWhen
    from ._plan.options import Unset as Unset
    from ._reply import Reply as Reply
    from ._seam.seam import Echo as Echo
    from ._seam.seam import Seam as Seam
    from ._session import Session as Session
    from ._session import stream as stream
    from ._settings import Limits as Limits
    from ._settings import Recovery as Recovery
    from ._settings import Timeouts as Timeouts
    from ._sync import SyncReply as SyncReply
    from ._sync import SyncSession as SyncSession
    from ._sync import stream_sync as stream_sync
    from ._types import StopReason as StopReason
    from ._types import Support as Support
    from ._types import Usage as Usage
    from ._types import Verdict as Verdict

#: Module of each public name. A name is imported on first use (PEP 562), so that `import aprefill` stays fast.
_HOMES = {
    "_dedupe": (
        "DedupeShowWhen",
        "Deduped",
        "DedupedSync",
        "dedupe",
        "dedupe_sync",
    ),
    "_deltas": ("Message",),
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
    "_events": (
        "AttemptEnded",
        "AttemptReport",
        "AttemptStarted",
        "Event",
        "HeldEvent",
        "ReasoningEvent",
        "TextEvent",
        "Timing",
        "ToolEvent",
    ),
    "_hosts.row": (
        "KnownRefusal",
        "SupportRow",
    ),
    "_hosts.table": (
        "SupportTable",
        "support_table",
    ),
    "_plan.emulate": ("Emulation",),
    "_plan.options": (
        "Absent",
        "Prompt",
        "ShowWhen",
        "Unset",
    ),
    "_reply": ("Reply",),
    "_seam.seam": (
        "Echo",
        "Seam",
    ),
    "_session": (
        "Session",
        "stream",
    ),
    "_settings": (
        "Limits",
        "Recovery",
        "Timeouts",
    ),
    "_sync": (
        "SyncReply",
        "SyncSession",
        "stream_sync",
    ),
    "_types": (
        "StopReason",
        "Support",
        "Usage",
        "Verdict",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = (
    "Absent",
    "AprefillError",
    "AttemptEnded",
    "AttemptReport",
    "AttemptStarted",
    "ConnectFailed",
    "DedupeShowWhen",
    "Deduped",
    "DedupedSync",
    "Echo",
    "Emulation",
    "Event",
    "HeldEvent",
    "KnownRefusal",
    "LimitExceeded",
    "Limits",
    "Message",
    "PrefillIgnored",
    "PrefillRefused",
    "Prompt",
    "ProtocolError",
    "ProviderError",
    "ReasoningEvent",
    "Recovery",
    "Reply",
    "ReplyClosed",
    "ReplyConsumed",
    "Seam",
    "Session",
    "ShowWhen",
    "Stalled",
    "StatusError",
    "StopReason",
    "Support",
    "SupportRow",
    "SupportTable",
    "SyncReply",
    "SyncSession",
    "TextEvent",
    "Timeouts",
    "Timing",
    "ToolEvent",
    "Truncated",
    "Unset",
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

"""Records, deltas and `ModelInput`, the values that a codec reads and makes.

A record is one decoded wire event. A codec turns each record into deltas. `ModelInput` is a request before a codec
encodes it.

A delta is made for every token. So deltas are msgspec structs, most of them without GC tracking.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from ._types import StopReason, Usage


class Record(Struct, frozen=True, gc=False):
    """One decoded wire event: the bytes of its payload, and its event name and id if the framing has them."""

    data: bytes
    event: str = ""
    id: str = ""


class TextDelta(Struct, frozen=True, gc=False):
    """A piece of the reply's text."""

    text: str


class ReasoningDelta(Struct, frozen=True, gc=False):
    """A piece of the model's reasoning, if the host shows it."""

    text: str


class ToolDelta(Struct, frozen=True, gc=False):
    """A piece of a tool call. `arguments` is a fragment of JSON text. Only the first piece has `id` and `name`."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class UsageDelta(Struct, frozen=True):
    """Token counts so far. A later delta replaces an earlier one."""

    usage: Usage


class FinishDelta(Struct, frozen=True):
    """Why the model stopped. `raw` is the host's own word."""

    reason: StopReason
    raw: str
    sequence: str | None = None


class ErrorDelta(Struct, frozen=True, eq=False):
    """The host reported an error inside the stream. Everything after it is ignored."""

    status: int
    error_type: str
    detail: str
    #: The host's whole error text. It is searched for the messages with which hosts are known to refuse a prefill. It
    #: may quote the prompt, so the repr leaves it out. Equality ignores it.
    body: str = ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ErrorDelta):
            return NotImplemented
        return (self.status, self.error_type, self.detail) == (other.status, other.error_type, other.detail)

    def __hash__(self) -> int:
        return hash((self.status, self.error_type, self.detail))

    def __repr__(self) -> str:
        return f"ErrorDelta(status={self.status}, error_type={self.error_type!r}, detail={self.detail!r})"


class EndDelta(Struct, frozen=True):
    """The end marker of the protocol. Text after it does not belong to the reply."""


class BlockDelta(Struct, frozen=True):
    """Other data that the assistant turn of the next request needs, for example signatures.

    It is never yielded to the caller. `step`, `number` and `value` have a meaning only for the codec that made them.
    """

    step: str
    number: int = 0
    value: Any = None


Delta: TypeAlias = (
    TextDelta | ReasoningDelta | ToolDelta | UsageDelta | FinishDelta | ErrorDelta | EndDelta | BlockDelta
)


Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ModelInput:
    """One request in neutral terms, ready for a codec to encode. It has no repr, because it contains the prompt."""

    model: str
    messages: tuple[Message, ...]
    system: str | None = None
    max_tokens: int | None = None
    #: The stop sequences that are sent to the host.
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    thinking: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    response_format: dict[str, Any] | None = None
    #: The name of the field for `max_tokens`, if the hosts of the protocol differ in it. From the host's row.
    token_field: str = "max_tokens"  # noqa: S105 - a field's name
    #: Whether the request asks for usage, if the protocol has a field for that. False if the host refuses this field.
    asks_usage: bool = True
    #: Text that the reply will probably repeat, for hosts that are faster if they get it.
    prediction: str = ""
    #: Body fields for the prefill, in the host's wire form (its dialect). They override everything above.
    fields: dict[str, Any] = field(default_factory=dict)
    #: Body fields from the caller. They override `fields` too.
    extra: dict[str, Any] = field(default_factory=dict)

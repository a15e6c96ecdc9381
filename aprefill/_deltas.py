"""What the decoders give: wire records, and the deltas that a codec makes of them. Also a request's model input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from ._types import StopReason, Usage


class Record(Struct, frozen=True, gc=False):
    """One decoded wire event: the payload's bytes and what framed it."""

    data: bytes
    event: str = ""
    id: str = ""


class TextDelta(Struct, frozen=True, gc=False):
    """Text of the reply itself."""

    text: str


class ReasoningDelta(Struct, frozen=True, gc=False):
    """Text of the model's reasoning, where the host shows it."""

    text: str


class ToolDelta(Struct, frozen=True, gc=False):
    """A piece of a tool call. `arguments` is a fragment of JSON text; `id` and `name` come with the first piece."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class UsageDelta(Struct, frozen=True):
    """What the host has counted so far; a later one replaces an earlier one."""

    usage: Usage


class FinishDelta(Struct, frozen=True):
    """Why the model stopped. `raw` is the host's word."""

    reason: StopReason
    raw: str
    sequence: str | None = None


class ErrorDelta(Struct, frozen=True, eq=False):
    """The host reported an error inside the stream. Nothing after it counts."""

    status: int
    error_type: str
    detail: str
    #: all that the host said, in which the words of a refusal are looked for. It may quote the prompt, so it is in no repr;
    #: two errors are equal without it
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
    """The protocol's end. Text after it is not text of the reply."""


class BlockDelta(Struct, frozen=True):
    """What the assistant turn for the next request needs beside text, reasoning and tool calls: signatures, for example.

    Nothing of it is handed out. Only the codec that made it knows what `step`, `number` and `value` mean.
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
    """One request in neutral terms, ready for a codec to encode. It has no repr: it holds the prompt."""

    model: str
    messages: tuple[Message, ...]
    system: str | None = None
    max_tokens: int | None = None
    #: the sequences the host may be told
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    thinking: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    response_format: dict[str, Any] | None = None
    #: which field carries `max_tokens` on chat completions: "max_tokens" or "max_completion_tokens"
    token_field: str = "max_tokens"  # noqa: S105 - a field's name
    #: chat completions: the usage must be asked for; False where the host refuses the field that asks
    asks_usage: bool = True
    #: text that the reply is likely to repeat, for a host that is faster when it is told
    prediction: str = ""
    #: body fields that win over everything above: the dialect's, and the caller's, which win over the dialect's too
    fields: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

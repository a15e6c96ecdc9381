"""The values that travel between the layers, and those the caller sees.

What a codec makes of a record is a *delta*; what `Reply.events()` gives the caller is an *event*. Deltas are
msgspec structs without GC tracking: one is made for every token. What the caller sees is a frozen dataclass with
`as_dict()`, because web frameworks turn dataclasses into JSON by themselves.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from msgspec import Struct

from ._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Support(StrEnum):
    """What a host does with an assistant prefill (simonw/llm issue 463)."""

    #: native: the reply leaves the prefill out
    EATS = "eats"
    #: native: the reply repeats the prefill
    ECHOES = "echoes"
    #: only by asking in the prompt
    EMULATED = "emulated"
    #: refused, and asking does not help
    UNSUPPORTED = "unsupported"


class Verdict(StrEnum):
    """What the seam found at the start of a provider's text."""

    #: not enough text yet
    UNDECIDED = "undecided"
    #: no echo: the text goes on from the known text
    ABSENT = "absent"
    #: the known text was repeated, and dropped
    ECHOED = "echoed"
    #: it was repeated inside a Markdown fence
    FENCED = "fenced"
    #: it was repeated behind chatter
    PREFACED = "prefaced"
    #: the text began with a tail of the known text
    OVERLAPPED = "overlapped"
    #: the stream was cut inside a possible repetition
    TRUNCATED = "truncated"


class StopReason(StrEnum):
    """Why the model stopped, in one vocabulary. The host's own word is `AttemptReport.raw_stop_reason`."""

    #: the model came to its end
    END = "end"
    #: a stop sequence was met; `stop_sequence` says which, where known
    STOP_SEQUENCE = "stop_sequence"
    #: the token limit of the request
    MAX_TOKENS = "max_tokens"
    #: the model wants a tool called
    TOOL_USE = "tool_use"
    #: the provider's safety layer or the model declined
    REFUSAL = "refusal"
    #: a long-running turn was paused by the host; send it back to go on
    PAUSE = "pause"
    #: the model's context window is full
    CONTEXT_WINDOW = "context_window"
    #: the caller ended the reply with `cancel()`
    CANCELLED = "cancelled"
    #: a word this version does not know
    OTHER = "other"


class Value:
    """What the values that the caller sees have in common. Each of them is a frozen dataclass.

    >>> Usage(input_tokens=7, output_tokens=5).as_dict()["output_tokens"]
    5
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def as_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold: every field, None where nothing is known, enums as words, values inside as dicts."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return value.as_dict()
    return value.value if isinstance(value, Enum) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Value):
    """Tokens as the host counted them. None: the host did not say.

    `input_tokens` are the prompt's tokens billed at the full rate or, on hosts that only give a total, all of
    them; cached ones are counted apart where the host does. `output_tokens` include reasoning, and the repetition
    of an emulated prefill: `echo_tokens` is our estimate of that part, by its share of the text.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    echo_tokens: int | None = None

    def __add__(self, other: Usage) -> Usage:
        def add(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None else a + b

        return Usage(
            input_tokens=add(self.input_tokens, other.input_tokens),
            output_tokens=add(self.output_tokens, other.output_tokens),
            cache_read_tokens=add(self.cache_read_tokens, other.cache_read_tokens),
            cache_write_tokens=add(self.cache_write_tokens, other.cache_write_tokens),
            reasoning_tokens=add(self.reasoning_tokens, other.reasoning_tokens),
            echo_tokens=add(self.echo_tokens, other.echo_tokens),
        )


def sum_of(counted: Iterable[Usage | None]) -> Usage | None:
    """The sum of what is known; None: nothing is."""
    total: Usage | None = None
    for usage in counted:
        if usage is not None:
            total = usage if total is None else total + usage
    return total


# --- wire -----------------------------------------------------------------------------------------------------


class Record(Struct, frozen=True, gc=False):
    """One decoded wire event: the payload's bytes and what framed it."""

    data: bytes
    event: str = ""
    id: str = ""


# --- deltas ---------------------------------------------------------------------------------------------------


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


# --- requests -------------------------------------------------------------------------------------------------

Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Call:
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
    #: body fields that win over everything above: the dialect's first, then the caller's `extra`
    fields: dict[str, Any] = field(default_factory=dict)


# --- what the caller sets -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait for the provider, in seconds; None switches a clock off.

    `total_s` is wall clock: it counts the time that the caller takes with a chunk, and waits between requests. All other
    clocks run only while this library waits for the provider. A clock that runs out raises `Stalled`, which names it,
    when the next chunk is asked for, never inside the caller's own code.
    """

    #: to the connection, TLS included
    connect_s: float | None = 15.0
    #: from the request to the first text, reasoning or tool call
    first_token_s: float | None = 600.0
    #: between two of those; keep-alives do not feed it, reasoning does
    progress_s: float | None = 300.0
    #: between two reads of any bytes, and to the response's first ones
    idle_s: float | None = 300.0
    #: the whole reply, from its first request to its end, wall clock
    total_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect_s", "first_token_s", "progress_s", "idle_s", "total_s"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not _is_time(value):
                raise UsageError(f"Timeouts({name}={str(value)[:40]}): pass seconds above 0, or None for no limit")


def _is_time(value: float) -> bool:
    try:
        return float(value) > 0
    except OverflowError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What is done about a failure before anything of the reply came, by sending the same request again.

    Such failures are HTTP 408, 409, 429 and 5xx, an error of those kinds inside the stream, a connection that could
    not be made or was cut, all of them before the first text, reasoning or tool call. Once something came, the error
    is raised, with `text_so_far`.
    """

    #: how often at most; 0: never
    retries: int = 2
    #: the longest wait before one of them, in seconds. A host that asks for more (`Retry-After`) gets no second
    #: request: its error is raised at once
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise UsageError(f"Recovery(retries={self.retries!r}): pass a whole number, 0 or more")
        wait = self.max_wait_s
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
            raise UsageError(f"Recovery(max_wait_s={wait!r}): pass seconds, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is taken from the provider. What exceeds a bound raises `LimitExceeded`, which names it."""

    #: one record of the stream, in bytes: an event, a line, a frame. A host that sends images in its stream needs more
    record_bytes: int = 1_048_576
    #: how much of an error's body is read, in bytes; the rest is left unread, and that is no error
    error_body_bytes: int = 65_536
    #: after the end of a reply, how long the body is read on so that the connection can be used again, in seconds;
    #: 0: not at all
    drain_s: float = 0.05
    #: the text of the whole reply, the prefill included, in characters; None: no limit. Text up to the bound is handed
    #: out, then the error is raised. Reasoning and tool calls do not count
    reply_chars: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("record_bytes", 1), ("error_body_bytes", 0), ("reply_chars", 1)):
            value = getattr(self, name)
            if name == "reply_chars" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                none = ", or None for no limit" if name == "reply_chars" else ""
                raise UsageError(f"Limits({name}={str(value)[:40]}): pass a whole number, {least} or more{none}")
        drain = self.drain_s
        if isinstance(drain, bool) or not isinstance(drain, int | float) or not (drain == 0 or _is_time(drain)):
            raise UsageError(f"Limits(drain_s={str(drain)[:40]}): pass seconds, 0 or more")


# --- what the caller sees -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing(Value):
    """When things happened, in seconds since the request began; None: not yet, or never.

    `first_token_s` is the first non-empty token of any kind that the model produced (time to first token as
    benchmarks define it); the prefill never counts. `first_text_s` is the first new text that could be handed
    out, `held_s` how long the seam had held it back.
    """

    accepted_s: float | None = None
    first_token_s: float | None = None
    first_text_s: float | None = None
    held_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport(Value):
    """What one request did.

    `mode` is how it carried the prefill: "native", "emulated", or "none" when there was none. `error` is the class
    of what it failed with, ``""`` if it did not; `waited_s` how long was waited before it was sent. `broken_end` is the
    class of what broke the stream after the model had given its stop reason: the reply is complete, so it is no failure.
    """

    number: int
    provider: str
    model: str
    mode: str
    support: Support
    verdict: Verdict
    status: int | None = None
    request_id: str | None = None
    usage: Usage | None = None
    stop_reason: StopReason | None = None
    raw_stop_reason: str | None = None
    stop_sequence: str | None = None
    received_bytes: int = 0
    error: str = ""
    waited_s: float = 0.0
    broken_end: str = ""


@dataclass(frozen=True, slots=True)
class TextEvent(Value):
    """A piece of the reply. `offset` is where it begins in the whole reply, in characters, the prefill counted."""

    text: str
    offset: int
    prefill: bool = False


@dataclass(frozen=True, slots=True)
class HeldEvent(Value):
    """What of the model's text is held back now, because it may still turn out not to be the reply's.

    Only from `events(held=True)`. It may be a repetition of the prefill, a fence or a stop sequence in the making. With
    `more`, `text` comes behind what was held before and still is; without, it is all that is held: ``""`` when everything
    is decided. What was held is then in the `TextEvent` that follows, or in none. Behind the end of the reply, or an
    error, nothing is held.
    """

    text: str
    more: bool = False


@dataclass(frozen=True, slots=True)
class ReasoningEvent(Value):
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolEvent(Value):
    """A piece of a tool call; `arguments` is a fragment of JSON text, to be joined per `index`."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class AttemptStarted(Value):
    """A request goes out: it is sent when the next event is asked for."""

    number: int
    mode: str
    support: Support


@dataclass(frozen=True, slots=True)
class AttemptEnded(Value):
    """A request is over; `report` is what it did."""

    report: AttemptReport


Event: TypeAlias = TextEvent | HeldEvent | ReasoningEvent | ToolEvent | AttemptStarted | AttemptEnded

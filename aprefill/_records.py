"""What a client is told: JSON objects with a `type`. Their fields are a stable format, described in docs/web.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import Struct

from . import (
    AprefillError,
    AttemptEnded,
    AttemptStarted,
    ConnectFailed,
    HeldEvent,
    LimitExceeded,
    PrefillIgnored,
    PrefillRefused,
    ProtocolError,
    ReasoningEvent,
    ReplyClosed,
    Stalled,
    StatusError,
    StopReason,
    Support,
    TextEvent,
    Timing,
    ToolEvent,
    Truncated,
    Usage,
    Verdict,
)
from ._codecs._surrogates import mend_all

if TYPE_CHECKING:
    from . import Event, Reply


class TextRecord(Struct, tag="text", frozen=True, omit_defaults=True):
    """A piece of the reply, and where it begins in the whole of it."""

    text: str
    offset: int
    prefill: bool = False


class HeldRecord(Struct, tag="held", frozen=True, omit_defaults=True):
    """The model's text that is not handed out yet; with `more` it comes behind what was held already."""

    text: str
    more: bool = False


class ReasoningRecord(Struct, tag="reasoning", frozen=True):
    """A piece of the model's reasoning."""

    text: str


class ToolRecord(Struct, tag="tool", frozen=True):
    """A piece of a tool call; `arguments` is a fragment of JSON text."""

    index: int
    id: str
    name: str
    arguments: str


class AttemptRecord(Struct, tag="attempt", frozen=True, omit_defaults=True):
    """A request was sent; or it failed, with an `error` of this class, and with the `status` that the host answered."""

    number: int
    mode: str
    support: Support
    error: str = ""
    status: int | None = None


class EndRecord(Struct, tag="end", frozen=True, kw_only=True):
    """The reply is over."""

    verdict: Verdict
    mode: str | None
    support: Support | None
    stop_reason: StopReason | None
    stop_sequence: str | None
    length: int
    attempts: int
    usage: Usage | None
    timing: Timing


class ErrorRecord(Struct, tag="error", frozen=True, kw_only=True, omit_defaults=True):
    """The reply failed. `length` is where a continuation would begin. `status` is the host's, sent with the details."""

    error: str
    message: str
    can_continue: bool
    length: int
    status: int | None = None
    retry_after_s: float | None = None


class PingRecord(Struct, tag="ping", frozen=True):
    """The connection is alive, and the model still silent."""


Record: TypeAlias = (
    TextRecord | HeldRecord | ReasoningRecord | ToolRecord | AttemptRecord | EndRecord | ErrorRecord | PingRecord
)

PING = PingRecord()


class Records:
    """Makes records of a reply's events, in order, and knows how much text the client has."""

    def __init__(
        self, reply: Reply, *, reasoning: bool, tools: bool, attempts: bool, held: bool, details: bool
    ) -> None:
        self._reply = reply
        #: whether the client asked for the text that is held
        self.wants_held = held
        self._reasoning = reasoning
        self._tools = tools
        self._attempts = attempts
        self._details = details
        #: the offset behind the text so far
        self.offset = 0
        self._has_new = False
        self._has_tool = False

    def note(self, event: Event) -> None:
        """Count one event, just before its record is sent, if it has one: what is never sent must not be counted."""
        if isinstance(event, TextEvent):
            self.offset = event.offset + len(event.text)
            self._has_new = self._has_new or not event.prefill
        elif isinstance(event, ToolEvent):
            self._has_tool = True

    def of(self, event: Event) -> Record | None:
        """The record of one event; None: the client did not ask for its kind."""
        match event:
            case TextEvent(text=text, offset=offset, prefill=prefill):
                return TextRecord(text, offset, prefill)
            case HeldEvent():
                return HeldRecord(event.text, event.more)
            case ReasoningEvent():
                return ReasoningRecord(event.text) if self._reasoning else None
            case ToolEvent():
                if self._tools:
                    return ToolRecord(event.index, event.id, event.name, event.arguments)
            case AttemptStarted():
                if self._attempts:
                    return AttemptRecord(event.number, event.mode, event.support)
            case AttemptEnded(report=report):
                if self._attempts and report.error:
                    return AttemptRecord(report.number, report.mode, report.support, report.error, report.status)
        return None

    def end(self) -> EndRecord:
        """The last record of a reply that came to its end, or was stopped."""
        reply = self._reply
        return EndRecord(
            verdict=reply.verdict,
            mode=reply.mode,
            support=reply.support,
            stop_reason=reply.stop_reason,
            stop_sequence=reply.stop_sequence,
            # of the whole reply, a hidden prefill too
            length=max(self.offset, len(reply.text_so_far)),
            attempts=len(reply.attempts),
            usage=reply.usage,
            timing=reply.timing,
        )

    def error(self, error: AprefillError) -> ErrorRecord:
        """The last record of a reply that failed."""
        return ErrorRecord(
            error=type(error).__name__,
            message=str(error) if self._details else public_message(error),
            can_continue=self._can_continue(error),
            # of what was sent
            length=self.offset,
            status=error.status if self._details and isinstance(error, StatusError) else None,
            retry_after_s=error.retry_after_s if isinstance(error, StatusError) else None,
        )

    def _can_continue(self, error: AprefillError) -> bool:
        """Whether asking again, with the text so far as the prefill, may well go on from there."""
        if self._has_tool:
            return False
        if self._has_new and isinstance(error, ProtocolError | Truncated):
            # with more of a prefill the next request is another one
            return True
        return error.may_pass or isinstance(error, Stalled | ReplyClosed)


#: Statuses of a host that has too much to do.
BUSY = {429, 503, 529}

#: What strangers may read. The error's own sentence may hold the host's words, model names and addresses.
_PUBLIC: dict[type[AprefillError], str] = {
    ConnectFailed: "the model could not be reached",
    Truncated: "the reply was cut off",
    Stalled: "the model fell silent",
    PrefillRefused: "the model does not take the beginning of its reply",
    ReplyClosed: "the server has ended the reply",
    PrefillIgnored: "the model did not begin its reply as asked",
    LimitExceeded: "the model sent something that cannot be used",
    ProtocolError: "the model sent something that cannot be used",
}


def public_message(error: AprefillError) -> str:
    """A sentence about `error` that quotes nobody."""
    if isinstance(error, StatusError):
        return "the model is busy" if error.status in BUSY else "the model answered with an error"
    return _PUBLIC.get(type(error), "the server could not make this request")


def http_status(error: AprefillError) -> int:
    """The HTTP status for an error before the first record."""
    if isinstance(error, StatusError):
        if error.status == 429:
            return 429
        if error.status in BUSY:
            return 503
        return 504 if error.status in {408, 504} else 502
    if isinstance(error, Stalled):
        return 504
    if isinstance(error, ReplyClosed):
        return 503
    if isinstance(error, PrefillRefused):
        return 422
    return 502 if type(error) in _PUBLIC else 500


def close_code(error: AprefillError | None) -> int:
    """The WebSocket close code (RFC 6455 7.4, and 1013 of its registry: try again later)."""
    if error is None:
        return 1000
    return 1013 if isinstance(error, StatusError) and error.status in BUSY else 1011


_fast = msgspec.json.Encoder().encode


def _encode(record: Record) -> bytes:
    """The record as JSON. Nothing that a host said may keep a client from its last record.

    msgspec refuses half a surrogate pair, of which the codecs let none through, and whole numbers beyond 64 bits.
    """
    try:
        return _fast(record)
    except (UnicodeEncodeError, OverflowError):
        pass  # outside of the handler nothing is chained: the error carries the text
    plain = mend_all(msgspec.to_builtins(record))
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def as_json(record: Record) -> bytes:
    """One line of JSON.

    >>> as_json(TextRecord("Ala", 2))
    b'{"type":"text","text":"Ala","offset":2}'
    """
    return _encode(record)


#: What ends a line for many a reader of lines, `str.splitlines` among them, and for none of events.
_LINE_ENDS = {char.encode(): f"\\u{ord(char):04x}".encode() for char in "\u0085\u2028\u2029"}


def as_event(record: Record, offset: int) -> bytes:
    r"""A server-sent event; its id is the offset behind the text so far.

    >>> as_event(TextRecord('["', 0, prefill=True), 2)
    b'event: text\nid: 2\ndata: {"type":"text","text":"[\\"","offset":0,"prefill":true}\n\n'
    """
    data = _encode(record)
    for char, escape in _LINE_ENDS.items():
        data = data.replace(char, escape)
    kind = record.__struct_config__.tag
    return b"event: %s\nid: %d\ndata: %s\n\n" % (str(kind).encode(), offset, data)

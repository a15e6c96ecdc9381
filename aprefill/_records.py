"""The messages to a web client: JSON objects with a `type`. Their fields are a stable format; see docs/web.md."""

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
    """A piece of the reply. `offset` is its position in the whole reply."""

    text: str
    offset: int
    prefill: bool = False


class HeldRecord(Struct, tag="held", frozen=True, omit_defaults=True):
    """Model text that is held back. With `more`, it is appended to the text that was held before."""

    text: str
    more: bool = False


class ReasoningRecord(Struct, tag="reasoning", frozen=True):
    """A piece of the model's reasoning."""

    text: str


class ToolRecord(Struct, tag="tool", frozen=True):
    """A piece of a tool call. `arguments` is a fragment of JSON text."""

    index: int
    id: str
    name: str
    arguments: str


class AttemptRecord(Struct, tag="attempt", frozen=True, omit_defaults=True):
    """A request was sent, or it failed. After a failure, `error` is the error class and `status` the host's status."""

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
    """The reply failed. A continuation would begin at `length`. `status` is the host's HTTP status.

    The status is sent only if the web application allows details of errors (`details=True`).
    """

    error: str
    message: str
    can_continue: bool
    length: int
    status: int | None = None
    retry_after_s: float | None = None


class PingRecord(Struct, tag="ping", frozen=True):
    """The connection is alive, but the model has written nothing new."""


ReplyRecord: TypeAlias = (
    TextRecord | HeldRecord | ReasoningRecord | ToolRecord | AttemptRecord | EndRecord | ErrorRecord | PingRecord
)

PING = PingRecord()


class Records:
    """Makes records from the events of a reply, in order, and counts how much text the client has."""

    def __init__(
        self, reply: Reply, *, reasoning: bool, tools: bool, attempts: bool, held: bool, details: bool
    ) -> None:
        self._reply = reply
        #: Whether the client asked for held text.
        self.wants_held = held
        self._reasoning = reasoning
        self._tools = tools
        self._attempts = attempts
        self._details = details
        #: The offset of the end of the text so far.
        self.offset = 0
        self._has_new = False
        self._has_tool = False

    def note(self, event: Event) -> None:
        """Count one event. Call it just before the event's record is sent: what is never sent must not be counted."""
        if isinstance(event, TextEvent):
            self.offset = event.offset + len(event.text)
            self._has_new = self._has_new or not event.prefill
        elif isinstance(event, ToolEvent):
            self._has_tool = True

    def of(self, event: Event) -> ReplyRecord | None:
        """Return the record of one event, or None if the client did not ask for this kind."""
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
        """Return the last record of a reply that was complete or was stopped."""
        reply = self._reply
        return EndRecord(
            verdict=reply.verdict,
            mode=reply.mode,
            support=reply.support,
            stop_reason=reply.stop_reason,
            stop_sequence=reply.stop_sequence,
            # The length of the whole reply. A hidden prefill counts too.
            length=max(self.offset, len(reply.text_so_far)),
            attempts=len(reply.attempts),
            usage=reply.usage,
            timing=reply.timing,
        )

    def error(self, error: AprefillError) -> ErrorRecord:
        """Return the last record of a reply that failed."""
        return ErrorRecord(
            error=type(error).__name__,
            message=str(error) if self._details else public_message(error),
            can_continue=not self._has_tool and error._can_continue(has_new=self._has_new),
            # The length of the text that was sent.
            length=self.offset,
            status=error.status if self._details and isinstance(error, StatusError) else None,
            retry_after_s=error.retry_after_s if isinstance(error, StatusError) else None,
        )


#: HTTP statuses of an overloaded host.
BUSY = {429, 503, 529}

#: What any client may read. The error's own message may contain the host's words, model names and addresses.
_PUBLIC: dict[type[AprefillError], str] = {
    ConnectFailed: "the model could not be reached",
    Truncated: "the reply was cut off",
    Stalled: "the model did not write anything for too long",
    PrefillRefused: "the model does not accept the beginning of its reply",
    ReplyClosed: "the server has ended the reply",
    PrefillIgnored: "the model did not begin its reply as asked",
    LimitExceeded: "the model sent something that cannot be used",
    ProtocolError: "the model sent something that cannot be used",
}


def public_message(error: AprefillError) -> str:
    """Return a sentence about `error` that quotes nobody."""
    if isinstance(error, StatusError):
        return "the model is busy" if error.status in BUSY else "the model answered with an error"
    return _PUBLIC.get(type(error), "the server could not make this request")


def http_status(error: AprefillError) -> int:
    """Return the HTTP status for an error before the first record."""
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
    """Return the WebSocket close code (RFC 6455 section 7.4; 1013, from the IANA registry, means: try again later)."""
    if error is None:
        return 1000
    return 1013 if isinstance(error, StatusError) and error.status in BUSY else 1011


_fast = msgspec.json.Encoder().encode


def _encode(record: ReplyRecord) -> bytes:
    """Return the record as JSON. No text of a host may prevent the last record from being sent.

    msgspec rejects integers beyond 64 bits and lone surrogates. The codecs remove lone surrogates already.
    """
    try:
        return _fast(record)
    except (UnicodeEncodeError, OverflowError):
        pass  # the code below is outside the handler, so that nothing chains this error, which contains the text
    plain = mend_all(msgspec.to_builtins(record))
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def as_json(record: ReplyRecord) -> bytes:
    """Return the record as one line of JSON.

    >>> as_json(TextRecord("Ala", 2))
    b'{"type":"text","text":"Ala","offset":2}'
    """
    return _encode(record)


#: Characters that many line readers, such as `str.splitlines`, take as a line end, but that end no line in SSE.
_LINE_ENDS = {char.encode(): f"\\u{ord(char):04x}".encode() for char in "\u0085\u2028\u2029"}


def as_event(record: ReplyRecord, offset: int) -> bytes:
    r"""Return the record as a server-sent event. Its id is the offset of the end of the text so far.

    >>> as_event(TextRecord('["', 0, prefill=True), 2)
    b'event: text\nid: 2\ndata: {"type":"text","text":"[\\"","offset":0,"prefill":true}\n\n'
    """
    data = _encode(record)
    for char, escape in _LINE_ENDS.items():
        data = data.replace(char, escape)
    kind = record.__struct_config__.tag
    return b"event: %s\nid: %d\ndata: %s\n\n" % (str(kind).encode(), offset, data)

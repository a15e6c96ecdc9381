"""AWS event streams (`application/vnd.amazon.eventstream`): bytes in, records out.

The format is https://smithy.io/2.0/aws/amazon-eventstream.html. botocore checks and parses a frame; its bytes
are collected here, because botocore's own buffer copies all it holds for every piece and for every frame.
"""

from __future__ import annotations

import struct
import sys
from importlib import import_module
from io import BytesIO
from typing import Any

import msgspec

from .._deltas import Record
from .._errors import LimitExceeded, ProtocolError, UsageError
from ._bounded import BoundedDecoder

#: Longest header block of a frame, in bytes. Bedrock sends 90; botocore's time grows with the square.
MAX_HEADER_BYTES = 8192

# The format allows no larger payload, and botocore takes none.
_FORMAT_MAX_BYTES = 24 * 1024 * 1024

# Total length, header length, checksum of the two; and the checksum at the end of the frame.
_PRELUDE_BYTES = 12
_CHECKSUM_BYTES = 4


class _Chunk(msgspec.Struct):
    """The payload of InvokeModelWithResponseStream: the model's own event in base64."""

    inner: bytes = msgspec.field(name="bytes")


class EventStreamDecoder(BoundedDecoder):
    r"""The records of one AWS event stream, each as soon as its frame is whole and its checksums hold.

    >>> decoder = EventStreamDecoder()
    >>> prelude = bytes.fromhex("0000002c 0000001a 9c71e416")
    >>> headers = b"\x0b:event-type\x07\x00\x0bmessageStop"
    >>> decoder.feed(prelude + headers)
    []
    >>> decoder.feed(b"{}" + bytes.fromhex("b92400bb"))
    [Record(data=b'{}', event='messageStop', id='')]

    `Record.event` is the frame's `:event-type` and `data` its payload. A `chunk` event, the envelope of
    InvokeModelWithResponseStream, is unwrapped: `data` is the model's own event, `event` is ``""``. For an
    exception or error frame `event` is its type, which always ends in "Exception" or "Error".

    `max_record_bytes` bounds one frame, as its first 12 bytes announce it: nothing of a longer one is taken.
    Raises `UsageError` without botocore, `LimitExceeded` beyond a bound, `ProtocolError` for anything that is
    not an event stream. Records complete before an error are not lost: the feed that has some returns them,
    and the error comes from the next `feed` or `close`, and from every one after.
    """

    def __init__(self, max_record_bytes: int = 1_048_576) -> None:
        super().__init__(min(max_record_bytes, _FORMAT_MAX_BYTES))
        try:
            self._botocore: Any = import_module("botocore.eventstream")
        except ImportError as error:
            raise UsageError(
                "this host answers in AWS binary frames, and botocore, which reads them, is not installed",
                "pip install 'aprefill[bedrock]'",
            ) from error
        # a frame is cut out of a piece of any size without a list of its parts, so there is nothing to bound
        self._slice = sys.maxsize
        # botocore's buffer for the frame at hand: it gets the prelude at once, then the rest at once.
        self._frame: Any = self._botocore.EventStreamBuffer()
        # The bytes of that piece so far, and how many it still lacks.
        self._held = BytesIO()
        self._missing = _PRELUDE_BYTES
        self._in_prelude = True
        # a whole frame was there
        self._frames = False

    @property
    def has_begun(self) -> bool:
        """Whether a frame was begun: its first 12 bytes have a checksum; of fewer, what there is must be plausible."""
        if not self._in_prelude or self._frames:
            return True
        held = self._held.getvalue()
        total = int.from_bytes(held[:4].ljust(4, b"\0"), "big")
        headers = int.from_bytes(held[4:8].ljust(4, b"\0"), "big")
        return total <= _FORMAT_MAX_BYTES + MAX_HEADER_BYTES and headers <= MAX_HEADER_BYTES

    def _last(self) -> None:
        """Nothing: half a frame has no checksum."""

    def _forget(self) -> None:
        self._held = BytesIO()
        self._frame = None

    def _take(self, data: bytes, out: list[Record]) -> None:
        at = 0
        while at < len(data):
            at += self._collect(data[at : at + self._missing])
            if self._missing:
                return
            if self._in_prelude:
                prelude = self._held.getvalue()
                self._parse()
                self._missing = self._rest_of_frame(prelude)
                self._in_prelude = False
            else:
                out.append(_record(self._parse()))
                self._frames = True
                self._missing = _PRELUDE_BYTES
                self._in_prelude = True

    def _collect(self, piece: bytes) -> int:
        self._held.write(piece)
        self._missing -= len(piece)
        return len(piece)

    def _parse(self) -> Any:
        """Hand the held bytes to botocore: None after a prelude, which it checks, then the message."""
        self._frame.add_data(self._held.getvalue())
        self._held = BytesIO()
        try:
            return next(self._frame, None)
        except self._botocore.InvalidHeadersLength as error:
            raise LimitExceeded("header_bytes", MAX_HEADER_BYTES, "bytes") from error
        except self._botocore.InvalidPayloadLength as error:
            raise LimitExceeded("record_bytes", self._max, "bytes") from error
        except (self._botocore.ParserError, struct.error, LookupError, ValueError) as error:
            raise ProtocolError(f"not an AWS event stream, or a damaged one: {error}") from error

    def _rest_of_frame(self, prelude: bytes) -> int:
        """How many bytes follow a prelude, in bounds."""
        total = int.from_bytes(prelude[:4], "big")
        headers = int.from_bytes(prelude[4:8], "big")
        if headers > MAX_HEADER_BYTES:
            raise LimitExceeded("header_bytes", MAX_HEADER_BYTES, "bytes")
        if total > self._max:
            raise LimitExceeded("record_bytes", self._max, "bytes")
        if total < _PRELUDE_BYTES + headers + _CHECKSUM_BYTES:
            raise ProtocolError(f"an event stream frame says {total} bytes with {headers} bytes of headers")
        return total - _PRELUDE_BYTES


def _record(message: Any) -> Record:
    headers: dict[str, Any] = message.headers
    payload: bytes = message.payload
    kind = headers.get(":message-type")
    if kind == "exception":
        return Record(payload, _failure(headers.get(":exception-type")))
    if kind == "error":
        # An error frame has no payload of its own: what happened stands in a header.
        said = msgspec.json.encode({"message": _text(headers.get(":error-message"))})
        return Record(payload or said, _failure(headers.get(":error-code")))
    event = _text(headers.get(":event-type"))
    if event != "chunk":
        return Record(payload, event)
    try:
        return Record(msgspec.json.decode(payload, type=_Chunk).inner)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a chunk of the event stream has no event in it: {error}") from error


def _failure(value: object) -> str:
    name = _text(value)
    return name if name.endswith(("Exception", "Error")) else name + "Error"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

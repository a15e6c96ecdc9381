"""Decoder for AWS event streams (`application/vnd.amazon.eventstream`).

The format is described at https://smithy.io/2.0/aws/amazon-eventstream.html. botocore checks and parses a frame. The
bytes of a frame are collected here, because botocore's buffer copies all of its content for every input and every
frame.
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

#: Maximum length of a frame's headers, in bytes. Bedrock sends 90. botocore's time grows with the square of the length.
MAX_HEADER_BYTES = 8192

# Maximum size of a payload, by the format and in botocore.
_FORMAT_MAX_BYTES = 24 * 1024 * 1024

# The prelude is the total length, the length of the headers, and a checksum. Another checksum ends the frame.
_PRELUDE_BYTES = 12
_CHECKSUM_BYTES = 4


class _Chunk(msgspec.Struct):
    """The payload of InvokeModelWithResponseStream: the model's own event, in base64."""

    inner: bytes = msgspec.field(name="bytes")


class EventStreamDecoder(BoundedDecoder):
    r"""Decodes one AWS event stream. Returns a record as soon as its frame is complete and its checksums are correct.

    >>> decoder = EventStreamDecoder()
    >>> prelude = bytes.fromhex("0000002c 0000001a 9c71e416")
    >>> headers = b"\x0b:event-type\x07\x00\x0bmessageStop"
    >>> decoder.feed(prelude + headers)
    []
    >>> decoder.feed(b"{}" + bytes.fromhex("b92400bb"))
    [Record(data=b'{}', event='messageStop', id='')]

    `Record.event` is the frame's `:event-type`, and `data` is its payload. A `chunk` event, the envelope of
    InvokeModelWithResponseStream, is unwrapped: `data` is the model's own event, and `event` is ``""``. For an
    exception or error frame, `event` is its type, which always ends in "Exception" or "Error".

    `max_record_bytes` limits the length of a frame, which the frame's first 12 bytes announce. A longer frame is not
    read. Raises `UsageError` if botocore is not installed, `LimitExceeded` beyond a limit, and `ProtocolError` for data
    that is not an event stream. Records that are complete before an error are not lost: `feed` returns them. The next
    call of `feed` or `close` raises the error, and so does every later call.
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
        # Slices are not needed here: a frame is read from an input of any size without a list of parts.
        self._slice = sys.maxsize
        # botocore's buffer for the current frame: it gets the prelude in one call, then the rest in one call.
        self._frame: Any = self._botocore.EventStreamBuffer()
        # The bytes received of the prelude or of the rest, and the number of bytes that are missing.
        self._held = BytesIO()
        self._missing = _PRELUDE_BYTES
        self._in_prelude = True
        # whether a complete frame was received
        self._frames = False

    @property
    def has_begun(self) -> bool:
        """Whether a frame has begun. The first 12 bytes have a checksum; fewer bytes must be a plausible beginning."""
        if not self._in_prelude or self._frames:
            return True
        held = self._held.getvalue()
        total = int.from_bytes(held[:4].ljust(4, b"\0"), "big")
        headers = int.from_bytes(held[4:8].ljust(4, b"\0"), "big")
        return total <= _FORMAT_MAX_BYTES + MAX_HEADER_BYTES and headers <= MAX_HEADER_BYTES

    def _last(self) -> None:
        """Return nothing: an incomplete frame cannot be checked."""

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
        """Pass the held bytes to botocore, which checks them. Return None after a prelude, else the message."""
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
        """Return the number of bytes that follow a prelude. Raises `LimitExceeded` or `ProtocolError`."""
        total = int.from_bytes(prelude[:4], "big")
        headers = int.from_bytes(prelude[4:8], "big")
        if headers > MAX_HEADER_BYTES:
            raise LimitExceeded("header_bytes", MAX_HEADER_BYTES, "bytes")
        if total > self._max:
            raise LimitExceeded("record_bytes", self._max, "bytes")
        if total < _PRELUDE_BYTES + headers + _CHECKSUM_BYTES:
            raise ProtocolError(f"an event stream frame of {total} bytes is too short for {headers} bytes of headers")
        return total - _PRELUDE_BYTES


def _record(message: Any) -> Record:
    headers: dict[str, Any] = message.headers
    payload: bytes = message.payload
    kind = headers.get(":message-type")
    if kind == "exception":
        return Record(payload, _failure(headers.get(":exception-type")))
    if kind == "error":
        # An error frame has no payload. The message is in a header.
        said = msgspec.json.encode({"message": _text(headers.get(":error-message"))})
        return Record(payload or said, _failure(headers.get(":error-code")))
    event = _text(headers.get(":event-type"))
    if event != "chunk":
        return Record(payload, event)
    try:
        return Record(msgspec.json.decode(payload, type=_Chunk).inner)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a chunk of the event stream contains no event: {error}") from error


def _failure(value: object) -> str:
    name = _text(value)
    return name if name.endswith(("Exception", "Error")) else name + "Error"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

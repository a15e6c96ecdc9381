"""Writes AWS event streams, which `aprefill._wire.eventstream` reads. botocore has no encoder.

The format is https://smithy.io/2.0/aws/amazon-eventstream.html.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from typing import TYPE_CHECKING

from .base import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The size of the prelude and of the two checksums: all of a frame except its headers and its payload.
_FIXED_BYTES = 16
_CHECKSUM_BYTES = 4

#: The type number of a header whose value is a string.
_STRING = 7

#: Padding, which hides the length of a token from an eavesdropper. Bedrock's has a random length. This one is fixed, so
#: that each run has the same bytes.
_PADDING = "abc"


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return one frame with its checksums.

    >>> frame({":event-type": "messageStop"}, b"{}").hex(" ", 4)
    '0000002c 0000001a 9c71e416 0b3a6576 656e742d 74797065 07000b6d 65737361 67655374 6f707b7d b92400bb'
    """
    block = b"".join(_header(name, value) for name, value in headers.items())
    unsealed = prelude(_FIXED_BYTES + len(block) + len(payload), len(block)) + block + payload
    return unsealed + _checksum(unsealed)


def prelude(total_bytes: int, header_bytes: int) -> bytes:
    """Return the first 12 bytes of a frame of that length."""
    lengths = struct.pack("!II", total_bytes, header_bytes)
    return lengths + _checksum(lengths)


def chunk(data: bytes) -> bytes:
    """Return the frame in which InvokeModelWithResponseStream sends an event of the model."""
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, to_json({"bytes": b64encode(data).decode(), "p": _PADDING}))


def exception(kind: str, message: str) -> bytes:
    """Return the frame that ends a stream with an error."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, to_json({"message": message}))


class EventStream:
    """Sends each event in a chunk frame."""

    headers: Mapping[str, str] = {
        "content-type": "application/vnd.amazon.eventstream",
        "x-amzn-bedrock-content-type": "application/json",
    }
    has_lines = False

    def pack(self, data: bytes, event: str = "") -> bytes:
        # the event's name is only in its JSON, as `type`
        return chunk(data)

    def unclosed(self, event: bytes) -> bytes:
        return event[:-1]

    def open_end(self, size: int) -> bytes:
        # announce one byte more than is sent: a reader rejects the length, or waits for the checksum until the end
        return prelude(min(max(size, _FIXED_BYTES) + 1, 0xFFFF_FFFF), 0)


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack("!B", len(key)) + key + struct.pack("!BH", _STRING, len(text)) + text


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "big")

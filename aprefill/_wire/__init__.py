"""Wire decoders: they split the bytes of a response into records. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .ndjson import NdjsonDecoder
from .sse import SseDecoder

if TYPE_CHECKING:
    from .._deltas import Record


class WireDecoder(Protocol):
    """Splits a response body into records."""

    @property
    def has_begun(self) -> bool:
        """Whether the bytes so far are, or may be, the beginning of a stream of this format.

        This distinguishes a stream that was cut before its first record from a response that is not a stream.
        """
        ...

    @property
    def json_body(self) -> bytes:
        """The beginning of the body if the body is JSON and not a stream of this format; else ``b""``."""
        ...

    def feed(self, data: bytes) -> list[Record]:
        """Return the records that `data` completes."""
        ...

    def close(self) -> Record | None:
        """End the stream. Return the record that was begun and not completed, if any."""
        ...


#: The default limit for one record, in bytes.
RECORD_BYTES = 1_048_576


def decoder_for(content_type: str, record_bytes: int = RECORD_BYTES) -> WireDecoder:
    """Return the decoder for a response's content type. The default is server-sent events."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/vnd.amazon.eventstream":
        from .eventstream import EventStreamDecoder

        return EventStreamDecoder(record_bytes)
    if kind in {"application/x-ndjson", "application/jsonl", "application/ndjson"}:
        return NdjsonDecoder(record_bytes)
    return SseDecoder(record_bytes)

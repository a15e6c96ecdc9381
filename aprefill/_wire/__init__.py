"""Wire decoders: bytes in, records out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .ndjson import NdjsonDecoder
from .sse import SseDecoder

if TYPE_CHECKING:
    from .._deltas import Record


class WireDecoder(Protocol):
    """Cuts a body into records."""

    @property
    def has_begun(self) -> bool:
        """Whether the bytes so far are a stream of this kind, or may be the beginning of one.

        It tells a stream that was cut before its first record from an answer that is something else.
        """
        ...

    @property
    def json_body(self) -> bytes:
        """What came, if it is JSON in place of a stream of this kind, as far as it was kept; else ``b""``."""
        ...

    def feed(self, data: bytes) -> list[Record]:
        """The records that `data` completes."""
        ...

    def close(self) -> Record | None:
        """Ends it; the record that was begun and never completed, if any."""
        ...


#: The bound on one record where the caller sets none, in bytes.
RECORD_BYTES = 1_048_576


def decoder_for(content_type: str, record_bytes: int = RECORD_BYTES) -> WireDecoder:
    """The decoder that a response's content type asks for; server-sent events where it says nothing useful."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/vnd.amazon.eventstream":
        from .eventstream import EventStreamDecoder

        return EventStreamDecoder(record_bytes)
    if kind in {"application/x-ndjson", "application/jsonl", "application/ndjson"}:
        return NdjsonDecoder(record_bytes)
    return SseDecoder(record_bytes)

"""Wire decoders: bytes in, records out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .ndjson import NdjsonDecoder
from .sse import SseDecoder

if TYPE_CHECKING:
    from aprefill._types import Record


class WireDecoder(Protocol):
    """Cuts a body into records."""

    def feed(self, data: bytes) -> list[Record]:
        """The records that `data` completes."""
        ...

    def close(self) -> Record | None:
        """Ends it; the record that was begun and never completed, if any."""
        ...


def decoder_for(content_type: str) -> WireDecoder:
    """The decoder that a response's content type asks for; server-sent events where it says nothing useful."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/vnd.amazon.eventstream":
        from .eventstream import EventStreamDecoder  # botocore is optional

        return EventStreamDecoder()
    if kind in {"application/x-ndjson", "application/jsonl", "application/ndjson"}:
        return NdjsonDecoder()
    return SseDecoder()

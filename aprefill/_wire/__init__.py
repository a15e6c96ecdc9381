"""Wire decoders: they split the bytes of a response into records. Pure."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._deltas import Record


class WireDecoder(Protocol):
    """Splits a response body into records.

    For bytes that are not a stream of this kind, `feed` raises `ProtocolError`, or `has_begun` is False. A decoder does
    not check the content of a record. If the protocol has no such record, the codec raises the error.
    """

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


#: Media type -> the module of this package, and the class in it, that decodes a body of that type.
FRAMINGS: dict[str, tuple[str, str]] = {
    "text/event-stream": ("sse", "SseDecoder"),
    "application/x-ndjson": ("ndjson", "NdjsonDecoder"),
    "application/ndjson": ("ndjson", "NdjsonDecoder"),
    "application/jsonl": ("ndjson", "NdjsonDecoder"),
    "application/vnd.amazon.eventstream": ("eventstream", "EventStreamDecoder"),
    # only for a protocol whose codec takes JSON for a stream: see `Codec.not_streams`
    "application/json": ("jsonarray", "JsonArrayDecoder"),
}


def decoder_for(
    content_type: str, record_bytes: int = RECORD_BYTES, *, accept: str = "text/event-stream"
) -> WireDecoder:
    """Return a new decoder for a response with this content type.

    A content type that is missing or unknown counts as `accept`, the media type that the request asked for.
    """
    kind = content_type.partition(";")[0].strip().lower()
    made: WireDecoder = _framing(kind if kind in FRAMINGS else accept)(record_bytes)
    return made


@cache
def _framing(media_type: str) -> Callable[[int], WireDecoder]:
    module, name = FRAMINGS[media_type]
    return cast("Callable[[int], WireDecoder]", getattr(import_module(f"{__name__}.{module}"), name))

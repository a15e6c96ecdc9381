"""One pure file a protocol: encode a call to a request body, decode wire records to deltas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aprefill._types import Call, Delta, Message, Record


class Decoder(Protocol):
    """Decodes one response. One object, one stream; pure."""

    def decode(self, record: Record) -> Sequence[Delta]:
        """Deltas of one record, in order. Raises `ProtocolError` when a needed field is missing.

        After an `EndDelta` or `ErrorDelta` every further record gives nothing.
        """
        ...

    def close(self, undispatched: Record | None = None) -> Sequence[Delta]:
        """The body ended. Raises `Truncated` unless the protocol's end was seen (or the host row is lenient).

        `undispatched` is the last record if its blank line never came: it counts only if it is the end itself.
        """
        ...

    def message(self, text: str) -> Message:
        """The assistant turn for the next request: `text` whole, tool calls, signed thinking."""
        ...


class Codec(Protocol):
    """One protocol: `encode` a request body, and make a `decoder` for its response."""

    #: as in `models.toml` and `api=`
    name: str
    #: appended to the base URL
    path: str

    def encode(self, call: Call) -> dict[str, Any]:
        """The request body as a JSON object, streaming switched on."""
        ...

    def decoder(self, *, end: str = "strict") -> Decoder:
        """A fresh decoder. `end` is the host row's end rule (`strict` or a named leniency)."""
        ...

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
        """The `(error_type, detail)` in the host's own words out of an error body, both may be ``""``."""
        ...

"""One pure file a protocol: encode a call to a request body, decode wire records to deltas."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from aprefill._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aprefill._deltas import Delta, Message, ModelInput, Record

#: The protocols there are. Each is the module of that name in this package, with one `CODEC` in it.
PROTOCOLS = ("anthropic_messages", "openai_chat")


class Decoder(Protocol):
    """Decodes one response. One object, one stream; pure."""

    def decode(self, record: Record) -> Sequence[Delta]:
        """Deltas of one record, in order.

        Raises `ProtocolError` when a needed field is missing, and `Truncated` when the record says that all was
        sent although the protocol's end was not seen. After an `EndDelta` or `ErrorDelta` every further record
        gives nothing.
        """
        ...

    def close(self, undispatched: Record | None = None) -> Sequence[Delta]:
        """The body ended. Raises `Truncated` unless the protocol's end was seen (or the host row is lenient).

        `undispatched` is the last record if its blank line never came: it counts only if it is the end itself.
        `Truncated.received_bytes` is 0: only the pump knows.
        """
        ...


class Codec(Protocol):
    """One protocol: `encode` a request body, and make a `decoder` for its response."""

    #: the protocol's name in `models.toml`, one of `PROTOCOLS`
    name: str
    #: appended to the base URL
    path: str
    #: argument of `stream()` -> the body's fields that it becomes, each in every spelling that a host of this protocol takes
    arguments: Mapping[str, tuple[str, ...]]

    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        """The request body as a JSON object, streaming switched on. Raises `UsageError` if a needed field is missing."""
        ...

    def decoder(self, *, end: str = "strict") -> Decoder:
        """A fresh decoder. `end` is the host row's end rule (`strict` or a named leniency)."""
        ...

    def message(self, parts: Sequence[str | Delta], *, lead: str = "") -> Message:
        """The assistant turn for the next request.

        `parts` is what was handed out, in the host's order: text as str, and deltas of the other kinds. `lead` is the
        known text before it, the prefill.
        """
        ...

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
        """The `(error_type, detail)` in the host's own words out of an error body, both may be ``""``."""
        ...


def codec(name: str) -> Codec:
    """The codec of a protocol; its module is imported on first use. Raises `UsageError` for an unknown name."""
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol is named {name!r}", f"there are {', '.join(PROTOCOLS)}")
    return cast("Codec", import_module(f"{__name__}.{name}").CODEC)

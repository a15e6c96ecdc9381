"""Helpers for the tests of the codecs: records in, deltas out, and the parts of a reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from aprefill._codecs import codec
from aprefill._deltas import (
    BlockDelta,
    EndDelta,
    ErrorDelta,
    FinishDelta,
    ReasoningDelta,
    Record,
    TextDelta,
    ToolDelta,
    UsageDelta,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aprefill._codecs import Decoder
    from aprefill._deltas import Delta

D = TypeVar("D")

#: The two protocols that these tests run together.
BOTH = ("anthropic_messages", "openai_chat")

DELTAS = (TextDelta, ReasoningDelta, ToolDelta, FinishDelta, ErrorDelta, UsageDelta, EndDelta, BlockDelta)


def record(payload: Any, event: str = "") -> Record:
    """Return a record of these bytes, or of any other value as JSON."""
    return Record(payload if isinstance(payload, bytes) else msgspec.json.encode(payload), event)


def feed(decoder: Decoder, payloads: Iterable[Any]) -> list[Delta]:
    return [delta for payload in payloads for delta in decoder.decode(record(payload))]


def decode(name: str, *payloads: Any, end: str = "strict") -> list[Delta]:
    """Return the deltas of a whole stream, including those of the end of its body."""
    decoder = codec(name).decoder(end=end)
    return [*feed(decoder, payloads), *decoder.close()]


def only(kind: type[D], deltas: Iterable[Delta]) -> list[D]:
    return [delta for delta in deltas if isinstance(delta, kind)]


def text(deltas: Iterable[Delta]) -> str:
    return "".join(delta.text for delta in only(TextDelta, deltas))


def reasoning(deltas: Iterable[Delta]) -> str:
    return "".join(delta.text for delta in only(ReasoningDelta, deltas))


def turn_of(name: str, deltas: Iterable[Delta], lead: str = "") -> Any:
    """Return the assistant turn that the codec makes if all of `deltas` were handed out after `lead`."""
    parts = [delta.text if isinstance(delta, TextDelta) else delta for delta in deltas]
    return codec(name).message(parts, lead=lead)


def calls(deltas: Iterable[Delta]) -> dict[int, tuple[str, str, str]]:
    """Return the tool calls by index, as id, name and joined arguments, the way a consumer joins them."""
    found: dict[int, tuple[str, str, str]] = {}
    for delta in only(ToolDelta, deltas):
        id_, name, arguments = found.get(delta.index, ("", "", ""))
        found[delta.index] = (id_ + delta.id, name + delta.name, arguments + delta.arguments)
    return found

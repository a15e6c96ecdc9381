"""Driving a codec: records in, deltas out, and what a reply is made of."""

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

#: The two protocols tested here together.
BOTH = ("anthropic_messages", "openai_chat")

DELTAS = (TextDelta, ReasoningDelta, ToolDelta, FinishDelta, ErrorDelta, UsageDelta, EndDelta, BlockDelta)


def record(payload: Any, event: str = "") -> Record:
    """A record of bytes as they are, or of anything else as JSON."""
    return Record(payload if isinstance(payload, bytes) else msgspec.json.encode(payload), event)


def feed(decoder: Decoder, payloads: Iterable[Any]) -> list[Delta]:
    return [delta for payload in payloads for delta in decoder.decode(record(payload))]


def decode(name: str, *payloads: Any, end: str = "strict") -> list[Delta]:
    """The deltas of a whole stream, the body's end included."""
    decoder = codec(name).decoder(end=end)
    return [*feed(decoder, payloads), *decoder.close()]


def only(kind: type[D], deltas: Iterable[Delta]) -> list[D]:
    return [delta for delta in deltas if isinstance(delta, kind)]


def text(deltas: Iterable[Delta]) -> str:
    return "".join(delta.text for delta in only(TextDelta, deltas))


def reasoning(deltas: Iterable[Delta]) -> str:
    return "".join(delta.text for delta in only(ReasoningDelta, deltas))


def turn_of(name: str, deltas: Iterable[Delta], lead: str = "") -> Any:
    """The assistant turn that the codec makes when all of `deltas` were handed out behind `lead`."""
    parts = [delta.text if isinstance(delta, TextDelta) else delta for delta in deltas]
    return codec(name).message(parts, lead=lead)


def calls(deltas: Iterable[Delta]) -> dict[int, tuple[str, str, str]]:
    """Tool calls by index: id, name and joined arguments, put together as a consumer would."""
    found: dict[int, tuple[str, str, str]] = {}
    for delta in only(ToolDelta, deltas):
        id_, name, arguments = found.get(delta.index, ("", "", ""))
        found[delta.index] = (id_ + delta.id, name + delta.name, arguments + delta.arguments)
    return found

"""What a wire must be able to say, and what its events travel in."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .._output import ModelOutput

#: What api.anthropic.com answers since Claude 4.6.
REFUSAL = "This model does not support assistant message prefill. The conversation must end with a user message."
#: What it answered before to a prefill that ends in white space.
TRAILING_WHITESPACE = "messages: final assistant content cannot end with trailing whitespace"


#: When each reply was made: fixed, so that two runs give the same bytes.
CREATED = 1_795_000_000
CREATED_AT = "2026-11-18T11:06:40Z"


class Packing(Protocol):
    """What the events of a stream travel in."""

    #: headers of the stream's response
    headers: Mapping[str, str]
    #: it is made of lines, which may end in other ways
    has_lines: bool

    def pack(self, data: bytes, event: str = "") -> bytes:
        """One event."""
        ...

    def unclosed(self, event: bytes) -> bytes:
        """A packed event without what closes it: the shortest cut that a strict reader must not take."""
        ...

    def open_end(self, size: int) -> bytes:
        """The first of `size` bytes that begin an event and never end it; any bytes may follow."""
        ...


class Sse:
    """Server-sent events."""

    headers: Mapping[str, str] = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    has_lines = True

    def pack(self, data: bytes, event: str = "") -> bytes:
        return sse(data, event)

    def unclosed(self, event: bytes) -> bytes:
        return event.removesuffix(b"\n")

    def open_end(self, size: int) -> bytes:
        return b"data: "


class Lines:
    """One JSON record a line."""

    headers: Mapping[str, str] = {"content-type": "application/x-ndjson"}
    has_lines = True

    def pack(self, data: bytes, event: str = "") -> bytes:
        return data + b"\n"

    def unclosed(self, event: bytes) -> bytes:
        return event.removesuffix(b"\n")

    def open_end(self, size: int) -> bytes:
        return b'{"x":"'


class Wire(ABC):
    """One reply in one protocol. Each method gives whole events, packed, in the order of the stream.

    What most hosts have in common is here. `index` is the request's number, from which all ids are made; `usage_asked`
    is OpenAI's switch on chat completions, all others always report their usage.
    """

    packing: Packing = Sse()
    #: an event that is no progress
    keepalive: bytes = b": keep-alive\n\n"
    #: the line ends of its streams
    newline: ClassVar[str] = "\n"
    #: what it says of a prefill that it refuses
    refusal: ClassVar[str] = REFUSAL
    #: the response header that carries the request's id; empty: none does
    request_id_header: ClassVar[str] = ""

    def __init__(self, output: ModelOutput, *, model: str, index: int, usage_asked: bool) -> None:
        self._output = output
        self._model = model
        self._index = index
        self._usage_asked = usage_asked

    @property
    def request_id(self) -> str:
        return f"req_{self._index:032d}"

    @classmethod
    def sends_objects(cls, *, streamed: bool) -> bool:
        """Whether the arguments of tools go as objects, not as text."""
        return False

    def start(self) -> Iterator[bytes]:
        """What comes ahead of all content, if anything does."""
        return iter(())

    @abstractmethod
    def reasoning(self, piece: str) -> Iterator[bytes]: ...
    @abstractmethod
    def text(self, piece: str, damage: Callable[[bytes], bytes] | None = None) -> Iterator[bytes]:
        """`damage` is done to the last event's JSON."""

    @abstractmethod
    def tools(self) -> Iterator[bytes]: ...
    def finish(self) -> Iterator[bytes]:
        """What comes between the content and the terminal record, if anything does."""
        return iter(())

    @abstractmethod
    def last(self) -> bytes:
        """The terminal record."""

    @abstractmethod
    def error_event(self, kind: str, message: str) -> bytes: ...
    @abstractmethod
    def whole(self) -> bytes:
        """The reply to a request that asked for no stream."""

    @abstractmethod
    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes: ...
    def error_headers(self, status: int, error: tuple[str, str] | None) -> dict[str, str]:
        """What an error says in headers, if anything."""
        return {}


_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}


def usual_message(status: int) -> str:
    """What an error of this status says when the script does not."""
    return _PHRASES.get(status, "Error")


def to_json(value: Any) -> bytes:
    """Compact JSON. A lone surrogate, which UTF-8 cannot hold, is escaped as Python's hosts do."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


#: What Go's encoder escapes as well: Ollama's is that, and Gemini's does the same (recorded).
_ESCAPED = {char: f"\\u{ord(char):04x}".encode() for char in "<>&\u2028\u2029"}


def to_escaped_json(value: Any) -> bytes:
    """The same with a few more characters escaped."""
    data = to_json(value)
    for char, escape in _ESCAPED.items():
        data = data.replace(char.encode(), escape)
    return data


def sse(data: bytes, event: str = "") -> bytes:
    """One server-sent event."""
    name = b"event: " + event.encode() + b"\n" if event else b""
    return name + b"data: " + data + b"\n\n"

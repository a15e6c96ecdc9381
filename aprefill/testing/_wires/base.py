"""The interface of a wire, and the framings in which its events are sent."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .._output import ModelOutput

#: The answer of api.anthropic.com to a prefill since Claude 4.6.
REFUSAL = "This model does not support assistant message prefill. The conversation must end with a user message."
#: The answer of older models there to a prefill that ends in white space.
TRAILING_WHITESPACE = "messages: final assistant content cannot end with trailing whitespace"


#: The time at which each reply was made. It is fixed, so that two runs send the same bytes.
CREATED = 1_795_000_000
CREATED_AT = "2026-11-18T11:06:40Z"


class Packing(Protocol):
    """The framing of the events in a stream."""

    #: headers of the stream's response
    headers: Mapping[str, str]
    #: whether the stream consists of lines, so that `Script.newline` applies
    has_lines: bool

    def pack(self, data: bytes, event: str = "") -> bytes:
        """Return one framed event."""
        ...

    def unclosed(self, event: bytes) -> bytes:
        """Return a framed event without its last bytes.

        As few bytes are removed as possible, but so many that a strict reader must not accept the event.
        """
        ...

    def open_end(self, size: int) -> bytes:
        """Return the beginning of an event that never ends. Any bytes may follow, up to `size` bytes in all."""
        ...


class Sse:
    """The framing of server-sent events."""

    headers: Mapping[str, str] = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    has_lines = True

    def pack(self, data: bytes, event: str = "") -> bytes:
        return sse(data, event)

    def unclosed(self, event: bytes) -> bytes:
        return event.removesuffix(b"\n")

    def open_end(self, size: int) -> bytes:
        return b"data: "


class Lines:
    """The framing with one JSON record per line."""

    headers: Mapping[str, str] = {"content-type": "application/x-ndjson"}
    has_lines = True

    def pack(self, data: bytes, event: str = "") -> bytes:
        return data + b"\n"

    def unclosed(self, event: bytes) -> bytes:
        return event.removesuffix(b"\n")

    def open_end(self, size: int) -> bytes:
        return b'{"x":"'


class Wire(ABC):
    """One reply in one protocol. Each method returns complete, framed events. They are called in the stream's order.

    This class holds what most hosts have in common. `index` is the number of the request, and all ids are made from it.
    `usage_asked` is a switch of OpenAI's chat completions. All other protocols always report their usage.
    """

    packing: Packing = Sse()
    #: an event without progress
    keepalive: bytes = b": keep-alive\n\n"
    #: the line ends of the stream
    newline: ClassVar[str] = "\n"
    #: the error message for a prefill that is refused
    refusal: ClassVar[str] = REFUSAL
    #: the response header with the request's id; "": none
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
        """Return whether the arguments of tools are sent as objects, not as text."""
        return False

    def start(self) -> Iterator[bytes]:
        """Return the events before all content."""
        return iter(())

    @abstractmethod
    def reasoning(self, piece: str) -> Iterator[bytes]: ...
    @abstractmethod
    def text(self, piece: str, damage: Callable[[bytes], bytes] | None = None) -> Iterator[bytes]:
        """Return the events for a piece of text. `damage` changes the JSON of the last one."""

    @abstractmethod
    def tools(self) -> Iterator[bytes]: ...
    def finish(self) -> Iterator[bytes]:
        """Return the events between the content and the terminal record."""
        return iter(())

    @abstractmethod
    def last(self) -> bytes:
        """Return the terminal record."""

    @abstractmethod
    def error_event(self, kind: str, message: str) -> bytes: ...
    @abstractmethod
    def whole(self) -> bytes:
        """Return the reply to a request that did not ask for a stream."""

    @abstractmethod
    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes: ...
    def error_headers(self, status: int, error: tuple[str, str] | None) -> dict[str, str]:
        """Return the response headers that describe an error."""
        return {}


_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}


def usual_message(status: int) -> str:
    """Return the message of an error with this status if the script has none."""
    return _PHRASES.get(status, "Error")


def to_json(value: Any) -> bytes:
    """Return compact JSON. A lone surrogate, which UTF-8 cannot hold, is escaped, as hosts written in Python do."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


#: The additional characters that Go's encoder escapes. Ollama uses that encoder, and Gemini does the same (recorded).
_ESCAPED = {char: f"\\u{ord(char):04x}".encode() for char in "<>&\u2028\u2029"}


def to_escaped_json(value: Any) -> bytes:
    """Return compact JSON with a few more characters escaped."""
    data = to_json(value)
    for char, escape in _ESCAPED.items():
        data = data.replace(char.encode(), escape)
    return data


def sse(data: bytes, event: str = "") -> bytes:
    """Return one server-sent event."""
    name = b"event: " + event.encode() + b"\n" if event else b""
    return name + b"data: " + data + b"\n\n"

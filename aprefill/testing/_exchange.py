"""What the server was asked, and what became of the answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from anyio import Event

from ._endpoint import Endpoint, endpoint_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Outcome: TypeAlias = Literal["open", "complete", "client_closed", "dropped", "reset"]


#: What a part of text is called; Gemini's have no type.
_TEXT_TYPES = {"text", "input_text", "output_text"}


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message's content: a string, or the text parts of a list joined. Gemini's thoughts are none."""
    content = message.get("content", message.get("parts"))
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (
        part.get("text")
        for part in content
        if isinstance(part, dict) and part.get("type", "text") in _TEXT_TYPES and part.get("thought") is not True
    )
    return "".join(part for part in parts if isinstance(part, str))


@dataclass(kw_only=True, repr=False, eq=False)
class Received:
    """One request as it was asked. Its repr holds neither headers nor body."""

    method: str
    #: with the query, as sent
    path: str
    #: names in lower case; a name that came twice has its values joined by ", "
    headers: dict[str, str]
    body: bytes
    #: the number of its TCP connection: 1, 2, ...
    connection: int
    #: its own number: 0, 1, ...
    index: int
    #: the body decoded, or None when it is not JSON
    json: Any = field(init=False)

    def __post_init__(self) -> None:
        try:
            self.json = msgspec.json.decode(self.body) if self.body else None
        except msgspec.DecodeError:
            self.json = None

    @property
    def model(self) -> str:
        """The model asked for, in the body or, at Vertex, Bedrock and Gemini, in the path; "" where there is none."""
        endpoint = endpoint_of(self.path)
        model = self.option("model") if endpoint is None or endpoint.model is None else endpoint.model
        return model if isinstance(model, str) else ""

    @property
    def streamed(self) -> bool:
        """Whether it asks for a stream: by the body's `stream` or, at Vertex, Bedrock and Gemini, by the path alone.

        Ollama streams where the body says nothing.
        """
        endpoint = endpoint_of(self.path) or Endpoint(wire="openai")
        if endpoint.streams is not None:
            return endpoint.streams
        stream = self.option("stream")
        return stream is True or (stream is None and endpoint.streams_untold)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The request's messages as it has them, those that are objects.

        Of /responses the items of `input`, where a mere string is one message of the user; of Gemini `contents`.
        """
        given = (self.option(name) for name in ("messages", "input", "contents"))
        messages = next((one for one in given if one is not None), None)
        if isinstance(messages, str):
            return [{"role": "user", "content": messages}]
        return [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []

    @staticmethod
    def _role(message: dict[str, Any]) -> Any:
        # Gemini takes contents without one
        return message.get("role", "user" if "parts" in message else None)

    @property
    def ends_with_assistant(self) -> bool:
        """Whether the last message is the assistant's, or the model's, as Gemini has it."""
        return bool(self.messages) and self.messages[-1].get("role") in {"assistant", "model"}

    @property
    def prefill(self) -> str:
        """The text of the last message if it is the assistant's, else ""."""
        return text_of(self.messages[-1]) if self.ends_with_assistant else ""

    @property
    def last_user_text(self) -> str:
        """The text of the last message of the user, else ""."""
        for message in reversed(self.messages):
            if self._role(message) == "user":
                return text_of(message)
        return ""

    def option(self, name: str) -> Any:
        """A field of the JSON body, or None."""
        return self.json.get(name) if isinstance(self.json, dict) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.index}: {self.method} {self.path}>"


@dataclass(kw_only=True, repr=False, eq=False)
class Exchange(Received):
    """One request and what became of its answer. It grows while the answer is under way.

    Times are `time.perf_counter()` of the server's process. The events can be awaited in the server's event loop.
    """

    started_at: float = field(default_factory=time.perf_counter)
    #: bytes of the body handed to the network so far, without the framing
    sent_bytes: int = 0
    #: "complete": all was sent and the framing told the end. "client_closed": the client went first. "dropped" and
    #: "reset": the server ended the connection, as scripted or because it was shut down
    outcome: Outcome = "open"
    #: set when the answer is over, in whatever way
    done: Event = field(default_factory=Event)
    #: set when the answer has come to a scripted wait that only the client's leaving or a long time ends
    waiting: Event = field(default_factory=Event)
    #: set when the server has seen the client's close, with the outcome settled; never after a scripted reset
    closed: Event = field(default_factory=Event)
    #: the moment it saw it
    closed_at: float | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.index}: {self.method} {self.path}, {self.outcome}, {self.sent_bytes} bytes sent>"

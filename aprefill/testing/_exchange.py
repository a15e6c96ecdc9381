"""The requests that the server received, and the outcomes of their answers."""

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


#: The types of a part that holds text. Gemini's parts have no type.
_TEXT_TYPES = {"text", "input_text", "output_text"}


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message: its content, or the joined text parts of a list. Gemini's thoughts do not count."""
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
    """One request as it arrived. Its repr shows neither headers nor body."""

    method: str
    #: the path with the query, as it was sent
    path: str
    #: names are in lower case; the values of a repeated name are joined by ", "
    headers: dict[str, str]
    body: bytes
    #: the number of the TCP connection: 1, 2, ...
    connection: int
    #: the number of the request: 0, 1, ...
    index: int
    #: the decoded body, or None if it is not JSON
    json: Any = field(init=False)

    def __post_init__(self) -> None:
        try:
            self.json = msgspec.json.decode(self.body) if self.body else None
        except msgspec.DecodeError:
            self.json = None

    @property
    def model(self) -> str:
        """The requested model, from the body or, at Vertex, Bedrock and Gemini, from the path; "" if there is none."""
        endpoint = endpoint_of(self.path)
        model = self.option("model") if endpoint is None or endpoint.model is None else endpoint.model
        return model if isinstance(model, str) else ""

    @property
    def streamed(self) -> bool:
        """Whether a stream is requested: by the body's `stream` or, at Vertex, Bedrock and Gemini, by the path alone.

        Ollama streams if the body has no `stream`.
        """
        endpoint = endpoint_of(self.path) or Endpoint(wire="openai")
        if endpoint.streams is not None:
            return endpoint.streams
        stream = self.option("stream")
        return stream is True or (stream is None and endpoint.streams_untold)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The request's messages in the host's own form. Only objects are included.

        For /responses these are the items of `input`; a plain string there is one message of the user. For Gemini they
        are the items of `contents`.
        """
        given = (self.option(name) for name in ("messages", "input", "contents"))
        messages = next((one for one in given if one is not None), None)
        if isinstance(messages, str):
            return [{"role": "user", "content": messages}]
        return [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []

    @staticmethod
    def _role(message: dict[str, Any]) -> Any:
        # Gemini accepts contents without a role
        return message.get("role", "user" if "parts" in message else None)

    @property
    def ends_with_assistant(self) -> bool:
        """Whether the last message is the assistant's. Gemini calls this role "model"."""
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
        """Return a field of the JSON body, or None."""
        return self.json.get(name) if isinstance(self.json, dict) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.index}: {self.method} {self.path}>"


@dataclass(kw_only=True, repr=False, eq=False)
class Exchange(Received):
    """One request and the outcome of its answer. Its fields change while the answer is being sent.

    Times are `time.perf_counter()` values of the server's process. The events can be awaited in the server's event
    loop.
    """

    started_at: float = field(default_factory=time.perf_counter)
    #: bytes of the body that were written to the socket so far, without the framing
    sent_bytes: int = 0
    #: "open": the answer is being sent. "complete": everything was sent, with the end of the framing. "client_closed":
    #: the client closed first. "dropped": the server closed the connection, because the script says so or because the
    #: `async with` of the server ended. "reset": the server sent a RST, because the script says so
    outcome: Outcome = "open"
    #: set when the answer is over, in any way
    done: Event = field(default_factory=Event)
    #: set when the answer has reached a scripted wait
    waiting: Event = field(default_factory=Event)
    #: set when the server has seen the client's close and the outcome is final; never set after a scripted reset
    closed: Event = field(default_factory=Event)
    #: the time at which the server saw the client's close
    closed_at: float | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.index}: {self.method} {self.path}, {self.outcome}, {self.sent_bytes} bytes sent>"

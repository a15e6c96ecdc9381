"""The host's side of chat completions, for the built-in demo model: reads requests, writes the records of replies."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

#: Media types of a reply and of an error.
STREAM = "text/event-stream"
ERROR = "application/json"


class HostRequest(NamedTuple):
    """The parts of a request that the demo model uses."""

    model: str
    #: the text of all user messages
    prompt: str
    #: the text of the last message if it is the assistant's
    prefill: str
    stop: tuple[str, ...]
    max_tokens: int | None


def read_request(body: bytes) -> HostRequest:
    """Parse the body of a request."""
    fields: dict[str, Any] = msgspec.json.decode(body)
    messages = fields["messages"]
    last = messages[-1]
    return HostRequest(
        model=fields["model"],
        prompt=" ".join(_text(message["content"]) for message in messages if message["role"] == "user"),
        prefill=last["content"] if last["role"] == "assistant" else "",
        stop=tuple(fields.get("stop", ())),
        max_tokens=fields.get("max_tokens"),
    )


def text(piece: str) -> bytes:
    """Return the record for a piece of the reply."""
    return _record({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})


def end(*, is_cut: bool, prompt_tokens: int, completion_tokens: int) -> bytes:
    """Return the records after the last piece: the finish reason, the usage and the end of the stream.

    `is_cut` means that the reply reached the token limit.
    """
    finish = _record({"choices": [{"index": 0, "delta": {}, "finish_reason": "length" if is_cut else "stop"}]})
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return finish + _record({"choices": [], "usage": usage}) + b"data: [DONE]\n\n"


def error(message: str) -> bytes:
    """Return the body of an error response for an invalid request."""
    return msgspec.json.encode({"error": {"type": "invalid_request_error", "message": message}})


def _record(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content or () if isinstance(part, dict))

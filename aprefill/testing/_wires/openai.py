"""The OpenAI wire, /chat/completions, as api.openai.com and compatible hosts send it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._output import split
from .base import CREATED, Wire, sse, to_json, usual_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


#: Anthropic's stop reasons, which `ModelOutput` uses -> OpenAI's.
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

#: HTTP status -> (type, code) of the error.
_ERROR_TYPES: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


def openai_error(status: int, error: tuple[str, str] | None) -> bytes:
    """Return the body of an error status."""
    known, code = _ERROR_TYPES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    kind, message = error or (known, usual_message(status))
    return to_json({"error": {"message": message, "type": kind, "param": None, "code": code}})


class OpenAIWire(Wire):
    """One reply on the OpenAI wire. Reasoning is sent in `reasoning_content`, as most compatible hosts do."""

    request_id_header = "x-request-id"

    def start(self) -> Iterator[bytes]:
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})

    def reasoning(self, piece: str) -> Iterator[bytes]:
        yield self._chunk({"content": None, "reasoning_content": piece})

    def text(self, piece: str, damage: Callable[[bytes], bytes] | None = None) -> Iterator[bytes]:
        yield self._chunk({"content": piece}, damage=damage)

    def tools(self) -> Iterator[bytes]:
        for number, call in enumerate(self._output.tools):
            yield self._chunk({"tool_calls": [{"index": number, **self._call(number, "")}]})
            for part in split(call.arguments_json, 8):
                yield self._chunk({"tool_calls": [{"index": number, "function": {"arguments": part}}]})

    def finish(self) -> Iterator[bytes]:
        yield self._chunk({}, finish_reason=self._reason())
        if self._usage_asked:
            yield sse(to_json({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()}))

    def last(self) -> bytes:
        return sse(b"[DONE]")

    def error_event(self, kind: str, message: str) -> bytes:
        return sse(to_json({"error": {"message": message, "type": kind, "param": None, "code": None}}))

    def whole(self) -> bytes:
        output = self._output
        text = "".join(output.content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text or (None if output.tools else ""),
            "refusal": None,
        }
        if output.reasoning:
            message["reasoning_content"] = "".join(output.reasoning)
        if output.tools:
            message["tool_calls"] = [self._call(n, call.arguments_json) for n, call in enumerate(output.tools)]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason()}
        return to_json({**self._head("chat.completion"), "choices": [choice], "usage": self._usage()})

    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes:
        return openai_error(status, error)

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._index:029d}",
            "object": kind,
            "created": CREATED,
            "model": self._model,
        }

    def _chunk(
        self,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        damage: Callable[[bytes], bytes] | None = None,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self._usage_asked:
            chunk["usage"] = None
        data = to_json(chunk)
        return sse(damage(data) if damage else data)

    def _call(self, number: int, arguments: str) -> dict[str, Any]:
        call = self._output.tools[number]
        made_up = f"call_{self._index:020d}{number:04d}"
        return {
            "id": call.id or made_up,
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }

    def _usage(self) -> dict[str, Any]:
        output = self._output
        return {
            "prompt_tokens": output.input_tokens,
            "completion_tokens": output.output_tokens,
            "total_tokens": output.input_tokens + output.output_tokens,
            "prompt_tokens_details": {"cached_tokens": output.cached_tokens},
        }

    def _reason(self) -> str | None:
        return _REASONS.get(self._output.stop_reason, self._output.stop_reason) or None

"""Gemini's own wire, :streamGenerateContent: server-sent events, or one JSON array. From recordings of 2025 and 2026.

With `alt=sse` in the query it sends events, without it the array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Wire, to_escaped_json, usual_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .._output import ModelOutput

#: Anthropic's stop reasons, which `ModelOutput` uses -> Gemini's.
_REASONS = {
    "end_turn": "STOP",
    "stop_sequence": "STOP",
    "tool_use": "STOP",
    "max_tokens": "MAX_TOKENS",
    "refusal": "SAFETY",
}

#: The error types of Anthropic and OpenAI, which a script uses for all protocols -> (HTTP status, Google's word).
_BY_TYPE = {
    "invalid_request_error": (400, "INVALID_ARGUMENT"),
    "authentication_error": (401, "UNAUTHENTICATED"),
    "permission_error": (403, "PERMISSION_DENIED"),
    "not_found_error": (404, "NOT_FOUND"),
    "rate_limit_error": (429, "RESOURCE_EXHAUSTED"),
    "rate_limit_exceeded": (429, "RESOURCE_EXHAUSTED"),
    "api_error": (500, "INTERNAL"),
    "server_error": (500, "INTERNAL"),
    "overloaded_error": (503, "UNAVAILABLE"),
    "timeout_error": (504, "DEADLINE_EXCEEDED"),
}

_BY_STATUS = dict(_BY_TYPE.values())
#: Google's words, which a script may use too.
_BY_WORD = {word: (status, word) for status, word in _BY_TYPE.values()}


class GeminiWire(Wire):
    """One reply of Gemini. A stream consists of server-sent events."""

    newline = "\r\n"  # recorded
    # a blank line, because Google's own client treats a comment as an error
    keepalive = b"\n"
    refusal = "Requests ending with a model turn are not supported"

    @classmethod
    def sends_objects(cls, *, streamed: bool) -> bool:
        return True

    def reasoning(self, piece: str) -> Iterator[bytes]:
        yield self._chunk([{"text": piece, "thought": True}])

    def text(self, piece: str, damage: Callable[[bytes], bytes] | None = None) -> Iterator[bytes]:
        yield self._chunk([{"text": piece}], damage)

    def tools(self) -> Iterator[bytes]:
        for part in self._calls():
            yield self._chunk([part])

    def last(self) -> bytes:
        # recorded: the reason comes with the last text or with an empty one
        return self.packing.pack(to_escaped_json(self._record([{"text": ""}], ends=True)))

    def error_event(self, kind: str, message: str) -> bytes:
        status, word = _BY_TYPE.get(kind) or _BY_WORD.get(kind, (500, kind))
        return self.packing.pack(to_escaped_json(_error(status, word, message)))

    def whole(self) -> bytes:
        output = self._output
        parts: list[dict[str, Any]] = []
        if output.reasoning:
            parts.append({"text": "".join(output.reasoning), "thought": True})
        if output.content or not output.tools:
            parts.append({"text": "".join(output.content)})
        return to_escaped_json(self._record([*parts, *self._calls()], ends=True))

    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes:
        word = _BY_STATUS.get(status, "UNAVAILABLE" if status > 500 else "INVALID_ARGUMENT")
        message = usual_message(status)
        if error:
            word, message = _BY_TYPE.get(error[0], (status, error[0]))[1], error[1]
        return to_escaped_json(_error(status, word, message))

    def _chunk(self, parts: list[dict[str, Any]], damage: Callable[[bytes], bytes] | None = None) -> bytes:
        data = to_escaped_json(self._record(parts))
        return self.packing.pack(damage(data) if damage else data)

    def _record(self, parts: list[dict[str, Any]], *, ends: bool = False) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
        if ends and (reason := _REASONS.get(self._output.stop_reason, self._output.stop_reason)):
            candidate["finishReason"] = reason
        return {
            "candidates": [{**candidate, "index": 0}],
            "usageMetadata": self._usage(ends=ends),
            "modelVersion": self._model,
            "responseId": f"resp_{self._index:018d}",
        }

    def _usage(self, *, ends: bool) -> dict[str, Any]:
        output = self._output
        asked = {
            "promptTokenCount": output.input_tokens,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": output.input_tokens}],
        }
        if not ends:
            return {**asked, "totalTokenCount": output.input_tokens}
        thought = min(len(output.reasoning), output.output_tokens)
        return {
            **asked,
            "candidatesTokenCount": output.output_tokens - thought,
            "totalTokenCount": output.input_tokens + output.output_tokens,
            **({"cachedContentTokenCount": output.cached_tokens} if output.cached_tokens else {}),
            **({"thoughtsTokenCount": thought} if thought else {}),
        }

    def _calls(self) -> list[dict[str, Any]]:
        return [
            {
                "functionCall": {
                    "name": call.name,
                    "args": call.arguments_object,
                    **({"id": call.id} if call.id else {}),
                }
            }
            for call in self._output.tools
        ]


class GeminiArrayWire(GeminiWire):
    """One reply of Gemini. A stream is one JSON array, sent element by element."""

    newline = "\n"

    def __init__(self, output: ModelOutput, *, model: str, index: int, usage_asked: bool) -> None:
        super().__init__(output, model=model, index=index, usage_asked=usage_asked)
        self.packing = JsonArray()

    def last(self) -> bytes:
        return super().last() + b"]"

    def error_event(self, kind: str, message: str) -> bytes:
        return super().error_event(kind, message) + b"]"

    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes:
        return b"[" + super().error_body(status, error) + b"\n]"


class JsonArray:
    """The framing as elements of one array. As recorded, a comma comes before each element except the first."""

    headers: Mapping[str, str] = {"content-type": "application/json; charset=UTF-8"}
    has_lines = True

    def __init__(self) -> None:
        self._ahead = b"["

    def pack(self, data: bytes, event: str = "") -> bytes:
        ahead, self._ahead = self._ahead, b",\n"
        return ahead + data + b"\n"

    def unclosed(self, event: bytes) -> bytes:
        return event.removesuffix(b"]")

    def open_end(self, size: int) -> bytes:
        return self._ahead + b'{"x":"'


def _error(status: int, word: str, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": word}}

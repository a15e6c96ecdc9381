"""Ollama's own wire, /api/chat: one JSON record per line. From recordings of 2024 to 2026."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import CREATED_AT, Lines, Wire, to_escaped_json, usual_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._output import ModelOutput

#: Anthropic's stop reasons, which `ModelOutput` uses -> Ollama's. Ollama has no word for a refusal.
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "stop",
    "refusal": "stop",
    "max_tokens": "length",
}


class OllamaWire(Wire):
    """One reply of Ollama. An error has only a message: the error type of the script is not sent."""

    packing = Lines()

    def __init__(self, output: ModelOutput, *, model: str, index: int, usage_asked: bool) -> None:
        super().__init__(output, model=model, index=index, usage_asked=usage_asked)
        # Ollama has no keep-alive; its own client can read a record without text
        self.keepalive = self._record({"content": ""})

    @classmethod
    def sends_objects(cls, *, streamed: bool) -> bool:
        return True

    def reasoning(self, piece: str) -> Iterator[bytes]:
        yield self._record({"content": "", "thinking": piece})

    def text(self, piece: str, damage: Callable[[bytes], bytes] | None = None) -> Iterator[bytes]:
        yield self._record({"content": piece}, damage)

    def tools(self) -> Iterator[bytes]:
        for number in range(len(self._output.tools)):
            yield self._record({"content": "", "tool_calls": [self._call(number)]})

    def last(self) -> bytes:
        return self.packing.pack(to_escaped_json(self._end({"content": ""})))

    def error_event(self, kind: str, message: str) -> bytes:
        return self.packing.pack(to_escaped_json({"error": message}))

    def whole(self) -> bytes:
        output = self._output
        message: dict[str, Any] = {"content": "".join(output.content)}
        if output.reasoning:
            message["thinking"] = "".join(output.reasoning)
        if output.tools:
            message["tool_calls"] = [self._call(number) for number in range(len(output.tools))]
        return to_escaped_json(self._end(message))

    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes:
        return to_escaped_json({"error": error[1] if error else usual_message(status)})

    def _head(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"model": self._model, "created_at": CREATED_AT, "message": {"role": "assistant", **message}}

    def _record(self, message: dict[str, Any], damage: Callable[[bytes], bytes] | None = None) -> bytes:
        data = to_escaped_json({**self._head(message), "done": False})
        return self.packing.pack(damage(data) if damage else data)

    def _end(self, message: dict[str, Any]) -> dict[str, Any]:
        output = self._output
        reason = _REASONS.get(output.stop_reason, output.stop_reason)
        return {
            **self._head(message),
            "done": True,
            **({"done_reason": reason} if reason else {}),
            # the durations are in nanoseconds
            "total_duration": 30_000_000,
            "load_duration": 10_000_000,
            "prompt_eval_count": output.input_tokens,
            "prompt_eval_duration": 10_000_000,
            "eval_count": output.output_tokens,
            "eval_duration": 10_000_000,
        }

    def _call(self, number: int) -> dict[str, Any]:
        call = self._output.tools[number]
        made_up = f"call_{self._index:04d}{number:04d}"
        function = {"index": number, "name": call.name, "arguments": call.arguments_object}
        return {"id": call.id or made_up, "function": function}

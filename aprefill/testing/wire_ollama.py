"""Ollama's own wire, /api/chat, as recorded in 2024 to 2026: a JSON record a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from .wire import CREATED_AT, REFUSAL, Lines, Packing, to_json, usual_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .output import ModelOutput

#: What `ModelOutput` has in Anthropic's words.
_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "tool_use": "stop", "max_tokens": "length"}


class OllamaWire:
    """One reply of Ollama's. An error is a message and nothing else: the script's word for its type is not told."""

    packing: ClassVar[Packing] = Lines()
    newline: ClassVar[str] = "\n"
    refusal: ClassVar[str] = REFUSAL
    request_id_header: ClassVar[str] = ""
    request_id: str = ""

    def __init__(self, output: ModelOutput, *, model: str, index: int, usage_asked: bool) -> None:
        # usage_asked is OpenAI's switch: this wire always reports its usage
        self._output = output
        self._model = model
        self._index = index

    @property
    def keepalive(self) -> bytes:
        """Ollama has none; a record without text is as near to one as a client of its own can read."""
        return self._record({"content": ""})

    def start(self) -> Iterator[bytes]:
        return iter(())

    def reasoning(self, piece: str) -> Iterator[bytes]:
        yield self._record({"content": "", "thinking": piece})

    def text(self, piece: str, damage: Callable[[bytes], bytes] | None = None) -> Iterator[bytes]:
        yield self._record({"content": piece}, damage)

    def tools(self) -> Iterator[bytes]:
        for number in range(len(self._output.tools)):
            yield self._record({"content": "", "tool_calls": [self._call(number)]})

    def finish(self) -> Iterator[bytes]:
        return iter(())

    def last(self) -> bytes:
        return self.packing.pack(to_json(self._end({"content": ""})))

    def error_event(self, kind: str, message: str) -> bytes:
        return self.packing.pack(to_json({"error": message}))

    def whole(self) -> bytes:
        output = self._output
        message: dict[str, Any] = {"content": "".join(output.content)}
        if output.reasoning:
            message["thinking"] = "".join(output.reasoning)
        if output.tools:
            message["tool_calls"] = [self._call(number) for number in range(len(output.tools))]
        return to_json(self._end(message))

    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes:
        return to_json({"error": error[1] if error else usual_message(status)})

    def error_headers(self, status: int, error: tuple[str, str] | None) -> dict[str, str]:
        return {}

    def _head(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"model": self._model, "created_at": CREATED_AT, "message": {"role": "assistant", **message}}

    def _record(self, message: dict[str, Any], damage: Callable[[bytes], bytes] | None = None) -> bytes:
        data = to_json({**self._head(message), "done": False})
        return self.packing.pack(damage(data) if damage else data)

    def _end(self, message: dict[str, Any]) -> dict[str, Any]:
        output = self._output
        reason = _REASONS.get(output.stop_reason, output.stop_reason)
        return {
            **self._head(message),
            "done": True,
            **({"done_reason": reason} if reason else {}),
            # nanoseconds
            "total_duration": 30_000_000,
            "load_duration": 10_000_000,
            "prompt_eval_count": output.input_tokens,
            "prompt_eval_duration": 10_000_000,
            "eval_count": output.output_tokens,
            "eval_duration": 10_000_000,
        }

    def _call(self, number: int) -> dict[str, Any]:
        call = self._output.tools[number]
        arguments = msgspec.json.decode(call.arguments_json)
        made_up = f"call_{self._index:04d}{number:04d}"
        return {"id": call.id or made_up, "function": {"index": number, "name": call.name, "arguments": arguments}}

"""Cohere's wire, version 2: /v2/chat, as server-sent events. From recordings of 2025 and 2026."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._output import split
from .base import Wire, sse, to_json, usual_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._output import ModelOutput

#: Anthropic's stop reasons, which `ModelOutput` uses -> Cohere's. Cohere has no word for a refusal.
_REASONS = {
    "end_turn": "COMPLETE",
    "stop_sequence": "STOP_SEQUENCE",
    "tool_use": "TOOL_CALL",
    "refusal": "COMPLETE",
    "max_tokens": "MAX_TOKENS",
}


class CohereWire(Wire):
    """One reply of Cohere. It opens and closes each content and each call. An error has only a message.

    `message-end` says why the reply ended, and `[DONE]` comes after it.
    """

    def __init__(self, output: ModelOutput, *, model: str, index: int, usage_asked: bool) -> None:
        super().__init__(output, model=model, index=index, usage_asked=usage_asked)
        #: the kind of the open content, "text" or "thinking"; "": none is open
        self._open = ""
        #: the number of the open content, or of the next one
        self._number = 0

    def start(self) -> Iterator[bytes]:
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        yield self._event("message-start", {"message": message}, id_=self._id())

    def reasoning(self, piece: str) -> Iterator[bytes]:
        yield from self._content("thinking", piece)

    def text(self, piece: str, damage: Callable[[bytes], bytes] | None = None) -> Iterator[bytes]:
        yield from self._content("text", piece, damage)

    def tools(self) -> Iterator[bytes]:
        for number, call in enumerate(self._output.tools):
            yield from self._close()
            yield self._event("tool-call-start", {"message": {"tool_calls": self._call(number, "")}}, index=number)
            for part in split(call.arguments_json, 8):
                piece = {"tool_calls": {"function": {"arguments": part}}}
                yield self._event("tool-call-delta", {"message": piece}, index=number)
            yield self._event("tool-call-end", index=number)

    def finish(self) -> Iterator[bytes]:
        yield from self._close()
        yield self._event("message-end", {**self._why(), "usage": self._usage()})

    def last(self) -> bytes:
        return sse(b"[DONE]")

    def error_event(self, kind: str, message: str) -> bytes:
        return self._event("message-end", {"error": message, "finish_reason": "ERROR"})

    def whole(self) -> bytes:
        output = self._output
        message: dict[str, Any] = {"role": "assistant"}
        content: list[dict[str, Any]] = []
        if output.reasoning:
            content.append({"type": "thinking", "thinking": "".join(output.reasoning)})
        if output.content or not output.tools:
            content.append({"type": "text", "text": "".join(output.content)})
        if content:
            message["content"] = content
        if output.tools:
            message["tool_calls"] = [self._call(n, call.arguments_json) for n, call in enumerate(output.tools)]
        return to_json({"id": self._id(), **self._why(), "message": message, "usage": self._usage()})

    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes:
        return to_json({"id": self._id(), "message": error[1] if error else usual_message(status)})

    def _content(self, kind: str, piece: str, damage: Callable[[bytes], bytes] | None = None) -> Iterator[bytes]:
        if self._open != kind:
            yield from self._close()
            self._open = kind
            start = {"content": {"type": kind, kind: ""}}
            yield self._event("content-start", {"message": start}, index=self._number)
        yield self._event("content-delta", {"message": {"content": {kind: piece}}}, damage, index=self._number)

    def _close(self) -> Iterator[bytes]:
        if self._open:
            yield self._event("content-end", index=self._number)
            self._number += 1
            self._open = ""

    def _event(
        self,
        kind: str,
        delta: dict[str, Any] | None = None,
        damage: Callable[[bytes], bytes] | None = None,
        *,
        id_: str = "",
        index: int | None = None,
    ) -> bytes:
        record: dict[str, Any] = {**({"id": id_} if id_ else {}), "type": kind}
        if index is not None:
            record["index"] = index
        if delta is not None:
            record["delta"] = delta
        data = to_json(record)
        return sse(damage(data) if damage else data, kind)

    def _id(self) -> str:
        return f"{self._index:08x}-0000-4000-8000-000000000000"

    def _call(self, number: int, arguments: str) -> dict[str, Any]:
        call = self._output.tools[number]
        made_up = f"{call.name}_{self._index:06d}{number:06d}"
        return {
            "id": call.id or made_up,
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }

    def _usage(self) -> dict[str, Any]:
        output = self._output
        tokens = {"input_tokens": output.input_tokens, "output_tokens": output.output_tokens}
        return {"billed_units": tokens, "tokens": tokens, "cached_tokens": output.cached_tokens}

    def _why(self) -> dict[str, str]:
        reason = _REASONS.get(self._output.stop_reason, self._output.stop_reason)
        return {"finish_reason": reason} if reason else {}

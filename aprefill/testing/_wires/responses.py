"""OpenAI's newer wire, /responses. From recordings of api.openai.com, 2025 and 2026."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._output import split
from .base import CREATED, Wire, to_json
from .openai import openai_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._output import ModelOutput

#: Anthropic's stop reasons, which `ModelOutput` uses -> OpenAI's reasons for an incomplete reply. With any other stop
#: reason the reply is complete.
_INCOMPLETE = {"max_tokens": "max_output_tokens", "refusal": "content_filter"}

#: The settings that a response repeats from its request. These are the values for a request without any settings.
_SETTINGS: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


class ResponsesWire(Wire):
    """One reply on /responses. It consists of items, and each is opened, filled and closed. Reasoning is a summary."""

    request_id_header = "x-request-id"

    def __init__(self, output: ModelOutput, *, model: str, index: int, usage_asked: bool) -> None:
        super().__init__(output, model=model, index=index, usage_asked=usage_asked)
        self._sequence = 0
        self._items: list[dict[str, Any]] = []
        #: the kind of the open item; "": none is open
        self._open = ""
        #: the text of the open item so far
        self._written = ""
        #: the status of the reply at its end
        self._status = "incomplete" if output.stop_reason in _INCOMPLETE else "completed"

    def start(self) -> Iterator[bytes]:
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, {"response": self._response("in_progress")})

    def reasoning(self, piece: str) -> Iterator[bytes]:
        if self._open != "reasoning":
            yield from self._close()
            yield self._add("reasoning", {"id": self._id("rs"), "type": "reasoning", "summary": []})
            part = {"type": "summary_text", "text": ""}
            yield self._event("response.reasoning_summary_part.added", {**self._place("summary_index"), "part": part})
        self._written += piece
        yield self._event("response.reasoning_summary_text.delta", {**self._place("summary_index"), "delta": piece})

    def text(self, piece: str, damage: Callable[[bytes], bytes] | None = None) -> Iterator[bytes]:
        if self._open != "message":
            yield from self._open_message()
        self._written += piece
        delta = {**self._place("content_index"), "delta": piece, "logprobs": []}
        yield self._event("response.output_text.delta", delta, damage)

    def tools(self) -> Iterator[bytes]:
        for number in range(len(self._output.tools)):
            yield from self._close()
            item = self._call(number)
            yield self._add("call", {**item, "status": "in_progress", "arguments": ""})
            place = {"item_id": item["id"], "output_index": len(self._items) - 1}
            for part in split(item["arguments"], 8):
                yield self._event("response.function_call_arguments.delta", {**place, "delta": part})
            whole = {**place, "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", whole)
            yield self._done(item)

    def finish(self) -> Iterator[bytes]:
        if not self._items:
            yield from self._open_message()
        yield from self._close()

    def last(self) -> bytes:
        return self._event(f"response.{self._status}", {"response": self._response(self._status)})

    def error_event(self, kind: str, message: str) -> bytes:
        # The API reference documents a flat object. https://github.com/openai/openai-dotnet/issues/881 shows what is
        # really sent.
        return self._event("error", {"error": {"type": kind, "code": kind, "message": message, "param": None}})

    def whole(self) -> bytes:
        # build the same items as for a stream, and drop the events
        for step in (self.start(), *map(self.reasoning, self._output.reasoning), *map(self.text, self._output.content)):
            list(step)
        list(self.tools())
        list(self.finish())
        return to_json(self._response(self._status))

    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes:
        return openai_error(status, error)

    def _open_message(self) -> Iterator[bytes]:
        yield from self._close()
        message = {
            "id": self._id("msg"),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        yield self._add("message", message)
        yield self._event("response.content_part.added", {**self._place("content_index"), "part": _text("")})

    def _close(self) -> Iterator[bytes]:
        text = self._written
        if self._open == "reasoning":
            place, part = self._place("summary_index"), {"type": "summary_text", "text": text}
            yield self._event("response.reasoning_summary_text.done", {**place, "text": text})
            yield self._event("response.reasoning_summary_part.done", {**place, "part": part})
            yield self._done({**self._items[-1], "summary": [part]})
        elif self._open == "message":
            place = self._place("content_index")
            yield self._event("response.output_text.done", {**place, "text": text, "logprobs": []})
            yield self._event("response.content_part.done", {**place, "part": _text(text)})
            yield self._done({**self._items[-1], "status": self._status, "content": [_text(text)]})

    def _add(self, kind: str, item: dict[str, Any]) -> bytes:
        self._items.append(item)
        self._open, self._written = kind, ""
        return self._event("response.output_item.added", {"output_index": len(self._items) - 1, "item": item})

    def _done(self, item: dict[str, Any]) -> bytes:
        self._items[-1] = item
        self._open = ""
        return self._event("response.output_item.done", {"output_index": len(self._items) - 1, "item": item})

    def _place(self, part: str) -> dict[str, Any]:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1, part: 0}

    def _event(self, kind: str, fields: dict[str, Any], damage: Callable[[bytes], bytes] | None = None) -> bytes:
        data = to_json({"type": kind, **fields, "sequence_number": self._sequence})
        self._sequence += 1
        return self.packing.pack(damage(data) if damage else data, kind)

    def _response(self, status: str) -> dict[str, Any]:
        ended = status != "in_progress"
        why = _INCOMPLETE.get(self._output.stop_reason) if ended else None
        return {
            "id": f"resp_{self._index:048d}",
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": why} if why else None,
            "model": self._model,
            "output": self._items if ended else [],
            "usage": self._usage() if ended else None,
            **_SETTINGS,
        }

    def _usage(self) -> dict[str, Any]:
        output = self._output
        return {
            "input_tokens": output.input_tokens,
            "input_tokens_details": {"cached_tokens": output.cached_tokens},
            "output_tokens": output.output_tokens,
            "output_tokens_details": {"reasoning_tokens": min(len(output.reasoning), output.output_tokens)},
            "total_tokens": output.input_tokens + output.output_tokens,
        }

    def _id(self, kind: str) -> str:
        return f"{kind}_{self._index:040d}{len(self._items):08d}"

    def _call(self, number: int) -> dict[str, Any]:
        call = self._output.tools[number]
        return {
            "id": self._id("fc"),
            "type": "function_call",
            "status": "completed",
            "name": call.name,
            "call_id": call.id or f"call_{self._index:020d}{number:04d}",
            "arguments": call.arguments_json,
        }


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

"""The Anthropic wire, for /v1/messages and Vertex's rawPredict. From recordings of api.anthropic.com, 2025 and 2026."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .._output import split
from .base import Wire, sse, to_json, usual_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._output import ModelOutput

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

#: A stand-in for the signature of the host's thinking. A client has to send it back unchanged.
_SIGNATURE = "EqQBCgIYAhIkc2lnbmVkIGJ5IGFwcmVmaWxsLnRlc3Rpbmc="


class AnthropicWire(Wire):
    """One reply on the Anthropic wire."""

    request_id_header = "request-id"
    keepalive = sse(b'{"type": "ping"}', "ping")
    #: whether a ping follows the start of the first block, as in nearly every recorded stream of api.anthropic.com
    pings: ClassVar[bool] = True
    #: a part of the ids of messages and tool calls
    mark: ClassVar[str] = ""

    def __init__(self, output: ModelOutput, *, model: str, index: int, usage_asked: bool) -> None:
        super().__init__(output, model=model, index=index, usage_asked=usage_asked)
        self._block = -1
        self._kind = ""
        self._ended = False

    @classmethod
    def sends_objects(cls, *, streamed: bool) -> bool:
        return not streamed

    @property
    def request_id(self) -> str:
        return f"req_{self._index:024d}"

    def start(self) -> Iterator[bytes]:
        message = self._message([], stop_reason=None, stop_sequence=None, output_tokens=1)
        yield self._event("message_start", {"message": message})

    def reasoning(self, piece: str) -> Iterator[bytes]:
        yield from self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        yield self._delta({"type": "thinking_delta", "thinking": piece})

    def text(self, piece: str, damage: Callable[[bytes], bytes] | None = None) -> Iterator[bytes]:
        if not self._ended:
            yield from self._open("text", {"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": piece}, damage)

    def tools(self) -> Iterator[bytes]:
        for number, call in enumerate(self._output.tools):
            block = {"type": "tool_use", "id": self._tool_id(number), "name": call.name, "input": {}}
            yield from self._open(f"tool {number}", block)
            for part in ("", *split(call.arguments_json, 8)):
                yield self._delta({"type": "input_json_delta", "partial_json": part})

    def finish(self) -> Iterator[bytes]:
        if not (self._output.content or self._output.tools):
            yield from self._open("text", {"type": "text", "text": ""})  # recorded: an empty reply has a text block
        yield from self._close()
        self._ended = True
        delta = {"stop_reason": self._output.stop_reason or None, "stop_sequence": self._output.stop_sequence}
        yield self._event("message_delta", {"delta": delta, "usage": self._usage(self._output.output_tokens)})

    def last(self) -> bytes:
        return self._event("message_stop", {})

    def error_event(self, kind: str, message: str) -> bytes:
        return self._event("error", {"error": {"type": kind, "message": message}})

    def whole(self) -> bytes:
        output = self._output
        content: list[dict[str, Any]] = []
        if output.reasoning:
            content.append(
                {
                    "type": "thinking",
                    "thinking": "".join(output.reasoning),
                    "signature": _SIGNATURE,
                }
            )
        if output.content or not output.tools:
            content.append({"type": "text", "text": "".join(output.content)})
        for number, call in enumerate(output.tools):
            content.append(
                {
                    "type": "tool_use",
                    "id": self._tool_id(number),
                    "name": call.name,
                    "input": call.arguments_object,
                }
            )
        return to_json(
            self._message(
                content,
                stop_reason=self._output.stop_reason or None,
                stop_sequence=output.stop_sequence,
                output_tokens=output.output_tokens,
            )
        )

    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes:
        kind, message = error or (_ERROR_TYPES.get(status, "api_error"), usual_message(status))
        body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": self.request_id}
        return to_json(body)

    def _open(self, kind: str, block: dict[str, Any]) -> Iterator[bytes]:
        if self._kind == kind:
            return
        yield from self._close()
        first = self._block < 0
        self._block += 1
        self._kind = kind
        yield self._event("content_block_start", {"index": self._block, "content_block": block})
        if first and self.pings:
            yield self.keepalive

    def _close(self) -> Iterator[bytes]:
        if self._kind == "thinking":
            yield self._delta({"type": "signature_delta", "signature": _SIGNATURE})
        if self._kind:
            yield self._event("content_block_stop", {"index": self._block})
        self._kind = ""

    def _delta(self, delta: dict[str, str], damage: Callable[[bytes], bytes] | None = None) -> bytes:
        return self._event("content_block_delta", {"index": max(self._block, 0), "delta": delta}, damage)

    def _event(self, kind: str, fields: dict[str, Any], damage: Callable[[bytes], bytes] | None = None) -> bytes:
        data = to_json({"type": kind, **fields})
        return self.packing.pack(damage(data) if damage else data, kind)

    def _message(self, content: list[dict[str, Any]], *, output_tokens: int, **end: str | None) -> dict[str, Any]:
        return {
            "model": self._model,
            "id": f"msg_{self.mark}{self._index:024d}",
            "type": "message",
            "role": "assistant",
            "content": content,
            **end,
            "usage": {**self._usage(output_tokens), "service_tier": "standard"},
        }

    def _usage(self, output_tokens: int) -> dict[str, int]:
        return {
            "input_tokens": self._output.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self._output.cached_tokens,
            "output_tokens": output_tokens,
        }

    def _tool_id(self, number: int) -> str:
        return self._output.tools[number].id or f"toolu_{self.mark}{self._index:020d}{number:04d}"

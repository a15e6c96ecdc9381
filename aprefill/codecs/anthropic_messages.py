"""Anthropic's Messages protocol: api.anthropic.com, Vertex, Foundry, Bedrock's InvokeModel, engines' `/v1/messages`.

The end is `message_stop`, and nothing else is; text after it is not taken. EOF before it is a cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from aprefill._errors import ProtocolError, Truncated, UsageError
from aprefill._types import (
    EndDelta,
    FinishDelta,
    ReasoningDelta,
    StopReason,
    TextDelta,
    ToolDelta,
    Usage,
    UsageDelta,
)
from aprefill.codecs._anthropic_turn import Block, Turn
from aprefill.codecs._host_error import body_error, error_from, names_error, says_error
from aprefill.codecs._json import REFUSED, Reader, dumps, loads, overlay, within_depth
from aprefill.codecs._surrogates import Joiner, mend_all
from aprefill.codecs._usage import count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aprefill._types import Call, Delta, Message, Record

#: stop_reason -> ours (anthropic 2.12.0, types/stop_reason.py)
STOP_REASONS = {
    "end_turn": StopReason.END,
    "max_tokens": StopReason.MAX_TOKENS,
    "stop_sequence": StopReason.STOP_SEQUENCE,
    "tool_use": StopReason.TOOL_USE,
    "pause_turn": StopReason.PAUSE,
    "refusal": StopReason.REFUSAL,
    "model_context_window_exceeded": StopReason.CONTEXT_WINDOW,
}

#: Usage field -> where the host counts it. Counts are cumulative: a later one replaces an earlier one.
_COUNTS = {
    "input_tokens": (("input_tokens",),),
    "output_tokens": (("output_tokens",),),
    "cache_read_tokens": (("cache_read_input_tokens",),),
    "cache_write_tokens": (("cache_creation_input_tokens",),),
    "reasoning_tokens": (("output_tokens_details", "thinking_tokens"),),
}


class _Delta(Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    # of a compaction block
    content: Any = None
    encrypted_content: Any = None


class _Event(Struct, gc=False):
    type: str = ""
    index: int | None = None
    delta: _Delta | None = None
    content_block: dict[str, Any] | None = None
    message: Any = None
    usage: Any = None
    # of the Text Completions API, retired
    completion: str | None = None


_READER: Reader[_Event] = Reader(_Event)
_fast = _READER.fast


class AnthropicDecoder:
    """Decodes one Messages stream.

    >>> from aprefill._types import Record
    >>> decoder = AnthropicDecoder()
    >>> decoder.decode(Record(b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}'))
    (TextDelta(text='Hi'),)
    >>> decoder.decode(Record(b'{"type":"message_stop"}'))
    (EndDelta(),)
    >>> decoder.close()
    ()

    Tools that the host runs itself (`server_tool_use`, `mcp_tool_use`) give no `ToolDelta`: there is nothing for the
    caller to do. They are in `message()`. A `message_start` in mid-stream (a gateway that began again upstream)
    starts a new turn if its id is new: the old one's blocks leave `message()`, text that was handed out stays.
    """

    def __init__(self) -> None:
        self._over = False
        self._finished = False
        self._turn = Turn()
        self._message_id: str | None = None
        self._calls = 0
        self._usage: dict[str, int] = {}
        # a stop reason that came with message_start, for a message whose blocks come whole
        self._early: FinishDelta | None = None
        # set by the first record that msgspec refuses; only such records can hold half a surrogate pair
        self._joiner: Joiner | None = None

    # --- the protocol of a decoder ----------------------------------------------------------------------------

    def decode(self, record: Record) -> Sequence[Delta]:
        if self._over:
            return ()
        try:
            event = _fast(record.data)
        except REFUSED:
            pass  # outside of the except clause nothing is chained: a UnicodeDecodeError carries the text
        else:
            # Nearly every record of a reply is a text delta.
            if event.type == "content_block_delta" and self._joiner is None:
                delta = event.delta
                if delta is not None and delta.type == "text_delta" and delta.text:
                    return (TextDelta(delta.text),)
            return self._map(event, record)
        return self._decode_refused(record)

    def close(self, undispatched: Record | None = None) -> Sequence[Delta]:
        if self._over:
            return ()
        if undispatched is not None:
            try:
                kind = _READER.read(undispatched.data).type or undispatched.event
            except ProtocolError:
                kind = ""  # half a record
            if kind in {"message_stop", "error"}:
                return self.decode(undispatched)
        raise Truncated(
            "no message_stop came" + (" after the stop reason" if self._finished else " and no stop reason")
        )

    def message(self, text: str) -> Message:
        return self._turn.message(text)

    # --- records ----------------------------------------------------------------------------------------------

    def _decode_refused(self, record: Record) -> Sequence[Delta]:
        if names_error(record.event):
            return self._error(record)
        data = record.data.strip()
        if not data or data == b"[DONE]":  # gateways that also speak openai_chat; neither is an end here
            return ()
        try:
            event = _READER.slow(data)
        except ProtocolError:
            if says_error(loads(data)):  # a gateway's own, of another shape
                return self._error(record)
            raise
        if self._joiner is None:
            self._joiner = Joiner()
        return self._map(event, record)

    def _map(self, event: _Event, record: Record) -> Sequence[Delta]:
        kind = event.type or record.event
        handle = _HANDLERS.get(kind)
        if handle is not None:
            return handle(self, event)
        if kind == "error" or names_error(record.event):
            return self._error(record)
        if not event.type:
            if says_error(loads(record.data)):
                return self._error(record)
            if not kind or kind in {"message", "chunk"}:  # the framing's own words, not Anthropic's
                raise ProtocolError("a record has no `type`")
        return ()

    def _error(self, record: Record) -> Sequence[Delta]:
        self._over = True
        return (error_from(record),)

    def _start_message(self, event: _Event) -> Sequence[Delta]:
        message = event.message
        if not isinstance(message, dict):
            raise ProtocolError("message_start has no `message`")
        id_ = message.get("id")
        if isinstance(id_, str):
            if self._message_id not in {None, id_}:
                self._turn = Turn()
            self._message_id = id_
        reason, sequence = message.get("stop_reason"), message.get("stop_sequence")
        if isinstance(reason, str):
            self._early = _finish(reason, sequence if isinstance(sequence, str) else None)
        return [*self._whole(message.get("content")), *self._count(message.get("usage"))]

    def _whole(self, content: Any) -> list[Delta]:
        """The text that a message has from its start on, as gateways send that make a stream of a whole reply."""
        blocks = content if isinstance(content, list) else []
        texts = [b.get("text") for b in blocks if isinstance(b, dict) and b.get("type") == "text"]
        return [TextDelta(text) for text in texts if isinstance(text, str) and text]

    def _start_block(self, event: _Event) -> Sequence[Delta]:
        start = event.content_block
        kind = None if start is None else start.get("type")
        if start is None or not isinstance(kind, str):
            raise ProtocolError("content_block_start has no `content_block` with a `type`")
        if self._joiner is not None:
            start = within_depth(mend_all, start)
        block = Block(start)
        self._turn.open(event.index, block)
        if kind == "tool_use":
            id_, name = start.get("id"), start.get("name")
            if not isinstance(id_, str) or not isinstance(name, str):
                raise ProtocolError("a tool_use block has no `id` or no `name`")
            block.call = self._calls
            self._calls += 1
            return (ToolDelta(block.call, id_, name),)
        first = start.get(kind)
        if isinstance(first, str) and first:
            if kind == "text":
                return self._text(first)
            if kind == "thinking":
                return self._think(block, first)
        return ()

    def _delta(self, event: _Event) -> Sequence[Delta]:
        delta = event.delta
        if delta is None or not delta.type:
            raise ProtocolError("content_block_delta has no `delta` with a `type`")
        kind = delta.type
        if kind == "text_delta":
            return self._text(_needed(delta.text, "text_delta", "text"))
        block = self._turn.get(event.index)
        if kind == "thinking_delta":
            if block is None:  # a host that opens no blocks
                block = Block({"type": "thinking"})
                self._turn.open(event.index, block)
            return self._think(block, _needed(delta.thinking, kind, "thinking"))
        if kind == "input_json_delta":
            part = _needed(delta.partial_json, kind, "partial_json")
            if block is None:
                raise ProtocolError("input_json_delta for a block that was never started")
            block.parts.append(part)
            return self._arguments(block, part)
        if block is not None:
            if kind == "signature_delta":
                block.signature = _needed(delta.signature, kind, "signature")
            elif kind == "compaction_delta":
                block.start |= {"content": delta.content, "encrypted_content": delta.encrypted_content}
        return ()

    def _stop_block(self, event: _Event) -> Sequence[Delta]:
        block = self._turn.get(event.index)
        if block is None or block.call is None or any(block.parts):
            return ()
        # No argument came: the call's input is what it started with, so that its pieces always join to JSON.
        return self._arguments(block, within_depth(dumps, block.start.get("input") or {}))

    def _message_delta(self, event: _Event) -> Sequence[Delta]:
        deltas = [*self._count(event.usage)]
        if event.delta is not None and event.delta.stop_reason:
            self._finished = True
            deltas.append(_finish(event.delta.stop_reason, event.delta.stop_sequence))
        return deltas

    def _stop_message(self, event: _Event) -> Sequence[Delta]:
        self._over = True
        deltas: list[Delta] = []
        if self._joiner is not None:
            deltas += self._joiner.close()
        if not self._finished and self._early is not None:
            deltas.append(self._early)
        return (*deltas, EndDelta())

    def _completion(self, event: _Event) -> Sequence[Delta]:
        # Its text is the reply's, but that API has no message_stop: such a stream ends as a cut.
        return self._text(_needed(event.completion, "completion", "completion"))

    # --- values -----------------------------------------------------------------------------------------------

    def _text(self, text: str) -> Sequence[Delta]:
        if self._joiner is not None:
            text = self._joiner.feed("text", text)
        return (TextDelta(text),) if text else ()

    def _think(self, block: Block, text: str) -> Sequence[Delta]:
        block.parts.append(text)
        if self._joiner is not None:
            text = self._joiner.feed("reasoning", text)
        return (ReasoningDelta(text),) if text else ()

    def _arguments(self, block: Block, part: str) -> Sequence[Delta]:
        if block.call is None:
            return ()
        if self._joiner is not None:
            part = self._joiner.feed(block.call, part)
        return (ToolDelta(block.call, arguments=part),) if part else ()

    def _count(self, usage: Any) -> Sequence[Delta]:
        found = count(usage, _COUNTS)
        if not found:
            return ()
        self._usage |= found
        return (UsageDelta(Usage(**self._usage)),)


_HANDLERS: dict[str, Callable[[AnthropicDecoder, _Event], Sequence[Delta]]] = {
    "message_start": AnthropicDecoder._start_message,
    "content_block_start": AnthropicDecoder._start_block,
    "content_block_delta": AnthropicDecoder._delta,
    "content_block_stop": AnthropicDecoder._stop_block,
    "message_delta": AnthropicDecoder._message_delta,
    "message_stop": AnthropicDecoder._stop_message,
    "completion": AnthropicDecoder._completion,
}


def _finish(reason: str, sequence: str | None) -> FinishDelta:
    return FinishDelta(STOP_REASONS.get(reason, StopReason.OTHER), reason, sequence)


def _needed(text: str | None, where: str, field: str) -> str:
    if text is None:
        raise ProtocolError(f"{where} has no `{field}`")
    return text


def _hoist(system: str | None, messages: tuple[Message, ...]) -> tuple[Any, list[Message]]:
    """The top-level `system` and the messages after the leading system ones, which Messages does not take there.

    It is a str, or a list of blocks if one of the contents was a list.
    """
    contents: list[Any] = [] if system is None else [system]
    first = 0
    while first < len(messages) and messages[first].get("role") == "system":
        contents.append(messages[first].get("content"))
        first += 1
    rest = list(messages[first:])
    if all(isinstance(content, str) for content in contents):
        return "\n\n".join(contents) or None, rest
    blocks: list[Any] = []
    for content in contents:
        blocks += [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    return blocks, rest


class AnthropicMessages:
    """The codec. `response_format` goes to `output_config.format`, where this protocol has it."""

    name = "anthropic_messages"
    path = "/v1/messages"
    arguments: Mapping[str, tuple[str, ...]] = {
        "model": ("model",),
        "prompt": ("messages",),
        "system": ("system",),
        "max_tokens": ("max_tokens",),
        "stop": ("stop_sequences",),
        "temperature": ("temperature",),
        "thinking": ("thinking",),
        "tools": ("tools",),
        "response_format": ("output_config", "output_format"),
    }

    def encode(self, call: Call) -> dict[str, Any]:
        system, messages = _hoist(call.system, call.messages)
        body: dict[str, Any] = {"model": call.model}
        if call.max_tokens is not None:
            body["max_tokens"] = call.max_tokens
        if system is not None:
            body["system"] = system
        body["messages"] = messages
        if call.stop:
            body["stop_sequences"] = list(call.stop)
        if call.temperature is not None:
            body["temperature"] = call.temperature
        if call.thinking is not None:
            body["thinking"] = call.thinking
        if call.tools:
            body["tools"] = list(call.tools)
        if call.response_format is not None:
            body["output_config"] = {"format": call.response_format}
        body["stream"] = True
        body = overlay(body, call.fields)
        if "max_tokens" not in body:
            raise UsageError("this protocol needs a token limit: pass max_tokens=")
        return body

    def decoder(self, *, end: str = "strict") -> AnthropicDecoder:
        if end != "strict":
            raise UsageError(f"anthropic_messages has no end rule {end!r}; it has 'strict'")
        return AnthropicDecoder()

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
        return body_error(status, body, headers)


CODEC = AnthropicMessages()

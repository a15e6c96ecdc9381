"""Anthropic's Messages protocol: api.anthropic.com, Vertex, Foundry, Bedrock's InvokeModel, engines' `/v1/messages`.

A stream ends with `message_stop`. Some hosts omit this record: there the stream ends with the body, if a stop reason
was received. Without a stop reason, the stream was truncated. Text after `message_stop` is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from aprefill._codecs._anthropic_turn import turn_of
from aprefill._codecs._base import JsonCodec
from aprefill._codecs._host_error import error_from, names_error, says_error
from aprefill._codecs._json import UNREADABLE, Reader, dumps, loads, within_depth
from aprefill._codecs._surrogates import Joiner, mend, mend_all
from aprefill._codecs._usage import count
from aprefill._deltas import (
    BlockDelta,
    EndDelta,
    ErrorDelta,
    FinishDelta,
    ReasoningDelta,
    TextDelta,
    ToolDelta,
    UsageDelta,
)
from aprefill._errors import ProtocolError, Truncated, UsageError
from aprefill._types import StopReason, Usage
from aprefill._words import Words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aprefill._deltas import Delta, Message, ModelInput, Record

#: Anthropic's stop_reason -> `StopReason` (anthropic 2.12.0, types/stop_reason.py)
STOP_REASONS = {
    "end_turn": StopReason.END,
    "max_tokens": StopReason.MAX_TOKENS,
    "stop_sequence": StopReason.STOP_SEQUENCE,
    "tool_use": StopReason.TOOL_USE,
    "pause_turn": StopReason.PAUSE,
    "refusal": StopReason.REFUSAL,
    "model_context_window_exceeded": StopReason.CONTEXT_WINDOW,
}

#: `Usage` field -> the paths of the count in the host's usage. A later count replaces an earlier one.
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
    partial_json: str | dict[str, Any] | list[Any] | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    # fields of a compaction block
    content: Any = None
    encrypted_content: Any = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("text",) if value.get("type") == "text_delta" else ()


class _Event(Struct, gc=False):
    type: str = ""
    index: int | str | None = None  # some hosts send the number as text
    delta: _Delta | None = None
    content_block: dict[str, Any] | None = None
    message: Any = None
    usage: Any = None
    # field of the Text Completions API, which was retired
    completion: str | None = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return _NEEDED.get(str(value.get("type")), ())


#: Event -> the fields that may contain text of the reply.
_NEEDED = {
    "content_block_start": ("content_block",),
    "content_block_delta": ("delta",),
    "completion": ("completion",),
}

_READER: Reader[_Event] = Reader(_Event)
_fast = _READER.fast


class AnthropicDecoder:
    """Decodes one Messages stream.

    >>> from aprefill._deltas import Record
    >>> decoder = AnthropicDecoder()
    >>> decoder.decode(Record(b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}'))
    (TextDelta(text='Hi'),)
    >>> decoder.decode(Record(b'{"type":"message_stop"}'))
    (EndDelta(),)
    >>> decoder.close()
    ()

    Tools that the host runs itself (`server_tool_use`, `mcp_tool_use`) give no `ToolDelta`, because the caller does not
    have to run them. They are part of the assistant message for the next request.

    A second `message_start` with a new id means that a gateway has repeated the request upstream. The blocks of the
    first message are dropped from the assistant message. Text that was handed out is kept.
    """

    def __init__(self) -> None:
        self._over = False
        self._finished = False
        # the blocks of the current message by the host's index, and the number of blocks in all messages
        self._blocks: dict[int | str, _Block] = {}
        self._count_blocks = 0
        self._calls = 0
        self._message_id: str | None = None
        self._usage: dict[str, int] = {}
        # the stop reason in message_start, which is there if a gateway sends a complete message as a stream
        self._early: FinishDelta | None = None
        # set by the first record that msgspec rejects; only such records can contain a lone surrogate
        self._joiner: Joiner | None = None

    # --- the protocol of a decoder ----------------------------------------------------------------------------

    def decode(self, record: Record) -> Sequence[Delta]:
        if self._over:
            return ()
        try:
            event = _fast(record.data)
        except UNREADABLE:
            pass  # Continue outside the handler, so that no error is chained: a UnicodeDecodeError contains the text.
        else:
            # Nearly every record of a reply is a text delta.
            if event.type == "content_block_delta" and self._joiner is None:
                delta = event.delta
                if delta is not None and delta.type == "text_delta" and delta.text:
                    return (TextDelta(delta.text),)
            return self._map(event, record)
        return self._decode_unreadable(record)

    def close(self, undispatched: Record | None = None) -> Sequence[Delta]:
        if self._over:
            return ()
        deltas: Sequence[Delta] = ()
        if undispatched is not None and self._is_terminal(undispatched):
            deltas = self.decode(undispatched)
            if deltas and type(deltas[-1]) in {EndDelta, ErrorDelta}:
                return deltas
        if not self._finished:
            raise Truncated("no message_stop came and no stop reason")
        return (*deltas, *self._end())

    def _is_terminal(self, record: Record) -> bool:
        """Whether a record that has no blank line after it is complete and is the protocol's end."""
        try:
            event = _READER.read(record.data)
        except ProtocolError:
            return False
        kind = event.type or record.event
        if kind == "message_delta":
            return event.delta is not None and bool(event.delta.stop_reason)
        return kind in {"message_stop", "error"}

    # --- records ----------------------------------------------------------------------------------------------

    def _decode_unreadable(self, record: Record) -> Sequence[Delta]:
        if names_error(record.event, record.data):
            return self._error(record)
        data = record.data.strip()
        if not data or data == b"[DONE]":  # gateways that also support openai_chat send these; neither is an end here
            return ()
        try:
            event = _READER.slow(data)
        except ProtocolError:
            if says_error(loads(data)):  # a gateway's error, in another format
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
        if kind == "error" or names_error(record.event, record.data):
            return self._error(record)
        if not event.type:
            if says_error(loads(record.data)):
                return self._error(record)
            if not kind or kind in {"message", "chunk"}:  # default names of SSE and AWS event streams, not Anthropic's
                raise ProtocolError("a record has no `type`")
        return ()

    def _error(self, record: Record) -> Sequence[Delta]:
        self._over = True
        return (error_from(record),)

    def _start_message(self, event: _Event) -> Sequence[Delta]:
        message = event.message if isinstance(event.message, dict) else {}
        deltas: list[Delta] = []
        id_ = message.get("id")
        if isinstance(id_, str):
            if self._message_id not in {None, id_} and self._count_blocks:
                self._blocks = {}
                deltas.append(BlockDelta("restart"))
            self._message_id = id_
        reason, sequence = message.get("stop_reason"), message.get("stop_sequence")
        if isinstance(reason, str):
            self._early = _finish(reason, sequence if isinstance(sequence, str) else None)
        # a gateway that sends a complete reply as a stream puts text into message_start
        content = message.get("content")
        for block in content if isinstance(content, list) else []:
            if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
                deltas += self._text(block["text"])
        return [*deltas, *self._count(message.get("usage"))]

    def _start_block(self, event: _Event) -> Sequence[Delta]:
        start = event.content_block
        kind = None if start is None else start.get("type")
        if start is None or not isinstance(kind, str):
            raise ProtocolError("content_block_start has no `content_block` with a `type`")
        if self._joiner is not None:
            start = within_depth(mend_all, start)
        block = self._open(event.index, _Block(start, self._count_blocks))
        if kind == "tool_use":
            block.call = self._calls
            self._calls += 1
            call = ToolDelta(block.call, _text_of(start.get("id")), _text_of(start.get("name")))
            if start.keys() <= {"type", "id", "name", "input"}:
                return (call,)
            return (BlockDelta("start", block.number, start), call)
        first = start.get(kind)
        said = first if isinstance(first, str) else ""
        if kind == "text":
            return self._text(said)
        return (BlockDelta("start", block.number, start), *(self._think(said) if kind == "thinking" else ()))

    def _open(self, index: int | str | None, block: _Block) -> _Block:
        self._blocks[len(self._blocks) if index is None else index] = block
        self._count_blocks += 1
        return block

    def _block(self, index: int | str | None) -> _Block | None:
        """Return the block with that index; without an index, return the last block."""
        if index is not None:
            return self._blocks.get(index)
        return next(reversed(self._blocks.values()), None)

    def _delta(self, event: _Event) -> Sequence[Delta]:
        delta = event.delta
        if delta is None or not delta.type:
            raise ProtocolError("content_block_delta has no `delta` with a `type`")
        kind = delta.type
        if kind == "text_delta":
            return self._text(_needed(delta.text, "text_delta", "text"))
        block = self._block(event.index)
        if kind == "thinking_delta":
            if block is None:  # some hosts do not send content_block_start
                block = self._open(event.index, _Block({"type": "thinking"}, self._count_blocks))
                return (BlockDelta("start", block.number, block.start), *self._think(delta.thinking or ""))
            if delta.thinking is None:
                return (BlockDelta("spoiled", block.number),)
            return self._think(delta.thinking)
        if block is None:
            return ()
        if kind == "input_json_delta":
            part = delta.partial_json
            if isinstance(part, dict | list):  # some hosts send the input as an object, not as JSON text
                part = within_depth(dumps, part)
            return self._arguments(block, part) if isinstance(part, str) else ()
        if kind == "signature_delta" and delta.signature is not None:
            return (BlockDelta("signature", block.number, mend(delta.signature)),)
        if kind == "compaction_delta":
            value = {"content": delta.content, "encrypted_content": delta.encrypted_content}
            return (BlockDelta("fill", block.number, value if self._joiner is None else within_depth(mend_all, value)),)
        return ()

    def _stop_block(self, event: _Event) -> Sequence[Delta]:
        block = self._block(event.index)
        if block is None or block.start["type"] == "text":
            return ()
        if block.call is None:
            return (BlockDelta("stop", block.number),)
        return self._whole_input(block)

    def _whole_input(self, block: _Block) -> Sequence[Delta]:
        """Return the input of the call's first record if no piece of input came. So the pieces always join to JSON."""
        if block.call is None or block.has_input:
            return ()
        return self._arguments(block, within_depth(dumps, block.start.get("input") or {}))

    def _message_delta(self, event: _Event) -> Sequence[Delta]:
        deltas = [*self._count(event.usage)]
        if event.delta is not None and event.delta.stop_reason:
            self._finished = True
            deltas.append(_finish(event.delta.stop_reason, event.delta.stop_sequence))
        return deltas

    def _stop_message(self, event: _Event) -> Sequence[Delta]:
        deltas: list[Delta] = []
        for block in self._blocks.values():  # some hosts do not send content_block_stop
            deltas += self._whole_input(block)
        return (*deltas, *self._end())

    def _end(self) -> list[Delta]:
        self._over = True
        deltas: list[Delta] = [] if self._joiner is None else self._joiner.close()
        if not self._finished and self._early is not None:
            deltas.append(self._early)
        return [*deltas, EndDelta()]

    def _completion(self, event: _Event) -> Sequence[Delta]:
        # A `completion` event is from Anthropic's retired Text Completions API. Its text is text of the reply. That API
        # never sends a message_stop event, so a stream with these events ends with `Truncated`.
        return self._text(_needed(event.completion, "completion", "completion"))

    # --- values -----------------------------------------------------------------------------------------------

    def _text(self, text: str) -> Sequence[Delta]:
        if self._joiner is not None:
            text = self._joiner.feed("text", text)
        return (TextDelta(text),) if text else ()

    def _think(self, text: str) -> Sequence[Delta]:
        if self._joiner is not None:
            text = self._joiner.feed("reasoning", text)
        return (ReasoningDelta(text),) if text else ()

    def _arguments(self, block: _Block, part: str) -> Sequence[Delta]:
        if not part:
            return ()
        block.has_input = True
        if block.call is None:
            return (BlockDelta("input", block.number, part),)
        if self._joiner is not None:
            part = self._joiner.feed(block.call, part)
        return (ToolDelta(block.call, arguments=part),) if part else ()

    def _count(self, usage: Any) -> Sequence[Delta]:
        found = count(usage, _COUNTS)
        if not found:
            return ()
        self._usage |= found
        return (UsageDelta(Usage(**self._usage)),)


class _Block:
    """One content block: its first record, its number in the stream, and the number of its tool call."""

    __slots__ = ("call", "has_input", "number", "start")

    def __init__(self, start: dict[str, Any], number: int) -> None:
        self.start = start
        self.number = number
        #: number of the tool call; None if the block is not a call of one of the caller's own tools
        self.call: int | None = None
        self.has_input = False


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
    sequence = None if sequence is None else mend(sequence)
    return FinishDelta(STOP_REASONS.get(reason, StopReason.OTHER), mend(reason), sequence)


def _text_of(value: Any) -> str:
    """Return an id or a name as text. Some hosts send a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _needed(text: str | None, where: str, field: str) -> str:
    if text is None:
        raise ProtocolError(f"{where} has no `{field}`")
    return text


def _hoist(system: str | None, messages: tuple[Message, ...]) -> tuple[Any, list[Message]]:
    """Move the system messages at the start of `messages` into the field `system`, as the protocol requires.

    Returns `system` and the other messages. `system` is a str, or a list of blocks if one of the contents is a list.
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


class AnthropicMessages(JsonCodec):
    """The codec of Anthropic's Messages protocol. It sends `response_format` as `output_config.format`."""

    name = "anthropic_messages"
    stop_reasons = STOP_REASONS
    nested = frozenset({"output_config"})
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

    def path(self, model_input: ModelInput) -> str:
        return "/v1/messages"

    def body(self, model_input: ModelInput) -> dict[str, Any]:
        system, messages = _hoist(model_input.system, model_input.messages)
        body: dict[str, Any] = {"model": model_input.model}
        if model_input.max_tokens is not None:
            body["max_tokens"] = model_input.max_tokens
        if system is not None:
            body["system"] = system
        body["messages"] = messages
        if model_input.stop:
            body["stop_sequences"] = list(model_input.stop)
        if model_input.temperature is not None:
            body["temperature"] = model_input.temperature
        if model_input.thinking is not None:
            body["thinking"] = model_input.thinking
        if model_input.tools:
            body["tools"] = list(model_input.tools)
        if model_input.response_format is not None:
            body["output_config"] = {"format": model_input.response_format}
        return {**body, **self.streaming}

    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        body = super().encode(model_input)
        if "max_tokens" not in body:
            raise UsageError("this protocol needs a token limit", Words("pass {max_tokens}"))
        return body

    def decoder(self, *, end: str = "strict") -> AnthropicDecoder:
        self.check_end_rule(end)
        return AnthropicDecoder()

    def message(self, parts: Sequence[str | Delta], *, lead: str = "") -> Message:
        return turn_of(parts, lead)


CODEC = AnthropicMessages()

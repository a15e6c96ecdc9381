"""Cohere's chat protocol, version 2: `/v2/chat`, as server-sent events.

A stream ends with the event `message-end`, which says why the model stopped. Without it, the stream was truncated. The
record `[DONE]` comes after it and means nothing. An error inside the stream is a `message-end` with an error in it.
Version 1 (`/v1/chat`) is not read: it has another request and other events, and Cohere has replaced it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from aprefill._codecs._base import JsonCodec
from aprefill._codecs._host_error import error_from, names_error, said, says_error
from aprefill._codecs._json import UNREADABLE, Reader, loads
from aprefill._codecs._neutral import calls_of, tool_of
from aprefill._codecs._openai_calls import CallPiece, Calls, turn_of
from aprefill._codecs._surrogates import Joiner, mend
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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aprefill._deltas import Delta, Message, ModelInput, Record

#: Cohere's finish_reason -> `StopReason` (cohere 7.3.1, types/chat_finish_reason.py)
STOP_REASONS = {
    "COMPLETE": StopReason.END,
    "STOP_SEQUENCE": StopReason.STOP_SEQUENCE,
    "MAX_TOKENS": StopReason.MAX_TOKENS,
    "TOOL_CALL": StopReason.TOOL_USE,
}
#: Finish reasons that mean that the host failed -> the HTTP status that this would be, and the type of the error.
#: "ERROR" says nothing about the type.
_FAILURES = {"ERROR": (500, ""), "TIMEOUT": (504, "TIMEOUT")}

#: `Usage` field -> the paths of the count. `billed_units` do not contain the tokens that Cohere adds to the prompt.
_COUNTS = {
    "input_tokens": (("tokens", "input_tokens"), ("billed_units", "input_tokens")),
    "output_tokens": (("tokens", "output_tokens"), ("billed_units", "output_tokens")),
    "cache_read_tokens": (("cached_tokens",),),
}

_ROLES = ("system", "user", "assistant", "tool")


class _Content(Struct, gc=False):
    text: str | None = None
    thinking: str | None = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("text",)


class _Message(Struct, gc=False):
    #: an object in the events of the content, a list in `message-start`
    content: _Content | list[Any] | None = None
    #: an object in the events of a call, a list in `message-start`
    tool_calls: CallPiece | list[Any] | None = None
    tool_plan: str | None = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("content",)


class _Delta(Struct, gc=False):
    message: _Message | None = None
    finish_reason: str | None = None
    usage: Any = None
    error: Any = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("message",)


class _Event(Struct, gc=False):
    type: str = ""
    index: int | str | None = None
    delta: _Delta | None = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("delta",) if str(value.get("type")) in _WITH_CONTENT else ("type",)


#: The events that may contain text of the reply.
_WITH_CONTENT = {"content-start", "content-delta"}

_READER: Reader[_Event] = Reader(_Event)
_fast = _READER.fast


class CohereDecoder:
    """Decodes one stream of `/v2/chat`.

    >>> from aprefill._deltas import Record
    >>> decoder = CohereDecoder()
    >>> decoder.decode(Record(b'{"type":"content-delta","delta":{"message":{"content":{"text":"Hi"}}}}'))
    (TextDelta(text='Hi'),)
    >>> decoder.decode(Record(b'{"type":"message-end","delta":{"finish_reason":"COMPLETE"}}'))
    [FinishDelta(reason=<StopReason.END: 'end'>, raw='COMPLETE', sequence=None), EndDelta()]

    The plan that a model writes before its tool calls (`tool_plan`) is not yielded. It is part of the assistant message
    for the next request. Citations are left out of both.
    """

    def __init__(self) -> None:
        self._over = False
        self._calls = Calls()
        # the number of each call without arguments so far, by the host's index
        self._bare: dict[int | str | None, int] = {}
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
            # Nearly every record of a reply is a piece of text.
            if event.type == "content-delta" and self._joiner is None:
                delta = event.delta
                message = None if delta is None else delta.message
                content = None if message is None else message.content
                if type(content) is _Content and content.text and not content.thinking:
                    return (TextDelta(content.text),)
            return self._map(event, record)
        return self._decode_unreadable(record)

    def close(self, undispatched: Record | None = None) -> Sequence[Delta]:
        if self._over:
            return ()
        if undispatched is not None and self._is_terminal(undispatched):
            return self.decode(undispatched)
        raise Truncated("no message-end came")

    def _is_terminal(self, record: Record) -> bool:
        """Whether a record that has no blank line after it is complete and is the protocol's end."""
        try:
            event = _READER.read(record.data)
        except ProtocolError:
            return False
        return (event.type or record.event) in {"message-end", "error"}

    # --- records ----------------------------------------------------------------------------------------------

    def _decode_unreadable(self, record: Record) -> Sequence[Delta]:
        data = record.data.strip()
        if data == b"[DONE]":
            raise Truncated("[DONE] came without a message-end")
        if names_error(record.event, record.data):
            return self._fail(record)
        if not data:
            return ()
        try:
            event = _READER.slow(data)
        except ProtocolError:
            if says_error(loads(data)):  # a gateway's error, in another format
                return self._fail(record)
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
            return self._fail(record)
        if not event.type:
            value = loads(record.data)
            # an error body of Cohere is an id and a message
            if says_error(value) or (isinstance(value, dict) and isinstance(value.get("message"), str)):
                return self._fail(record)
            if not kind or kind in {"message", "chunk"}:  # default names of SSE and AWS event streams, not Cohere's
                raise ProtocolError("a record has no `type`")
        return ()

    def _fail(self, record: Record) -> Sequence[Delta]:
        self._over = True
        return (error_from(record),)

    def _content(self, event: _Event) -> Sequence[Delta]:
        message = None if event.delta is None else event.delta.message
        if message is None or not isinstance(message.content, _Content):
            raise ProtocolError(f"{event.type or 'content'} has no `delta.message.content`")
        deltas: list[Delta] = []
        thought, text = message.content.thinking, message.content.text
        if thought and self._joiner is not None:
            thought = self._joiner.feed("reasoning", thought)
        if thought:
            deltas.append(ReasoningDelta(thought))
        if text and self._joiner is not None:
            text = self._joiner.feed("text", text)
        if text:
            deltas.append(TextDelta(text))
        return deltas

    def _plan(self, event: _Event) -> Sequence[Delta]:
        message = None if event.delta is None else event.delta.message
        plan = None if message is None else message.tool_plan
        return (BlockDelta("plan", value=plan),) if plan else ()

    def _call(self, event: _Event) -> Sequence[Delta]:
        message = None if event.delta is None else event.delta.message
        piece = None if message is None else message.tool_calls
        if not isinstance(piece, CallPiece):
            return ()
        piece.index = event.index
        delta = self._calls.feed(piece)
        if delta is None:
            return ()
        if not delta.arguments:
            self._bare[event.index] = delta.index
            return (delta,)
        self._bare.pop(event.index, None)
        if self._joiner is not None:
            delta = ToolDelta(delta.index, delta.id, delta.name, self._joiner.feed(delta.index, delta.arguments))
        return (delta,)

    def _end_call(self, event: _Event) -> Sequence[Delta]:
        """Return the arguments of a call that has none, so that the pieces always join to JSON."""
        number = self._bare.pop(event.index, None)
        return () if number is None else (ToolDelta(number, arguments="{}"),)

    def _end(self, event: _Event) -> Sequence[Delta]:
        self._over = True
        deltas: list[Delta] = [] if self._joiner is None else self._joiner.close()
        deltas += [ToolDelta(number, arguments="{}") for number in self._bare.values()]
        last = event.delta or _Delta()
        word = last.finish_reason
        found = count(last.usage, _COUNTS)
        if found:
            deltas.append(UsageDelta(Usage(**found)))
        if word:
            deltas.append(FinishDelta(STOP_REASONS.get(word, StopReason.OTHER), mend(word)))
        if last.error or word in _FAILURES:
            status, kind = _FAILURES.get(word or "ERROR", (500, ""))
            own, detail = said(last.error)
            body = last.error if isinstance(last.error, str) else detail
            return [*deltas, ErrorDelta(status, own or kind, detail, mend(body))]
        return [*deltas, EndDelta()]


_HANDLERS: dict[str, Callable[[CohereDecoder, _Event], Sequence[Delta]]] = {
    "content-start": CohereDecoder._content,
    "content-delta": CohereDecoder._content,
    "tool-plan-delta": CohereDecoder._plan,
    "tool-call-start": CohereDecoder._call,
    "tool-call-delta": CohereDecoder._call,
    "tool-call-end": CohereDecoder._end_call,
    "message-end": CohereDecoder._end,
}


class Cohere(JsonCodec):
    """The codec of `/v2/chat`. Cohere's form of tools and calls is the neutral one. `thinking` is sent unchanged."""

    name = "cohere"
    stop_reasons = STOP_REASONS
    max_stop = 5
    arguments: Mapping[str, tuple[str, ...]] = {
        "model": ("model",),
        "prompt": ("messages",),
        "system": ("messages",),
        "max_tokens": ("max_tokens",),
        "stop": ("stop_sequences",),
        "temperature": ("temperature",),
        "thinking": ("thinking",),
        "tools": ("tools",),
        "response_format": ("response_format",),
    }

    def path(self, model_input: ModelInput) -> str:
        return "/v2/chat"

    def body(self, model_input: ModelInput) -> dict[str, Any]:
        messages = [_turn(turn) for turn in model_input.messages]
        if model_input.system is not None:
            messages.insert(0, {"role": "system", "content": model_input.system})
        body: dict[str, Any] = {"model": model_input.model, "messages": messages}
        if model_input.max_tokens is not None:
            body["max_tokens"] = model_input.max_tokens
        if model_input.stop:
            body["stop_sequences"] = list(model_input.stop)
        if model_input.temperature is not None:
            body["temperature"] = model_input.temperature
        if model_input.thinking is not None:
            body["thinking"] = model_input.thinking
        if model_input.tools:
            body["tools"] = [_tool(tool) for tool in model_input.tools]
        if model_input.response_format is not None:
            body["response_format"] = _response_format(model_input.response_format)
        return {**body, **self.streaming}

    def settings_in_use(self, arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
        choice = extra.get("tool_choice")
        if isinstance(choice, str):  # Cohere's words are REQUIRED and NONE
            extra = {**extra, "tool_choice": choice.lower()}
        return super().settings_in_use(arguments, extra)

    def decoder(self, *, end: str = "strict") -> CohereDecoder:
        self.check_end_rule(end)
        return CohereDecoder()

    def message(self, parts: Sequence[str | Delta], *, lead: str = "") -> Message:
        """Return the assistant message, with the reasoning, the plan and the calls."""
        text = lead + "".join(part for part in parts if isinstance(part, str))
        thought = "".join(part.text for part in parts if isinstance(part, ReasoningDelta))
        plan = mend("".join(part.value for part in parts if isinstance(part, BlockDelta)))
        calls = turn_of(part for part in parts if isinstance(part, ToolDelta))
        content: Any = text
        if thought:
            content = [{"type": "thinking", "thinking": thought}, *([self.text_part(text)] if text else ())]
        message: Message = {"role": "assistant", "content": content or None if calls else content}
        if plan:
            message["tool_plan"] = plan
        if calls:
            message["tool_calls"] = calls
        return message


def _turn(turn: Message) -> Message:
    """Return a message as Cohere takes it: without an empty content, and with the type of each call."""
    role = turn.get("role")
    if role not in _ROLES:
        raise UsageError(f"a message has the role {role!r}", f"Cohere takes {', '.join(_ROLES)}")
    if role != "assistant" or not turn.get("tool_calls"):
        return turn
    turn = {name: value for name, value in turn.items() if name != "content" or value}
    turn["tool_calls"] = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls_of(turn)
    ]
    return turn


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool with the parameters that Cohere requires. A tool in another form stays as it is."""
    neutral = tool_of(tool)
    return tool if neutral is None else {**tool, "function": {**tool["function"], "parameters": neutral.parameters}}


def _response_format(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the field `response_format`. A schema in OpenAI's or Anthropic's form gets Cohere's.

    >>> _response_format({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}})
    {'type': 'json_object', 'json_schema': {'type': 'object'}}
    """
    if wanted.get("type") != "json_schema":
        return wanted
    inner = wanted.get("json_schema")
    schema = inner.get("schema", inner) if isinstance(inner, Mapping) else wanted.get("schema")
    return {"type": "json_object", **({} if schema is None else {"json_schema": schema})}


CODEC = Cohere()

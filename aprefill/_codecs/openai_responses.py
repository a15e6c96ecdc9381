"""OpenAI's Responses protocol, `/responses`: also of Azure, xAI and several engines, such as llama.cpp and vLLM.

A stream ends with `response.completed`, `response.incomplete` or `response.failed`. Without one of them, the stream was
truncated. Text after that record is ignored. `[DONE]`, which some gateways add, is no end by itself.

Records are read in the order in which they arrive. Their `sequence_number` is not used, because some hosts leave it out
and gateways leave out records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from aprefill._codecs._base import JsonCodec
from aprefill._codecs._dialects import engine_switches
from aprefill._codecs._host_error import error_delta, error_from, names_error, says_error
from aprefill._codecs._json import UNREADABLE, Reader, dumps, loads, within_depth
from aprefill._codecs._responses_items import CALLS, format_in, input_of, tool_in, turn_of
from aprefill._codecs._surrogates import Joiner, mend, mend_all
from aprefill._codecs._switches import is_constraint
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
from aprefill._errors import ProtocolError, Truncated
from aprefill._types import StopReason, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aprefill._codecs._dialects import PrefillSwitch
    from aprefill._deltas import Delta, Message, ModelInput, Record

#: `incomplete_details.reason`, or the status of the reply -> `StopReason` (openai 3.57.0, types/responses/response.py)
STOP_REASONS = {
    "completed": StopReason.END,
    "max_output_tokens": StopReason.MAX_TOKENS,
    "content_filter": StopReason.REFUSAL,
    "incomplete": StopReason.OTHER,
}

#: `Usage` field -> the paths of the count.
_COUNTS = {
    "input_tokens": (("input_tokens",),),
    "output_tokens": (("output_tokens",),),
    "cache_read_tokens": (("input_tokens_details", "cached_tokens"),),
    "cache_write_tokens": (("input_tokens_details", "cache_write_tokens"),),
    "reasoning_tokens": (("output_tokens_details", "reasoning_tokens"),),
}

_TEXT = "response.output_text.delta"
_DONE = b"[DONE]"
#: Records that end a reply -> the status that they stand for.
_ENDS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}
_NO_END = "neither response.completed nor response.incomplete came"
#: Names that an event stream uses by default. A record with one of them must say its type itself.
_DEFAULT_NAMES = {"message", "chunk", "data"}
#: Fields of a call that are not part of the turn that is sent back, or that are put together from deltas.
_OF_DELTAS = {"type", "status", "call_id", "name", "arguments", "input"}


class _Event(Struct, gc=False):
    type: str = ""
    delta: Any = None
    output_index: int | str | None = None
    item_id: str | int | None = None
    item: Any = None
    arguments: Any = None
    response: Any = None


_READER: Reader[_Event] = Reader(_Event)
_fast = _READER.fast


class ResponsesDecoder:
    """Decodes one Responses stream.

    >>> from aprefill._deltas import Record
    >>> decoder = ResponsesDecoder()
    >>> decoder.decode(Record(b'{"type":"response.output_text.delta","output_index":0,"delta":"Hi"}'))
    (TextDelta(text='Hi'),)
    >>> decoder.decode(Record(b'{"type":"response.completed","response":{"status":"completed"}}'))
    [FinishDelta(reason=<StopReason.END: 'end'>, raw='completed', sequence=None), EndDelta()]

    The text of a refusal is text of the reply, because the reply would be empty without it; the stop reason is then
    `REFUSAL`. Calls of functions and of custom tools give `ToolDelta`. The arguments of a custom tool are
    `{"input": "..."}`, because its input is plain text. Tools that the host runs itself give no `ToolDelta`. They are
    part of the assistant message for the next request.

    Items are matched by `output_index`. Some hosts leave it out, and there the item's id is used. GitHub Copilot sends
    another id in each record.
    """

    def __init__(self) -> None:
        self._over = False
        self._declined = False
        # whether the host announces items; some gateways send deltas alone, or the whole reply in the last record
        self._has_items = False
        # the items whose text came in deltas, and the last of them
        self._spoken: set[int | str | None] = set()
        self._speaking: int | str | None = None
        # the calls of functions, by each name that a record may use for one
        self._calls: dict[int | str, _Call] = {}
        self._last_call: _Call | None = None
        self._count_calls = 0
        # ids of the calls that the caller must answer
        self._open: set[str] = set()
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
            if event.type == _TEXT and self._joiner is None:
                text = event.delta
                if type(text) is str and text:
                    key = event.item_id if event.output_index is None else event.output_index
                    if key != self._speaking or key is None:
                        self._speaking = key
                        self._spoken.add(key)
                    return (TextDelta(text),)
            return self._map(event, record)
        return self._decode_unreadable(record)

    def close(self, undispatched: Record | None = None) -> Sequence[Delta]:
        if self._over:
            return ()
        if undispatched is not None and self._is_terminal(undispatched):
            return self.decode(undispatched)
        raise Truncated(_NO_END)

    def _is_terminal(self, record: Record) -> bool:
        """Whether a record that has no blank line after it is complete and is the protocol's end."""
        try:
            event = _READER.read(record.data)
        except ProtocolError:
            return False
        kind = event.type or record.event
        return kind in _ENDS or kind == "error"

    # --- records ----------------------------------------------------------------------------------------------

    def _decode_unreadable(self, record: Record) -> Sequence[Delta]:
        data = record.data.strip()
        if data == _DONE:
            raise Truncated(f"[DONE] came, but {_NO_END}")
        if names_error(record.event, record.data):
            return self._fail(error_from(record))
        if not data:
            return ()
        try:
            event = _READER.slow(data)
        except ProtocolError:
            if says_error(loads(data)):  # a gateway's error, in another format
                return self._fail(error_from(record))
            raise
        if self._joiner is None:
            self._joiner = Joiner()
        return self._map(event, record)

    def _map(self, event: _Event, record: Record) -> Sequence[Delta]:
        kind = event.type or record.event
        handle = _HANDLERS.get(kind)
        if handle is not None:
            return handle(self, event)
        if kind in _ENDS:
            return self._finish(_ENDS[kind], event.response, record)
        if kind == "error" or names_error(record.event, record.data):
            return self._fail(error_from(record))
        if not event.type:
            if says_error(loads(record.data)):
                return self._fail(error_from(record))
            if not kind or kind in _DEFAULT_NAMES:
                raise ProtocolError("a record has no `type`")
        return ()

    def _output_text(self, event: _Event) -> Sequence[Delta]:
        self._speaking = event.item_id if event.output_index is None else event.output_index
        self._spoken.add(self._speaking)
        if not isinstance(event.delta, str):
            raise ProtocolError(f"{_TEXT} has no `delta`")
        return self._text(event.delta)

    def _refusal(self, event: _Event) -> Sequence[Delta]:
        self._declined = True
        self._spoken.add(event.item_id if event.output_index is None else event.output_index)
        return self._text(event.delta) if isinstance(event.delta, str) else ()

    def _think(self, event: _Event) -> Sequence[Delta]:
        text = event.delta if isinstance(event.delta, str) else ""
        if self._joiner is not None:
            text = self._joiner.feed("reasoning", text)
        return (ReasoningDelta(text),) if text else ()

    # --- calls ------------------------------------------------------------------------------------------------

    def _arguments_delta(self, event: _Event) -> Sequence[Delta]:
        return self._arguments(self._call_of(event), event.delta)

    def _arguments_done(self, event: _Event) -> Sequence[Delta]:
        call = self._call_of(event)
        return () if call.has_arguments else self._arguments(call, event.arguments)

    def _call_of(self, event: _Event) -> _Call:
        """Return the call that a piece of arguments belongs to. A call that was not announced begins here."""
        for name in (event.output_index, event.item_id):
            if name is not None and name in self._calls:
                return self._calls[name]
        if event.output_index is None and event.item_id is None and self._last_call is not None:
            return self._last_call
        return self._begin_call(event.output_index, event.item_id)

    def _begin_call(self, *names: Any) -> _Call:
        call = self._last_call = _Call(self._count_calls)
        self._count_calls += 1
        for name in names:
            if isinstance(name, int | str):
                self._calls[name] = call
        return call

    def _arguments(self, call: _Call, part: Any) -> Sequence[Delta]:
        if isinstance(part, dict | list):  # JSON itself, not JSON text
            part = within_depth(dumps, part)
        if not isinstance(part, str) or not part:
            return ()
        call.has_arguments = True
        if self._joiner is not None:
            part = self._joiner.feed(call.number, part)
        return (ToolDelta(call.number, arguments=part),) if part else ()

    # --- items ------------------------------------------------------------------------------------------------

    def _item_added(self, event: _Event) -> Sequence[Delta]:
        item = self._item(event.item)
        kind = item.get("type")
        if kind == "message":
            return (BlockDelta("message", value={name: item[name] for name in ("id", "phase") if item.get(name)}),)
        if kind == "function_call":
            names = (event.output_index, event.item_id, item.get("id"), item.get("call_id"))
            return self._name_call(self._begin_call(*names), item)
        return ()

    def _item_done(self, event: _Event) -> Sequence[Delta]:
        item = self._item(event.item)
        key = event.output_index
        return self._whole_item(item, _text_of(item.get("id")) if key is None else key)

    def _item(self, item: Any) -> dict[str, Any]:
        self._has_items = True
        if not isinstance(item, dict):
            return {}
        return item if self._joiner is None else within_depth(mend_all, item)

    def _name_call(self, call: _Call, item: Mapping[str, Any]) -> Sequence[Delta]:
        """Return the deltas with the id, the name and the other fields of a call. They come once."""
        if call.is_named:
            return ()
        call.is_named = True
        id_ = _text_of(item.get("call_id")) or _text_of(item.get("id"))
        self._open.add(id_)
        more = {name: value for name, value in item.items() if name not in _OF_DELTAS and value is not None}
        if item.get("type") == "custom_tool_call":
            more["type"] = "custom_tool_call"
        first = (BlockDelta("call", call.number, more),) if more else ()
        return (*first, ToolDelta(call.number, id_, _text_of(item.get("name"))))

    def _whole_item(self, item: dict[str, Any], key: int | str) -> list[Delta]:
        """Return what no delta of a complete item has brought."""
        kind = item.get("type")
        if kind == "message":
            return [] if key in self._spoken else self._whole_message(item)
        if kind == "function_call":
            names = (key, _text_of(item.get("id")), _text_of(item.get("call_id")))
            call = next((self._calls[name] for name in names if name in self._calls), None) or self._begin_call(*names)
            deltas = [*self._name_call(call, item)]
            if not call.has_arguments:
                deltas += self._arguments(call, item.get("arguments") or "{}")
            return deltas
        if kind == "custom_tool_call":
            call = self._begin_call()
            text = within_depth(dumps, {"input": _text_of(item.get("input"))})
            return [*self._name_call(call, item), *self._arguments(call, text)]
        if not isinstance(kind, str):
            return []
        self._note_open(kind, item)
        return [BlockDelta("item", value=item)]

    def _whole_message(self, item: Mapping[str, Any]) -> list[Delta]:
        content = item.get("content")
        deltas: list[Delta] = []
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                refusal = part.get("refusal") if part.get("type") == "refusal" else None
                self._declined = self._declined or bool(refusal)
                text = refusal or part.get("text")
                deltas += self._text(text) if isinstance(text, str) else ()
        return deltas

    def _note_open(self, kind: str, item: Mapping[str, Any]) -> None:
        """Note whether the caller must answer an item, or whether an item is the host's own answer to a call."""
        id_ = _text_of(item.get("call_id")) or _text_of(item.get("id"))
        if kind in CALLS or kind == "mcp_approval_request":
            self._open.add(id_)
        elif kind.endswith("_output"):
            self._open.discard(id_)

    # --- the end ----------------------------------------------------------------------------------------------

    def _finish(self, status: str, response: Any, record: Record) -> list[Delta]:
        response = response if isinstance(response, dict) else {}
        if self._joiner is not None:
            response = within_depth(mend_all, response)
        deltas = self._unsent(response)
        found = count(response.get("usage"), _COUNTS)
        if found:
            deltas.append(UsageDelta(Usage(**found)))
        if response.get("status") in _ENDS.values():  # a gateway may send a failed reply as response.completed
            status = response["status"]
        if status == "failed":
            return [*deltas, *self._fail(_failure(response, record))]
        self._over = True
        if self._joiner is not None:
            deltas += self._joiner.close()
        details = response.get("incomplete_details")
        why = details.get("reason") if status == "incomplete" and isinstance(details, dict) else None
        raw = why if isinstance(why, str) and why else status
        reason = STOP_REASONS.get(raw, StopReason.OTHER)
        if reason is StopReason.END:
            reason = StopReason.TOOL_USE if self._open else StopReason.REFUSAL if self._declined else reason
        return [*deltas, FinishDelta(reason, raw), EndDelta()]

    def _unsent(self, response: Mapping[str, Any]) -> list[Delta]:
        """Return the content of a reply that came only in its last record, from a gateway that sends it whole."""
        output = response.get("output")
        deltas: list[Delta] = []
        if not self._has_items and isinstance(output, list):
            for number, item in enumerate(output):
                if isinstance(item, dict) and not (item.get("type") == "message" and self._spoken):
                    deltas += self._whole_item(item, number)
        return deltas

    def _fail(self, error: Delta) -> list[Delta]:
        self._over = True
        return [error]

    def _text(self, text: str) -> Sequence[Delta]:
        if self._joiner is not None:
            text = self._joiner.feed("text", text)
        return (TextDelta(text),) if text else ()


class _Call:
    """One call of a function: its number, and what of it has come."""

    __slots__ = ("has_arguments", "is_named", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_named = False
        self.has_arguments = False


_HANDLERS: dict[str, Callable[[ResponsesDecoder, _Event], Sequence[Delta]]] = {
    _TEXT: ResponsesDecoder._output_text,
    "response.refusal.delta": ResponsesDecoder._refusal,
    "response.reasoning_text.delta": ResponsesDecoder._think,
    "response.reasoning_summary_text.delta": ResponsesDecoder._think,
    "response.function_call_arguments.delta": ResponsesDecoder._arguments_delta,
    "response.function_call_arguments.done": ResponsesDecoder._arguments_done,
    "response.output_item.added": ResponsesDecoder._item_added,
    "response.output_item.done": ResponsesDecoder._item_done,
}


def _failure(response: Mapping[str, Any], record: Record) -> ErrorDelta:
    error = response.get("error")
    if error:
        return error_delta(error)
    found = error_from(record)  # a gateway may put the error beside `response`
    return found if found.detail else ErrorDelta(500, "failed", "")


def _text_of(value: Any) -> str:
    """Return an id or a name as text. Some hosts send a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return mend(value) if isinstance(value, str) else ""


class OpenAIResponses(JsonCodec):
    """The codec of Responses. It sends `thinking` as `reasoning`, and `response_format` as `text.format`.

    The protocol has no field for stop sequences.
    """

    name = "openai_responses"
    stop_reasons = STOP_REASONS
    nested = frozenset({"text"})
    arguments: Mapping[str, tuple[str, ...]] = {
        "model": ("model",),
        "prompt": ("input",),
        "system": ("instructions",),
        "max_tokens": ("max_output_tokens",),
        "temperature": ("temperature",),
        "thinking": ("reasoning",),
        "tools": ("tools",),
        "response_format": ("text.format",),
    }

    def path(self, model_input: ModelInput) -> str:
        return "/responses"

    def body(self, model_input: ModelInput) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model_input.model}
        if model_input.system is not None:
            body["instructions"] = model_input.system
        body["input"] = input_of(model_input.messages)
        if model_input.max_tokens is not None:
            body["max_output_tokens"] = model_input.max_tokens
        if model_input.temperature is not None:
            body["temperature"] = model_input.temperature
        if model_input.thinking is not None:
            body["reasoning"] = model_input.thinking
        if model_input.tools:
            body["tools"] = [tool_in(tool) for tool in model_input.tools]
        if model_input.response_format is not None:
            body["text"] = {"format": format_in(model_input.response_format)}
        return {**body, **self.streaming}

    def settings_in_use(self, arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
        on = super().settings_in_use(arguments, extra)
        text = extra.get("text")
        if isinstance(text, dict) and is_constraint(text.get("format")):
            on.setdefault("response_format", "extra['text']")
        return on

    def text_part(self, text: str) -> dict[str, Any]:
        return {"type": "input_text", "text": text}

    def is_tool_result(self, turn: Mapping[str, Any]) -> bool:
        content = turn.get("content")
        kinds = [part.get("type") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
        return super().is_tool_result(turn) or any(isinstance(kind, str) and kind.endswith("_output") for kind in kinds)

    def prefill_switches(self, dialect: str, *, eats: bool) -> Mapping[str, PrefillSwitch]:
        return engine_switches(dialect, eats=eats)

    def decoder(self, *, end: str = "strict") -> ResponsesDecoder:
        self.check_end_rule(end)
        return ResponsesDecoder()

    def message(self, parts: Sequence[str | Delta], *, lead: str = "") -> Message:
        return turn_of(parts, lead)

    def edit(self, message: Message, change: Callable[[Any], Any]) -> Message:
        content = message["content"]
        if not isinstance(content, list):
            return message
        # Text and calls were processed on arrival, and the host refuses encrypted reasoning that was changed.
        fixed = {"message", "function_call", "custom_tool_call", "reasoning"}
        return {**message, "content": [item if item["type"] in fixed else change(item) for item in content]}


CODEC = OpenAIResponses()

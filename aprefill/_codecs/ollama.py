"""Ollama's own chat protocol, `/api/chat`: one JSON object per line.

A stream ends with the object that has `"done": true`. It also says why the model stopped and how many tokens there
were. Without it, the stream was truncated. An error inside the stream is the object `{"error": "..."}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from aprefill._codecs._base import JsonCodec
from aprefill._codecs._host_error import error_from, names_error, says_error
from aprefill._codecs._json import UNREADABLE, Reader, dumps, loads, within_depth
from aprefill._codecs._neutral import calls_of, names_of, result_of
from aprefill._codecs._openai_calls import turn_of
from aprefill._codecs._surrogates import Joiner, mend
from aprefill._codecs._switches import thinks
from aprefill._codecs._usage import count
from aprefill._deltas import EndDelta, FinishDelta, ReasoningDelta, TextDelta, ToolDelta, UsageDelta
from aprefill._errors import ProtocolError, Truncated, UsageError
from aprefill._types import StopReason, Usage
from aprefill._words import Words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aprefill._deltas import Delta, Message, ModelInput, Record

#: Ollama's done_reason -> `StopReason`. A reply with tool calls ends with "stop" too. "load" and "unload" are the
#: answers to a request without messages.
STOP_REASONS = {"stop": StopReason.END, "length": StopReason.MAX_TOKENS}

#: `Usage` field -> the count in the last object. The durations in that object have no place in `Usage`.
_COUNTS = {"input_tokens": (("prompt",),), "output_tokens": (("reply",),)}


class _Function(Struct, gc=False):
    name: str | None = None
    #: an object; some versions of other servers with this protocol send JSON text
    arguments: Any = None


class _Call(Struct, gc=False):
    #: Ollama sends an id since 2025.
    id: str | int | None = None
    function: _Function | None = None


class _Message(Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("content",)


class _Piece(Struct, gc=False):
    """One object of the stream."""

    message: _Message | None = None
    # fields of /api/generate, whose text is not in a message
    response: str | None = None
    thinking: str | None = None
    done: Any = None
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Any = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("message", "response")


_READER: Reader[_Piece] = Reader(_Piece)
_fast = _READER.fast


class OllamaDecoder:
    """Decodes one stream of `/api/chat`.

    >>> from aprefill._deltas import Record
    >>> decoder = OllamaDecoder()
    >>> decoder.decode(Record(b'{"message":{"role":"assistant","content":"Hi"},"done":false}'))
    (TextDelta(text='Hi'),)
    >>> decoder.decode(Record(b'{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}'))
    [FinishDelta(reason=<StopReason.END: 'end'>, raw='stop', sequence=None), EndDelta()]

    A tool call comes whole in one object, with its arguments as an object. Its `ToolDelta` has them as JSON text. If
    there was a tool call and the host says "stop", the stop reason is `TOOL_USE`.
    """

    def __init__(self) -> None:
        self._over = False
        self._calls = 0
        # set by the first record that msgspec rejects; only such records can contain a lone surrogate
        self._joiner: Joiner | None = None

    # --- the protocol of a decoder ----------------------------------------------------------------------------

    def decode(self, record: Record) -> Sequence[Delta]:
        if self._over:
            return ()
        try:
            piece = _fast(record.data)
        except UNREADABLE:
            pass  # Continue outside the handler, so that no error is chained: a UnicodeDecodeError contains the text.
        else:
            # Nearly every record of a reply is a piece of text.
            message = piece.message
            if (
                message is not None
                and message.content
                and not (piece.done or piece.error or message.thinking or message.tool_calls)
                and self._joiner is None
            ):
                return (TextDelta(message.content),)
            return self._map(piece, record)
        return self._decode_unreadable(record)

    def close(self, undispatched: Record | None = None) -> Sequence[Delta]:
        if self._over:
            return ()
        if undispatched is not None and self._is_terminal(undispatched):
            return self.decode(undispatched)
        raise Truncated('no object with "done": true came')

    def _is_terminal(self, record: Record) -> bool:
        """Whether a record that has no line end is complete and is the protocol's end."""
        try:
            piece = _READER.read(record.data)
        except ProtocolError:
            return False
        return bool(piece.done or piece.error)

    # --- records ----------------------------------------------------------------------------------------------

    def _decode_unreadable(self, record: Record) -> Sequence[Delta]:
        if names_error(record.event, record.data):
            return self._fail(record)
        data = record.data.strip()
        if not data:
            return ()
        try:
            piece = _READER.slow(data)
        except ProtocolError:
            if says_error(loads(data)):  # a gateway's error, in another format
                return self._fail(record)
            raise
        if self._joiner is None:
            self._joiner = Joiner()
        return self._map(piece, record)

    def _map(self, piece: _Piece, record: Record) -> Sequence[Delta]:
        if piece.error or names_error(record.event, record.data):
            return self._fail(record)
        message = piece.message
        deltas: list[Delta] = []
        if message is not None:
            self._think(message.thinking, deltas)
            self._say(message.content, deltas)
            for call in message.tool_calls or ():
                self._call(call, deltas)
        elif piece.response is not None:
            self._think(piece.thinking, deltas)
            self._say(piece.response, deltas)
        elif not piece.done:
            if says_error(loads(record.data)):
                return self._fail(record)
            raise ProtocolError("a record has no `message`")
        if piece.done:
            self._end(piece, deltas)
        return deltas

    def _fail(self, record: Record) -> Sequence[Delta]:
        self._over = True
        return (error_from(record),)

    def _end(self, piece: _Piece, deltas: list[Delta]) -> None:
        self._over = True
        if self._joiner is not None:
            deltas += self._joiner.close()
        word = piece.done_reason
        if word:  # Ollama before 2024-05 does not send it
            reason = STOP_REASONS.get(word, StopReason.OTHER)
            if self._calls and reason is StopReason.END:
                reason = StopReason.TOOL_USE
            deltas.append(FinishDelta(reason, mend(word)))
        found = count({"prompt": piece.prompt_eval_count, "reply": piece.eval_count}, _COUNTS)
        if found:
            deltas.append(UsageDelta(Usage(**found)))
        deltas.append(EndDelta())

    # --- values -----------------------------------------------------------------------------------------------

    def _say(self, text: str | None, deltas: list[Delta]) -> None:
        if text and self._joiner is not None:
            text = self._joiner.feed("text", text)
        if text:
            deltas.append(TextDelta(text))

    def _think(self, thought: str | None, deltas: list[Delta]) -> None:
        if thought and self._joiner is not None:
            thought = self._joiner.feed("reasoning", thought)
        if thought:
            deltas.append(ReasoningDelta(thought))

    def _call(self, call: _Call, deltas: list[Delta]) -> None:
        function = call.function or _Function()
        arguments = function.arguments
        if not isinstance(arguments, str):
            arguments = within_depth(dumps, arguments) if isinstance(arguments, dict | list) else "{}"
        id_ = "" if call.id is None else str(call.id)
        deltas.append(ToolDelta(self._calls, mend(id_), mend(function.name or ""), mend(arguments)))
        self._calls += 1


class Ollama(JsonCodec):
    """The codec of `/api/chat`. Its settings are in `options`, and a caller's `options` are merged with them.

    `thinking` becomes the field `think`: a level if it has an `effort`, else true or false. `response_format` becomes
    the field `format`: a JSON schema, or "json".
    """

    name = "ollama"
    accept = "application/x-ndjson"
    stop_reasons = STOP_REASONS
    nested = frozenset({"options"})
    arguments: Mapping[str, tuple[str, ...]] = {
        "model": ("model",),
        "prompt": ("messages",),
        "system": ("messages",),
        "max_tokens": ("options.num_predict",),
        "stop": ("options.stop",),
        "temperature": ("options.temperature",),
        "thinking": ("think",),
        "tools": ("tools",),
        "response_format": ("format",),
    }

    def path(self, model_input: ModelInput) -> str:
        return "/api/chat"

    def body(self, model_input: ModelInput) -> dict[str, Any]:
        names = names_of(model_input.messages)
        messages = [_turn(turn, names) for turn in model_input.messages]
        if model_input.system is not None:
            messages.insert(0, {"role": "system", "content": model_input.system})
        body: dict[str, Any] = {"model": model_input.model, "messages": messages}
        options: dict[str, Any] = {}
        if model_input.max_tokens is not None:
            options["num_predict"] = model_input.max_tokens
        if model_input.stop:
            options["stop"] = list(model_input.stop)
        if model_input.temperature is not None:
            options["temperature"] = model_input.temperature
        if options:
            body["options"] = options
        if model_input.thinking:
            body["think"] = _think(model_input.thinking)
        if model_input.tools:
            body["tools"] = list(model_input.tools)  # the neutral form is Ollama's own
        if model_input.response_format is not None:
            wanted = _format(model_input.response_format)
            if wanted is not None:
                body["format"] = wanted
        return {**body, **self.streaming}

    def settings_in_use(self, arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
        on = super().settings_in_use(arguments, extra)
        if extra.get("think"):
            on.setdefault("thinking", "extra['think']")
        return on

    def decoder(self, *, end: str = "strict") -> OllamaDecoder:
        self.check_end_rule(end)
        return OllamaDecoder()

    def message(self, parts: Sequence[str | Delta], *, lead: str = "") -> Message:
        """Return the assistant message, with its reasoning: some models need their own after a tool call."""
        text = lead + "".join(part for part in parts if isinstance(part, str))
        message: Message = {"role": "assistant", "content": text}
        thought = "".join(part.text for part in parts if isinstance(part, ReasoningDelta))
        if thought:
            message["thinking"] = thought
        calls = [_own_call(call) for call in turn_of(part for part in parts if isinstance(part, ToolDelta))]
        if calls:
            message["tool_calls"] = calls
        return message


def _own_call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call of a reply in Ollama's form. Arguments that are not a JSON object are left out."""
    arguments = loads(call["function"]["arguments"])
    function = {"name": call["function"]["name"], "arguments": arguments if isinstance(arguments, dict) else {}}
    return {"id": call["id"], "function": function} if call["id"] else {"function": function}


def _turn(turn: Message, names: Mapping[str, str]) -> Message:
    """Return a message in Ollama's form: its content is a str, images are beside it, and arguments are objects."""
    turn = _flat(turn)
    if turn.get("role") == "assistant" and any(_is_neutral(call) for call in turn.get("tool_calls") or ()):
        calls: list[dict[str, Any]] = []
        for call in calls_of(turn):
            function = {"name": call.name, "arguments": call.arguments_object}
            calls.append({"id": call.id, "function": function} if call.id else {"function": function})
        return {**turn, "tool_calls": calls}
    result = result_of(turn)
    if result is not None and "tool_name" not in turn and result.call_id in names:
        return {**turn, "tool_name": names[result.call_id]}
    return turn


def _is_neutral(call: Any) -> bool:
    """Whether the arguments of a call are JSON text, as in the neutral form, or missing."""
    function = call.get("function") if isinstance(call, Mapping) else None
    return not (isinstance(function, Mapping) and isinstance(function.get("arguments"), Mapping))


def _flat(turn: Message) -> Message:
    """Return a message whose content is a str. Parts of text are joined, parts with an image go into `images`."""
    content = turn.get("content")
    if isinstance(content, str):
        return turn
    texts: list[str] = []
    images: list[str] = []
    for part in content or ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            images.append(_image(part))
        else:
            raise UsageError(
                f"a message has a part of type {kind!r}, for which Ollama has no place",
                "write the text as `content` and the images, in base64, as a list `images` of the message",
            )
    # Ollama joins the parts of its OpenAI-compatible API with a blank line too
    text = ("" if turn.get("role") == "assistant" else "\n\n").join(texts)
    return {**turn, "content": text, **({"images": [*turn.get("images", ()), *images]} if images else {})}


def _image(part: Mapping[str, Any]) -> str:
    """Return the base64 text of an image that is a data URL. Ollama fetches no URLs."""
    holder = part.get("image_url")
    url = holder.get("url") if isinstance(holder, Mapping) else holder
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise UsageError("an image is not a data URL in base64", "Ollama fetches no images: pass their bytes")
    return str(data)


def _think(thinking: Mapping[str, Any]) -> bool | str:
    """Return the field `think` for the argument `thinking`.

    >>> _think({"type": "enabled"}), _think({"type": "disabled"}), _think({"effort": "high"})
    (True, False, 'high')
    """
    effort, is_on = thinking.get("effort"), thinks(thinking)
    return effort if is_on and isinstance(effort, str) else is_on


def _format(wanted: Mapping[str, Any]) -> Any:
    """Return the field `format` for the argument `response_format`. None: the reply is plain text.

    >>> _format({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}})
    {'type': 'array'}
    >>> _format({"type": "json_object"}), _format({"type": "array"})
    ('json', {'type': 'array'})
    """
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind not in {"json_schema", "json_object"}:
        return wanted  # it is a JSON schema itself
    inner = wanted.get("json_schema")
    schema = wanted.get("schema") if not isinstance(inner, Mapping) else inner.get("schema")
    if schema is None and kind == "json_schema":
        raise UsageError(Words("{response_format} has no schema"), 'pass {"type": "json_schema", "json_schema": {...}}')
    return "json" if schema is None else schema


CODEC = Ollama()

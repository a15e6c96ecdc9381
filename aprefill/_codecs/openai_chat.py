"""OpenAI's Chat Completions protocol, which about thirty hosts and engines support.

A stream ends with `data: [DONE]`. Some hosts omit it: there the stream ends with the body, if a `finish_reason` was
received. Without a `finish_reason`, the stream was truncated. Records between the `finish_reason` and the end still
count: they contain the usage, and some hosts repeat the `finish_reason`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType

from aprefill._codecs._base import JsonCodec
from aprefill._codecs._dialects import PrefillSwitch
from aprefill._codecs._host_error import STATUS, error_delta, error_from, names_error, says_error
from aprefill._codecs._json import UNREADABLE, Reader, loads
from aprefill._codecs._openai_calls import CallPiece, Calls, FunctionPiece, turn_of
from aprefill._codecs._surrogates import Joiner, mend
from aprefill._codecs._usage import count
from aprefill._deltas import EndDelta, ErrorDelta, FinishDelta, ReasoningDelta, TextDelta, ToolDelta, UsageDelta
from aprefill._errors import ProtocolError, Truncated
from aprefill._types import StopReason, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aprefill._deltas import Delta, Message, ModelInput, Record

#: The host's finish_reason -> `StopReason`
STOP_REASONS = {
    "stop": StopReason.END,
    "length": StopReason.MAX_TOKENS,
    "tool_calls": StopReason.TOOL_USE,
    "function_call": StopReason.TOOL_USE,
    "content_filter": StopReason.REFUSAL,
    # Mistral (mistralai 3.7.0, completionresponsestreamchoice.py)
    "model_length": StopReason.CONTEXT_WINDOW,
    # TGI and Together pass on their engine's reason
    "eos_token": StopReason.END,
    "eos": StopReason.END,
    "stop_sequence": StopReason.STOP_SEQUENCE,
    # Zhipu
    "sensitive": StopReason.REFUSAL,
    "model_context_window_exceeded": StopReason.CONTEXT_WINDOW,
    # gateways that pass on Anthropic's reasons
    "end_turn": StopReason.END,
    "max_tokens": StopReason.MAX_TOKENS,
    "tool_use": StopReason.TOOL_USE,
    "refusal": StopReason.REFUSAL,
}
#: Finish reasons that mean that the host failed: of Mistral and OpenRouter, of DeepSeek, of Zhipu.
FAILURES = {"error", "insufficient_system_resource", "network_error"}

#: `Usage` field -> the paths of the count in the usage of different hosts.
_COUNTS = {
    "input_tokens": (("prompt_tokens",),),
    "output_tokens": (("completion_tokens",),),
    "cache_read_tokens": (
        ("prompt_tokens_details", "cached_tokens"),
        ("prompt_cache_hit_tokens",),  # DeepSeek
        ("cached_tokens",),  # Moonshot
        ("cache_read_input_tokens",),  # Databricks
    ),
    "cache_write_tokens": (("prompt_tokens_details", "cache_write_tokens"), ("cache_creation_input_tokens",)),
    "reasoning_tokens": (("completion_tokens_details", "reasoning_tokens"),),
}

#: Body fields with which OpenAI refuses a prediction: https://platform.openai.com/docs/guides/predicted-outputs
_NO_PREDICTION = {
    "audio", "frequency_penalty", "functions", "logprobs", "max_completion_tokens", "max_tokens", "modalities", "n",
    "presence_penalty", "tools", "top_logprobs",
}  # fmt: skip

_DONE = b"[DONE]"
_DONE_ALONE = (
    "[DONE] came without a finish_reason "
    '(for a host that never sends one, set end = "done" in its row of the support table)'
)
#: Names of a normal chunk, and default names of the event stream. A record without `choices` and with another name is
#: an event that the host has added.
_CHUNK_NAMES = {"", "message", "data", "chunk", "chat.completion.chunk", "chat.completion"}


class _Delta(Struct, gc=False):
    content: str | list[Any] | None = None
    reasoning_content: str | list[Any] | None = None
    reasoning: Any = None  # some hosts send an object that is not text
    tool_calls: list[CallPiece] | None = None
    refusal: str | None = None
    function_call: FunctionPiece | None = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("content",)


class _Choice(Struct, gc=False):
    index: int | str | None = None  # some hosts send the number as text
    delta: _Delta | None = None
    message: _Delta | None = None  # from gateways that send a complete reply as a stream
    text: str | None = None  # from gateways that pass on records of the completions API
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM: the stop sequence or stop token that ended the reply
    matched_stop: Any = None  # SGLang: the same
    usage: Any = None  # Moonshot

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("delta",) if value.get("delta") is not None else ("message", "text")


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | UnsetType | None = UNSET
    usage: Any = None
    error: Any = None
    x_groq: Any = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("choices",)


_READER: Reader[_Chunk] = Reader(_Chunk)
_fast = _READER.fast


class OpenAIChatDecoder:
    """Decodes one chat completions stream.

    >>> from aprefill._deltas import Record
    >>> decoder = OpenAIChatDecoder()
    >>> decoder.decode(Record(b'{"choices":[{"delta":{"content":"Hi"}}]}'))
    [TextDelta(text='Hi')]
    >>> decoder.decode(Record(b'{"choices":[{"delta":{},"finish_reason":"stop"}]}'))
    [FinishDelta(reason=<StopReason.END: 'end'>, raw='stop', sequence=None)]
    >>> decoder.decode(Record(b"[DONE]"))
    [EndDelta()]

    The reply is choice 0. Other choices are ignored. The text of a refusal (`delta.refusal`) is text of the reply,
    because the reply would be empty without it; the stop reason is then `REFUSAL`. If a host repeats `finish_reason`,
    each one gives a `FinishDelta`. A `finish_reason` that means failure gives a `FinishDelta` and an `ErrorDelta`.
    """

    def __init__(self, *, end: str = "strict") -> None:
        self._done_suffices = end == "done"
        self._over = False
        self._finished = False
        self._declined = False
        self._calls: Calls | None = None
        # set by the first record that msgspec rejects; only such records can contain a lone surrogate
        self._joiner: Joiner | None = None

    # --- the protocol of a decoder ----------------------------------------------------------------------------

    def decode(self, record: Record) -> Sequence[Delta]:
        if self._over:
            return ()
        try:
            chunk = _fast(record.data)
        except UNREADABLE:
            pass  # Continue outside the handler, so that no error is chained: a UnicodeDecodeError contains the text.
        else:
            return self._map(chunk, record)
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
            raise Truncated("neither a finish_reason nor [DONE] came")
        return [*deltas, *self._end()]

    # --- records ----------------------------------------------------------------------------------------------

    def _decode_unreadable(self, record: Record) -> Sequence[Delta]:
        data = record.data.strip()
        if data == _DONE:
            if self._finished or self._done_suffices:
                return self._end()
            raise Truncated(_DONE_ALONE)
        if names_error(record.event, record.data):
            return self._fail(error_from(record), [])
        if not data:
            return ()
        try:
            chunk = _READER.slow(data)
        except ProtocolError:
            # The record cannot be read as a chunk, but it may contain an error. Google sends the error inside a list.
            # In other records, a field next to the error has a wrong type.
            if says_error(loads(data)):
                return self._fail(error_from(record), [])
            raise
        if self._joiner is None:
            self._joiner = Joiner()
        return self._map(chunk, record)

    def _map(self, chunk: _Chunk, record: Record) -> Sequence[Delta]:
        deltas: list[Delta] = []
        failure = ""
        choices = chunk.choices
        if choices:
            for choice in choices:
                if not choice.index or choice.index == "0":
                    failure = self._choose(choice, deltas) or failure
        elif (choices is None or choices is UNSET) and chunk.usage is None and chunk.x_groq is None:
            return self._without_choices(record)
        if chunk.usage is not None:
            self._count(chunk.usage, deltas)
        if isinstance(chunk.x_groq, dict):
            self._count(chunk.x_groq.get("usage"), deltas)
            if says_error(chunk.x_groq):
                return self._fail(error_delta(chunk.x_groq), deltas)
        if chunk.error or (record.event and names_error(record.event, record.data)):
            return self._fail(error_from(record), deltas)
        if failure:
            return self._fail(ErrorDelta(STATUS[failure], failure, ""), deltas)
        return deltas

    def _without_choices(self, record: Record) -> Sequence[Delta]:
        """Return the deltas of a record without `choices`: an error in one of many formats, or another event."""
        value = loads(record.data)
        if names_error(record.event, record.data) or says_error(value):
            return self._fail(error_from(record), [])
        # A record with a name other than a chunk's is an event that the host has added.
        value = value if isinstance(value, dict) else {}
        names = (record.event, value.get("type"), value.get("object"))
        if "choices" in value or any(isinstance(name, str) and name not in _CHUNK_NAMES for name in names):
            return ()
        if value.get("message") or value.get("detail"):
            return self._fail(error_from(record), [])
        raise ProtocolError("a chunk has no `choices`")

    def _choose(self, choice: _Choice, deltas: list[Delta]) -> str:
        """Append the deltas of one choice. Return the finish reason if it means that the host failed, else ``""``."""
        delta = choice.delta if choice.delta is not None else choice.message
        if choice.text and delta is None:
            self._say(choice.text, deltas)
        if delta is not None:
            thought = delta.reasoning_content or delta.reasoning  # hosts that send both send the same text in both
            if thought:
                self._think(thought, deltas)
            content = delta.content
            if content:
                if isinstance(content, str):
                    self._say(content, deltas)
                else:
                    self._parts(content, deltas)
            if delta.refusal:
                self._declined = True
                self._say(delta.refusal, deltas)
            if delta.tool_calls:
                for piece in delta.tool_calls:
                    self._call(piece, deltas)
            if delta.function_call is not None:
                self._call(CallPiece(0, None, delta.function_call), deltas)
        if choice.usage is not None:
            self._count(choice.usage, deltas)
        reason = choice.finish_reason
        if not reason:  # some hosts send "" instead of null
            return ""
        self._finished = True
        sequence = choice.stop_reason if isinstance(choice.stop_reason, str) else choice.matched_stop
        sequence = mend(sequence) if isinstance(sequence, str) and sequence else None
        ours = STOP_REASONS.get(reason, StopReason.OTHER)
        if ours is StopReason.END:
            if self._declined:
                ours = StopReason.REFUSAL
            elif sequence is not None:
                ours = StopReason.STOP_SEQUENCE
        deltas.append(FinishDelta(ours, mend(reason), sequence))
        return reason if reason in FAILURES else ""

    def _is_terminal(self, record: Record) -> bool:
        """Whether a record that has no blank line after it is complete and is the protocol's end."""
        if record.data.strip() == _DONE:
            return True
        try:
            chunk = _READER.read(record.data)
        except ProtocolError:
            return False
        if chunk.error:
            return True
        return any((not choice.index or choice.index == "0") and choice.finish_reason for choice in chunk.choices or ())

    # --- values -----------------------------------------------------------------------------------------------

    def _say(self, text: str, deltas: list[Delta]) -> None:
        if self._joiner is not None:
            text = self._joiner.feed("text", text)
        if text:
            deltas.append(TextDelta(text))

    def _think(self, thought: Any, deltas: list[Delta]) -> None:
        if not isinstance(thought, str):
            thought = _plain(thought)
        if self._joiner is not None:
            thought = self._joiner.feed("reasoning", thought)
        if thought:
            deltas.append(ReasoningDelta(thought))

    def _parts(self, parts: list[Any], deltas: list[Delta]) -> None:
        """Append the deltas of a content that is a list (Mistral): text parts and thinking parts.

        References and other kinds of parts have no text. A part of an unknown kind counts as text if it has a `text`,
        because losing text silently would be worse.
        """
        for part in parts:
            if isinstance(part, str):
                self._say(part, deltas)
            elif isinstance(part, dict):
                if part.get("type") == "thinking":
                    self._think(part.get("thinking"), deltas)
                elif part.get("type") == "text":
                    text = part.get("text")
                    if not isinstance(text, str):
                        raise ProtocolError("a text part has no `text`")
                    self._say(text, deltas)
                elif isinstance(part.get("text"), str):
                    self._say(part["text"], deltas)

    def _call(self, piece: CallPiece, deltas: list[Delta]) -> None:
        if self._calls is None:
            self._calls = Calls()
        delta = self._calls.feed(piece)
        if delta is not None and self._joiner is not None:
            arguments = self._joiner.feed(delta.index, delta.arguments)
            delta = ToolDelta(delta.index, delta.id, delta.name, arguments)
        if delta is not None:
            deltas.append(delta)

    def _count(self, usage: Any, deltas: list[Delta]) -> None:
        found = count(usage, _COUNTS)
        if found:
            deltas.append(UsageDelta(Usage(**found)))

    def _end(self) -> list[Delta]:
        self._over = True
        rest: list[Delta] = [] if self._joiner is None else self._joiner.close()
        return [*rest, EndDelta()]

    def _fail(self, error: Delta, deltas: list[Delta]) -> list[Delta]:
        self._over = True
        return [*deltas, error]


def _plain(parts: Any) -> str:
    """Return the text of a str or of a list of text parts, `[{"type": "text", "text": ...}]`; else ``""``."""
    if not isinstance(parts, list):
        return parts if isinstance(parts, str) else ""
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


class OpenAIChat(JsonCodec):
    """The codec of Chat Completions. It sends tools, `response_format` and `thinking` unchanged."""

    name = "openai_chat"
    #: `strict`: see the module's docstring. `done`: `[DONE]` alone is the end, for hosts that send complete replies
    #: with `finish_reason: null` (Ollama).
    end_rules = ("strict", "done")
    stop_reasons = STOP_REASONS
    arguments: Mapping[str, tuple[str, ...]] = {
        "model": ("model",),
        "prompt": ("messages",),
        "system": ("messages",),
        "max_tokens": ("max_tokens", "max_completion_tokens"),
        "stop": ("stop",),
        "temperature": ("temperature",),
        "thinking": ("thinking",),
        "tools": ("tools",),
        "response_format": ("response_format",),
    }

    def path(self, model_input: ModelInput) -> str:
        return "/chat/completions"

    def body(self, model_input: ModelInput) -> dict[str, Any]:
        messages = list(model_input.messages)
        if model_input.system is not None:
            messages.insert(0, {"role": "system", "content": model_input.system})
        body: dict[str, Any] = {"model": model_input.model, "messages": messages}
        if model_input.max_tokens is not None:
            body[model_input.token_field] = model_input.max_tokens
        if model_input.stop:
            body["stop"] = list(model_input.stop)
        if model_input.temperature is not None:
            body["temperature"] = model_input.temperature
        if model_input.thinking is not None:
            body["thinking"] = model_input.thinking
        if model_input.tools:
            body["tools"] = list(model_input.tools)
        if model_input.response_format is not None:
            body["response_format"] = model_input.response_format
        body |= self.streaming
        own = {*model_input.fields, *model_input.extra}
        if model_input.asks_usage or "stream_options" in own:
            body["stream_options"] = {"include_usage": True}
        if model_input.prediction and not _NO_PREDICTION & {*body, *own}:
            body["prediction"] = {"type": "content", "content": model_input.prediction}
        return body

    def prefill_switches(self, dialect: str, *, eats: bool) -> Mapping[str, PrefillSwitch]:
        """Return the switches of vLLM, SGLang and llama.cpp. Other hosts of this protocol ignore or refuse them."""
        switches = {"continue_final_message": PrefillSwitch(True)}
        if dialect == "prompt":
            return switches
        # If `add_generation_prompt` is true, a template opens a new turn, unless the request also says to continue the
        # last one. A host that needs the field answers with an error if it is removed.
        opens_turn = dialect == "continue_final_message"
        switches["add_generation_prompt"] = PrefillSwitch(opens_turn, may_be_removed=True)
        if eats:
            switches["echo"] = PrefillSwitch(False, may_be_removed=True)
        return switches

    def decoder(self, *, end: str = "strict") -> OpenAIChatDecoder:
        self.check_end_rule(end)
        return OpenAIChatDecoder(end=end)

    def message(self, parts: Sequence[str | Delta], *, lead: str = "") -> Message:
        """Return the assistant message, without reasoning: Mistral and DeepSeek's older models refuse reasoning."""
        text = lead + "".join(part for part in parts if isinstance(part, str))
        calls = turn_of(part for part in parts if isinstance(part, ToolDelta))
        if not calls:
            return {"role": "assistant", "content": text}
        return {"role": "assistant", "content": text or None, "tool_calls": calls}


CODEC = OpenAIChat()

"""Gemini's own protocol, `:streamGenerateContent`: AI Studio, and the Gemini models of Vertex AI.

A stream is server-sent events, or one JSON array if the host ignores `alt=sse`. It has no terminal record: the record
with the `finishReason` is the last one. Without a `finishReason`, the stream was truncated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from msgspec import Struct

from aprefill._codecs._base import JsonCodec
from aprefill._codecs._gemini_calls import Calls
from aprefill._codecs._gemini_turn import contents_of, result_in, split_system, turn_of
from aprefill._codecs._host_error import error_from, names_error, says_error
from aprefill._codecs._json import UNREADABLE, Reader, loads, within_depth
from aprefill._codecs._neutral import tool_of
from aprefill._codecs._surrogates import Joiner, mend, mend_all
from aprefill._deltas import BlockDelta, EndDelta, ErrorDelta, FinishDelta, ReasoningDelta, TextDelta, UsageDelta
from aprefill._errors import ProtocolError, Truncated
from aprefill._types import StopReason, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aprefill._deltas import Delta, Message, ModelInput, Record

#: The host's finishReason or blockReason -> `StopReason` (google-genai 3.6.1, types.py: FinishReason, BlockedReason)
STOP_REASONS = {
    "STOP": StopReason.END,
    "MAX_TOKENS": StopReason.MAX_TOKENS,
    "CONTINUATION": StopReason.MAX_TOKENS,  # the token limit of one request
    "SAFETY": StopReason.REFUSAL,
    "RECITATION": StopReason.REFUSAL,
    "BLOCKLIST": StopReason.REFUSAL,
    "PROHIBITED_CONTENT": StopReason.REFUSAL,
    "SPII": StopReason.REFUSAL,
    "IMAGE_SAFETY": StopReason.REFUSAL,
    "IMAGE_PROHIBITED_CONTENT": StopReason.REFUSAL,
    "IMAGE_RECITATION": StopReason.REFUSAL,
    "ESCALATION": StopReason.REFUSAL,
    "PUP_LIMITED_DISABLED": StopReason.REFUSAL,
    "MODEL_ARMOR": StopReason.REFUSAL,
    "JAILBREAK": StopReason.REFUSAL,
}
#: The numbers of the first reasons, which Vertex sends on request (`$alt=json;enum-encoding=int`). The later numbers
#: differ between AI Studio and Vertex.
_BY_NUMBER = {1: "STOP", 2: "MAX_TOKENS", 3: "SAFETY", 4: "RECITATION"}
#: The value of an enum that is not set.
_UNSET = {"FINISH_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED", "", 0}

#: A larger number is not a plausible token count.
_MOST = 2**53

#: Fields that a record without candidates may have.
_KNOWN = {"candidates", "usageMetadata", "promptFeedback", "modelVersion", "responseId", "createTime"}


class _Content(Struct, gc=False):
    parts: list[dict[str, Any]] | None = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("parts",)


class _Candidate(Struct, gc=False):
    index: int | str | None = None
    content: _Content | None = None
    finishReason: str | int | None = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("content",)


class _Usage(Struct, gc=False, frozen=True):
    promptTokenCount: int | None = None
    candidatesTokenCount: int | None = None
    thoughtsTokenCount: int | None = None
    toolUsePromptTokenCount: int | None = None
    cachedContentTokenCount: int | None = None


class _Chunk(Struct, gc=False):
    candidates: list[_Candidate] | None = None
    usageMetadata: _Usage | None = None
    promptFeedback: Any = None
    error: Any = None

    @staticmethod
    def needs(value: dict[str, Any]) -> tuple[str, ...]:
        return ("candidates",)


_READER: Reader[_Chunk] = Reader(_Chunk)
_fast = _READER.fast


class GeminiDecoder:
    """Decodes one stream of Gemini.

    >>> from aprefill._deltas import Record
    >>> decoder = GeminiDecoder()
    >>> decoder.decode(Record(b'{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}'))
    [TextDelta(text='Hi')]
    >>> decoder.decode(Record(b'{"candidates":[{"finishReason":"STOP"}]}'))
    [FinishDelta(reason=<StopReason.END: 'end'>, raw='STOP', sequence=None), EndDelta()]

    The reply is candidate 0. Other candidates are ignored. If the host blocks the prompt, the reply is empty, and its
    stop reason is `REFUSAL`. Gemini says STOP also if the model calls a tool; the stop reason is then `TOOL_USE`.
    """

    def __init__(self, *, end: str = "strict") -> None:
        self._lasts = end == "body"
        self._over = False
        self._finished = False
        self._calls = Calls()
        self._usage: _Usage | None = None
        self._counts: tuple[int | None, ...] = (None,) * 5
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
            raise Truncated("no finishReason came")
        return [*deltas, *self._end()]

    # --- records ----------------------------------------------------------------------------------------------

    def _decode_unreadable(self, record: Record) -> Sequence[Delta]:
        data = record.data.strip()
        if names_error(record.event, record.data):
            return self._fail(error_from(record), [])
        if not data or data == b"[DONE]":  # gateways that also support openai_chat send these; neither is an end here
            return ()
        try:
            chunk = _READER.slow(data)
        except ProtocolError:
            if says_error(loads(data)):  # inside a list, or beside a field of a wrong type
                return self._fail(error_from(record), [])
            raise
        if self._joiner is None:
            self._joiner = Joiner()
        return self._map(chunk, record)

    def _map(self, chunk: _Chunk, record: Record) -> Sequence[Delta]:
        deltas: list[Delta] = []
        candidates = chunk.candidates
        if candidates:
            for candidate in candidates:
                if not candidate.index or candidate.index == "0":
                    self._choose(candidate, deltas)
        usage = chunk.usageMetadata
        if usage is not None and usage != self._usage:
            self._usage = usage
            self._count(usage, deltas)
        if chunk.error or (record.event and names_error(record.event, record.data)):
            return self._fail(error_from(record), deltas)
        if not candidates:
            self._without_candidates(chunk, record, deltas)
        if self._over:
            return deltas
        if self._finished and not self._lasts:
            return [*deltas, *self._end()]
        return deltas

    def _without_candidates(self, chunk: _Chunk, record: Record, deltas: list[Delta]) -> None:
        """Take a record without candidates: a blocked prompt, or an error in another format than Google's.

        Raises `ProtocolError` if it is no record of this protocol.
        """
        reason = _blocked(chunk)
        if reason:
            self._finished = True
            deltas.append(FinishDelta(STOP_REASONS.get(reason, StopReason.REFUSAL), mend(reason)))
            return
        value = loads(record.data)
        value = value if isinstance(value, dict) else {}
        if not value.keys().isdisjoint(_KNOWN):
            return
        if says_error(value) or value.get("message") or value.get("detail"):
            self._over = True
            deltas.append(error_from(record))
            return
        if record.event in {"", "message"}:
            raise ProtocolError("a record has no `candidates`")

    def _choose(self, candidate: _Candidate, deltas: list[Delta]) -> None:
        content = candidate.content
        if content is not None and content.parts:
            for part in content.parts:
                # Nearly every part is one of text alone.
                text = part.get("text")
                if len(part) == 1 and isinstance(text, str):
                    self._say(text, deltas)
                else:
                    self._take(part, deltas)
        reason = candidate.finishReason
        if reason is None or reason in _UNSET:
            return
        deltas += self._calls.close()
        self._finished = True
        word = reason if isinstance(reason, str) else _BY_NUMBER.get(reason, "")
        ours = STOP_REASONS.get(word, StopReason.OTHER)
        if ours is StopReason.END and self._calls.count:
            ours = StopReason.TOOL_USE
        deltas.append(FinishDelta(ours, mend(str(reason))))

    def _is_terminal(self, record: Record) -> bool:
        """Whether a record that has no blank line after it is complete and is the protocol's end."""
        try:
            chunk = _READER.read(record.data)
        except ProtocolError:
            return False
        if chunk.error or _blocked(chunk):
            return True
        return any(
            (not candidate.index or candidate.index == "0")
            and candidate.finishReason is not None
            and candidate.finishReason not in _UNSET
            for candidate in chunk.candidates or ()
        )

    # --- values -----------------------------------------------------------------------------------------------

    def _say(self, text: str, deltas: list[Delta]) -> None:
        if self._joiner is not None:
            text = self._joiner.feed("text", text)
        if text:
            deltas.append(TextDelta(text))

    def _take(self, part: dict[str, Any], deltas: list[Delta]) -> None:
        """Append the deltas of a part that is not only text: a thought, a call, signed text, or another kind."""
        if "functionCall" in part:
            deltas += self._calls.feed(part, mends=self._joiner is not None)
            return
        text, signature = part.get("text"), part.get("thoughtSignature")
        if text is None and part.keys() <= {"text", "thought", "thoughtSignature"}:
            text = ""
        if text is None:
            deltas.append(self._kept(part))  # code that ran on the host, an image, a call of a tool of the host
            return
        if not isinstance(text, str):
            raise ProtocolError("a text part has no `text`")
        signed = isinstance(signature, str) and bool(signature)
        if part.get("thought"):
            if signed:
                deltas.append(self._kept(part))
            if self._joiner is not None:
                text = self._joiner.feed("reasoning", text)
            if text:
                deltas.append(ReasoningDelta(text))
            return
        if signed:
            deltas.append(BlockDelta("signed"))
        self._say(text, deltas)
        if signed:
            deltas.append(BlockDelta("signature", value=mend(str(signature))))

    def _kept(self, part: dict[str, Any]) -> BlockDelta:
        return BlockDelta("part", value=part if self._joiner is None else within_depth(mend_all, part))

    def _count(self, usage: _Usage, deltas: list[Delta]) -> None:
        """Append the counts so far. A host sends them in most records, and may leave out some.

        The prompt that a host's own tools add is counted apart from the caller's, and thoughts apart from the reply.
        """
        old = self._counts
        prompt = _sane(usage.promptTokenCount, old[0])
        tools = _sane(usage.toolUsePromptTokenCount, old[1])
        reply = _sane(usage.candidatesTokenCount, old[2])
        thoughts = _sane(usage.thoughtsTokenCount, old[3])
        cached = _sane(usage.cachedContentTokenCount, old[4])
        counts = (prompt, tools, reply, thoughts, cached)
        if counts == old:
            return
        self._counts = counts
        deltas.append(
            UsageDelta(
                Usage(
                    input_tokens=prompt if tools is None else (prompt or 0) + tools,
                    output_tokens=reply if thoughts is None else (reply or 0) + thoughts,
                    cache_read_tokens=cached,
                    reasoning_tokens=thoughts,
                )
            )
        )

    def _end(self) -> list[Delta]:
        self._over = True
        rest: list[Delta] = [] if self._joiner is None else self._joiner.close()
        return [*rest, EndDelta()]

    def _fail(self, error: Delta, deltas: list[Delta]) -> list[Delta]:
        self._over = True
        return [*deltas, error]


def _sane(number: int | None, old: int | None) -> int | None:
    """Return `number` if it is a count; else the last one."""
    return old if number is None or not 0 <= number <= _MOST else number


def _blocked(chunk: _Chunk) -> str:
    """Return why the host blocked the prompt; "" if it did not."""
    feedback = chunk.promptFeedback
    reason = feedback.get("blockReason") if isinstance(feedback, dict) and not chunk.candidates else None
    return reason if isinstance(reason, str) and reason not in _UNSET else ""


# --- requests -----------------------------------------------------------------------------------------------------

#: The two spellings of the objects of a body. Google accepts both; a body gets only the first.
_SPELLED = {
    "generation_config": "generationConfig",
    "system_instruction": "systemInstruction",
    "tool_config": "toolConfig",
    "safety_settings": "safetySettings",
    "cached_content": "cachedContent",
}
_CONFIGS = ("generationConfig", "generation_config")


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda capital: "_" + capital[0].lower(), name)


def _in_config(*names: str) -> tuple[str, ...]:
    """Return `generationConfig` and the paths of its fields, in both spellings."""
    spelled = dict.fromkeys(one for name in names for one in (name, _snake(name)))
    return tuple(f"{config}.{name}" for config, name in product(_CONFIGS, spelled))


#: Fields of generationConfig that constrain the reply.
_CONSTRAINTS = ("responseJsonSchema", "responseSchema", "responseMimeType", "responseFormat")


class Gemini(JsonCodec):
    """The codec of Gemini. The model is in the path, which also switches streaming on.

    `thinking` is sent as `generationConfig.thinkingConfig`. `response_format` is a JSON schema; the objects that chat
    completions use for it are translated. Tools and tool turns may have the form of chat completions too.
    """

    name = "gemini"
    not_streams = frozenset({"text/html", "application/xhtml+xml"})
    streaming: Mapping[str, Any] = {}
    #: https://ai.google.dev/api/generate-content#generationconfig
    max_stop = 5
    #: `strict`: the record with the `finishReason` is the last one. `body`: the end of the body is the end, if a
    #: `finishReason` came, for gateways that repeat it in every record or send text after it.
    end_rules = ("strict", "body")
    stop_reasons = STOP_REASONS
    nested = frozenset(_CONFIGS)
    arguments: Mapping[str, tuple[str, ...]] = {
        "model": (),
        "prompt": ("contents",),
        "system": ("systemInstruction", "system_instruction"),
        "max_tokens": _in_config("maxOutputTokens"),
        "stop": _in_config("stopSequences"),
        "temperature": _in_config("temperature"),
        "thinking": _in_config("thinkingConfig"),
        "tools": ("tools",),
        "response_format": _in_config(*_CONSTRAINTS),
    }

    def path(self, model_input: ModelInput) -> str:
        """Return the path. A model's name may begin with its collection, such as `tunedModels/`."""
        collection, slash, name = model_input.model.rpartition("/")
        if not slash or collection not in {"models", "tunedModels", "endpoints"}:
            collection, name = "models", model_input.model
        return f"/{collection}/{quote(name, safe='')}:streamGenerateContent?alt=sse"

    def body(self, model_input: ModelInput) -> dict[str, Any]:
        system, messages = split_system(model_input.system, model_input.messages)
        body: dict[str, Any] = {}
        if system:
            body["systemInstruction"] = {"parts": system}
        body["contents"] = contents_of(messages, model_input.model)
        if model_input.tools:
            body["tools"] = _tools(model_input.tools)
        config: dict[str, Any] = {}
        if model_input.max_tokens is not None:
            config["maxOutputTokens"] = model_input.max_tokens
        if model_input.stop:
            config["stopSequences"] = list(model_input.stop)
        if model_input.temperature is not None:
            config["temperature"] = model_input.temperature
        if model_input.thinking is not None:
            config["thinkingConfig"] = model_input.thinking
        if model_input.response_format is not None:
            config |= _constraint(model_input.response_format)
        if config:
            body["generationConfig"] = config
        return body

    def merge(self, body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        return super().merge(body, {_SPELLED.get(name, name): value for name, value in extra.items()})

    def settings_in_use(self, arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
        thinking = arguments.get("thinking")
        if isinstance(thinking, Mapping) and not _thinks(thinking):
            arguments = {**arguments, "thinking": None}
        on = super().settings_in_use(arguments, extra)
        for name in _CONFIGS:
            config = extra.get(name)
            if not isinstance(config, Mapping):
                continue
            spelled = f"extra[{name!r}]"
            thinking = config.get("thinkingConfig", config.get("thinking_config"))
            if isinstance(thinking, Mapping) and thinking and _thinks(thinking):
                on.setdefault("thinking", spelled)
            kinds = [config.get(one, config.get(_snake(one))) for one in _CONSTRAINTS]
            if any(kind and kind != "text/plain" for kind in kinds):
                on.setdefault("response_format", spelled)
        for name in ("toolConfig", "tool_config"):
            config = extra.get(name)
            calling = _either(config, "functionCallingConfig")
            if _either(calling, "mode") == "ANY":
                on.setdefault("tool_choice", f"extra[{name!r}]")
        return on

    def text_part(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def is_tool_result(self, turn: Mapping[str, Any]) -> bool:
        content = turn.get("content")
        own = isinstance(content, list) and any(
            isinstance(part, Mapping) and result_in(part) is not None for part in content
        )
        return own or super().is_tool_result(turn)

    def edit(self, message: Message, change: Callable[[Any], Any]) -> Message:
        content = message["content"]
        if not isinstance(content, list):
            return message
        fixed = {"text", "thoughtSignature"}
        return {**message, "content": [change(part) if fixed.isdisjoint(part) else part for part in content]}

    def decoder(self, *, end: str = "strict") -> GeminiDecoder:
        self.check_end_rule(end)
        return GeminiDecoder(end=end)

    def message(self, parts: Sequence[str | Delta], *, lead: str = "") -> Message:
        return turn_of(parts, lead)


def _either(holder: Any, name: str) -> Any:
    """Return a field in one of its two spellings, or None."""
    return holder.get(name, holder.get(_snake(name))) if isinstance(holder, Mapping) else None


def _thinks(config: Mapping[str, Any]) -> bool:
    """Whether a `thinkingConfig` leaves thinking on. A budget of 0 switches it off."""
    return bool(_either(config, "thinkingBudget") != 0)


def _constraint(response_format: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of generationConfig for a JSON schema, also for one in the form of chat completions."""
    kind, inner = response_format.get("type"), response_format.get("json_schema")
    if kind == "text" and len(response_format) == 1:
        return {"responseMimeType": "text/plain"}
    json = {"responseMimeType": "application/json"}
    if kind == "json_object":
        return json
    if kind == "json_schema" and isinstance(inner, Mapping):
        return {**json, "responseJsonSchema": inner["schema"]} if isinstance(inner.get("schema"), Mapping) else json
    return {**json, "responseJsonSchema": response_format}


def _tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `tools` with those in the form of chat completions as one tool of Google's."""
    out: list[dict[str, Any]] = []
    declared: list[dict[str, Any]] = []
    for tool in tools:
        neutral = tool_of(tool)
        if neutral is None:
            out.append(tool)
            continue
        if not declared:
            out.append({"functionDeclarations": declared})
        function: dict[str, Any] = {"name": neutral.name}
        if neutral.description:
            function["description"] = neutral.description
        if neutral.parameters != {"type": "object", "properties": {}}:
            function["parametersJsonSchema"] = neutral.parameters
        declared.append(function)
    return out


CODEC = Gemini()

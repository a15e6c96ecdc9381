"""Plans the request for one LLM prompt with a prefill, and how the prefill and the reply's text are joined.

This corresponds to the package `_plan` for aprefill's own requests. The caller's prompt, which LLM logs, is not
changed; the plugin gets a copy.
"""

from __future__ import annotations

import copy
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llm.parts import Message, TextPart, ToolCallPart, ToolResultPart

from .._codecs import codec
from .._codecs._switches import TOKEN_LIMITS
from .._errors import UsageError
from .._hosts.prefill import attach_prefill
from .._hosts.refusals import RefusalKey
from .._plan.conflicts import conflict
from .._plan.emulate import DEFAULT, emulate
from .._plan.stops import stops
from .._types import Support
from ._errors import PrefillError
from ._json_start import impossible
from ._splice import ChunkSplicer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._seam.plan import SeamPlan
    from ._hosts import Route

#: The plugins' options for stop sequences.
_STOPS = ("stop", "stop_sequences")
#: The plugins' options for thinking, and the values that switch thinking off.
_THINKING = ("thinking", "think", "thinking_effort", "thinking_budget", "thinking_level", "reasoning_effort")
_OFF = (None, False, 0, "none")
#: The options that this plugin adds. If another plugin has an option `prefill` of its own, `_native` sets that option.
OURS = ("prefill", "hide_prefill", "prefill_strict", "prefill_mode", "prefill_verdict")


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request: the model and the prompt for the plugin, and the splicer for the plugin's output."""

    model: Any
    prompt: Any
    #: "native" or "emulated"
    mode: str
    splice: ChunkSplicer
    #: whether the prompt asks the model to begin with the prefill
    is_asked: bool = False
    #: the clients that LLM's own classes have opened for this request, to be closed with the reply
    clients: list[Any] = field(default_factory=list)


def plain(model: Any, prompt: Any) -> Any:
    """Return the prompt as the plugin would get it without aprefill."""
    inner = copy.copy(prompt)
    inner.model = model
    fields = model.Options.model_fields
    given = {name: value for name, value in dict(prompt.options).items() if name in fields and name not in OURS}
    # The values were validated already, by a subclass. They are not validated again, because this could fail: for
    # example, a JSON text was replaced by its parsed value.
    options = model.Options.model_construct(_fields_set=prompt.options.model_fields_set & set(given), **given)
    for kept in ("__pydantic_extra__", "__pydantic_private__"):
        if (value := getattr(prompt.options, kept, None)) is not None:
            object.__setattr__(options, kept, dict(value))
    inner.options = options
    return inner


def is_delivered(messages: Sequence[Any], prefill: str) -> bool:
    """Whether an earlier response of this turn has begun with the prefill. With tool calls, there are several."""
    since = _since_the_user(messages)
    said = [part for message in since if message.role == "assistant" for part in message.parts]
    return any(map(_has_tool, since)) and any(
        isinstance(part, TextPart) and part.text.startswith(prefill) for part in said
    )


def refusal_key_of(host: Route, prompt: Any) -> RefusalKey:
    """Return the key under which a refusal of this prompt's prefill is remembered."""
    return RefusalKey("llm", f"{host.provider} {host.base_url}", host.name, "thinking" in _switched_on(prompt))


def prepared(model: Any, host: Route, prompt: Any, *, natively: bool) -> Prepared:
    """Return the request for this prompt. `natively` is False if the host has recently refused a native prefill.

    Raises `PrefillError` if the prefill cannot be sent, before anything is sent.
    """
    options = prompt.options
    strict = bool(options.prefill_strict)
    if host.provider == "mistral" and getattr(options, "prefix", None):
        raise PrefillError(f"{model.model_id}: -o prefix is a prefill as well; leave one of them out")
    _check_schema(prompt)
    native = host.native and natively
    if native and (found := conflict(host.row, _switched_on(prompt))):
        word, _, spelled = found
        if word == "breaks":
            raise PrefillError(f"{model.model_id} cannot combine a prefill with {spelled}; leave one of them out")
        native = False
    if not native and strict:
        raise PrefillError(
            f"{model.model_id} does not take a native prefill here; "
            "leave out prefill_strict, and the prefill is asked for in the prompt"
        )
    try:
        made = _native(model, host, prompt, strict) if native else _emulated(model, host, prompt)
    except UsageError as exc:
        raise PrefillError(str(exc)) from exc
    return _with_clients(made)


def _check_schema(prompt: Any) -> None:
    schema = prompt.schema
    if not schema and getattr(prompt.options, "json_object", None):
        schema = {"type": "object"}
    if schema and (where := impossible(schema, prompt.options.prefill)):
        what = "-o json_object" if not prompt.schema else "the schema"
        raise PrefillError(f"no reply can begin with this prefill and match {what}: {where}; change one of them")


def _with_clients(made: Prepared) -> Prepared:
    """Collect the clients that LLM's OpenAI classes open, so that they can be closed.

    These classes open a client per call and leave it to the garbage collector, with its connection open.
    """
    get_client = getattr(type(made.model), "get_client", None)
    if getattr(get_client, "__module__", "") != "llm.default_plugins.openai_models":
        return made  # a plugin's own client may be shared
    clone, clients = copy.copy(made.model), made.clients
    make = made.model.get_client

    def noted(*args: Any, **kwargs: Any) -> Any:
        clients.append(make(*args, **kwargs))
        return clients[-1]

    clone.get_client = noted
    return replace(made, model=clone)


def _native(model: Any, host: Route, prompt: Any, strict: bool) -> Prepared:
    prefill = prompt.options.prefill
    messages = prompt.messages
    if messages and messages[-1].role == "assistant":
        raise PrefillError("the messages end with an assistant message and there is a prefill too; give one of them")
    row = host.row
    sent = attach_prefill(row, (), prefill)
    inner = plain(model, prompt)
    update: dict[str, Any] = {}
    if not sent.sent:
        pass
    elif host.door == "prefill":
        update = {"prefill": sent.sent, "hide_prefill": True}
    elif host.door == "prefix":
        update = {"prefix": sent.sent}
    elif host.door == "message":
        inner._explicit_messages = [*messages, Message(role="assistant", parts=[TextPart(text=sent.sent)])]
    else:
        model = _chat(model, host, sent.messages[-1], sent.body_fields)
    own = _stops(inner, host, prefill, row.support, update)
    inner.options = inner.options.model_copy(update=update)
    splice = _splice(prompt, sent.seam, stop=own, must_echo=strict and sent.must_echo)
    return Prepared(model, inner, "native", splice)


def _chat(model: Any, host: Route, turn: dict[str, Any], body_fields: dict[str, Any]) -> Any:
    """Return a copy of a chat completions model (LLM's or llm-groq's) that also sends this message and these fields."""
    clone = copy.copy(model)
    build_messages = model.build_messages

    def messages(*args: Any, **kwargs: Any) -> Any:
        return [*build_messages(*args, **kwargs), turn]

    clone.build_messages = messages
    if host.door == "built":
        return clone
    build_kwargs = model.build_kwargs

    def fields(*args: Any, **kwargs: Any) -> Any:
        built = build_kwargs(*args, **kwargs)
        return {**built, "extra_body": {**(built.get("extra_body") or {}), **body_fields}} if body_fields else built

    clone.build_kwargs = fields
    if host.row.prefill_base_url and host.base_url:
        clone.api_base = host.row.prefill_base_url
    return clone


def _emulated(model: Any, host: Route, prompt: Any) -> Prepared:
    prefill = prompt.options.prefill
    messages = list(prompt.messages)
    at = _last_user(messages)
    if at < 0:  # there is only a system prompt
        at = len(messages)
        messages.append(Message(role="user", parts=[]))
    on = _switched_on(prompt)
    texts = [text for message in messages for text in _texts(message)]
    turns = [{"role": "user", "content": text} for text in (*texts, prompt.prompt or "", "")]
    emulated = emulate(DEFAULT, turns, prefill, codec=codec(host.row.codec), token=lambda: secrets.token_hex(8))
    request = emulated.messages[-1]["content"]
    inner = plain(model, prompt)
    update: dict[str, Any] = {}
    if request:
        messages[at] = _told(messages[at], request)
        inner._explicit_messages = messages
        if prompt.prompt or at == len(messages) - 1:  # for plugins that use the prompt and not the messages
            inner._prompt = f"{prompt._prompt}\n\n{request}" if prompt._prompt else request
        for name in TOKEN_LIMITS:
            limit = getattr(inner.options, name, None)
            if isinstance(limit, int) and limit > 0:
                update[name] = limit + emulated.room
    own = _stops(inner, host, prefill, Support.EMULATED, update)
    inner.options = inner.options.model_copy(update=update)
    if not emulated.echo:
        return Prepared(model, inner, "emulated", _splice(prompt, emulated.seam, stop=own))
    splice = _splice(
        prompt,
        emulated.seam,
        stop=own,
        # With a schema the reply is complete JSON. If it did not repeat the prefill, both together would not be JSON.
        must_echo="response_format" in on,
        may_call="tools" in on,
        marker=emulated.marker,
    )
    return Prepared(model, inner, "emulated", splice, is_asked=True)


def _splice(prompt: Any, seam: SeamPlan, **rest: Any) -> ChunkSplicer:
    return ChunkSplicer(prompt.options.prefill, seam, hidden=bool(prompt.options.hide_prefill), **rest)


def _stops(inner: Any, host: Route, prefill: str, support: Support, update: dict[str, Any]) -> tuple[str, ...]:
    """Return the stop sequences that aprefill applies itself. The others, for the host, are put into `update`."""
    own: tuple[str, ...] = ()
    for name in _STOPS:
        given = getattr(inner.options, name, None)
        if not given:
            continue
        wanted = (given,) if isinstance(given, str) else tuple(given)
        sent, ours = stops(wanted, host.row, prefill, support)
        own += ours
        if sent != wanted:
            update[name] = list(sent) or None
    return own


# --- LLM's messages ---------------------------------------------------------------------------------------------


def _switched_on(prompt: Any) -> dict[str, str]:
    """Return the settings of `SupportRow.conflicts` that are on, each with the name that the caller used."""
    on: dict[str, str] = {}
    options = dict(prompt.options)
    for name in _THINKING:
        value = options.get(name)
        if getattr(value, "value", value) not in _OFF:
            on.setdefault("thinking", f"-o {name}")
    if prompt.tools or any(message.role == "tool" for message in _since_the_user(prompt.messages)):
        on["tools"] = "tools"
    if prompt.schema:
        on["response_format"] = "a schema"
    elif options.get("json_object"):
        on["response_format"] = "-o json_object"
    return on


def _since_the_user(messages: Sequence[Any]) -> list[Any]:
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    return list(messages[last + 1 :])


def _last_user(messages: Sequence[Any]) -> int:
    """Return the index of the last user message, to which the request for the prefill is added; -1 if there is none.

    The last user message is used also if the result of a tool call comes after it.
    """
    rest = _since_the_user(messages)
    if any(message.role == "assistant" and not _has_tool(message) for message in rest):
        raise PrefillError("the messages end with an assistant message and there is a prefill too; give one of them")
    return len(messages) - len(rest) - 1


def _has_tool(message: Any) -> bool:
    return any(isinstance(part, ToolCallPart | ToolResultPart) for part in message.parts)


def _told(message: Any, request: str) -> Any:
    parts = list(message.parts)
    for i in reversed(range(len(parts))):
        if isinstance(parts[i], TextPart):
            # added to the same part, because some plugins join the parts of a message without a separator
            parts[i] = replace(parts[i], text=f"{parts[i].text}\n\n{request}")
            return replace(message, parts=parts)
    return replace(message, parts=[*parts, TextPart(text=request)])


def _texts(message: Any) -> list[str]:
    found = [part.text for part in message.parts if hasattr(part, "text")]
    return found + [part.output for part in message.parts if isinstance(part, ToolResultPart)]

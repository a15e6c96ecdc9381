"""Decides what to send; `_reply` obeys. Pure: what was asked and what the table says in, one request out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from ._errors import PrefillRefused, UsageError
from ._support import carry
from ._types import Call, Message, Support, Timeouts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._support import Row

ShowWhen: TypeAlias = Literal["now", "accepted", "decided", "never"]
_SHOW_WHEN = get_args(ShowWhen)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Ask:
    """What the caller asked for, checked. It has no repr: it holds the prompt."""

    messages: tuple[Message, ...]
    prefill: str
    #: the part of the prefill that is handed out
    shown: str
    system: str | None
    max_tokens: int | None
    stop: tuple[str, ...]
    temperature: float | None
    thinking: dict[str, Any] | None
    tools: tuple[dict[str, Any], ...]
    response_format: dict[str, Any] | None
    extra: dict[str, Any]
    support: Support | None
    strict: bool
    show_when: ShowWhen | None
    coalesce: bool
    timeouts: Timeouts


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Step:
    """One request to make and how to splice its reply."""

    row: Row
    call: Call
    #: "native", or "none" without a prefill
    mode: str
    support: Support
    #: the text that the reply already has
    known: str
    #: keyword arguments for the seam
    rules: Mapping[str, Any]
    #: the sequences that are applied here, not by the host
    stop: tuple[str, ...]
    show_when: ShowWhen
    #: part of the prefill is in the request, so the host's own base URL for prefills applies
    sends_prefill: bool
    #: raise `PrefillIgnored` when a host that repeats the prefill did not
    echo_required: bool


def ask(
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    prefill: str,
    system: str | None,
    max_tokens: int | None,
    stop: str | Sequence[str],
    temperature: float | None,
    thinking: Mapping[str, Any] | None,
    tools: Sequence[Mapping[str, Any]] | None,
    response_format: Mapping[str, Any] | None,
    extra: Mapping[str, Any] | None,
    support: Support | str | None,
    strict: bool,
    show_when: ShowWhen | None,
    show_from: int | str,
    coalesce: bool,
    timeouts: Timeouts,
) -> Ask:
    """The caller's arguments, checked and made uniform. Raises `UsageError`."""
    _expect("prefill", prefill, str, "a str")
    _expect("system", system, str | None, "a str or None")
    _expect("temperature", temperature, int | float | None, "a number or None")
    _expect("thinking", thinking, Mapping | None, 'a dict such as {"type": "disabled"}, or None')
    _expect("response_format", response_format, Mapping | None, "a dict or None")
    _expect("extra", extra, Mapping | None, "a dict of body fields, or None")
    _expect("timeouts", timeouts, Timeouts, "an aprefill.Timeouts")
    _expect("tools", tools, list | tuple | None, "a list of dicts, or None")
    if isinstance(temperature, float) and not isfinite(temperature):
        raise UsageError(f"temperature={temperature!r}: pass a finite number, or None")
    for name, text in (("prefill", prefill), ("system", system or "")):
        _check_text(name, text)
    if not all(isinstance(tool, Mapping) for tool in tools or ()):
        raise UsageError("tools: pass a list of dicts, in the host's own format")
    messages, prefill = _messages(prompt, prefill)
    if show_when is not None and show_when not in _SHOW_WHEN:
        raise UsageError(f"show_when={show_when!r}: pass one of {', '.join(_SHOW_WHEN)}, or None")
    if strict and show_when in {"now", "accepted"}:
        raise UsageError(f"strict=True shows the prefill when it is decided, not {show_when!r}; leave show_when out")
    if max_tokens is not None and (not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1):
        raise UsageError(f"max_tokens={max_tokens!r}: pass a whole number above 0, or None for the host's default")
    return Ask(
        messages=messages,
        prefill=prefill,
        shown=_shown(prefill, show_from),
        system=system,
        max_tokens=max_tokens,
        stop=_sequences(stop),
        temperature=temperature,
        thinking=None if thinking is None else dict(thinking),
        tools=tuple(dict(tool) for tool in tools or ()),
        response_format=None if response_format is None else dict(response_format),
        extra=dict(extra or {}),
        support=_support(support),
        strict=bool(strict),
        show_when=show_when,
        coalesce=bool(coalesce),
        timeouts=timeouts,
    )


def first(ask: Ask, row: Row, model: str) -> Step:
    """The first request. Raises `PrefillRefused` when `row` has no native prefill, `UsageError` on a conflict."""
    if not ask.prefill:
        return Step(
            row=row,
            call=_call(ask, row, model, ask.messages, {}, host_stop=_host_stop(ask.stop, row, "", row.support)),
            mode="none",
            support=row.support,
            known="",
            rules={"echo": "never"},
            stop=_own_stop(ask.stop, row, "", row.support),
            show_when=ask.show_when or "accepted",
            sends_prefill=False,
            echo_required=False,
        )
    if ask.support is not None:
        row = row.forced(ask.support)
    if not row.native:
        raise PrefillRefused(model, known_as=f"support table: {row.support.value}, evidence: {row.evidence}")
    carried = carry(row, ask.messages, ask.prefill)
    if carried.sent:
        _check_conflicts(ask, row)
    stripped = carried.stripped
    rules: dict[str, Any] = {"stripped": stripped}
    if row.support is Support.EATS:
        rules["echo"] = "never"
    else:
        rules["whitespace"] = row.whitespace_echo
    return Step(
        row=row,
        call=_call(
            ask,
            row,
            model,
            carried.messages,
            carried.body_fields,
            host_stop=_host_stop(ask.stop, row, ask.prefill, row.support),
        ),
        mode="native",
        support=row.support,
        known=ask.prefill,
        rules=rules,
        stop=_own_stop(ask.stop, row, ask.prefill, row.support),
        show_when=ask.show_when or ("decided" if ask.strict else "accepted"),
        sends_prefill=bool(carried.sent),
        echo_required=ask.strict and row.support is Support.ECHOES and bool(carried.sent),
    )


def _call(
    ask: Ask,
    row: Row,
    model: str,
    messages: tuple[Message, ...],
    fields: Mapping[str, Any],
    *,
    host_stop: tuple[str, ...],
) -> Call:
    return Call(
        model=model,
        messages=messages,
        system=ask.system,
        max_tokens=ask.max_tokens if ask.max_tokens is not None else row.max_tokens,
        stop=host_stop,
        temperature=ask.temperature,
        thinking=ask.thinking,
        tools=ask.tools,
        response_format=ask.response_format,
        token_field=row.token_field,
        fields={**({} if row.asks_usage else {"stream_options": None}), **fields, **ask.extra},
    )


def _check_conflicts(ask: Ask, row: Row) -> None:
    for setting, effect in row.conflicts.items():
        if effect == "breaks" and _is_on(ask, setting):
            raise UsageError(
                f"{row.provider} cannot combine a prefill with {setting}; leave {setting} out, or leave prefill out"
            )


def _is_on(ask: Ask, setting: str) -> bool:
    """Whether the caller switched `setting` on, as an argument or as a field of the body."""
    value = ask.extra[setting] if setting in ask.extra else getattr(ask, setting, None)
    kind = value.get("type") if isinstance(value, Mapping) else value
    if setting == "tool_choice":
        return kind not in {None, "auto", "none"} if isinstance(kind, str | None) else True
    return bool(value) and kind != "disabled"


# --- stop sequences ---------------------------------------------------------------------------------------------


def _may_send(sequence: str, row: Row, known: str, support: Support) -> bool:
    """Whether the host may be told: not if it could take known text, or known and new text together, for a match."""
    if not row.sends_stop or (not row.blank_stop and sequence.isspace()):
        return False
    if any(known.endswith(sequence[:n]) for n in range(1, len(sequence))):
        return False
    return support is not Support.ECHOES or sequence not in known


def _host_stop(stop: tuple[str, ...], row: Row, known: str, support: Support) -> tuple[str, ...]:
    sent = [s for s in stop if _may_send(s, row, known, support)]
    return tuple(sent[: row.max_stop])


def _own_stop(stop: tuple[str, ...], row: Row, known: str, support: Support) -> tuple[str, ...]:
    sent = _host_stop(stop, row, known, support)
    return tuple(s for s in stop if s not in sent)


# --- checks -----------------------------------------------------------------------------------------------------


def _expect(name: str, value: object, kind: Any, what: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{name}: pass {what}, not a {type(value).__name__}")


def _check_text(name: str, text: str) -> None:
    if not text.isascii() and _SURROGATE.search(text):
        raise UsageError(f"{name} holds a lone surrogate, which JSON in UTF-8 cannot carry; replace it")


def _sequences(stop: str | Sequence[str]) -> tuple[str, ...]:
    sequences = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, Iterable) else (stop,)
    if not all(isinstance(s, str) and s for s in sequences):
        raise UsageError("stop: pass a str or several, none of them empty; () for none")
    for sequence in sequences:
        _check_text("stop", sequence)
    return tuple(dict.fromkeys(sequences))


def _messages(prompt: str | Sequence[Mapping[str, Any]], prefill: str) -> tuple[tuple[Message, ...], str]:
    if isinstance(prompt, str):
        if not prompt:
            raise UsageError("the prompt is empty; pass some text, or a list of messages")
        _check_text("the prompt", prompt)
        return ({"role": "user", "content": prompt},), prefill
    if not isinstance(prompt, Iterable) or isinstance(prompt, bytes | Mapping):
        raise UsageError(f"prompt: pass a str or a list of messages, not a {type(prompt).__name__}")
    messages = []
    for number, message in enumerate(prompt):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise UsageError(f'message {number} of the prompt must be a dict with "role" and "content"')
        content = message["content"]
        if not isinstance(content, str | list | None):
            raise UsageError(
                f"message {number} of the prompt: content is a str or a list, not a {type(content).__name__}"
            )
        if isinstance(content, str):
            _check_text(f"message {number} of the prompt", content)
        messages.append(dict(message))
    if not messages:
        raise UsageError("the list of messages is empty; pass at least one user message")
    trailing = _text_of(messages[-1]) if messages[-1]["role"] == "assistant" else None
    if trailing is None:
        return tuple(messages), prefill
    if prefill:
        raise UsageError(
            "the messages end with an assistant turn, which is a prefill, and prefill= is given too; keep one"
        )
    if len(messages) == 1:
        raise UsageError("the messages are an assistant turn alone; put the user's message before it")
    return tuple(messages[:-1]), trailing


def _text_of(message: Message) -> str | None:
    """The text of a turn that is text alone, else None (tool calls, a paused turn to be sent back)."""
    content = message["content"]
    if message.get("tool_calls"):
        return None
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
        return "".join(str(p.get("text", "")) for p in content)
    return None


def _shown(prefill: str, show_from: int | str) -> str:
    if isinstance(show_from, str):
        at = prefill.find(show_from)
        if at < 0:
            raise UsageError("show_from: this marker does not occur in the prefill")
        return prefill[at:]
    if not isinstance(show_from, int) or isinstance(show_from, bool):
        raise UsageError("show_from: pass an offset in characters, or the text from which on the prefill is shown")
    if not 0 <= show_from <= len(prefill):
        raise UsageError(f"show_from={show_from!r}: the prefill has {len(prefill)} characters")
    return prefill[show_from:]


def _support(support: Support | str | None) -> Support | None:
    if support is None or isinstance(support, Support):
        return support
    try:
        return Support(support)
    except ValueError:
        words = ", ".join(s.value for s in Support)
        raise UsageError(f"support={support!r}: pass one of {words}, or None for the table's word") from None

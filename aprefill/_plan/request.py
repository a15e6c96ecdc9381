"""The arguments of `stream()`, checked and normalized. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, get_args

from .._errors import UsageError
from .._hosts.redact import written
from .._settings import Limits, Recovery, Timeouts
from .._types import Support
from .._words import Words
from .emulate import DEFAULT, Emulation
from .options import Absent, Options, Prompt, ShowWhen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._deltas import Message

_SHOW_WHEN = get_args(ShowWhen)
_ABSENT = get_args(Absent)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Request:
    """The caller's arguments, checked. It has no repr, because it contains the prompt."""

    messages: tuple[Message, ...]
    prefill: str
    #: The part of the prefill that is yielded.
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
    #: The wording for an emulated prefill. None: emulation is forbidden.
    emulate: Emulation | None
    absent: Absent
    strict: bool
    show_when: ShowWhen | None
    coalesce: bool
    recovery: Recovery
    timeouts: Timeouts
    limits: Limits

    def texts(self) -> list[str]:
        """Return every text that the caller wrote. Errors must not quote them."""
        values = (self.system, self.prefill, self.stop, self.messages, self.tools, self.response_format, self.thinking)
        return [text for value in (*values, self.extra) for text in written(value)]

    def fields(self) -> set[str]:
        """Return the names of the body fields that the caller has set by name."""
        return {*self.extra} | ({"thinking"} if self.thinking is not None else set())

    @property
    def forbids_emulation(self) -> str:
        """The argument that forbids emulation, as Python code. ``""`` if emulation is allowed."""
        return "strict=True" if self.strict else "emulate=False" if self.emulate is None else ""


def make_request(prompt: Prompt, prefill: str, options: Options) -> Request:
    """Check and normalize the caller's arguments. Raises `UsageError`."""
    _expect("prefill", prefill, str, "a str")
    for name, (kind, what) in _KINDS.items():
        _expect(name, getattr(options, name), kind, what)
    if not isinstance(options.emulate, bool | Emulation):
        raise UsageError(f"emulate is a {type(options.emulate).__name__}", "pass True, False or an aprefill.Emulation")
    _check_values(options)
    for name, text in (("prefill", prefill), ("system", options.system or "")):
        _check_text(name, text)
    messages, prefill = _messages(prompt, prefill)
    _check_text("the prefill", prefill)
    most = options.limits.reply_chars
    if most is not None and len(prefill) > most:
        raise UsageError(
            f"limits: reply_chars={most} is less than the prefill's {len(prefill)} characters",
            Words("raise {Limits.reply_chars}, which counts the prefill too"),
        )
    thinking, response_format = options.thinking, options.response_format
    return Request(
        messages=messages,
        prefill=prefill,
        shown=_shown(prefill, options.show_from),
        system=options.system,
        max_tokens=options.max_tokens,
        stop=_sequences(options.stop),
        temperature=options.temperature,
        thinking=None if thinking is None else dict(thinking),
        tools=tuple(dict(tool) for tool in options.tools or ()),
        response_format=None if response_format is None else dict(response_format),
        extra=dict(options.extra or {}),
        support=_support(options.support),
        emulate=DEFAULT if options.emulate is True else options.emulate or None,
        absent=options.absent,
        strict=bool(options.strict),
        show_when=options.show_when,
        coalesce=bool(options.coalesce),
        recovery=options.recovery,
        timeouts=options.timeouts,
        limits=options.limits,
    )


# --- checks -----------------------------------------------------------------------------------------------------


#: Option -> its type, and what to pass.
_KINDS: dict[str, tuple[Any, str]] = {
    "system": (str | None, "a str or None"),
    "temperature": (int | float | None, "a number or None"),
    "thinking": (Mapping | None, 'a dict such as {"type": "disabled"}, or None'),
    "response_format": (Mapping | None, "a dict or None"),
    "extra": (Mapping | None, "a dict of body fields, or None"),
    "timeouts": (Timeouts, "an aprefill.Timeouts"),
    "recovery": (Recovery, "an aprefill.Recovery"),
    "limits": (Limits, "an aprefill.Limits"),
    "tools": (list | tuple | None, "a list of dicts, or None"),
}


def _check_values(options: Options) -> None:
    absent, show_when = options.absent, options.show_when
    temperature, max_tokens = options.temperature, options.max_tokens
    if absent not in _ABSENT:
        raise UsageError(Words("{absent=given} is unknown", given=repr(absent)), f"pass one of {', '.join(_ABSENT)}")
    if isinstance(temperature, float) and not isfinite(temperature):
        raise UsageError(
            Words("{temperature=given} is not finite", given=repr(temperature)), "pass a finite number, or None"
        )
    if not all(isinstance(tool, Mapping) for tool in options.tools or ()):
        raise UsageError("tools contains something other than a dict", "pass a list of dicts, in the host's own format")
    if show_when is not None and show_when not in _SHOW_WHEN:
        raise UsageError(f"show_when={show_when!r} is unknown", f"pass one of {', '.join(_SHOW_WHEN)}, or None")
    if show_when in {"now", "accepted"} and (options.strict or absent != "join"):
        why = "strict=True" if options.strict else f"absent={absent!r}"
        raise UsageError(
            f"with {why} the prefill is shown only after the start of the model's text has been checked, so "
            f"show_when={show_when!r} is impossible",
            Words("leave {show_when} out"),
        )
    if max_tokens is not None and (not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1):
        raise UsageError(
            Words("{max_tokens=given} is not a limit", given=repr(max_tokens)),
            "pass a whole number above 0, or None for the host's default",
        )


def _expect(name: str, value: object, kind: Any, what: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{name} is a {type(value).__name__}", f"pass {what}")


def _check_text(name: str, text: str) -> None:
    if not text.isascii() and _SURROGATE.search(text):
        raise UsageError(f"{name} holds a lone surrogate, which JSON in UTF-8 cannot carry", "replace it")


def _sequences(stop: str | Sequence[str]) -> tuple[str, ...]:
    sequences = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, Iterable) else (stop,)
    if not all(isinstance(s, str) and s for s in sequences):
        raise UsageError(
            "stop is neither a str nor a list of str, or one of them is empty", "pass a str or several; () for none"
        )
    for sequence in sequences:
        _check_text("stop", sequence)
    return tuple(dict.fromkeys(sequences))


def _messages(prompt: str | Sequence[Mapping[str, Any]], prefill: str) -> tuple[tuple[Message, ...], str]:
    if isinstance(prompt, str):
        if not prompt:
            raise UsageError("the prompt is empty", "pass some text, or a list of messages")
        _check_text("the prompt", prompt)
        return ({"role": "user", "content": prompt},), prefill
    if not isinstance(prompt, Iterable) or isinstance(prompt, bytes | Mapping):
        raise UsageError(f"prompt is a {type(prompt).__name__}", "pass a str or a list of messages")
    messages = []
    for number, message in enumerate(prompt):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise UsageError(
                f"message {number} of the prompt is not a complete message", 'pass a dict with "role" and "content"'
            )
        content = message["content"]
        if not isinstance(content, str | list | None):
            raise UsageError(
                f"message {number} of the prompt: its content is a {type(content).__name__}", "pass a str or a list"
            )
        if isinstance(content, str):
            _check_text(f"message {number} of the prompt", content)
        messages.append(dict(message))
    if not messages:
        raise UsageError("the list of messages is empty", "pass at least one user message")
    trailing = _text_of(messages[-1]) if messages[-1]["role"] == "assistant" else None
    if trailing is None:
        return tuple(messages), prefill
    if prefill:
        raise UsageError(
            "the messages end with an assistant turn, which is a prefill, and prefill= is given too",
            "keep one of the two",
        )
    if len(messages) == 1:
        raise UsageError("the messages are only one assistant turn", "put the user's message before it")
    return tuple(messages[:-1]), trailing


def _text_of(message: Message) -> str | None:
    """Return the text of a turn that consists of text only, else None (tool calls, a paused turn to send back)."""
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
            raise UsageError("show_from: this text does not occur in the prefill", "pass a text that does")
        return prefill[at:]
    if not isinstance(show_from, int) or isinstance(show_from, bool):
        raise UsageError(
            f"show_from is a {type(show_from).__name__}",
            "pass an offset in characters, or the text with which the shown part begins",
        )
    if not 0 <= show_from <= len(prefill):
        raise UsageError(
            f"show_from={show_from!r}: the prefill has {len(prefill)} characters", "pass an offset within it"
        )
    return prefill[show_from:]


def _support(support: Support | str | None) -> Support | None:
    if support is None or isinstance(support, Support):
        return support
    try:
        return Support(support)
    except ValueError:
        words = ", ".join(s.value for s in Support)
        raise UsageError(
            Words("{support=given} is unknown", given=repr(support)),
            f"pass one of {words}, or leave it out to use the support table",
        ) from None

"""Decides what to send, first and next; `_run` obeys. Pure: what was asked, what is known and what happened in, one
request out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ._conflicts import rule, switched_on
from ._emulate import emulate, texts_of
from ._errors import (
    AprefillError,
    ConnectFailed,
    PrefillIgnored,
    PrefillRefused,
    Stalled,
    StatusError,
    Truncated,
    UsageError,
)
from ._schema import flat
from ._support import carry
from ._types import Call, Message, Support

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._ask import Absent, Ask, ShowWhen
    from ._support import Refusal, Row

#: `Refusal.why` of a host that will say it again: the others are about one request.
LASTING = frozenset({"model", "thinking", "flags"})

#: Body fields that OpenAI takes no prediction with: https://platform.openai.com/docs/guides/predicted-outputs
_NO_PREDICTION = {
    "audio", "frequency_penalty", "functions", "logprobs", "max_completion_tokens", "max_tokens", "modalities", "n",
    "presence_penalty", "tools", "top_logprobs",
}  # fmt: skip

#: The first wait before a retry, its growth and its bound, in seconds, without a word of the host's.
FIRST_WAIT_S = 0.5
GROWTH = 2.0
LONGEST_WAIT_S = 8.0
#: How far chance moves a wait down, so that many callers do not come back at once.
JITTER = 0.5

#: What a model may open a code fence with. A stop sequence that occurs in one of these is not for the host.
_LANGUAGES = (
    "bash c c# c++ cpp cs csharp css csv diff dockerfile elixir go golang graphql haskell html http ini java "
    "javascript js json json5 jsonc jsonl jsx kotlin latex lua makefile markdown md mermaid nginx perl php plaintext "
    "powershell proto protobuf py python r regex ruby rust scala scss sh shell sql svg swift text toml ts tsx txt "
    "typescript vue xml yaml yml zsh"
)
_OPENERS = "".join(f"```{name}\n" for name in _LANGUAGES.split())


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Step:
    """One request to make and how to splice its reply."""

    row: Row
    call: Call
    #: "native", "emulated", or "none" without a prefill
    mode: str
    support: Support
    #: the text that the reply already has, as the seam is to look for it
    known: str
    #: keyword arguments for the seam
    rules: Mapping[str, Any]
    #: where the model was asked for the end of a long text alone: that, and the rules of a second seam for it
    end: str = ""
    end_rules: Mapping[str, Any] = field(default_factory=dict)
    #: the name of the markers in the prompt, which are taken out of the reply; empty: there are none
    marker: str = ""
    #: the sequences that are applied here, not by the host
    stop: tuple[str, ...]
    show_when: ShowWhen
    #: part of the prefill is in the request, so the host's own base URL for prefills applies
    sends_prefill: bool = False
    #: what becomes of a reply without the echo that was asked for
    absent: Absent = "join"
    #: how long to wait before it is sent, in seconds
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What happened to the last request, which failed before anything new was handed out."""

    step: Step
    error: AprefillError
    #: the model had produced a token of any kind; a tool call
    has_token: bool
    has_tool: bool = False
    #: how often a request of this reply was sent again because the way to the host or the host failed
    retries: int
    #: of the reply's total clock, in seconds
    left_s: float


class Refused(NamedTuple):
    """What a refusal is about: another protocol, host, model, or thinking the other way is another matter."""

    protocol: str
    base_url: str
    model: str
    thinking: bool


# --- the first request ------------------------------------------------------------------------------------------


def first(ask: Ask, row: Row, model: str, *, refused: bool = False) -> Step:
    """The first request; `refused`: this host has refused a native prefill of this model lately.

    Raises `PrefillRefused` where there is neither native support nor leave to ask in the prompt, `UsageError` on a
    conflict.
    """
    if not ask.prefill:
        host_stop, own_stop = stops(ask.stop, row, "", row.support)
        return Step(
            row=row,
            call=_call(ask, row, model, ask.messages, host_stop=host_stop),
            mode="none",
            support=row.support,
            known="",
            rules={"echo": "never"},
            stop=own_stop,
            show_when=ask.show_when or "accepted",
        )
    if ask.support is not None:
        row = row.forced(ask.support)
    if row.support is Support.UNSUPPORTED or (not row.native and ask.forbids_emulation):
        off = "" if row.support is Support.UNSUPPORTED else ask.forbids_emulation
        raise PrefillRefused(model, known_as=f"support table: {row.support.value}, evidence: {row.evidence}", off=off)
    if not row.native or (refused and not ask.forbids_emulation):
        return _emulated(ask, row, model)
    unknown = _conflict(ask, row)
    if unknown is None:
        return _native(ask, row, model)
    if ask.forbids_emulation:
        known_as = f"whether it goes with {unknown[1]} is not known"
        raise PrefillRefused(model, known_as=known_as, why=unknown[0], off=ask.forbids_emulation)
    return _emulated(ask, row, model)


def refusal_of(ask: Ask, row: Row, base_url: str, model: str) -> Refused:
    """What a refusal of this request would be about."""
    return Refused(row.codec, base_url, model, "thinking" in switched_on(ask))


def teaches(refusal: Refusal | None, fields: Mapping[str, Any]) -> bool:
    """Whether the next request with the same subject would meet this refusal again, so that it is worth remembering.

    Not where the request, `fields`, holds the refusal's own words: a host that quotes it says nothing about itself.
    """
    return refusal is not None and refusal.why in LASTING and not is_quoted(refusal, [fields])


def is_quoted(refusal: Refusal, values: Iterable[Any]) -> bool:
    """Whether the words of a refusal stand in these JSON values themselves, in a text or in a field's name."""
    words = flat(refusal.text)
    return any(words in flat(text) for text in texts_of(values, names=True))


def _conflict(ask: Ask, row: Row) -> tuple[str, str] | None:
    """A setting that is on and may not go together with a native prefill, and what the caller calls it.

    Raises `UsageError` where it is known not to. With `support=` the caller has answered what is unknown.
    """
    if not row.conflicts or (row.whitespace == "strip" and ask.prefill.isspace()):
        return None
    found = {name: spelled for name, spelled in switched_on(ask).items() if rule(row.conflicts, name)}
    for name, spelled in found.items():
        if rule(row.conflicts, name) == "breaks":
            raise UsageError(
                f"{row.provider} cannot combine a native prefill with {name}; switch {spelled} off, leave prefill out, "
                'or pass support="emulated" to have the prefill asked for in the prompt'
            )
    return None if ask.support is not None or not found else next(iter(found.items()))


def _native(ask: Ask, row: Row, model: str) -> Step:
    carried = carry(row, ask.messages, ask.prefill)
    rules: dict[str, Any] = {"stripped": carried.stripped}
    if row.support is Support.EATS:
        rules["echo"] = "never"
    else:
        rules["whitespace"] = row.whitespace_echo
    must_echo = ask.strict and row.support is Support.ECHOES and bool(carried.sent)
    host_stop, own_stop = stops(ask.stop, row, ask.prefill, row.support)
    return Step(
        row=row,
        call=_call(ask, row, model, carried.messages, carried.body_fields, host_stop=host_stop),
        mode="native",
        support=row.support,
        known=ask.prefill,
        rules=rules,
        stop=own_stop,
        show_when=ask.show_when or ("decided" if ask.strict or ask.absent != "join" else "accepted"),
        sends_prefill=bool(carried.sent),
        absent="raise" if must_echo else "join",
    )


def _emulated(ask: Ask, row: Row, model: str, *, again: bool = False) -> Step:
    assert ask.emulate is not None
    asked = emulate(ask.emulate, ask.messages, ask.prefill, again=again)
    fields: dict[str, Any] = {}
    if (
        row.prediction
        and asked.echo
        and ask.max_tokens is None
        and not ask.tools
        and not _NO_PREDICTION & ask.extra.keys()
    ):
        fields["prediction"] = {"type": "content", "content": asked.echo}
    host_stop, own_stop = stops(ask.stop, row, ask.prefill, Support.EMULATED)
    call = _call(ask, row, model, asked.messages, fields, host_stop=host_stop, more_tokens=asked.room)
    return Step(
        row=row,
        call=call,
        mode="emulated",
        support=Support.EMULATED,
        known=asked.known,
        rules=asked.rules,
        end=asked.end,
        end_rules=asked.end_rules,
        marker=asked.marker,
        stop=own_stop,
        show_when=ask.show_when or "decided",
        absent="join" if not asked.echo or (again and ask.absent == "retry") else ask.absent,
    )


def _call(
    ask: Ask,
    row: Row,
    model: str,
    messages: tuple[Message, ...],
    fields: Mapping[str, Any] | None = None,
    *,
    host_stop: tuple[str, ...],
    more_tokens: int = 0,
) -> Call:
    return Call(
        model=model,
        messages=messages,
        system=ask.system,
        max_tokens=_limit(ask, row, more_tokens),
        stop=host_stop,
        temperature=ask.temperature,
        thinking=ask.thinking,
        tools=ask.tools,
        response_format=ask.response_format,
        token_field=row.token_field,
        fields={**({} if row.asks_usage else {"stream_options": None}), **(fields or {}), **ask.extra},
    )


def _limit(ask: Ask, row: Row, more: int) -> int | None:
    """The token limit, with room for `more`; the number of a row with native models is the most that these can write."""
    limit = row.max_tokens if ask.max_tokens is None else ask.max_tokens
    return limit if limit is None or (ask.max_tokens is None and row.native) else limit + more


# --- stop sequences ---------------------------------------------------------------------------------------------


def _may_send(sequence: str, row: Row, known: str, support: Support) -> bool:
    """Whether the host may be told: not if it could take known text, or known and new text together, for a match.

    Where the echo was asked for, it may come in a fence or behind white space, which must not stop the host either.
    """
    if not row.sends_stop or (not row.blank_stop and sequence.isspace()):
        return False
    if _straddles(sequence, known):
        return False
    if not known or support is Support.EATS:
        return True
    if support is Support.EMULATED and (
        "`" in sequence or not sequence.isprintable() or sequence.isspace() or sequence.casefold() in _OPENERS
    ):
        return False
    if support is Support.EMULATED or row.whitespace_echo:
        # the echo may have other white space than known has
        sequence, known = "".join(sequence.split()), "".join(known.split())
        if _straddles(sequence, known):
            return False
    return sequence not in known


def _straddles(sequence: str, known: str) -> bool:
    return any(known.endswith(sequence[:n]) for n in range(1, len(sequence)))


def stops(wanted: tuple[str, ...], row: Row, known: str, support: Support) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sequences that the host is told, and those that are applied here."""
    told = tuple([s for s in wanted if _may_send(s, row, known, support)][: row.max_stop])
    return told, tuple(s for s in wanted if s not in told)


# --- the next request -------------------------------------------------------------------------------------------


def after(ask: Ask, past: Past, chance: float) -> Step | None:
    """What to send after a failure; None: nothing, the error is the caller's. `chance` is from 0 to 1.

    A refusal is answered by asking in the prompt, a missing echo by asking again if the caller wants that, and a
    failure that may pass by the same request again.
    """
    step, error = past.step, past.error
    if isinstance(error, PrefillRefused):
        if step.mode != "native" or ask.forbids_emulation:
            return None
        try:
            return _emulated(ask, step.row, step.call.model)
        except UsageError as why_not:
            error.add_note(f"It was not asked for in the prompt: {why_not}")
            return None
    if isinstance(error, PrefillIgnored):
        if step.absent != "retry" or past.has_tool:
            return None
        return _emulated(ask, step.row, step.call.model, again=True)
    recovery = ask.recovery
    if past.has_token or past.retries >= recovery.retries or not may_pass(error):
        return None
    wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * GROWTH**past.retries) * (1 - JITTER * chance)
    asked_s = error.retry_after_s if isinstance(error, StatusError) else None
    if asked_s is not None and asked_s > recovery.max_wait_s:
        return None
    wait_s = asked_s or min(wait_s, recovery.max_wait_s)
    return replace(step, wait_s=wait_s) if wait_s < past.left_s else None


def may_pass(error: AprefillError) -> bool:
    """Whether the same request may well succeed a little later."""
    if isinstance(error, StatusError):
        return error.status in {408, 409, 429} or error.status >= 500
    if isinstance(error, Stalled):
        return error.clock == "connect_s"
    return error.may_pass if isinstance(error, ConnectFailed) else isinstance(error, Truncated)

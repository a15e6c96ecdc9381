"""Decides on the first request of a reply, and builds the requests that carry a known text. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .._codecs import codec
from .._deltas import Message, ModelInput
from .._errors import (
    PrefillRefused,
    UsageError,
)
from .._hosts.prefill import attach_prefill, sendable
from .._hosts.refusals import RefusalKey
from .._seam.plan import SeamPlan
from .._types import Support
from .._words import Words
from .conflicts import conflict, switched_on
from .emulate import emulate
from .step import AttemptPlan
from .stops import stops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._hosts.row import SupportRow
    from .._hosts.target import Target
    from .request import Request


class Way(NamedTuple):
    """What all requests to one host have in common: the target, its transport, and the source of random names."""

    target: Target
    transport: Callable[[], Any]
    token: Callable[[], str]

    @property
    def model(self) -> str:
        return self.target.model


def plan_first(request: Request, known: str, way: Way, *, is_refused: bool = False) -> AttemptPlan:
    """Return the first request for a reply that begins with `known`.

    With `is_refused`, the host has lately refused a native prefill for this model. Raises `PrefillRefused` if there is
    no native support and emulation is forbidden, and `UsageError` if settings conflict.
    """
    row, model = way.target.row, way.target.model
    if not known:
        host_stop, own_stop = stops(request.stop, row, "", row.support)
        return AttemptPlan(
            target=way.target,
            transport=way.transport,
            row=row,
            model_input=_model_input(request, row, model, request.messages, host_stop=host_stop),
            mode="none",
            support=row.support,
            seam=SeamPlan(""),
            stop=own_stop,
            show_when=request.show_when or "accepted",
        )
    if request.support is not None:
        row = row.with_support(request.support)
    if row.support is Support.UNSUPPORTED or (not row.native and request.forbids_emulation):
        off = "" if row.support is Support.UNSUPPORTED else request.forbids_emulation
        raise PrefillRefused(model, known_as=f"support table: {row.support.value}, evidence: {row.evidence}", off=off)
    if not row.native or (is_refused and not request.forbids_emulation):
        return plan_emulated(request, known, way, row)
    unknown = _conflict(request, known, row)
    if unknown is None:
        return _native(request, known, way, row)
    if request.forbids_emulation:
        known_as = f"it is not known to work with {unknown[1]}"
        raise PrefillRefused(model, known_as=known_as, why=unknown[0], off=request.forbids_emulation)
    return plan_emulated(request, known, way, row)


def refusal_key(request: Request, row: SupportRow, base_url: str, model: str) -> RefusalKey:
    """Return the key under which a refusal of this request is remembered."""
    return RefusalKey(row.codec, base_url, model, "thinking" in switched_on(request, codec(row.codec)))


def _conflict(request: Request, known: str, row: SupportRow) -> tuple[str, str] | None:
    """Return a setting that is on and may conflict with a native prefill, and the caller's name for it.

    Raises `UsageError` if the conflict is certain. With `support=`, conflicts that are only possible are ignored,
    because the caller knows better.
    """
    if not row.conflicts or not sendable(row, known):
        return None
    found = conflict(row, switched_on(request, codec(row.codec)))
    if found is None:
        return None
    word, name, spelled = found
    if word == "breaks":
        raise UsageError(
            f"{row.provider} cannot combine a native prefill with {name}",
            Words(
                "switch {spelled} off",
                "leave {prefill} out",
                "pass {support=emulated} to ask for the prefill in the prompt",
                spelled=spelled,
            ),
        )
    return None if request.support is not None else (name, spelled)


def _native(request: Request, known: str, way: Way, row: SupportRow) -> AttemptPlan:
    attached = attach_prefill(row, request.messages, known)
    host_stop, own_stop = stops(request.stop, row, known, row.support)
    return AttemptPlan(
        target=way.target,
        transport=way.transport,
        row=row,
        model_input=_model_input(request, row, way.model, attached.messages, attached.body_fields, host_stop=host_stop),
        mode="native",
        support=row.support,
        seam=attached.seam,
        stop=own_stop,
        show_when=request.show_when or ("decided" if request.strict or request.absent != "join" else "accepted"),
        sends_prefill=bool(attached.sent),
        absent="raise" if request.strict and attached.must_echo else "join",
    )


def plan_emulated(request: Request, known: str, way: Way, row: SupportRow, *, again: bool = False) -> AttemptPlan:
    """Return a request whose prompt asks for `known`. With `again`, use the wording for a reply without the echo.

    Raises `UsageError` if the messages have no place for that.
    """
    assert request.emulate is not None
    emulated = emulate(request.emulate, request.messages, known, codec=codec(row.codec), token=way.token, again=again)
    host_stop, own_stop = stops(request.stop, row, known, Support.EMULATED)
    model_input = _model_input(
        request,
        row,
        way.model,
        emulated.messages,
        host_stop=host_stop,
        more_tokens=emulated.room,
        prediction=emulated.echo if row.prediction else "",
    )
    return AttemptPlan(
        target=way.target,
        transport=way.transport,
        row=row,
        model_input=model_input,
        mode="emulated",
        support=Support.EMULATED,
        seam=emulated.seam,
        marker=emulated.marker,
        stop=own_stop,
        show_when=request.show_when or "decided",
        absent="join" if not emulated.echo or (again and request.absent == "retry") else request.absent,
    )


def _model_input(
    request: Request,
    row: SupportRow,
    model: str,
    messages: tuple[Message, ...],
    fields: Mapping[str, Any] | None = None,
    *,
    host_stop: tuple[str, ...],
    more_tokens: int = 0,
    prediction: str = "",
) -> ModelInput:
    return ModelInput(
        model=model,
        messages=messages,
        system=request.system,
        max_tokens=_limit(request, row, more_tokens),
        stop=host_stop,
        temperature=request.temperature,
        thinking=request.thinking,
        tools=request.tools,
        response_format=request.response_format,
        token_field=row.token_field,
        asks_usage=row.asks_usage,
        prediction=prediction,
        fields=dict(fields or {}),
        extra=request.extra,
    )


def _limit(request: Request, row: SupportRow, more: int) -> int | None:
    """Return the token limit plus `more`. Nothing is added to the default of native models: it is their maximum."""
    limit = row.max_tokens if request.max_tokens is None else request.max_tokens
    return limit if limit is None or (request.max_tokens is None and row.native) else limit + more

"""What one model on one host does with a prefill."""

# Imported at run time, so that `typing.get_type_hints` works on what is public.
# ruff: noqa: TC003
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._types import Support

_NATIVE = frozenset({Support.EATS, Support.ECHOES})


@dataclass(frozen=True, slots=True)
class KnownRefusal:
    """An error that means: the prefill was refused.

    `why` is ``"model"`` when the model takes none at all; ``"thinking"``, ``"tools"``, ``"whitespace"`` or
    ``"flags"`` when it was this request, so nothing is learned about the model.
    """

    #: the HTTP status that it was first seen with; it is known with every other one from 400 to 499 too
    status: int
    text: str
    why: str
    #: fields that only the caller can have meant: where the caller set one of them, the error is about that
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportRow:
    """What one (provider, api, model) does with a prefill, and how to reach it.

    The fields that carry a prefill are those of a native one, also where the host is not known to take any: they
    are what `with_support()` needs. Only `attach_prefill()` uses them.
    """

    provider: str
    #: "chat", "messages", "responses", "completions" or "native"
    api: str
    #: the patterns this row stands for; ("*",): every model that no other row of the host names
    models: tuple[str, ...] = ("*",)
    codec: str
    #: "" where the caller must give one
    base_url: str
    key_env: tuple[str, ...]
    key_required: bool
    #: the variable from which the host's SDK takes another base URL, and the one that holds a bearer token where no key
    #: is set; "": none
    url_env: str = ""
    token_env: str = ""
    #: the SDK's client that knows where this host is, where it has no URL of its own; and whether nothing else can ask there,
    #: because that client writes the model into the URL or signs the request
    sdk: str = ""
    sdk_alone: bool = False
    #: "bearer", "x-api-key", "api-key" or "none"
    auth: str
    headers: Mapping[str, str]
    #: sent when the caller gives none, where the API demands one
    max_tokens: int | None
    token_field: str
    #: the codec's end rule
    end: str
    #: chat completions: the usage must be asked for; false where the host refuses the field that asks
    asks_usage: bool
    #: whether stop sequences may be sent at all, and one of white space; how many, None: no known limit
    sends_stop: bool = True
    blank_stop: bool = True
    max_stop: int | None = None
    #: takes a `prediction`, which makes the repetition of an emulated prefill faster
    prediction: bool = False
    support: Support
    #: `native_dialect`, or "prompt" without native support
    dialect: str
    #: "trailing", "prefix", "partial" or "continue_final_message"
    native_dialect: str = "trailing"
    #: fields of the trailing turn beside role and content
    turn_fields: Mapping[str, Any]
    #: fields of the body with a prefill: switches, and what must be off
    body_fields: Mapping[str, Any]
    #: in place of `base_url` when a trailing turn is sent
    prefill_base_url: str | None
    #: "keep"; or "strip": white space at the prefill's end is not sent, the host refuses or drops it
    whitespace: str
    #: the echo's white space may differ from the prefill's
    whitespace_echo: bool
    #: request setting -> "breaks" or "unknown", together with a native prefill
    conflicts: Mapping[str, str]
    #: every refusal that any host is known to answer with, this host's own first: gateways quote their upstream
    refusals: tuple[KnownRefusal, ...]
    #: "recording", "engine", "doc", "issue"; "guess" and "unknown" count as unknown; "caller": see `with_support()`
    evidence: str
    source: str
    #: when the source was looked at, ISO; "" for unknown
    date: str
    #: what a "guess" row supposes; `support` does not believe it
    guess: Support | None = None
    note: str = ""

    @property
    def native(self) -> bool:
        """Whether the host takes a prefill."""
        return self.support in _NATIVE

    def with_support(self, support: Support) -> SupportRow:
        """This row with the caller's word, `support=`, in place of the table's."""
        return _believing(self, support, evidence="caller", source="", date="", guess=None, note="")


def _believing(row: SupportRow, support: Support, **more: Any) -> SupportRow:
    """`row` with this support and the dialect that goes with it; with `more` fields changed in the same copy."""
    dialect = row.native_dialect if support in _NATIVE else "prompt"
    return replace(row, support=support, dialect=dialect, **more)

"""A row of the support table: what one model on one host does with a prefill."""

# These names are imported at run time, so that `typing.get_type_hints` works on the public classes.
# ruff: noqa: TC003
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._types import Support

_NATIVE = frozenset({Support.EATS, Support.ECHOES})


@dataclass(frozen=True, slots=True)
class KnownRefusal:
    """An error text which means that the host refused the prefill.

    `why` is ``"model"`` if the model never takes a prefill. Otherwise it names the part of the request that was the
    reason: ``"thinking"``, ``"tools"``, ``"whitespace"`` or ``"flags"`` (the switches in the request for the prefill).
    """

    #: The HTTP status with which it was first seen. It is recognized with every status from 400 to 499.
    status: int
    text: str
    why: str
    #: Names of body fields. If the caller has set one of them, the error is about that field and not about the prefill.
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportRow:
    """What one model does with a prefill, on one host with one API, and how to reach the host.

    The fields that say how to send a native prefill are set even if the host is not known to take one, because
    `with_support()` needs them. The *dialect* is the wire form of a native prefill: how the request asks the host to
    continue an assistant turn.
    """

    provider: str
    #: "chat", "messages", "responses", "completions" or "native".
    api: str
    #: The patterns of model names that this row covers. ("*",): every model that no other row of the host covers.
    models: tuple[str, ...] = ("*",)
    codec: str
    #: The usual URL of the API. "" if the caller must give one.
    base_url: str
    #: Environment variables with the key. The first one that is set counts.
    key_env: tuple[str, ...]
    #: Whether a request needs a key.
    key_required: bool
    #: The environment variable from which the host's SDK reads another base URL. "": there is none.
    url_env: str = ""
    #: The environment variable with a bearer token, which is used if no key is set. "": there is none.
    token_env: str = ""
    #: The SDK's client that knows the URL of this host, if `base_url` is "".
    sdk: str = ""
    #: Whether only that client can send requests, because it writes the model into the URL or signs the request.
    sdk_alone: bool = False
    #: "bearer", "x-api-key", "api-key" or "none".
    auth: str
    headers: Mapping[str, str]
    #: Sent if the caller gives no limit, for an API that requires one.
    max_tokens: int | None
    #: The name of the body field for the token limit, if the hosts of the protocol differ in it.
    token_field: str
    #: The name of the codec's rule for a complete reply, such as "strict".
    end: str
    #: Whether the request asks for usage, if the protocol has a field for that. False if the host refuses this field.
    asks_usage: bool
    #: Whether the host takes stop sequences.
    sends_stop: bool = True
    #: Whether the host takes a stop sequence of only white space.
    blank_stop: bool = True
    #: Maximum number of stop sequences. None: no known limit.
    max_stop: int | None = None
    #: Whether the host takes a `prediction`, with which the repetition of an emulated prefill is faster.
    prediction: bool = False
    support: Support
    #: The value of `native_dialect`, or "prompt" without native support.
    dialect: str
    #: "trailing" (an assistant turn at the end of the messages), "prefix" or "partial" (that turn with this flag), or
    #: "continue_final_message" (that turn, and this flag in the body).
    native_dialect: str = "trailing"
    #: More fields of that assistant turn, besides role and content.
    turn_fields: Mapping[str, Any]
    #: More fields of the body of a request with a prefill: switches, and settings that must be off.
    body_fields: Mapping[str, Any]
    #: Used instead of `base_url` if an assistant turn with the prefill is sent.
    prefill_base_url: str | None
    #: "keep", or "strip": white space at the end of the prefill is not sent, because the host refuses or drops it.
    whitespace: str
    #: Whether the white space of the echo may differ from the prefill's.
    whitespace_echo: bool
    #: Setting of the request -> "breaks" or "unknown": what happens if it is combined with a native prefill.
    conflicts: Mapping[str, str]
    #: All known refusals of all hosts, because gateways quote their upstream host. This host's own come first.
    refusals: tuple[KnownRefusal, ...]
    #: "recording", "engine", "doc" or "issue"; "guess" or "unknown", which both count as unknown; or "caller", after
    #: `with_support()`.
    evidence: str
    source: str
    #: When the source was read, as an ISO date. "" if unknown.
    date: str
    #: The support that a row with evidence "guess" supposes. It is not used: `support` is then "emulated".
    guess: Support | None = None
    note: str = ""

    @property
    def native(self) -> bool:
        """Whether the host takes a native prefill."""
        return self.support in _NATIVE

    def with_support(self, support: Support) -> SupportRow:
        """Return this row with the caller's `support=` instead of the table's."""
        return _believing(self, support, evidence="caller", source="", date="", guess=None, note="")


def _believing(row: SupportRow, support: Support, **more: Any) -> SupportRow:
    """Return `row` with this support and the matching dialect. `more` are other fields to change."""
    dialect = row.native_dialect if support in _NATIVE else "prompt"
    return replace(row, support=support, dialect=dialect, **more)

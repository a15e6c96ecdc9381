"""What each host does with a prefill, and how a prefill travels there.

The knowledge is in `models.toml`, read once, at the first question; this module reads and checks it, finds the
row for a model, and builds the trailing turn. Pure: it decides nothing that only the host's bytes can tell.
"""

# Imported at run time, so that `typing.get_type_hints` works on what is public.
# ruff: noqa: TC003
from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ._errors import UsageError
from ._schema import File, Host, Manner, Model, RefusalText, address, addresses, convert, flat
from ._types import Support

if TYPE_CHECKING:
    from ._types import Message

#: The field that is the dialect: on the turn, or in the body.
_TURN_SWITCH: dict[str, dict[str, Any]] = {"prefix": {"prefix": True}, "partial": {"partial": True}}
_BODY_SWITCH: dict[str, dict[str, Any]] = {"continue_final_message": {"continue_final_message": True}}


@dataclass(frozen=True, slots=True)
class Refusal:
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
class Row:
    """What one (provider, api, model) does with a prefill, and how to reach it.

    The fields that carry a prefill are those of a native one, also where the host is not known to take any: they
    are what `forced()` needs. Only `carry()` uses them.
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
    refusals: tuple[Refusal, ...]
    #: "recording", "engine", "doc", "issue"; "guess" and "unknown" count as unknown; "caller": see `forced()`
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
        return self.support in {Support.EATS, Support.ECHOES}

    def forced(self, support: Support) -> Row:
        """This row with the caller's word, `support=`, in place of the table's."""
        return replace(_believing(self, support), evidence="caller", source="", date="", guess=None, note="")


def _believing(row: Row, support: Support) -> Row:
    row = replace(row, support=support)
    return replace(row, dialect=row.native_dialect if row.native else "prompt")


# --- the table -----------------------------------------------------------------------------------------------


class Table:
    """The support table: `row()` for one model, `rows()` for all that is known.

    `Table.load()` gives the built-in one with the caller's rows in front of it.
    """

    __slots__ = ("_addresses", "_found", "_rows")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        file = convert(raw, File)
        known = {name: convert(one, RefusalText, f"refusal {name}") for name, one in file.refusal.items()}
        refusals = {name: Refusal(one.status, one.text, one.why, tuple(one.unless)) for name, one in known.items()}
        #: by (provider, api), in the order in which they are tried; the last is any other model's
        self._rows: dict[tuple[str, str], tuple[Row, ...]] = {}
        self._addresses: dict[str, str] = {}
        self._found: dict[tuple[str, str, str | None], Row] = {}
        for one in file.host:
            where = _name(one)
            host = convert(one, Host, where)
            if missing := [name for name in host.refusals if name not in refusals]:
                raise UsageError(f"support table, {where}: key `refusals`: there is no [refusal.{missing[0]}]")
            rest = _rest(host, tuple(refusals[name] for name in dict.fromkeys([*host.refusals, *refusals])))
            shared = {key: one[key] for key in Manner.__struct_fields__ if key in one}
            rows = [
                _row(rest, convert(shared | entry, Model, f"{where}, model entry {number} {entry.get('match', '')}"))
                for number, entry in enumerate(host.model, 1)
            ]
            covered = any("*" in row.models for row in rows)
            self._rows[host.provider, host.api] = tuple(rows if covered else [*rows, rest])
            for where_found in addresses(host):
                self._addresses[where_found] = host.provider

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Table:
        """The built-in table with the caller's rows over it, from a file or from TOML text.

        A str without a line end is a path. A [[host]] that exists needs only the keys that differ; its model
        entries come before the built-in ones. Raises `UsageError` that names the row and the key.
        """
        try:
            if isinstance(source, os.PathLike) or "\n" not in source:
                with open(source, "rb") as file:
                    over = tomllib.load(file)
            else:
                over = tomllib.loads(source)
        except (OSError, ValueError) as exc:
            raise UsageError(f"support table: cannot read it: {exc}") from exc
        return cls(_merge(_builtin_raw(), over))

    @property
    def providers(self) -> tuple[str, ...]:
        """Every provider's name, in the table's order."""
        return tuple(dict.fromkeys(provider for provider, _ in self._rows))

    def apis(self, provider: str) -> tuple[str, ...]:
        """The apis of one provider, its default one first; none for an unknown one."""
        return tuple(api for owner, api in self._rows if owner == provider)

    def rows(self) -> tuple[Row, ...]:
        """All rows, host by host, in the order in which they are tried; the last of a host covers the rest."""
        return tuple(row for rows in self._rows.values() for row in rows)

    def row(self, provider: str, model: str, api: str | None = None) -> Row:
        """The row for one model. `api=None`: the provider's default api. Raises `UsageError` for unknown names."""
        found = self._found.get((provider, model, api))
        if found is not None:
            return found
        apis = self.apis(provider)
        if not apis:
            raise UsageError(f"unknown provider {provider!r}; known are {', '.join(self.providers)}")
        if api is not None and api not in apis:
            raise UsageError(f"{provider} has no api {api!r}; it has {', '.join(apis)}")
        name = model.lower()
        rows = self._rows[provider, api or apis[0]]
        row = next(row for row in rows if any(fnmatchcase(name, pattern) for pattern in row.models))
        if len(self._found) < 1024:  # a service that passes its users' model names on must not grow it for ever
            self._found[provider, model, api] = row
        return row

    def provider_of_url(self, base_url: str) -> str | None:
        """The provider whose host `base_url` names, or None. The whole host name counts, never a part of it."""
        return self._addresses.get(address(base_url))


def _manner(how: Manner) -> dict[str, Any]:
    return {
        "native_dialect": how.dialect,
        "turn_fields": MappingProxyType(_TURN_SWITCH.get(how.dialect, {}) | how.turn_fields),
        "body_fields": MappingProxyType(_BODY_SWITCH.get(how.dialect, {}) | how.body_fields),
        "prefill_base_url": how.prefill_base_url,
        "whitespace": how.whitespace,
        "whitespace_echo": how.whitespace_echo,
        "conflicts": MappingProxyType(how.conflicts),
        "sends_stop": how.sends_stop,
        "blank_stop": how.blank_stop,
        "max_stop": how.max_stop,
        "prediction": how.prediction,
    }


def _rest(host: Host, refusals: tuple[Refusal, ...]) -> Row:
    """The row of the models that no entry names."""
    return Row(
        provider=host.provider,
        api=host.api,
        codec=host.codec,
        base_url=host.base_url,
        key_env=tuple(host.key_env),
        key_required=host.key_required,
        auth=host.auth,
        headers=MappingProxyType(host.headers),
        max_tokens=host.max_tokens,
        token_field=host.token_field,
        end=host.end,
        asks_usage=host.asks_usage,
        support=Support.EMULATED,
        dialect="prompt",
        refusals=refusals,
        evidence="unknown",
        source="",
        date="",
        **_manner(host),
    )


def _row(rest: Row, model: Model) -> Row:
    guess = model.support if model.evidence == "guess" else None
    row = replace(
        rest,
        models=tuple(model.match),
        evidence=model.evidence,
        source=model.source,
        date=model.date.isoformat(),
        guess=guess,
        note=model.note,
        **_manner(model),
    )
    return _believing(row, Support.EMULATED if guess else model.support)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    hosts = {(one["provider"], one["api"]): one for one in base["host"]}
    for one in convert(over, File).host:
        if not {"provider", "api"} <= one.keys():
            raise UsageError(f"support table, {_name(one)}: keys `provider` and `api` say which host this is")
        known = hosts.get(key := (str(one["provider"]), str(one["api"])), {})
        models = one.get("model", [])
        if isinstance(models, list):  # else the schema says what is wrong
            models = [*models, *known.get("model", [])]
        hosts[key] = {**known, **one, "model": models}
    return {"host": list(hosts.values()), "refusal": base["refusal"] | over.get("refusal", {})}


def _name(host: Mapping[str, Any]) -> str:
    return f"host {host.get('provider', '?')}/{host.get('api', '?')}"


@cache
def _builtin_raw() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("aprefill").joinpath("models.toml").read_text("utf-8"))


@cache
def builtin_table() -> Table:
    """The table of `models.toml`, read at the first call."""
    return Table(_builtin_raw())


def support_table() -> tuple[Row, ...]:
    """What is known about every host, as rows with their evidence, source and date.

    Rows stand in the order in which they are tried; the last row of a host is what happens to any other model.
    A row with evidence ``"guess"`` counts as unknown: see its `guess`.
    """
    return builtin_table().rows()


# --- use -----------------------------------------------------------------------------------------------------------


def split_model(text: str, known: Iterable[str]) -> tuple[str | None, str]:
    """``(provider, name)`` of ``"provider:name"``; the provider is None unless `known` has it.

    >>> split_model("ollama:llama3.2:1b", ["ollama"]), split_model("llama3.2:1b", ["ollama"])
    (('ollama', 'llama3.2:1b'), (None, 'llama3.2:1b'))
    """
    left, colon, right = text.partition(":")
    return (left, right) if colon and left in known else (None, text)


class Carried(NamedTuple):
    """A prefill on its way: the messages, what to add to the body, and what of the prefill was sent.

    ``sent + stripped`` is the prefill. With `sent` empty no trailing turn went out.
    """

    messages: tuple[Message, ...]
    body_fields: dict[str, Any]
    sent: str
    stripped: str


def carry(row: Row, messages: Sequence[Message], prefill: str) -> Carried:
    """`messages` with the trailing turn for `prefill`, as a native `row` wants it. The input is left alone.

    A prefill of which nothing is left to send (empty, or white space only on a host that takes none at the end)
    adds no turn and no fields: the request is then an ordinary one, to `base_url`, and `stripped` lets the seam
    drop the white space should the model begin with it. The content is always a str: SGLang ignores a list.
    Raises `UsageError` if `messages` end with an assistant turn already, `ValueError` if `row` is not native.
    """
    sent = prefill.rstrip() if row.whitespace == "strip" else prefill
    stripped = prefill[len(sent) :]
    if not sent:
        return Carried(tuple(messages), {}, "", stripped)
    if not row.native:
        raise ValueError(f"{row.provider} takes no native prefill here; nothing to carry")
    if messages and messages[-1].get("role") == "assistant":
        # Two in a row: llama.cpp answers 400, Anthropic and Ollama merge them (Ollama with a blank line between).
        raise UsageError("the messages end with an assistant turn and there is a prefill too; give one of them")
    turn: Message = {"role": "assistant", "content": sent, **_copy(row.turn_fields)}
    return Carried((*messages, turn), _copy(row.body_fields), sent, stripped)


def _copy(fields: Mapping[str, Any]) -> dict[str, Any]:
    return deepcopy(dict(fields)) if fields else {}


def refusal(row: Row, status: int, error_text: str, given: Collection[str] = ()) -> Refusal | None:
    """The known refusal that this error is, or None.

    Known with any status from 400 to 499, and with 200: an error inside the stream, or in its place, before any text.
    Give the whole error body where there is one: gateways nest the upstream's words deep inside it. `given` are the
    body's fields that the caller set.
    """
    if status != 200 and not 400 <= status < 500:
        return None
    text = flat(error_text)
    return next((r for r in row.refusals if flat(r.text) in text and not any(name in given for name in r.unless)), None)

"""The support table: what each host does with a prefill, and how to send a prefill to it.

The data is in `models.toml`, which is read once, on first use. This module loads and checks it, and finds the row for a
model. Pure: it decides nothing that only the host's response can show.
"""

# These names are imported at run time, so that `typing.get_type_hints` works on the public classes.
# ruff: noqa: TC003
from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from .._codecs import PROTOCOLS, codec
from .._codecs._dialects import DIALECTS
from .._errors import UsageError
from .._types import Support
from .row import KnownRefusal, SupportRow, _believing
from .schema import File, Host, Manner, Model, RefusalText, address, addresses, convert

# --- the table -----------------------------------------------------------------------------------------------


class SupportTable:
    """The support table. `row()` finds the row for one model, and `rows()` returns all rows.

    `SupportTable.load()` returns the built-in table with the caller's rows before it.
    """

    __slots__ = ("_addresses", "_apis", "_found", "_providers", "_rows")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        file = convert(raw, File)
        texts = {name: convert(one, RefusalText, f"refusal {name}") for name, one in file.refusal.items()}
        refusals = {name: KnownRefusal(one.status, one.text, one.why, tuple(one.unless)) for name, one in texts.items()}
        #: (provider, api) -> its rows, in the order in which they are tried. The last one covers all other models.
        self._rows: dict[tuple[str, str], tuple[SupportRow, ...]] = {}
        self._addresses: dict[str, str] = {}
        self._found: dict[tuple[str, str, str | None], SupportRow] = {}
        for one in file.host:
            where = _name(one)
            host = convert(one, Host, where)
            if host.codec not in PROTOCOLS:
                raise UsageError(
                    f"support table, {where}: key `codec`: no protocol is named {host.codec!r}, it is one of "
                    f"{', '.join(PROTOCOLS)}"
                )
            if missing := [name for name in host.refusals if name not in refusals]:
                raise UsageError(
                    f"support table, {where}: key `refusals`: there is no [refusal.{missing[0]}]",
                    "add it, or take its name out of the key",
                )
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
        apis: dict[str, list[str]] = {}
        for provider, api in self._rows:
            apis.setdefault(provider, []).append(api)
        self._apis = {provider: tuple(its) for provider, its in apis.items()}
        self._providers = tuple(apis)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> SupportTable:
        """Return the built-in table, overridden by the caller's rows from a file or from TOML text.

        A str without a line end is a path. For a [[host]] that exists already, only the keys that differ are needed.
        Its new model entries come before the built-in ones. Raises `UsageError`, which names the row and the key.
        """
        try:
            if isinstance(source, os.PathLike) or "\n" not in source:
                with open(source, "rb") as file:
                    over = tomllib.load(file)
            else:
                over = tomllib.loads(source)
        except (OSError, ValueError) as exc:
            raise UsageError(f"support table: cannot read it: {exc}") from exc
        table = cls(_merge(_builtin_raw(), over))
        for rows in table._rows.values():
            _check_end_rule(rows[-1])
        return table

    @property
    def providers(self) -> tuple[str, ...]:
        """The names of all providers, in the table's order."""
        return self._providers

    def apis(self, provider: str) -> tuple[str, ...]:
        """Return the apis of one provider, the default api first. Empty if the provider is unknown."""
        return self._apis.get(provider, ())

    def rows(self) -> tuple[SupportRow, ...]:
        """Return all rows, host by host, in the order in which they are tried. A host's last row covers all others."""
        return tuple(row for rows in self._rows.values() for row in rows)

    def row(self, provider: str, model: str, api: str | None = None) -> SupportRow:
        """Return the row for one model. `api=None` is the provider's default. Raises `UsageError` for unknown names."""
        found = self._found.get((provider, model, api))
        if found is not None:
            return found
        apis = self.apis(provider)
        if not apis:
            raise UsageError(f"unknown provider {provider!r}", f"use one of {', '.join(self.providers)}")
        if api is not None and api not in apis:
            raise UsageError(f"{provider} has no api {api!r}", f"use one of {', '.join(apis)}")
        name = model.lower()
        rows = self._rows[provider, api or apis[0]]
        row = next(row for row in rows if any(fnmatchcase(name, pattern) for pattern in row.models))
        if len(self._found) < 1024:  # bounded: a service may pass on any model name that its users send
            self._found[provider, model, api] = row
        return row

    def provider_of_url(self, base_url: str) -> str | None:
        """Return the provider whose host `base_url` names, or None. The whole host name must match."""
        return self._addresses.get(address(base_url))


def _manner(how: Manner) -> dict[str, Any]:
    fields = DIALECTS[how.dialect]
    return {
        "native_dialect": how.dialect,
        "turn_fields": MappingProxyType(fields.turn | how.turn_fields),
        "body_fields": MappingProxyType(fields.body | how.body_fields),
        "prefill_base_url": how.prefill_base_url,
        "whitespace": how.whitespace,
        "whitespace_echo": how.whitespace_echo,
        "conflicts": MappingProxyType(how.conflicts),
        "sends_stop": how.sends_stop,
        "blank_stop": how.blank_stop,
        "max_stop": how.max_stop,
        "prediction": how.prediction,
    }


def _rest(host: Host, refusals: tuple[KnownRefusal, ...]) -> SupportRow:
    """Return the row for the models that no entry covers."""
    return SupportRow(
        provider=host.provider,
        api=host.api,
        codec=host.codec,
        base_url=host.base_url,
        key_env=tuple(host.key_env),
        key_required=host.key_required,
        url_env=host.url_env,
        token_env=host.token_env,
        sdk=host.sdk,
        sdk_alone=host.sdk_alone,
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


def _row(rest: SupportRow, model: Model) -> SupportRow:
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


def _check_end_rule(row: SupportRow) -> None:
    """Raise `UsageError` if the host's protocol has no such end rule. A strict rule needs no import of the codec."""
    if row.end != "strict" and row.end not in (rules := codec(row.codec).end_rules):
        raise UsageError(
            f"support table, host {row.provider}/{row.api}: key `end`: {row.codec} has no end rule {row.end!r}",
            f"use one of {', '.join(map(repr, rules))}",
        )


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    hosts = {(one["provider"], one["api"]): one for one in base["host"]}
    for one in convert(over, File).host:
        if not {"provider", "api"} <= one.keys():
            raise UsageError(
                f"support table, {_name(one)}: nothing says which host this is", "set the keys `provider` and `api`"
            )
        existing = hosts.get(key := (str(one["provider"]), str(one["api"])), {})
        models = one.get("model", [])
        if isinstance(models, list):  # otherwise the schema reports the error
            models = [*models, *existing.get("model", [])]
        hosts[key] = {**existing, **one, "model": models}
    return {"host": list(hosts.values()), "refusal": base["refusal"] | over.get("refusal", {})}


def _name(host: Mapping[str, Any]) -> str:
    return f"host {host.get('provider', '?')}/{host.get('api', '?')}"


@cache
def _builtin_raw() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("aprefill._hosts").joinpath("models.toml").read_text("utf-8"))


@cache
def builtin_table() -> SupportTable:
    """Return the table of `models.toml`, which is read at the first call."""
    return SupportTable(_builtin_raw())


def support_table() -> tuple[SupportRow, ...]:
    """Return what is known about every host, as rows with their evidence, source and date.

    The rows are in the order in which they are tried. The last row of a host covers all other models. A row with
    evidence ``"guess"`` counts as unknown: see its `guess`.
    """
    return builtin_table().rows()


# --- use -----------------------------------------------------------------------------------------------------------


def split_model(text: str, providers: Iterable[str]) -> tuple[str | None, str]:
    """Split ``"provider:name"`` into ``(provider, name)``. The provider is None unless it is in `providers`.

    >>> split_model("ollama:llama3.2:1b", ["ollama"]), split_model("llama3.2:1b", ["ollama"])
    (('ollama', 'llama3.2:1b'), (None, 'llama3.2:1b'))
    """
    left, colon, right = text.partition(":")
    return (left, right) if colon and left in providers else (None, text)

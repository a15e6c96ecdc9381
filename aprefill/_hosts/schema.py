"""The schema of `models.toml`, checked by msgspec. Errors name the row and the key."""

from __future__ import annotations

import re
from datetime import date as Date
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from .._codecs._dialects import Dialect  # noqa: TC001 - msgspec needs it at run time
from .._errors import UsageError
from .._json import flat
from .._types import Support

if TYPE_CHECKING:
    from collections.abc import Iterable

_T = TypeVar("_T")
_Date: TypeAlias = Date  # msgspec needs it at run time


class Manner(Struct, kw_only=True, forbid_unknown_fields=True):
    dialect: Dialect = "trailing"
    turn_fields: dict[str, Any] = {}
    body_fields: dict[str, Any] = {}
    prefill_base_url: str | None = None
    whitespace: Literal["keep", "strip"] = "keep"
    whitespace_echo: bool = False
    conflicts: dict[
        Literal["thinking", "tools", "tool_choice", "response_format", "grammar"], Literal["breaks", "unknown"]
    ] = {}
    sends_stop: bool = True
    blank_stop: bool = True
    max_stop: int | None = None
    prediction: bool = False

    def __post_init__(self) -> None:
        if taken := self.turn_fields.keys() & {"role", "content"}:
            raise ValueError(f"turn_fields cannot set {min(taken)}")
        check_scheme("prefill_base_url", self.prefill_base_url)


class Model(Manner, kw_only=True, forbid_unknown_fields=True):
    match: list[str]
    support: Support
    evidence: Literal["recording", "engine", "doc", "issue", "guess"]
    source: str
    date: _Date
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.match or not all(p and p == p.lower() for p in self.match):
            raise ValueError("match needs patterns in lower case, because model names are compared in lower case")
        if not self.source.strip():
            raise ValueError("source is empty; say where this is known from")
        if self.whitespace_echo and self.support is Support.EATS:
            raise ValueError(
                'whitespace_echo is for hosts that repeat the prefill, but support = "eats" means that the host leaves '
                "the prefill out of its reply"
            )


class Host(Manner, kw_only=True, forbid_unknown_fields=True):
    provider: str
    api: Literal["chat", "messages", "responses", "completions", "native"]
    codec: str
    base_url: str
    hosts: list[str] = []
    key_env: list[str] = []
    key_required: bool = True
    url_env: str = ""
    token_env: str = ""
    sdk: str = ""
    sdk_alone: bool = False
    auth: str
    headers: dict[str, str] = {}
    max_tokens: int | None = None
    token_field: Literal["max_tokens", "max_completion_tokens"] = msgspec.field(default="max_tokens")
    end: str = "strict"
    asks_usage: bool = True
    refusals: list[str] = []
    model: list[dict[str, Any]] = []

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", self.provider):
            raise ValueError("provider must be lower-case letters, digits and _.- (a colon would end it)")
        if not all(address(f"https://{name}") for name in self.hosts):
            raise ValueError("hosts must contain names such as api.example.com or localhost:8000")
        check_scheme("base_url", self.base_url)
        if not re.fullmatch(r"bearer|none|[a-z0-9]+(-[a-z0-9]+)+", self.auth):
            raise ValueError("auth is bearer, none, or the lower-case name of a header such as x-api-key")


class RefusalText(Struct, forbid_unknown_fields=True):
    status: int
    text: str
    why: Literal["model", "thinking", "tools", "whitespace", "flags"]
    source: str
    date: _Date
    unless: list[str] = []

    def __post_init__(self) -> None:
        if len(flat(self.text)) < 20:
            raise ValueError("text needs 20 characters or more, so that no other error matches it")


class File(Struct, forbid_unknown_fields=True):
    host: list[dict[str, Any]] = []
    refusal: dict[str, dict[str, Any]] = {}


def convert(raw: Any, to: type[_T], where: str = "the file") -> _T:
    try:
        return msgspec.convert(raw, to)
    except msgspec.ValidationError as exc:
        text, _, path = str(exc).partition(" - at `")
        key = path.partition("$")[2].strip("`.")
        hint = get_type_hints(to).get(re.split(r"[.\[]", key)[0])
        words = [word.value for word in Support] if hint is Support else get_args(hint)
        if words and all(isinstance(word, str) for word in words):
            text += f", it is one of {', '.join(words)}"
        raise UsageError(f"support table, {where}: {f'key `{key}`: ' if key else ''}{text}") from exc


def check_scheme(key: str, url: str | None) -> None:
    # Whether plain http is allowed is decided when a request is made, as for `base_url=`.
    if url and not url.startswith(("https://", "http://", "demo:")):
        raise ValueError(f"{key} must begin with https:// or http://")


def addresses(host: Host) -> Iterable[str]:
    """Return the addresses of a host. A port on localhost counts only if listed: any server may run there."""
    for url in (host.base_url, host.prefill_base_url):
        found = address(url or "")
        if found.rpartition(":")[0] not in {"", "localhost", "127.0.0.1", "::1"}:
            yield found
    yield from (address(f"https://{name}") for name in host.hosts)


def address(url: str) -> str:
    """Return ``host:port`` of a URL in lower case. ``""`` if the URL has no host."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return ""
    return f"{parts.hostname.rstrip('.')}:{port}" if parts.hostname else ""

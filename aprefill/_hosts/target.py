"""Finds the host, model and key of a request, from the arguments, the support table and the environment."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .._codecs import PROTOCOLS, codec
from .._errors import UsageError
from .._version import __version__
from .._words import Words
from .names import meant_by, parse
from .redact import Redactor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .clients import Client
    from .row import SupportRow
    from .table import SupportTable


#: Base URL of the built-in demo model. It uses no network and no key.
DEMO_SCHEME = "demo:"


@dataclass(frozen=True, slots=True)
class Target:
    """A host, a model and a key. The key is never shown: neither in the repr nor in errors raised here."""

    row: SupportRow
    model: str
    base_url: str
    #: Whether the connection may outlive the reply, because it belongs to a session's pool or to the caller's client.
    keep: bool
    #: Whether the caller gave the base URL, so that the URLs of the row are not used.
    own_url: bool = False
    _key: str = field(default="", repr=False)
    #: Whether the key is a token. A token is sent as `Authorization: Bearer`, whatever header the row uses for keys.
    is_token: bool = False
    #: More secrets to redact: those of an SDK's client.
    _secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def host(self) -> str:
        """The name of the host, for messages."""
        return urlsplit(self.base_url).hostname or self.base_url

    @property
    def port(self) -> int | None:
        """The port of the connection, for messages. None for the built-in model."""
        parts = urlsplit(self.base_url)
        return parts.port or {"http": 80, "https": 443}.get(parts.scheme)

    def url(self, path: str, *, with_prefill: bool) -> str:
        """Return the URL of the request. Some hosts take a prefill only at another base URL."""
        base = self.base_url
        if with_prefill and not self.own_url and self.row.prefill_base_url:
            base = self.row.prefill_base_url
        return base.rstrip("/") + path

    def headers(self) -> dict[str, str]:
        """Return the headers of the request, including the key."""
        protocol = codec(self.row.codec)
        headers = {
            "accept": protocol.accept,
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": f"aprefill/{__version__}",
            **self.row.headers,
        }
        if self._key and self.row.auth != "none":
            headers |= protocol.auth(self._key, "bearer" if self.is_token else self.row.auth)
        return headers

    def redactor(self, prompt: Iterable[str], sent: Iterable[str] = (), names: Iterable[str] = ()) -> Redactor:
        """Return a function that removes the keys, the keys `sent` by a client, and the prompt from the host's words.

        The name of the model and the `names` of the body fields stay.
        """
        return Redactor((self._key, *self._secrets, *sent), prompt, spare=(self.model, *names))


def resolve(
    table: SupportTable,
    *,
    model: str | None,
    base_url: str | None,
    api_key: str | None,
    api: str | None,
    client: Client | None,
    keep: bool,
    allow_http: bool = False,
) -> Target:
    """Return the target for the arguments and the environment. Raises `UsageError`. Sends nothing."""
    if not isinstance(allow_http, bool):
        raise UsageError(f"allow_http is a {type(allow_http).__name__}", "pass True or False")
    for argument, value in (("model", model), ("base_url", base_url), ("api_key", api_key), ("api", api)):
        if not isinstance(value, str | None):
            raise UsageError(f"{argument} is a {type(value).__name__}", "pass a str")
    name = model or os.environ.get("APREFILL_MODEL")
    if not name:
        raise UsageError("no model is named", Words("pass {model=provider:name}", "set APREFILL_MODEL"))
    provider, bare, alias_url = parse(name, table.providers)
    if client is not None and client.sdk:
        check_url(client.base_url, allow_http=allow_http, source=f"the base_url of client={client.name}")
        return _of_sdk(table, client, provider, bare, name, base_url=base_url, api_key=api_key, api=api, keep=keep)
    if provider is None:
        if base_url is None and client is None:
            meant = meant_by(name, table.providers)
            instead = (
                f'did you mean "{meant}"?'
                if meant
                else Words(
                    "write provider:name with one of {providers}",
                    "pass {base_url}",
                    providers=", ".join(table.providers),
                )
            )
            raise UsageError(Words("{model=name} names no known provider", name=repr(name)), instead)
        provider = (base_url and table.provider_of_url(base_url)) or "openai-compatible"
    if not bare:
        raise UsageError(Words("{model=name} has no name after the colon", name=repr(name)), "write provider:name")
    row = table.row(provider, bare, api)
    token_env, sdk, sdk_alone = row.token_env, row.sdk, row.sdk_alone
    own_url, key_env = base_url, (*row.key_env, *((token_env,) if token_env else ()))
    if base_url is None:
        own_url = _url_from_environment(row, allow_http=allow_http)
        if own_url is not None:
            # The environment names another URL for this provider, so the row of the host at that URL is used. That
            # host gets the key from the provider's own variable (such as OPENAI_API_KEY), as it does from its SDK.
            named = table.provider_of_url(own_url) or "openai-compatible"
            row = table.row(named if row.api in table.apis(named) else "openai-compatible", bare, row.api)
            key_env = tuple(dict.fromkeys((*key_env, *row.key_env)))
        elif alias_url and row.api == table.apis(row.provider)[0]:
            own_url = alias_url
    url = row.base_url if own_url is None else own_url
    if sdk_alone and not row.base_url:
        raise UsageError(f"{provider} can only be reached through its SDK", Words("pass {sdk} as {client}", sdk=sdk))
    if not url and own_url is None:
        by_client = ("pass {sdk} as {client}",) if sdk else ()
        raise UsageError(f"{provider} has no base URL of its own", Words(*by_client, "pass {base_url}", sdk=sdk or ""))
    demo = row.base_url.startswith(DEMO_SCHEME)
    if demo and base_url is not None:
        raise UsageError(f"{provider} is the built-in model and has no URL", Words("leave {base_url} out"))
    if demo and client is not None:
        raise UsageError(f"{provider} is the built-in model and sends nothing", Words("leave {client} out"))
    if not demo:
        check_url(url, allow_http=allow_http)
        if own_url is None and row.prefill_base_url:
            check_url(row.prefill_base_url, allow_http=allow_http, source="prefill_base_url in the support table")
    required = row.key_required and base_url is None and client is None
    key, source = _key(row, api_key, key_env, required=required)
    return Target(
        row=row,
        model=bare,
        base_url=url,
        keep=keep,
        own_url=own_url is not None and (base_url is not None or not _is_usual(row, own_url)),
        is_token=bool(token_env) and source == token_env,
        _key=key,
    )


def _url_from_environment(row: SupportRow, *, allow_http: bool) -> str | None:
    """Return the URL that the environment sets instead of the provider's own. None: the variable is not set.

    An empty variable is an error: its owner wanted another host, so the provider's own host must not get the prompt.
    """
    variable = row.url_env
    url = os.environ.get(variable) if variable else None
    if url is None:
        return None
    if not url:
        raise UsageError(f"{variable} is set and empty", "unset it, or give it the URL of the API")
    check_url(url, allow_http=allow_http, source=variable)
    return url


def _is_usual(row: SupportRow, url: str) -> bool:
    """Whether `url` is the row's own. OpenAI's clients often add /v1, and the host accepts both."""
    url = url.rstrip("/")
    return row.base_url.rstrip("/") in {url, url.removesuffix("/v1")}


def _of_sdk(
    table: SupportTable,
    client: Client,
    provider: str | None,
    model: str,
    name: str,
    *,
    base_url: str | None,
    api_key: str | None,
    api: str | None,
    keep: bool,
) -> Target:
    """Return the target of an SDK's client, which has its own URL and key. Its package determines the protocols."""
    for argument, value in (("base_url", base_url), ("api_key", api_key)):
        if value is not None:
            raise UsageError(
                f"{argument}= together with client={client.name}", "pass it to the client, and leave it out here"
            )
    if api is not None and api not in (apis := _every_api(table, client)):
        raise UsageError(
            f"api={api!r}: client={client.name} speaks {', '.join(map(repr, apis))}",
            Words("leave {api} out", "pass another client"),
        )
    if not model:
        raise UsageError(Words("{model=name} has no name after the colon", name=repr(name)), "write provider:name")
    if provider is None:
        provider = client.provider or table.provider_of_url(client.base_url)
        if provider is None or not _spoken(table, client, provider, api):
            provider = "openai-compatible"
    apis = _spoken(table, client, provider, api)
    if not apis or table.row(provider, model, apis[0]).base_url == DEMO_SCHEME:
        wanted = api or _every_api(table, client)[0]
        raise UsageError(
            f"model={name!r}: {provider} has no api {wanted!r}, which client={client.name} speaks",
            "pass the model's bare name, or another client",
        )
    row = table.row(provider, model, apis[0])
    return Target(
        row=row,
        model=model,
        base_url=client.base_url,
        keep=keep,
        own_url=not _is_usual(row, client.base_url),
        _secrets=client.secrets,
    )


def _spoken(table: SupportTable, client: Client, provider: str, api: str | None) -> list[str]:
    """Return the apis of the provider that an SDK's client can use, the default first. With `api`, only that one."""
    return [
        one
        for one in table.apis(provider)
        if api in {None, one} and PROTOCOLS[table.row(provider, "", one).codec] == client.sdk
    ]


def _every_api(table: SupportTable, client: Client) -> list[str]:
    """Return the apis of all providers that an SDK's client can use."""
    return list(dict.fromkeys(api for provider in table.providers for api in _spoken(table, client, provider, None)))


_BASE_URL = Words("{base_url}")


@lru_cache(maxsize=256)
def check_url(url: str, *, allow_http: bool = False, source: str = _BASE_URL) -> None:
    """Raise `UsageError` unless `url` is https, or http to loopback, without user info, query or fragment.

    With `allow_http`, plain http to any host is allowed. `source` says where the URL comes from, for messages.
    """
    if not url.isprintable() or " " in url:
        raise UsageError(
            Words("{source} holds white space or a control character", source=source), "write https://host/path"
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as exc:
        if "port" in str(exc).lower():
            raise UsageError(
                Words("{source} has a wrong port", source=source), "write a number from 1 to 65535 after the colon"
            ) from None
        raise UsageError(Words("{source} is not a URL", source=source), "write https://host/path") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise UsageError(
            Words("{source} must begin with https:// (or http://) and name a host", source=source),
            "write https://host/path",
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            Words("{source} holds user info", source=source),
            Words("put the key in the environment", "pass it as {api_key}"),
        )
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise UsageError(Words("{source} holds a query or a fragment", source=source), "pass the bare base URL")
    if parts.scheme == "http" and not allow_http and not _is_loopback(host):
        raise UsageError(
            Words(
                "{source} is plain http to {host}, which would send the key and the prompt unencrypted",
                source=source,
                host=host,
            ),
            Words("use https", "pass {allow_http=True} if you trust the network on the way there"),
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key(row: SupportRow, given: str | None, variables: tuple[str, ...], *, required: bool) -> tuple[str, str]:
    """Return the key and its source: "api_key" for the argument, or the variable. Both are empty if there is no key."""
    source, key = "api_key", given
    if key is None:
        for source in variables:
            key = os.environ.get(source)
            if key:
                break
    if not key:
        if required:
            where = f" in {' or '.join(variables)}" if variables else ""
            by_variable = ("set it in the environment",) if variables else ()
            raise UsageError(f"no key for {row.provider}{where}", Words(*by_variable, "pass {api_key}"))
        return "", ""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"the key from {source} has white space around it, a control character or a non-ASCII character in it "
            "(often a trailing newline)",
            "store the key without these characters",
        )
    return key, source

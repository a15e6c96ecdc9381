"""Recognizes the objects that a caller may pass as `client=`.

A client is recognized by the names of its classes and of the packages that define them. So subclasses are recognized
too, and nothing has to be imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._errors import UsageError
from .._words import Words

#: Class -> provider. "": the base URL decides. If several classes match, the most derived one counts.
_SDKS = {
    "openai.AsyncAzureOpenAI": "azure",
    "openai.AsyncBedrockOpenAI": "openai-compatible",
    "openai.AsyncOpenAI": "",
    "anthropic.AsyncAnthropicBedrock": "bedrock",
    "anthropic.AsyncAnthropicVertex": "vertex",
    "anthropic.AsyncAnthropicFoundry": "foundry",
    # Other gateways to Claude, for which the support table has no rows.
    "anthropic.AsyncAnthropicBedrockMantle": "openai-compatible",
    "anthropic.AsyncAnthropicAWS": "openai-compatible",
    "anthropic.AsyncAnthropicGoogleCloud": "openai-compatible",
    "anthropic.AsyncAnthropic": "",
}

#: Synchronous class -> the class to pass instead.
_SYNCHRONOUS = {
    "httpx2.Client": "httpx2.AsyncClient",
    "httpx.Client": "httpx.AsyncClient",
    "openai.OpenAI": "AsyncOpenAI",
    "openai.AzureOpenAI": "AsyncAzureOpenAI",
    "openai.BedrockOpenAI": "AsyncBedrockOpenAI",
    "anthropic.Anthropic": "AsyncAnthropic",
    "anthropic.AnthropicBedrock": "AsyncAnthropicBedrock",
    "anthropic.AnthropicVertex": "AsyncAnthropicVertex",
    "anthropic.AnthropicFoundry": "AsyncAnthropicFoundry",
    "anthropic.AnthropicBedrockMantle": "AsyncAnthropicBedrockMantle",
    "anthropic.AnthropicAWS": "AsyncAnthropicAWS",
    "anthropic.AnthropicGoogleCloud": "AsyncAnthropicGoogleCloud",
}

#: Attributes of the SDKs' clients that hold secrets. Messages must not contain their values.
_SECRETS = (
    "api_key", "auth_token", "access_token", "admin_api_key", "aws_secret_key", "aws_access_key", "aws_session_token",
    "azure_ad_token", "_azure_ad_token",
)  # fmt: skip

#: AsyncAzureOpenAI's placeholder for a missing key.
_NO_KEY = "<missing API key>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The facts about a client that are known before anything is sent."""

    #: The name of its class, for messages.
    name: str
    #: The package of an SDK's client. "": a plain HTTP client.
    sdk: str = ""
    #: The provider of an SDK's client. "": its base URL decides.
    provider: str = ""
    #: The URL to which an SDK's client sends.
    base_url: str = ""
    #: Texts that messages must not contain.
    secrets: tuple[str, ...] = field(default=(), repr=False)


def describe(client: Any) -> Client | None:
    """Return the facts about a client, or None for None. Raises `UsageError` if it cannot be used."""
    if client is None:
        return None
    if isinstance(client, type):
        raise UsageError(f"client={client.__name__} is a class, not a client", "pass an instance of it")
    name = type(client).__name__
    kinds = [f"{c.__module__.partition('.')[0]}.{c.__name__}" for c in type(client).__mro__]
    if not {"httpx2.AsyncClient", "httpx.AsyncClient"}.isdisjoint(kinds):
        return Client(name=name)
    kind = next((kind for kind in kinds if kind in _SDKS), None)
    if kind is None:
        instead = next((_SYNCHRONOUS[kind] for kind in kinds if kind in _SYNCHRONOUS), None)
        if instead:
            raise UsageError(f"client={name} is synchronous", f"pass an {instead}")
        raise UsageError(
            f"client={name} is not a client that can be used",
            Words(
                "pass an httpx2.AsyncClient, an httpx.AsyncClient, an AsyncAnthropic, an AsyncOpenAI or one of their "
                "variants for Azure, Bedrock, Vertex and Foundry",
                "leave {client} out and pass {base_url} and {api_key}",
            ),
        )
    return Client(
        name=name,
        sdk=kind.partition(".")[0],
        provider=_SDKS[kind],
        base_url=_base_url(client),
        secrets=_secrets(client, name),
    )


def _base_url(client: Any) -> str:
    url = str(client.base_url)
    return url[:-1] if url.endswith("/") else url


def _secrets(client: Any, name: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for attribute in _SECRETS:
        value = getattr(client, attribute, None)
        if isinstance(value, str) and value and value != _NO_KEY:
            if value != value.strip() or not value.isprintable():
                # The HTTP libraries would quote the secret in their own error.
                raise UsageError(
                    f"the {attribute.lstrip('_')} of client={name} has white space around it or a control character in "
                    "it (often a trailing newline)",
                    "strip it before you make the client",
                )
            found[value] = None
    return tuple(found)

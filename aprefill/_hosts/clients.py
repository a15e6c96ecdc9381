"""What a caller may pass as `client=`, and the transport that sends with it.

A client is known by the names of its classes and of the packages that they come from, so that subclasses count and
nothing is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._errors import UsageError
from .._words import Words

#: Class -> the provider; "" where the base URL says which. The class nearest to the client's decides.
_SDKS = {
    "openai.AsyncAzureOpenAI": "azure",
    "openai.AsyncBedrockOpenAI": "openai-compatible",
    "openai.AsyncOpenAI": "",
    "anthropic.AsyncAnthropicBedrock": "bedrock",
    "anthropic.AsyncAnthropicVertex": "vertex",
    "anthropic.AsyncAnthropicFoundry": "foundry",
    # other gateways to Claude, of which the support table has no row
    "anthropic.AsyncAnthropicBedrockMantle": "openai-compatible",
    "anthropic.AsyncAnthropicAWS": "openai-compatible",
    "anthropic.AsyncAnthropicGoogleCloud": "openai-compatible",
    "anthropic.AsyncAnthropic": "",
}

#: Synchronous class -> what to pass in its place.
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

#: Where the SDKs' clients keep what must not be repeated.
_SECRETS = (
    "api_key", "auth_token", "access_token", "admin_api_key", "aws_secret_key", "aws_access_key", "aws_session_token",
    "azure_ad_token", "_azure_ad_token",
)  # fmt: skip

#: AsyncAzureOpenAI's placeholder for a missing key.
_NO_KEY = "<missing API key>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What is known of a client before anything is sent."""

    #: the class's name, for messages
    name: str
    #: the package that an SDK's client comes from; "": a bare HTTP client
    sdk: str = ""
    #: an SDK's client for one provider; "": its base URL says which
    provider: str = ""
    #: an SDK's client sends there
    base_url: str = ""
    #: never to be repeated
    secrets: tuple[str, ...] = field(default=(), repr=False)


def describe(client: Any) -> Client | None:
    """What kind of client this is; None for None. Raises `UsageError` for a kind that cannot be used."""
    if client is None:
        return None
    if isinstance(client, type):
        raise UsageError(f"client={client.__name__}: that is the class", "pass a client made of it")
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
            f"client={name} is no client that can be used",
            Words(
                "pass an httpx2.AsyncClient, an httpx.AsyncClient, an AsyncAnthropic, an AsyncOpenAI or one of their Azure, "
                "Bedrock, Vertex and Foundry kin",
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
                # the HTTP libraries' own complaint would quote it
                raise UsageError(
                    f"the {attribute.lstrip('_')} of client={name} has white space around it or a control character in "
                    "it (often a trailing newline)",
                    "make the client with it stripped",
                )
            found[value] = None
    return tuple(found)

"""The SDK clients that the tests use: each client class that differs, on each HTTP stack that it supports."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest

from aprefill import Recovery, Reply, Session, stream
from aprefill.testing import Script

from ..conftest import LOOPS
from ..support.sdk_http import http_of

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk-very-secret-0123456789"
AWS_KEY, AWS_SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
QUESTION = "the caller's private question"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A client class, and what one of its requests looks like."""

    name: str
    sdk: Any
    cls: Any
    #: server URL -> arguments for the class
    made_with: Callable[[str], dict[str, Any]]
    model: str
    path: str
    #: a header, and how its value begins
    auth: tuple[str, str]
    #: what must never be shown
    secrets: tuple[str, ...] = (KEY,)
    options: dict[str, Any] = field(default_factory=dict)

    def client(self, url: str, http: str = "httpx2", **more: Any) -> Any:
        """Return a client for the server at `url`, over one of `STACKS`."""
        if http not in {"httpx2", "none"}:
            more.setdefault("http_client", STACKS[http](self.sdk))
        return self.cls(**{**self.made_with(url), **more})

    def stream(self, client: Any, **options: Any) -> Reply:
        """Return a reply with a prefill, which makes at most one request."""
        prompt = options.pop("prompt", QUESTION)
        return stream(
            prompt, model=self.model, client=client, prefill='["', **{"recovery": ONE, **self.options, **options}
        )

    def session(self, client: Any, **options: Any) -> Session:
        return Session(self.model, client=client, **{"recovery": ONE, **self.options, **options})


#: No retries.
ONE = Recovery(retries=0)

#: HTTP stack -> the client that is passed as `http_client`
STACKS: dict[str, Callable[[Any], Any]] = {
    "aiohttp": lambda sdk: sdk.DefaultAioHttpClient(),
    "httpx": lambda sdk: httpx.AsyncClient(),
    "httpx-aiohttp": lambda sdk: importlib.import_module("httpx_aiohttp").HttpxAiohttpClient(),
}

KINDS = [
    Kind(
        name="anthropic",
        sdk=anthropic,
        cls=anthropic.AsyncAnthropic,
        made_with=lambda url: {"base_url": url, "api_key": KEY},
        model="anthropic:claude-haiku-4-5",
        path="/v1/messages",
        auth=("x-api-key", KEY),
    ),
    Kind(
        name="anthropic-token",
        sdk=anthropic,
        cls=anthropic.AsyncAnthropic,
        made_with=lambda url: {"base_url": url, "auth_token": KEY},
        model="anthropic:claude-haiku-4-5",
        path="/v1/messages",
        auth=("authorization", f"Bearer {KEY}"),
    ),
    Kind(
        name="openai",
        sdk=openai,
        cls=openai.AsyncOpenAI,
        made_with=lambda url: {"base_url": url + "/v1", "api_key": KEY},
        model="vllm:m",
        path="/v1/chat/completions",
        auth=("authorization", f"Bearer {KEY}"),
    ),
    Kind(
        name="azure",
        sdk=openai,
        cls=openai.AsyncAzureOpenAI,
        made_with=lambda url: {"azure_endpoint": url, "api_version": "2024-10-21", "api_key": KEY},
        model="gpt-4o",
        path="/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        auth=("api-key", KEY),
        options={"support": "eats"},
    ),
    Kind(
        name="azure-entra",
        sdk=openai,
        cls=openai.AsyncAzureOpenAI,
        made_with=lambda url: {"azure_endpoint": url, "api_version": "2024-10-21", "azure_ad_token": KEY},
        model="gpt-4o",
        path="/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        auth=("authorization", f"Bearer {KEY}"),
        options={"support": "eats"},
    ),
    Kind(
        name="vertex",
        sdk=anthropic,
        cls=anthropic.AsyncAnthropicVertex,
        made_with=lambda url: {
            "base_url": url + "/v1",
            "access_token": KEY,
            "project_id": "p",
            "region": "us-east5",
        },
        model="claude-haiku-4-5@20251001",
        path="/v1/projects/p/locations/us-east5/publishers/anthropic/models/claude-haiku-4-5@20251001:streamRawPredict",
        auth=("authorization", f"Bearer {KEY}"),
    ),
    Kind(
        name="foundry",
        sdk=anthropic,
        cls=anthropic.AsyncAnthropicFoundry,
        made_with=lambda url: {"base_url": url + "/anthropic", "api_key": KEY},
        model="claude-haiku-4-5",
        path="/anthropic/v1/messages",
        auth=("api-key", KEY),
    ),
    Kind(
        name="bedrock",
        sdk=anthropic,
        cls=anthropic.AsyncAnthropicBedrock,
        made_with=lambda url: {"base_url": url, "aws_region": "us-east-1", "api_key": KEY},
        model="us.anthropic.claude-haiku-4-5-20251001-v1:0",
        path="/model/us.anthropic.claude-haiku-4-5-20251001-v1:0/invoke-with-response-stream",
        auth=("authorization", f"Bearer {KEY}"),
    ),
    Kind(
        name="bedrock-sigv4",
        sdk=anthropic,
        cls=anthropic.AsyncAnthropicBedrock,
        made_with=lambda url: {
            "base_url": url,
            "aws_region": "us-east-1",
            "aws_access_key": AWS_KEY,
            "aws_secret_key": AWS_SECRET,
        },
        model="bedrock:anthropic.claude-haiku-4-5-20251001-v1:0",
        path="/model/anthropic.claude-haiku-4-5-20251001-v1:0/invoke-with-response-stream",
        auth=("authorization", f"AWS4-HMAC-SHA256 Credential={AWS_KEY}/"),
        secrets=(AWS_KEY, AWS_SECRET),
    ),
]

BY_NAME = {kind.name: kind for kind in KINDS}
#: The HTTP library that openai's clients use: httpx before openai 3.0, httpx2 since.
OPENAI_HTTP = http_of(openai)


def needs(found: bool, what: str) -> pytest.MarkDecorator:
    """Skip a test of something that an older SDK does not have."""
    return pytest.mark.skipif(
        not found, reason=f"this SDK has no {what}: openai {openai.__version__}, anthropic {anthropic.__version__}"
    )


def stacks_of(kind: Kind) -> list[str]:
    """Return httpx2 and the SDK's aiohttp client; for openai's client also the clients of httpx that it accepts."""
    stacks = ["httpx2", "aiohttp"]
    if kind.name == "openai":
        stacks.append("httpx")
        if importlib.util.find_spec("httpx_aiohttp"):
            stacks.append("httpx-aiohttp")
    return stacks


def is_on_aiohttp(stack: str) -> bool:
    return "aiohttp" in stack


def cells(kinds: list[Kind] = KINDS, **more: Any) -> list[Any]:
    """Return every supported combination of event loop, class and stack. aiohttp runs only on asyncio's event loops."""
    return [
        pytest.param(*loop.values, kind, stack, id=f"{loop.id}-{kind.name}-{stack}", **more)
        for kind in kinds
        for stack in stacks_of(kind)
        for loop in (LOOPS[:2] if is_on_aiohttp(stack) else LOOPS)
    ]


STATES = Script(text='Alabama", "Alaska"]', prefill="eats")
WHOLE = '["Alabama", "Alaska"]'
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)

#: One class per SDK, for errors below the SDK, which are the same for all of its classes.
by_sdk = pytest.mark.parametrize(
    ("anyio_backend", "kind", "stack"), cells([BY_NAME["openai"], BY_NAME["anthropic"], BY_NAME["bedrock"]])
)

on_asyncio = pytest.mark.parametrize("anyio_backend", LOOPS[:1])

"""The objects that may be passed as `client=`."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from aprefill import UsageError, stream
from aprefill._hosts.clients import describe
from aprefill.testing import serve

from .sdks import BY_NAME, KEY, QUESTION, STATES, WHOLE, needs

pytestmark = pytest.mark.usefixtures("small_ca")


def some(name: str, **more: Any) -> Any:
    return BY_NAME[name].client("https://host.test", **more)


@pytest.mark.parametrize(
    ("client", "model", "provider", "name"),
    [
        (anthropic.AsyncAnthropic(api_key=KEY), "claude-haiku-4-5", "anthropic", "claude-haiku-4-5"),
        (anthropic.AsyncAnthropic(api_key=KEY), "anthropic:claude-haiku-4-5", "anthropic", "claude-haiku-4-5"),
        (some("anthropic"), "claude-haiku-4-5", "openai-compatible", "claude-haiku-4-5"),
        (some("anthropic"), "anthropic:claude-haiku-4-5", "anthropic", "claude-haiku-4-5"),
        (some("anthropic"), "llama_cpp:m", "llama_cpp", "m"),
        (openai.AsyncOpenAI(api_key=KEY), "gpt-4o", "openai", "gpt-4o"),
        (
            openai.AsyncOpenAI(api_key=KEY, base_url="https://api.deepseek.com"),
            "deepseek-chat",
            "deepseek",
            "deepseek-chat",
        ),
        (openai.AsyncOpenAI(api_key=KEY, base_url="https://api.groq.com/openai/v1/"), "x", "groq", "x"),
        (openai.AsyncOpenAI(api_key=KEY, base_url="https://api.anthropic.com/v1/"), "x", "openai-compatible", "x"),
        (some("openai"), "llama3.2:1b", "openai-compatible", "llama3.2:1b"),
        (some("openai"), "vllm:llama3.2:1b", "vllm", "llama3.2:1b"),
        (some("azure"), "gpt-4o", "azure", "gpt-4o"),
        (some("vertex"), "claude-haiku-4-5@20251001", "vertex", "claude-haiku-4-5@20251001"),
        (some("foundry"), "claude-haiku-4-5", "foundry", "claude-haiku-4-5"),
        (some("bedrock"), "anthropic.claude-v2:1", "bedrock", "anthropic.claude-v2:1"),
        (some("bedrock"), "bedrock:anthropic.claude-v2:1", "bedrock", "anthropic.claude-v2:1"),
        (some("bedrock"), "arn:aws:bedrock:x:1:y/z", "bedrock", "arn:aws:bedrock:x:1:y/z"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_whom_a_client_asks(client: Any, model: str, provider: str, name: str) -> None:
    """The provider's rules are chosen by the model's name, otherwise by the client's class and base URL."""
    target = stream("x", model=model, client=client)._run.requests.target
    assert (target.row.provider, target.model, target.host) == (provider, name, client.base_url.host)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"client": some("openai"), "api": "messages"}, "speaks 'chat'"),
        ({"client": some("anthropic"), "api": "chat"}, "speaks 'messages'"),
        ({"client": some("openai"), "base_url": "https://host.test"}, "base_url= together with client=AsyncOpenAI"),
        ({"client": some("anthropic"), "api_key": KEY}, "api_key= together with client=AsyncAnthropic"),
        ({"client": some("openai"), "model": "anthropic:claude-haiku-4-5"}, "has no api 'chat'"),
        ({"client": some("anthropic"), "model": "openai:gpt-4o"}, "has no api 'messages'"),
        ({"client": some("openai"), "model": "openai:"}, "no name after the colon"),
        ({"client": some("openai"), "model": "demo:eats"}, "no api 'chat'|leave client= out"),
        ({"client": httpx2.AsyncClient(), "model": "demo:eats"}, "leave client= out"),
        ({"client": openai.OpenAI(api_key=KEY)}, "pass an AsyncOpenAI"),
        ({"client": openai.AzureOpenAI(api_key=KEY, azure_endpoint="https://x", api_version="1")}, "AsyncAzureOpenAI"),
        ({"client": anthropic.Anthropic(api_key=KEY)}, "pass an AsyncAnthropic$"),
        ({"client": anthropic.AnthropicBedrock(api_key=KEY, aws_region="x")}, "pass an AsyncAnthropicBedrock"),
        ({"client": httpx2.Client()}, "pass an httpx2.AsyncClient"),
        ({"client": openai.AsyncOpenAI}, "is a class, not a client"),
        ({"client": object()}, "pass an httpx2.AsyncClient, an httpx.AsyncClient, an AsyncAnthropic"),
        ({"client": openai.AsyncOpenAI(api_key=KEY, base_url="http://host.test/v1")}, "plain http"),
        ({"client": openai.AsyncOpenAI(api_key=KEY + "\n")}, "the api_key of client=AsyncOpenAI has white space"),
        ({"client": None, "model": "bedrock:anthropic.claude-v2:1"}, "AsyncAnthropicBedrock as client="),
        ({"client": None, "model": "bedrock:x", "base_url": "https://host.test"}, "AsyncAnthropicBedrock as client="),
        ({"client": None, "model": "vertex:claude-haiku-4-5"}, "AsyncAnthropicVertex as client="),
        ({"client": None, "model": "azure:gpt-4o"}, "AsyncAzureOpenAI as client=, or pass base_url="),
        ({"client": None, "model": "foundry:claude-haiku-4-5"}, "AsyncAnthropicFoundry as client=, or pass base_url="),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value.get("client")).__name__,
)
def test_what_cannot_be_passed(options: dict[str, Any], why: str) -> None:
    """A wrong argument raises `UsageError` at the call, says what to pass instead, and does not show the key."""
    with pytest.raises(UsageError, match=why) as error:
        stream("x", **{"model": "m", **options})
    assert KEY not in str(error.value)
    assert error.value.__context__ is None


def test_the_class_is_found_without_its_package() -> None:
    """A client's class is recognised by its name, without importing the SDK."""

    class AsyncOpenAI:
        base_url = "https://host.test/v1/"
        api_key = KEY

    AsyncOpenAI.__module__ = "openai._client"
    described = describe(AsyncOpenAI())
    assert described is not None
    assert (described.sdk, described.base_url, described.secrets) == ("openai", "https://host.test/v1", (KEY,))
    assert KEY not in repr(described)


@pytest.mark.anyio
async def test_an_azure_key_without_the_sdk() -> None:
    """`base_url=` can be Azure's v1 API. The key is sent in the header that Azure reads."""
    async with serve(STATES) as server:
        base_url = server.url + "/openai/v1"
        assert await stream("x", model="azure:gpt-4o", base_url=base_url, api_key=KEY).text() == WHOLE[2:]
    assert server.exchanges[0].headers["api-key"] == KEY
    assert "authorization" not in server.exchanges[0].headers


@pytest.mark.anyio
@pytest.mark.parametrize(
    "make",
    [
        lambda url: anthropic.AsyncAnthropicAWS(base_url=url, api_key=KEY, workspace_id="w"),
        lambda url: anthropic.AsyncAnthropicBedrockMantle(base_url=url, api_key=KEY, aws_region="us-east-1"),
        pytest.param(
            lambda url: openai.AsyncBedrockOpenAI(base_url=url, api_key=KEY, aws_region="us-east-1"),
            marks=needs(hasattr(openai, "AsyncBedrockOpenAI"), "AsyncBedrockOpenAI"),
        ),
    ],
    ids=["aws", "mantle", "bedrock-openai"],
)
async def test_other_doors_are_strangers(make: Any) -> None:
    """Other gateways for Claude are not in the support table, so `support=` says what they do with a prefill."""
    async with serve(STATES) as server, make(server.url) as client:
        reply = stream(QUESTION, prefill='["', model="some-model", client=client, support="eats")
        assert await reply.text() == WHOLE
        assert reply._run.requests.target.row.provider == "openai-compatible"


def test_asyncio_only_once_more() -> None:
    """The aiohttp client works in a plain `asyncio.run`, without anyio."""

    async def main() -> str:
        async with serve(STATES) as server, BY_NAME["openai"].client(server.url, "aiohttp") as client:
            return await BY_NAME["openai"].stream(client).text()

    assert asyncio.run(main()) == WHOLE

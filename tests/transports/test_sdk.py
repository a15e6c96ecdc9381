"""Each SDK client class keeps its authentication, URL and pool.

The body is aprefill's. Retries and redirects are off.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import anthropic
import anyio
import openai
import pytest

from aprefill import Session, Support, UsageError, stream
from aprefill._hosts.table import SupportTable
from aprefill.testing import serve

from ..support.thorough import usually
from .sdks import (
    BY_NAME,
    KEY,
    OPENAI_HTTP,
    QUESTION,
    STATES,
    WHOLE,
    Kind,
    by_kind,
    cells,
    needs,
    on_asyncio,
)

pytestmark = pytest.mark.usefixtures("small_ca")

#: Number of replies in sequence over one client.
REPLIES = usually(4, 20)


by_cell = pytest.mark.parametrize(("anyio_backend", "kind", "stack"), cells())


@pytest.mark.anyio
@by_cell
async def test_a_reply(kind: Kind, stack: str) -> None:
    """The request has the client's authentication, URL and headers, and several replies use one connection."""
    async with serve(STATES) as server:
        client = kind.client(server.url, stack, default_headers={"x-house": "ours"}, max_retries=5)
        for _ in range(REPLIES):
            reply = kind.stream(client)
            assert await reply.text() == WHOLE
        assert reply.closes_at_once is True
        assert reply.support is Support.EATS
        assert not client.is_closed()
        await client.close()
    assert (len(server.exchanges), server.connections) == (REPLIES, 1)
    exchange = server.exchanges[0]
    header, begins = kind.auth
    if kind.name in {"anthropic", "foundry"} and header not in exchange.headers:
        header, begins = "authorization", f"Bearer {KEY}"  # the header depends on the SDK's version
    assert exchange.headers[header].startswith(begins)
    assert exchange.path == kind.path
    assert exchange.headers["x-house"] == "ours"
    assert exchange.headers["accept-encoding"] == "identity"
    assert exchange.headers["user-agent"].lower().startswith(("async", "openai", "anthropic"))
    assert exchange.prefill == '["'
    assert exchange.last_user_text == QUESTION


@pytest.mark.any_loop
@pytest.mark.anyio
@by_kind
async def test_a_subclass_with_its_own_init(kind: Kind) -> None:
    """A subclass with its own `__init__`, as gateways have, works. `with_options` would fail with it."""
    base: Any = kind.cls

    class Gateway(base):
        def __init__(self, tenant: str, url: str) -> None:
            super().__init__(**kind.made_with(url), default_headers={"x-tenant": tenant})

    class Inner(Gateway):
        pass

    async with serve(STATES) as server, Inner("t1", server.url) as client:
        assert await kind.stream(client).text() == WHOLE
    assert server.exchanges[0].headers["x-tenant"] == "t1"


@pytest.mark.any_loop
@pytest.mark.anyio
@by_kind
async def test_a_custom_http_client_is_used(kind: Kind) -> None:
    """A custom HTTP client is used: its hooks run, and it stays open."""
    seen: list[str] = []

    async def hook(request: Any) -> None:
        seen.append(request.url.path)

    # httpx2, or httpx for an older SDK
    library = importlib.import_module(kind.client("https://host.test").base_url.__module__.partition(".")[0])
    async with serve(STATES) as server, library.AsyncClient(event_hooks={"request": [hook]}) as http:
        client = kind.client(server.url, http_client=http)
        assert await kind.stream(client).text() == WHOLE
        assert not http.is_closed
    assert seen == [kind.path.partition("?")[0]]


@pytest.mark.anyio
@by_kind
async def test_a_session_over_it(kind: Kind) -> None:
    """Several replies at the same time use one client. Leaving the session does not close the client."""
    async with serve(STATES) as server, kind.client(server.url) as client:
        async with kind.session(client) as session:
            texts: list[str] = []

            async def one() -> None:
                texts.append(await session.stream(QUESTION, prefill='["').text())

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(one)
        assert texts == [WHOLE] * 5
        assert not client.is_closed()


@pytest.mark.any_loop
@pytest.mark.anyio
@by_kind
async def test_the_caller_s_values_stay_as_they_were(kind: Kind) -> None:
    """The SDKs change the body for their hosts, but only in a copy."""
    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    extra = {"metadata": {"user_id": "u"}}
    async with serve(STATES) as server, kind.client(server.url) as client:
        assert await kind.stream(client, prompt=messages, extra=extra).text() == WHOLE
    assert messages == [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    assert extra == {"metadata": {"user_id": "u"}}
    assert server.exchanges[0].option("metadata") == {"user_id": "u"}


@pytest.mark.anyio
@on_asyncio
async def test_a_client_that_writes_into_the_body() -> None:
    """A subclass may change the body before it is sent. The caller's own values stay unchanged."""

    class Stamping(openai.AsyncOpenAI):
        async def _prepare_options(self, options: Any) -> Any:
            options.json_data["metadata"]["user_id"] = "stamped"
            options.json_data["messages"][0]["content"][0]["text"] = "stamped"
            return await super()._prepare_options(options)

    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    extra = {"metadata": {"user_id": "u"}}
    async with serve(STATES) as server, Stamping(api_key=KEY, base_url=server.openai_url) as client:
        await stream(messages, model="m", client=client, extra=extra).text()
    assert messages[0]["content"][0]["text"] == QUESTION
    assert extra == {"metadata": {"user_id": "u"}}
    assert server.exchanges[0].last_user_text == server.exchanges[0].option("metadata")["user_id"] == "stamped"


@pytest.mark.anyio
async def test_a_prefill_goes_to_the_host_s_other_address() -> None:
    """DeepSeek takes a prefill at another base URL.

    It is used with a client for DeepSeek's URL, not with one for another.
    """
    async with serve(STATES) as server:
        table = SupportTable.load(
            f'[[host]]\nprovider = "deepseek"\napi = "chat"\nbase_url = "{server.url}"\n'
            f'prefill_base_url = "{server.url}/beta"\n'
        )
        for path in ("/", "/v1", "/elsewhere"):
            client = openai.AsyncOpenAI(api_key=KEY, base_url=server.url + path)
            async with client, Session("deepseek:deepseek-chat", client=client, table=table) as session:
                assert await session.stream(QUESTION, prefill='["').text() == WHOLE
                assert await session.stream(QUESTION).text() == WHOLE[2:]
    assert [one.path for one in server.exchanges] == [
        "/beta/chat/completions", "/chat/completions", "/beta/chat/completions", "/v1/chat/completions",
        "/elsewhere/chat/completions", "/elsewhere/chat/completions",
    ]  # fmt: skip
    assert {one.headers["authorization"] for one in server.exchanges} == {f"Bearer {KEY}"}


@pytest.mark.anyio
@on_asyncio
@needs("middleware" in inspect.signature(anthropic.AsyncAnthropic).parameters, "middleware")
async def test_a_middleware_sees_the_request() -> None:
    """anthropic's middleware sees the request.

    A middleware that replaces the response by a value raises `UsageError`.
    """
    calls: list[str] = []

    async def look(request: Any, call_next: Any) -> Any:
        calls.append("look")
        return await call_next(request)

    async def cached(request: Any, call_next: Any) -> Any:
        return {"content": "cached"}

    kind = BY_NAME["anthropic"]
    async with serve(STATES) as server:
        async with kind.client(server.url, middleware=[look]) as client:
            assert await kind.stream(client).text() == WHOLE
        async with kind.client(server.url, middleware=[cached]) as client:
            with pytest.raises(UsageError, match="middleware"):
                await kind.stream(client).text()
    assert calls == ["look"]


@pytest.mark.anyio
async def test_a_mock_transport() -> None:
    """With a mock transport there is no socket, so `closes_at_once` is False."""

    async def answer(request: Any) -> Any:
        body = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        return OPENAI_HTTP.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    async with OPENAI_HTTP.AsyncClient(transport=OPENAI_HTTP.MockTransport(answer)) as http:
        client = openai.AsyncOpenAI(api_key=KEY, base_url="https://host.test/v1", http_client=http)
        reply = stream("x", model="m", client=client)
        assert reply.closes_at_once is None
        assert await reply.text() == "hi"
        assert reply.closes_at_once is False

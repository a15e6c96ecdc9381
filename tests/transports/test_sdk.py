"""The contract of every SDK client class: its authentication, URL and pool; our bytes; its retries and redirects off."""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
import traceback
import weakref
from typing import Any

import anthropic
import anyio
import httpx2
import openai
import pytest
from anyio.abc import SocketAttribute

from aprefill import (
    AprefillError,
    ConnectFailed,
    PrefillRefused,
    Session,
    Stalled,
    StatusError,
    Support,
    Timeouts,
    Truncated,
    UsageError,
    Verdict,
    stream,
)
from aprefill._clients import describe
from aprefill._support import Table
from aprefill.testing import Script, serve

from ..conftest import LOOPS
from .sdks import AWS_KEY, BY_NAME, KEY, KINDS, QUESTION, Kind, cells

pytestmark = pytest.mark.usefixtures("small_ca")

STATES = Script(text='Alabama", "Alaska"]', prefill="eats")
WHOLE = '["Alabama", "Alaska"]'

by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
by_cell = pytest.mark.parametrize(("anyio_backend", "kind", "stack"), cells())
#: what goes wrong below the SDK does so the same way for all classes of one
by_sdk = pytest.mark.parametrize(
    ("anyio_backend", "kind", "stack"), cells([BY_NAME["openai"], BY_NAME["anthropic"], BY_NAME["bedrock"]])
)
on_asyncio = pytest.mark.parametrize("anyio_backend", LOOPS[:1])


# --- what arrives ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
@by_cell
async def test_a_reply(kind: Kind, stack: str) -> None:
    """The text whole; the client's authentication, URL and headers on the request; twenty replies, one connection."""
    async with serve(STATES) as server:
        client = kind.client(server.url, stack, default_headers={"x-house": "ours"}, max_retries=5)
        for _ in range(20):
            reply = kind.stream(client)
            assert await reply.text() == WHOLE
        assert reply.closes_at_once is True
        assert reply.support is Support.EATS
        assert not client.is_closed()
        await client.close()
    assert (len(server.exchanges), server.connections) == (20, 1)
    exchange = server.exchanges[0]
    header, begins = kind.auth
    if kind.name in {"anthropic", "foundry"} and header not in exchange.headers:
        header, begins = "authorization", f"Bearer {KEY}"  # the header has changed between versions
    assert exchange.headers[header].startswith(begins)
    assert exchange.path == kind.path
    assert exchange.headers["x-house"] == "ours"
    assert exchange.headers["accept-encoding"] == "identity"
    assert exchange.headers["user-agent"].lower().startswith(("async", "openai", "anthropic"))
    assert exchange.prefill == '["'
    assert exchange.last_user_text == QUESTION


@pytest.mark.anyio
@by_kind
async def test_a_subclass_with_its_own_init(kind: Kind) -> None:
    """As gateways have them: `with_options` would fail on it, we do not."""
    base: Any = kind.cls

    class Gateway(base):
        def __init__(self, tenant: str, url: str) -> None:
            super().__init__(**kind.made_with(url), default_headers={"x-tenant": tenant})

    class Inner(Gateway):
        pass

    async with serve(STATES) as server, Inner("t1", server.url) as client:
        assert await kind.stream(client).text() == WHOLE
    assert server.exchanges[0].headers["x-tenant"] == "t1"


@pytest.mark.anyio
@by_kind
async def test_a_custom_http_client_is_used(kind: Kind) -> None:
    """Its hooks run and its pool carries the request."""
    seen: list[str] = []

    async def hook(request: Any) -> None:
        seen.append(request.url.path)

    # httpx2's, or httpx's for an SDK from before it
    library = importlib.import_module(kind.client("https://host.test").base_url.__module__.partition(".")[0])
    async with serve(STATES) as server, library.AsyncClient(event_hooks={"request": [hook]}) as http:
        client = kind.client(server.url, http_client=http)
        assert await kind.stream(client).text() == WHOLE
        assert not http.is_closed
    assert seen == [kind.path.partition("?")[0]]


@pytest.mark.anyio
@by_kind
async def test_a_session_over_it(kind: Kind) -> None:
    """Replies at the same time over one pool; leaving the session leaves the client open."""
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


@pytest.mark.anyio
@by_kind
async def test_the_caller_s_values_stay_as_they_were(kind: Kind) -> None:
    """The SDKs rewrite the body for their hosts, in a copy."""
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
    """A subclass may: what it changes is what is sent, never the caller's own values."""

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
    """DeepSeek takes one at another base URL: so with a client for DeepSeek, not with one for elsewhere."""
    async with serve(STATES) as server:
        table = Table.load(
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
async def test_a_middleware_sees_the_request() -> None:
    """anthropic's own; one that puts a value in place of the response is told apart."""
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
    """No socket behind it: the reply says that it can only be closed asynchronously."""

    async def answer(request: httpx2.Request) -> httpx2.Response:
        body = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        client = openai.AsyncOpenAI(api_key=KEY, base_url="https://host.test/v1", http_client=http)
        reply = stream("x", model="m", client=client)
        assert reply.closes_at_once is None
        assert await reply.text() == "hi"
        assert reply.closes_at_once is False


# --- what goes wrong ------------------------------------------------------------------------------------------


@pytest.mark.anyio
@by_kind
@pytest.mark.parametrize("status", [408, 429, 500, 529])
@on_asyncio
async def test_no_retry_of_the_sdk_s(kind: Kind, status: int) -> None:
    """One request, though the client is made with five retries; the status, the wait and the id are on the error."""
    script = Script(
        status=status,
        error=("rate_limit_error", "too fast"),
        retry_after=7,
        headers={"request-id": "req_1", "x-request-id": "req_1", "x-amzn-requestid": "req_1"},
    )
    async with serve(script) as server, kind.client(server.url, max_retries=5) as client:
        reply = kind.stream(client)
        with pytest.raises(StatusError) as error:
            await reply.text()
    assert len(server.exchanges) == 1
    assert (error.value.status, error.value.retry_after_s, error.value.request_id) == (status, 7.0, "req_1")
    assert error.value.detail == "too fast"
    assert reply.closes_at_once is None


@pytest.mark.anyio
@by_sdk
async def test_a_redirect_is_not_followed(kind: Kind, stack: str) -> None:
    """A 307 would post the prompt to another host."""
    async with serve(STATES) as elsewhere, serve(Script(redirect=elsewhere.url + kind.path)) as server:
        async with kind.client(server.url, stack) as client:
            with pytest.raises(StatusError, match="never followed") as error:
                await kind.stream(client).text()
    assert error.value.status == 307
    assert (len(server.exchanges), len(elsewhere.exchanges)) == (1, 0)


@pytest.mark.anyio
@by_kind
async def test_a_refusal_is_known(kind: Kind) -> None:
    """By its status and text, below whatever the SDK makes of it."""
    script = Script(
        status=400,
        error=(
            "invalid_request_error",
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        ),
    )
    async with serve(script) as server, kind.client(server.url) as client:
        expected = StatusError if kind.name.startswith(("azure", "openai")) else PrefillRefused
        with pytest.raises(expected) as error:
            await kind.stream(client, emulate=False).text()
    assert error.value.status == 400


@pytest.mark.anyio
@by_kind
async def test_a_prefill_that_is_asked_for_in_the_prompt(kind: Kind) -> None:
    """The other way round the same client: the host repeats it, the reply has it once."""
    script = Script(text='Alabama", "Alaska"]', prefill="echoes", echo_text='["')
    async with serve(script) as server, kind.client(server.url) as client:
        reply = kind.stream(client, support="emulated")
        assert await reply.text() == '["Alabama", "Alaska"]'
        assert (reply.mode, reply.verdict) == ("emulated", Verdict.ECHOED)
        assert server.exchanges[0].prefill == ""


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.sdk is anthropic], ids=lambda k: k.name)
async def test_a_refusal_is_rescued(kind: Kind) -> None:
    """On the same call, over the same client's pool, and remembered in the session.

    No refusal of a prefill is known of OpenAI's hosts: they ignore one.
    """
    script = Script(text='Alabama", "Alaska"]', prefill="refuses", echo_text='["')
    async with serve(script) as server, kind.client(server.url) as client, kind.session(client) as session:
        for attempts in (2, 1):
            reply = session.stream("hi", prefill='["')
            assert await reply.text() == '["Alabama", "Alaska"]'
            assert len(reply.attempts) == attempts


def refused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.anyio
@by_sdk
async def test_a_connection_that_is_refused(kind: Kind, stack: str) -> None:
    """Below the SDK's APIConnectionError, and below what its transport calls it."""
    async with kind.client(f"http://127.0.0.1:{refused_port()}", stack) as client:
        with pytest.raises(ConnectFailed) as error:
            await kind.stream(client).text()
    assert "could not be made" in error.value.reason
    assert error.value.host == "127.0.0.1"


@pytest.mark.anyio
@by_sdk
async def test_a_connection_that_takes_too_long(kind: Kind, stack: str) -> None:
    """Our clock, not the SDK's ten minutes."""
    with socket.socket() as host, socket.socket() as first, socket.socket() as second:
        host.bind(("127.0.0.1", 0))
        host.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(host.getsockname())
        async with kind.client(f"http://127.0.0.1:{host.getsockname()[1]}", stack) as client:
            reply = kind.stream(client, timeouts=Timeouts(connect_s=0.05))
            with pytest.raises(Stalled) as stalled, anyio.fail_after(3):
                await reply.text()
    assert (stalled.value.clock, stalled.value.after_s) == ("connect_s", 0.05)


@pytest.mark.anyio
@by_sdk
async def test_a_host_that_hangs_up_or_falls_silent(kind: Kind, stack: str) -> None:
    """Before the head: no connect timeout, whatever the transport calls it. Inside the body: cut, or stalled."""
    # the URL of each server is another, so each has a client of its own
    async with serve(Script(hang_up=True)) as server, kind.client(server.url, stack) as client:
        with pytest.raises(ConnectFailed):
            await kind.stream(client).text()
    for how in ("drop_after_bytes", "reset_after_bytes"):
        async with serve(Script(text="a" * 400, **{how: 900})) as server, kind.client(server.url, stack) as client:
            with pytest.raises(Truncated):
                await kind.stream(client).text()
    async with serve(Script(text="abcdefgh", stall_after=4)) as server, kind.client(server.url, stack) as client:
        with pytest.raises(Stalled) as stalled:
            await kind.stream(client, timeouts=Timeouts(idle_s=0.05)).text()
        assert stalled.value.clock == "idle_s"
        with anyio.fail_after(2):
            await server.exchanges[0].closed.wait()
    async with serve(Script(first_byte_s=60)) as server, kind.client(server.url, stack) as client:
        with pytest.raises(Stalled):
            await kind.stream(client, timeouts=Timeouts(idle_s=0.05)).text()
        with anyio.fail_after(2):
            await server.exchanges[0].closed.wait()


@pytest.mark.anyio
@on_asyncio
async def test_a_closed_client() -> None:
    """A UsageError that says so, from both SDKs."""
    for name in ("openai", "anthropic"):
        kind = BY_NAME[name]
        client = kind.client("http://127.0.0.1:1")
        await client.close()
        with pytest.raises(UsageError, match="has been closed"):
            await kind.stream(client).text()


class Broken(openai.AsyncOpenAI):
    """Its key comes from a helper that fails."""

    async def _prepare_options(self, options: Any) -> Any:
        raise RuntimeError(f"no token: the helper said {KEY}, for {QUESTION}")


@pytest.mark.anyio
@on_asyncio
async def test_missing_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an SDK says before it sends anything: a UsageError with its words, chained, nothing sent."""
    monkeypatch.setenv("HOME", "/nowhere")
    async with serve(STATES) as server:
        nothing = anthropic.AsyncAnthropic(base_url=server.url)
        helper = Broken(api_key=KEY, base_url=server.url)
        for client, model, said in (
            (nothing, "claude-haiku-4-5", "Could not resolve authentication method"),
            (helper, "m", r"the helper said \[key\], for \[prompt\]"),
        ):
            with pytest.raises(UsageError, match=said) as error:
                await stream(
                    QUESTION, model=model, client=client, api="messages" if client is nothing else "chat"
                ).text()
            assert "check its credentials" in str(error.value)
            assert error.value.__cause__ is not None
            assert error.value.__cause__.__cause__ is not None
            assert KEY not in everything_about(error.value)
    assert server.exchanges == []


def everything_about(error: BaseException | None) -> str:
    """All that a crash report could show of an exception, its causes and its contexts."""
    seen: dict[int, str] = {}
    links = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        parts = [repr(link), repr(link.args), repr(vars(link)), "".join(traceback.format_exception(link))]
        for value in [*vars(link).values(), *link.args]:
            parts.append(repr(value))
            headers = getattr(value, "headers", None)
            if headers is not None:
                parts.append(repr(list(getattr(headers, "items", list)())))
        seen[id(link)] = "\n".join(parts)
        links += [link.__cause__, link.__context__]
    return "\n".join(seen.values())


@pytest.mark.anyio
@pytest.mark.parametrize(
    "script",
    [
        Script(status=401, error=("authentication_error", f"Incorrect key: {KEY}, {AWS_KEY}, for {QUESTION}")),
        Script(status=400, body=f"cannot read: {KEY} {QUESTION}".encode(), content_type="text/plain"),
        Script(status=500, headers={"request-id": KEY, "x-request-id": KEY}),
        Script(hang_up=True),
        Script(text="a" * 400, drop_after_bytes=900),
        Script(text="a" * 400, reset_after_bytes=900),
        Script(body=b"<html>", content_type="text/html"),
        Script(text="a", after=0, error_event=("api_error", f"key {KEY} is bad")),
    ],
    ids=["401", "plain", "id", "hang-up", "drop", "reset", "html", "in-band"],
)
@pytest.mark.parametrize(
    ("kind", "stack"),
    [(kind, "httpx2") for kind in KINDS] + [(BY_NAME[name], "aiohttp") for name in ("openai", "anthropic", "bedrock")],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
@on_asyncio
async def test_no_key_and_no_prompt_in_any_exception_log_or_repr(
    script: Script, stack: str, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in messages, attributes, chained exceptions, tracebacks, the reply's repr, or what we log."""
    caplog.set_level(logging.DEBUG, logger="aprefill")
    async with serve(script) as server, kind.client(server.url, stack) as client:
        reply = kind.stream(client)
        with pytest.raises(AprefillError) as error:
            await reply.text()
        shown = everything_about(error.value) + repr(reply) + repr(reply._run.target) + repr(describe(client))
    shown += caplog.text
    for secret in (*kind.secrets, QUESTION):
        assert secret not in shown
        assert secret[:12] not in shown


@pytest.mark.anyio
@pytest.mark.usefixtures("frozen", "no_gc")
@pytest.mark.parametrize(
    "script",
    [Script(status=401), Script(hang_up=True), Script(text="a" * 400, drop_after_bytes=900)],
    ids=["401", "hang-up", "drop"],
)
@by_sdk
async def test_a_failed_reply_is_freed_at_once(script: Script, kind: Kind, stack: str) -> None:
    """By reference counting alone: neither the error nor the SDK's below it is part of a cycle with the reply."""
    async with serve(script) as server, kind.client(server.url, stack) as client:
        reply = kind.stream(client)
        run = weakref.ref(reply._run)
        with pytest.raises(AprefillError) as error:
            await reply.text()
        del reply, error
        await anyio.lowlevel.checkpoint()
        assert run() is None


@pytest.mark.anyio
@on_asyncio
async def test_a_token_that_only_the_request_knows() -> None:
    """From a token provider: the answer that quotes it loses it all the same."""

    async def provider() -> str:
        return KEY

    async with serve(Script(status=401, error=("x", f"bad token {KEY}"))) as server:
        client = openai.AsyncAzureOpenAI(
            azure_endpoint=server.url, api_version="2024-10-21", azure_ad_token_provider=provider
        )
        async with client:
            with pytest.raises(StatusError) as error:
                await stream("x", model="gpt-4o", client=client).text()
    assert error.value.detail == "bad token [key]"
    assert KEY not in everything_about(error.value)


@pytest.mark.anyio
@on_asyncio
@pytest.mark.parametrize("stack", ["httpx2", "aiohttp"])
async def test_a_status_line_that_holds_the_key_is_not_chained(stack: str) -> None:
    """The HTTP libraries quote what they could not parse, and aiohttp's error carries the request."""

    async def answer(peer: Any) -> None:
        async with peer:
            await peer.receive()
            await peer.send(f"HTTP/1.1 {KEY}\r\n\r\n".encode())

    for name in ("openai", "anthropic"):
        kind = BY_NAME[name]
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            async with anyio.create_task_group() as group:
                group.start_soon(listener.serve, answer)
                url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
                async with kind.client(url, stack) as client:
                    with pytest.raises(ConnectFailed) as error:
                        await kind.stream(client).text()
                group.cancel_scope.cancel()
        assert KEY not in everything_about(error.value)


@pytest.mark.anyio
@on_asyncio
@pytest.mark.parametrize("stack", ["httpx2", "httpx", "aiohttp"])
@pytest.mark.parametrize("bad", ["\n", "\u00e9", "\x00"], ids=["newline", "accent", "nul"])
async def test_a_bad_key_from_a_helper(stack: str, bad: str) -> None:
    """The HTTP library's own complaint quotes the header; the chain does not."""

    async def helper() -> str:
        return KEY + bad

    async with serve(STATES) as server, BY_NAME["openai"].client(server.url, stack, api_key=helper) as client:
        with pytest.raises(AprefillError) as error:
            await stream("x", model="m", client=client).text()
    assert KEY not in everything_about(error.value)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", LOOPS[2:])
async def test_the_aiohttp_client_on_trio() -> None:
    """The caller's to mend, and not a crash of aiohttp's."""
    async with serve(STATES) as server:
        for name in ("openai", "anthropic"):
            client = BY_NAME[name].client(server.url, "aiohttp")
            with pytest.raises(UsageError, match="asyncio alone"):
                await BY_NAME[name].stream(client).text()


# --- what may be passed ---------------------------------------------------------------------------------------


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
    """Its class and its base URL say which provider's rules apply, unless the model does."""
    target = stream("x", model=model, client=client)._run.target
    assert (target.row.provider, target.model, target.host) == (provider, name, client.base_url.host)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"client": some("openai"), "api": "messages"}, "speaks 'chat'"),
        ({"client": some("anthropic"), "api": "chat"}, "speaks 'messages'"),
        ({"client": some("openai"), "base_url": "https://host.test"}, "base_url= beside client=AsyncOpenAI"),
        ({"client": some("anthropic"), "api_key": KEY}, "api_key= beside client=AsyncAnthropic"),
        ({"client": some("openai"), "model": "anthropic:claude-haiku-4-5"}, "has no api 'chat'"),
        ({"client": some("anthropic"), "model": "openai:gpt-4o"}, "has no api 'messages'"),
        ({"client": some("openai"), "model": "openai:"}, "no name after the colon"),
        ({"client": some("openai"), "model": "demo:eats"}, "no api 'chat'|leave client out"),
        ({"client": httpx2.AsyncClient(), "model": "demo:eats"}, "leave client out"),
        ({"client": openai.OpenAI(api_key=KEY)}, "pass an AsyncOpenAI"),
        ({"client": openai.AzureOpenAI(api_key=KEY, azure_endpoint="https://x", api_version="1")}, "AsyncAzureOpenAI"),
        ({"client": anthropic.Anthropic(api_key=KEY)}, "pass an AsyncAnthropic$"),
        ({"client": anthropic.AnthropicBedrock(api_key=KEY, aws_region="x")}, "pass an AsyncAnthropicBedrock"),
        ({"client": httpx2.Client()}, "pass an httpx2.AsyncClient"),
        ({"client": openai.AsyncOpenAI}, "that is the class"),
        ({"client": object()}, "pass an httpx2.AsyncClient, an httpx.AsyncClient, an AsyncAnthropic"),
        ({"client": openai.AsyncOpenAI(api_key=KEY, base_url="http://host.test/v1")}, "plain http"),
        ({"client": openai.AsyncOpenAI(api_key=KEY + "\n")}, "the api_key of client=AsyncOpenAI has white space"),
        ({"client": None, "model": "bedrock:anthropic.claude-v2:1"}, "AsyncAnthropicBedrock as client="),
        ({"client": None, "model": "bedrock:x", "base_url": "https://host.test"}, "AsyncAnthropicBedrock as client="),
        ({"client": None, "model": "vertex:claude-haiku-4-5"}, "AsyncAnthropicVertex as client="),
        ({"client": None, "model": "azure:gpt-4o"}, "AsyncAzureOpenAI as client=, or base_url="),
        ({"client": None, "model": "foundry:claude-haiku-4-5"}, "AsyncAnthropicFoundry as client=, or base_url="),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value.get("client")).__name__,
)
def test_what_cannot_be_passed(options: dict[str, Any], why: str) -> None:
    """Told at the call, with what to pass instead, and without the key."""
    with pytest.raises(UsageError, match=why) as error:
        stream("x", **{"model": "m", **options})
    assert KEY not in str(error.value)
    assert error.value.__context__ is None


def test_the_class_is_found_without_its_package() -> None:
    """By names alone: nothing of an SDK is imported to look at a client."""

    class AsyncOpenAI:
        base_url = "https://host.test/v1/"
        api_key = KEY

    AsyncOpenAI.__module__ = "openai._client"
    described = describe(AsyncOpenAI())
    assert described is not None
    assert (described.api, described.base_url, described.secrets) == ("chat", "https://host.test/v1", (KEY,))
    assert KEY not in repr(described)


@pytest.mark.anyio
async def test_an_azure_key_without_the_sdk() -> None:
    """`base_url=` of Azure's v1 API will do, and the key goes where Azure wants it."""
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
        lambda url: openai.AsyncBedrockOpenAI(base_url=url, api_key=KEY, aws_region="us-east-1"),
    ],
    ids=["aws", "mantle", "bedrock-openai"],
)
async def test_other_doors_are_strangers(make: Any) -> None:
    """Nothing is known of what their hosts do with a prefill; on the caller's word they work."""
    async with serve(STATES) as server, make(server.url) as client:
        reply = stream(QUESTION, prefill='["', model="some-model", client=client, support="eats")
        assert await reply.text() == WHOLE
        assert reply._run.target.row.provider == "openai-compatible"


def test_asyncio_only_once_more() -> None:
    """The aiohttp client under a plain `asyncio.run`, with no anyio around it."""

    async def main() -> str:
        async with serve(STATES) as server, BY_NAME["openai"].client(server.url, "aiohttp") as client:
            return await BY_NAME["openai"].stream(client).text()

    assert asyncio.run(main()) == WHOLE

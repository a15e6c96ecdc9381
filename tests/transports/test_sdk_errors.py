"""Errors over an SDK's client are the same typed errors as without an SDK."""

from __future__ import annotations

import logging
import socket
import traceback
import weakref
from typing import Any

import anthropic
import anyio
import openai
import pytest
from anyio.abc import SocketAttribute

from aprefill import (
    AprefillError,
    ConnectFailed,
    PrefillRefused,
    Stalled,
    StatusError,
    Timeouts,
    Truncated,
    UsageError,
    Verdict,
    stream,
)
from aprefill._hosts.clients import describe
from aprefill.testing import Script, serve

from ..conftest import LOOPS
from .sdks import AWS_KEY, BY_NAME, KEY, KINDS, QUESTION, STATES, Kind, by_kind, by_sdk, on_asyncio

pytestmark = pytest.mark.usefixtures("small_ca")


@pytest.mark.anyio
@by_kind
@pytest.mark.parametrize("status", [408, 429, 500, 529])
@on_asyncio
async def test_no_retry_of_the_sdk_s(kind: Kind, status: int) -> None:
    """One request is sent, although the client allows five retries. The error has the status, the wait and the id."""
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


@pytest.mark.any_loop
@pytest.mark.anyio
@by_sdk
async def test_a_redirect_is_not_followed(kind: Kind, stack: str) -> None:
    """A redirect is not followed, because a 307 would send the prompt to another host."""
    async with serve(STATES) as elsewhere, serve(Script(redirect=elsewhere.url + kind.path)) as server:
        async with kind.client(server.url, stack) as client:
            with pytest.raises(StatusError, match="never followed") as error:
                await kind.stream(client).text()
    assert error.value.status == 307
    assert (len(server.exchanges), len(elsewhere.exchanges)) == (1, 0)


@pytest.mark.any_loop
@pytest.mark.anyio
@by_kind
async def test_a_refusal_is_known(kind: Kind) -> None:
    """A refusal is recognised by its status and text with every client, whatever the SDK makes of it."""
    script = Script(
        status=400,
        error=(
            "invalid_request_error",
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        ),
    )
    async with serve(script) as server, kind.client(server.url) as client:
        with pytest.raises(PrefillRefused) as error:
            await kind.stream(client, emulate=False).text()
    assert error.value.status == 400


@pytest.mark.any_loop
@pytest.mark.anyio
@by_kind
async def test_a_prefill_that_is_asked_for_in_the_prompt(kind: Kind) -> None:
    """With `support="emulated"` the host repeats the prefill, and the reply contains it once."""
    script = Script(text='Alabama", "Alaska"]', prefill="echoes", echo_text='["')
    async with serve(script) as server, kind.client(server.url) as client:
        reply = kind.stream(client, support="emulated")
        assert await reply.text() == '["Alabama", "Alaska"]'
        assert (reply.mode, reply.verdict) == ("emulated", Verdict.ECHOED)
        assert server.exchanges[0].prefill == ""


@pytest.mark.any_loop
@pytest.mark.anyio
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.sdk is anthropic], ids=lambda k: k.name)
async def test_a_refusal_is_rescued(kind: Kind) -> None:
    """A refusal is rescued in the same call over the same client, and the session remembers it.

    Only Anthropic's hosts are tested. OpenAI's hosts are not known to refuse a prefill: they ignore it.
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
    """A refused connection is found below the SDK's APIConnectionError and the HTTP library's error."""
    async with kind.client(f"http://127.0.0.1:{refused_port()}", stack) as client:
        with pytest.raises(ConnectFailed) as error:
            await kind.stream(client).text()
    assert error.value.reason == "connection refused"
    assert error.value.host == "127.0.0.1"


@pytest.mark.anyio
@by_sdk
async def test_a_connection_that_takes_too_long(kind: Kind, stack: str) -> None:
    """`connect_s` applies instead of the SDK's timeout of ten minutes."""
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
    """A lost connection before the head is `ConnectFailed`, and in the body `Truncated`. A silent host is `Stalled`."""
    # each server has another URL, so each needs its own client
    async with serve(Script(hang_up=True)) as server, kind.client(server.url, stack) as client:
        with pytest.raises(ConnectFailed):
            await kind.stream(client).text()
    for how in ("drop_after_bytes", "reset_after_bytes"):
        async with serve(Script(text="a" * 400, **{how: 900})) as server, kind.client(server.url, stack) as client:
            with pytest.raises(Truncated):
                await kind.stream(client).text()
    for silent in (Script(text="abcdefgh", stall_after=4), Script(first_byte_s=60)):
        async with serve([Script(text="a"), silent]) as server, kind.client(server.url, stack) as client:
            # the SDK's own work before its first request may take longer than this timeout
            assert (await kind.stream(client).text()).endswith("a")
            with pytest.raises(Stalled) as stalled:
                await kind.stream(client, timeouts=Timeouts(idle_s=0.05)).text()
            assert stalled.value.clock == "idle_s"
            with anyio.fail_after(2):
                await (await server.wait_exchange(1)).closed.wait()


@pytest.mark.anyio
@on_asyncio
async def test_a_closed_client() -> None:
    """A closed client of either SDK is a `UsageError`."""
    for name in ("openai", "anthropic"):
        kind = BY_NAME[name]
        client = kind.client("http://127.0.0.1:1")
        await client.close()
        with pytest.raises(UsageError, match="has been closed"):
            await kind.stream(client).text()


class Broken(openai.AsyncOpenAI):
    """A client whose key helper raises."""

    async def _prepare_options(self, options: Any) -> Any:
        raise RuntimeError(f"no token: the helper said {KEY}, for {QUESTION}")


@pytest.mark.anyio
@on_asyncio
async def test_missing_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the SDK before it sends anything is a `UsageError` with the SDK's message, and is chained."""
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
    """Return everything that a crash report could show of an exception, its causes and its contexts."""
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


@pytest.mark.any_loop
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
    """Keys and prompts are not in messages, attributes, chained exceptions, tracebacks, reprs or logs."""
    caplog.set_level(logging.DEBUG, logger="aprefill")
    async with serve(script) as server, kind.client(server.url, stack) as client:
        reply = kind.stream(client)
        with pytest.raises(AprefillError) as error:
            await reply.text()
        shown = everything_about(error.value) + repr(reply) + repr(reply._run.requests.target) + repr(describe(client))
    shown += caplog.text
    for secret in (*kind.secrets, QUESTION):
        assert secret not in shown
        assert secret[:12] not in shown


@pytest.mark.anyio
@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize(
    "script",
    [Script(status=401), Script(hang_up=True), Script(text="a" * 400, drop_after_bytes=900)],
    ids=["401", "hang-up", "drop"],
)
@by_sdk
async def test_a_failed_reply_is_freed_at_once(script: Script, kind: Kind, stack: str) -> None:
    """A failed reply is freed by reference counting alone: its error is not part of a cycle with the reply."""
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
    """A token from a token provider is removed from an error that quotes it."""

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
    """An error that quotes a status line with the key, or has the request as an attribute, is not chained."""

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
    """If the HTTP library's error quotes a header with the key, the exception chain does not contain the key."""

    async def helper() -> str:
        return KEY + bad

    async with serve(STATES) as server, BY_NAME["openai"].client(server.url, stack, api_key=helper) as client:
        with pytest.raises(AprefillError) as error:
            await stream("x", model="m", client=client).text()
    assert KEY not in everything_about(error.value)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", LOOPS[2:])
async def test_the_aiohttp_client_on_trio() -> None:
    """aiohttp's client on trio is a `UsageError`."""
    async with serve(STATES) as server:
        for name in ("openai", "anthropic"):
            client = BY_NAME[name].client(server.url, "aiohttp")
            with pytest.raises(UsageError, match="only on asyncio"):
                await BY_NAME[name].stream(client).text()

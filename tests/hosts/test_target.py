"""The target of a request: names, URLs and keys. Nothing shows a key or a prompt."""

from __future__ import annotations

import logging
import pickle
import traceback
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import SocketAttribute

from aprefill import AprefillError, ConnectFailed, Reply, Session, StatusError, UsageError, stream
from aprefill._hosts.target import check_url
from aprefill.testing import Script, serve

from ..support.targets import KEY

PROMPT = "the caller's private question"
PREFILL = "my very own prefill"


def key_of(reply: Reply) -> str:
    headers = reply._run.requests.target.headers()
    return headers.get("authorization", "") or headers.get("x-api-key", "")


@pytest.mark.parametrize(
    "url",
    ["https://host.test/v1", "http://localhost:8000/v1", "http://127.0.0.1:1", "http://127.8.9.1", "http://[::1]:8000"],
)
def test_urls_that_are_taken(url: str) -> None:
    """https is accepted for any host, and http for loopback."""
    check_url(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://host.test/v1", "plain http"),
        ("http://10.0.0.1/v1", "plain http"),
        ("http://localhost.evil.test", "plain http"),
        ("https://user:pw@host.test", "user info"),
        ("https://user@host.test", "user info"),
        ("https://host.test/v1?key=1", "query"),
        ("https://host.test/v1?", "query"),
        ("https://host.test/#x", "fragment"),
        ("ftp://host.test", "https://"),
        ("host.test/v1", "https://"),
        ("https://", "https://"),
        ("https://host.test:port", "wrong port"),
        ("http://localhost:99999", "wrong port"),
        ("http://[::1", "not a URL"),
        ("", "https://"),
    ],
)
def test_urls_that_are_refused(url: str, why: str) -> None:
    """Other URLs raise an error with the reason before anything is sent. User info is not repeated."""
    with pytest.raises(UsageError, match=why) as error:
        check_url(url)
    assert "pw" not in str(error.value)


def test_an_empty_base_url_is_no_base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty `base_url`, as from a configuration file, is an error and does not silently mean the default."""
    with pytest.raises(UsageError, match="base_url"):
        stream("hi", model="openai:m", base_url="", api_key=KEY)


@pytest.mark.parametrize("key", [KEY + "\n", " " + KEY, KEY + "\r", "sk\x00x", "sk x", "sk-\u00e9", "\t", "sk\x7f"])
def test_bad_keys_are_refused_and_not_shown(key: str) -> None:
    """A key with a newline is refused here, because the HTTP library's own error would print the whole key."""
    with pytest.raises(UsageError, match="api_key") as error:
        stream("hi", model="openai:m", api_key=key)
    assert KEY not in str(error.value)
    assert error.value.__context__ is None


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes from the argument or the provider's variable.

    A missing key raises an error that names the variable.
    """
    with pytest.raises(UsageError, match="ANTHROPIC_API_KEY"):
        stream("hi", model="anthropic:claude-haiku-4-5")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY + "\n")
    with pytest.raises(UsageError, match="ANTHROPIC_API_KEY") as error:
        stream("hi", model="anthropic:claude-haiku-4-5")
    assert KEY not in str(error.value)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert key_of(stream("hi", model="anthropic:claude-haiku-4-5")) == KEY
    assert key_of(stream("hi", model="anthropic:claude-haiku-4-5", api_key="other")) == "other"


def test_a_vendors_key_goes_to_no_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare model name with the base URL of an unknown host gets no vendor's key."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert key_of(stream("hi", model="m", base_url="https://host.test/v1")) == ""
    assert key_of(stream("hi", model="m", base_url="https://api.openai.com/v1")) == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("model", "provider", "name"),
    [
        ("openai:gpt-5", "openai", "gpt-5"),
        ("openai:ft:gpt:x", "openai", "ft:gpt:x"),
        ("openrouter:meta/llama:free", "openrouter", "meta/llama:free"),
    ],
)
def test_a_model_is_split_at_the_first_colon(model: str, provider: str, name: str) -> None:
    """A model is split at the first colon only if the left side is a known provider."""
    target = stream("hi", model=model, api_key=KEY)._run.requests.target
    assert (target.row.provider, target.model) == (provider, name)


def test_a_bare_name_with_a_base_url_is_verbatim() -> None:
    """With a base URL, `llama3:8b` is a model name and not a provider. `api=` decides the protocol."""
    target = stream("hi", model="llama3:8b", base_url="http://localhost:1/v1")._run.requests.target
    assert (target.row.codec, target.model) == ("openai_chat", "llama3:8b")
    target = stream("hi", model="x", base_url="http://localhost:1", api="messages")._run.requests.target
    assert target.row.codec == "anthropic_messages"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "no model"),
        ({"model": "nobody:x"}, "names no known provider"),
        ({"model": "gpt-5"}, "names no known provider"),
        ({"model": "openai:"}, "no name after the colon"),
        ({"model": "openai:m", "api": "nonsense"}, "api"),
        ({"model": "openai:m", "max_tokens": 0}, "max_tokens"),
        ({"model": "openai:m", "stop": ["a", ""]}, "stop"),
        ({"model": "openai:m", "show_when": "soon"}, "show_when"),
        ({"model": "openai:m", "prefill": "ab", "show_from": 3}, "2 characters"),
        ({"model": "openai:m", "prefill": "ab", "show_from": "x"}, "show_from"),
        ({"model": "openai:m", "prefill": 1}, "prefill"),
        ({"model": "openai:m", "prefill": None}, "prefill"),
        ({"model": "openai:m", "prefill": "\ud800"}, "surrogate"),
        ({"model": "openai:m", "system": 5}, "system"),
        ({"model": "openai:m", "system": b"x"}, "system"),
        ({"model": "openai:m", "max_tokens": "5"}, "max_tokens"),
        ({"model": "openai:m", "max_tokens": 1.5}, "max_tokens"),
        ({"model": "openai:m", "max_tokens": float("inf")}, "max_tokens"),
        ({"model": "openai:m", "max_tokens": True}, "max_tokens"),
        ({"model": "openai:m", "stop": None}, "stop"),
        ({"model": "openai:m", "stop": 5}, "stop"),
        ({"model": "openai:m", "stop": [b"x"]}, "stop"),
        ({"model": "openai:m", "temperature": "hot"}, "temperature"),
        ({"model": "openai:m", "temperature": float("nan")}, "temperature"),
        ({"model": "openai:m", "thinking": True}, "thinking"),
        ({"model": "openai:m", "tools": {"a": 1}}, "tools"),
        ({"model": "openai:m", "tools": "a"}, "tools"),
        ({"model": "openai:m", "tools": ["a"]}, "tools"),
        ({"model": "openai:m", "response_format": "json"}, "response_format"),
        ({"model": "openai:m", "extra": ["a"]}, "extra"),
        ({"model": "openai:m", "timeouts": None}, "timeouts"),
        ({"model": "openai:m", "timeouts": 5}, "timeouts"),
        ({"model": "openai:m", "show_from": None}, "show_from"),
        ({"model": "openai:m", "show_from": -1}, "show_from"),
        ({"model": "openai:m", "strict": True, "show_when": "accepted"}, "strict"),
        ({"model": 5}, "model"),
        ({"model": "openai:m", "base_url": 5}, "base_url"),
        ({"model": "openai:m", "base_url": "https://a b/c"}, "base_url"),
        ({"model": "openai:m", "base_url": "https://h.test\n"}, "base_url"),
        ({"model": "openai:m", "api_key": b"k"}, "api_key"),
        ({"model": "openai:m", "api": []}, "api"),
        ({"model": "demo:eats", "base_url": "http://localhost:1"}, "built-in"),
        ({"model": "openai:m", "support": "maybe"}, "support"),
        ({"model": "openai:m", "client": object()}, "httpx2.AsyncClient"),
        ({"model": "openai-compatible:m"}, "base_url"),
    ],
)
def test_wrong_arguments_are_told_at_the_call(arguments: dict[str, Any], why: str) -> None:
    """Wrong arguments raise `UsageError` at the call of `stream()`, with what to pass."""
    with pytest.raises(UsageError, match=why):
        stream("hi", **{"api_key": KEY, **arguments})


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        None,
        5,
        b"hi",
        {"role": "user", "content": "x"},
        "\ud800",
        [],
        ["hi"],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "assistant", "content": "alone"}],
        [{"role": "user", "content": b"bytes"}],
        [{"role": "user", "content": "\udfff"}],
    ],
)
def test_wrong_prompts_are_told_at_the_call(prompt: Any) -> None:
    """A wrong prompt raises at the call an error that does not quote it."""
    with pytest.raises(UsageError):
        stream(prompt, model="openai:m", api_key=KEY)


def test_the_environments_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """APREFILL_MODEL is used if no model is given."""
    monkeypatch.setenv("APREFILL_MODEL", "demo:eats")
    assert stream("hi")._run.requests.target.model == "eats"


def test_a_thinking_prefill_is_a_conflict() -> None:
    """A prefill together with thinking raises, before any HTTP, an error that names the setting."""

    async def main() -> None:
        thinking = {"type": "enabled", "budget_tokens": 1024}
        reply = stream("hi", prefill="x", model="anthropic:claude-haiku-4-5", api_key=KEY, thinking=thinking)
        with pytest.raises(UsageError, match="thinking"):
            await reply.text()

    anyio.run(main)


def everything_about(error: BaseException | None) -> str:
    """Return all that a crash report could show of an exception and its chain."""
    seen: list[str] = []
    while error is not None:
        # The text so far is meant for the caller and is only in this attribute.
        told = {name: value for name, value in vars(error).items() if name != "text_so_far"}
        seen += [repr(error), str(error), repr(error.args), repr(told)]
        seen.append("".join(traceback.format_exception(error)))
        request = getattr(error, "request", None) if not isinstance(error, httpx2.RequestError) else error._request
        seen.append(repr(getattr(request, "headers", None) and dict(request.headers)))
        error = error.__cause__ or error.__context__
    return "\n".join(seen)


@pytest.mark.any_loop
@pytest.mark.anyio
@pytest.mark.parametrize(
    "script",
    [
        Script(status=401, error=("authentication_error", f"Incorrect API key provided: {KEY}")),
        Script(hang_up=True),
        Script(text="a" * 400, drop_after_bytes=200),
        Script(text="a" * 400, reset_after_bytes=200),
        Script(body=b"<html>", content_type="text/html"),
        Script(text="a", after=0, error_event=("api_error", f"key {KEY} is bad")),
        Script(text="a", after=0, error_event=(KEY, "the type is the key")),
        Script(status=401, error=(KEY, "the type is the key")),
        Script(status=401, error=("x", "a" * (300 - 12) + KEY)),
        Script(status=400, body=f"cannot read {PROMPT} as it is".encode(), content_type="text/plain"),
        Script(status=400, body=f"cannot read {PREFILL} as it is".encode(), content_type="text/plain"),
        Script(status=500, headers={"request-id": KEY, "x-request-id": KEY}),
    ],
    ids=[
        "401",
        "hang-up",
        "drop",
        "reset",
        "html",
        "in-band",
        "in-band-type",
        "type",
        "cut-inside",
        "plain-prompt",
        "plain-prefill",
        "id",
    ],
)
@pytest.mark.parametrize("support", ["eats", "emulated"])
@pytest.mark.parametrize("wire", ["chat", "messages"])
async def test_no_key_and_no_prompt_in_any_exception_log_or_repr(
    script: Script, wire: str, support: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No key and no prompt appears in messages, attributes, chained exceptions, tracebacks, reprs or the log."""
    caplog.set_level(logging.DEBUG, logger="aprefill")
    async with serve(script) as server:
        options: dict[str, Any] = (
            {"model": "anthropic:claude-haiku-4-5", "base_url": server.url}
            if wire == "messages"
            else {"model": "vllm:m", "base_url": server.openai_url}
        )
        reply = stream(PROMPT, prefill=PREFILL, api_key=KEY, support=support, **options)
        with pytest.raises(AprefillError) as error:
            await reply.text()
    shown = everything_about(error.value) + repr(reply) + repr(reply._run.requests.target) + caplog.text
    shown += repr(Session("anthropic:m", api_key=KEY))
    error.value.text_so_far = ""
    assert KEY not in shown
    assert KEY[:10] not in shown
    assert PROMPT not in shown
    assert PREFILL not in shown


@pytest.mark.anyio
async def test_a_status_line_that_holds_the_key_is_not_chained() -> None:
    """If a broken status line holds the key, the HTTP library's error that quotes it is not chained."""

    async def answer(stream: Any) -> None:
        async with stream:
            await stream.receive()
            await stream.send(f"HTTP/1.1 {KEY}\r\n\r\n".encode())

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        port = listener.extra(SocketAttribute.local_port)
        with pytest.raises(ConnectFailed) as error:
            await stream("hi", model="m", base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY).text()
        group.cancel_scope.cancel()
    assert KEY not in everything_about(error.value)


@pytest.mark.anyio
async def test_no_proxy_of_the_environment_sees_a_loopback_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http to loopback bypasses the environment's proxy, which would get the key and the prompt in clear text."""
    async with serve(Script(text="from the proxy")) as proxy, serve(Script(text="direct")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert await stream("hi", model="m", base_url=server.openai_url, api_key=KEY).text() == "direct"
        assert proxy.connections == 0


@pytest.mark.anyio
async def test_control_a_plain_client_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a plain client in the same environment uses the proxy."""
    async with serve(Script(text="x")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with httpx2.AsyncClient() as client:
            await client.post("http://localhost:9/v1/messages", json={})
        assert proxy.connections == 1


@pytest.mark.anyio
async def test_control_the_foreign_error_holds_the_key(anyio_backend: Any) -> None:
    """The control: without scrubbing, the key is found on httpx2's own exception."""
    async with serve(Script(hang_up=True)) as server, httpx2.AsyncClient() as client:
        with pytest.raises(httpx2.HTTPError) as error:
            await client.post(f"{server.url}/v1/messages", headers={"x-api-key": KEY}, json={})
    assert KEY in everything_about(error.value)


@pytest.mark.anyio
async def test_an_error_body_that_quotes_the_request_is_not_repeated() -> None:
    """If an error body quotes the request, as FastAPI's 422 does, only the host's own message is shown."""
    body = b'{"detail":[{"type":"x","loc":["body"],"msg":"Field required","input":{"q":"' + PROMPT.encode() + b'"}}]}'
    async with serve(Script(status=422, body=body, content_type="application/json")) as server:
        with pytest.raises(StatusError) as error:
            await stream(PROMPT, model="m", base_url=server.openai_url).text()
    assert "Field required" in str(error.value)
    assert PROMPT not in everything_about(error.value)


@pytest.mark.anyio
async def test_a_lone_surrogate_in_the_prompt_is_a_usage_error() -> None:
    """A lone surrogate in the prompt raises `UsageError`: UTF-8 cannot encode it.

    The codec's own error would quote the prompt.
    """
    async with serve(Script(text="x")) as server:
        with pytest.raises(UsageError, match="surrogate") as error:
            await stream(PROMPT + "\ud800", model="m", base_url=server.openai_url).text()
    assert PROMPT not in everything_about(error.value)


@pytest.mark.anyio
async def test_errors_chain_their_cause() -> None:
    """The HTTP library's exception is the cause of the error, without its request."""
    async with serve(Script(hang_up=True)) as server:
        with pytest.raises(ConnectFailed) as error:
            await stream("hi", model="m", base_url=server.openai_url).text()
    assert isinstance(error.value.__cause__, httpx2.RemoteProtocolError)


def test_errors_survive_pickling() -> None:
    """Errors can be pickled, so that they can cross process pools and task queues."""
    error = StatusError(429, error_type="x", detail="y", retry_after_s=2.0)
    error.text_so_far = "abc"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.text_so_far, again.retry_after_s) == (StatusError, str(error), "abc", 2.0)


@pytest.mark.parametrize(
    "words", ["x\n2026-01-01 CRITICAL forged", "\x1b[31mred", "\u2028\x85\x00\ud800\u202e", "a\r\nb\tc"]
)
def test_a_hosts_words_forge_no_line_of_a_log(words: str) -> None:
    """A host's message cannot forge log lines: the error's message is one printable line.

    The attribute keeps the original text.
    """
    error = StatusError(500, error_type=words, detail=words)
    assert error.detail == words
    assert str(error).isprintable()
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert "café 🦢" in str(StatusError(500, detail="café 🦢"))

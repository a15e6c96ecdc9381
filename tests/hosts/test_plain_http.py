"""Plain http to a host other than loopback is refused unless `allow_http=True`.

No test sends anything to such a host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from aprefill import Recovery, Session, SupportTable, UsageError, stream
from aprefill.testing import Script, serve

from ..support.sdk_http import http_of
from ..support.targets import KEY, Recorder, target_of

if TYPE_CHECKING:
    from ..support.names import Names

NAMED = "allow_http=True if you trust the network"
ADDRESSES = [
    "http://vllm:8000/v1",
    "http://192.168.1.20:8000",
    "http://[fd00::1]:8000/v1",
    "http://localhost.evil.test",
]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Replace the network of aprefill's own client with a recorder."""
    recorder = Recorder()

    async def handle(self: Any, request: Any) -> Any:
        return recorder(request)

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle)
    return recorder


@pytest.mark.any_loop
@pytest.mark.anyio
@pytest.mark.parametrize("url", ADDRESSES)
async def test_a_host_in_the_network(url: str, wire: Recorder) -> None:
    """Without `allow_http=True` an error names the argument and nothing is sent.

    With it the host gets the request and the key.
    """
    with pytest.raises(UsageError, match=NAMED):
        stream("hi", model="m", base_url=url, api_key=KEY)
    with pytest.raises(UsageError, match=NAMED):
        stream("hi", model="m", base_url=url, api_key=KEY, allow_http=False)
    assert wire.urls == []
    assert await stream("hi", model="m", base_url=url, api_key=KEY, allow_http=True).text() == "hello"
    assert (wire.urls, wire.keys) == ([f"{url}/chat/completions"], [f"Bearer {KEY}"])


@pytest.mark.anyio
async def test_a_session_allows_it_for_all_its_replies(wire: Recorder) -> None:
    """`allow_http` of a session is the default for its replies, and a call can override it."""
    async with Session("m", base_url="http://vllm:8000/v1", allow_http=True) as session:
        assert await session.stream("hi").text() == "hello"
        with pytest.raises(UsageError, match=NAMED):
            session.stream("hi", allow_http=False)
    async with Session("m", base_url="http://vllm:8000/v1") as session:
        with pytest.raises(UsageError, match=NAMED):
            session.stream("hi")
        assert await session.stream("hi", allow_http=True).text() == "hello"
    assert wire.urls == ["http://vllm:8000/v1/chat/completions"] * 2


def test_it_takes_true_or_false_alone() -> None:
    """Only `True` or `False` is accepted: a str from a configuration file, such as "false", must not allow anything."""
    for value in ("false", 1, None):
        with pytest.raises(UsageError, match=r"allow_http is a \w+; pass True or False"):
            stream("hi", model="m", base_url="http://vllm:8000/v1", allow_http=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["http://user@vllm", "http://vllm/?x", "ftp://vllm", "http://", "http://a b"])
def test_everything_else_is_checked_all_the_same(url: str) -> None:
    """`allow_http` affects only the scheme: every other check of the URL still applies."""
    with pytest.raises(UsageError, match="base_url"):
        stream("hi", model="m", base_url=url, allow_http=True)


SDKS = {
    "openai": lambda url, http: openai.AsyncOpenAI(base_url=url, api_key=KEY, http_client=http),
    "anthropic": lambda url, http: anthropic.AsyncAnthropic(base_url=url, api_key=KEY, http_client=http),
    "azure": lambda url, http: openai.AsyncAzureOpenAI(
        azure_endpoint=url, api_version="2024-10-21", api_key=KEY, http_client=http
    ),
}


@pytest.mark.any_loop
@pytest.mark.anyio
@pytest.mark.parametrize("url", ["http://vllm:8000", "http://192.168.1.20:8000"])
@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_s_client_of_the_caller_s(sdk: str, url: str) -> None:
    """The base URL of an SDK's client is checked too, and the error names that client."""
    http = http_of(anthropic if sdk == "anthropic" else openai)
    recorder = Recorder(http)
    async with SDKS[sdk](url, http.AsyncClient(transport=recorder.transport)) as client:
        with pytest.raises(UsageError, match=rf"the base_url of client=Async\w+ is plain http to .*{NAMED}"):
            stream("hi", model="m", client=client)
        assert recorder.urls == []
        assert await stream("hi", model="m", client=client, allow_http=True).text() == "hello"
        async with Session("m", client=client, allow_http=True) as session:
            assert await session.stream("hi").text() == "hello"
    assert len(recorder.urls) == 2
    assert all(asked.startswith(url + "/") for asked in recorder.urls)


@pytest.mark.anyio
@pytest.mark.parametrize("library", [httpx2, httpx])
async def test_an_http_client_of_the_caller_s(library: Any) -> None:
    """With a caller's HTTP client, `base_url` is checked in the same way."""
    recorder = Recorder(library)
    async with library.AsyncClient(transport=recorder.transport) as client:
        options: dict[str, Any] = {"model": "m", "base_url": "http://192.168.1.20:8000", "client": client}
        with pytest.raises(UsageError, match=NAMED):
            stream("hi", **options)
        assert recorder.urls == []
        assert await stream("hi", **options, allow_http=True).text() == "hello"
    assert recorder.urls == ["http://192.168.1.20:8000/chat/completions"]


@pytest.mark.anyio
async def test_through_real_sockets_and_past_the_environment_s_proxy(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host allowed by `allow_http` is reached directly, not through the environment's proxy.

    A proxy would also see the key and the prompt. Here the host's name resolves to loopback.
    """
    names["vllm"] = "127.0.0.1"
    async with serve(Script(text="from the proxy")) as proxy, serve(Script(text="direct")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        url = f"http://vllm:{server.port}/v1"
        once = Recovery(retries=0)
        assert (
            await stream("hi", model="m", base_url=url, api_key=KEY, allow_http=True, recovery=once).text() == "direct"
        )
        assert proxy.connections == 0
        # The control: the same name and environment with a plain client
        async with httpx2.AsyncClient() as client:
            reply = stream("hi", model="m", base_url=url, allow_http=True, client=client, recovery=once)
            assert await reply.text() == "from the proxy"
        assert proxy.connections == 1


def test_a_prefill_url_of_a_table_of_one_s_own() -> None:
    """The `prefill_base_url` of a caller's own table is checked too, because it gets the key and the prompt."""
    table = SupportTable.load(
        '[[host]]\nprovider = "mine"\napi = "chat"\ncodec = "openai_chat"\nbase_url = "https://host.test"\n'
        'prefill_base_url = "http://other.test"\nauth = "bearer"\nkey_required = false\n'
    )
    with pytest.raises(UsageError, match=f"prefill_base_url .* is plain http to other.test.*{NAMED}"):
        Session("mine:m", table=table).stream("hi")
    Session("mine:m", table=table, allow_http=True).stream("hi")


# --- the SDKs' environment variables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "variable", "url", "provider"),
    [
        ("openai:gpt-4o", "OPENAI_BASE_URL", "https://gateway.test/v1", "openai-compatible"),
        ("openai:gpt-4o", "OPENAI_BASE_URL", "http://localhost:8000/v1/", "openai-compatible"),
        ("openai:qwen3", "OPENAI_BASE_URL", "http://localhost:11434/v1", "ollama"),
        ("openai:gpt-4o", "OPENAI_BASE_URL", "https://api.openai.com/v1", "openai"),
        ("openai:deepseek-chat", "OPENAI_BASE_URL", "https://api.deepseek.com", "deepseek"),
        ("openai:claude-haiku-4-5", "OPENAI_BASE_URL", "https://api.anthropic.com/v1", "openai-compatible"),
        ("anthropic:claude-haiku-4-5", "ANTHROPIC_BASE_URL", "https://gateway.test", "openai-compatible"),
        ("anthropic:claude-haiku-4-5", "ANTHROPIC_BASE_URL", "https://api.anthropic.com", "anthropic"),
    ],
)
def test_the_sdks_variables_count(
    model: str, variable: str, url: str, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base URL and the key from the SDK's variables are used.

    The row is that of the host in the URL, or of an unknown host.
    """
    monkeypatch.setenv(variable, url)
    key_variable = variable.replace("BASE_URL", "API_KEY")
    monkeypatch.setenv(key_variable, KEY)
    target = target_of(model)
    assert (target.base_url, target.row.provider) == (url, provider)
    assert target.model == model.partition(":")[2]
    headers = target.headers()
    assert headers["authorization" if target.row.auth == "bearer" else target.row.auth].endswith(KEY)
    if variable == "ANTHROPIC_BASE_URL":
        assert (target.row.codec, headers["anthropic-version"]) == ("anthropic_messages", "2023-06-01")
    if provider == "openai-compatible":
        assert target.row.evidence == "unknown"
        assert not target.row.native


@pytest.mark.anyio
async def test_a_prefill_there_is_carried_as_on_an_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the URL of such a variable a prefill is emulated, unless `support=` says that it is native."""
    async with serve(Script(text="hello", prefill="eats")) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        for model in ("anthropic:claude-haiku-4-5", "openai:gpt-4o"):
            reply = stream("hi", prefill="> ", model=model, api_key=KEY)
            assert (await reply.text(), reply.mode) == ("> hello", "emulated")
            reply = stream("hi", prefill="> ", model=model, api_key=KEY, support="eats")
            assert (await reply.text(), reply.mode) == ("> hello", "native")
            assert reply.attempts[0].provider == "openai-compatible"
    assert len(server.exchanges) == 4


def test_what_goes_before_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """`base_url=`, an SDK's client or another provider's name win over the variables.

    A bare HTTP client does not, as in the SDKs.
    """
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.test/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert target_of("openai:m", base_url="https://mine.test/v1").base_url == "https://mine.test/v1"
    assert target_of("openai:m", base_url="https://mine.test/v1").row.provider == "openai"
    client = openai.AsyncOpenAI(api_key=KEY, base_url="https://theirs.test/v1")
    assert target_of("openai:m", client=client).base_url == "https://theirs.test/v1"
    assert target_of("vllm:m").base_url == "http://localhost:8000/v1"
    assert target_of("openai:m", client=httpx2.AsyncClient()).base_url == "https://gateway.test/v1"


def test_the_key_that_goes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is the argument's, else the SDK variable's, else the host's own. An unknown host may have none."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://openrouter.ai/api/v1")
    with pytest.raises(
        UsageError,
        match="no key for openrouter in OPENAI_API_KEY or OPENROUTER_API_KEY; set it in the environment, or pass",
    ):
        target_of("openai:m")
    monkeypatch.setenv("OPENROUTER_API_KEY", "theirs")
    assert target_of("openai:m").headers()["authorization"] == "Bearer theirs"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert target_of("openai:m").headers()["authorization"] == f"Bearer {KEY}"
    assert target_of("openai:m", api_key="mine").headers()["authorization"] == "Bearer mine"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "authorization" not in target_of("openai:m").headers()


@pytest.mark.anyio
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_anthropic_s_token(monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    """ANTHROPIC_AUTH_TOKEN is sent as the SDK sends it: as a bearer token, and only if there is no key."""
    recorder, of_the_sdk = Recorder(), Recorder(library := http_of(anthropic))
    if elsewhere:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gateway.test")

    async def sent() -> str:
        async with httpx2.AsyncClient(transport=recorder.transport) as client:
            assert await stream("hi", model="anthropic:m", client=client).text() == "hello"
        http = library.AsyncClient(transport=of_the_sdk.transport)
        async with http, anthropic.AsyncAnthropic(http_client=http) as sdk:
            messages: Any = [{"role": "user", "content": "hi"}]
            raw = await sdk.messages.with_raw_response.create(model="m", max_tokens=9, messages=messages, stream=True)
            await raw.http_response.aclose()
        assert recorder.urls[-1] == of_the_sdk.urls[-1]
        return recorder.keys[-1]

    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token")
    assert await sent() == of_the_sdk.keys[-1] == "Bearer token"
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    assert await sent() == of_the_sdk.keys[-1] == "Bearer token"
    assert target_of("anthropic:m", api_key=KEY).headers()["x-api-key"] == KEY
    assert "authorization" not in target_of("anthropic:m", api_key=KEY).headers()
    assert "'token'" not in repr(target_of("anthropic:m"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert await sent() == KEY
    # newer SDKs also send only the key; older ones send both
    assert "authorization" not in target_of("anthropic:m").headers()


def test_a_token_is_nobody_else_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """ANTHROPIC_AUTH_TOKEN is used only for Anthropic.

    An invalid value raises an error that does not show it, and a missing one is named.
    """
    with pytest.raises(UsageError, match="no key for anthropic in ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN; set it"):
        target_of("anthropic:m")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token")
    assert target_of("anthropic:m").headers()["authorization"] == "Bearer token"
    assert "authorization" not in target_of("vllm:m").headers()
    assert "authorization" not in target_of("m", base_url="https://host.test").headers()
    with pytest.raises(UsageError, match="no key for openai in OPENAI_API_KEY; set it in the environment, or pass"):
        target_of("openai:m")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", KEY + "\n")
    with pytest.raises(UsageError, match="the key from ANTHROPIC_AUTH_TOKEN has white space") as error:
        target_of("anthropic:m")
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "is set and empty"),
        (" https://host.test", "holds white space"),
        ("host.test/v1", "must begin with https://"),
        ("https://user:pw@host.test", "holds user info"),
        ("https://host.test?key=pw", "holds a query"),
        ("http://vllm:8000/v1", f"is plain http to vllm, .*{NAMED}"),
    ],
)
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_wrong_value_names_the_variable(provider: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value raises at the call an error that names the variable and does not show a password."""
    variable = f"{provider.upper()}_BASE_URL"
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"^{variable} {why}") as error:
        stream("hi", model=f"{provider}:m", api_key=KEY)
    assert "pw" not in str(error.value)


def test_plain_http_from_a_variable_can_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`allow_http=True` also allows plain http from such a variable."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://vllm:8000/v1")
    assert target_of("openai:m", allow_http=True).base_url == "http://vllm:8000/v1"

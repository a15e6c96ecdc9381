"""Each host's dialect on the wire: the URL, the key and every byte of the body.

A dialect is the form of a request that makes a host continue a prefill: a turn, a flag or a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anthropic
import pytest

from aprefill import Session, UsageError, stream
from aprefill._codecs import codec
from aprefill._hosts.table import SupportTable, builtin_table
from aprefill.testing import Script, serve
from aprefill.testing._endpoint import endpoint_of

from ..support.contracts import model_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from aprefill.testing import Exchange, Server

pytestmark = [pytest.mark.anyio, pytest.mark.any_loop]

KEY = "sk-0123456789"
BEARER = {"authorization": f"Bearer {KEY}"}
X_API_KEY = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
#: Headers that identify the caller. Each host gets its own and no other.
NAMES = ("authorization", "x-api-key", "anthropic-version", "api-key", "x-goog-api-key")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One host and model. The body with a prefill is `head`, `turn`, `tail`; without one `head` and `plain_tail`."""

    model: str
    #: the environment variable that holds the key
    key_env: str
    #: the request with a prefill
    path: str
    turn: bytes
    tail: bytes
    #: the request without one, if different
    plain_path: str = ""
    plain_tail: bytes = b""
    api: str | None = None
    #: up to the end of the user's turn; a `%` is the model's name
    head: bytes = b'{"model":"%","messages":[{"role":"user","content":"Hi"}'
    headers: dict[str, str] | None = None
    echoes: bool = False
    prefill: str = '["'
    #: the `support=` that the caller passes
    support: str | None = None


#: The end of a chat completions body that asks for the usage.
USAGE = b'],"stream":true,"stream_options":{"include_usage":true}'
TRAILING = b',{"role":"assistant","content":"[\\""}'
PREFIX = b',{"role":"assistant","content":"[\\"","prefix":true}'
PARTIAL = b',{"role":"assistant","content":"[\\"","partial":true}'
MESSAGES_HEAD = b'{"model":"%","max_tokens":4096,"messages":[{"role":"user","content":"Hi"}'
GEMINI_HEAD = b'{"contents":[{"role":"user","parts":[{"text":"Hi"}]}'
GEMINI_TURN = b',{"role":"model","parts":[{"text":"[\\""}]}'

CASES = {
    "anthropic": Case(
        model="anthropic:claude-haiku-4-5",
        key_env="ANTHROPIC_API_KEY",
        path="/v1/messages",
        head=MESSAGES_HEAD,
        turn=TRAILING,
        tail=b'],"stream":true}',
        headers=X_API_KEY,
    ),
    "anthropic-strips-white-space": Case(
        model="anthropic:claude-sonnet-4-5-20250929",
        key_env="ANTHROPIC_API_KEY",
        path="/v1/messages",
        head=MESSAGES_HEAD,
        turn=b',{"role":"assistant","content":"The answer is"}',
        tail=b'],"stream":true}',
        headers=X_API_KEY,
        prefill="The answer is \n",
    ),
    "anthropic-white-space-alone": Case(
        model="anthropic:claude-haiku-4-5",
        key_env="ANTHROPIC_API_KEY",
        path="/v1/messages",
        head=MESSAGES_HEAD,
        turn=b"",
        tail=b'],"stream":true}',
        headers=X_API_KEY,
        prefill="\n",
    ),
    "gemini": Case(
        model="gemini:gemini-2.5-flash",
        key_env="GEMINI_API_KEY",
        path="/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        head=GEMINI_HEAD,
        turn=GEMINI_TURN,
        tail=b"]}",
        headers={"x-goog-api-key": KEY},
    ),
    "mistral-asks-no-usage": Case(
        model="mistral:mistral-small-latest",
        key_env="MISTRAL_API_KEY",
        path="/v1/chat/completions",
        turn=PREFIX,
        tail=b'],"stream":true}',
        plain_tail=b'],"stream":true}',
        echoes=True,
    ),
    "mistral-keeps-white-space": Case(
        model="mistral:codestral-latest",
        key_env="MISTRAL_API_KEY",
        path="/v1/chat/completions",
        turn=b',{"role":"assistant","content":"a \\n","prefix":true}',
        tail=b'],"stream":true}',
        plain_tail=b'],"stream":true}',
        echoes=True,
        prefill="a \n",
    ),
    "deepseek-in-beta-without-thinking": Case(
        model="deepseek:deepseek-chat",
        key_env="DEEPSEEK_API_KEY",
        path="/beta/chat/completions",
        plain_path="/chat/completions",
        turn=PREFIX,
        tail=USAGE + b',"thinking":{"type":"disabled"}}',
        plain_tail=USAGE + b"}",
    ),
    "deepseek-reasoner-thinks": Case(
        model="deepseek:deepseek-reasoner",
        key_env="DEEPSEEK_API_KEY",
        path="/beta/chat/completions",
        plain_path="/chat/completions",
        turn=PREFIX,
        tail=USAGE + b"}",
    ),
    "moonshot": Case(
        model="moonshot:kimi-k2-0905-preview",
        key_env="MOONSHOT_API_KEY",
        path="/v1/chat/completions",
        turn=PARTIAL,
        tail=USAGE + b"}",
    ),
    "moonshot-without-thinking": Case(
        model="moonshot:kimi-k2.5",
        key_env="MOONSHOT_API_KEY",
        path="/v1/chat/completions",
        turn=PARTIAL,
        tail=USAGE + b',"thinking":{"type":"disabled"}}',
        plain_tail=USAGE + b"}",
    ),
    "dashscope-without-thinking": Case(
        model="dashscope:qwen-plus",
        key_env="DASHSCOPE_API_KEY",
        path="/compatible-mode/v1/chat/completions",
        turn=PARTIAL,
        tail=USAGE + b',"enable_thinking":false}',
        plain_tail=USAGE + b"}",
    ),
    "vllm-opens-no-turn": Case(
        model="vllm:meta-llama/Llama-3.1-8B-Instruct",
        key_env="VLLM_API_KEY",
        path="/v1/chat/completions",
        turn=TRAILING,
        tail=USAGE + b',"continue_final_message":true,"add_generation_prompt":false}',
        plain_tail=USAGE + b"}",
    ),
    "vllm-qwen-without-thinking": Case(
        model="vllm:Qwen/Qwen3-8B",
        key_env="VLLM_API_KEY",
        path="/v1/chat/completions",
        turn=TRAILING,
        tail=USAGE + b',"continue_final_message":true,"add_generation_prompt":false,'
        b'"chat_template_kwargs":{"enable_thinking":false}}',
        plain_tail=USAGE + b"}",
    ),
    "sglang-leaves-the-generation-prompt": Case(
        model="sglang:any",
        key_env="SGLANG_API_KEY",
        path="/v1/chat/completions",
        turn=TRAILING,
        tail=USAGE + b',"continue_final_message":true}',
        plain_tail=USAGE + b"}",
    ),
    "llama-cpp": Case(
        model="llama_cpp:any",
        key_env="LLAMA_API_KEY",
        path="/v1/chat/completions",
        turn=TRAILING,
        tail=USAGE + b',"continue_final_message":true,"add_generation_prompt":false}',
        plain_tail=USAGE + b"}",
    ),
    "llama-cpp-messages": Case(
        model="llama_cpp:any",
        api="messages",
        key_env="LLAMA_API_KEY",
        path="/v1/messages",
        head=MESSAGES_HEAD,
        turn=TRAILING,
        tail=b'],"stream":true}',
        headers=X_API_KEY,
        echoes=True,
        support="echoes",
    ),
    "llama-cpp-responses": Case(
        model="llama_cpp:any",
        api="responses",
        key_env="LLAMA_API_KEY",
        path="/v1/responses",
        head=b'{"model":"%","input":[{"role":"user","content":"Hi"}',
        turn=b',{"type":"message","role":"assistant","content":[{"type":"output_text","text":"[\\""}]}',
        tail=b'],"stream":true,"continue_final_message":true,"add_generation_prompt":false}',
        plain_tail=b'],"stream":true}',
    ),
    "ollama": Case(
        model="ollama:llama3.2:1b",
        key_env="OLLAMA_API_KEY",
        path="/api/chat",
        turn=TRAILING,
        tail=b'],"stream":true,"think":false}',
        plain_tail=b'],"stream":true}',
    ),
    "ollama-strips-white-space": Case(
        model="ollama:qwen3.5:9b",
        key_env="OLLAMA_API_KEY",
        path="/api/chat",
        turn=b',{"role":"assistant","content":"a"}',
        tail=b'],"stream":true,"think":false}',
        plain_tail=b'],"stream":true}',
        prefill="a ",
    ),
    "ollama-by-chat-completions": Case(
        model="ollama:qwen3.5:9b",
        api="chat",
        key_env="OLLAMA_API_KEY",
        path="/v1/chat/completions",
        turn=b',{"role":"assistant","content":"a"}',
        tail=USAGE + b"}",
        prefill="a ",
    ),
    "openrouter": Case(
        model="openrouter:anthropic/claude-haiku-4.5",
        key_env="OPENROUTER_API_KEY",
        path="/api/v1/chat/completions",
        turn=TRAILING,
        tail=USAGE + b"}",
    ),
    "groq": Case(
        model="groq:llama-3.3-70b-versatile",
        key_env="GROQ_API_KEY",
        path="/openai/v1/chat/completions",
        turn=TRAILING,
        tail=USAGE + b"}",
    ),
    "openai-on-the-callers-word": Case(
        model="openai:gpt-4o",
        key_env="OPENAI_API_KEY",
        path="/v1/chat/completions",
        turn=TRAILING,
        tail=USAGE + b"}",
        support="eats",
    ),
    "together-on-the-callers-word": Case(
        model="together:any",
        key_env="TOGETHER_API_KEY",
        path="/v1/chat/completions",
        turn=TRAILING,
        tail=USAGE + b"}",
        support="echoes",
        echoes=True,
    ),
}


#: Hosts that are reached through an SDK's client: the path, and a function that makes the client from a URL.
SDK_CASES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "vertex:claude-haiku-4-5@20251001": (
        "/projects/p/locations/r/publishers/anthropic/models/claude-haiku-4-5@20251001:streamRawPredict",
        lambda url: anthropic.AsyncAnthropicVertex(base_url=url, region="r", project_id="p", access_token=KEY),
    ),
    "bedrock:eu.anthropic.claude-sonnet-4-5-20250929-v1:0": (
        "/model/eu.anthropic.claude-sonnet-4-5-20250929-v1:0/invoke-with-response-stream",
        lambda url: anthropic.AsyncAnthropicBedrock(base_url=url, aws_region="r", api_key=KEY),
    ),
    "foundry:claude-opus-4-5": (
        "/v1/messages",
        lambda url: anthropic.AsyncAnthropicFoundry(base_url=url, api_key=KEY),
    ),
}


def table(server: Server) -> SupportTable:
    """The built-in hosts with their own paths, moved to the loopback server."""
    lines = []
    hosts = {(row.provider, row.api): row for row in builtin_table().rows() if row.provider != "demo" and row.base_url}
    for row in hosts.values():
        lines += ["[[host]]", f'provider = "{row.provider}"', f'api = "{row.api}"']
        lines.append(f'base_url = "{moved(row.base_url, server)}"')
        if row.prefill_base_url:
            lines.append(f'prefill_base_url = "{moved(row.prefill_base_url, server)}"')
    return SupportTable.load("\n".join(lines))


def moved(url: str, server: Server) -> str:
    return server.url + urlsplit(url).path


def body(case: Case, turn: bytes, tail: bytes) -> bytes:
    return case.head.replace(b"%", case.model.partition(":")[2].encode()) + turn + tail


def named(exchange: Exchange) -> dict[str, str]:
    """Return the headers that identify the caller."""
    return {name: exchange.headers[name] for name in NAMES if name in exchange.headers}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_host_on_the_wire(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request with a prefill has the dialect's URL, turn and fields; one without is ordinary.

    The key is in its header.
    """
    monkeypatch.setenv(case.key_env, KEY)
    script = Script(text='x", "y"]', prefill="echoes" if case.echoes else "eats")
    async with serve(script) as server, Session(case.model, api=case.api, table=table(server)) as session:
        spliced = await session.stream("Hi", prefill=case.prefill, support=case.support).text()
        plain = await session.stream("Hi").text()
    assert (spliced, plain) == (case.prefill + 'x", "y"]', 'x", "y"]')
    with_prefill, without = server.exchanges
    assert (with_prefill.method, with_prefill.path) == ("POST", case.path)
    assert (without.method, without.path) == ("POST", case.plain_path or case.path)
    assert with_prefill.body == body(case, case.turn, case.tail)
    assert without.body == body(case, b"", case.plain_tail or case.tail)
    assert named(with_prefill) == named(without) == (case.headers or BEARER)
    assert with_prefill.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("model", "case"), SDK_CASES.items(), ids=[name.partition(":")[0] for name in SDK_CASES])
async def test_a_host_behind_an_sdk_s_client(model: str, case: tuple[str, Any]) -> None:
    """An SDK's client sends the same turn, without the white space at the end that Claude refuses.

    The model is in the path or in the body, as the host requires.
    """
    path, make = case
    async with serve(Script(text="\n42.", prefill="eats")) as server, make(server.url) as client:
        async with Session(model, client=client) as session:
            assert await session.stream("Hi", prefill="The answer is\n").text() == "The answer is\n42."
    exchange = server.exchanges[0]
    assert (exchange.path, exchange.model) == (path, model.partition(":")[2])
    assert exchange.json["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "The answer is"},
    ]
    assert exchange.json["max_tokens"] == 4096
    assert ("anthropic_version" in exchange.json) is ("model" not in exchange.json)


def test_the_cases_cover_every_dialect_and_every_host_that_takes_a_prefill() -> None:
    """The control: the cases cover every dialect and every built-in host that takes a prefill."""
    rows = [row for row in builtin_table().rows() if row.native and row.provider != "demo"]
    named_by = [(*case.model.partition(":")[::2], case.api) for case in CASES.values()]
    named_by += [(*model.partition(":")[::2], None) for model in SDK_CASES]
    cases = [builtin_table().row(provider, model, api) for provider, model, api in named_by]
    # Hosts of a protocol that `serve()` does not speak are tested with the sample of the codec's contract.
    played = [row for row in rows if endpoint_of(codec(row.codec).path(model_input()))]
    assert {(row.provider, row.api) for row in played} <= {(row.provider, row.api) for row in cases}
    assert {row.dialect for row in rows} == {"trailing", "prefix", "partial", "continue_final_message"}
    assert {row.dialect for row in cases if row.native} == {row.dialect for row in rows}


@pytest.mark.parametrize("does", ["eats", "echoes"])
async def test_no_text_is_lost_on_the_build_of_llama_server_that_is_there(does: str) -> None:
    """On llama-server's /v1/messages no assistant turn is sent unless `support=` says so, and no text is lost.

    One build leaves the prefill out of its reply and another repeats it.
    """
    asked, native = Script(text=" ha ha ha ha ha", prefill="ignores"), Script(text=" ha ha ha", prefill=does)
    async with serve([asked, native]) as server:
        async with Session("llama_cpp:m", api="messages", table=table(server)) as session:
            reply = session.stream("Laugh.", prefill=" ha ha")
            assert await reply.text() == " ha ha ha ha ha"
            assert (reply.mode, server.exchanges[0].prefill) == ("emulated", "")
            assert await session.stream("Laugh.", prefill=" ha ha", support=does).text() == " ha ha ha ha ha"
            assert server.exchanges[1].prefill == " ha ha"


@pytest.mark.parametrize(
    ("model", "api"),
    [
        ("vllm:m", None),
        ("sglang:m", None),
        ("llama_cpp:m", None),
        ("llama_cpp:m", "messages"),
        ("llama_cpp:m", "responses"),
        ("ollama:llama3.2", None),
    ],
)
async def test_an_engine_without_a_key_is_sent_none(model: str, api: str | None) -> None:
    """An engine without a key gets no empty `Bearer`, and no other host's key from the environment."""
    async with serve(Script(text="x")) as server, Session(model, api=api, table=table(server)) as session:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("OPENAI_API_KEY", KEY)
            environment.setenv("ANTHROPIC_API_KEY", KEY)
            assert await session.stream("Hi", prefill="a").text() == "ax"
    sent = named(server.exchanges[0])
    sent.pop("anthropic-version", None)
    assert sent == {}
    assert KEY not in str(server.exchanges[0].headers)


async def test_gemini_on_vertex() -> None:
    """The project is in the base URL, and the key is a token. Without the caller's word, a prefill is emulated."""
    base = "/v1/projects/p/locations/us-east5/publishers/google"
    path = f"{base}/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    async with serve(Script(text='x"]', prefill="eats")) as server:
        vertex = {"model": "vertex:gemini-2.5-flash", "api": "native", "base_url": server.url + base, "api_key": KEY}
        assert await stream("Hi", prefill='["', support="eats", **vertex).text() == '["x"]'
        unknown = stream("Hi", prefill='["', **vertex)
        await unknown.text()
    assert [exchange.path for exchange in server.exchanges] == [path, path]
    assert named(server.exchanges[0]) == BEARER
    assert server.exchanges[0].body == GEMINI_HEAD + GEMINI_TURN + b"]}"
    assert unknown.mode == "emulated"
    with pytest.raises(UsageError, match="pass base_url"):
        stream("Hi", model="vertex:gemini-2.5-flash", api="native", api_key=KEY)


async def test_a_base_url_of_the_callers_own_stays() -> None:
    """A prefill is also sent to the caller's `base_url=`, not to the special prefill URL of the host."""
    async with serve(Script(text="x")) as server:
        base = server.url + "/mine/"
        reply = stream("Hi", prefill="[", model="deepseek:deepseek-chat", base_url=base, api_key=KEY)
        assert await reply.text() == "[x"
        assert [one.path for one in server.exchanges] == ["/mine/chat/completions"]
        assert server.exchanges[0].body == (
            b'{"model":"deepseek-chat","messages":[{"role":"user","content":"Hi"},'
            b'{"role":"assistant","content":"[","prefix":true}],"stream":true,'
            b'"stream_options":{"include_usage":true},"thinking":{"type":"disabled"}}'
        )


#: Every argument of a request, for both protocols.
OPTIONS: dict[str, Any] = {
    "system": "Be brief.",
    "max_tokens": 9,
    "stop": ["b<", "<e>", "c"],
    "temperature": 0.5,
    "tools": [{"name": "f"}],
    "extra": {"seed": 1},
}


@pytest.mark.parametrize(
    ("model", "more", "sent"),
    [
        (
            "deepseek:deepseek-chat",
            {"support": "eats", "extra": {"seed": 1, "thinking": {"type": "disabled", "note": 1}}},
            (
                b'{"model":"deepseek-chat","messages":[{"role":"system","content":"Be brief."},'
                b'{"role":"user","content":"Hi"},{"role":"assistant","content":"a<","prefix":true}],'
                b'"max_tokens":9,"stop":["b<","c"],"temperature":0.5,"tools":[{"name":"f"}],"stream":true,'
                b'"stream_options":{"include_usage":true},"thinking":{"type":"disabled","note":1},"seed":1}'
            ),
        ),
        (
            "vllm:m",
            {"support": "eats", "extra": {"seed": 1, "stream_options": None, "add_generation_prompt": None}},
            (
                b'{"model":"m","messages":[{"role":"system","content":"Be brief."},'
                b'{"role":"user","content":"Hi"},{"role":"assistant","content":"a<"}],'
                b'"max_tokens":9,"stop":["b<","c"],"temperature":0.5,"tools":[{"name":"f"}],"stream":true,'
                b'"continue_final_message":true,"seed":1}'
            ),
        ),
        (
            "mistral:mistral-small-latest",
            {"support": "echoes", "extra": {"seed": 1, "stream_options": {"include_usage": True}}},
            (
                b'{"model":"mistral-small-latest","messages":[{"role":"system","content":"Be brief."},'
                b'{"role":"user","content":"Hi"},{"role":"assistant","content":"a<","prefix":true}],'
                b'"max_tokens":9,"stop":["b<","c"],"temperature":0.5,"tools":[{"name":"f"}],"stream":true,'
                b'"stream_options":{"include_usage":true},"seed":1}'
            ),
        ),
        (
            "openai:gpt-4o",
            {"support": "eats"},
            (
                b'{"model":"gpt-4o","messages":[{"role":"system","content":"Be brief."},'
                b'{"role":"user","content":"Hi"},{"role":"assistant","content":"a<"}],'
                b'"max_completion_tokens":9,"stop":["b<","c"],"temperature":0.5,"tools":[{"name":"f"}],"stream":true,'
                b'"stream_options":{"include_usage":true},"seed":1}'
            ),
        ),
        (
            "gemini:gemini-2.5-flash",
            {"support": "eats", "extra": {"generationConfig": {"seed": 1}}},
            (
                b'{"systemInstruction":{"parts":[{"text":"Be brief."}]},"contents":[{"role":"user","parts":[{"text":"Hi"}]},'
                b'{"role":"model","parts":[{"text":"a<"}]}],"tools":[{"name":"f"}],"generationConfig":'
                b'{"maxOutputTokens":9,"stopSequences":["b<","c"],"temperature":0.5,"seed":1}}'
            ),
        ),
        (
            "anthropic:claude-haiku-4-5",
            {"support": "eats"},
            (
                b'{"model":"claude-haiku-4-5","max_tokens":9,"system":"Be brief.",'
                b'"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"a<"}],'
                b'"stop_sequences":["b<","c"],"temperature":0.5,"tools":[{"name":"f"}],"stream":true,"seed":1}'
            ),
        ),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
async def test_everything_a_request_can_say(model: str, more: dict[str, Any], sent: bytes) -> None:
    """The caller's `extra` wins over the dialect, and a stop sequence that could match known text is not sent.

    `support=` is needed because the table does not know whether tools and a prefill work together.
    """
    async with serve(Script(text="x")) as server, Session(model, api_key=KEY, table=table(server)) as session:
        await session.stream("Hi", prefill="a<", **{**OPTIONS, **more}).text()
    assert server.exchanges[0].body == sent

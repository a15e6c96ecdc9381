"""The support table: what it says, how it is checked, and the bytes that carry a prefill."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aprefill._errors import UsageError
from aprefill._support import (
    Refusal,
    Row,
    Table,
    builtin_table,
    carry,
    refusal,
    split_model,
    support_table,
)
from aprefill._types import Support

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("APREFILL_SHARED") or ROOT.parent / "shared")
USER = {"role": "user", "content": "Hi"}
MESSAGES = (USER,)

needs_recordings = pytest.mark.skipif(
    not (SHARED / "recordings").is_dir(), reason=f"no recordings in {SHARED}; APREFILL_SHARED says where they are"
)


def row(provider: str, model: str, api: str | None = None) -> Row:
    return builtin_table().row(provider, model, api)


def body(found: Row, model: str, prefill: str, messages: tuple[dict[str, Any], ...] = MESSAGES) -> bytes:
    carried = carry(found, messages, prefill)
    return msgspec.json.encode({"model": model, "messages": carried.messages, **carried.body_fields})


# --- the dialects, byte for byte ------------------------------------------------------------------------------

DIALECTS = [
    ("anthropic", "claude-haiku-4-5", "trailing", b'{"role":"assistant","content":"{"}]}'),
    ("mistral", "mistral-small-latest", "prefix", b'{"role":"assistant","content":"{","prefix":true}]}'),
    (
        "deepseek",
        "deepseek-chat",
        "prefix",
        b'{"role":"assistant","content":"{","prefix":true}],"thinking":{"type":"disabled"}}',
    ),
    ("deepseek", "deepseek-reasoner", "prefix", b'{"role":"assistant","content":"{","prefix":true}]}'),
    (
        "vllm",
        "meta-llama/Llama-3.1-8B-Instruct",
        "continue_final_message",
        b'{"role":"assistant","content":"{"}],"continue_final_message":true,"add_generation_prompt":false}',
    ),
    (
        "vllm",
        "Qwen/Qwen3-8B",
        "continue_final_message",
        (
            b'{"role":"assistant","content":"{"}],"continue_final_message":true,"add_generation_prompt":false,'
            b'"chat_template_kwargs":{"enable_thinking":false}}'
        ),
    ),
    (
        "sglang",
        "any",
        "continue_final_message",
        b'{"role":"assistant","content":"{"}],"continue_final_message":true}',
    ),
    (
        "llama_cpp",
        "any",
        "continue_final_message",
        b'{"role":"assistant","content":"{"}],"continue_final_message":true,"add_generation_prompt":false}',
    ),
    ("ollama", "llama3.2:1b", "trailing", b'{"role":"assistant","content":"{"}]}'),
    ("openrouter", "anthropic/claude-haiku-4.5", "trailing", b'{"role":"assistant","content":"{"}]}'),
    ("groq", "llama-3.3-70b-versatile", "trailing", b'{"role":"assistant","content":"{"}]}'),
    (
        "moonshot",
        "kimi-k2.5",
        "partial",
        b'{"role":"assistant","content":"{","partial":true}],"thinking":{"type":"disabled"}}',
    ),
    ("moonshot", "kimi-k2-0905-preview", "partial", b'{"role":"assistant","content":"{","partial":true}]}'),
    (
        "dashscope",
        "qwen-plus",
        "partial",
        b'{"role":"assistant","content":"{","partial":true}],"enable_thinking":false}',
    ),
    ("demo", "eats", "trailing", b'{"role":"assistant","content":"{"}]}'),
    ("demo", "echoes", "trailing", b'{"role":"assistant","content":"{"}]}'),
]


@pytest.mark.parametrize(("provider", "model", "dialect", "rest"), DIALECTS)
def test_each_dialect_on_the_wire(provider: str, model: str, dialect: str, rest: bytes) -> None:
    """Every dialect's body is exactly the user's turn, the trailing turn with its flag, and the body's flags."""
    found = row(provider, model)
    head = b'{"model":"%s","messages":[{"role":"user","content":"Hi"},' % model.encode()
    assert (found.native, found.dialect) == (True, dialect)
    assert body(found, model, "{") == head + rest


@needs_recordings
def test_llama_server_body_is_the_one_that_was_recorded() -> None:
    """The body for llama.cpp is, byte for byte, the one that the real server was seen to continue."""
    name = "llama-server-chat-prefill-EAT-continue_final_message.request.json"
    recorded = (SHARED / "recordings/_local" / name).read_bytes().strip()
    carried = carry(row("llama_cpp", "x"), ({"role": "user", "content": "hello there"},), "the word is")
    sent = {"messages": carried.messages, "stream": True, "max_tokens": 12, "temperature": 0, **carried.body_fields}
    assert msgspec.json.encode(sent) == recorded


def test_only_deepseek_moves_to_another_base_url() -> None:
    """A prefill goes to DeepSeek's beta URL, an ordinary request to the other; no other host moves."""
    assert row("deepseek", "deepseek-chat").prefill_base_url == "https://api.deepseek.com/beta"
    assert row("deepseek", "deepseek-chat").base_url == "https://api.deepseek.com"
    assert {r.provider for r in support_table() if r.prefill_base_url} == {"deepseek"}


def test_the_caller_s_messages_and_the_table_stay_as_they_were() -> None:
    """`carry` gives fresh objects: changing what it gave changes neither the input nor the next request."""
    found = row("deepseek", "deepseek-chat")
    messages = [dict(USER)]
    carried = carry(found, messages, "x")
    carried.body_fields["thinking"]["type"] = "enabled"
    carried.messages[-1]["content"] = "y"
    assert messages == [USER]
    assert carry(found, messages, "x").body_fields == {"thinking": {"type": "disabled"}}


def test_the_turn_s_content_is_a_string_beside_list_contents() -> None:
    """SGLang ignores list content, so the trailing turn is a str whatever the other turns are."""
    listed = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    carried = carry(row("sglang", "any"), (listed,), "{")
    assert carried.messages == (listed, {"role": "assistant", "content": "{"})


def test_two_trailing_assistant_turns_are_refused() -> None:
    """llama.cpp answers 400 to them and Ollama puts a blank line between: never send them."""
    with pytest.raises(UsageError, match="assistant turn"):
        carry(row("llama_cpp", "any"), (USER, {"role": "assistant", "content": "a"}), "b")


def test_a_row_without_native_support_carries_nothing() -> None:
    """Asking `carry` for a host without native prefill is a fault here, not a request."""
    with pytest.raises(ValueError, match="no native prefill"):
        carry(row("openai", "gpt-4o"), MESSAGES, "{")


# --- white space ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefill", "sent", "stripped"),
    [
        ("The answer is ", "The answer is", " "),
        ("```python\n", "```python", "\n"),
        (" \n a \t\n\u00a0", " \n a", " \t\n\u00a0"),
        ("no blank", "no blank", ""),
    ],
)
def test_white_space_at_the_end_stays_here_where_the_host_refuses_it(prefill: str, sent: str, stripped: str) -> None:
    """Anthropic and Ollama get the prefill without its trailing white space, and the seam is told what is missing."""
    for found in (row("anthropic", "claude-haiku-4-5"), row("ollama", "qwen3.5:9b")):
        carried = carry(found, MESSAGES, prefill)
        assert (carried.sent, carried.stripped) == (sent, stripped)
        assert carried.messages[-1]["content"] == sent


def test_white_space_goes_out_where_the_host_keeps_it() -> None:
    """Hosts that pass white space through get the prefill as it is (the control of the rule above)."""
    kept = [r for r in support_table() if r.native and r.whitespace == "keep"]
    assert {r.provider for r in kept} >= {"mistral", "deepseek", "vllm", "sglang", "llama_cpp", "moonshot", "dashscope"}
    for found in kept:
        assert carry(found, MESSAGES, "a \n")[2:] == ("a \n", "")


@pytest.mark.parametrize("prefill", [" \n\t", ""])
def test_nothing_left_to_send_is_an_ordinary_request(prefill: str) -> None:
    """White space alone, stripped, leaves no turn and no flags; `stripped` still lets the seam drop it."""
    carried = carry(row("anthropic", "claude-haiku-4-5"), MESSAGES, prefill)
    assert carried == (MESSAGES, {}, "", prefill)


def test_no_prefill_needs_no_native_support() -> None:
    """An empty prefill adds nothing, whatever the host does with prefills."""
    for found in support_table():
        assert carry(found, MESSAGES, "") == (MESSAGES, {}, "", "")


# --- which models ---------------------------------------------------------------------------------------------

EATS = {
    "anthropic": """
        claude-opus-4-5 claude-opus-4-5-20251101 claude-opus-4-5@20251101 claude-haiku-4-5 claude-haiku-4-5-20251001
        claude-sonnet-4-5 claude-sonnet-4-5-20250929 CLAUDE-SONNET-4-5 claude-opus-4-1 claude-opus-4-1-20250805
        claude-opus-4-0 claude-opus-4-20250514 claude-sonnet-4-0 claude-sonnet-4-20250514 claude-sonnet-4@20250514
        claude-3-7-sonnet-20250219 claude-3-5-haiku-latest claude-3-5-sonnet-20241022 claude-3-opus-20240229
        claude-3-haiku-20240307 claude-2.1 claude-instant-1.2""",
    "deepseek": "deepseek-chat deepseek-reasoner deepseek-v4-flash deepseek-v4-pro",
    "groq": "llama3-70b-8192 llama-3.3-70b-versatile llama-3.1-8b-instant gemma2-9b-it",
    "ollama": "llama3.2 llama3.2:1b qwen3 qwen3:8b qwen3.5:27b gemma4:e2b qwen2.5-coder:7b deepseek-v3.1:671b",
    "openrouter": """
        anthropic/claude-haiku-4.5 anthropic/claude-sonnet-4.5 anthropic/claude-opus-4.5 anthropic/claude-opus-4.1
        anthropic/claude-sonnet-4 anthropic/claude-3.7-sonnet anthropic/claude-3-haiku
        anthropic/claude-4.5-haiku-20251001""",
    "moonshot": "kimi-k2.5 kimi-k2.6 kimi-k2-0905-preview kimi-k2-turbo-preview moonshot-v1-8k",
    "dashscope": "qwen-max qwen-plus-latest qwen3-max qwen3.7-plus qwen3-coder-plus qwen2.5-72b-instruct",
    "vllm": "meta-llama/Llama-3.1-8B-Instruct Qwen/Qwen3-32B anything",
    "sglang": "anything",
    "llama_cpp": "anything.gguf",
    "vertex": "claude-haiku-4-5@20251001 claude-sonnet-4-5 claude-3-7-sonnet@20250219",
    "foundry": "claude-haiku-4-5 claude-opus-4-5",
    "bedrock": """
        anthropic.claude-haiku-4-5-20251001-v1:0 us.anthropic.claude-haiku-4-5-20251001-v1:0
        eu.anthropic.claude-sonnet-4-5-20250929-v1:0 apac.anthropic.claude-sonnet-4-20250514-v1:0
        global.anthropic.claude-opus-4-5-20251101-v1:0 anthropic.claude-3-5-haiku-20241022-v1:0
        us.anthropic.claude-3-7-sonnet-20250219-v1:0 us.anthropic.claude-opus-4-1-20250805-v1:0""",
    "demo": "eats",
}
ECHOES = {
    "mistral": """
        mistral-small-latest mistral-large-2512 open-mistral-nemo ministral-8b-latest magistral-medium-latest
        codestral-latest devstral-small-2507 pixtral-12b-2409 open-mixtral-8x22b""",
    "demo": "echoes",
}
NOT_NATIVE = {
    "anthropic": """
        claude-opus-4-6 claude-opus-4-6-20260205 claude-opus-4-7 claude-opus-4-8 claude-sonnet-4-6 claude-opus-5
        claude-opus-5-5 claude-sonnet-5 claude-sonnet-5-5 claude-haiku-5 claude-haiku-5-5 claude-fable-5
        claude-fable-5-1 claude-fable-5-2 claude-mythos-preview claude-mythos-5 claude-mythos-5-1 claude-mythos-5-2
        claude-opus-4-50 claude-opus-4-51 claude-haiku-4-5-20261001 claude-opus-4-9 claude-opus-6 claude-sonnet-4-10
        claude-opus-4 claude-4-opus claude-30-opus my-claude-haiku-4-5 claude""",
    "openai": "gpt-4o gpt-4.1-mini gpt-3.5-turbo chatgpt-4o-latest o1 o3-mini o4-mini gpt-5 gpt-5.5 gpt-6",
    "mistral": "glm-5 deepseek-v4 labs-something",
    "deepseek": "deepseek-v5 something",
    "groq": "openai/gpt-oss-120b qwen/qwen3-32b meta-llama/llama-guard-4-12b qwen-qwq-32b mistral-saba-24b new-model",
    "ollama": "gpt-oss:20b qwen3.8:27b qwen3-coder:30b phi4 mistral llama4:scout my/qwen3",
    "openrouter": """
        anthropic/claude-opus-4.6 anthropic/claude-sonnet-4.6 anthropic/claude-opus-5 anthropic/claude-haiku-5.5
        anthropic/claude-fable-5.2 anthropic/claude-3.7-sonnet:thinking anthropic/claude-haiku-4.5:thinking
        openai/gpt-4o google/gemini-3.6-pro google/gemini-2.5-pro mistralai/mistral-small deepseek/deepseek-chat
        qwen/qwen3-32b""",
    "moonshot": "kimi-k2-thinking kimi-k2-thinking-turbo kimi-k2.7-code kimi-k3 kimi-k3-0905 kimi-k4",
    "dashscope": "qwen3-235b-a22b-thinking-2507 qwq-plus qvq-max qwen3-vl-32b-thinking qwen4-max",
    "together": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "fireworks": "accounts/fireworks/models/kimi-k2",
    "cerebras": "gpt-oss-120b llama-4-scout qwen-3.8-27b",
    "azure": "gpt-4o gpt-35-turbo gpt-5 my-deployment",
    "vertex": "claude-opus-4-6 claude-sonnet-5@20260701 claude-haiku-5-5 gemini-2.5-pro",
    "foundry": "claude-opus-4-6 my-claude-haiku-4-5",
    "bedrock": """
        us.anthropic.claude-opus-4-6-v1 anthropic.claude-opus-5-5-v1:0 global.anthropic.claude-sonnet-4-6
        meta.llama3-3-70b-instruct-v1:0 xx.anthropic.claude-haiku-4-5-20251001-v1:0
        arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-haiku-4-5-20251001-v1:0""",
    "openai-compatible": "anything",
    "demo": "prompt",
}


@pytest.mark.parametrize(
    ("support", "provider", "model"),
    [
        (support, provider, model)
        for support, names in ((Support.EATS, EATS), (Support.ECHOES, ECHOES), (Support.EMULATED, NOT_NATIVE))
        for provider, listed in names.items()
        for model in listed.split()
    ],
)
def test_support_by_model(support: Support, provider: str, model: str) -> None:
    """The allow-lists take what the facts name, dated variants too, and nothing that came later or is unknown."""
    found = row(provider, model)
    assert found.support is support
    assert (found.dialect == "prompt") is (not found.native)


def test_the_host_decides_not_the_wire() -> None:
    """llama-server echoes on the wire on which Anthropic leaves the prefill out, and eats on the other."""
    assert row("llama_cpp", "any", "messages").support is Support.ECHOES
    assert row("llama_cpp", "any", "chat").support is Support.EATS


def test_unknown_model_of_a_known_host() -> None:
    """A model that no entry names is unknown: emulated, with no evidence to show."""
    found = row("deepseek", "deepseek-v9")
    assert (found.models, found.evidence, found.source, found.date) == (("*",), "unknown", "", "")


def test_a_guess_is_not_believed() -> None:
    """A guess says what it guesses and counts as unknown."""
    guesses = [r for r in support_table() if r.evidence == "guess"]
    assert {r.support for r in guesses} == {Support.EMULATED}
    assert {r.guess for r in guesses} == {Support.EATS, Support.ECHOES, Support.EMULATED}
    assert row("together", "any").guess is Support.EATS


@pytest.mark.parametrize(
    ("provider", "model", "rest"),
    [
        ("openai", "gpt-4o", b'{"role":"assistant","content":"{"}]}'),
        ("openai-compatible", "x", b'{"role":"assistant","content":"{"}]}'),
        ("deepseek", "v9", b'{"role":"assistant","content":"{","prefix":true}],"thinking":{"type":"disabled"}}'),
        ("moonshot", "kimi-k9", b'{"role":"assistant","content":"{","partial":true}]}'),
    ],
)
def test_the_caller_s_word_takes_the_host_s_dialect(provider: str, model: str, rest: bytes) -> None:
    """`support=` on a model that is not known to take a prefill sends it the way this host would want it."""
    found = row(provider, model).forced(Support.EATS)
    assert (found.native, found.evidence, found.guess) == (True, "caller", None)
    assert body(found, model, "{").endswith(b'"content":"Hi"},' + rest)
    back = found.forced(Support.EMULATED)
    assert (back.native, back.dialect) == (False, "prompt")


@pytest.mark.parametrize(("model", "sent"), [("gpt-4o", True), ("o4-mini", False), ("gpt-5", False), ("gpt-9", False)])
def test_stop_sequences_that_openai_s_newer_models_refuse(model: str, sent: bool) -> None:
    """Unknown OpenAI models get no stop sequence: a refusal costs the call, watching for it ourselves does not."""
    assert row("openai", model).sends_stop is sent
    assert row("openai", model).max_stop == 4


def test_anthropic_takes_no_stop_sequence_of_white_space() -> None:
    """It answers 400 to one, on every model and through the gateways too; others take it."""
    assert not row("anthropic", "claude-haiku-4-5").blank_stop
    assert not row("anthropic", "unknown").blank_stop
    assert not row("openrouter", "anthropic/claude-haiku-4.5").blank_stop
    assert row("mistral", "mistral-small-latest").blank_stop


# --- what every row has ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", support_table(), ids=lambda r: f"{r.provider}-{r.api}-{r.models[0]}")
def test_every_row_is_whole(found: Row) -> None:
    """Evidence, source and date stand on every row that claims something, and every word is one of its list."""
    assert found.evidence in {"recording", "engine", "doc", "issue", "guess", "unknown"}
    if found.evidence != "unknown":
        assert found.source
        assert len(found.date) == 10
    assert found.codec in {"openai_chat", "anthropic_messages"}
    assert found.end in {"strict", "done"}
    assert found.auth in {"bearer", "x-api-key", "api-key", "none"}
    assert found.native_dialect in {"trailing", "prefix", "partial", "continue_final_message"}
    assert found.dialect == (found.native_dialect if found.native else "prompt")
    assert found.whitespace in {"keep", "strip"}
    assert set(found.conflicts) <= {"thinking", "tools", "tool_choice", "response_format"}
    assert set(found.conflicts.values()) <= {"breaks", "unknown"}
    assert {r.why for r in found.refusals} <= {"model", "thinking", "tools", "whitespace", "flags"}
    # A key may go in clear to this machine only.
    assert found.base_url.startswith(("https://", "http://localhost:", "demo:")) or not found.base_url
    # The messages API demands max_tokens.
    assert (found.max_tokens is not None) is (found.api == "messages")
    assert found.headers.keys() == ({"anthropic-version"} if found.codec == "anthropic_messages" else set())


def test_what_is_switched_off_conflicts() -> None:
    """Where the body switches thinking off, a caller who asks for it is told so, never overruled in silence."""
    off = [r for r in support_table() if r.native and "thinking" in json.dumps(dict(r.body_fields))]
    assert {r.provider for r in off} == {"deepseek", "vllm", "moonshot", "dashscope"}
    assert {r.conflicts["thinking"] for r in off} == {"breaks"}


def test_the_hosts_that_were_asked_for() -> None:
    """The built-in table has these hosts, with the default api first, and the engines need no key."""
    assert set(builtin_table().providers) >= {
        "anthropic", "openai", "mistral", "deepseek", "vllm", "sglang", "llama_cpp", "ollama", "openrouter", "groq",
        "openai-compatible", "demo",
    }  # fmt: skip
    assert row("anthropic", "x").api == "messages"
    assert row("llama_cpp", "x").api == "chat"
    free = {r.provider for r in support_table() if not r.key_required}
    assert free == {"vllm", "sglang", "llama_cpp", "ollama", "openai-compatible", "demo"}
    assert row("ollama", "x").end == "done"


def test_a_strangers_host_gets_no_vendor_s_key() -> None:
    """The row for an unknown base_url takes no key from a variable that belongs to a vendor."""
    for api in ("chat", "messages"):
        assert row("openai-compatible", "x", api).key_env == ("APREFILL_API_KEY",)


def test_unknown_names() -> None:
    """An unknown provider or api is the caller's error, and the message lists what there is."""
    with pytest.raises(UsageError, match=r"unknown provider 'antropic'; known are anthropic, openai"):
        row("antropic", "x")
    with pytest.raises(UsageError, match=r"llama_cpp has no api 'native'; it has chat, messages"):
        row("llama_cpp", "x", "native")


def test_rows_cannot_be_changed() -> None:
    """A row is shared by every call, so neither its fields nor its mappings can be set."""
    found = row("deepseek", "deepseek-chat")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.support = Support.ECHOES
    with pytest.raises(TypeError):
        found.body_fields["thinking"] = None


# --- names and hosts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openai:gpt-4o", ("openai", "gpt-4o")),
        ("ollama:llama3.2:1b", ("ollama", "llama3.2:1b")),
        ("llama3.2:1b", (None, "llama3.2:1b")),
        ("ft:gpt-4o:me::x", (None, "ft:gpt-4o:me::x")),
        ("gpt-4o", (None, "gpt-4o")),
        ("openrouter:anthropic/claude-haiku-4.5:beta", ("openrouter", "anthropic/claude-haiku-4.5:beta")),
        ("openai", (None, "openai")),
        (":x", (None, ":x")),
    ],
)
def test_split_model(text: str, expected: tuple[str | None, str]) -> None:
    """Only the first colon splits, and only behind a known provider."""
    assert split_model(text, builtin_table().providers) == expected


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.anthropic.com", "anthropic"),
        ("https://API.Anthropic.com:443/v1/", "anthropic"),
        ("https://api.deepseek.com/beta", "deepseek"),
        ("https://api.moonshot.cn/v1", "moonshot"),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("http://localhost:11434/v1", "ollama"),
        ("http://127.0.0.1:11434/v1", "ollama"),
        ("http://localhost:8000/v1", None),
        ("http://localhost:8080/v1", None),
        ("https://api.anthropic.com.example.org", None),
        ("https://example.org/api.anthropic.com", None),
        ("https://api.anthropic.com@example.org", None),
        ("https://xapi.anthropic.com", None),
        ("https://api.anthropic.com:8443", None),
        ("http://api.anthropic.com", None),
        ("https://[::1", None),
        ("https://host:port", None),
        ("demo:", None),
        ("", None),
    ],
)
def test_provider_of_url(url: str, provider: str | None) -> None:
    """A host is known by its whole name and port; a port of this machine says nothing, save Ollama's own."""
    assert builtin_table().provider_of_url(url) == provider


# --- refusals -------------------------------------------------------------------------------------------------

REFUSALS = [
    (
        "anthropic",
        "model",
        "This model does not support assistant message prefill. The conversation must end with a user message.",
    ),
    ("anthropic", "whitespace", "messages: final assistant content cannot end with trailing whitespace"),
    (
        "anthropic",
        "thinking",
        (
            "messages.3.content.0.type: Expected `thinking` or `redacted_thinking`, but found `text`. When `thinking` is "
            "enabled, a final `assistant` message must start with a thinking block."
        ),
    ),
    (
        "anthropic",
        "tools",
        (
            "Your API request included an `assistant` message in the final position, which would pre-fill the `assistant` "
            "response. When using tools, pre-filling the `assistant` response is not supported."
        ),
    ),
    (
        "openrouter",
        "model",
        (
            '{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\\"type\\":\\"error\\",\\"error\\":{\\"type\\":'
            '\\"invalid_request_error\\",\\"message\\":\\"This model does not support assistant message prefill. The '
            'conversation must end with a user message.\\"}}","provider_name":"Anthropic"}}}'
        ),
    ),
    (
        "openrouter",
        "model",
        "Requests ending with a model turn are not supported unless the last part is a function response.",
    ),
    (
        "mistral",
        "flags",
        "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
    ),
    (
        "deepseek",
        "flags",
        "The last message of deepseek-reasoner must be a user message, or an assistant message with prefix mode on",
    ),
    ("vllm", "flags", "Cannot set both `continue_final_message` and `add_generation_prompt` to True."),
    ("sglang", "flags", "continue_final_message needs add_generation_prompt to open the assistant turn."),
    ("llama_cpp", "flags", "Cannot set both add_generation_prompt and continue_final_message to true."),
    ("llama_cpp", "thinking", "Assistant response prefill is incompatible with enable_thinking."),
    ("moonshot", "thinking", "invalid thinking: only type=enabled is allowed for this model"),
    (
        "openai-compatible",
        "model",
        (
            "The model that you are using requires the last turn in the conversation to be a user message. Add a user "
            "message to the conversation and try again."
        ),
    ),
    (
        "openai-compatible",
        "model",
        "Please ensure that multiturn requests ends with a user role or a function response",
    ),
]


@pytest.mark.parametrize(("provider", "why", "text"), REFUSALS)
def test_known_refusals(provider: str, why: str, text: str) -> None:
    """The real texts are known, in any case and with any white space, and only with their status."""
    found = row(provider, "any")
    known = refusal(found, 400, text)
    assert isinstance(known, Refusal)
    assert known.why == why
    assert refusal(found, 400, text.upper().replace(" ", "\n  "))
    assert not refusal(found, 422, text)
    assert not refusal(found, 500, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "max_tokens: Field required",
        'messages: roles must alternate between "user" and "assistant", but found multiple "user" roles in a row',
        "messages.1: all messages must have non-empty content except for the optional final assistant message",
        "messages.1.content.0: unexpected `tool_use_id` found in `tool_result` blocks",
        "messages.5.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`.",
        "does not support successive user or assistant messages (messages[1] and messages[2] in your input)",
        "After the (optional) system message(s), user and assistant roles should be alternating.",
        "Cannot have 2 or more assistant messages at the end of the list.",
        "thinking is enabled but reasoning_content is missing in assistant tool call message",
        "cannot specify both 'thinking' and 'reasoning_effort'",
        "This model does not support image input",
        "A conversation must start with a user message. Try again with a conversation that starts with a user message.",
        "prompt is too long: 250000 tokens > 200000 maximum",
    ],
)
def test_other_errors_are_no_refusals(text: str) -> None:
    """The control: errors about other things, though they speak of assistant messages, teach nothing about prefill."""
    assert not [(r.provider, r.models) for r in support_table() if refusal(r, 400, text)]


@needs_recordings
def test_no_recorded_error_is_taken_for_a_refusal() -> None:
    """None of the recorded error bodies is about a prefill, and none is taken for one, by any row."""
    errors = sorted((SHARED / "recordings/_errors").glob("*.json"))
    assert len(errors) >= 20
    for path in errors:
        status = json.loads(path.read_bytes())["status"]
        text = path.with_suffix(".body").read_text("utf-8", "replace")
        assert not [r.provider for r in support_table() if refusal(r, status, text)], path.name


@needs_recordings
def test_recorded_errors_of_llama_server() -> None:
    """Its 400 about the flags is known; its 400 about two assistant turns is another matter."""
    local = SHARED / "recordings/_local"
    found = row("llama_cpp", "any")
    assert refusal(found, 400, (local / "llama-server-chat-400.sse").read_text())
    assert not refusal(found, 400, (local / "llama-server-chat-two-assistants.sse").read_text())


@needs_recordings
def test_rows_with_recordings_say_what_was_recorded() -> None:
    """Each recorded exchange with a prefill went as its row says: a trailing turn, and the reply leaves it out."""
    seen = set()
    for path in sorted((SHARED / "recordings/_prefill").glob("*.json")):
        recorded = json.loads(path.read_bytes())
        provider, prefill = recorded["provider"], recorded["prefill"]
        if provider not in {"anthropic", "openrouter"}:
            continue
        if recorded["request"]["messages"][-1]["content"] not in (prefill, [{"type": "text", "text": prefill}]):
            continue  # a paused turn sent back, with what its tools found
        found = row(provider, recorded["request"]["model"])
        assert (found.support, found.evidence, found.dialect) == (Support.EATS, "recording", "trailing")
        reply = _reply(path.with_suffix(".body").read_text())
        assert reply
        assert not reply.startswith(prefill)
        seen.add((provider, found.models))
    assert seen == {(r.provider, r.models) for r in support_table() if r.evidence == "recording"}


def _reply(text: str) -> str:
    if text.startswith("event:"):
        events = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]
        return "".join(event.get("delta", {}).get("text", "") for event in events)
    whole = json.loads(text)
    return str(whole["choices"][0]["message"]["content"] if "choices" in whole else whole["content"][0]["text"])


# --- a caller's table -----------------------------------------------------------------------------------------

OWN = """
[[host]]
provider = "anthropic"
api = "messages"

[[host.model]]
match = ["claude-opus-9"]
support = "eats"
evidence = "issue"
source = "we tried it"
date = 2026-11-23

[[host.model]]
match = ["claude-haiku-4-5"]
support = "unsupported"
evidence = "issue"
source = "ours does not"
date = 2026-11-23

[[host]]
provider = "acme"
api = "chat"
codec = "openai_chat"
base_url = "https://llm.acme.example/v1"
key_env = ["ACME_KEY"]
auth = "bearer"
dialect = "partial"
refusals = ["acme-says-no", "claude-model"]

[[host.model]]
match = ["*"]
support = "echoes"
evidence = "engine"
source = "our own"
date = 2026-11-23
whitespace_echo = true

[refusal.acme-says-no]
status = 409
text = "Sorry, we do not do prefills here"
why = "model"
source = "our own"
date = 2026-11-23
"""


def test_a_caller_s_table_wins_and_the_rest_stays() -> None:
    """A caller's entries come first, new hosts join, and what it does not name is as built in."""
    table = Table.load(OWN)
    assert table.row("anthropic", "claude-opus-9").support is Support.EATS
    assert carry(table.row("anthropic", "claude-opus-9"), MESSAGES, "a ").stripped == " "
    assert table.row("anthropic", "claude-haiku-4-5").support is Support.UNSUPPORTED
    assert table.row("anthropic", "claude-haiku-4-5-20251001").support is Support.EATS
    assert table.row("anthropic", "claude-opus-4-6").support is Support.EMULATED
    acme = table.row("acme", "m1")
    assert (acme.support, acme.dialect, acme.whitespace_echo) == (Support.ECHOES, "partial", True)
    assert refusal(acme, 409, "sorry, we do not do  prefills here.")
    assert refusal(acme, 400, REFUSALS[0][2])
    assert table.provider_of_url("https://llm.acme.example/v1") == "acme"
    assert table.providers == (*builtin_table().providers, "acme")
    assert builtin_table().row("anthropic", "claude-haiku-4-5").support is Support.EATS


def test_a_caller_may_move_a_built_in_host() -> None:
    """A [[host]] that exists needs only what differs, and a known address may be given another owner."""
    table = Table.load(
        '[[host]]\nprovider = "vllm"\napi = "chat"\nbase_url = "https://gpu.example/v1"\nkey_env = ["GPU_KEY"]\n'
    )
    found = table.row("vllm", "x")
    assert (found.base_url, found.key_env) == ("https://gpu.example/v1", ("GPU_KEY",))
    assert body(found, "x", "{") == body(row("vllm", "x"), "x", "{")
    assert table.provider_of_url("https://gpu.example") == "vllm"
    own = OWN.replace("https://llm.acme.example/v1", "https://api.groq.com/own")
    assert Table.load(own).provider_of_url("https://api.groq.com") == "acme"


def test_a_caller_s_table_from_a_file(tmp_path: Path) -> None:
    """A path, as a str or a Path, is read; one that is not there is the caller's error."""
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    assert Table.load(path).rows() == Table.load(str(path)).rows() == Table.load(OWN).rows()
    with pytest.raises(UsageError, match="cannot read it"):
        Table.load(tmp_path / "absent.toml")


ENTRY = """
[[host]]
provider = "acme"
api = "chat"
codec = "openai_chat"
base_url = "https://llm.acme.example/v1"
auth = "bearer"
refusals = []

[[host.model]]
match = ["good"]
support = "eats"
evidence = "doc"
source = "s"
date = 2026-11-23

[[host.model]]
match = ["m-*"]
support = "eats"
evidence = "doc"
source = "s"
date = 2026-11-23
turn_fields = {}
"""


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('match = ["m-*"]\nsupport = "eats"', 'match = ["m-*"]\nsupport = "eat"', ["m-*", "`support`", "eats, echoes"]),
        ('match = ["m-*"]\n', 'match = ["M-*"]\n', ["entry 2", "lower case"]),
        ('match = ["m-*"]\n', "", ["entry 2", "`match`"]),
        ('match = ["m-*"]\n', 'match = "m-*"\n', ["entry 2", "`match`", "array"]),
        ("turn_fields = {}", "turn_field = {}", ["m-*", "`turn_field`"]),
        ("turn_fields = {}", 'turn_fields = { role = "user" }', ["m-*", "turn_fields", "role"]),
        ("turn_fields = {}", 'dialect = "prefixed"', ["m-*", "`dialect`", "partial"]),
        ("turn_fields = {}", 'dialect = "prompt"', ["m-*", "`dialect`"]),
        ("turn_fields = {}", 'whitespace = "trim"', ["m-*", "`whitespace`", "keep, strip"]),
        ("turn_fields = {}", 'prefill_base_url = "x"', ["m-*", "prefill_base_url", "https://"]),
        ("turn_fields = {}", "whitespace_echo = true", ["m-*", "whitespace_echo", "eats"]),
        ("turn_fields = {}", 'conflicts = { thinking = "yes" }', ["m-*", "`conflicts"]),
        ("turn_fields = {}", 'conflicts = { seed = "breaks" }', ["m-*", "`conflicts"]),
        ("date = 2026-11-23\nturn", "date = 2026\nturn", ["m-*", "`date`"]),
        ('source = "s"\ndate = 2026-11-23\nturn', 'source = " "\ndate = 2026-11-23\nturn', ["m-*", "source"]),
        (
            '"doc"\nsource = "s"\ndate = 2026-11-23\nturn',
            '"hearsay"\nsource = "s"\ndate = 2026-11-23\nturn',
            ["`evidence`", "guess"],
        ),
        ('codec = "openai_chat"\n', "", ["host acme/chat", "`codec`"]),
        ('auth = "bearer"', 'auth = "basic"', ["host acme/chat", "`auth`", "x-api-key"]),
        ('"https://llm.acme.example/v1"', '"llm.acme.example"', ["host acme/chat", "base_url", "https://"]),
        ('api = "chat"', 'api = "chats"', ["host acme/chats", "`api`", "responses"]),
        ('api = "chat"', "", ["host acme/?", "`api`"]),
        ('provider = "acme"', 'provider = "ac:me"', ["host ac:me/chat", "provider"]),
        ("refusals = []", 'refusals = ["no-such"]', ["host acme/chat", "`refusals`", "refusal.no-such"]),
        ("refusals = []", 'hosts = ["not a host:x"]', ["host acme/chat", "hosts"]),
        ("refusals = []", 'max_tokens = "many"', ["host acme/chat", "`max_tokens`"]),
        ("[[host]]", "[[hosts]]", ["`hosts`"]),
        (
            "[[host]]",
            '[refusal.r]\nstatus = 400\ntext = "no"\nwhy = "model"\nsource = "s"\ndate = 2026-11-23\n[[host]]',
            ["refusal r", "20 characters"],
        ),
        ("refusals = []", "refusals = [", ["cannot read it"]),
    ],
)
def test_a_wrong_table_is_told_where_it_is_wrong(old: str, new: str, parts: list[str]) -> None:
    """A mistake in a table is a `UsageError` that names the host, the entry and the key."""
    assert Table.load(ENTRY).row("acme", "m-1").support is Support.EATS
    assert ENTRY.count(old) >= 1
    with pytest.raises(UsageError) as caught:
        Table.load(ENTRY.replace(old, new))
    message = str(caught.value)
    assert not [part for part in parts if part not in message], message


# --- reading --------------------------------------------------------------------------------------------------


def test_the_file_is_read_at_the_first_question_and_once() -> None:
    """Importing the module opens no table; the first question opens it, the second does not."""
    program = """
import sys
opened = []
sys.addaudithook(lambda event, args: event == "open" and str(args[0]).endswith("models.toml") and opened.append(1))
import aprefill._support as support
counts = [len(opened)]
support.support_table()
counts.append(len(opened))
support.support_table(), support.builtin_table().row("openai", "x")
counts.append(len(opened))
print(counts)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.strip() == "[0, 1, 1]"


def test_the_page_in_the_docs_is_fresh() -> None:
    """`docs/support.md` is what the generator writes from this table."""
    done = subprocess.run(
        [sys.executable, "docs/_support_table.py", "--check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

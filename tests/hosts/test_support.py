"""The support table: what it says, how it is checked, and the bytes that carry a prefill.

A dialect is the form of a request that makes a host continue a prefill: a turn, a flag or a field.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from typing import TYPE_CHECKING

import pytest

from aprefill._codecs import codec
from aprefill._errors import UsageError
from aprefill._hosts.table import SupportTable, _builtin_raw, builtin_table, split_model, support_table
from aprefill._plan.conflicts import rule
from aprefill._types import Support

from ..support.table import body, row

if TYPE_CHECKING:
    from aprefill._hosts.row import SupportRow


# --- models ---------------------------------------------------------------------------------------------------

EATS = {
    "anthropic": """
        claude-opus-4-5 claude-opus-4-5-20251101 claude-opus-4-5@20251101 claude-haiku-4-5 claude-haiku-4-5-20251001
        claude-sonnet-4-5 claude-sonnet-4-5-20250929 CLAUDE-SONNET-4-5 claude-opus-4-1 claude-opus-4-1-20250805
        claude-opus-4-0 claude-opus-4-20250514 claude-sonnet-4-0 claude-sonnet-4-20250514 claude-sonnet-4@20250514
        claude-3-7-sonnet-20250219 claude-3-5-haiku-latest claude-3-5-sonnet-20241022 claude-3-opus-20240229
        claude-3-haiku-20240307 claude-2.1 claude-instant-1.2""",
    "deepseek": "deepseek-chat deepseek-reasoner deepseek-v4-flash deepseek-v4-pro",
    "gemini": """
        gemini-2.5-pro gemini-2.5-flash gemini-2.5-flash-lite gemini-2.5-flash-preview-09-2025 gemini-2.0-flash
        gemini-2.5-pro-preview-05-06 gemini-3-pro-preview gemini-3-flash-preview gemini-3.1-pro-preview
        gemini-3.1-flash-lite gemini-3.5-flash Gemini-2.5-Flash""",
    "groq": "llama3-70b-8192 llama-3.3-70b-versatile llama-3.1-8b-instant gemma2-9b-it",
    "ollama": "llama3.2 llama3.2:1b qwen3 qwen3:8b qwen3.5:27b gemma4:e2b qwen2.5-coder:7b deepseek-v3.1:671b",
    "openrouter": """
        google/gemini-2.5-pro google/gemini-2.5-flash google/gemini-2.5-flash-lite google/gemini-3.5-flash
        google/gemini-2.5-flash-preview-09-2025 google/gemini-2.5-pro-preview-05-06
        anthropic/claude-haiku-4.5 anthropic/claude-sonnet-4.5 anthropic/claude-opus-4.5 anthropic/claude-opus-4.1
        anthropic/claude-sonnet-4 anthropic/claude-3.7-sonnet anthropic/claude-3-haiku
        anthropic/claude-4.5-haiku-20251001""",
    "moonshot": "kimi-k2.5 kimi-k2.6 kimi-k2-0905-preview kimi-k2-turbo-preview moonshot-v1-8k",
    "dashscope": "qwen-max qwen-plus-latest qwen3-max qwen3.7-plus qwen3-coder-plus "
    "qwen2.5-72b-instruct qwen-vl-max qwen3-vl-235b-a22b-instruct "
    "qwen-plus-2025-07-28 qwen2.5-7b-instruct-1m",
    "vllm": "meta-llama/Llama-3.1-8B-Instruct Qwen/Qwen3-32B anything",
    "sglang": "anything",
    "llama_cpp": "anything.gguf qwen3-8b-instruct",
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
    "gemini": """
        gemini-3.5-flash-lite gemini-3.5-flash-lite-001 gemini-3.6-flash gemini-3.7-flash gemini-3.8-pro gemini-3.9-pro
        gemini-4-pro gemini-1.5-pro gemini-flash-latest gemini-pro-latest gemini-2.5-flash-image gemini-3.5-flash-image
        gemini-2.5-flash-preview-tts gemini-3.10-flash gemma-3-27b-it""",
    "groq": "openai/gpt-oss-120b qwen/qwen3-32b meta-llama/llama-guard-4-12b qwen-qwq-32b mistral-saba-24b new-model",
    "ollama": "gpt-oss:20b qwen3.8:27b qwen3-coder:30b phi4 mistral llama4:scout my/qwen3",
    "openrouter": """
        anthropic/claude-opus-4.6 anthropic/claude-sonnet-4.6 anthropic/claude-opus-5 anthropic/claude-haiku-5.5
        anthropic/claude-fable-5.2 anthropic/claude-3.7-sonnet:thinking anthropic/claude-haiku-4.5:thinking
        openai/gpt-4o google/gemini-3.6-pro google/gemini-3.5-flash-lite google/gemini-3.7-flash google/gemini-3.8-flash
        google/gemini-3.9-pro google/gemini-3.5-flash-lite-preview google/gemini-2.5-flash-preview:thinking
        mistralai/mistral-small deepseek/deepseek-chat
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
    """The patterns match the models with evidence and their dated variants, and no newer or unknown model."""
    found = row(provider, model)
    assert found.support is support
    assert (found.dialect == "prompt") is (not found.native)


def test_the_host_decides_not_the_wire() -> None:
    """Support depends on the host and not on the protocol alone.

    llama-server leaves the prefill out on chat. On /v1/messages its builds differ, so the caller must say.
    """
    found = row("llama_cpp", "any", "messages")
    assert (found.support, found.evidence) == (Support.EMULATED, "engine")
    assert found.with_support(Support.ECHOES).native
    assert found.with_support(Support.EATS).native
    assert row("llama_cpp", "any", "chat").support is Support.EATS


@pytest.mark.parametrize(
    ("setting", "word"),
    [("response_format", None), ("grammar", "breaks"), ("thinking", "unknown"), ("tools", "unknown")],
)
def test_llama_server_feeds_a_schema_the_prefill_and_a_grammar_not(setting: str, word: str | None) -> None:
    """On llama-server a JSON schema works with a native prefill, and a grammar does not."""
    assert rule(row("llama_cpp", "any", "chat").conflicts, setting) == word


def test_a_grammar_is_judged_as_a_response_format_where_nothing_else_is_said() -> None:
    """In every other row the rule for `grammar` is the same as for `response_format`."""
    others = [r for r in support_table() if (r.provider, r.api) != ("llama_cpp", "chat")]
    assert {rule(r.conflicts, "grammar") == rule(r.conflicts, "response_format") for r in others} == {True}
    assert rule(row("vllm", "any").conflicts, "grammar") == "breaks"


def test_the_ends_of_two_models_are_notes() -> None:
    """The retirement dates of two models are notes in their rows, only on Anthropic's own host."""
    notes = {r.models[0]: r.note for r in support_table() if r.note.startswith("retirement")}
    assert notes == {
        "claude-opus-4-5": "retirement date on api.anthropic.com: 2027-01-22",
        "claude-sonnet-4-5": "retirement date on api.anthropic.com: 2026-11-30",
    }


def test_the_calendar_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table does not depend on the date: it says the same in the year 2033."""
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert datetime.date.today().year == 2033  # The control: code that asks for the date gets the changed one.
    later = SupportTable(_builtin_raw())
    assert later.rows() == support_table()
    for model in ("claude-sonnet-4-5", "claude-opus-4-5"):
        assert later.row("anthropic", model).support is Support.EATS


#: Models that do not chat, or that the evidence about these hosts does not cover: speech, images, embeddings, and
#: models that complete a prompt. The name alone must not make such a model native or claim evidence for it.
NO_CHAT = {
    "openai": """
        gpt-4o-mini-tts gpt-4o-transcribe gpt-4o-mini-transcribe gpt-4o-transcribe-diarize gpt-4o-audio-preview
        gpt-4o-realtime-preview gpt-4o-mini-realtime-preview gpt-realtime gpt-audio gpt-image-1 chatgpt-image-latest
        gpt-3.5-turbo-instruct gpt-3.5-turbo-instruct-0914 davinci-002 whisper-1 tts-1 text-embedding-3-small
        gpt-4o-search-preview gpt-5-image o1-pro o3-deep-research omni-moderation-latest""",
    "azure": "gpt-4o-mini-tts gpt-4o-transcribe gpt-4o-audio-preview gpt-4o-realtime-preview "
    "gpt-35-turbo-instruct whisper",
    "openrouter": """
        openai/gpt-3.5-turbo-instruct openai/gpt-4o-audio-preview openai/gpt-5-image openai/gpt-oss-120b
        google/gemini-2.5-flash-image google/gemini-2.5-flash-image-preview google/gemini-2.5-flash-preview-tts
        google/gemini-2.5-pro-preview-tts google/gemini-2.5-flash-native-audio google/gemini-3.5-flash-image
        google/gemini-embedding-001 cohere/rerank-v3.5 minimax/speech-02""",
    "mistral": """
        mistral-embed mistral-ocr-latest mistral-ocr-2505 mistral-moderation-latest mistral-moderation-2411
        codestral-embed codestral-embed-2505 voxtral-mini-latest voxtral-mini-transcribe-2507 voxtral-mini-tts""",
    "groq": """
        whisper-large-v3 whisper-large-v3-turbo distil-whisper-large-v3-en playai-tts canopylabs/orpheus-v1-english
        meta-llama/llama-prompt-guard-2-86m""",
    "dashscope": """
        qwen-tts qwen-tts-latest qwen3-tts-flash qwen3-asr-flash qwen-vl-ocr qwen-vl-ocr-latest qwen-omni-turbo
        qwen-omni-turbo-realtime qwen3-omni-flash qwen2.5-omni-7b qwen-audio-turbo qwen-mt-plus qwen-turbo-realtime
        qwen3-vl-embedding qwen3-vl-rerank qwen-image-plus qwen-plus-character qwen-max-realtime text-embedding-v4
        qwen2.5-7b qwen2.5-coder-7b""",
    "moonshot": "kimi-audio-7b kimi-audio-7b-instruct",
    "deepseek": "deepseek-ocr",
    "vllm": "openai/whisper-large-v3 Qwen/Qwen3-TTS Qwen/Qwen3-ASR-1.7B Qwen/Qwen3-Embedding-8B Qwen/Qwen3-Reranker-4B",
    "sglang": "openai/whisper-large-v3 Qwen/Qwen3-Embedding-8B",
    "llama_cpp": "qwen3-tts whisper-large-v3 qwen3-embedding-0.6b qwen3-reranker",
    "ollama": "lfm2-audio lfm2.5-audio:1.5b llama3.1:8b-text-q4_0 qwen2.5-coder:7b-base "
    "nomic-embed-text qwen3-embedding:8b",
}


@pytest.mark.parametrize(
    ("provider", "model"), [(provider, model) for provider, names in NO_CHAT.items() for model in names.split()]
)
def test_speech_and_instruct_models_are_not_taken_for_others(provider: str, model: str) -> None:
    """No pattern for chat models matches them: nothing is known about them, so they are not native."""
    found = row(provider, model)
    assert (found.support, found.evidence in {"unknown", "guess"}) == (Support.EMULATED, True)


def test_unknown_model_of_a_known_host() -> None:
    """A model that no entry names is emulated, with evidence "unknown"."""
    found = row("deepseek", "deepseek-v9")
    assert (found.models, found.evidence, found.source, found.date) == (("*",), "unknown", "", "")


def test_a_guess_is_not_believed() -> None:
    """A guess is recorded in the row but treated as unknown."""
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
    """`support=` for a model that is not known to take a prefill uses the host's own dialect."""
    found = row(provider, model).with_support(Support.EATS)
    assert (found.native, found.evidence, found.guess) == (True, "caller", None)
    assert body(found, model, "{").endswith(b'"content":"Hi"},' + rest)
    back = found.with_support(Support.EMULATED)
    assert (back.native, back.dialect) == (False, "prompt")


@pytest.mark.parametrize(("model", "sent"), [("gpt-4o", True), ("o4-mini", False), ("gpt-5", False), ("gpt-9", False)])
def test_stop_sequences_that_openai_s_newer_models_refuse(model: str, sent: bool) -> None:
    """Unknown OpenAI models are sent no stop sequence: a refusal would fail the call, a local stop does not."""
    assert row("openai", model).sends_stop is sent
    assert row("openai", model).max_stop == 4


def test_anthropic_takes_no_stop_sequence_of_white_space() -> None:
    """Anthropic answers 400 to a stop sequence of white space, on every model and through gateways.

    Others accept it.
    """
    assert not row("anthropic", "claude-haiku-4-5").blank_stop
    assert not row("anthropic", "unknown").blank_stop
    assert not row("openrouter", "anthropic/claude-haiku-4.5").blank_stop
    assert row("mistral", "mistral-small-latest").blank_stop


# --- every row ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", support_table(), ids=lambda r: f"{r.provider}-{r.api}-{r.models[0]}")
def test_every_row_is_whole(found: SupportRow) -> None:
    """Every row with a claim has evidence, source and date, and every value is a known word."""
    assert found.evidence in {"recording", "engine", "doc", "issue", "guess", "unknown"}
    if found.evidence != "unknown":
        assert found.source
        assert len(found.date) == 10
    assert found.end in codec(found.codec).end_rules
    assert found.native_dialect in {"trailing", "prefix", "partial", "continue_final_message"}
    assert found.dialect == (found.native_dialect if found.native else "prompt")
    assert found.whitespace in {"keep", "strip"}
    assert set(found.conflicts) <= {"thinking", "tools", "tool_choice", "response_format", "grammar"}
    assert set(found.conflicts.values()) <= {"breaks", "unknown"}
    assert {r.why for r in found.refusals} <= {"model", "thinking", "tools", "whitespace", "flags"}
    # A key may be sent in clear text to this machine only.
    assert found.base_url.startswith(("https://", "http://localhost:", "demo:")) or not found.base_url
    # The messages API demands max_tokens.
    assert (found.max_tokens is not None) is (found.api == "messages")
    assert found.headers.keys() == ({"anthropic-version"} if found.codec == "anthropic_messages" else set())


def test_what_is_switched_off_conflicts() -> None:
    """If a row's body switches thinking off, a caller who switches it on gets a conflict and is not overruled."""
    off = [r for r in support_table() if r.native and "think" in json.dumps(dict(r.body_fields))]
    assert {r.provider for r in off} == {"deepseek", "vllm", "moonshot", "dashscope", "ollama"}
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
    assert row("ollama", "x").api == "native"
    assert row("ollama", "x", "chat").end == "done"


def test_a_strangers_host_gets_no_vendor_s_key() -> None:
    """The row for an unknown base_url takes no key from the environment variable of a vendor."""
    for api in ("chat", "messages"):
        assert row("openai-compatible", "x", api).key_env == ("APREFILL_API_KEY",)


def test_unknown_names() -> None:
    """An unknown provider or api raises `UsageError`, and the message lists the known ones."""
    with pytest.raises(UsageError, match=r"unknown provider 'antropic'; use one of anthropic, openai"):
        row("antropic", "x")
    with pytest.raises(UsageError, match=r"llama_cpp has no api 'native'; use one of chat, messages"):
        row("llama_cpp", "x", "native")


def test_rows_cannot_be_changed() -> None:
    """All calls share the rows, so neither their fields nor their mappings can be changed."""
    found = row("deepseek", "deepseek-chat")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.support = Support.ECHOES
    with pytest.raises(TypeError):
        found.body_fields["thinking"] = None


# --- names and URLs -------------------------------------------------------------------------------------------


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
    """A model is split only at the first colon, and only after a known provider."""
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
    """A host is recognised by its whole name and port. A port on this machine means nothing, except Ollama's."""
    assert builtin_table().provider_of_url(url) == provider

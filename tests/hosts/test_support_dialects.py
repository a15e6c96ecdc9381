"""How a prefill is sent: the last turn of every dialect, byte for byte, and white space at the end of the prefill.

A dialect is the form of a request that makes a host continue a prefill: a turn, a flag or a field.
A trailing turn is the last turn of the messages. Here it is the assistant's and holds the prefill.
The seam is the code that joins the prefill and the model's text.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aprefill._errors import UsageError
from aprefill._hosts.prefill import attach_prefill
from aprefill._hosts.table import support_table

from ..support.table import MESSAGES, SHARED, USER, body, needs_recordings, row

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
    """Each dialect's body is exactly the user's turn, the trailing assistant turn with its flag, and other flags."""
    found = row(provider, model)
    head = b'{"model":"%s","messages":[{"role":"user","content":"Hi"},' % model.encode()
    assert (found.native, found.dialect) == (True, dialect)
    assert body(found, model, "{") == head + rest


@needs_recordings
def test_llama_server_body_is_the_one_that_was_recorded() -> None:
    """The body for llama.cpp is, byte for byte, the one that a real server was recorded to continue."""
    name = "llama-server-chat-prefill-EAT-continue_final_message.request.json"
    recorded = (SHARED / "recordings/_local" / name).read_bytes().strip()
    carried = attach_prefill(row("llama_cpp", "x"), ({"role": "user", "content": "hello there"},), "the word is")
    sent = {"messages": carried.messages, "stream": True, "max_tokens": 12, "temperature": 0, **carried.body_fields}
    assert msgspec.json.encode(sent) == recorded


def test_only_deepseek_moves_to_another_base_url() -> None:
    """Only DeepSeek has a separate URL: a prefill is sent to its beta URL, and an ordinary request is not."""
    assert row("deepseek", "deepseek-chat").prefill_base_url == "https://api.deepseek.com/beta"
    assert row("deepseek", "deepseek-chat").base_url == "https://api.deepseek.com"
    assert {r.provider for r in support_table() if r.prefill_base_url} == {"deepseek"}


def test_the_caller_s_messages_and_the_table_stay_as_they_were() -> None:
    """`attach_prefill` returns new objects. Changing them changes neither the input nor the next request."""
    found = row("deepseek", "deepseek-chat")
    messages = [dict(USER)]
    carried = attach_prefill(found, messages, "x")
    carried.body_fields["thinking"]["type"] = "enabled"
    carried.messages[-1]["content"] = "y"
    assert messages == [USER]
    assert attach_prefill(found, messages, "x").body_fields == {"thinking": {"type": "disabled"}}


def test_the_turn_s_content_is_a_string_beside_list_contents() -> None:
    """The trailing assistant turn has a str as content, even if other turns have lists: SGLang ignores lists there."""
    listed = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    carried = attach_prefill(row("sglang", "any"), (listed,), "{")
    assert carried.messages == (listed, {"role": "assistant", "content": "{"})


def test_two_trailing_assistant_turns_are_refused() -> None:
    """Two trailing assistant turns are refused: llama.cpp answers 400, and Ollama puts a blank line between them."""
    with pytest.raises(UsageError, match="assistant turn"):
        attach_prefill(row("llama_cpp", "any"), (USER, {"role": "assistant", "content": "a"}), "b")


def test_a_row_without_native_support_carries_nothing() -> None:
    """Calling `attach_prefill` for a host without a native prefill is a bug in aprefill and raises an error."""
    with pytest.raises(ValueError, match="no native prefill"):
        attach_prefill(row("openai", "gpt-4o"), MESSAGES, "{")


# --- white space at the end -----------------------------------------------------------------------------------


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
    """Anthropic and Ollama get the prefill without the white space at its end, and the seam is told what is missing."""
    for found in (row("anthropic", "claude-haiku-4-5"), row("ollama", "qwen3.5:9b")):
        carried = attach_prefill(found, MESSAGES, prefill)
        assert (carried.sent, carried.stripped) == (sent, stripped)
        assert carried.messages[-1]["content"] == sent


def test_white_space_goes_out_where_the_host_keeps_it() -> None:
    """The control: hosts that keep white space get the prefill unchanged."""
    kept = [r for r in support_table() if r.native and r.whitespace == "keep"]
    assert {r.provider for r in kept} >= {"mistral", "deepseek", "vllm", "sglang", "llama_cpp", "moonshot", "dashscope"}
    for found in kept:
        assert attach_prefill(found, MESSAGES, "a \n")[2:4] == ("a \n", "")


@pytest.mark.parametrize("prefill", [" \n\t", ""])
def test_nothing_left_to_send_is_an_ordinary_request(prefill: str) -> None:
    """A prefill of only white space that is stripped leaves no turn and no flags.

    `stripped` still lets the seam drop such white space.
    """
    carried = attach_prefill(row("anthropic", "claude-haiku-4-5"), MESSAGES, prefill)
    assert carried[:4] == (MESSAGES, {}, "", prefill)
    assert not carried.must_echo


def test_no_prefill_needs_no_native_support() -> None:
    """An empty prefill adds nothing, whatever the host's support."""
    for found in support_table():
        assert attach_prefill(found, MESSAGES, "")[:4] == (MESSAGES, {}, "", "")


# --- the reply ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "model", "rules", "must_echo"),
    [
        # the host leaves the prefill out, but the white space that was not sent may come
        ("anthropic", "claude-haiku-4-5", {"stripped": " ", "echo": "never"}, False),
        ("vllm", "any", {"stripped": "", "echo": "never"}, False),
        # the host repeats the prefill
        ("mistral", "mistral-large-latest", {"stripped": "", "whitespace": False}, True),
    ],
)
def test_how_the_reply_is_spliced(provider: str, model: str, rules: dict[str, Any], must_echo: bool) -> None:
    """The row says whether the host repeats the prefill. White space that was not sent is never part of the echo."""
    carried = attach_prefill(row(provider, model), MESSAGES, "The answer is ")
    assert (carried.seam.known, dict(carried.seam.rules), carried.must_echo) == ("The answer is ", rules, must_echo)

"""Which answers of a host are a refusal of the prefill."""

from __future__ import annotations

import json

import pytest

from aprefill._support import (
    Refusal,
    refusal,
    support_table,
)
from aprefill._types import Support

from .test_support import SHARED, needs_recordings, row

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

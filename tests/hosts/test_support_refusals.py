"""Which answers of a host are refusals of the prefill.

A trailing assistant turn is an assistant turn at the end of the messages. It holds the prefill.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from aprefill._hosts.prefill import known_refusal
from aprefill._hosts.row import KnownRefusal
from aprefill._hosts.table import support_table
from aprefill._types import Support

from ..support.refusals import REFUSALS
from ..support.table import SHARED, needs_recordings, row

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(("provider", "why", "text"), REFUSALS)
def test_known_refusals(provider: str, why: str, text: str) -> None:
    """Real refusals are recognised in any case, with any white space, with any 4xx status and inside a 200."""
    found = row(provider, "any")
    known = known_refusal(found, 400, text)
    assert isinstance(known, KnownRefusal)
    assert known.why == why
    assert known_refusal(found, 400, text.upper().replace(" ", "\n  ")) is known
    for status in (200, 401, 403, 404, 409, 413, 422, 429, 499):
        assert known_refusal(found, status, text) is known
    for status in (101, 201, 204, 301, 307, 399, 500, 502, 503, 529):
        assert not known_refusal(found, status, text)


#: How gateways wrap the message of their upstream.
WRAPPED: dict[str, Callable[[str], str]] = {
    "as-it-is": str,
    "anthropic": lambda text: json.dumps(
        {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    ),
    "google": lambda text: json.dumps([{"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}}]),
    "litellm": lambda text: json.dumps(
        {
            "error": {
                "message": f"litellm.BadRequestError: AnthropicException - {WRAPPED['anthropic'](text)}",
                "code": "400",
            }
        }
    ),
    "litellm-vertex": lambda text: json.dumps(
        {"error": {"message": f"litellm.BadRequestError: VertexAIException - {WRAPPED['google'](text).encode()!r}"}}
    ),
    "openrouter": lambda text: json.dumps(
        {"error": {"message": "Provider returned error", "metadata": {"raw": WRAPPED["anthropic"](text)}}}
    ),
    "twice": lambda text: WRAPPED["litellm"](WRAPPED["openrouter"](text)),
    "escaped": lambda text: json.dumps({"message": text}).replace(" ", "\\n", 3).replace("`", "\\u0060"),
    "elsewhere": lambda text: json.dumps({"error": "upstream failed", "details": [{"upstream": {"said": text}}]}),
}


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize(("provider", "why", "text"), REFUSALS)
def test_the_words_of_any_row_are_known_on_every_host(how: str, provider: str, why: str, text: str) -> None:
    """The refusals of every row are recognised on every host with the same reason, whatever wraps them."""
    wrapped = WRAPPED[how](text)
    assert {known.why if (known := known_refusal(r, 400, wrapped)) else None for r in support_table()} == {why}


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("thinking", "invalid thinking: only type=enabled is allowed for this model"),
        ("continue_final_message", "Cannot set both `continue_final_message` and `add_generation_prompt` to True."),
        ("add_generation_prompt", "continue_final_message needs add_generation_prompt to open the assistant turn."),
        ("add_generation_prompt", "Cannot set both add_generation_prompt and continue_final_message to true."),
    ],
)
def test_an_error_about_a_field_of_the_caller_s_is_no_refusal(field: str, text: str) -> None:
    """An error about a field that the caller set is no refusal: without the prefill it would be the same."""
    found = row("openai", "any")
    assert known_refusal(found, 400, text, ())
    assert known_refusal(found, 400, text, {"temperature"})
    assert not known_refusal(found, 400, text, {field})


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
    """The control: other errors, even about assistant messages, are no refusals of the prefill."""
    for status in (200, 400, 422):
        assert not [(r.provider, r.models) for r in support_table() if known_refusal(r, status, text)]


@needs_recordings
def test_no_recorded_error_is_taken_for_a_refusal() -> None:
    """No row takes any of the recorded error bodies for a refusal. None of them is about a prefill."""
    errors = sorted((SHARED / "recordings/_errors").glob("*.json"))
    assert len(errors) >= 20
    for path in errors:
        status = json.loads(path.read_bytes())["status"]
        text = path.with_suffix(".body").read_text("utf-8", "replace")
        for like in (status, 200, 400, 422):
            assert not [r.provider for r in support_table() if known_refusal(r, like, text)], path.name


@needs_recordings
def test_recorded_errors_of_llama_server() -> None:
    """llama-server's 400 about the flags is a refusal. Its 400 about two assistant turns is not."""
    local = SHARED / "recordings/_local"
    found = row("llama_cpp", "any")
    assert known_refusal(found, 400, (local / "llama-server-chat-400.sse").read_text())
    assert not known_refusal(found, 400, (local / "llama-server-chat-two-assistants.sse").read_text())


@needs_recordings
def test_rows_with_recordings_say_what_was_recorded() -> None:
    """Each recorded exchange with a prefill agrees with its row: a trailing assistant turn, and no echo."""
    seen = set()
    for path in sorted((SHARED / "recordings/_prefill").glob("*.json")):
        recorded = json.loads(path.read_bytes())
        provider, prefill = recorded["provider"], recorded["prefill"]
        if provider not in {"anthropic", "openrouter"}:
            continue
        if recorded["request"]["messages"][-1]["content"] not in (prefill, [{"type": "text", "text": prefill}]):
            continue  # a paused turn that was sent back with the results of its tools
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

"""Answers of hosts that refuse a prefill."""

from __future__ import annotations

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

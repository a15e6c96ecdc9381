"""Shared by the tests of emulated replies: a prefill, the text that comes after it, and the request."""

from __future__ import annotations

from typing import Any

from aprefill import Reply, stream

from .loopback import QUESTION

NEW = 'Alabama", "Alaska"]'
SEED = '["'


def ask(server: Any, wire: str, prefill: str = SEED, **options: Any) -> Reply:
    """Return a reply from a model without native prefill."""
    if wire == "messages":
        return stream(
            options.pop("prompt", QUESTION), prefill=prefill, model="anthropic:claude-opus-4-6", base_url=server.url,
            api_key="k", **options,
        )  # fmt: skip
    return stream(
        options.pop("prompt", QUESTION), prefill=prefill, model="openai:gpt-4o", base_url=server.openai_url,
        api_key="k", **options,
    )  # fmt: skip

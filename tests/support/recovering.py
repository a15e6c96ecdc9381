"""Shared by the tests of recovery: scripts that refuse or work, and a reply that may send its request again."""

from __future__ import annotations

from typing import Any

from aprefill import Reply, stream
from aprefill.testing import Script

SEED = '["'
NEW = 'Alabama", "Alaska"]'
WHOLE = SEED + NEW
FINE = Script(text=NEW, prefill="eats")
#: Refuses a native prefill, and repeats the text that the prompt asks for.
REFUSES = Script(text=NEW, prefill="refuses", echo_text=SEED)


def ask(server: Any, wire: str, **options: Any) -> Reply:
    """Return a reply from a model that the table takes for one with native prefill."""
    options = {"prefill": SEED, **options}
    if wire == "messages":
        return stream(
            "hi", **{"model": "anthropic:claude-haiku-4-5", "base_url": server.url, "api_key": "k", **options}
        )
    model = "openai-compatible:m"
    return stream("hi", **{"model": model, "base_url": server.openai_url, "support": "eats", **options})


async def finished(reply: Reply) -> Reply:
    await reply.text()
    return reply

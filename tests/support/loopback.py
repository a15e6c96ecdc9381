"""Shared by the tests of whole replies: a reply from the loopback host, and its text."""

from __future__ import annotations

from typing import Any

import anyio

from aprefill import Recovery, Reply, stream
from aprefill.testing import Script

STATES = Script(text='Alabama", "Alaska"]', prefill="eats")
WHOLE = '["Alabama", "Alaska"]'
QUESTION = "JSON list of US state names"

WIRES = ["messages", "chat"]


def ask(server: Any, wire: str, **options: Any) -> Reply:
    """Return a reply from the loopback host in one protocol. Without `recovery=` there is no retry."""
    prompt = options.pop("prompt", QUESTION)
    options.setdefault("recovery", Recovery(retries=0))
    if wire == "messages":
        return stream(
            prompt, **{"model": "anthropic:claude-haiku-4-5", "base_url": server.url, "api_key": "k", **options}
        )
    return stream(prompt, **{"model": "vllm:m", "base_url": server.openai_url, **options})


async def chunks_of(reply: Reply) -> list[str]:
    return [chunk async for chunk in reply]


async def server_has(server: Any, exchanges: int) -> None:
    with anyio.fail_after(2):
        while len(server.exchanges) < exchanges:
            await anyio.lowlevel.checkpoint()

"""Records of the Chat Completions protocol."""

from __future__ import annotations

from typing import Any

NAME = "openai_chat"
DONE = b"[DONE]"


def chunk(reason: str | None = None, *, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


STOP = chunk("stop")

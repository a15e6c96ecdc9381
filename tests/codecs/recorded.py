"""The recorded replies that the codecs' tests read."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


CODECS = {
    "openai-chat": "openai_chat",
    "anthropic": "anthropic_messages",
    "gemini": "gemini",
    "ollama": "ollama",
    # "cohere-v1" stays out: it is another protocol, with other requests and events, which Cohere has replaced
    "cohere-v2": "cohere",
    "openai-responses": "openai_responses",
}


@cache
def recordings(folder: Path) -> list[dict[str, Any]]:
    index = json.loads((folder / "index.json").read_text())
    return [one | {"bytes": (folder / one["file"]).read_bytes()} for one in index if one["format"] in CODECS]

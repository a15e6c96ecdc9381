"""The server's records, compared with recorded streams of real hosts: every field, by name and type."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from aprefill.testing import Script

from . import asking, asking_others
from .asking import CALL, records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio

#: (format, framing) of the recordings.
RECORDED = {
    "anthropic": ("anthropic", "sse"),
    "openai": ("openai-chat", "sse"),
    "responses": ("openai-responses", "sse"),
    "ollama": ("ollama", "ndjson"),
    "gemini": ("gemini", "sse"),
    "gemini-array": ("gemini", "jsonarray"),
}

#: Fields that are in no recorded stream, because the recordings of Ollama have no tools. The documentation has them:
#:  https://github.com/ollama/ollama/blob/main/docs/api.md and https://ai.google.dev/api/generate-content#UsageMetadata
UNRECORDED = {
    ".message.tool_calls list",
    ".message.tool_calls[] object",
    ".message.tool_calls[].id str",
    ".message.tool_calls[].function object",
    ".message.tool_calls[].function.index number",
    ".message.tool_calls[].function.name str",
    ".message.tool_calls[].function.arguments object",
    ".usageMetadata.cachedContentTokenCount number",
}


def shape(value: Any, at: str = "") -> set[str]:
    """Return each field's path and the type of its value. The arguments of a tool call are not looked into."""
    if isinstance(value, dict) and at.endswith((".args", ".arguments", ".input")):
        return {f"{at} object"}
    if isinstance(value, dict):
        return {path for name, one in value.items() for path in shape(one, f"{at}.{name}")} | {f"{at} object"}
    if isinstance(value, list):
        return {path for one in value for path in shape(one, at + "[]")} | {f"{at} list"}
    kind = {int: "number", float: "number", type(None): "null"}.get(type(value), type(value).__name__)
    return {f"{at} {kind}"}


def objects(text: str, wire: str) -> Iterator[dict[str, Any]]:
    if wire in asking.WIRES:
        for _, data in records(text):
            if data != "[DONE]":
                yield json.loads(data)
    else:
        yield from asking_others.objects(text, wire)


def shape_of(text: str, wire: str) -> set[str]:
    """Return the shape of all records. If records have a type, each type has its own paths."""
    return {path for record in objects(text, wire) for path in shape(record, str(record.get("type", "")))}


@pytest.mark.parametrize("wire", RECORDED)
async def test_records_look_like_the_recorded_ones(wire: str, shared: Path) -> None:
    """A rich reply has no field that no recorded stream has, and lacks no usual field."""
    listed = json.loads((shared / "recordings/index.json").read_text())
    files = [one["file"] for one in listed if (one["format"], one["framing"]) == RECORDED[wire]]
    if wire == "responses":  # compatible hosts have fields of their own
        files = [file for file in files if file.startswith("openai-responses/")]
    assert len(files) >= 5
    recorded = Counter(path for file in files for path in shape_of((shared / "recordings" / file).read_text(), wire))
    # some recordings hold only an error, or come from a host that omits fields
    usual = {path for path, times in recorded.items() if times >= 0.95 * len(files)}
    sent = asking.sent if wire in asking.WIRES else asking_others.sent
    text = await sent(Script(text="Alabama", reasoning="Hm.", tools=[CALL], cached_tokens=3), wire, None)
    played = shape_of(text, wire)
    assert played - recorded.keys() - UNRECORDED == set()
    assert usual - played == set()
    # control: `usual` is not empty
    assert len(usual) > 5


def order(text: str, wire: str) -> list[str]:
    """Return the types of the events, with repetitions in a row as one."""
    return [kind for kind, _ in groupby(str(record["type"]) for record in objects(text, wire))]


@pytest.mark.parametrize("wire", ["anthropic", "responses"])
async def test_events_come_in_a_recorded_order(wire: str, shared: Path) -> None:
    """Reasoning, text and a tool call come in an order that some recording has."""
    listed = json.loads((shared / "recordings/index.json").read_text())
    folder = {"anthropic": "anthropic/", "responses": "openai-responses/"}[wire]
    kind = RECORDED[wire]
    files = [
        one["file"] for one in listed if (one["format"], one["framing"]) == kind and one["file"].startswith(folder)
    ]
    recorded = [order((shared / "recordings" / file).read_text(), wire) for file in files]
    sent = asking.sent if wire in asking.WIRES else asking_others.sent
    for script in (
        Script(text="Alabama"),
        Script(text="Alabama", reasoning="Hm."),
        Script(tools=[CALL]),
    ):
        assert order(await sent(script, wire, None), wire) in recorded

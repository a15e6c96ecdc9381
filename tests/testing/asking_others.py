"""How the tests ask on the wires that most tests leave out, and a reader of each.

OpenAI's /responses, Ollama's, and Gemini's as events and as one array.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from . import asking
from .asking import client_of, records

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from aprefill.testing import Server

WIRES = ("responses", "ollama", "gemini", "gemini-array")

MODEL = "some-model"
PREFILL = '["'
TEXT = 'Alabama", "Alaska"]'

_GEMINI = f"/v1beta/models/{MODEL}:streamGenerateContent"
PATHS = {
    "responses": "/v1/responses",
    "ollama": "/api/chat",
    "gemini": _GEMINI + "?alt=sse&key=any",
    "gemini-array": _GEMINI,
}


def turns(wire: str, prefill: str | None) -> dict[str, Any]:
    """What a request has of a conversation."""
    said = [("user", "Name two states.")] + ([] if prefill is None else [("assistant", prefill)])
    if wire == "responses":
        return {"input": [{"role": role, "content": text} for role, text in said]}
    if wire == "ollama":
        return {"messages": [{"role": role, "content": text} for role, text in said]}
    names = {"user": "user", "assistant": "model"}
    return {"contents": [{"role": names[role], "parts": [{"text": text}]} for role, text in said]}


async def ask(
    server: Server, wire: str, prefill: str | None = None, *, stream: bool = True, **more: Any
) -> httpx2.Response:
    """The whole response to one request on a connection of its own."""
    body = {"model": MODEL, "stream": stream, **turns(wire, prefill), **more}
    path = PATHS[wire]
    if wire.startswith("gemini"):
        del body["stream"], body["model"]
        if not stream:
            path = path.partition("?")[0].replace("streamGenerateContent", "generateContent")
    async with client_of(server) as client:
        return await client.post(server.url + path, json=body)


sent = partial(asking.sent, ask=ask)


def _elements(text: str) -> Iterator[Any]:
    """The elements of an array, or of what is there of one."""
    text = text.lstrip().removeprefix("[")
    while text := text.lstrip(" \r\n,"):
        try:
            value, end = json.JSONDecoder().raw_decode(text)
        except json.JSONDecodeError:
            return
        yield value
        text = text[end:]


def objects(text: str, wire: str) -> list[dict[str, Any]]:
    """Every whole record."""
    if wire == "ollama":
        return [json.loads(line) for line in text.split("\n")[:-1]]
    if wire == "gemini-array":
        return [one for one in _elements(text) if isinstance(one, dict)]
    # some of the recorded streams of /responses end with what only chat completions have
    return [json.loads(data) for _, data in records(text) if data != "[DONE]"]


def content(record: dict[str, Any], wire: str) -> str:
    """The text that a record adds."""
    if wire == "responses":
        return record["delta"] if record["type"] == "response.output_text.delta" else ""
    if wire == "ollama":
        return record.get("message", {}).get("content", "")
    parts = record["candidates"][0]["content"]["parts"] if "candidates" in record else []
    return "".join(part.get("text", "") for part in parts if not part.get("thought"))


def deltas(text: str, wire: str) -> list[str]:
    return [piece for record in objects(text, wire) if (piece := content(record, wire))]


def reason(text: str, wire: str) -> str | None:
    """Why it stopped, where the stream says so."""
    for record in objects(text, wire):
        if wire == "responses" and record["type"] in {"response.completed", "response.incomplete"}:
            why = record["response"]["incomplete_details"]
            return why["reason"] if why else record["response"]["status"]
        if wire == "ollama" and record.get("done"):
            return record["done_reason"]
        if "candidates" in record and "finishReason" in record["candidates"][0]:
            return record["candidates"][0]["finishReason"]
    return None


def is_whole(text: str, wire: str) -> bool:
    if wire == "gemini-array":
        try:
            json.loads(text)
        except json.JSONDecodeError:
            return False
    return reason(text, wire) is not None

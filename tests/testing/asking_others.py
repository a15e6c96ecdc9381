"""How these tests send requests in the formats that aprefill itself does not use, and a reader for each format.

The formats are OpenAI's /responses, Ollama's, and Gemini's as server-sent events and as one JSON array.
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
    """Return the fields of a request that hold the conversation."""
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
    """Return the whole response to one request, which has its own connection."""
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
    """Yield the elements of an array. If the array is cut off, yield its complete elements."""
    text = text.lstrip().removeprefix("[")
    while text := text.lstrip(" \r\n,"):
        try:
            value, end = json.JSONDecoder().raw_decode(text)
        except json.JSONDecodeError:
            return
        yield value
        text = text[end:]


def objects(text: str, wire: str) -> list[dict[str, Any]]:
    """Return every complete record."""
    if wire == "ollama":
        return [json.loads(line) for line in text.split("\n")[:-1]]
    if wire == "gemini-array":
        return [one for one in _elements(text) if isinstance(one, dict)]
    # some recorded streams of /responses end with `[DONE]`, which belongs to chat completions
    return [json.loads(data) for _, data in records(text) if data != "[DONE]"]


def content(record: dict[str, Any], wire: str) -> str:
    """Return the text that a record adds."""
    if wire == "responses":
        return record["delta"] if record["type"] == "response.output_text.delta" else ""
    if wire == "ollama":
        return record.get("message", {}).get("content", "")
    parts = record["candidates"][0]["content"]["parts"] if "candidates" in record else []
    return "".join(part.get("text", "") for part in parts if not part.get("thought"))


def deltas(text: str, wire: str) -> list[str]:
    return [piece for record in objects(text, wire) if (piece := content(record, wire))]


def reason(text: str, wire: str) -> str | None:
    """Return why the model stopped. None: the stream does not say it."""
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

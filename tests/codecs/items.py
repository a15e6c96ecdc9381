"""Records of the Responses protocol."""

from __future__ import annotations

from typing import Any

NAME = "openai_responses"


def said(text: str, index: int | None = 0, **more: Any) -> dict[str, Any]:
    return {"type": "response.output_text.delta", **at(index), "delta": text, **more}


def thought(text: str, kind: str = "reasoning_summary_text", index: int | None = 0) -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", **at(index), "delta": text}


def added(kind: str, index: int | None = 0, **item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.added", **at(index), "item": {"type": kind, **item}}


def done(kind: str, index: int | None = 0, **item: Any) -> dict[str, Any]:
    return whole({"type": kind, **item}, index)


def whole(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    return {"type": "response.output_item.done", **at(index), "item": item}


def arguments(text: str, index: int | None = 0, item_id: str | None = None) -> dict[str, Any]:
    named = {} if item_id is None else {"item_id": item_id}
    return {"type": "response.function_call_arguments.delta", **at(index), **named, "delta": text}


def at(index: int | None) -> dict[str, Any]:
    return {} if index is None else {"output_index": index}


def end(status: str = "completed", **response: Any) -> dict[str, Any]:
    return {"type": f"response.{status}", "response": {"status": status, **response}}


COMPLETED = end()

"""Records of the Messages protocol."""

from __future__ import annotations

from typing import Any

STOP = {"type": "message_stop"}


def start(id_: str = "m", **fields: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": id_, "stop_reason": None, **fields}}


def block(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def delta(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def end(index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def finish(reason: str | None, sequence: str | None = None, **usage: int) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": sequence},
        "usage": usage,
    }


def said(words: str) -> list[dict[str, Any]]:
    return [block("text", text=""), delta("text_delta", text=words), end()]


WHOLE = [
    start(usage={"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": 4}),
    block("thinking", thinking="", signature=""),
    {"type": "ping"},
    delta("thinking_delta", thinking="Hm."),
    delta("signature_delta", signature="sig"),
    end(),
    block("text", 1, text=""),
    delta("text_delta", 1, text="Hello"),
    delta("text_delta", 1, text=" there"),
    end(1),
    block("tool_use", 2, id="t1", name="look", input={}),
    delta("input_json_delta", 2, partial_json=""),
    delta("input_json_delta", 2, partial_json='{"a":'),
    delta("input_json_delta", 2, partial_json="1}"),
    end(2),
    finish("tool_use", output_tokens=30),
    STOP,
]

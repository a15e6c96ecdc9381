"""Shared by the tests of targets and keys."""

from __future__ import annotations

from typing import Any

import httpx2

from aprefill import stream

KEY = "sk-very-secret-0123456789"

CHAT = (
    b'data: {"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)

MESSAGES = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}'
    b'\n\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":'
    b'"hello"}}\n\nevent: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}'
    b'\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)


class Recorder:
    """A host instead of the network. It records which URLs were requested, and with which key."""

    def __init__(self, library: Any = httpx2) -> None:
        self.urls: list[str] = []
        self.keys: list[str] = []
        self._library = library

    def __call__(self, request: Any) -> Any:
        self.urls.append(str(request.url))
        self.keys.append(request.headers.get("authorization") or request.headers.get("x-api-key", ""))
        body = MESSAGES if request.url.path.endswith("/messages") else CHAT
        return self._library.Response(200, headers={"content-type": "text/event-stream"}, content=body, request=request)

    @property
    def transport(self) -> Any:
        return self._library.MockTransport(self)


def target_of(model: str, **options: Any) -> Any:
    return stream("hi", model=model, **options)._run.requests.target

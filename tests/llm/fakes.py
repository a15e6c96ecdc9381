"""Hosts on loopback that `aprefill.testing` does not play: OpenAI's /responses, Ollama's /api/chat, Gemini's own API.

As little of each as the plugins need. What the model writes is `text`, cut into pieces of four characters; a trailing
assistant turn is repeated or not, as `echoes` says; what the prompt asks to begin with is repeated if `obeys`.
"""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED = re.compile(r"<(text-[0-9a-f]+)>(.*?)</\1>", re.DOTALL)


class Host:
    """What it says, and what it was asked."""

    def __init__(self, text: str, *, obeys: bool = True, echoes: bool = False, stalls: bool = False) -> None:
        self.text = text
        #: set when a reply that stops half way may go on
        self.may_go_on = threading.Event()
        if not stalls:
            self.may_go_on.set()
        self.obeys = obeys
        self.echoes = echoes
        self.url = ""
        self.requests: list[tuple[str, dict[str, Any]]] = []

    @property
    def body(self) -> dict[str, Any]:
        """The last request's."""
        return self.requests[-1][1]

    def reply(self, turns: list[tuple[str, str]]) -> list[str]:
        """The pieces of the reply to these turns, (role, text)."""
        role, last = turns[-1]
        text = self.text
        if role in {"assistant", "model"}:
            text = last + text if self.echoes else text
        elif self.obeys and (found := ASKED.search(last)):
            text = found[2] + text
        return [text[i : i + 4] for i in range(0, len(text), 4)]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


def _responses(host: Host, body: dict[str, Any]) -> tuple[str, bytes]:
    pieces = host.reply([(item["role"], _text(item["content"])) for item in body["input"] if "role" in item])
    part = {"type": "output_text", "text": "".join(pieces), "annotations": []}
    message = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [part]}
    done = {
        "id": "r1", "object": "response", "created_at": 1, "model": body["model"], "status": "completed",
        "output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "usage": {
            "input_tokens": 5, "output_tokens": 7, "total_tokens": 12,
            "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
        },
    }  # fmt: skip
    if not body.get("stream"):
        return "application/json", json.dumps(done).encode()
    added = {"type": "response.output_item.added", "output_index": 0, "item": {**message, "content": []}}
    where = {"item_id": "m1", "output_index": 0, "content_index": 0, "logprobs": []}
    deltas = [{"type": "response.output_text.delta", "delta": piece, **where} for piece in pieces]
    ended = {"type": "response.output_item.done", "output_index": 0, "item": message}
    events = [added, *deltas, ended, {"type": "response.completed", "response": done}]
    lines = [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': i})}\n\n"
        for i, event in enumerate(events)
    ]
    return "text/event-stream", "".join(lines).encode()


def _ollama(host: Host, body: dict[str, Any]) -> tuple[str, bytes]:
    pieces = host.reply([(one["role"], one["content"]) for one in body["messages"]])
    base = {"model": body["model"], "created_at": "2026-11-22T00:00:00Z"}
    end = {**base, "done": True, "done_reason": "stop", "prompt_eval_count": 5, "eval_count": 7}
    if not body.get("stream"):
        whole = {**end, "message": {"role": "assistant", "content": "".join(pieces)}}
        return "application/json", json.dumps(whole).encode()
    records = [{**base, "message": {"role": "assistant", "content": piece}, "done": False} for piece in pieces]
    records.append({**end, "message": {"role": "assistant", "content": ""}})
    return "application/x-ndjson", "".join(json.dumps(record) + "\n" for record in records).encode()


def _gemini(host: Host, body: dict[str, Any]) -> tuple[str, bytes]:
    pieces = host.reply([(turn["role"], _text(turn["parts"])) for turn in body["contents"]])
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 12}
    records = [
        {
            "candidates": [{"content": {"role": "model", "parts": [{"text": piece}]}, "index": 0}],
            "modelVersion": "gemini-fake",
            "usageMetadata": usage,
        }
        for piece in pieces
    ]
    return "application/json", json.dumps(records).encode()


def _answer(host: Host, path: str, body: dict[str, Any]) -> tuple[str, bytes] | None:
    if path.endswith("/responses"):
        return _responses(host, body)
    if path == "/api/chat":
        return _ollama(host, body)
    if path.endswith(":streamGenerateContent"):
        return _gemini(host, body)
    if path == "/api/tags":
        names = ("llama3.2:latest", "some-tune:latest")
        models = [{"model": name, "name": name, "digest": name} for name in names]
        return "application/json", json.dumps({"models": models}).encode()
    if path == "/api/show":
        return "application/json", json.dumps({"capabilities": ["completion", "tools"], "model_info": {}}).encode()
    return None


@contextmanager
def serving(host: Host) -> Iterator[Host]:
    """The host, running; `host.url` is where."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            if not self.path.startswith("/api/s"):
                host.requests.append((self.path, body))
            self._say(_answer(host, self.path, body))

        def do_GET(self) -> None:
            self._say(_answer(host, self.path, {}))

        def _say(self, found: tuple[str, bytes] | None) -> None:
            kind, body = found or ("text/plain", b"nothing here")
            self.send_response(200 if found else 404)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            half = len(body) * 2 // 3
            self.wfile.write(body[:half])
            self.wfile.flush()
            if not self.path.startswith(("/api/s", "/api/t")):  # not what Ollama says of its models
                host.may_go_on.wait(5)
            self.wfile.write(body[half:])

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client has left, which is its right."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield host
    finally:
        host.may_go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()

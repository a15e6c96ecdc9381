"""The server of docs/examples/chat, without a browser. `nox -s browser` runs tests/browser, with a browser."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT = Path(__file__).parents[2] / "docs" / "examples" / "chat"
HOST = "http://127.0.0.1:8000"
REPLY = "ws://127.0.0.1:8000/reply"


@pytest.fixture
def client() -> Iterator[TestClient]:
    spec = importlib.util.spec_from_file_location("chat_example", CHAT / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with TestClient(module.app, base_url=HOST) as client:
        yield client


def records(client: TestClient, model: str, prefill: str = '["') -> list[dict[str, Any]]:
    """Return the records that the page receives."""
    question = {"role": "user", "content": "JSON list of US state names"}
    with client.websocket_connect(REPLY, headers={"origin": HOST}) as ws:
        ws.send_json({"messages": [question], "prefill": prefill, "model": model})
        found = []
        while not found or found[-1]["type"] not in {"end", "error"}:
            found.append(ws.receive_json())
    return found


def test_the_policy_lets_the_pages_own_code_run_and_nothing_else(client: TestClient) -> None:
    """The policy allows one script and one style by their hashes.

    The page has no URL, no event handler and no style in a tag.
    """
    response = client.get("/")
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    for tag in ("script", "style"):
        code = response.text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
        assert response.text.count(f"<{tag}") == 1
    assert not re.search(r"https?://|\bsrc=|\bhref=|<[^>]* (style|on\w+)=|innerHTML", response.text)


def test_the_prefill_comes_first_then_the_text(client: TestClient) -> None:
    """The prefill is sent before the host has accepted the request, so that the page can show it in grey."""
    first, second, *_, last = found = records(client, "demo:echoes")
    assert first == {"type": "text", "text": '["', "offset": 0, "prefill": True}
    assert second["type"] == "attempt"
    text = "".join(record["text"] for record in found if record["type"] == "text")
    assert text.startswith('["Alabama", "Alaska"')
    assert last["verdict"] == "echoed"
    assert all(last["timing"][name] is not None for name in ("accepted_s", "first_token_s", "held_s", "first_text_s"))


@pytest.mark.parametrize("model", ["", "nobody:knows", "anthropic:claude-haiku-4-5"])
def test_a_model_that_cannot_be_asked(client: TestClient, model: str) -> None:
    """If the model is unknown or has no key, the page gets one error record with a message."""
    (error,) = records(client, model)
    assert error["type"] == "error"
    assert error["error"] == "UsageError"
    assert error["message"]


def test_nobody_else_may_use_it(client: TestClient) -> None:
    """A page of another origin is refused. So is a page under another host name that resolves to this machine."""
    assert client.get("/", headers={"host": "chat.example"}).status_code == 400
    with pytest.raises(WebSocketDisconnect) as refused:
        with client.websocket_connect(REPLY, headers={"origin": "http://127.0.0.1:1"}):
            pass
    assert refused.value.code == 1008
    with pytest.raises(WebSocketDenialResponse):
        with client.websocket_connect("ws://chat.example/reply", headers={"origin": "http://chat.example"}):
            pass
    for documentation in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(documentation).status_code == 404


def test_what_is_not_a_question(client: TestClient) -> None:
    """An invalid request gets an error record with a sentence, without a stack trace or anything that was sent."""
    for send in (b"{}", b"{", b"[]", None):
        with client.websocket_connect(REPLY) as ws:
            if send is None:
                ws.send_bytes(b"{}")
            else:
                ws.send_text(send.decode())
            assert ws.receive_json() == {
                "type": "error",
                "error": "UsageError",
                "message": "the page has sent an invalid request; load it again",
            }


def test_a_message_has_nothing_that_only_a_program_can_do(client: TestClient) -> None:
    """An error message for the page says what happened. It does not name an argument, because a user passes none."""
    (error,) = records(client, "anthropic:claude-haiku-4-5")
    assert error["message"] == "no key for anthropic in ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN"
    (error,) = records(client, "nobody:knows")
    assert error["message"].startswith("model='nobody:knows' names no known provider")
    assert "pass " not in error["message"]

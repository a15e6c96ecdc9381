"""A JSON body where an event stream was announced: the host's error in it is read, however the body is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aprefill import PrefillRefused, ProtocolError, Recovery, StatusError
from aprefill._wire.sse import MAX_JSON_BYTES, SseDecoder

from ..support.bodies import DONE, chat, host
from . import ways

pytestmark = [pytest.mark.anyio, pytest.mark.any_loop]

WORDS = "This model does not support assistant message prefill. The conversation must end with a user message."
#: the body, and its error: the status and the host's message
ERRORS: list[tuple[Any, int, str]] = [
    ({"error": {"message": "no such model", "type": "not_found_error"}}, 404, "no such model"),
    ({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429, "slow down"),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529, "Overloaded"),
    ({"error": "out of memory"}, 200, "out of memory"),
    ([{"error": {"code": 400, "message": "bad request", "status": "INVALID_ARGUMENT"}}], 400, "bad request"),
]
LAYOUTS = {
    "compact": lambda value: json.dumps(value).encode(),
    "pretty": lambda value: json.dumps(value, indent=2).encode() + b"\n\n",
    "crlf": lambda value: b"\r\n  " + json.dumps(value, indent=2).replace("\n", "\r\n").encode(),
    "bom": lambda value: b"\xef\xbb\xbf" + json.dumps(value).encode() + b"\n",
}


def pieces(body: bytes) -> list[list[bytes]]:
    return [[body], [body[at : at + 1] for at in range(len(body))], [body[:2], body[2:5], body[5:]]]


@pytest.mark.parametrize("wire", ["chat", "messages"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("value", "status", "detail"), ERRORS)
async def test_it_is_the_host_s_error(wire: str, layout: str, value: Any, status: int, detail: str) -> None:
    """The error in such a body raises a `StatusError` with the host's message and status, as for `application/json`."""
    for cut in pieces(LAYOUTS[layout](value)):
        async with host(cut) as ask:
            with pytest.raises(StatusError) as met:
                await ask(wire).text()
            assert (met.value.status, met.value.detail, met.value.in_band) == (status, detail, True)


@pytest.mark.parametrize("wire", ["chat", "messages"])
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_refusal_in_it_is_a_refusal(wire: str, layout: str) -> None:
    """A refusal in such a body is recognised, byte by byte too, and if the connection breaks after it."""
    body = LAYOUTS[layout]({"error": {"message": WORDS, "type": "invalid_request_error"}})
    for cut in (*pieces(body), [body, ConnectionResetError("reset")]):
        async with host(cut) as ask:
            with pytest.raises(PrefillRefused, match="does not support assistant message prefill") as met:
                await ask(wire, prefill="[", support="eats", emulate=False).text()
            assert met.value.status == 200


async def test_a_failure_in_it_is_tried_again() -> None:
    """An overloaded host is asked once more, as with any other form of the error."""
    body = json.dumps({"error": {"message": "busy", "type": "overloaded_error"}}).encode()
    fine = chat("fine", "stop") + DONE
    async with host([body], [fine]) as ask:
        reply = ask("chat", recovery=Recovery(retries=1, max_wait_s=0.01))
        assert await reply.text() == "fine"
        assert [a.error for a in reply.attempts] == ["StatusError", ""]


@pytest.mark.parametrize(
    "body",
    [
        b'{"hello": 1}',
        b'{"choices": [{"message": {"content": "a whole reply"}}]}',
        b'{"error": {"message": "cut in the mid',
        b'{"a": 1}\n{"b": 2}\n',
        b"[1, 2]",
    ],
)
async def test_any_other_json_is_no_stream(body: bytes) -> None:
    """Any other JSON body raises a `ProtocolError`."""
    for cut in pieces(body):
        async with host(cut) as ask:
            with pytest.raises(ProtocolError, match="bytes that are not a stream"):
                await ask("chat").text()


async def test_a_stream_is_none_of_this() -> None:
    """In a real stream, error objects in later lines are ignored, and a brace in a comment is no JSON body."""
    body = chat("one ") + b'{"error": {"message": "a line of its own"}}\n\n' + chat("two", "stop") + DONE
    for cut in pieces(body):
        async with host(cut) as ask:
            assert await ask("chat").text() == "one two"
    async with host([b": {\n\n" + chat("one", "stop") + DONE]) as ask:
        assert await ask("chat").text() == "one"


def test_it_is_decoded_as_a_stream_all_the_same() -> None:
    """A JSON body is still decoded by the rules of server-sent events, and only a bounded part of it is kept.

    By these rules its first line is a field with an unknown name.
    """
    body = b'{"a": 1}\ndata: x\n\n'
    for cut in ways(body):
        decoder = SseDecoder()
        records = [record for part in cut for record in decoder.feed(part)]
        assert [record.data for record in records] == [b"x"]
        assert decoder.json_body == body
    large = SseDecoder()
    for _ in range(100):
        large.feed(b"{" + b"x" * 999 + b"\n")
    assert len(large.json_body) == MAX_JSON_BYTES
    assert SseDecoder().json_body == b""

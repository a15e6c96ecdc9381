"""An error before the first record is an HTTP status, and a later error is a record. Neither contains a secret."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest

from aprefill import Recovery, Reply, Timeouts, stream, web
from aprefill.testing import Script, ToolCall, serve

from ..conftest import LOOPS
from .site import STATES, all_of, application, claude, get, session_of, site, text_of

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS[:1])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Use one event loop. The sockets of the others are tested in test_leaving.py and test_slow.py."""
    return request.param


BEFORE: dict[str, tuple[Script | list[Script], int, str, bool]] = {
    "busy": (Script(status=429, retry_after=2.5), 429, "StatusError", True),
    "overloaded": (Script(status=529), 503, "StatusError", True),
    "broken": (Script(status=500), 502, "StatusError", True),
    "our key": (Script(status=401), 502, "StatusError", False),
    "bad request": (Script(status=400), 502, "StatusError", False),
    "timed out there": (Script(status=504), 504, "StatusError", True),
    "hang up": (Script(hang_up=True), 502, "ConnectFailed", True),
    "stalled": (Script(text="x", first_token_s=math.inf), 504, "Stalled", True),
    "silent": (Script(text="x", first_byte_s=math.inf), 504, "Stalled", True),
    "a login page": (Script(body=b"<html>", content_type="text/html"), 502, "ProtocolError", False),
    "an endless line": (Script(text="x", after=0, endless_line=60_000_000), 502, "LimitExceeded", False),
    "cut": (Script(text="x", drop_after_bytes=1), 502, "Truncated", True),
    "in the stream": (Script(text="x", after=0, error_event=("overloaded_error", "Secret")), 503, "StatusError", True),
    "refused": (Script(prefill="refuses"), 422, "PrefillRefused", False),
}


@pytest.mark.parametrize("case", BEFORE)
async def test_an_error_before_the_first_chunk_is_a_status(case: str) -> None:
    """An error before the first record has its own HTTP status, and the body is the error record as JSON."""
    script, status, name, can_continue = BEFORE[case]
    async with serve(script) as provider:
        # The prefill is shown with the first new text, so that no record comes before it.
        options = {"show_when": "decided", "emulate": False, "timeouts": Timeouts(first_token_s=0.2)}
        async with claude(provider, **options) as session:
            async with site(application(lambda: session.stream("hi", prefill="P"), heartbeat_s=0.03)) as here:
                response = await get(f"{here.url}/sse")
        assert len(provider.exchanges) == 1
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers.get("retry-after") == ("3" if case == "busy" else None)
    record = response.json()
    assert (record["type"], record["error"], record["can_continue"]) == ("error", name, can_continue)
    assert record["length"] == 0
    assert record.get("retry_after_s") == (2.5 if case == "busy" else None)
    assert "Secret" not in response.text


async def test_no_connection_is_a_bad_gateway() -> None:
    """If the host's port refuses the connection, the status is 502."""

    def ask() -> Reply:
        return stream("hi", model="vllm:m", base_url="http://127.0.0.1:9/v1", recovery=Recovery(retries=0))

    async with site(application(ask)) as here:
        response = await get(f"{here.url}/sse")
    assert (response.status_code, response.json()["error"]) == (502, "ConnectFailed")


async def test_a_mistake_of_the_servers_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """A reply that was already read is a 500. The client gets a general message, and the log has the full message."""
    async with serve(STATES) as provider, session_of(provider) as session:
        reply = session.stream("hi")
        await reply.text()
        async with site(application(lambda: reply)) as here:
            response = await get(f"{here.url}/sse")
    assert (response.status_code, response.json()["error"]) == (500, "ReplyConsumed")
    assert response.json()["message"] == "the server could not make this request"
    assert "already been streamed to its end" in caplog.text


AFTER = {
    "drop": (Script(text="one two three", drop_after_bytes=500), "Truncated", True),
    "reset": (Script(text="one two three", reset_after_bytes=500), "Truncated", True),
    "no end": (Script(text="one two three", no_end=True), "Truncated", True),
    "half an event": (Script(text="one two three", half_event_at_end=True), "Truncated", True),
    "overloaded": (
        Script(text="one two three", after=8, error_event=("overloaded_error", "Se\ncret")), "StatusError", True,
    ),
    "stall": (Script(text="one two three", stall_after=8), "Stalled", True),
    "not JSON": (Script(text="one two three", after=8, bad_event="json"), "ProtocolError", True),
    "after a tool call": (Script(text="one", tools=[ToolCall(name="f")], no_end=True), "Truncated", False),
}  # fmt: skip


@pytest.mark.parametrize("case", AFTER)
async def test_an_error_in_the_middle_is_a_record(case: str) -> None:
    """A later error is a record after the text. It has the class, the length of the text, and whether to continue."""
    script, name, can_continue = AFTER[case]
    asked = {"timeouts": Timeouts(progress_s=0.2)}
    *texts, error = await all_of(script, asked=asked)
    assert {record["type"] for record in texts} == {"text"}
    assert ('["' + script.text).startswith(text_of(texts))
    assert set(error) == {"type", "error", "message", "can_continue", "length", "id"}
    assert (error["type"], error["error"], error["can_continue"]) == ("error", name, can_continue)
    assert error["length"] == error["id"] == len(text_of(texts)) > 2
    assert "cret" not in error["message"]


async def test_a_limit_inside_the_repetition_cannot_be_continued() -> None:
    """If the token limit cuts the repetition of the prefill, `can_continue` is false.

    A new request would be cut again.
    """
    script = Script(prefill="echoes", echo_text="country: ", echo="split", cuts=2, obey_max_tokens=True)
    async with serve(script) as provider, session_of(provider, support="emulated") as session:
        app = application(lambda: session.stream("hi", prefill="country: ", extra={"max_tokens": 2}))
        async with site(app) as here:
            response = await get(f"{here.url}/sse")
    assert (response.status_code, response.json()["error"]) == (502, "Truncated")
    assert response.json()["can_continue"] is False


@pytest.mark.parametrize("details", [False, True])
async def test_the_hosts_own_words_only_by_name(details: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets the host's words and status only with `details=True`. The log always has them."""
    script = Script(status=500, error=("api_error", "disk 7 of machine 12 is full"))
    async with serve(script) as provider, session_of(provider) as session:
        async with site(application(lambda: session.stream("hi"), details=details)) as here:
            response = await get(f"{here.url}/sse")
    assert ("disk 7" in response.text) == details
    assert response.json().get("status") == (500 if details else None)
    assert "disk 7" in caplog.text


async def test_a_bug_is_not_swallowed() -> None:
    """An exception that is not an `AprefillError` is raised to the server, which logs it."""
    async with serve(STATES) as provider, session_of(provider) as session:
        reply = session.stream("hi")
        requests = reply._run.requests
        requests._way = requests._way._replace(transport=lambda: 1 / 0)
        response = web.sse(reply)

        async def receive() -> Any:
            await anyio.sleep_forever()

        async def send(message: Any) -> None:
            raise AssertionError(message)

        with pytest.raises(ZeroDivisionError):
            await response({"type": "http", "method": "GET", "headers": []}, receive, send)


async def test_with_show_now_an_error_is_a_record() -> None:
    """With `show_when="now"` the prefill is sent before the request, so every error is a record."""
    *texts, error = await all_of(Script(status=429), asked={"show_when": "now"})
    assert text_of(texts) == '["'
    assert (error["type"], error["error"], error["length"]) == ("error", "StatusError", 2)

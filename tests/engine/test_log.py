"""The logger `aprefill` reports what happens to a reply's requests, and never their content."""

from __future__ import annotations

import contextlib
import logging

import pytest

from aprefill import AttemptStarted, Recovery, ReplyClosed, StatusError, stream
from aprefill._engine.attempt import Attempt
from aprefill.testing import Script, serve

from ..support.loopback import STATES, ask

pytestmark = pytest.mark.anyio

KEY = "sk-very-secret-key-123456"
PROMPT = "Patient Jane Roe, born 1970"


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the messages at `level`, without the reply's number."""
    records = [record for record in caplog.records if record.name == "aprefill" and record.levelno == level]
    return [record.getMessage().partition(", ")[2] for record in records]


async def test_a_good_reply_is_told_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """A good reply logs where and how it was sent, the answer and the end at DEBUG, and nothing at INFO."""
    caplog.set_level(logging.DEBUG, "aprefill")
    async with serve(STATES) as server:
        await ask(server, "chat", prefill='["').text()
    assert lines(caplog, logging.DEBUG) == [
        "request 1: sent to 127.0.0.1, model m, mode native",
        "request 1: accepted with HTTP 200",
        "request 1: complete, 21 characters",
    ]
    assert lines(caplog, logging.INFO) == []


async def test_failures_and_what_follows_are_told_at_info(caplog: pytest.LogCaptureFixture) -> None:
    """A retry, a rescue and the final failure are logged at INFO."""
    caplog.set_level(logging.INFO, "aprefill")
    scripts = [Script(status=529), Script(prefill="refuses"), Script(status=401)]
    async with serve(scripts) as server:
        with pytest.raises(StatusError):
            await ask(server, "messages", prefill='["', recovery=Recovery(retries=1)).text()
    first, second, third = lines(caplog, logging.INFO)
    assert first.startswith("request 1: failed: StatusError, HTTP 529; another request follows in 0.00")
    assert second == "request 2: failed: PrefillRefused; another request follows in 0 s, mode emulated"
    assert third == "request 3: failed: StatusError, HTTP 401"


async def test_leaving_is_told_with_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    """Leaving a loop and closing a reply are logged with the phase in which they happened."""
    caplog.set_level(logging.DEBUG, "aprefill")
    async with serve(Script(text="abcdef", cuts=1, stall_after=3, prefill="eats")) as server:
        async for _ in ask(server, "chat"):
            break
        async with ask(server, "chat") as reply:
            async for _ in reply:
                break
        with pytest.raises(ReplyClosed):
            await reply.text()
    assert lines(caplog, logging.DEBUG).count("request 1: left while reading") == 2


async def test_no_key_and_no_prompt_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The key and the prompt are in no log line, whatever the host repeats."""
    caplog.set_level(logging.DEBUG, "aprefill")
    echo = Script(status=400, error=(f"bad {KEY}", f"{PROMPT} {KEY}"))
    async with serve([echo, Script(text=PROMPT)]) as server:
        for _ in range(2):
            reply = stream(PROMPT, prefill="Dear Jane Roe", model="vllm:m", base_url=server.openai_url, api_key=KEY)
            with contextlib.suppress(StatusError):
                await reply.text()
    said = "\n".join(record.getMessage() for record in caplog.records if record.name == "aprefill")
    assert "HTTP 400" in said
    assert "complete" in said
    for secret in (KEY, "Jane Roe", "1970"):
        assert secret not in said


async def test_attempt_started_comes_before_the_request_is_sent() -> None:
    """`AttemptStarted` is handed out before the request is sent, not when it is accepted."""
    async with serve(STATES) as server:
        events = ask(server, "chat", prefill='["').events()
        event = await anext(events)
        assert isinstance(event, AttemptStarted)
        assert server.exchanges == []
        del events
        assert server.connections == 0


async def test_an_unknown_exception_is_told_at_info(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is not ours is logged as a failure with the phase in which it happened, without its text."""

    async def breaks(attempt: Attempt) -> None:
        raise ZeroDivisionError(PROMPT)

    monkeypatch.setattr(Attempt, "open", breaks)
    caplog.set_level(logging.DEBUG, "aprefill")
    async with serve(STATES) as server:
        with pytest.raises(ZeroDivisionError):
            await ask(server, "chat").text()
    assert lines(caplog, logging.INFO) == ["request 1: failed while opening"]
    assert not [line for line in lines(caplog, logging.DEBUG) if "left" in line]
    assert PROMPT not in caplog.text

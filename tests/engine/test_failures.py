"""How a stream fails: typed errors with the text so far, and timeouts with names.

The seam is the code that joins the prefill and the model's text.
"""

from __future__ import annotations

import email.utils
import json
import math
import socket
import time
import traceback
import weakref
from contextlib import ExitStack
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import SocketAttribute

from aprefill import (
    ConnectFailed,
    PrefillIgnored,
    PrefillRefused,
    ProtocolError,
    Recovery,
    Stalled,
    StatusError,
    StopReason,
    Timeouts,
    Truncated,
    Verdict,
    stream,
)
from aprefill._engine.phases import State
from aprefill.testing import Script, serve

from ..support.loopback import STATES, WIRES, ask, chunks_of

pytestmark = pytest.mark.anyio

#: The first failure is the reply's error: no retries.
NO_RETRY = Recovery(retries=0)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_cut_is_an_error_with_the_text_so_far(wire: str) -> None:
    """Every kind of cut raises `Truncated` with the text so far.

    The cuts: FIN in the middle, RST, a clean end without the end of the protocol, and half an event.
    """
    for fault in (
        {"drop_after_bytes": 900},
        {"reset_after_bytes": 900},
        {"no_end": True},
        {"half_event_at_end": True},
        {"no_end": True, "framing": "close"},
    ):
        async with serve(Script(text="one two three " * 20, prefill="eats", **fault)) as server:
            got = ""
            with pytest.raises(Truncated) as cut:
                async for chunk in ask(server, wire, prefill="zero "):
                    got += chunk
            assert got.startswith("zero one")
            assert cut.value.text_so_far == got
            assert cut.value.received_bytes > 0


@pytest.mark.parametrize("wire", WIRES)
async def test_an_error_inside_the_stream_comes_after_the_text_before_it(wire: str) -> None:
    """An error inside the stream is raised after the text before it, as a `StatusError` with `in_band`."""
    script = Script(text="one two three", prefill="eats", after=8, error_event=("overloaded_error", "Overloaded"))
    async with serve(script) as server:
        got = ""
        with pytest.raises(StatusError) as error:
            async for chunk in ask(server, wire, prefill="zero "):
                got += chunk
    assert got == "zero one two "
    assert error.value.text_so_far == got
    assert error.value.in_band
    assert "Overloaded" in str(error.value)


@pytest.mark.parametrize("wire", WIRES)
async def test_text_after_the_end_never_appears(wire: str) -> None:
    """Text after the terminal record is not part of the reply."""
    async with serve(Script(text="one", prefill="eats", text_after_end=" TWO")) as server:
        assert await ask(server, wire, prefill="zero ").text() == "zero one"


@pytest.mark.any_loop
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("no", [{"emulate": False}, {"strict": True}], ids=["no-emulation", "strict"])
async def test_a_refusal_that_the_table_knows(wire: str, no: dict[str, Any]) -> None:
    """A 400 with a known refusal raises `PrefillRefused` and shows nothing, if emulation is not allowed."""
    async with serve(Script(text="x", prefill="refuses")) as server:
        model = "claude-haiku-4-5" if wire == "messages" else "openrouter:anthropic/claude-sonnet-4.5"
        options: dict[str, Any] = {} if wire == "messages" else {"model": model}
        with pytest.raises(PrefillRefused) as refused:
            await chunks_of(ask(server, wire, prefill='["', **options, **no))
        assert refused.value.status == 400
        assert refused.value.text_so_far == ""
        assert len(server.exchanges) == 1


@pytest.mark.any_loop
@pytest.mark.parametrize(
    "model", ["openai:gpt-5", "anthropic:claude-opus-4-6", "anthropic:claude-sonnet-5-5", "openai-compatible:x"]
)
@pytest.mark.parametrize("no", [{"emulate": False}, {"strict": True}], ids=["no-emulation", "strict"])
async def test_a_model_without_native_prefill_is_refused_before_any_http(model: str, no: dict[str, Any]) -> None:
    """If emulation is not allowed, the table alone makes this `PrefillRefused`, before any HTTP.

    Without a prefill the same model is requested.
    """
    async with serve(Script(text="hello")) as server:
        base = server.url if model.startswith("anthropic") else server.openai_url
        reply = stream("hi", prefill="x", model=model, base_url=base, api_key="k", **no)
        with pytest.raises(PrefillRefused) as refused:
            await chunks_of(reply)
        assert refused.value.status is None
        assert server.connections == 0
        assert await stream("hi", model=model, base_url=base, api_key="k", **no).text() == "hello"


@pytest.mark.parametrize("wire", WIRES)
async def test_rate_limit_and_retry_after(wire: str) -> None:
    """The error has the status, the `Retry-After` seconds and the host's message, but no part of the key."""
    async with serve(Script(status=429, retry_after=7)) as server:
        with pytest.raises(StatusError) as error:
            await ask(server, wire, api_key="sk-secret-1234567890").text()
    assert error.value.status == 429
    assert error.value.retry_after_s == 7
    assert "sk-secret" not in repr(error.value)


@pytest.mark.any_loop
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "answer",
    [
        {"body": b"<html>log in</html>", "content_type": "text/html"},
        {"body": b'{"error":{"message":"no"}}', "content_type": "application/json"},
        {"body": b'{"hello":1}', "content_type": "application/json"},
        {"body": b"", "content_type": "text/event-stream"},
        {"body": b"\x00\x01garbage", "content_type": "text/event-stream"},
        {"body": b"garbage", "content_type": "text/plain"},
    ],
    ids=["html", "json-error", "json", "empty", "garbage", "text"],
)
async def test_a_200_that_is_no_stream(wire: str, answer: dict[str, Any]) -> None:
    """A 200 whose body is no stream raises a typed error and never gives an empty reply."""
    async with serve(Script(**answer)) as server:
        with pytest.raises((ProtocolError, StatusError)):
            await ask(server, wire, prefill="x").text()


async def test_a_redirect_is_never_followed() -> None:
    """A redirect is not followed, so the prompt is not sent to another host."""
    async with serve(STATES) as other, serve(Script(redirect=other.openai_url)) as server:
        with pytest.raises(StatusError) as error:
            await ask(server, "chat").text()
        assert error.value.status == 307
        assert other.connections == 0


async def test_a_compressed_answer_is_refused() -> None:
    """A compressed answer is refused, so a gzip bomb is never inflated. The request asks for "identity"."""
    async with serve(Script(gzip_bomb=50_000_000)) as server:
        with pytest.raises(ProtocolError, match="compressed"):
            await ask(server, "chat").text()
        assert server.exchanges[0].headers["accept-encoding"] == "identity"


async def test_nobody_listens() -> None:
    """A refused connection, and a host that closes it without an answer, raise `ConnectFailed`."""
    async with serve(STATES) as server:
        url = server.openai_url
    with pytest.raises(ConnectFailed):
        await stream("hi", model="m", base_url=url, recovery=NO_RETRY).text()
    async with serve(Script(hang_up=True)) as server:
        with pytest.raises(ConnectFailed):
            await ask(server, "chat").text()


SILENT = Script(text="abcd", first_byte_s=math.inf)
STALL = {"text": "abcd", "cuts": 1, "stall_after": 2}


@pytest.mark.parametrize(
    ("timeouts", "script", "clock"),
    [
        (Timeouts(first_token_s=0.05), SILENT, "first_token_s"),
        (Timeouts(idle_s=0.05), SILENT, "idle_s"),
        (Timeouts(total_s=0.05), SILENT, "total_s"),
        (Timeouts(first_token_s=0.05), Script(text="x", first_token_s=math.inf), "first_token_s"),
        (Timeouts(progress_s=0.05), Script(text="abcd", cuts=1, keepalive_after=2, keepalive_s=0.01), "progress_s"),
        (Timeouts(idle_s=0.05), Script(**STALL), "idle_s"),
        (Timeouts(idle_s=0.05), Script(**STALL, framing="close"), "idle_s"),
        (Timeouts(progress_s=0.05), Script(**STALL, framing="close"), "progress_s"),
        (Timeouts(total_s=0.05), Script(**STALL, framing="close"), "total_s"),
        (Timeouts(total_s=0.08), Script(text="ab" * 100, cuts=1, pace_s=0.01), "total_s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_every_clock_has_a_name(timeouts: Timeouts, script: Script, clock: str) -> None:
    """A timeout raises `Stalled` with its name and seconds. Keep-alives do not reset the progress timeout."""
    async with serve(script) as server:
        with pytest.raises(Stalled) as stalled, anyio.fail_after(3):
            await ask(server, "chat", timeouts=timeouts).text()
        assert stalled.value.clock == clock
        assert stalled.value.after_s == pytest.approx(getattr(timeouts, clock))


async def test_the_connect_clock_runs_to_the_connection() -> None:
    """`connect_s` covers the time until the connection is open: here the host's backlog is full."""
    with ExitStack() as sockets:
        host = sockets.enter_context(socket.socket())
        host.bind(("127.0.0.1", 0))
        host.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(host.getsockname())
        reply = stream(
            "x",
            model="m",
            base_url=f"http://127.0.0.1:{host.getsockname()[1]}",
            recovery=NO_RETRY,
            timeouts=Timeouts(connect_s=0.1),
        )
        with pytest.raises(Stalled) as stalled, anyio.fail_after(3):
            await reply.text()
    assert (stalled.value.clock, stalled.value.after_s) == ("connect_s", 0.1)


async def test_the_time_to_the_head_counts() -> None:
    """The total timeout starts with the request, not with the head of the answer."""
    slow = Script(text="abcd" * 10, cuts=1, first_byte_s=0.3, pace_s=0.1)
    async with serve(slow) as server:
        began = time.perf_counter()
        with pytest.raises(Stalled), anyio.fail_after(3):
            await ask(server, "chat", timeouts=Timeouts(total_s=0.4)).text()
        assert time.perf_counter() - began < 0.65


async def test_an_error_body_is_bounded_in_size_and_time() -> None:
    """At most 64 KiB of an error body are read, and the timeouts keep running meanwhile."""
    async with serve(Script(status=400, body=b"x" * 10_000_000, content_type="text/plain")) as server:
        with pytest.raises(StatusError):
            await ask(server, "chat").text()
        with anyio.fail_after(2):
            await server.exchanges[0].done.wait()
        assert server.exchanges[0].outcome == "client_closed"

    async def answer(stream: Any) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 500 X\r\ncontent-length: 100\r\n\r\nhalf a word")
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        port = listener.extra(SocketAttribute.local_port)
        began = time.perf_counter()
        reply = stream(
            "x", model="m", base_url=f"http://127.0.0.1:{port}", recovery=NO_RETRY, timeouts=Timeouts(total_s=0.2)
        )
        with pytest.raises(StatusError, match="500"):
            await reply.text()
        assert time.perf_counter() - began < 0.6
        group.cancel_scope.cancel()


async def test_the_request_id_and_a_retry_after_date() -> None:
    """The error has the host's request id, and a `Retry-After` date is converted to seconds from now."""
    at = email.utils.formatdate(time.time() + 60, usegmt=True)
    async with serve(Script(status=429, retry_after=at, headers={"request-id": "req_7"})) as server:
        with pytest.raises(StatusError) as error:
            await ask(server, "messages").text()
    assert error.value.request_id == "req_7"
    assert error.value.retry_after_s is not None
    assert 50 < error.value.retry_after_s <= 60


async def test_a_slow_consumer_trips_no_clock() -> None:
    """A slow consumer triggers no timeout except the total one: the others run only while waiting for the provider."""
    async with serve(Script(text="abcdef", cuts=1)) as server:
        text = ""
        tight = Timeouts(first_token_s=0.1, progress_s=0.1, idle_s=0.1)
        async for chunk in ask(server, "chat", timeouts=tight):
            text += chunk
            await anyio.sleep(0.04)
        assert text == "abcdef"


async def test_strict_takes_no_silence_for_an_echo() -> None:
    """With `strict`, an empty reply of a host known to repeat the prefill also raises `PrefillIgnored`."""
    async with serve(Script(text="", prefill="ignores")) as server:
        with pytest.raises(PrefillIgnored):
            await ask(server, "chat", prefill="ab", support="echoes", strict=True).text()


async def test_a_token_limit_inside_the_echo_leaves_no_half_of_it() -> None:
    """At a token limit inside the echo, the incomplete repetition that the seam holds is dropped."""
    script = Script(prefill="ignores", cuts=["Dear An"], stop_reason="max_tokens")
    async with serve(script) as server:
        reply = ask(server, "messages", prefill="Dear Ann, ", support="echoes")
        assert await reply.text() == "Dear Ann, "
        assert reply.verdict is Verdict.TRUNCATED
        assert reply.stop_reason is StopReason.MAX_TOKENS


async def test_strict_wants_the_echo_that_the_host_is_known_for() -> None:
    """With `strict`, a host that is known to repeat the prefill but does not raises `PrefillIgnored`.

    Nothing is shown.
    """
    async with serve(Script(text="other", prefill="ignores")) as server:
        shown: list[str] = []
        with pytest.raises(PrefillIgnored):
            async for chunk in ask(server, "chat", prefill="ab", support="echoes", strict=True):
                shown.append(chunk)
        assert shown == []
        assert await ask(server, "chat", prefill="ab", support="echoes").text() == "abother"


async def is_freed() -> bool:
    """Return whether the run of a failed reply is freed once nobody holds the reply or the error."""
    async with serve(Script(text="one two three " * 20, drop_after_bytes=900)) as server:
        reply = ask(server, "chat")
        run = weakref.ref(reply._run)
        failed = ""
        try:
            await reply.text()
        except Truncated as error:
            failed = error.text_so_far
        assert failed
        del reply
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        return run() is None


@pytest.mark.usefixtures("no_gc")
async def test_a_failed_reply_is_freed_without_the_collector() -> None:
    """The error refers to the run through its traceback, but the run does not refer to the error: no cycle."""
    assert await is_freed()


@pytest.mark.usefixtures("no_gc")
async def test_control_a_kept_failure_is_a_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a run that keeps the error that it raised is not freed."""
    monkeypatch.setattr(State, "take_failure", lambda self: self.failure)
    assert not await is_freed()


# --- what an error quotes ---------------------------------------------------------------------------------------

SECRET = "Patient Jane Roe, born 1970"
QUOTE = "Invalid text: '...nt Jane ROE,\n born 1970...', in line 3"

ERRORS = {
    "400": Script(status=400, error=("invalid_request_error", QUOTE)),
    "plain": Script(status=400, body=QUOTE.encode(), content_type="text/plain"),
    "200-json": Script(body=json.dumps({"error": {"message": QUOTE}}).encode(), content_type="application/json"),
    "in-band": Script(text="x", prefill="eats", error_event=("invalid_request_error", QUOTE)),
    "refused": Script(status=400, error=("x", f"This model does not support assistant message prefill. {QUOTE}")),
    "late": Script(status=400, error=("invalid_request_error", "x" * 290 + QUOTE)),
    "type": Script(status=400, error=(QUOTE, "no")),
}
PLACES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": f"one line\n{SECRET}\nand another"},
    "part": {"prompt": [{"role": "user", "content": [{"type": "text", "text": SECRET}]}]},
    "system": {"system": SECRET},
    "prefill": {"prefill": SECRET},
    "extra": {"extra": {"metadata": {"user": SECRET}}},
}


def everything(error: BaseException | None) -> str:
    """Return everything that a log of an error and its chain may show."""
    shown = ""
    while error is not None:
        facts = {name: value for name, value in vars(error).items() if name != "text_so_far"}
        shown += "".join(traceback.format_exception(error)) + repr(error) + repr(facts)
        error = error.__cause__ or error.__context__
    return shown.lower().replace(" ", "")


@pytest.mark.any_loop
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("how", ERRORS)
async def test_an_error_quotes_nothing_of_the_request(how: str, where: str, wire: str) -> None:
    """No part of the request appears in an error, wherever the caller wrote it and however the host quotes it.

    The host's own words stay.
    """
    async with serve(ERRORS[how]) as server:
        options = {"prefill": "x", "emulate": False, "support": "eats", **PLACES[where]}
        with pytest.raises((StatusError, PrefillRefused)) as error:
            await ask(server, wire, **options).text()
    assert "janeroe" not in everything(error.value).replace("\\n", "")
    if how not in {"late", "type", "refused"}:
        assert "Invalid text: '...[prompt]...', in line 3" in str(error.value)


async def test_control_the_same_words_stay_where_they_are_not_the_caller_s() -> None:
    """The control: if the quoted words are not in this request, they are shown."""
    async with serve(ERRORS["400"]) as server:
        with pytest.raises(StatusError, match="Jane ROE"):
            await ask(server, "chat").text()


async def test_a_header_s_value_is_quoted_by_no_error() -> None:
    """A header value that the caller's own client adds is redacted.

    This also holds if the host quotes only a part of it, or in other case.
    """
    quoting = Script(status=400, error=("x", "unknown tenant ACME-DEPARTMENT-OF-0815"))
    headers = {"x-tenant": "tenant=acme-department-of-0815-internal"}
    async with serve(quoting) as server, httpx2.AsyncClient(headers=headers) as client:
        with pytest.raises(StatusError, match=r"unknown tenant \[key\]"):
            await ask(server, "chat", client=client).text()
        with pytest.raises(StatusError, match="ACME-DEPARTMENT"):
            await ask(server, "chat").text()


@pytest.mark.any_loop
@pytest.mark.parametrize("key", ["ollama", "none", "test"])
async def test_a_key_that_is_a_word_leaves_other_words_alone(key: str) -> None:
    """A key that is an ordinary word is redacted only as a whole word, in the message and the request id."""
    said = Script(
        status=401,
        error=("x", f"{key} is no key; ollamas, nonetheless, latest"),
        headers={"request-id": "ollamanonetest"},
    )
    async with serve(said) as server:
        with pytest.raises(StatusError, match=r"\[key\] is no key; ollamas, nonetheless, latest") as error:
            await ask(server, "messages", api_key=key).text()
    assert error.value.request_id == "ollamanonetest"

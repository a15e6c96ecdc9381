"""The requests after the first: a refusal is followed by an emulated request, a failure by the same request again."""

from __future__ import annotations

import email.utils
import gc
import math
import time
import weakref
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from aprefill import (
    ConnectFailed,
    ProtocolError,
    ProviderError,
    Recovery,
    ReplyClosed,
    Session,
    Stalled,
    StatusError,
    StopReason,
    Timeouts,
    Truncated,
    UsageError,
    stream,
)
from aprefill._engine.connection import live
from aprefill.testing import Script, serve

from ..conftest import LOOPS
from ..support.loopback import WIRES, chunks_of
from ..support.recovering import FINE, REFUSES, SEED, WHOLE, ask, finished

pytestmark = pytest.mark.anyio


OVERLOADED = ("overloaded_error", "Overloaded")


@pytest.mark.any_loop
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "failing",
    [
        *[Script(status=status) for status in (408, 409, 429, 500, 502, 503, 504, 529)],
        Script(hang_up=True),
        Script(text="abc", error_event=OVERLOADED, after=0),
        Script(body=b'{"error":{"type":"overloaded_error","message":"later"}}', content_type="application/json"),
        Script(text="abc", drop_after_bytes=0),
        Script(text="abc", reset_after_bytes=0),
        Script(text="abc", drop_after_bytes=30),
        Script(text="abc", drop_after_bytes=0, framing="close"),
        Script(text="abc", drop_after_bytes=3, framing="close"),
        Script(text="abc", drop_after_bytes=20, framing="close"),
        Script(body=b": WAIT\n\n: WAIT\n\n", content_type="text/event-stream"),
    ],
    ids=lambda s: (
        str(s.status) if s.status != 200 else "hang up" if s.hang_up else "in band" if s.error_event else "cut"
    ),
)
async def test_what_is_asked_again(wire: str, failing: Script) -> None:
    """After a temporary failure before any delta, the same request is sent again, and the prefill is shown once."""
    async with serve([failing, failing, FINE]) as server:
        reply = ask(server, wire)
        assert "".join(await chunks_of(reply)) == WHOLE
        assert [bool(a.error) for a in reply.attempts] == [True, True, False]
        assert all(a.waited_s > 0 for a in reply.attempts[1:])
        first, *rest = (exchange.json for exchange in server.exchanges)
        assert rest == [first, first]


@pytest.mark.any_loop
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("failing", "error"),
    [
        (Script(status=400), StatusError),
        (Script(status=401), StatusError),
        (Script(status=404), StatusError),
        (Script(status=422), StatusError),
        (Script(redirect="http://127.0.0.1:1/"), StatusError),
        (Script(body=b"<html>", content_type="text/html"), ProtocolError),
        (Script(body=b"", content_type="text/event-stream"), ProtocolError),
        (Script(body=b"never mind", content_type="text/event-stream"), ProtocolError),
        (Script(text="abcdef", cuts=2, error_event=OVERLOADED, after=2), StatusError),
        (Script(reasoning="hm, ", text="abcdef", error_event=OVERLOADED, after=0), StatusError),
        (Script(text="abcdef", no_end=True), Truncated),
    ],
    ids=["400", "401", "404", "422", "redirect", "html", "empty", "garbage", "after text", "after reasoning", "no end"],
)
async def test_what_is_not_asked_again(wire: str, failing: Script, error: type[ProviderError]) -> None:
    """A permanent failure, and any failure after a delta, raises the error after one request."""
    async with serve([failing, FINE]) as server:
        with pytest.raises(error):
            await ask(server, wire).text()
        assert len(server.exchanges) == 1


async def test_nobody_listens() -> None:
    """Without a connection, three attempts fail and `ConnectFailed` is raised."""
    async with serve(FINE) as server:
        pass
    reply = ask(server, "chat")
    with pytest.raises(ConnectFailed):
        await reply.text()
    assert [a.error for a in reply.attempts] == ["ConnectFailed"] * 3
    assert reply.stop_reason is None


async def test_what_the_clients_own_hook_raises() -> None:
    """An exception of the caller's own hook is raised once as a `UsageError`, not as a failed connection."""
    calls: list[int] = []

    async def hook(request: Any) -> None:
        calls.append(1)
        raise ValueError("no token today")

    async with serve(FINE) as server, httpx2.AsyncClient(event_hooks={"request": [hook]}) as client:
        with pytest.raises(UsageError, match="no token today"):
            await ask(server, "chat", client=client).text()
    assert calls == [1]


async def test_a_client_that_raises_one_exception_again_and_again() -> None:
    """A client that raises the same exception object each time, as mocks do, causes no cycle of causes."""
    failure = httpx2.ConnectError("boom")

    def handler(request: Any) -> Any:
        raise failure

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handler)) as client:
        for _ in range(2):
            with pytest.raises(ConnectFailed) as error, anyio.fail_after(5):
                await stream("hi there", model="openai:gpt-4o", api_key="k", client=client).text()
            assert [note.partition(": ")[0] for note in error.value.__notes__] == ["Before it", "Before it"]
    assert failure.__cause__ is None


@pytest.mark.parametrize("library", [httpx2, httpx])
async def test_a_hook_that_reads_the_answer(library: Any) -> None:
    """A response hook that reads the whole body does not change the text, and a refusal is still rescued."""

    async def read(response: Any) -> None:
        await response.aread()

    async with serve([FINE, REFUSES]) as server, library.AsyncClient(event_hooks={"response": [read]}) as client:
        with anyio.fail_after(5):
            assert await ask(server, "chat", client=client).text() == WHOLE
            reply = await finished(ask(server, "chat", client=client))
        assert [a.status for a in reply.attempts] == [400, 200]
        assert reply.closes_at_once is False


@pytest.mark.parametrize("library", [httpx2, httpx])
async def test_a_hook_that_raises_for_the_status(library: Any) -> None:
    """If a response hook raises for the status, the error keeps the status and the Retry-After value."""

    async def check(response: Any) -> None:
        response.raise_for_status()

    async with serve(Script(status=429, retry_after=99)) as server:
        async with library.AsyncClient(event_hooks={"response": [check]}) as client:
            with pytest.raises(StatusError) as error:
                await ask(server, "chat", client=client).text()
        assert (error.value.status, error.value.retry_after_s) == (429, 99)
        assert len(server.exchanges) == 1


async def test_what_only_the_client_knows_is_not_repeated() -> None:
    """A token in the client's own headers is redacted, wherever the host sends it back."""
    secret = "tok-0123456789abcdef"
    where = [
        Script(status=401, error=("bad", f"no such token {secret}"), headers={"x-request-id": secret}),
        Script(text="a", after=0, error_event=("bad", f"no such token {secret}")),
        Script(body=f'{{"error":{{"message":"{secret}"}}}}'.encode(), content_type="application/json"),
    ]
    async with httpx2.AsyncClient(headers={"cf-access-token": secret}) as client:
        for script in where:
            async with serve(script) as server:
                reply = ask(server, "chat", client=client)
                with pytest.raises(StatusError) as error:
                    await reply.text()
                assert "[key]" in str(error.value) + str(error.value.request_id)
                assert secret not in str(error.value) + str(vars(error.value)) + str(reply.attempts)


async def test_a_certificate_that_is_not_trusted() -> None:
    """An untrusted certificate is not retried: one attempt, then the error."""
    async with serve(FINE, tls=True) as server:
        reply = ask(server, "chat")
        with pytest.raises(ConnectFailed) as error:
            await reply.text()
        assert not error.value.may_pass
        assert len(reply.attempts) == 1


@pytest.mark.any_loop
@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_how_often(retries: int) -> None:
    """After the first request at most `retries` more are sent.

    Then the error is raised with the earlier ones as causes.
    """
    async with serve(Script(status=503)) as server:
        with pytest.raises(StatusError) as error:
            await ask(server, "chat", recovery=Recovery(retries=retries)).text()
        assert len(server.exchanges) == retries + 1
        chain = []
        link: BaseException | None = error.value
        while link is not None:
            chain.append(link)
            link = link.__cause__
        assert [type(one) for one in chain] == [StatusError] * (retries + 1)


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "0.2"},
        {"retry-after-ms": "200"},
        {"retry-after": "30", "retry-after-ms": "200"},
    ],
    ids=["seconds", "ms", "ms wins"],
)
async def test_the_hosts_own_wait(headers: dict[str, str]) -> None:
    """The wait is exactly what the host asks for."""
    async with serve([Script(status=429, headers=headers), FINE]) as server:
        began = time.perf_counter()
        reply = await finished(ask(server, "chat"))
        assert time.perf_counter() - began >= 0.2
        assert reply.attempts[1].waited_s == pytest.approx(0.2)


@pytest.mark.parametrize("anyio_backend", LOOPS[:1])
async def test_the_hosts_own_wait_as_a_date() -> None:
    """The host's wait may be given as a date with whole seconds."""
    at = email.utils.formatdate(time.time() + 2, usegmt=True)
    async with serve([Script(status=503, retry_after=at), FINE]) as server:
        reply = await finished(ask(server, "chat"))
        assert 0 < reply.attempts[1].waited_s <= 2


@pytest.mark.any_loop
@pytest.mark.parametrize(
    "retry_after", [61, 9999, email.utils.formatdate(time.time() + 3600, usegmt=True)], ids=["61", "9999", "in an hour"]
)
async def test_too_long_a_wait_is_an_error_at_once(retry_after: Any) -> None:
    """A wait that is too long raises an error at once, which says how long the host asked for."""
    async with serve(Script(status=429, retry_after=retry_after)) as server:
        with pytest.raises(StatusError, match="the host asks to wait") as error, anyio.fail_after(2):
            await ask(server, "messages").text()
        assert error.value.retry_after_s is not None
        assert error.value.retry_after_s > 60
        assert len(server.exchanges) == 1


async def test_the_total_clock_goes_on() -> None:
    """Waits and earlier requests count towards `total_s`.

    A wait longer than the remaining time raises an error at once.
    """
    async with serve(Script(status=429, retry_after=5)) as server:
        with pytest.raises(StatusError), anyio.fail_after(2):
            await ask(server, "chat", timeouts=Timeouts(total_s=1)).text()
        assert len(server.exchanges) == 1
    with_hang_up = Script(hang_up=True, first_byte_s=0.2)
    late_cut = Script(text="abc", first_token_s=0.2, error_event=OVERLOADED, after=0)
    for failing in (with_hang_up, late_cut):
        async with serve(failing) as server:
            began = time.perf_counter()
            with pytest.raises(Stalled) as stalled, anyio.fail_after(3):
                await ask(server, "chat", timeouts=Timeouts(total_s=0.3), recovery=Recovery(retries=5)).text()
            assert stalled.value.clock == "total_s"
            assert time.perf_counter() - began < 0.6
    slow = Script(text="abc", first_token_s=math.inf)
    async with serve([Script(status=429, retry_after=0.15), slow]) as server:
        began = time.perf_counter()
        with pytest.raises(Stalled) as stalled, anyio.fail_after(3):
            await ask(server, "chat", timeouts=Timeouts(total_s=0.3)).text()
        assert (stalled.value.clock, stalled.value.after_s) == ("total_s", 0.3)
        assert time.perf_counter() - began < 0.55


@pytest.mark.parametrize("show_when", ["now", "accepted", "decided"])
async def test_the_prefill_is_never_shown_twice(show_when: Any) -> None:
    """A prefill that was shown before a failed attempt is not shown again by the next one."""
    async with serve([Script(text="x", drop_after_bytes=0), Script(text="x", drop_after_bytes=0), FINE]) as server:
        reply = ask(server, "messages", show_when=show_when)
        chunks = await chunks_of(reply)
        assert "".join(chunks) == WHOLE
        assert chunks.count(SEED) == 1


async def test_usage_is_summed() -> None:
    """The usage of a failed attempt is added: the host counted the prompt of both requests."""
    async with serve([Script(text="abc", error_event=OVERLOADED, after=0), FINE]) as server:
        reply = await finished(ask(server, "messages"))
        assert reply.usage is not None
        assert reply.usage.input_tokens == 20
        assert [a.usage and a.usage.input_tokens for a in reply.attempts] == [10, 10]


@pytest.mark.parametrize("end", ["cancel", "aclose", "session", "task"])
async def test_it_can_be_ended_while_it_waits(end: str) -> None:
    """Cancelling or closing during the wait before the next request ends the wait, and nothing more is sent."""
    async with serve(Script(status=429, retry_after=30)) as server:
        async with Session("openai-compatible:m", base_url=server.openai_url) as session:
            reply = session.stream("hi")
            ended_with: list[object] = []

            async def read() -> None:
                try:
                    ended_with.append([chunk async for chunk in reply])
                except ReplyClosed as error:
                    ended_with.append(error)

            with anyio.fail_after(2):
                async with anyio.create_task_group() as group:
                    group.start_soon(read)
                    while reply._run.requests._pause is None:
                        await anyio.lowlevel.checkpoint()
                    if end == "cancel":
                        reply.cancel()
                    elif end == "aclose":
                        await reply.aclose()
                    elif end == "session":
                        await session.aclose()
                    else:
                        group.cancel_scope.cancel()
            if end == "cancel":
                assert ended_with == [[]]
                assert reply.stop_reason is StopReason.CANCELLED
            elif end != "task":
                assert isinstance(ended_with[0], ReplyClosed)
            assert reply._run not in live.values()
        assert len(server.exchanges) == 1


@pytest.mark.usefixtures("no_gc")
async def test_a_rescued_reply_is_freed_without_the_collector() -> None:
    """The error of a replaced request is kept as a cause without a reference cycle."""
    async with serve([REFUSES, Script(status=503), FINE]) as server:
        reply = ask(server, "messages")
        run = weakref.ref(reply._run)
        await reply.text()
        assert len(reply.attempts) == 3
        del reply
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert run() is None
    gc.collect()


def test_what_recovery_may_be() -> None:
    """Wrong values for `Recovery` raise errors that say what to pass."""
    for wrong in ({"retries": -1}, {"retries": 1.5}, {"max_wait_s": -1}, {"max_wait_s": math.nan}, {"retries": True}):
        with pytest.raises(UsageError, match="Recovery"):
            Recovery(**wrong)
    with pytest.raises(UsageError, match="recovery"):
        stream("x", model="demo:eats", recovery=2)

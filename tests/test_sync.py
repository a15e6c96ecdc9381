"""`stream_sync()` and `SyncSession`: the same replies without async, in scripts, threads and running event loops."""

from __future__ import annotations

import inspect
import threading
import time
import typing
from typing import Any

import anyio
import pytest

from aprefill import (
    AttemptEnded,
    AttemptStarted,
    ConnectFailed,
    LimitExceeded,
    Limits,
    PrefillIgnored,
    ReasoningEvent,
    Reply,
    ReplyClosed,
    ReplyConsumed,
    Session,
    Stalled,
    SyncReply,
    SyncSession,
    TextEvent,
    Timeouts,
    Truncated,
    UsageError,
    stream,
    stream_sync,
)
from aprefill.testing import Script, serve_in_thread

from .support.loopback import STATES, WHOLE, ask
from .support.sync import (
    GOOD,
    NO_RETRY,
    PAUSING,
    ask_sync,
    new_threads,
    nothing_left,
    open_after,
    run_script,
)

# --- the same reply -------------------------------------------------------------------------------------------------


def facts(reply: Any) -> dict[str, Any]:
    """Return the attributes of a reply, without the times."""
    names = (
        "text_so_far",
        "verdict",
        "mode",
        "support",
        "usage",
        "stop_reason",
        "stop_sequence",
        "message",
        "closes_at_once",
        "attempts",
    )
    return {name: getattr(reply, name) for name in names}


SCRIPTS: list[Any] = [
    pytest.param(STATES, {"prefill": '["'}, id="eats"),
    pytest.param(
        Script(text='Alabama", "Alaska"]', prefill="echoes"), {"prefill": '["', "support": "echoes"}, id="echoes"
    ),
    pytest.param(Script(text="one two STOP three", cuts=3, prefill="eats"), {"stop": "STOP"}, id="stop"),
    pytest.param(
        Script(text="one two", cuts=1, prefill="ignores"), {"prefill": "x", "support": "emulated"}, id="asked"
    ),
    pytest.param(Script(text="one two", cuts=1, wire_cuts=7, prefill="eats"), {"coalesce": True}, id="coalesced"),
]


@pytest.mark.parametrize(("script", "options"), SCRIPTS)
def test_chunks_and_attributes_are_those_of_stream(script: Script, options: dict[str, Any]) -> None:
    """The text, and the attributes after the end, are those of `stream` for the same script."""

    async def asynchronous(server: Any) -> tuple[str, dict[str, Any]]:
        reply = ask(server, "chat", **options)
        return "".join([chunk async for chunk in reply]), facts(reply)

    def without_ids(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "attempts": [{**a.as_dict(), "request_id": None} for a in found["attempts"]]}

    with serve_in_thread(script) as server, nothing_left(server):
        text, known = anyio.run(asynchronous, server)
        reply = ask_sync(server, **options)
        assert "".join(reply) == text == reply.text()
        assert without_ids(facts(reply)) == without_ids(known)
        assert reply.timing.total_s is not None
        with pytest.raises(ReplyConsumed):
            list(reply)


def test_attributes_after_each_chunk_are_those_of_stream() -> None:
    """After each chunk the attributes are those of `stream`, although more has been received."""

    def now(reply: Any) -> Any:
        return (reply.text_so_far, reply.usage, reply.message, reply.stop_reason, reply.stop_sequence)

    async def asynchronous(server: Any) -> list[Any]:
        reply = ask(server, "chat", prefill='["')
        return [(chunk, now(reply)) async for chunk in reply]

    with serve_in_thread(STATES) as server:
        expected = anyio.run(asynchronous, server)
        reply = ask_sync(server, prefill='["')
        found = []
        for chunk in reply:
            found.append((chunk, now(reply)))
            if len(found) == 2:
                # the host has sent the whole answer before the third chunk is requested
                until = time.monotonic() + 5
                while server.exchanges[1].outcome == "open" and time.monotonic() < until:
                    time.sleep(0.001)
                assert server.exchanges[1].outcome == "complete"
    assert found == expected
    assert found[1][1][0] == '["Alab'


@pytest.mark.parametrize("coalesce", [False, True])
def test_events_are_those_of_stream(coalesce: bool) -> None:
    """The events are those of `stream`. With `coalesce` they have the same text."""

    async def asynchronous(server: Any) -> list[Any]:
        return [event async for event in ask(server, "chat", prefill='["').events(held=True)]

    with serve_in_thread(STATES) as server, nothing_left(server):
        expected = anyio.run(asynchronous, server)
        found = list(ask_sync(server, prefill='["').events(coalesce=coalesce, held=True))
    assert type(found[0]) is AttemptStarted
    assert type(found[-1]) is AttemptEnded
    if not coalesce:
        assert found[:-1] == expected[:-1]
    texts = [event for event in found if isinstance(event, TextEvent)]
    assert "".join(event.text for event in texts) == WHOLE
    assert [event.offset for event in texts] == [WHOLE.index(event.text, event.offset) for event in texts]


@pytest.mark.parametrize(
    ("script", "options", "error"),
    [
        (Script(reasoning="hm hm hm", cuts=2, no_end=True), {"prefill": "x"}, Truncated),
        (
            Script(text="a", reasoning="hm hm hm", cuts=2),
            {"prefill": "x", "support": "emulated", "absent": "raise"},
            PrefillIgnored,
        ),
    ],
    ids=["truncated", "ignored"],
)
def test_events_before_an_error_are_handed_out(script: Script, options: Any, error: Any) -> None:
    """The events before an error are handed out before it is raised, as with `stream`."""

    async def asynchronous(server: Any) -> list[Any]:
        events = []
        with pytest.raises(error):
            async for event in ask(server, "chat", **options).events():
                events.append(event)
        return events

    with serve_in_thread(script) as server, nothing_left(server):
        expected = anyio.run(asynchronous, server)
        found = []
        with pytest.raises(error):
            for event in ask_sync(server, **options).events():
                found.append(event)
    assert sum(isinstance(event, ReasoningEvent) for event in found) == 4
    assert [type(event) for event in found] == [type(event) for event in expected]
    # the ids of the requests differ
    assert [e for e in found if type(e) is not AttemptEnded] == [e for e in expected if type(e) is not AttemptEnded]


def test_the_arguments_are_those_of_stream_and_session() -> None:
    """The signatures are the same, the type hints resolve, and every public attribute of `Reply` has a counterpart."""
    for ours, theirs in (
        (stream_sync, stream),
        (SyncSession.__init__, Session.__init__),
        (SyncSession.stream, Session.stream),
    ):
        assert list(inspect.signature(ours).parameters.values()) == list(inspect.signature(theirs).parameters.values())
        assert typing.get_type_hints(ours)["prefill" if ours is stream_sync else "model"]
    assert typing.get_type_hints(stream_sync)["return"] is SyncReply
    assert typing.get_type_hints(SyncSession.stream)["return"] is SyncReply
    for method in (SyncReply.events, SyncReply.text, SyncReply.__iter__, SyncReply.__exit__, SyncSession.close):
        assert "return" in typing.get_type_hints(method)
    names = {name for name in dir(Reply) if not name.startswith("_")}
    assert {name for name in dir(SyncReply) if not name.startswith("_")} == names - {"aclose"} | {"close"}


def test_wrong_arguments_raise_at_once() -> None:
    """A wrong argument raises `UsageError` at once. For `client=` the message says what to pass instead."""
    with pytest.raises(UsageError, match="prompt is empty"):
        stream_sync("")
    for call in (lambda: stream_sync("hi", client=object()), lambda: SyncSession("m", client=object())):
        with pytest.raises(UsageError, match="leave client= out and pass base_url= and api_key="):
            call()


def test_nothing_is_sent_and_no_thread_begins_before_the_first_chunk_is_asked_for() -> None:
    """A reply that is never read sends nothing and starts no thread, also in a `with` block."""
    with serve_in_thread(GOOD) as server:
        before = threading.enumerate()
        with ask_sync(server) as reply, SyncSession("vllm:m", base_url=server.openai_url) as session:
            session.stream("hi")
            iter(reply)
        reply.close()
        assert new_threads(before) == []
        for again in (reply.text, lambda: list(reply)):
            with pytest.raises(ReplyClosed):
                again()
        assert new_threads(before) == []
        assert server.exchanges == []
        with pytest.raises(UsageError, match="this session is closed"):
            session.stream("hi")


def test_a_session_keeps_its_connection_and_its_thread() -> None:
    """A session uses one connection and one thread for its replies. Both end with the `with` block."""
    with serve_in_thread(GOOD) as server, nothing_left(server):
        before = threading.enumerate()
        with SyncSession("vllm:m", base_url=server.openai_url) as session:
            for _ in range(3):
                assert "".join(session.stream("hi")) == GOOD.text
            [thread] = new_threads(before)
            assert thread.daemon
            assert server.connections == 1
            late = session.stream("hi")
        with pytest.raises(UsageError, match="closed before the reply began"):
            late.text()


# --- where it works -------------------------------------------------------------------------------------------------

PLAIN = """
import sys, threading
from aprefill import SyncSession, stream_sync
for chunk in stream_sync("hi", model="vllm:m", base_url=sys.argv[1]):
    print(chunk, end="|")
with SyncSession("vllm:m", base_url=sys.argv[1]) as session:
    print(session.stream("hi").text(), len(threading.enumerate()))
print(len(threading.enumerate()))
"""


def test_a_plain_script() -> None:
    """A script in its own process gets the text.

    It has one more thread while a session is open, and none afterwards.
    """
    with serve_in_thread(GOOD) as server:
        done = run_script(PLAIN, server.openai_url)
    assert done.stderr == ""
    assert done.stdout == "one |two |thre|e fo|ur|one two three four 2\n1\n"


def test_a_worker_thread() -> None:
    """Several threads can each read a reply, also from one session."""
    with serve_in_thread(GOOD) as server, nothing_left(server):
        found: list[str] = []
        with SyncSession("vllm:m", base_url=server.openai_url) as session:

            def work(number: int) -> None:
                reply = session.stream("hi") if number % 2 else ask_sync(server)
                found.append("".join(reply))

            threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
    assert found == [GOOD.text] * 8


@pytest.mark.anyio
async def test_inside_a_running_loop() -> None:
    """Called inside a running event loop, as in a notebook, it works and does not change that loop."""
    with serve_in_thread([GOOD, PAUSING, GOOD, GOOD]) as server:
        with nothing_left(server):
            assert list(ask_sync(server)) == ["one ", "two ", "thre", "e fo", "ur"]
            for _ in ask_sync(server):
                break
            with SyncSession("vllm:m", base_url=server.openai_url) as session:
                assert session.stream("hi").text() == GOOD.text
        assert await ask(server, "chat").text() == GOOD.text


NEVER_ENDED = """
import sys
from aprefill import SyncSession, stream_sync
session = SyncSession("vllm:m", base_url=sys.argv[1])
first, second = iter(session.stream("hi")), iter(stream_sync("hi", model="vllm:m", base_url=sys.argv[1]))
print(next(first), next(second))
"""


@pytest.mark.parametrize("kept", ["", "def keeps_the_globals(): pass"])
def test_no_thread_keeps_the_interpreter_from_exiting(kept: str) -> None:
    """A script that leaves two replies and a session open exits without delay or error output.

    If the script defines a function, its globals live until nothing can be imported any more.
    """
    with serve_in_thread(PAUSING) as server:
        began = time.monotonic()
        done = run_script(kept + NEVER_ENDED, server.openai_url)
        assert (done.stdout, done.stderr, done.returncode) == ("one  one \n", "", 0)
        assert time.monotonic() - began < 10
        assert open_after(server, 1) == 0


FORKED = """
import os, sys
from aprefill import SyncSession, UsageError
session = SyncSession("vllm:m", base_url=sys.argv[1])
reply = session.stream("hi")
chunks = iter(reply)
print(next(chunks), flush=True)
child = os.fork()
if child == 0:
    for work in (lambda: session.stream("hi").text(), lambda: [next(chunks) for _ in range(9)]):
        try:
            work()
        except UsageError as exc:
            print("child:", exc, flush=True)
    del chunks
    session.close()
    os._exit(0)
os.waitpid(child, 0)
print("".join(chunks))
session.close()
"""


def test_a_forked_child_gets_an_error_and_leaves_the_connection_alone() -> None:
    """After a fork the child gets an error that says to make a new session. The parent's reply continues."""
    with serve_in_thread(Script(text="one two three four", cuts=4, pace_s=0.1, prefill="eats")) as server:
        done = run_script(FORKED, server.openai_url)
    said = "child: this reply or session was begun in another process; make a new one after a fork"
    assert done.stdout.splitlines() == ["one ", said, said, "two three four"], done.stderr


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "options", "error", "text"),
    [
        (Script(text="one two ", cuts=4, no_end=True, prefill="eats"), {}, Truncated, "one two "),
        (PAUSING, {"timeouts": Timeouts(idle_s=0.2)}, Stalled, "one two thre"),
        (PAUSING, {"timeouts": Timeouts(total_s=0.3)}, Stalled, "one two thre"),
        (
            Script(text="one two three", cuts=4, prefill="eats"),
            {"limits": Limits(reply_chars=8)},
            LimitExceeded,
            "one two ",
        ),
        (
            Script(text="one two three", prefill="ignores"),
            {"prefill": "x", "support": "emulated", "absent": "raise"},
            PrefillIgnored,
            "",
        ),
    ],
    ids=["cut", "idle", "total", "limit", "ignored"],
)
def test_errors_are_those_of_stream(script: Script, options: dict[str, Any], error: type[Exception], text: str) -> None:
    """Errors have the class, message and `text_so_far` of `stream`, after the same text, and leave nothing behind."""

    async def asynchronous(server: Any) -> tuple[str, Any]:
        chunks = []
        with pytest.raises(error) as raised:
            async for chunk in ask(server, "chat", **options):
                chunks.append(chunk)
        return "".join(chunks), raised.value

    with serve_in_thread(script) as server, nothing_left(server):
        said, expected = anyio.run(asynchronous, server)
        chunks = []
        reply = ask_sync(server, **options)
        with pytest.raises(error) as raised:
            for chunk in reply:
                chunks.append(chunk)
        assert "".join(chunks) == said == text
        found: Any = raised.value
        assert found.text_so_far == expected.text_so_far == reply.text_so_far
        assert str(found).partition(" (")[0] == str(expected).partition(" (")[0]


def test_a_host_that_is_not_there() -> None:
    """If no connection is possible, `ConnectFailed` is raised and no thread is left."""
    before = threading.enumerate()
    with pytest.raises(ConnectFailed):
        stream_sync("hi", model="vllm:m", base_url="http://127.0.0.1:1/v1", recovery=NO_RETRY).text()
    assert new_threads(before) == []


def test_the_clocks_do_not_run_while_the_caller_is_busy() -> None:
    """The timeouts do not run while the caller is busy.

    So a caller that needs more than `idle_s` gets the whole reply.
    """
    script = Script(text="one two three four", cuts=4, pace_s=0.1, prefill="eats")
    with serve_in_thread(script) as server:
        chunks = []
        for chunk in ask_sync(server, timeouts=Timeouts(idle_s=0.3)):
            chunks.append(chunk)
            if len(chunks) == 2:
                time.sleep(0.6)
    assert "".join(chunks) == GOOD.text


def test_one_reader_at_a_time() -> None:
    """A second loop, or `text()` in another thread, raises `UsageError`. `text()` in the loop's own body does not."""
    with serve_in_thread(GOOD) as server, nothing_left(server):
        reply = ask_sync(server)
        ends: list[Any] = []

        def second() -> None:
            with pytest.raises(UsageError, match="being read already") as raised:
                reply.text()
            ends.append(raised.value.text_so_far)

        seen = []
        for chunk in reply:
            seen.append(chunk)
            with pytest.raises(UsageError, match="being read already"):
                next(iter(reply))
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(5)
            assert reply.text() == GOOD.text
        assert (seen, ends) == (["one "], ["one "])


def test_text_is_judged_by_the_thread_that_reads_now() -> None:
    """If an iterator is passed to another thread, `text()` works in that thread, and raises in the first thread."""
    script = Script(text=GOOD.text, cuts=4, pace_s=0.02, prefill="eats")
    with serve_in_thread(script) as server, nothing_left(server), ask_sync(server) as reply:
        chunks = iter(reply)
        next(chunks)
        has_read, going_on = threading.Event(), threading.Event()
        whole: list[str] = []

        def other() -> None:
            next(chunks)
            has_read.set()
            going_on.wait(5)
            whole.append(reply.text())

        thread = threading.Thread(target=other)
        thread.start()
        assert has_read.wait(5)
        with pytest.raises(UsageError, match="being read already") as raised:
            reply.text()
        assert raised.value.text_so_far == reply.text_so_far == "one two "
        going_on.set()
        thread.join(5)
        assert whole == [GOOD.text]


def test_close_before_it_began_sends_nothing() -> None:
    """A session's reply that is closed before it began sends nothing, and reading it raises `ReplyClosed`."""
    with serve_in_thread(GOOD) as server, SyncSession("vllm:m", base_url=server.openai_url) as session:
        assert session.stream("hi").text() == GOOD.text
        for reads in (SyncReply.text, list):
            reply = session.stream("hi")
            chunks = iter(reply)
            reply.close()
            with pytest.raises(ReplyClosed):
                reads(reply)
            with pytest.raises(ReplyClosed):
                next(chunks)
        assert session.stream("hi").text() == GOOD.text
        assert len(server.exchanges) == 2

"""Without async: leaving a reply closes its connection, and many replies leave nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

import aprefill._engine.run
import aprefill._sync
from aprefill import (
    ReplyClosed,
    StopReason,
    SyncReply,
    SyncSession,
)
from aprefill.testing import Script, serve_in_thread

from .support.sync import (
    GOOD,
    PAUSING,
    ask_sync,
    closed_within,
    new_threads,
    nothing_left,
    open_after,
)

# --- leaving --------------------------------------------------------------------------------------------------------

WAYS = ["break", "exception", "with", "close", "cancel", "drop"]


def leave(server: Any, way: str, **options: Any) -> SyncReply:
    """Read the first chunk, and leave the reply in one way."""
    reply = ask_sync(server, **options)
    if way == "break":
        for _ in reply:
            break
    elif way == "exception":
        with pytest.raises(ZeroDivisionError):
            for _ in reply:
                raise ZeroDivisionError
    elif way == "with":
        with reply:
            for _ in reply:
                break
            assert not server.exchanges[-1].closed.is_set()
            assert next(iter(reply)) == "two "
    elif way == "drop":
        chunks = iter(reply)
        next(chunks)
        del chunks
    else:
        for _ in reply:
            getattr(reply, way)()
            break
    return reply


@pytest.mark.parametrize("way", WAYS)
def test_leaving_closes_the_provider_at_once(way: str, no_gc: None) -> None:
    """When a reply is left, the provider sees the close within a second, and no thread is left."""
    with serve_in_thread(PAUSING) as server, nothing_left(server):
        reply = leave(server, way)
        assert closed_within(server.exchanges[0], 1)
        assert server.exchanges[0].outcome == "client_closed"
        assert reply.text_so_far == ("one two " if way == "with" else "one ")
        assert reply.timing.total_s is not None
        if way == "cancel":
            assert reply.stop_reason is StopReason.CANCELLED
            assert list(reply) == []
        else:
            with pytest.raises(ReplyClosed) as raised:
                list(reply)
            assert raised.value.text_so_far == reply.text_so_far


def test_control_of_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: if leaving a loop ends nothing, the same checks find the open connection and the thread."""
    monkeypatch.setattr(aprefill._sync._SyncSide, "end", lambda *_: None)
    with serve_in_thread(PAUSING) as server:
        before = threading.enumerate()
        reply = leave(server, "break")
        assert not closed_within(server.exchanges[0], 0.2)
        [thread] = new_threads(before)
        reply.close()
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize("reads", ["loop", "text"])
def test_another_thread_ends_a_reply_that_waits(how: str, reads: str) -> None:
    """From another thread, `cancel()` ends a waiting loop silently.

    `close()`, and any waiting `text()`, raise `ReplyClosed`.
    """
    with serve_in_thread(PAUSING) as server, nothing_left(server):
        reply = ask_sync(server)
        ends: list[Any] = []

        def work() -> None:
            try:
                ends.append(list(reply) if reads == "loop" else reply.text())
            except ReplyClosed as exc:
                ends.append(exc.text_so_far)

        thread = threading.Thread(target=work)
        thread.start()
        until = time.monotonic() + 5
        while reply.text_so_far != "one two thre" and time.monotonic() < until:
            time.sleep(0.001)
        getattr(reply, how)()
        thread.join(5)
        assert not thread.is_alive()
        chunks = ["one ", "two ", "thre"]
        assert ends == [chunks if (how, reads) == ("cancel", "loop") else "one two thre"]
        assert closed_within(server.exchanges[0], 1)


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_session_reply_that_is_ended_keeps_the_session(how: str) -> None:
    """After a reply of a session was ended, the next reply is whole."""
    with serve_in_thread([PAUSING, GOOD]) as server, nothing_left(server):
        with SyncSession("vllm:m", base_url=server.openai_url) as session:
            for _ in (reply := session.stream("hi")):
                getattr(reply, how)()
                break
            assert closed_within(server.exchanges[0], 1)
            assert session.stream("hi").text() == GOOD.text


def test_closing_a_session_ends_its_replies() -> None:
    """When a session is closed, its reply raises `ReplyClosed` at the next chunk."""
    with serve_in_thread(PAUSING) as server, nothing_left(server):
        session = SyncSession("vllm:m", base_url=server.openai_url)
        chunks = iter(session.stream("hi"))
        next(chunks)
        session.close()
        session.close()
        assert closed_within(server.exchanges[0], 1)
        with pytest.raises(ReplyClosed):
            list(chunks)


def test_a_reply_and_a_session_that_are_dropped_end_their_thread(no_gc: None) -> None:
    """A reply that is dropped inside its `with` warns.

    Dropped replies and sessions end their threads and connections.
    """
    with serve_in_thread(PAUSING) as server:
        before = threading.enumerate()
        reply = ask_sync(server).__enter__()
        for _ in reply:
            break
        with pytest.warns(ResourceWarning, match="was dropped inside its `with`"):
            del reply
        session = SyncSession("vllm:m", base_url=server.openai_url)
        chunks = iter(session.stream("hi"))
        del session
        next(chunks)
        del chunks
        for thread in new_threads(before):
            thread.join(5)
        assert new_threads(before) == []
        assert open_after(server, 2) == 0


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, sys, threading, time
from aprefill import SyncSession, stream_sync
signal.signal(signal.SIGINT, signal.default_int_handler)
url, where = sys.argv[1:]
options = {"model": "vllm:m", "base_url": url}
session = SyncSession(**options)
reply = session.stream("hi") if where == "session" else stream_sync("hi", **options)
kept = iter(reply) if where == "kept" else None

def tell_when_the_main_thread_waits():
    main = threading.main_thread().ident
    names = []
    until = time.monotonic() + 20
    # the start of a thread is a wait too, but it does not run the reply
    while "wait" not in names or "perform" not in names:
        if time.monotonic() > until:
            print("the main thread never waited for the reply", flush=True)
            os._exit(3)
        time.sleep(0.001)
        names, frame = [], sys._current_frames()[main]
        while frame:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
    print("waiting", flush=True)

try:
    if where == "text":
        print("begun", flush=True)
        threading.Thread(target=tell_when_the_main_thread_waits, name="watcher", daemon=True).start()
        reply.text()
    for chunk in kept or reply:
        print(chunk, flush=True)
        if where == "body":
            print("waiting", flush=True)
            time.sleep(30)
        threading.Thread(target=tell_when_the_main_thread_waits, name="watcher", daemon=True).start()
except KeyboardInterrupt:
    print("interrupted", repr(reply.text_so_far), flush=True)
    threads = len([thread for thread in threading.enumerate() if thread.name != "watcher"])
    sys.stdin.readline()
    print(threads)
    raise
"""


@pytest.mark.parametrize("where", ["waiting", "body", "text", "session", "kept"])
def test_ctrl_c_closes_the_provider_at_once(where: str) -> None:
    """Ctrl-C closes the provider within a second, and then `KeyboardInterrupt` is raised."""
    script = Script(text="one two three four", cuts=4, stall_after=4, prefill="eats")
    with serve_in_thread(script) as server:
        command = [sys.executable, "-c", INTERRUPTED, server.openai_url, where]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == ("begun\n" if where == "text" else "one \n")
            assert process.stdout.readline() == "waiting\n"
            until = time.monotonic() + 5
            while not (server.exchanges and server.exchanges[0].waiting.is_set()) and time.monotonic() < until:
                time.sleep(0.001)
            process.send_signal(signal.SIGINT)
            said = process.stdout.readline()
            # the process still runs, so its exit cannot have closed the connection
            assert closed_within(server.exchanges[0], 1)
            assert process.poll() is None
            out, err = process.communicate("\n", timeout=10)
    assert said in {"interrupted 'one '\n", "interrupted ''\n"} if where == "text" else said == "interrupted 'one '\n"
    assert out == ("2\n" if where == "session" else "1\n")
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT


# --- a thousand -----------------------------------------------------------------------------------------------------

TIMES = int(os.environ.get("APREFILL_SYNC_TIMES", "100"))


def many(server: Any, times: int) -> int:
    """Read many replies, every second pair of them only partly. Return how many threads are left."""
    before = threading.enumerate()
    with SyncSession("vllm:m", base_url=server.openai_url) as session:
        for number in range(times):
            reply = session.stream("hi") if number % 2 else ask_sync(server)
            for _ in reply:
                if number % 4 < 2:
                    break
    gc.collect()
    return len(new_threads(before))


def test_a_thousand_replies_leave_no_thread_and_no_connection() -> None:
    """Many replies, half of them in a session and half of them left early, leave no thread and no connection."""
    with serve_in_thread(GOOD) as server:
        assert many(server, TIMES) == 0
        assert len(server.exchanges) == TIMES
        assert open_after(server, 2) == 0


def test_control_of_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: if threads do not end, the same count finds each of them."""
    kept: list[aprefill._sync.LoopThread] = []
    end = aprefill._sync.LoopThread.end
    monkeypatch.setattr(aprefill._sync.LoopThread, "end", lambda thread, **_: kept.append(thread))
    with serve_in_thread(GOOD) as server:
        assert many(server, 8) >= 5
        monkeypatch.undo()
        for thread in kept:
            end(thread)

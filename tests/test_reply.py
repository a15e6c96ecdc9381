"""One reply, one loop: iterating twice, leaving, cancelling, owning, and what is known meanwhile."""

from __future__ import annotations

import math
import time
from typing import Any

import anyio
import httpx2
import pytest

from aprefill import Reply, ReplyClosed, ReplyConsumed, StopReason, TextEvent, ToolEvent, UsageError, stream
from aprefill.testing import Script, ToolCall, serve

from .support.loopback import STATES, WHOLE, ask, chunks_of, server_has

pytestmark = pytest.mark.anyio


async def test_nothing_is_sent_before_the_first_chunk_is_asked_for() -> None:
    """`stream()` is lazy."""
    async with serve(STATES) as server:
        reply = ask(server, "chat", prefill='["')
        await anyio.lowlevel.checkpoint()
        assert server.connections == 0
        assert reply.text_so_far == ""
        assert reply.attempts == ()
        await reply.text()
        assert server.connections == 1


async def test_a_second_iteration_says_what_happened() -> None:
    """After the end `ReplyConsumed`, after a `break` `ReplyClosed`; both carry the text."""
    async with serve(STATES) as server:
        done = ask(server, "chat", prefill='["')
        await done.text()
        with pytest.raises(ReplyConsumed) as consumed:
            await chunks_of(done)
        assert consumed.value.text_so_far == WHOLE
        assert await done.text() == WHOLE
        left = ask(server, "chat", prefill='["')
        async for _ in left:
            break
        with pytest.raises(ReplyClosed) as closed:
            await chunks_of(left)
        assert closed.value.text_so_far == '["' == left.text_so_far
        with pytest.raises(ReplyClosed):
            await left.text()


async def test_a_cursor_that_asked_for_nothing_leaves_the_reply_fresh() -> None:
    """An iterator made and dropped before its first chunk has begun nothing; after `now`'s chunk it has."""
    async with serve(STATES) as server:
        reply = ask(server, "chat", prefill='["')
        aiter(reply)
        assert await reply.text() == WHOLE
        reply = ask(server, "chat", prefill='["', show_when="now")
        async for _ in reply:
            break
        with pytest.raises(ReplyClosed):
            await chunks_of(reply)
        assert server.connections == 1


async def test_async_with_keeps_it_over_several_loops() -> None:
    """`break` does not close an owned reply; a loop after its end finds nothing more."""
    async with serve(Script(text="abcdef", cuts=1, prefill="eats")) as server:
        async with ask(server, "chat", prefill=">") as reply:
            text = ""
            for _ in range(3):
                async for chunk in reply:
                    text += chunk
                    break
            assert text == ">ab"
            async for chunk in reply:
                text += chunk
            assert text == ">abcdef"
            assert await chunks_of(reply) == []
            assert await reply.text() == ">abcdef"


async def test_events_can_be_asked_for_in_the_middle_of_an_owned_reply() -> None:
    """Text first, then events: what had not come yet arrives as events."""
    script = Script(text="abcd", cuts=1, tools=[ToolCall(name="f")], prefill="eats", pace_s=0.01)
    async with serve(script) as server, ask(server, "chat", prefill=">") as reply:
        async for _ in reply:
            break
        events = [event async for event in reply.events()]
    assert [e.name for e in events if isinstance(e, ToolEvent)][:1] == ["f"]
    texts = [e for e in events if isinstance(e, TextEvent)]
    assert (texts[0].offset, "".join(e.text for e in texts)) == (1, "abcd")


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("asked", [True, False, None])
async def test_events_can_join_the_text_of_one_read(made: bool, asked: bool | None) -> None:
    """By their own `coalesce`, or with None as the reply was made; the prefill stays one of its own."""
    script = Script(text="abcd", cuts=1, tools=[ToolCall(name="f")], prefill="eats", wire_cuts=100_000)
    async with serve(script) as server:
        reply = ask(server, "chat", prefill=">", coalesce=made)
        events = [event async for event in reply.events(coalesce=asked)]
    texts = [(e.text, e.offset, e.prefill) for e in events if isinstance(e, TextEvent)]
    joined = made if asked is None else asked
    apart = [("a", 1, False), ("b", 2, False), ("c", 3, False), ("d", 4, False)]
    assert texts == [(">", 0, True), *([("abcd", 1, False)] if joined else apart)]
    assert reply.text_so_far == ">abcd"
    assert [type(e).__name__ for e in events[-2:]] == ["ToolEvent", "AttemptEnded"]


@pytest.mark.parametrize("leave", ["break", "cancel", "aclose"])
async def test_what_was_buffered_when_it_was_left_is_not_handed_out(leave: str) -> None:
    """One read brought ten chunks, the caller left after the third: there are no more, and the text stays."""
    async with serve(Script(text="abcdefghij", cuts=1, wire_cuts=100_000, prefill="eats")) as server:
        reply = ask(server, "chat", prefill=">")
        got = ""
        closed = False
        try:
            async for chunk in reply:
                got += chunk
                if len(got) == 3:
                    if leave == "break":
                        break
                    if leave == "cancel":
                        reply.cancel()
                    else:
                        await reply.aclose()
        except ReplyClosed:
            closed = True
        assert closed == (leave == "aclose")
        assert got == ">ab" == reply.text_so_far
        with pytest.raises(ReplyClosed) as error:
            await reply.text()
        assert error.value.text_so_far == ">ab" == reply.text_so_far
        assert reply.message["content"] == ">ab"


async def test_a_reply_left_after_its_last_text_is_whole() -> None:
    """`break`, `cancel()` or `aclose()` once everything was handed out change nothing about the outcome."""
    async with serve(Script(text="abc", cuts=3, wire_cuts=100_000, prefill="eats", hold_open_s=30)) as server:
        for leave in (Reply.cancel, Reply.aclose, None):
            reply = ask(server, "chat")
            async for _ in reply:
                if leave is not None:
                    waiting = leave(reply)
                    if waiting is not None:
                        await waiting
                break
            assert await reply.text() == "abc"
            assert reply.stop_reason is StopReason.END


async def test_reading_the_text_so_far_in_the_loop_is_cheap() -> None:
    """20,000 chunks, with the whole text looked at after each: no second pass over what was joined already."""
    async with serve(Script(text="ab" * 20_000, cuts=2, wire_cuts=65_536)) as server:
        reply = ask(server, "chat")
        began = time.process_time()
        async for _ in reply:
            length = len(reply.text_so_far)
        spent = time.process_time() - began
    assert length == 40_000
    assert spent < 3  # joined anew each time it took minutes


async def test_an_owned_reply_dropped_unclosed_warns() -> None:
    """A ResourceWarning, and the connection is closed all the same."""
    async with serve(Script(text="abc", stall_after=1, prefill="eats")) as server:
        reply = await ask(server, "chat", prefill=">").__aenter__()
        await anext(aiter(reply))
        with pytest.warns(ResourceWarning, match="dropped"):
            del reply
        with anyio.fail_after(2):
            await server.exchanges[0].closed.wait()


async def test_two_tasks_reading_one_reply_is_an_error_at_once() -> None:
    """The second reader is told, the first goes on."""
    async with serve(Script(text="abc", stall_after=1, prefill="eats")) as server:
        async with ask(server, "chat") as reply:
            async with anyio.create_task_group() as group:
                group.start_soon(chunks_of, reply)
                await server_has(server, 1)
                await server.exchanges[0].waiting.wait()
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
                with pytest.raises(UsageError, match="being read already"), anyio.fail_after(1):
                    await reply.text()
                group.cancel_scope.cancel()


async def test_cancel_ends_a_loop_quietly_and_text_with_an_error() -> None:
    """From another task; also while the host has not even answered."""
    for script in (Script(text="abc", stall_after=1, prefill="eats"), Script(text="abc", first_byte_s=math.inf)):
        async with serve(script) as server:
            reply = ask(server, "chat", prefill=">")
            got: list[str] = []
            async with anyio.create_task_group() as group:

                async def read(reply: Reply = reply, got: list[str] = got) -> None:
                    async for chunk in reply:
                        got.append(chunk)

                group.start_soon(read)
                await server_has(server, 1)
                with anyio.fail_after(2):
                    await server.exchanges[0].waiting.wait()
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
                reply.cancel()
            assert "".join(got) in {">a", ""}
            assert reply.stop_reason is StopReason.CANCELLED
            with pytest.raises(ReplyClosed):
                await reply.text()


async def test_cancel_before_it_began() -> None:
    """Nothing is ever sent."""
    async with serve(STATES) as server:
        reply = ask(server, "chat")
        reply.cancel()
        assert await chunks_of(reply) == []
        assert server.connections == 0


async def beats_during(reply: Reply) -> tuple[int, int]:
    """(chunks, turns that another task got meanwhile)."""
    beats = 0

    async def heartbeat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await anyio.lowlevel.checkpoint()

    count = 0
    async with anyio.create_task_group() as group:
        async for _ in reply:
            count += 1
            if count == 1:
                group.start_soon(heartbeat)
        group.cancel_scope.cancel()
    return count, beats


BURST = Script(text="abcd" * 10_000, cuts=4, prefill="eats", wire_cuts=65_536)
#: Bytes of the burst on the wire, and so the network reads that it takes at least.
BURST_READS = len(BURST.text) // 4 * 150 // 65_536


async def test_a_burst_does_not_starve_a_heartbeat() -> None:
    """At least one checkpoint a network read: 10,000 buffered chunks let another task run all the while."""
    async with serve(BURST) as server:
        count, beats = await beats_during(ask(server, "chat"))
    assert count == 10_000
    assert beats >= BURST_READS > 10


def source_without_checkpoints(records: int) -> httpx2.MockTransport:
    """A transport that hands out everything one by one, without ever waiting."""
    record = b'data: {"choices":[{"index":0,"delta":{"content":"abcd"}}]}\n\n'

    class Body(httpx2.AsyncByteStream):
        def __init__(self) -> None:
            self.left = records

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return record if self.left else record + b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

    return httpx2.MockTransport(answer)


@pytest.mark.parametrize("gives_turns", [True, False], ids=["it", "control"])
async def test_a_source_that_never_waits_does_not_starve_a_heartbeat(
    gives_turns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tasks have a turn at least once in 32 reads. The control is a reader that leaves that to its source."""
    if not gives_turns:
        monkeypatch.setattr("aprefill._engine.attempt.READS_A_TURN", 1 << 30)
    async with httpx2.AsyncClient(transport=source_without_checkpoints(10_000)) as client:
        count, beats = await beats_during(stream("hi", model="m", client=client, base_url="https://host.test"))
    assert count == 10_000
    assert (beats > 10_000 / 33) is gives_turns

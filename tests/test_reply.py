"""One reply: a second iteration, leaving, cancelling, `async with`, and its attributes in the meantime."""

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
    """Nothing is sent before the first chunk is requested."""
    async with serve(STATES) as server:
        reply = ask(server, "chat", prefill='["')
        await anyio.lowlevel.checkpoint()
        assert server.connections == 0
        assert reply.text_so_far == ""
        assert reply.attempts == ()
        await reply.text()
        assert server.connections == 1


async def test_a_second_iteration_says_what_happened() -> None:
    """A second loop raises `ReplyConsumed` after the end and `ReplyClosed` after a `break`. Both have the text."""
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
    """An iterator that was never read does not begin the reply. With `show_when="now"` the first chunk begins it."""
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
    """In `async with`, a `break` does not close the reply, and a loop after its end gives no chunks."""
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
    """In `async with`, `events()` after a loop over text gives the rest as events."""
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
    """`events(coalesce=)` joins the text of one read.

    None means as for the reply. The prefill always is a separate event.
    """
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
    """After the reply is left, buffered text of the same read is not handed out, and is not in `text_so_far`."""
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
    """A reply that is left after its last text counts as complete."""
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
    """Reading `text_so_far` after each of 20,000 chunks takes linear time."""
    async with serve(Script(text="ab" * 20_000, cuts=2, wire_cuts=65_536)) as server:
        reply = ask(server, "chat")
        began = time.process_time()
        async for _ in reply:
            length = len(reply.text_so_far)
        spent = time.process_time() - began
    assert length == 40_000
    assert spent < 3  # joining the whole text each time took minutes


async def test_an_owned_reply_dropped_unclosed_warns() -> None:
    """A reply that is dropped inside its `async with` gives a ResourceWarning, and its connection is closed."""
    async with serve(Script(text="abc", stall_after=1, prefill="eats")) as server:
        reply = await ask(server, "chat", prefill=">").__aenter__()
        await anext(aiter(reply))
        with pytest.warns(ResourceWarning, match="dropped"):
            del reply
        with anyio.fail_after(2):
            await server.exchanges[0].closed.wait()


async def test_two_tasks_reading_one_reply_is_an_error_at_once() -> None:
    """A second task that reads the same reply gets a `UsageError` at once. The first continues."""
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
    """`cancel()` from another task ends a loop silently, also before the host has answered. `text()` then raises."""
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
    """If `cancel()` comes before the first chunk, nothing is sent."""
    async with serve(STATES) as server:
        reply = ask(server, "chat")
        reply.cancel()
        assert await chunks_of(reply) == []
        assert server.connections == 0


async def beats_during(reply: Reply) -> tuple[int, int]:
    """Read the reply. Return the number of chunks, and how often another task ran meanwhile."""
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
#: Minimum number of network reads for the burst, computed from its size on the wire.
BURST_READS = len(BURST.text) // 4 * 150 // 65_536


async def test_a_burst_does_not_starve_a_heartbeat() -> None:
    """While 10,000 buffered chunks are read, another task runs at least once per network read."""
    async with serve(BURST) as server:
        count, beats = await beats_during(ask(server, "chat"))
    assert count == 10_000
    assert beats >= BURST_READS > 10


def source_without_checkpoints(records: int) -> httpx2.MockTransport:
    """Return a transport that returns one record at a time, without ever waiting."""
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
    """With a source that never waits, other tasks run at least once in 32 reads.

    Control: without that rule they do not.
    """
    if not gives_turns:
        monkeypatch.setattr("aprefill._engine.attempt.READS_A_TURN", 1 << 30)
    async with httpx2.AsyncClient(transport=source_without_checkpoints(10_000)) as client:
        count, beats = await beats_during(stream("hi", model="m", client=client, base_url="https://host.test"))
    assert count == 10_000
    assert (beats > 10_000 / 33) is gives_turns

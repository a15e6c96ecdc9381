"""`stream()`, `Reply` and `Session` against a real loopback host, on both wires and three event loops."""

from __future__ import annotations

import email.utils
import math
import socket
import time
import warnings
from contextlib import ExitStack
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from anyio.abc import SocketAttribute

from aprefill import (
    AttemptEnded,
    AttemptStarted,
    ConnectFailed,
    PrefillIgnored,
    PrefillRefused,
    ProtocolError,
    ReasoningEvent,
    Reply,
    ReplyClosed,
    ReplyConsumed,
    Session,
    Stalled,
    StatusError,
    StopReason,
    Support,
    TextEvent,
    Timeouts,
    ToolEvent,
    Truncated,
    UsageError,
    Verdict,
    stream,
)
from aprefill.testing import Script, ToolCall, serve

pytestmark = pytest.mark.anyio

STATES = Script(text='Alabama", "Alaska"]', prefill="eats")
WHOLE = '["Alabama", "Alaska"]'
QUESTION = "JSON list of US state names"

WIRES = ["messages", "chat"]


def ask(server: Any, wire: str, **options: Any) -> Reply:
    """A stream to the loopback host on one wire."""
    prompt = options.pop("prompt", QUESTION)
    if wire == "messages":
        return stream(
            prompt, **{"model": "anthropic:claude-haiku-4-5", "base_url": server.url, "api_key": "k", **options}
        )
    return stream(prompt, **{"model": "vllm:m", "base_url": server.openai_url, **options})


async def chunks_of(reply: Reply) -> list[str]:
    return [chunk async for chunk in reply]


# --- the promise ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("cuts", [1, 3, 1000])
async def test_a_host_that_leaves_the_prefill_out(wire: str, cuts: int) -> None:
    """The prefill comes first, once, and the model's text after it."""
    async with serve(Script(text='Alabama", "Alaska"]', prefill="eats", cuts=cuts)) as server:
        reply = ask(server, wire, prefill='["')
        chunks = await chunks_of(reply)
        assert chunks[0] == '["'
        assert "".join(chunks) == WHOLE == await reply.text() == reply.text_so_far
        assert server.exchanges[0].prefill == '["'
        assert (reply.mode, reply.support, reply.verdict) == ("native", Support.EATS, Verdict.ABSENT)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("echo", ["split", "joined"])
async def test_a_host_that_repeats_the_prefill(wire: str, echo: Any) -> None:
    """The repetition is dropped, in deltas of its own or in one delta with the first token."""
    async with serve(Script(text='Alabama", "Alaska"]', prefill="echoes", echo=echo)) as server:
        reply = ask(server, wire, prefill='["', support="echoes")
        assert "".join(await chunks_of(reply)) == WHOLE
        assert reply.verdict is Verdict.ECHOED


@pytest.mark.parametrize("wire", WIRES)
async def test_without_a_prefill_it_is_a_plain_stream(wire: str) -> None:
    """No prefill: the model's text as it comes, on a host of which nothing is known."""
    async with serve(Script(text="Hello, world")) as server:
        reply = ask(server, wire, support=None)
        assert "".join(await chunks_of(reply)) == "Hello, world"
        assert reply.mode == "none"


async def test_white_space_at_the_end_is_sent_stripped_and_joined_exactly() -> None:
    """Anthropic refuses trailing white space: it is not sent, and the one the model writes again is dropped."""
    for text in (" forty-two.", "forty-two."):
        script = Script(text=text, prefill="eats", refuse_trailing_whitespace=True)
        async with serve(script) as server:
            reply = ask(server, "messages", prefill="The answer is ")
            assert "".join(await chunks_of(reply)) == "The answer is forty-two."
            assert server.exchanges[0].prefill == "The answer is"
    async with serve(Script(text="aaaa b", prefill="eats")) as server:
        assert await ask(server, "messages", prefill="aaa").text() == "aaaaaaa b"


# --- when the prefill is shown ------------------------------------------------------------------------------------


async def test_accepted_shows_the_prefill_ahead_of_the_first_token() -> None:
    """With the 2xx, while the model is still silent."""
    async with serve(Script(text="x", prefill="eats", first_token_s=math.inf)) as server:
        async with ask(server, "chat", prefill="ab") as reply:
            with anyio.fail_after(2):
                assert await anext(aiter(reply)) == "ab"
            assert reply.timing.accepted_s is not None
            assert reply.timing.first_token_s is None


async def test_now_shows_it_before_the_request() -> None:
    """Nothing has been sent when the first chunk is there."""
    async with serve(STATES) as server:
        async with ask(server, "chat", prefill='["', show_when="now") as reply:
            cursor = aiter(reply)
            assert await anext(cursor) == '["'
            assert server.connections == 0
            assert '["' + "".join([c async for c in cursor]) == WHOLE


async def test_decided_shows_it_with_the_first_new_text() -> None:
    """An error before any text leaves nothing on the screen; a reply without text still ends with its prefill."""
    broken = Script(text="abc", prefill="eats", after=0, error_event=("overloaded_error", "busy"))
    async with serve([broken, Script(text="", prefill="eats"), STATES]) as server:
        shown: list[str] = []
        with pytest.raises(StatusError):
            async for chunk in ask(server, "messages", prefill='["', show_when="decided"):
                shown.append(chunk)
        assert shown == []
        assert await chunks_of(ask(server, "messages", prefill='["', show_when="decided")) == ['["']
        chunks = await chunks_of(ask(server, "messages", prefill='["', show_when="decided"))
        assert chunks[0] == '["'
        assert "".join(chunks) == WHOLE


async def test_never_hides_it_but_the_history_has_it() -> None:
    """Hidden from the loop, whole in `text()`, `text_so_far` and `message`."""
    async with serve(STATES) as server:
        reply = ask(server, "chat", prefill='["', show_when="never")
        assert "".join(await chunks_of(reply)) == 'Alabama", "Alaska"]'
        assert await reply.text() == WHOLE
        assert reply.message == {"role": "assistant", "content": WHOLE}


@pytest.mark.parametrize(("show_from", "shown"), [(0, 'Sure: {"a'), (6, '{"a'), ("{", '{"a'), (9, "")])
async def test_show_from_shows_the_tail_of_the_prefill(show_from: Any, shown: str) -> None:
    """From an offset or a marker; the history has it whole."""
    async with serve(Script(text='": 1}', prefill="eats")) as server:
        reply = ask(server, "chat", prefill='Sure: {"a', show_from=show_from)
        assert "".join(await chunks_of(reply)) == shown + '": 1}'
        assert reply.message["content"] == 'Sure: {"a": 1}'


async def test_coalesce_gives_one_chunk_a_read() -> None:
    """Deltas that came in one network read are one chunk; the text is the same."""
    script = Script(text="abcdefghij" * 20, cuts=1, prefill="eats", wire_cuts=100_000)
    async with serve(script) as server:
        separate = await chunks_of(ask(server, "chat", prefill="> "))
        joined = await chunks_of(ask(server, "chat", prefill="> ", coalesce=True))
        assert "".join(joined) == "".join(separate) == "> " + script.text
        assert len(separate) == 201
        assert len(joined) < 20
        reply = ask(server, "chat", prefill="> ", coalesce=True, show_when="decided")
        assert (await chunks_of(reply))[0].startswith("> a")
        assert reply.text_so_far == "> " + script.text


# --- events -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_events_are_typed_and_carry_offsets(wire: str) -> None:
    """Attempt started, reasoning, text with offsets into the whole reply, a tool call, attempt ended."""
    script = Script(
        text="hello", reasoning="hm", tools=[ToolCall(name="f", arguments='{"a":1}')], prefill="eats", cuts=2
    )
    async with serve(script) as server:
        reply = ask(server, wire, prefill="> oh, ", show_from=2)
        events = [event async for event in reply.events()]
    assert isinstance(events[0], AttemptStarted)
    assert events[1] == TextEvent("oh, ", 2, prefill=True)
    texts = [e for e in events if isinstance(e, TextEvent)]
    whole = reply.text_so_far
    assert whole == "> oh, hello"
    for event in texts:
        assert whole[event.offset : event.offset + len(event.text)] == event.text
    assert "".join(e.text for e in events if isinstance(e, ReasoningEvent)) == "hm"
    tools = [e for e in events if isinstance(e, ToolEvent)]
    assert tools[0].name == "f"
    assert "".join(e.arguments for e in tools) == '{"a":1}'
    last = events[-1]
    assert isinstance(last, AttemptEnded)
    assert last.report.stop_reason is StopReason.TOOL_USE
    assert last.report == reply.attempts[0]


@pytest.mark.parametrize("wire", WIRES)
async def test_a_reply_of_tool_calls_only_gives_the_prefill_alone(wire: str) -> None:
    """No text at all must not crash anything."""
    async with serve(Script(text="", tools=[ToolCall(name="f")], prefill="eats")) as server:
        reply = ask(server, wire, prefill="ok ")
        assert await chunks_of(reply) == ["ok "]
        assert reply.stop_reason is StopReason.TOOL_USE


# --- stop sequences -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_the_fence_recipe(wire: str) -> None:
    """Prefill ```python, stop ``` : the most cited recipe, applied by the host where it may be sent."""
    async with serve(Script(text="\nx = 1\n```\nDone", prefill="eats")) as server:
        reply = ask(server, wire, prefill="```python", stop="```")
        assert "".join(await chunks_of(reply)) == "```python\nx = 1\n"
        assert reply.stop_reason in {StopReason.STOP_SEQUENCE, StopReason.END}
        if wire == "messages":
            assert reply.stop_sequence == "```"


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stop_across_the_joint_is_ours_and_applies_to_the_new_text(wire: str) -> None:
    """A host could match it over known and new text together: it is not sent, and the reply says which one fired."""
    async with serve(Script(text="\none\n\ntwo", prefill="eats", cuts=1)) as server:
        reply = ask(server, wire, prefill="zero\n.\n", stop=["\n\n", "never"])
        text = "".join(await chunks_of(reply))
        assert text in {"zero\n.\n\none", "zero\n.\none"}  # Anthropic's stripped newline is written once
        assert (reply.stop_reason, reply.stop_sequence) == (StopReason.STOP_SEQUENCE, "\n\n")
        sent = server.exchanges[0].option("stop_sequences" if wire == "messages" else "stop")
        assert sent == ["never"]
        with anyio.fail_after(2):
            await server.exchanges[0].closed.wait()


@pytest.mark.parametrize("wire", WIRES)
async def test_usage_timing_and_stop_reason(wire: str) -> None:
    """What the host counted, and clocks in their order; the prefill is nobody's first token."""
    async with serve(
        Script(text="one two", prefill="eats", input_tokens=7, output_tokens=5, first_token_s=0.05)
    ) as server:
        reply = ask(server, wire, prefill="zero ")
        assert reply.usage is None
        assert reply.timing.total_s is None
        await reply.text()
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (7, 5)
    assert reply.stop_reason is StopReason.END
    t = reply.timing
    assert None not in {t.accepted_s, t.first_token_s, t.first_text_s, t.held_s, t.total_s}
    assert t.accepted_s < 0.05 <= t.first_token_s <= t.first_text_s <= t.total_s  # type: ignore[operator]
    assert t.held_s is not None
    assert 0 <= t.held_s < 0.05


async def test_held_time_is_reported_apart() -> None:
    """The echo arrives first: the text is held from the first text delta to the first new text."""
    async with serve(Script(text="new", prefill="echoes", cuts=4, pace_s=0.02)) as server:
        reply = ask(server, "chat", prefill="abcdefgh", support="echoes")
        await reply.text()
    assert reply.timing.held_s is not None
    assert reply.timing.held_s >= 0.02


# --- one reply, one loop ------------------------------------------------------------------------------------------


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
                with pytest.raises(UsageError, match="two tasks"), anyio.fail_after(1):
                    await reply.text()
                group.cancel_scope.cancel()


async def server_has(server: Any, exchanges: int) -> None:
    with anyio.fail_after(2):
        while len(server.exchanges) < exchanges:
            await anyio.lowlevel.checkpoint()


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


async def test_control_a_source_without_checkpoints_starves_it() -> None:
    """The same look at a transport that hands out everything without waiting."""
    record = b'data: {"choices":[{"index":0,"delta":{"content":"abcd"}}]}\n\n'

    class Body(httpx2.AsyncByteStream):
        def __init__(self) -> None:
            self.left = 10_000

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return record if self.left else record + b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        count, beats = await beats_during(stream("hi", model="m", client=client, base_url="https://host.test"))
    assert count == 10_000
    assert beats < BURST_READS


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_a_cut_is_an_error_with_the_text_so_far(wire: str) -> None:
    """FIN in the middle, RST, a clean end without the protocol's end, half an event: never a silent end."""
    for fault in (
        {"drop_after_bytes": 900},
        {"reset_after_bytes": 900},
        {"no_end": True},
        {"half_event_at_end": True},
        {"no_end": True, "framing": "close"},
    ):
        async with serve(Script(text="one two three " * 20, prefill="eats", **fault)) as server:  # type: ignore[arg-type]
            got = ""
            with pytest.raises(Truncated) as cut:
                async for chunk in ask(server, wire, prefill="zero "):
                    got += chunk
            assert got.startswith("zero one")
            assert cut.value.text_so_far == got
            assert cut.value.received_bytes > 0


@pytest.mark.parametrize("wire", WIRES)
async def test_an_error_inside_the_stream_comes_after_the_text_before_it(wire: str) -> None:
    """The text first, then a `StatusError` that says it was in band."""
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
    """What comes after the terminal record is not text of the reply."""
    async with serve(Script(text="one", prefill="eats", text_after_end=" TWO")) as server:
        assert await ask(server, wire, prefill="zero ").text() == "zero one"


@pytest.mark.parametrize("wire", WIRES)
async def test_a_refusal_that_the_table_knows(wire: str) -> None:
    """A 400 with the known words is `PrefillRefused`, with nothing shown."""
    async with serve(Script(text="x", prefill="refuses")) as server:
        model = "claude-haiku-4-5" if wire == "messages" else "openrouter:anthropic/claude-sonnet-4.5"
        options: dict[str, Any] = {} if wire == "messages" else {"model": model}
        with pytest.raises(PrefillRefused) as refused:
            await chunks_of(ask(server, wire, prefill='["', **options))
        assert refused.value.status == 400
        assert refused.value.text_so_far == ""


@pytest.mark.parametrize(
    "model", ["openai:gpt-5", "anthropic:claude-opus-4-6", "anthropic:claude-sonnet-5-5", "openai-compatible:x"]
)
async def test_a_model_without_native_prefill_is_refused_before_any_http(model: str) -> None:
    """`PrefillRefused` from the table alone; the same model without a prefill is asked."""
    async with serve(Script(text="hello")) as server:
        base = server.url if model.startswith("anthropic") else server.openai_url
        reply = stream("hi", prefill="x", model=model, base_url=base, api_key="k")
        with pytest.raises(PrefillRefused) as refused:
            await chunks_of(reply)
        assert refused.value.status is None
        assert server.connections == 0
        assert await stream("hi", model=model, base_url=base, api_key="k").text() == "hello"


@pytest.mark.parametrize("wire", WIRES)
async def test_rate_limit_and_retry_after(wire: str) -> None:
    """The status, what the host asked for in seconds, its words, and nothing of the key."""
    async with serve(Script(status=429, retry_after=7)) as server:
        with pytest.raises(StatusError) as error:
            await ask(server, wire, api_key="sk-secret-1234567890").text()
    assert error.value.status == 429
    assert error.value.retry_after_s == 7
    assert "sk-secret" not in repr(error.value)


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
    """A typed error, never an empty reply."""
    async with serve(Script(**answer)) as server:
        with pytest.raises((ProtocolError, StatusError)):
            await ask(server, wire, prefill="x").text()


async def test_a_redirect_is_never_followed() -> None:
    """The prompt does not go to another host."""
    async with serve(STATES) as other, serve(Script(redirect=other.openai_url)) as server:
        with pytest.raises(StatusError) as error:
            await ask(server, "chat").text()
        assert error.value.status == 307
        assert other.connections == 0


async def test_a_compressed_answer_is_refused() -> None:
    """Identity was asked for: a gzip bomb is never inflated."""
    async with serve(Script(gzip_bomb=50_000_000)) as server:
        with pytest.raises(ProtocolError, match="compressed"):
            await ask(server, "chat").text()
        assert server.exchanges[0].headers["accept-encoding"] == "identity"


async def test_nobody_listens() -> None:
    """A refused connection and a host that hangs up are `ConnectFailed`."""
    async with serve(STATES) as server:
        url = server.openai_url
    with pytest.raises(ConnectFailed):
        await stream("hi", model="m", base_url=url).text()
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
    """A clock that runs out is `Stalled`, with its name and its seconds; keep-alives do not feed the progress clock."""
    async with serve(script) as server:
        with pytest.raises(Stalled) as stalled, anyio.fail_after(3):
            await ask(server, "chat", timeouts=timeouts).text()
        assert stalled.value.clock == clock
        assert stalled.value.after_s == pytest.approx(getattr(timeouts, clock))


async def test_the_connect_clock_runs_to_the_connection() -> None:
    """A host that does not even take the connection: its backlog is full."""
    with ExitStack() as sockets:
        host = sockets.enter_context(socket.socket())
        host.bind(("127.0.0.1", 0))
        host.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(host.getsockname())
        reply = stream(
            "x", model="m", base_url=f"http://127.0.0.1:{host.getsockname()[1]}", timeouts=Timeouts(connect_s=0.1)
        )
        with pytest.raises(Stalled) as stalled, anyio.fail_after(3):
            await reply.text()
    assert (stalled.value.clock, stalled.value.after_s) == ("connect_s", 0.1)


async def test_the_time_to_the_head_counts() -> None:
    """The total clock has been running since the request, not since the answer's head."""
    slow = Script(text="abcd" * 10, cuts=1, first_byte_s=0.6, pace_s=0.1)
    async with serve(slow) as server:
        began = time.perf_counter()
        with pytest.raises(Stalled), anyio.fail_after(3):
            await ask(server, "chat", timeouts=Timeouts(total_s=0.8)).text()
        assert time.perf_counter() - began < 1.3


async def test_an_error_body_is_bounded_in_size_and_time() -> None:
    """64 KiB of it are read, and the clocks go on running."""
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
        reply = stream("x", model="m", base_url=f"http://127.0.0.1:{port}", timeouts=Timeouts(total_s=0.2))
        with pytest.raises(StatusError, match="500"):
            await reply.text()
        assert time.perf_counter() - began < 0.6
        group.cancel_scope.cancel()


async def test_the_request_id_and_a_retry_after_date() -> None:
    """For the host's support; and the other form of Retry-After, in seconds from now."""
    at = email.utils.formatdate(time.time() + 60, usegmt=True)
    async with serve(Script(status=429, retry_after=at, headers={"request-id": "req_7"})) as server:
        with pytest.raises(StatusError) as error:
            await ask(server, "messages").text()
    assert error.value.request_id == "req_7"
    assert error.value.retry_after_s is not None
    assert 50 < error.value.retry_after_s <= 60


async def test_a_slow_consumer_trips_no_clock() -> None:
    """The clocks run only while we wait for the provider."""
    async with serve(Script(text="abcdef", cuts=1)) as server:
        text = ""
        tight = Timeouts(first_token_s=0.1, progress_s=0.1, idle_s=0.1, total_s=0.1)
        async for chunk in ask(server, "chat", timeouts=tight):
            text += chunk
            await anyio.sleep(0.04)
        assert text == "abcdef"


async def test_strict_takes_no_silence_for_an_echo() -> None:
    """An empty reply of a host known to repeat the prefill is `PrefillIgnored` too."""
    async with serve(Script(text="", prefill="ignores")) as server:
        with pytest.raises(PrefillIgnored):
            await ask(server, "chat", prefill="ab", support="echoes", strict=True).text()


async def test_a_token_limit_inside_the_echo_leaves_no_half_of_it() -> None:
    """What the seam holds then is a repetition in the making: it is dropped."""
    script = Script(prefill="ignores", cuts=["Dear An"], stop_reason="max_tokens")
    async with serve(script) as server:
        reply = ask(server, "messages", prefill="Dear Ann, ", support="echoes")
        assert await reply.text() == "Dear Ann, "
        assert reply.verdict is Verdict.TRUNCATED
        assert reply.stop_reason is StopReason.MAX_TOKENS


async def test_strict_wants_the_echo_that_the_host_is_known_for() -> None:
    """A host known to repeat the prefill that does not: `PrefillIgnored`, nothing shown."""
    async with serve(Script(text="other", prefill="ignores")) as server:
        shown: list[str] = []
        with pytest.raises(PrefillIgnored):
            async for chunk in ask(server, "chat", prefill="ab", support="echoes", strict=True):
                shown.append(chunk)
        assert shown == []
        assert await ask(server, "chat", prefill="ab", support="echoes").text() == "abother"


# --- messages, history ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_a_trailing_assistant_turn_is_the_prefill(wire: str) -> None:
    """In a list of messages; with prefill= as well it is a usage error."""
    prompt = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": '["'}]
    async with serve(STATES) as server:
        assert await ask(server, wire, prompt=prompt).text() == WHOLE
        with pytest.raises(UsageError, match="keep one"):
            ask(server, wire, prompt=prompt, prefill="x")


@pytest.mark.parametrize("wire", WIRES)
async def test_the_second_turn_carries_the_first_whole(wire: str) -> None:
    """`message` is the assistant turn for the next request, hidden prefill or not."""
    async with serve(STATES) as server:
        for show_when in ("accepted", "never"):
            first = ask(server, wire, prefill='["', show_when=show_when)
            await first.text()
            history = [{"role": "user", "content": QUESTION}, first.message, {"role": "user", "content": "more"}]
            await ask(server, wire, prompt=history, prefill="[").text()
            sent = server.exchanges[-1].messages
            assert sent[1] == {"role": "assistant", "content": WHOLE}


# --- sessions and clients -----------------------------------------------------------------------------------------


async def test_a_session_has_one_pool_and_the_same_defaults() -> None:
    """Its defaults apply, an argument wins over them, and None is an argument."""
    async with serve(STATES) as server:
        session = Session("openai:m", base_url=server.openai_url, support="eats", max_tokens=9, system="be brief")
        async with session:
            await session.stream("a", prefill='["').text()
            await session.stream("b", max_tokens=5, system=None).text()
        first, second = server.exchanges
        assert server.connections == 1
        assert (first.json["max_completion_tokens"], first.messages[0]) == (
            9,
            {"role": "system", "content": "be brief"},
        )
        assert (second.json["max_completion_tokens"], second.messages[0]["role"]) == (5, "user")
        with pytest.raises(UsageError, match="closed"):
            session.stream("c")
        with anyio.fail_after(2):
            await server.wait_closed()


def test_a_session_belongs_to_one_loop() -> None:
    """In another loop its connections are dead: a UsageError says so before anything is sent."""
    session = Session("demo:eats")

    async def ask_once() -> str:
        return await session.stream("states").text()

    anyio.run(ask_once)
    with pytest.raises(UsageError, match="another event loop"):
        anyio.run(ask_once)


async def test_closing_a_session_ends_its_replies() -> None:
    """A reader that is waiting then gets `ReplyClosed`, with the text so far."""
    async with serve(Script(text="abcd", stall_after=4)) as server:
        session = Session("openai:m", base_url=server.openai_url)
        errors: list[ReplyClosed] = []

        async def read() -> None:
            try:
                await session.stream("a").text()
            except ReplyClosed as exc:
                errors.append(exc)

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await server_has(server, 1)
            with anyio.fail_after(2):
                await server.exchanges[0].waiting.wait()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            await session.aclose()
        assert [error.text_so_far for error in errors] == ["abcd"]
        with anyio.fail_after(2):
            await server.wait_closed()


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
async def test_a_callers_client_is_used_and_stays_open(library: Any) -> None:
    """Both httpx2's and httpx's; its own timeouts do not apply."""
    async with serve(STATES) as server, library.AsyncClient(timeout=0.000001) as client:
        reply = stream("hi", prefill='["', model="m", client=client, base_url=server.openai_url, support="eats")
        assert await reply.text() == WHOLE
        async with Session("m", client=client, base_url=server.openai_url) as session:
            await session.stream("hi").text()
        assert not client.is_closed
        assert server.connections == 1


async def test_a_mock_transport_has_no_socket_to_shut_down() -> None:
    """The reply still streams, and leaving it closes the response a moment later."""
    closed: list[bool] = []

    class Body(httpx2.AsyncByteStream):
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> bytes:
            await anyio.lowlevel.checkpoint()
            return b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'

        async def aclose(self) -> None:
            closed.append(True)

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        async for chunk in stream("hi", model="m", client=client, base_url="https://host.test/v1"):
            assert chunk == "x"
            break
        with anyio.fail_after(2):
            while not closed:
                await anyio.lowlevel.checkpoint()


async def test_the_demo_model_needs_no_network() -> None:
    """Both kinds of demo give the same text."""
    for model in ("demo:eats", "demo:echoes"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            text = await stream(QUESTION, prefill='["', model=model).text()
        assert text.startswith('["Alabama", "Alaska"')
        assert text.endswith('"Wyoming"]')

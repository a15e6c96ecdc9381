"""End to end: one stream with the prefill exactly once, with both protocols, on three event loops."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest

from aprefill import (
    AttemptEnded,
    AttemptStarted,
    ReasoningEvent,
    StatusError,
    StopReason,
    Support,
    TextEvent,
    ToolEvent,
    Verdict,
)
from aprefill.testing import Script, ToolCall, serve

from .support.loopback import STATES, WHOLE, WIRES, ask, chunks_of

pytestmark = pytest.mark.anyio

# --- the prefill exactly once -----------------------------------------------------------------------------------------


@pytest.mark.any_loop
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("cuts", [1, 3, 1000])
async def test_a_host_that_leaves_the_prefill_out(wire: str, cuts: int) -> None:
    """A host that leaves the prefill out: the prefill comes first, once, and then the model's text."""
    async with serve(Script(text='Alabama", "Alaska"]', prefill="eats", cuts=cuts)) as server:
        reply = ask(server, wire, prefill='["')
        chunks = await chunks_of(reply)
        assert chunks[0] == '["'
        assert "".join(chunks) == WHOLE == await reply.text() == reply.text_so_far
        assert server.exchanges[0].prefill == '["'
        assert (reply.mode, reply.support, reply.verdict) == ("native", Support.EATS, Verdict.ABSENT)


@pytest.mark.any_loop
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("echo", ["split", "joined"])
async def test_a_host_that_repeats_the_prefill(wire: str, echo: Any) -> None:
    """A host that repeats the prefill: the repetition is dropped, in its own deltas or joined with the first token."""
    async with serve(Script(text='Alabama", "Alaska"]', prefill="echoes", echo=echo)) as server:
        reply = ask(server, wire, prefill='["', support="echoes")
        assert "".join(await chunks_of(reply)) == WHOLE
        assert reply.verdict is Verdict.ECHOED


@pytest.mark.parametrize("wire", WIRES)
async def test_without_a_prefill_it_is_a_plain_stream(wire: str) -> None:
    """Without a prefill the model's text is unchanged, on a host without support data."""
    async with serve(Script(text="Hello, world")) as server:
        reply = ask(server, wire, support=None)
        assert "".join(await chunks_of(reply)) == "Hello, world"
        assert reply.mode == "none"


async def test_white_space_at_the_end_is_sent_stripped_and_joined_exactly() -> None:
    """Anthropic refuses white space at the end of a prefill.

    It is not sent, and if the model writes it, it is not doubled.
    """
    for text in (" forty-two.", "forty-two."):
        script = Script(text=text, prefill="eats", refuse_trailing_whitespace=True)
        async with serve(script) as server:
            reply = ask(server, "messages", prefill="The answer is ")
            assert "".join(await chunks_of(reply)) == "The answer is forty-two."
            assert server.exchanges[0].prefill == "The answer is"
    async with serve(Script(text="aaaa b", prefill="eats")) as server:
        assert await ask(server, "messages", prefill="aaa").text() == "aaaaaaa b"


# --- when the prefill is shown ----------------------------------------------------------------------------------------


async def test_accepted_shows_the_prefill_ahead_of_the_first_token() -> None:
    """With `"accepted"` the prefill is shown after the 2xx status, before the first token."""
    async with serve(Script(text="x", prefill="eats", first_token_s=math.inf)) as server:
        async with ask(server, "chat", prefill="ab") as reply:
            with anyio.fail_after(2):
                assert await anext(aiter(reply)) == "ab"
            assert reply.timing.accepted_s is not None
            assert reply.timing.first_token_s is None


async def test_now_shows_it_before_the_request() -> None:
    """With `"now"` the prefill is shown before the request is sent."""
    async with serve(STATES) as server:
        async with ask(server, "chat", prefill='["', show_when="now") as reply:
            cursor = aiter(reply)
            assert await anext(cursor) == '["'
            assert server.connections == 0
            assert '["' + "".join([c async for c in cursor]) == WHOLE


async def test_decided_shows_it_with_the_first_new_text() -> None:
    """With `"decided"` the prefill is shown with the first new text, or at the end of a reply without text."""
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
    """With `"never"` the prefill is hidden from the loop, but is in `text()`, `text_so_far` and `message`."""
    async with serve(STATES) as server:
        reply = ask(server, "chat", prefill='["', show_when="never")
        assert "".join(await chunks_of(reply)) == 'Alabama", "Alaska"]'
        assert await reply.text() == WHOLE
        assert reply.message == {"role": "assistant", "content": WHOLE}


@pytest.mark.any_loop
@pytest.mark.parametrize(("show_from", "shown"), [(0, 'Sure: {"a'), (6, '{"a'), ("{", '{"a'), (9, "")])
async def test_show_from_shows_the_tail_of_the_prefill(show_from: Any, shown: str) -> None:
    """`show_from=` shows the prefill from an offset or a marker. `message` has all of it."""
    async with serve(Script(text='": 1}', prefill="eats")) as server:
        reply = ask(server, "chat", prefill='Sure: {"a', show_from=show_from)
        assert "".join(await chunks_of(reply)) == shown + '": 1}'
        assert reply.message["content"] == 'Sure: {"a": 1}'


async def test_coalesce_gives_one_chunk_a_read() -> None:
    """With `coalesce` the deltas of one network read are one chunk, and the text is the same."""
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


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_events_are_typed_and_carry_offsets(wire: str) -> None:
    """The events are: attempt started, reasoning, text with its offset in the whole reply, tool call, attempt ended."""
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
    """A reply with tool calls but no text gives the prefill as its only chunk."""
    async with serve(Script(text="", tools=[ToolCall(name="f")], prefill="eats")) as server:
        reply = ask(server, wire, prefill="ok ")
        assert await chunks_of(reply) == ["ok "]
        assert reply.stop_reason is StopReason.TOOL_USE


# --- stop sequences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_the_fence_recipe(wire: str) -> None:
    """Prefill "```python" with stop "```", a common recipe. The host gets the stop sequence where that is safe."""
    async with serve(Script(text="\nx = 1\n```\nDone", prefill="eats")) as server:
        reply = ask(server, wire, prefill="```python", stop="```")
        assert "".join(await chunks_of(reply)) == "```python\nx = 1\n"
        assert reply.stop_reason in {StopReason.STOP_SEQUENCE, StopReason.END}
        if wire == "messages":
            assert reply.stop_sequence == "```"


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stop_across_the_joint_is_ours_and_applies_to_the_new_text(wire: str) -> None:
    """A stop sequence that could match across the joint is not sent. It is applied to the new text here."""
    async with serve(Script(text="\none\n\ntwo", prefill="eats", cuts=1)) as server:
        reply = ask(server, wire, prefill="zero\n.\n", stop=["\n\n", "never"])
        text = "".join(await chunks_of(reply))
        assert text in {"zero\n.\n\none", "zero\n.\none"}  # for Anthropic the stripped newline is written once
        assert (reply.stop_reason, reply.stop_sequence) == (StopReason.STOP_SEQUENCE, "\n\n")
        sent = server.exchanges[0].option("stop_sequences" if wire == "messages" else "stop")
        assert sent == ["never"]
        with anyio.fail_after(2):
            await server.exchanges[0].closed.wait()


@pytest.mark.parametrize("wire", WIRES)
async def test_usage_timing_and_stop_reason(wire: str) -> None:
    """The usage is the host's, the times are in order, and the prefill does not count as the first token."""
    async with serve(
        Script(text="one two", prefill="eats", input_tokens=7, output_tokens=5, first_token_s=0.15)
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
    assert t.accepted_s < 0.15 <= t.first_token_s <= t.first_text_s <= t.total_s
    assert t.held_s is not None
    assert 0 <= t.held_s < 0.15


async def test_held_time_is_reported_apart() -> None:
    """`held_s` is the time from the first text delta, which is an echo, to the first new text."""
    async with serve(Script(text="new", prefill="echoes", cuts=4, pace_s=0.02)) as server:
        reply = ask(server, "chat", prefill="abcdefgh", support="echoes")
        await reply.text()
    assert reply.timing.held_s is not None
    assert reply.timing.held_s >= 0.02

"""The message and the usage end where the reader stopped, however the network cut the stream."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import AttemptEnded, ReasoningEvent, Reply, StopReason, TextEvent, ToolEvent, Truncated
from aprefill._codecs import codec
from aprefill._deltas import ToolDelta
from aprefill._engine.ledger import Ledger

from ..support.bodies import DONE, STOP, block, call, chat, end, event, finish, host, piece
from ..support.thorough import usually

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio

RESULT = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]}

MESSAGES = [
    event({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 9}}}),
    *(block(0, "thinking", thinking="", signature=""),
      piece(0, "thinking_delta", thinking="Hm"), piece(0, "thinking_delta", thinking="m.")),
    *(piece(0, "signature_delta", signature="s0"), end(0)),
    *(block(1, "text", text=""), piece(1, "text_delta", text="I "), piece(1, "text_delta", text="look"), end(1)),
    *(block(2, "server_tool_use", id="s", name="web_search", input={}),
      piece(2, "input_json_delta", partial_json='{"q":'), piece(2, "input_json_delta", partial_json="1}"), end(2)),
    *(event({"type": "content_block_start", "index": 3, "content_block": RESULT}), end(3)),
    *(block(4, "redacted_thinking", data="opaque"), end(4)),
    *(block(5, "thinking", thinking="", signature=""),
      piece(5, "thinking_delta", thinking="So."), piece(5, "signature_delta", signature="s5"), end(5)),
    *(block(6, "text", text=""), piece(6, "text_delta", text="Found"), end(6)),
    *(block(7, "tool_use", id="t", name="look", input={}),
      piece(7, "input_json_delta", partial_json='{"a":'), piece(7, "input_json_delta", partial_json="1}"), end(7)),
    *(block(8, "text", text=""), piece(8, "text_delta", text=" and"), piece(8, "text_delta", text=" done"), end(8)),
    *(block(9, "tool_use", id="u", name="last", input={}), end(9)),
    finish("tool_use", output_tokens=30),
    STOP,
]  # fmt: skip
CHAT = [
    chat(reasoning="Hm"),
    chat("One"),
    chat(**call(0, "t", "look", '{"a":')),
    chat(**call(0, arguments="1}")),
    chat(" two"),
    chat(" three"),
    chat(**call(1, "u", "last", "{}")),
    chat(reason="tool_calls"),
    event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 30}}),
    DONE,
]
WIRES = {"messages": MESSAGES, "chat": CHAT}

THOUGHT = {"type": "thinking", "thinking": "Hmm.", "signature": "s0"}
SEARCH = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": 1}}
REDACTED = {"type": "redacted_thinking", "data": "opaque"}
SO = {"type": "thinking", "thinking": "So.", "signature": "s5"}
LOOK = {"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}}
LAST = {"type": "tool_use", "id": "u", "name": "last", "input": {}}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def cuts(records: Sequence[bytes]) -> list[list[bytes]]:
    """Return the body whole, by record, in small pieces, in two at every record, and cut at random places."""
    body = b"".join(records)
    size = usually(11, 1)
    found = [[body], list(records), [body[at : at + size] for at in range(0, len(body), size)]]
    found += [[b"".join(records[:at]), b"".join(records[at:])] for at in range(1, len(records), usually(3, 1))]
    chance = random.Random(7)
    for _ in range(usually(2, 5)):
        places = sorted(chance.sample(range(1, len(body)), 5))
        found.append([body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)])
    return found


def text_in(message: dict[str, Any]) -> str:
    content = message["content"] or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def state(reply: Reply) -> tuple[Any, ...]:
    report = reply.attempts[-1]
    assert report.stop_reason is reply.stop_reason
    return reply.message, reply.text_so_far, reply.usage, report.usage


async def leave_after(reply: Reply, count: int, how: str) -> tuple[Any, ...]:
    """Leave the reply after `count` chunks or events in the way `how`, and return its state.

    If there are fewer, return the state of the whole reply.
    """
    seen = 0
    async for _ in reply.events() if how.startswith("events") else reply:
        seen += 1
        if seen == count:
            if how.endswith("cancel"):
                reply.cancel()
            else:
                break
    else:
        return (seen < count, *state(reply))
    assert reply.message == reply.message
    return (seen < count, *state(reply))


async def play(wire: str, how: str, **options: Any) -> list[tuple[Any, ...]]:
    """Return the state after each number of chunks. It must be the same for all cuts."""
    found: list[tuple[Any, ...]] = []
    for pieces in cuts(WIRES[wire]):
        async with host(pieces) as ask:
            states = []
            while not states or not states[-1][0]:
                states.append(await leave_after(ask(wire, **options), len(states) + 1, how))
        if not found:
            found = states
        assert states == found, f"{len(pieces)} pieces"
    for _, message, text, *_ in found:
        assert text_in(message) == text
        if isinstance(message["content"], list):
            assert message["content"][-1]["type"] not in {"thinking", "redacted_thinking"}
    return found


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("how", ["break", "cancel", "events break", "events cancel"])
@pytest.mark.parametrize("wire", WIRES)
async def test_the_message_ends_where_the_reader_did(wire: str, how: str) -> None:
    """However the stream is cut, a reply left after any chunk has the same message, text and usage."""
    found = await play(wire, how)
    assert len(found) > 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("how", ["break", "events break"])
@pytest.mark.parametrize("wire", WIRES)
async def test_with_a_stop_sequence_and_a_prefill(wire: str, how: str) -> None:
    """Text that the stages hold back keeps its place before and after the calls."""
    stop = {"messages": "nd do", "chat": "two th"}[wire]
    for options in (
        {"prefill": "> ", "support": "emulated", "max_tokens": 99},
        # The prefill ends with the beginning of the sequence, so the sequence is not sent but applied locally.
        {"prefill": f">{stop[0]}", "support": "eats", "stop": stop},
    ):
        found = await play(wire, how, **options)
        assert ("done" in found[-1][2] or "three" in found[-1][2]) == ("stop" not in options)


async def test_control_a_message_of_all_that_was_decoded_depends_on_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a message made of all that was decoded, instead of what was handed out, fails the check."""
    monkeypatch.setattr(Ledger, "is_whole", lambda ledger: True)
    with pytest.raises(AssertionError):
        await play("messages", "break")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_the_messages_are() -> None:
    """Blocks have the host's order.

    A call is included once text after it was handed out or the reply was read to its end.
    """
    contents = [
        message["content"] for _, message, *_ in await play("messages", "break", prefill="> ", support="emulated")
    ]
    first = [THOUGHT, words("> I ")]
    searched = [THOUGHT, words("> I look"), SEARCH, RESULT, REDACTED, SO, words("Found")]
    called = [*searched, LOOK, words(" and")]
    whole = [*searched, LOOK, words(" and done"), LAST]
    assert contents == ["> ", first, [THOUGHT, words("> I look")], searched, called, whole[:-1], whole]
    calls = [len(message.get("tool_calls", ())) for _, message, *_ in await play("chat", "break")]
    assert calls == [0, 1, 1, 2]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_call_that_was_an_event_is_in_the_message() -> None:
    """A call is included as far as its events were handed out. A thinking block without its end is left out."""
    async with host([b"".join(MESSAGES)]) as ask:
        reply = ask("messages")
        thought: list[Any] = []
        async for event_ in reply.events():
            if isinstance(event_, ReasoningEvent):
                thought.append(reply.message["content"])
            if isinstance(event_, ToolEvent):
                break
        assert thought == ["", "", [THOUGHT, words("I look"), SEARCH, RESULT]]
        assert reply.message["content"][-1] == {**LOOK, "input": {}}
        assert reply.usage is not None
        assert reply.usage.output_tokens is None
        assert reply.stop_reason is None


@pytest.mark.parametrize("how", ["text", "events"])
@pytest.mark.parametrize("wire", WIRES)
async def test_after_an_error(wire: str, how: str) -> None:
    """After an error, the message includes a call only if an event handed it out or text followed it."""
    records = WIRES[wire]
    cut = records[: -3 if wire == "messages" else -4]
    for pieces in ([b"".join(cut)], cut):
        async with host(pieces) as ask:
            reply = ask(wire)
            with pytest.raises(Truncated):
                async for _ in reply.events() if how == "events" else reply:
                    pass
            assert text_in(reply.message) == reply.text_so_far
            names = str(reply.message)
            assert "look" in names
            if wire == "messages":
                assert ("last" in names) == (how == "events")


async def test_after_a_stop_sequence_of_ours() -> None:
    """Calls and usage after the place where a local stop sequence cut the text are not in the message."""
    async with host([b"".join(MESSAGES)]) as ask:
        reply = ask("messages", support="eats", prefill=">n", stop="nd")
        assert await reply.text() == ">nI lookFou"
        assert reply.stop_reason is StopReason.STOP_SEQUENCE
        assert "'look'" not in str(reply.message)
        assert text_in(reply.message) == reply.text_so_far
        assert reply.usage is not None
        assert reply.usage.output_tokens is None


async def test_a_text_event_left_in_the_middle() -> None:
    """Text events end at the same place as chunks."""
    async with host([b"".join(CHAT)]) as ask:
        reply = ask("chat")
        async for event_ in reply.events():
            if isinstance(event_, TextEvent):
                break
        assert reply.message == {"role": "assistant", "content": "One"}


@pytest.mark.parametrize("how", ["break", "cancel"])
@pytest.mark.parametrize("wire", WIRES)
async def test_who_leaves_at_the_last_event_keeps_what_it_saw_there(wire: str, how: str) -> None:
    """A reader who leaves at the last event keeps the usage, which comes after the last text."""
    async with host(WIRES[wire]) as ask:
        reply = ask(wire)
        seen: list[Any] = []
        async for event in reply.events():
            if isinstance(event, AttemptEnded):
                seen += [reply.usage, reply.message]
                if how == "break":
                    break
                reply.cancel()
        assert seen[0].output_tokens == 30
        assert [reply.usage, reply.message] == seen


def test_half_a_surrogate_pair_that_arguments_spell_as_an_escape_is_mended() -> None:
    """Half a surrogate pair in the names or values of arguments is repaired, so that the message can be encoded."""
    parts = [ToolDelta(0, "t", "look", '{"a\\udc00": "\\ud83d", "b": ["\\ud83d\\ude00"]}')]
    message = codec("anthropic_messages").message(parts, lead="")
    text = json.dumps(message, ensure_ascii=False)
    assert text.encode("utf-8")
    assert "\U0001f600" in text
    assert "\\udc00" not in text

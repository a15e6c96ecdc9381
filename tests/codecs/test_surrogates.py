from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprefill._codecs import codec
from aprefill._codecs._surrogates import Joiner, mend, mend_all
from aprefill._deltas import EndDelta, FinishDelta, TextDelta

from . import calls, decode, feed, only, reasoning, text, turn_of

HIGH, LOW, SMILE = "\ud83d", "\ude00", "\U0001f600"

units = st.text("a é" + HIGH + LOW + SMILE, max_size=12)


def openai(content: str) -> bytes:
    return json.dumps({"choices": [{"delta": {"content": content}}]}).encode()


def anthropic(content: str) -> bytes:
    return json.dumps(
        {
            "type": "content_block_delta",
            "delta": {"type": "text_delta", "text": content},
        }
    ).encode()


STREAMS = {
    "openai_chat": (openai, [b'{"choices":[{"finish_reason":"stop"}]}', b"[DONE]"]),
    "anthropic_messages": (anthropic, [b'{"type":"message_stop"}']),
}


@given(units)
@settings(derandomize=True)
def test_mended_text_is_utf_16_with_replacement(whole: str) -> None:
    """The result of `mend` can be encoded, keeps every whole character, and equals what a UTF-16 decoder gives."""
    mended = mend(whole)
    assert mended.encode() == whole.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace").encode()
    assert mend(mended) == mended


@given(st.lists(units, max_size=6))
@settings(derandomize=True)
def test_joined_pieces_are_the_mended_whole(pieces: list[str]) -> None:
    """However a text is cut, its joined pieces equal the whole text after `mend`."""
    joiner = Joiner()
    got = "".join(joiner.feed("text", piece) for piece in pieces)
    got += "".join(delta.text for delta in only(TextDelta, joiner.close()))
    assert got == mend("".join(pieces))


def test_mend_all_reaches_every_string() -> None:
    """`mend_all` changes keys and values at any depth. Values that are no text stay."""
    assert mend_all({HIGH: [HIGH + LOW, {"a": LOW}, 1, None]}) == {"\ufffd": [SMILE, {"a": "\ufffd"}, 1, None]}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        (["a" + HIGH, LOW + "b"], "a" + SMILE + "b"),
        ([HIGH, "", LOW], SMILE),
        ([HIGH, "x"], "\ufffdx"),
        (["x" + LOW], "x\ufffd"),
        ([HIGH, HIGH, LOW, LOW], "\ufffd" + SMILE + "\ufffd"),
        (["x", HIGH], "x\ufffd"),
    ],
    ids=[
        "a pair cut in two",
        "with an empty delta between",
        "a high half alone",
        "a low half alone",
        "all mixed",
        "at the end",
    ],
)
def test_pairs_cut_between_deltas(name: str, pieces: list[str], whole: str) -> None:
    """A pair cut between two deltas is joined, a lone half becomes U+FFFD, and the end comes after it."""
    make, end = STREAMS[name]
    deltas = decode(name, *map(make, pieces), *end)
    assert text(deltas) == whole
    assert type(deltas[-1]) is EndDelta


@pytest.mark.parametrize("name", STREAMS)
@given(st.lists(units, max_size=5))
@settings(derandomize=True, deadline=None)
def test_streams_give_the_mended_whole(name: str, pieces: list[str]) -> None:
    """Through the decoders too, the joined pieces equal the whole text after `mend`.

    Pieces that need no joining may come before, between and after.
    """
    make, end = STREAMS[name]
    assert text(decode(name, *map(make, pieces), *end)) == mend("".join(pieces))


def test_a_decoder_that_does_not_join_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with a joiner that does not join, the same stream gives text that cannot be encoded."""
    monkeypatch.setattr(Joiner, "feed", lambda self, channel, piece: piece)
    for name, (make, end) in STREAMS.items():
        got = text(decode(name, make("a" + HIGH), make(LOW), *end))
        assert got != "a" + SMILE
        with pytest.raises(UnicodeEncodeError):
            got.encode()


def test_channels_do_not_mix() -> None:
    """A half in the reasoning is not joined with a half in the text, nor are halves of two tool calls."""

    def chunk(**delta: object) -> bytes:
        return json.dumps({"choices": [{"delta": delta}]}).encode()

    def call(index: int, arguments: str) -> dict[str, object]:
        return {"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": arguments}}

    deltas = decode(
        "openai_chat",
        chunk(reasoning_content=HIGH),
        chunk(content=LOW),
        chunk(content=HIGH),
        chunk(reasoning_content=LOW),
        chunk(tool_calls=[call(0, '{"a":"' + HIGH), call(1, '{"b":"' + HIGH)]),
        chunk(tool_calls=[call(1, LOW + '"}'), call(0, '"}')]),
        b'{"choices":[{"finish_reason":"tool_calls"}]}',
    )
    assert reasoning(deltas) == SMILE
    assert text(deltas) == "\ufffd\ufffd"
    assert calls(deltas) == {0: ("c0", "f", '{"a":"\ufffd"}'), 1: ("c1", "f", '{"b":"' + SMILE + '"}')}


def test_nothing_is_joined_until_a_record_was_refused() -> None:
    """Ordinary streams create no joiner, not even for an escaped pair, so they have no extra cost."""
    for name, (make, end) in STREAMS.items():
        decoder = codec(name).decoder()
        assert text(feed(decoder, [make("a é " + SMILE), *end])) == "a é " + SMILE
        assert decoder._joiner is None


def test_the_turn_sent_back_has_no_halves() -> None:
    """Thinking, tool input and names in the turn are joined and mended too."""
    decoder = codec("anthropic_messages").decoder()
    events = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": HIGH}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": LOW}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "t", "name": "f" + LOW},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"a":"' + HIGH},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": LOW + '"}'},
        },
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "web_search_tool_result", "content": [HIGH]},
        },
    ]
    deltas = feed(decoder, [json.dumps(event).encode() for event in events])
    assert reasoning(deltas) == SMILE
    assert turn_of("anthropic_messages", [*deltas], "x")["content"] == [
        {"type": "thinking", "thinking": SMILE, "signature": "s"},
        {"type": "text", "text": "x"},
        {"type": "tool_use", "id": "t", "name": "f\ufffd", "input": {"a": SMILE}},
        {"type": "web_search_tool_result", "content": ["\ufffd"]},
    ]


def test_wherever_a_host_can_put_text() -> None:
    """Wherever a host can put text, the result can be encoded.

    The test covers message_start, stop sequences and reasons, refusals, names and arguments.
    """
    messages = [
        {
            "type": "message_start",
            "message": {"id": "m", "content": [{"type": "text", "text": "a" + HIGH}, {"type": "text", "text": LOW}]},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": LOW, "name": HIGH}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": HIGH}},
        {"type": "message_delta", "delta": {"stop_reason": "x" + HIGH, "stop_sequence": LOW}},
        {"type": "message_stop"},
    ]
    call = {"index": 0, "id": HIGH, "function": {"name": LOW, "arguments": {HIGH: LOW}}}
    chat = [
        {"choices": [{"delta": {"refusal": "a" + HIGH}}]},
        {"choices": [{"delta": {"refusal": LOW, "tool_calls": [call]}}]},
        {"choices": [{"delta": {}, "finish_reason": "x" + HIGH, "stop_reason": LOW}]},
    ]
    for name, events in (("anthropic_messages", messages), ("openai_chat", chat)):
        decoder = codec(name).decoder()
        deltas = [*feed(decoder, [json.dumps(event).encode() for event in events]), *decoder.close()]
        assert text(deltas) == "a" + SMILE
        (made,) = calls(deltas).values()
        assert made[:2] == ("\ufffd", "\ufffd")
        (finish,) = only(FinishDelta, deltas)
        assert (finish.raw, finish.sequence) == ("x\ufffd", "\ufffd")
        json.dumps(turn_of(name, deltas), ensure_ascii=False).encode()

"""Recorded streams: text, reasoning and finish as listed, whatever the pieces they arrive in."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from aprefill._codecs import codec
from aprefill._deltas import EndDelta, ErrorDelta, FinishDelta
from aprefill._errors import AprefillError, Truncated
from aprefill._hosts.table import builtin_table
from aprefill._wire.eventstream import EventStreamDecoder
from aprefill._wire.jsonarray import JsonArrayDecoder
from aprefill._wire.sse import SseDecoder

from ..support.thorough import usually
from . import only, reasoning, text, turn_of
from .recorded import CODECS, recordings

if TYPE_CHECKING:
    from pathlib import Path

    from aprefill._deltas import Delta, Record
    from aprefill._wire import WireDecoder

WIRES: dict[str, type[WireDecoder]] = {
    "sse": SseDecoder,
    "eventstream": EventStreamDecoder,
    "jsonarray": JsonArrayDecoder,
}


class Reply(NamedTuple):
    deltas: list[Delta]
    cut: Truncated | None = None


def replies(name: str, wire: WireDecoder, data: bytes, size: int, *, end: str = "strict") -> list[Reply]:
    """The replies of one recording, fed in pieces of `size` bytes.

    A few files hold the bodies of several requests one after another. A decoder takes nothing after its end, so
    the record after it goes to a fresh one: what a client would do, request by request.
    """
    found: list[Reply] = []
    decoder = codec(name).decoder(end=end)
    deltas: list[Delta] = []
    over = False

    def take(record: Record) -> None:
        nonlocal decoder, deltas, over
        if over:
            assert not decoder.decode(record), "a delta after the end"
            found.append(Reply(deltas))
            decoder, deltas = codec(name).decoder(end=end), []
        deltas += decoder.decode(record)
        over = bool(deltas) and type(deltas[-1]) in {EndDelta, ErrorDelta}

    try:
        for at in range(0, len(data), size):
            for record in wire.feed(data[at : at + size]):
                take(record)
        deltas += decoder.close(wire.close())
    except Truncated as cut:
        return [*found, Reply(deltas, cut)]
    return [*found, Reply(deltas)]


def play(one: dict[str, Any], size: int, *, end: str = "strict") -> list[Reply]:
    return replies(CODECS[one["format"]], WIRES[one["framing"]](), one["bytes"], size, end=end)


def early_finishes(one: dict[str, Any]) -> list[str]:
    """Stop reasons that came in message_start, which the index does not list."""
    if one["format"] != "anthropic" or one["framing"] != "sse":
        return []
    events = [json.loads(line[6:]) for line in one["bytes"].splitlines() if line.startswith(b"data: {")]
    starts = [event["message"] for event in events if event.get("type") == "message_start"]
    return [start["stop_reason"] for start in starts if start["stop_reason"]]


def wrong_with(one: dict[str, Any], size: int) -> list[str]:
    """What differs from the index; empty if nothing does."""
    try:
        found = play(one, size)
    except AprefillError as error:
        return [f"{one['file']}: {error!r}"]
    deltas = [delta for reply in found for delta in reply.deltas]
    finishes = [delta.raw for delta in only(FinishDelta, deltas)]
    # A stream without a finish is a cut, one with an error ends in that, any other has its end.
    endings = {type(reply.deltas[-1]) if reply.deltas and not reply.cut else Truncated for reply in found}
    ending = ErrorDelta if one["in_band_errors"] else EndDelta if one["finish"] else Truncated
    checks = {
        "text": text(deltas) == one["text"],
        "reasoning": reasoning(deltas) == one["reasoning"],
        "finish": Counter(finishes) == Counter([*map(str, one["finish"]), *early_finishes(one)]),
        "last finish": finishes[-1:] == [*map(str, one["finish"][-1:])],
        "end": endings == {ending},
        "errors": len(only(ErrorDelta, deltas)) == len(one["in_band_errors"]),
    }
    return [f"{one['file']}: {name}" for name, holds in checks.items() if not holds]


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 30], ids=["1", "7", "4096", "whole"])
def test_every_recording_gives_what_is_listed(shared: Path, size: int) -> None:
    """Text, reasoning, every finish, the end or the error, of each of them, in pieces of any size.

    Of those that are long, every tenth byte by byte: all of them are in `nox -s slow`.
    """
    found = recordings(shared / "recordings")
    assert len(found) >= 437
    if size == 1:
        found = [one for at, one in enumerate(found) if len(one["bytes"]) < usually(4_000, 1 << 30) or not at % 10]
        assert len(found) >= usually(200, 437)
    assert [wrong for one in found for wrong in wrong_with(one, size)] == []


def test_the_pieces_do_not_matter(shared: Path) -> None:
    """The very same deltas, not only the same text."""
    for one in recordings(shared / "recordings"):
        whole = [reply.deltas for reply in play(one, 1 << 30)]
        assert [reply.deltas for reply in play(one, 7)] == whole, one["file"]


def test_a_wrong_reading_would_be_seen(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without its last text delta, or with text taken after the end, a recording fails the comparison."""
    one = next(one for one in recordings(shared / "recordings") if one["format"] == "anthropic" and one["text"])
    assert wrong_with(one, 4096) == []
    late = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"late"}}\n\n'
    stop = one["bytes"].rindex(b"event: message_stop")
    assert wrong_with(one | {"bytes": one["bytes"][:stop] + late + one["bytes"][stop:]}, 4096) == [
        f"{one['file']}: text"
    ]
    finish = one["bytes"].rindex(b"event: message_delta")
    assert f"{one['file']}: end" in wrong_with(one | {"bytes": one["bytes"][:finish]}, 4096)


def test_every_recording_is_cut_before_its_end(shared: Path) -> None:
    """Without its last 40 bytes no stream comes to a clean end, save where a finish reason stood before them."""
    for one in recordings(shared / "recordings"):
        if one["framing"] in {"sse", "jsonarray"} and one["finish"]:
            last = play(one | {"bytes": one["bytes"].rstrip()[:-40]}, 4096)[-1]
            had_finish = bool(only(FinishDelta, last.deltas))
            assert (last.cut is None) == had_finish, one["file"]


def test_in_band_errors_have_their_words(shared: Path) -> None:
    """The typed error with the host's status and message."""
    seen = 0
    for one in recordings(shared / "recordings"):
        for listed in one["in_band_errors"]:
            (error,) = only(ErrorDelta, [delta for reply in play(one, 4096) for delta in reply.deltas])
            # the index keeps the beginning of the error's JSON
            assert listed.startswith(f'{{"message": {json.dumps(error.detail)}, "type": "{error.error_type}"')
            assert error.status == 400
            seen += 1
    assert seen


def test_replies_without_a_finish_end_by_the_rule_done(shared: Path) -> None:
    """[DONE] without a finish_reason, which strict calls a cut, is an end where the host's row says so."""
    found = [*recordings(shared / "recordings"), *recordings(shared / "recordings" / "_more")]
    found = [one for one in found if one["format"] == "openai-chat"]
    found = [one for one in found if not one["finish"] and not one["in_band_errors"]]
    assert found
    for one in found:
        (reply,) = play(one, 4096, end="done")
        assert type(reply.deltas[-1]) is EndDelta
        assert text(reply.deltas) == one["text"]
    # Snowflake Cortex sends no finish_reason at all
    assert {one["provider"] for one in found} >= {"snowflake"}
    assert builtin_table().row("snowflake", "claude-sonnet-4-6").end == "done"


def text_in(message: dict[str, Any]) -> str:
    """The text of a turn, its blocks joined."""
    content = message["content"] or ""
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def test_turns_can_be_sent_back(shared: Path) -> None:
    """Of every recording: plain text where there was nothing else, and JSON in any case."""
    kinds: Counter[str] = Counter()
    for one in recordings(shared / "recordings"):
        name = CODECS[one["format"]]
        wire, decoder = (
            WIRES[one["framing"]](),
            codec(name).decoder(end="done" if name == "openai_chat" else "strict"),
        )
        deltas = [delta for record in wire.feed(one["bytes"]) for delta in decoder.decode(record)]
        message = turn_of(name, deltas)
        assert text_in(message) == text(deltas), one["file"]
        json.dumps(message)
        assert message["role"] == "assistant"
        kinds[type(message["content"]).__name__] += 1
    assert kinds["str"] > 300
    assert kinds["list"] > 40


@pytest.mark.parametrize(
    ("file", "name", "words", "status"),
    [
        ("litellm-messages-cut.sse", "anthropic_messages", "This is a ", 500),
        ("litellm-fake-openai-cut.sse", "openai_chat", "This ", 500),
    ],
)
def test_a_gateway_that_lost_its_upstream(shared: Path, file: str, name: str, words: str, status: int) -> None:
    """LiteLLM tells it in the stream: the text so far, then the error."""
    path = shared / "recordings" / "_local" / file
    (reply,) = replies(name, SseDecoder(), path.read_bytes(), 7)
    assert text(reply.deltas).startswith(words)
    assert reply.deltas[-1].status == status

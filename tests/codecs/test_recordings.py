"""Recorded streams give the text, reasoning and finish reasons of the index, whatever the pieces they arrive in."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from aprefill._codecs import codec
from aprefill._deltas import EndDelta, ErrorDelta, FinishDelta
from aprefill._errors import AprefillError, Truncated
from aprefill._hosts.table import builtin_table
from aprefill._wire.eventstream import EventStreamDecoder
from aprefill._wire.jsonarray import JsonArrayDecoder
from aprefill._wire.ndjson import NdjsonDecoder
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
    "ndjson": NdjsonDecoder,
}


class Reply(NamedTuple):
    deltas: list[Delta]
    cut: Truncated | None = None


def replies(name: str, wire: WireDecoder, data: bytes, size: int, *, end: str = "strict") -> list[Reply]:
    """Return the replies of one recording that is fed in pieces of `size` bytes.

    A few files hold the bodies of several requests one after another. A decoder accepts nothing after its end, so the
    next record goes to a new decoder, as in a client that handles request after request.
    """
    found: list[Reply] = []
    decoder = codec(name).decoder(end=end)
    deltas: list[Delta] = []
    over = False

    def take(record: Record) -> None:
        nonlocal decoder, deltas, over
        if over:
            assert not decoder.decode(record), "a delta after the end"
            if record.data == b"[DONE]":  # some hosts add it to a reply that has ended already
                return
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
    """Return the stop reasons in message_start, which the index does not list."""
    if one["format"] != "anthropic" or one["framing"] != "sse":
        return []
    events = [json.loads(line[6:]) for line in one["bytes"].splitlines() if line.startswith(b"data: {")]
    starts = [event["message"] for event in events if event.get("type") == "message_start"]
    return [start["stop_reason"] for start in starts if start["stop_reason"]]


def listed_finishes(one: dict[str, Any]) -> list[str]:
    """Return the finish reasons of the index. For an incomplete reply of /responses, return the reason in the body."""
    whys = re.findall(rb'"incomplete_details":\{"reason":"(\w+)"', one["bytes"])
    return [whys.pop(0).decode() if word == "incomplete" else str(word) for word in one["finish"]]


def wrong_with(one: dict[str, Any], size: int) -> list[str]:
    """Return what differs from the index. The list is empty if nothing does."""
    try:
        found = play(one, size)
    except AprefillError as error:
        return [f"{one['file']}: {error!r}"]
    deltas = [delta for reply in found for delta in reply.deltas]
    finishes = [delta.raw for delta in only(FinishDelta, deltas)]
    listed = listed_finishes(one)
    # A stream without a finish reason is a cut. One with an error ends with it. Any other has an end.
    endings = {type(reply.deltas[-1]) if reply.deltas and not reply.cut else Truncated for reply in found}
    ending = ErrorDelta if one["in_band_errors"] else EndDelta if one["finish"] else Truncated
    checks = {
        "text": text(deltas) == one["text"],
        "reasoning": reasoning(deltas) == one["reasoning"],
        "finish": Counter(finishes) == Counter([*listed, *early_finishes(one)]),
        "last finish": finishes[-1:] == listed[-1:],
        "end": endings == {ending},
        "errors": len(only(ErrorDelta, deltas)) == len(one["in_band_errors"]),
    }
    return [f"{one['file']}: {name}" for name, holds in checks.items() if not holds]


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 30], ids=["1", "7", "4096", "whole"])
def test_every_recording_gives_what_is_listed(shared: Path, size: int) -> None:
    """Every recording gives its text, reasoning, finish reasons, and end or error, in pieces of any size.

    Of the long ones only every tenth is read byte by byte. `nox -s slow` reads all of them so.
    """
    found = recordings(shared / "recordings")
    assert len(found) >= 577
    if size == 1:
        found = [one for at, one in enumerate(found) if len(one["bytes"]) < usually(4_000, 1 << 30) or not at % 10]
        assert len(found) >= usually(200, 577)
    assert [wrong for one in found for wrong in wrong_with(one, size)] == []


def test_the_pieces_do_not_matter(shared: Path) -> None:
    """The deltas, and not only the text, are the same for all pieces."""
    for one in recordings(shared / "recordings"):
        whole = [reply.deltas for reply in play(one, 1 << 30)]
        assert [reply.deltas for reply in play(one, 7)] == whole, one["file"]


def test_a_wrong_reading_would_be_seen(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a recording with an extra text, or without its end, fails the comparison."""
    one = next(one for one in recordings(shared / "recordings") if one["format"] == "anthropic" and one["text"])
    assert wrong_with(one, 4096) == []
    late = (
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"late"}}\n\n'
    )
    stop = one["bytes"].rindex(b"event: message_stop")
    assert wrong_with(one | {"bytes": one["bytes"][:stop] + late + one["bytes"][stop:]}, 4096) == [
        f"{one['file']}: text"
    ]
    finish = one["bytes"].rindex(b"event: message_delta")
    assert f"{one['file']}: end" in wrong_with(one | {"bytes": one["bytes"][:finish]}, 4096)


def test_every_recording_is_cut_before_its_end(shared: Path) -> None:
    """No recording without its last 40 bytes has a clean end, unless a finish reason came before them."""
    for one in recordings(shared / "recordings"):
        if one["framing"] in {"sse", "ndjson", "jsonarray"} and one["finish"]:
            last = play(one | {"bytes": one["bytes"].rstrip()[:-40]}, 4096)[-1]
            had_finish = bool(only(FinishDelta, last.deltas))
            assert (last.cut is None) == had_finish, one["file"]


def test_in_band_errors_have_their_words(shared: Path) -> None:
    """An error inside a stream gives the host's status and message."""
    seen = 0
    for one in recordings(shared / "recordings"):
        for listed in one["in_band_errors"]:
            (error,) = only(ErrorDelta, [delta for reply in play(one, 4096) for delta in reply.deltas])
            # The index has the beginning of the error's JSON.
            assert listed.startswith(f'{{"message": {json.dumps(error.detail)}, "type": "{error.error_type}"')
            assert error.status == 400
            seen += 1
    assert seen


def test_replies_without_a_finish_end_by_the_rule_done(shared: Path) -> None:
    """[DONE] without a finish_reason is a cut by the rule "strict", and an end if the host's row says "done"."""
    found = [*recordings(shared / "recordings"), *recordings(shared / "recordings" / "_more")]
    found = [one for one in found if one["format"] == "openai-chat"]
    found = [one for one in found if not one["finish"] and not one["in_band_errors"]]
    assert found
    for one in found:
        (reply,) = play(one, 4096, end="done")
        assert type(reply.deltas[-1]) is EndDelta
        assert text(reply.deltas) == one["text"]
    # Snowflake Cortex sends no finish_reason at all.
    assert {one["provider"] for one in found} >= {"snowflake"}
    assert builtin_table().row("snowflake", "claude-sonnet-4-6").end == "done"


def text_in(message: dict[str, Any]) -> str:
    """Return the text of a turn, with its blocks joined."""
    content = message["content"] or ""
    if isinstance(content, str):
        return content
    # an item of /responses that is a message has its own content
    return "".join(text_in(block) if block.get("type") == "message" else block.get("text", "") for block in content)


def test_turns_can_be_sent_back(shared: Path) -> None:
    """The turn of every recording can be encoded as JSON. It is plain text if there was nothing else."""
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
    """If LiteLLM loses its upstream, the stream gives the text so far and then the error."""
    path = shared / "recordings" / "_local" / file
    (reply,) = replies(name, SseDecoder(), path.read_bytes(), 7)
    assert text(reply.deltas).startswith(words)
    assert reply.deltas[-1].status == status

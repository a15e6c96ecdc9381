"""Chat completions that end badly: cut streams, and errors inside the stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aprefill._codecs.openai_chat import CODEC, OpenAIChatDecoder
from aprefill._deltas import EndDelta, ErrorDelta, FinishDelta, Record, TextDelta, UsageDelta
from aprefill._errors import Truncated
from aprefill._types import StopReason, Usage

from . import decode, feed, only, record, text
from .chat import DONE, NAME, STOP, chunk

# --- ends and cuts --------------------------------------------------------------------------------------------


def test_done_is_the_end() -> None:
    """Text, usage, errors and broken records after [DONE] are ignored."""
    decoder = OpenAIChatDecoder()
    assert feed(decoder, [chunk(content="x"), STOP, DONE])[-1] == EndDelta()
    for late in (chunk(content="more"), {"error": "x"}, DONE, b"{broken"):
        assert [*decoder.decode(record(late))] == []
    assert [*decoder.close()] == []
    assert [*decoder.close(record(chunk("stop", content="more")))] == []


def test_a_decoder_that_goes_on_would_be_seen() -> None:
    """The control: a decoder that does not remember its end gives the text after it."""

    class Forgetful(OpenAIChatDecoder):
        def decode(self, record: Record) -> Any:
            self._over = False
            return super().decode(record)

    assert text(feed(Forgetful(), [STOP, DONE, chunk(content="more")])) == "more"


def test_the_bodys_end_is_the_end_after_a_finish() -> None:
    """After a finish reason the end of the body is the end of the reply, because some gateways leave [DONE] out.

    Records between the two count.
    """
    decoder = OpenAIChatDecoder()
    feed(decoder, [chunk(content="x"), STOP])
    assert feed(decoder, [{"choices": [], "usage": {"prompt_tokens": 1}}]) == [UsageDelta(Usage(input_tokens=1))]
    assert [*decoder.close()] == [EndDelta()]
    assert [*decoder.close()] == []


@pytest.mark.parametrize("end", ["strict", "done"])
def test_the_bodys_end_without_a_finish_is_a_cut(end: str) -> None:
    """Without a finish reason the end of the body is a cut under both end rules, with no text, some text or usage."""
    for records in ([], [chunk(content="x")], [{"choices": [], "usage": {"prompt_tokens": 1}}]):
        decoder = CODEC.decoder(end=end)
        feed(decoder, records)
        with pytest.raises(Truncated, match="finish_reason"):
            decoder.close()


def test_done_without_a_finish() -> None:
    """[DONE] without a finish reason is a cut by the rule "strict" and an end by the rule "done".

    Ollama's complete replies have null as finish reason.
    """
    decoder = OpenAIChatDecoder()
    feed(decoder, [chunk(content="x")])
    with pytest.raises(Truncated, match=r"\[DONE\]"):
        decoder.decode(record(DONE))
    assert decode(NAME, chunk(content="x"), DONE, end="done") == [TextDelta("x"), EndDelta()]


def test_an_undispatched_record_counts_only_as_the_end() -> None:
    """A last record without its blank line counts only if it is [DONE], a whole finish reason or a whole error."""

    def last(before: list[Any], undispatched: Any) -> list[Any]:
        decoder = OpenAIChatDecoder()
        feed(decoder, before)
        return [*decoder.close(record(undispatched))]

    begun = [chunk(content="x")]
    assert last([STOP], DONE) == [EndDelta()]
    assert last(begun, chunk("stop", content="y")) == [
        TextDelta("y"),
        FinishDelta(StopReason.END, "stop"),
        EndDelta(),
    ]
    assert last(begun, {"error": {"message": "m", "code": 500}}) == [ErrorDelta(500, "", "m")]
    assert last(begun, chunk("error")) == [
        FinishDelta(StopReason.OTHER, "error"),
        ErrorDelta(500, "error", ""),
    ]
    # After a finish reason the reply has ended: half a record or more text is ignored.
    for other in (b'{"choices":[{"delta"', chunk(content="y"), b"[DON"):
        assert last([STOP], other) == [EndDelta()]
    whole = json.dumps(chunk("stop")).encode()
    for other in (DONE, chunk(content="y"), chunk("stop", index=1), b"", whole[:-1]):
        with pytest.raises(Truncated):
            last(begun, other)


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            {"error": {"message": "m", "type": "server_error", "code": None}},
            ErrorDelta(500, "server_error", "m"),
        ),
        ({"error": {"message": "m", "type": None, "code": "500"}}, ErrorDelta(500, "", "m")),
        ({"error": {"message": "m", "type": "x", "status_code": 418}}, ErrorDelta(418, "x", "m")),
        (
            {"object": "error", "message": "m", "type": "BadRequestError", "code": 400},
            ErrorDelta(400, "BadRequestError", "m"),
        ),
        ({"error": "m"}, ErrorDelta(200, "", "m")),
        ({"error": "m", "error_type": "generation"}, ErrorDelta(424, "generation", "m")),
        (
            [{"error": {"code": 503, "message": "m", "status": "UNAVAILABLE"}}],
            ErrorDelta(503, "UNAVAILABLE", "m"),
        ),
        ({"error": {"message": "m"}, "choices": "none"}, ErrorDelta(200, "", "m")),
        (
            {"choices": [], "x_groq": {"id": "r", "error": "over_capacity"}},
            ErrorDelta(200, "", "over_capacity"),
        ),
        ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "m"}}, ErrorDelta(200, "", "m")),
        (
            {"code": "InvalidParameter", "message": "m", "request_id": "r"},
            ErrorDelta(200, "InvalidParameter", "m"),
        ),
        ({"detail": [{"msg": "Field required", "input": "secret"}]}, ErrorDelta(200, "", "Field required")),
    ],
    ids=str,
)
def test_errors_in_every_shape(event: Any, expected: ErrorDelta) -> None:
    """Every shape of error gives an ErrorDelta with its status.

    Nothing after it counts, and the end of the body is no cut.
    """
    decoder = OpenAIChatDecoder()
    assert feed(decoder, [event, chunk(content="more"), DONE]) == [expected]
    assert [*decoder.close()] == []


def test_what_is_no_error() -> None:
    """Empty `error` fields, and MiniMax's status for success, are no errors."""
    for event in ({**STOP, "error": None}, {**STOP, "error": {}}, {**STOP, "error": ""}):
        assert only(ErrorDelta, decode(NAME, event, DONE)) == []
    assert (
        decode(NAME, {"choices": None, "base_resp": {"status_code": 0, "status_msg": "success"}}, STOP, DONE)[-1]
        == EndDelta()
    )


def test_text_comes_before_the_error_of_the_same_record() -> None:
    """If one record has text, finish_reason "error" and an error, as OpenRouter sends it, the text comes first."""
    event = {**chunk("error", content="last"), "error": {"code": 502, "message": "upstream"}}
    assert decode(NAME, event) == [
        TextDelta("last"),
        FinishDelta(StopReason.OTHER, "error"),
        ErrorDelta(502, "", "upstream"),
    ]


@pytest.mark.parametrize(
    ("word", "status"), [("error", 500), ("insufficient_system_resource", 503), ("network_error", 500)]
)
def test_a_finish_that_is_a_failure(word: str, status: int) -> None:
    """Some finish reasons of Mistral, DeepSeek and Zhipu mean that the host failed.

    The usage of that record is kept.
    """
    event = {**chunk(word, content="x"), "usage": {"prompt_tokens": 1}}
    deltas = decode(NAME, event, DONE)
    assert [type(delta) for delta in deltas] == [TextDelta, FinishDelta, UsageDelta, ErrorDelta]
    assert deltas[-1] == ErrorDelta(status, word, "")


def test_the_event_name_can_say_error() -> None:
    """An `event: error`, as Groq and LM Studio send it, is an error with and without JSON."""
    assert [*OpenAIChatDecoder().decode(record({"error": {"message": "m", "status_code": 400}}, "error"))] == [
        ErrorDelta(400, "", "m")
    ]
    assert [*OpenAIChatDecoder().decode(record({"message": "m"}, "error"))] == [ErrorDelta(200, "", "m")]
    assert [*OpenAIChatDecoder().decode(record(b"", "error"))] == [ErrorDelta(200, "", "")]

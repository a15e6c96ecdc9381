"""Messages streams that end, are cut, or report an error."""

from __future__ import annotations

from typing import Any

import pytest

from aprefill._codecs.anthropic_messages import AnthropicDecoder
from aprefill._deltas import EndDelta, ErrorDelta, FinishDelta, Record
from aprefill._errors import Truncated
from aprefill._types import StopReason

from . import feed, record, text
from .messages import STOP, WHOLE, finish, said, start


@pytest.mark.parametrize("kept", range(len(WHOLE) - 1))
def test_every_cut_before_the_stop_reason_is_a_cut(kept: int) -> None:
    """If the body ends anywhere before the stop reason, `Truncated` is raised."""
    decoder = AnthropicDecoder()
    feed(decoder, WHOLE[:kept])
    with pytest.raises(Truncated, match="message_stop"):
        decoder.close()


def test_a_stop_reason_is_the_models_own_end() -> None:
    """After the stop reason the body may end without message_stop.

    A stop reason in message_start does not count as that.
    """
    decoder = AnthropicDecoder()
    feed(decoder, WHOLE[:-1])
    assert decoder.close() == (EndDelta(),)
    decoder = AnthropicDecoder()
    feed(decoder, [start(stop_reason="end_turn"), *said("more")])
    with pytest.raises(Truncated):
        decoder.close()


def test_nothing_comes_after_the_end() -> None:
    """Text, usage, errors and broken records after message_stop are ignored."""
    decoder = AnthropicDecoder()
    feed(decoder, WHOLE)
    for late in (*said("more"), finish("end_turn"), {"type": "error", "error": {}}, b"{broken"):
        assert decoder.decode(record(late)) == ()
    assert decoder.close() == ()
    assert decoder.close(record(STOP)) == ()


def test_a_decoder_that_goes_on_would_be_seen() -> None:
    """The control: a decoder that does not remember its end gives the text after it."""

    class Forgetful(AnthropicDecoder):
        def decode(self, record: Record) -> Any:
            self._over = False
            return super().decode(record)

    decoder = Forgetful()
    feed(decoder, WHOLE)
    assert text(feed(decoder, said("more"))) == "more"


@pytest.mark.parametrize("space", [b"", b" "])
def test_an_undispatched_record_counts_only_as_the_end(space: bytes) -> None:
    """A last record without its blank line counts only if it is a whole end, stop reason or error."""
    assert AnthropicDecoder().close(record(b'{"type": "message_stop"' + space + b"}")) == (EndDelta(),)
    assert AnthropicDecoder().close(record(finish("end_turn"))) == (FinishDelta(StopReason.END, "end_turn"), EndDelta())
    (error,) = AnthropicDecoder().close(record({"type": "error", "error": {"type": "overloaded_error"}}))
    assert error == ErrorDelta(529, "overloaded_error", "")
    for other in (
        b'{"type": "message_stop"',
        b'{"type": "mess',
        said("more")[1],
        finish(None),
        b"",
        b"[DONE]",
    ):
        decoder = AnthropicDecoder()
        feed(decoder, WHOLE[:-2])
        with pytest.raises(Truncated):
            decoder.close(record(other))


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *(("invalid_request_error", 400), ("authentication_error", 401), ("permission_error", 403)),
        *(("not_found_error", 404), ("request_too_large", 413), ("rate_limit_error", 429)),
        *(("api_error", 500), ("timeout_error", 504), ("overloaded_error", 529), ("new_error", 200)),
    ],
)
def test_an_error_event_ends_the_stream(kind: str, status: int) -> None:
    """An error event ends the stream with the status that its type means and the host's message.

    The end of the body is then no cut.
    """
    decoder = AnthropicDecoder()
    event = {"type": "error", "error": {"type": kind, "message": "Sorry"}}
    assert feed(decoder, [start(), event, *said("more"), STOP]) == [ErrorDelta(status, kind, "Sorry")]
    assert decoder.close() == ()


@pytest.mark.parametrize(
    ("event", "payload", "expected"),
    [
        ("throttlingException", {"message": "slow"}, ErrorDelta(429, "throttlingException", "slow")),
        (
            "modelStreamErrorException",
            {"message": "x", "originalStatusCode": 500},
            ErrorDelta(500, "modelStreamErrorException", "x"),
        ),
        ("internalServerException", b"", ErrorDelta(500, "internalServerException", "")),
        ("", {"error": {"message": "x", "code": 502}}, ErrorDelta(502, "", "x")),
        ("", {"type": "error", "message": "x"}, ErrorDelta(200, "", "x")),
        ("", {"error": {"message": "x"}, "type": None}, ErrorDelta(200, "", "x")),
        ("", [{"error": {"message": "x", "code": 503}}], ErrorDelta(503, "", "x")),
        ("error", b"plain", ErrorDelta(200, "", "plain")),
    ],
)
def test_errors_of_other_makes(event: str, payload: Any, expected: ErrorDelta) -> None:
    """Errors of other kinds are read: Bedrock's exceptions, a gateway's OpenAI error, no error object, and no JSON."""
    assert [*AnthropicDecoder().decode(record(payload, event))] == [expected]


def test_an_error_text_is_bounded() -> None:
    """An error's text is kept up to 3,000 characters.

    That is enough to find what it quotes of the prompt before it is cut for display.
    """
    event = {"type": "error", "error": {"type": "api_error", "message": "x" * 9000}}
    (error,) = AnthropicDecoder().decode(record(event))
    assert len(error.detail) == 3000

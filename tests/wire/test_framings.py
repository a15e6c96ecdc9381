"""What every framing must do, whatever its rules. Each is tested with a body of its own."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from aprefill._codecs import PROTOCOLS, codec
from aprefill._errors import AprefillError, LimitExceeded, ProtocolError
from aprefill._wire import FRAMINGS, decoder_for
from aprefill.testing._wires.aws_frames import chunk

from ..support.contracts import sample_of

#: A body for each framing of which no codec has a sample.
OTHERS = {
    "ndjson": b'{"a":1}\n{"b":"\xc3\xb6"}\n{"c":[2]}\n',
    "jsonarray": b'[{"a":1}\n,\r\n{"b":"\xc3\xb6 ]} \\" \\\\"},\n[2, {"c": []}]\n]\n',
    "eventstream": b"".join(chunk(json.dumps({"number": number}).encode()) for number in range(3)),
}


def body_of(media_type: str) -> bytes:
    """Return the sample of a protocol that uses this framing, else a body made here."""
    framing = FRAMINGS[media_type]
    samples = [sample_of(name).reply for name in PROTOCOLS if FRAMINGS[codec(name).accept] == framing]
    return samples[0] if samples else OTHERS[framing[0]]


def records_of(media_type: str, body: bytes, size: int) -> list[tuple[bytes, str, str]]:
    """Return the records of a body that arrives in pieces of `size` bytes."""
    decoder = decoder_for(media_type)
    records = [record for at in range(0, len(body), size) for record in decoder.feed(body[at : at + size])]
    last = decoder.close()
    return [(record.data, record.event, record.id) for record in (*records, *([last] if last else []))]


@pytest.fixture(autouse=True)
def _botocore() -> None:
    """Skip the tests without botocore, which one of the framings needs."""
    pytest.importorskip("botocore.eventstream")


@pytest.mark.parametrize("media_type", FRAMINGS)
def test_pieces_do_not_matter(media_type: str) -> None:
    """The records of a body are the same in one piece, byte by byte, and in pieces of 2, 3, 7 and 64 bytes."""
    body = body_of(media_type)
    whole = records_of(media_type, body, len(body))
    assert len(whole) >= 3
    for size in (1, 2, 3, 7, 64):
        assert records_of(media_type, body, size) == whole, size


@pytest.mark.parametrize("media_type", FRAMINGS)
def test_a_cut_body_gives_the_records_before_the_cut(media_type: str) -> None:
    """Wherever a body is cut, the records before the cut come and no others.

    A fault of the framing raises one of aprefill's errors.
    """
    body = body_of(media_type)
    whole = [data for data, _, _ in records_of(media_type, body, len(body))]
    for kept in range(len(body)):
        decoder = decoder_for(media_type)
        records = [record.data for record in decoder.feed(body[:kept])]
        assert records == whole[: len(records)]
        with suppress(AprefillError):
            decoder.close()
    assert len(records) >= len(whole) - 1


@pytest.mark.parametrize("media_type", FRAMINGS)
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_record_is_bounded(media_type: str, size: int) -> None:
    """A record beyond the bound raises `LimitExceeded`, in one piece and byte by byte.

    With a bound that is large enough the same body is accepted.
    """
    body = body_of(media_type)
    longest = max(len(data) for data, _, _ in records_of(media_type, body, len(body)))
    with pytest.raises(LimitExceeded) as met:
        decoder = decoder_for(media_type, longest // 2)
        for at in range(0, len(body) + size, size):
            decoder.feed(body[at : at + size])
        decoder.close()
    assert met.value.limit == "record_bytes"
    fits = decoder_for(media_type, len(body))
    assert fits.feed(body)


@pytest.mark.parametrize("media_type", FRAMINGS)
def test_the_beginning_of_a_stream_is_told_from_something_else(media_type: str) -> None:
    """Every beginning of a body is recognised as a possible stream. HTML and plain words are not."""
    body = body_of(media_type)
    for kept in range(1, min(len(body), 200)):
        decoder = decoder_for(media_type)
        decoder.feed(body[:kept])
        assert decoder.has_begun, body[:kept]
    for other in (b"<!doctype html><html>", b"Internal Server Error\n"):
        decoder, is_error = decoder_for(media_type), False
        try:
            decoder.feed(other)
        except ProtocolError:
            is_error = True
        assert is_error or not decoder.has_begun, other


def test_what_the_request_asked_for_counts_where_the_answer_does_not_say() -> None:
    """Without a usable content type the body is decoded as the media type of the request's `accept`."""
    for media_type in FRAMINGS:
        for content_type in ("", "application/octet-stream", "text/plain; charset=utf-8"):
            assert type(decoder_for(content_type, accept=media_type)) is type(decoder_for(media_type))
    assert type(decoder_for("application/x-ndjson")) is not type(decoder_for("text/event-stream"))

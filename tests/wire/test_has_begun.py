"""Each wire decoder distinguishes the beginning of a stream from an answer that is something else."""

from __future__ import annotations

import json

import pytest

from aprefill._wire import decoder_for
from aprefill.testing._wires.aws_frames import chunk

SSE, NDJSON, BEDROCK = "text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream"

STREAMS = {
    SSE: [
        *(
            b"data: x\n\n",
            b"event: e\r\ndata: x\r\n\r\n",
            b"id: 1\n\n",
            b"retry: 5\n\n",
            b": ping\n\n",
            b"\n\ndata\n\n",
        ),
        *(b"\xef\xbb\xbfdata: x\n\n", b":" + b"x" * 5000 + b"\n\n", b"data:x\rdata:y\r\r"),
    ],
    NDJSON: [b'{"a":1}\n', b' \n\t{"a":1}\r\n'],
    BEDROCK: [chunk(json.dumps({"type": "ping"}).encode())],
}
OTHERS = {
    SSE: [b"<!doctype html>", b'{"error": "x"}', b"Internal Server Error\n", b"date: today\n", b"\x00\x00\x00\x7f"],
    NDJSON: [b"<!doctype html>", b"data: x\n\n", b"\n[1]\n"],
    BEDROCK: [b"<!doctype", b"data: x", b"\x7f\xff", b"\x00\x00\x00\x7f\x7f"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STREAMS)
def test_every_beginning_of_a_stream_is_one(kind: str) -> None:
    """A stream counts as begun whole and cut anywhere, in one piece and byte by byte."""
    pytest.importorskip("botocore.eventstream")
    for stream in STREAMS[kind]:
        for kept in range(1, len(stream) + 1):
            whole, bytewise = decoder_for(kind), decoder_for(kind)
            whole.feed(stream[:kept])
            for at in range(kept):
                bytewise.feed(stream[at : at + 1])
            assert whole.has_begun, stream[:kept]
            assert bytewise.has_begun, stream[:kept]


@pytest.mark.parametrize("kind", OTHERS)
def test_something_else_is_none(kind: str) -> None:
    """The control: pages, sentences and other framings do not count as the beginning of a stream."""
    pytest.importorskip("botocore.eventstream")
    for body in OTHERS[kind]:
        decoder = decoder_for(kind)
        decoder.feed(body)
        assert not decoder.has_begun, body


def test_the_bound_goes_to_every_decoder() -> None:
    """`decoder_for` passes the bound to every decoder."""
    for kind in (SSE, NDJSON, BEDROCK):
        assert decoder_for(kind, 77)._max == 77  # type: ignore[attr-defined]

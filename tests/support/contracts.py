"""What every codec and every transport of ours must do, whatever its protocol. Each check raises `AssertionError`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aprefill._deltas import EndDelta, ErrorDelta, FinishDelta, ModelInput, Record, TextDelta, UsageDelta
from aprefill._errors import Truncated, UsageError
from aprefill._json import texts_of
from aprefill._types import StopReason
from aprefill._wire import decoder_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from aprefill._codecs import Codec
    from aprefill._deltas import Delta
    from aprefill._transports import HttpRequest, Transport

KEY = "sk-very-secret-0123456789"

# --- codecs -----------------------------------------------------------------------------------------------------

#: One whole reply for each protocol, as its host sends it. The text is `TEXT`, which ends by itself.
STREAMS = Path(__file__).parents[1] / "codecs" / "streams"
TEXT = "Hello, wörld!"
#: How the file of a stream is called -> the media type of its framing.
FRAMINGS = {
    ".sse": "text/event-stream",
    ".ndjson": "application/x-ndjson",
    ".eventstream": "application/vnd.amazon.eventstream",
}
#: A value for each argument of `stream()` that goes into a body.
GIVEN: dict[str, Any] = {
    "system": "Be brief.",
    "max_tokens": 9,
    "stop": ("x",),
    "temperature": 0.5,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tools": ({"name": "f"},),
    "response_format": {"type": "json_schema", "schema": {}},
}


def model_input(**more: Any) -> ModelInput:
    """A request with nothing in it but what every protocol needs."""
    return ModelInput(**{"model": "a-model", "messages": ({"role": "user", "content": "Hi"},), "max_tokens": 9, **more})


def records_of(name: str) -> list[Record]:
    """The records of the protocol's whole reply."""
    found = [path for path in STREAMS.iterdir() if path.stem == name]
    assert len(found) == 1, f"tests/codecs/streams needs one reply of {name}, with the text {TEXT!r}"
    wire = decoder_for(FRAMINGS[found[0].suffix])
    records = wire.feed(found[0].read_bytes())
    assert wire.close() is None
    return records


def says_where_it_goes(codec: Codec) -> None:
    """A path that goes behind a base URL; the media type that is asked for; no limit that allows nothing."""
    path = codec.path(model_input())
    assert path.startswith("/")
    assert not path.endswith("/")
    assert "#" not in path
    assert codec.accept.count("/") == 1
    assert codec.accept not in codec.not_streams
    assert codec.max_stop is None or codec.max_stop > 0


def carries_the_key_in_its_headers(codec: Codec) -> None:
    """Every form has the key in one header and no other place; "none" has none."""
    assert codec.auth(KEY, "none") == {}
    for form in ("bearer", "x-key"):
        headers = codec.auth(KEY, form)
        assert [KEY in value for value in headers.values()] == [True]
        assert all(name == name.lower() and KEY not in name for name in headers)
    assert codec.auth(KEY, "bearer") == {"authorization": f"Bearer {KEY}"}


def encodes_and_leaves_its_input_alone(codec: Codec) -> None:
    """A body that is JSON and streams, with every argument in a field that the codec lists."""
    asked = model_input(**GIVEN)
    before = copy.deepcopy({name: getattr(asked, name) for name in asked.__dataclass_fields__})
    body = codec.encode(asked)
    assert json.loads(json.dumps(body)) == body
    assert {name: getattr(asked, name) for name in asked.__dataclass_fields__} == before
    assert body.items() >= dict(codec.streaming).items()
    assert codec.arguments.keys() == {"model", "prompt", *GIVEN}
    for argument, fields in codec.arguments.items():
        assert fields
        assert argument in {"model", "prompt"} or any(name in body for name in fields), argument


def lets_extra_win(codec: Codec) -> None:
    """A field of `extra` is added, replaces or, as None, removes; in an object that was merged too. Nothing is changed."""
    body = codec.encode(model_input())
    extra = {"seed": 1, "top_k": {"a": 1}}
    before = copy.deepcopy((body, extra))
    assert codec.merge(body, {}) == body
    assert codec.merge(body, extra) == {**body, **extra}
    assert codec.merge({**body, "seed": 2}, {"seed": 3}) == {**body, "seed": 3}
    assert codec.merge({**body, "seed": 2}, {"seed": None}) == body
    assert (body, extra) == before
    assert codec.encode(model_input(extra=extra)) == codec.merge(body, extra)
    assert codec.encode(model_input(fields={"seed": 2, "top_p": 1}, extra={"top_p": None, "seed": 1}))["seed"] == 1
    assert "top_p" not in codec.encode(model_input(fields={"top_p": 1}, extra={"top_p": None}))


def finds_what_undoes_an_argument(codec: Codec) -> None:
    """Each spelling that the codec lists, and the argument's own name; nothing in an empty `extra`."""
    for argument, fields in codec.arguments.items():
        assert codec.undone_by(argument, {}) is None
        for name in (argument, *fields):
            assert codec.undone_by(argument, {"seed": 1, name: {"a": 1}}) == name
            assert codec.undone_by(argument, {name: None}) == name


def names_the_settings_in_use(codec: Codec) -> None:
    """None for a plain request; one that is on by the caller's own spelling, an argument or a field of `extra`."""
    assert codec.settings_in_use({}, {}) == {}
    assert codec.settings_in_use({"thinking": None, "tools": (), "response_format": None}, {"seed": 1}) == {}
    for setting in ("thinking", "tools", "response_format"):
        value = GIVEN[setting]
        assert codec.settings_in_use({setting: value}, {}) == {setting: setting}
        assert codec.settings_in_use({}, {setting: value}) == {setting: f"extra[{setting!r}]"}


def writes_a_text_part(codec: Codec) -> None:
    """It holds the text and is no tool's result."""
    part = codec.text_part("one more text")
    assert "one more text" in list(texts_of([part]))
    assert not codec.is_tool_result({"role": "user", "content": [part]})
    assert not codec.is_tool_result({"role": "user", "content": "one more text"})


def makes_a_turn_of_a_reply(codec: Codec) -> None:
    """The turn is the assistant's, with the known text and the new one in it; an edit that changes nothing gives it back."""
    turn = codec.message([TextDelta("x").text, "y"], lead="known ")
    assert turn["role"] == "assistant"
    assert "known xy" in "".join(texts_of([turn["content"]]))
    assert codec.edit(turn, lambda part: part) == turn


def reads_errors(codec: Codec) -> None:
    """The host's words out of an error body, nothing out of a page of HTML, and the id of its answer."""
    body = b'{"error":{"type":"overloaded_error","message":"come back later"}}'
    assert codec.error(503, body, {}) == ("overloaded_error", "come back later")
    assert codec.error(502, b"<html>Bad gateway</html>", {}) == ("", "")
    found = codec.error_delta(body)
    assert (found.error_type, found.detail) == ("overloaded_error", "come back later")
    assert codec.request_id({"x-request-id": "r1"}) == "r1"
    assert codec.request_id({"content-type": "text/plain"}) is None
    assert StopReason.MAX_TOKENS in codec.stop_reasons.values()


def decodes_its_reply(codec: Codec) -> None:
    """The text, why it ended, what was counted, and the end; nothing after it."""
    records = records_of(codec.name)
    decoder = codec.decoder()
    deltas: list[Delta] = []
    for record in records:
        deltas += decoder.decode(record)
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == TEXT
    assert [delta.reason for delta in deltas if isinstance(delta, FinishDelta)] == [StopReason.END]
    assert any(isinstance(delta, UsageDelta) for delta in deltas)
    if not isinstance(deltas[-1], EndDelta):
        deltas += decoder.close()
    assert isinstance(deltas[-1], EndDelta)
    assert sum(isinstance(delta, EndDelta) for delta in deltas) == 1
    for record in records:
        assert list(decoder.decode(record)) == []
    assert list(decoder.close()) == []


def finds_every_cut(codec: Codec) -> None:
    """A body that ends before the model's own end is `Truncated`, wherever that is; behind it, the reply is complete."""
    records = records_of(codec.name)
    has_ended = False
    for cut in range(len(records)):
        decoder = codec.decoder()
        deltas = [delta for record in records[:cut] for delta in decoder.decode(record)]
        if any(isinstance(delta, FinishDelta) for delta in deltas):
            has_ended = True
            assert isinstance([*deltas, *decoder.close()][-1], EndDelta)
        else:
            with pytest.raises(Truncated):
                decoder.close()
    assert has_ended


def ends_with_an_error_of_the_hosts(codec: Codec) -> None:
    """An error inside the stream is the last delta; what follows gives nothing."""
    records = records_of(codec.name)
    decoder = codec.decoder()
    error = Record(b'{"type":"error","error":{"type":"overloaded_error","message":"come back later"}}', "error")
    deltas = list(decoder.decode(error))
    assert isinstance(deltas[-1], ErrorDelta)
    assert deltas[-1].detail == "come back later"
    assert [delta for record in records for delta in decoder.decode(record)] == []
    assert list(decoder.close()) == []


def knows_its_end_rules(codec: Codec) -> None:
    """Those that it lists, "strict" among them. Any other is the caller's error."""
    assert "strict" in codec.end_rules
    for rule in codec.end_rules:
        codec.decoder(end=rule)
    with pytest.raises(UsageError):
        codec.decoder(end="whenever")


#: Everything that a codec must do.
CODEC: tuple[Callable[[Codec], None], ...] = (
    says_where_it_goes,
    carries_the_key_in_its_headers,
    encodes_and_leaves_its_input_alone,
    lets_extra_win,
    finds_what_undoes_an_argument,
    names_the_settings_in_use,
    writes_a_text_part,
    makes_a_turn_of_a_reply,
    reads_errors,
    decodes_its_reply,
    finds_every_cut,
    ends_with_an_error_of_the_hosts,
    knows_its_end_rules,
)

# --- transports -------------------------------------------------------------------------------------------------


async def gives_a_whole_response(transport: Transport, request: HttpRequest) -> bytes:
    """Status, headers in lower case, the body read by read and then its end; no secret in what it says of itself."""
    response = await transport.open(request)
    try:
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert all(name == name.lower() for name in response.headers)
        assert KEY not in response.url()
        assert "?" not in response.url()
        assert isinstance(response.secrets(), set)
        assert isinstance(response.can_kill, bool)
        body = b""
        while True:
            try:
                piece = await response.receive()
            except StopAsyncIteration:
                break
            assert isinstance(piece, bytes)
            body += piece
        assert body
        return body
    finally:
        await response.aclose()


async def closes_before_the_end(transport: Transport, request: HttpRequest) -> None:
    """A response that was begun, or never looked at, is closed at once, twice if need be; the next request works."""
    for begun in (False, True):
        response = await transport.open(request)
        if begun:
            await response.receive()
        await response.aclose()
        await response.aclose()
        assert response.kill() is False
    await gives_a_whole_response(transport, request)


async def gives_an_error_as_a_response(transport: Transport, request: HttpRequest, status: int) -> None:
    """A status that is none of success is no exception: its body is read as any other."""
    response = await transport.open(request)
    try:
        assert response.status == status
        assert await response.receive()
    finally:
        await response.aclose()


async def closes_twice(transport: Transport) -> None:
    """Closing is idempotent, and needs no request before it."""
    await transport.aclose()
    await transport.aclose()

"""What every codec and every transport of this package must do. Each check raises `AssertionError`."""

from __future__ import annotations

import copy
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from aprefill._deltas import EndDelta, ErrorDelta, FinishDelta, ModelInput, Record, TextDelta, UsageDelta
from aprefill._errors import Truncated, UsageError
from aprefill._json import texts_of
from aprefill._types import StopReason
from aprefill._wire import FRAMINGS, decoder_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aprefill._codecs import Codec
    from aprefill._deltas import Delta
    from aprefill._transports import HttpRequest, Transport

KEY = "sk-very-secret-0123456789"

# --- codecs -----------------------------------------------------------------------------------------------------

#: The folders with what each protocol's host sends:
#:
#: - `reply`: the body of a whole reply. Its text is `TEXT`, it ends normally, and it counts `COUNTED` tokens.
#: - `error`: the body of a reply that begins in the same way and is ended by an error inside the stream.
#: - `error.json`: the body of an error response.
#: - `request.json`: what `CONVERSATION` becomes at one host of the table: the `url`, the headers that hold the `key` (written
#:   as KEY), and the `body`, for a `model` and an `api` of that host.
#: - `sample.toml`: the media type of a reply, the status of the error, the error's type in the host's words, and the
#:   header with the request's id. Both errors have this type and the message `DETAIL`. If every
#:   request's path has the same query, `query` is this query. If the protocol has another form for one of the values of
#:   `GIVEN`, a table `translated` has that form by the argument's name.
SAMPLES = Path(__file__).parents[1] / "codecs" / "samples"
TEXT = "Hello, wörld!"
COUNTED = (3, 4)
DETAIL = "come back later"
#: The conversation of `request.json`: arguments of `stream()`, as far as the protocol has them.
CONVERSATION: dict[str, Any] = {
    "prompt": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Go on."},
    ],
    "system": "Be brief.",
    "max_tokens": 4321,
    "stop": "STOP-7",
    "temperature": 0.375,
}
#: A value for each argument of `stream()` that is written into a body. Each value occurs nowhere else in a body.
GIVEN: dict[str, Any] = {
    "system": "Be brief.",
    "max_tokens": 4321,
    "stop": ("STOP-7", "STOP-8"),
    "temperature": 0.375,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tools": ({"name": "f"},),
    "response_format": {"type": "json_schema", "schema": {}},
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What a protocol's host sends."""

    reply: bytes
    error: bytes
    error_body: bytes
    request: dict[str, Any]
    content_type: str
    error_status: int
    error_type: str
    request_id_header: str
    query: str = ""
    translated: dict[str, Any] = field(default_factory=dict)


def sample_of(name: str) -> Sample:
    """Return the files of a protocol's folder."""
    folder = SAMPLES / name
    missing = [
        one for one in ("reply", "error", "error.json", "request.json", "sample.toml") if not (folder / one).exists()
    ]
    assert not missing, f"tests/codecs/samples/{name} needs {', '.join(missing)}; see tests/support/contracts.py"
    return Sample(
        (folder / "reply").read_bytes(),
        (folder / "error").read_bytes(),
        (folder / "error.json").read_bytes(),
        json.loads((folder / "request.json").read_text("utf-8")),
        **tomllib.loads((folder / "sample.toml").read_text("utf-8")),
    )


def model_input(**more: Any) -> ModelInput:
    """Return a request with only what every protocol needs."""
    return ModelInput(**{"model": "a-model", "messages": ({"role": "user", "content": "Hi"},), "max_tokens": 9, **more})


def records_of(codec: Codec, body: bytes) -> list[Record]:
    """Return the records of a body of this protocol."""
    wire = decoder_for(sample_of(codec.name).content_type, accept=codec.accept)
    records = wire.feed(body)
    assert wire.close() is None
    return records


def values_in(value: Any) -> Iterator[Any]:
    """Yield a JSON value and every value inside it."""
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from values_in(one)


def at_path(path: str, value: Any) -> dict[str, Any]:
    """An object with `value` at a path such as "limits.words"."""
    for name in reversed(path.split(".")):
        value = {name: value}
    held: dict[str, Any] = value
    return held


def turn_with(body: Any, text: str, others: tuple[str, ...]) -> Any:
    """Return the largest object of a body that contains `text` and none of `others`, without that text.

    None: there is no such object.
    """
    holders = []
    for one in values_in(body):
        inside = list(values_in(one)) if isinstance(one, dict) else []
        if text in inside and not any(other in inside for other in others):
            holders.append(json.dumps(one))
    return json.loads(max(holders, key=len).replace(text, "")) if holders else None


def says_where_it_goes(codec: Codec) -> None:
    """The path is relative to a base URL, the media type has a framing, and the limit on stop sequences is not 0."""
    path = codec.path(model_input())
    assert path.startswith("/")
    assert not path.endswith("/")
    assert "#" not in path
    assert codec.accept in FRAMINGS
    assert codec.accept == sample_of(codec.name).content_type.partition(";")[0]
    assert codec.accept not in codec.not_streams
    assert codec.max_stop is None or codec.max_stop > 0


def names_the_model(codec: Codec) -> None:
    """The model is a value of the body, or a part of the path in which no character of it has another meaning."""
    model = "org/a-model?b#c%d"
    body, path = (
        codec.encode(model_input(model=model)),
        urlsplit(f"https://host.test{codec.path(model_input(model=model))}"),
    )
    assert path.query == sample_of(codec.name).query
    assert not path.fragment
    assert (model in values_in(body)) is bool(codec.arguments["model"])
    assert (model in unquote(path.path)) is not bool(codec.arguments["model"])


def carries_the_key_in_its_headers(codec: Codec) -> None:
    """The key is only in the one header that the host's row names. With "none" there is no header."""
    assert codec.auth(KEY, "none") == {}
    assert codec.auth(KEY, "bearer") == {"authorization": f"Bearer {KEY}"}
    assert codec.auth(KEY, "x-its-key") == {"x-its-key": KEY}


def encodes_and_leaves_its_input_alone(codec: Codec) -> None:
    """The body is JSON, turns streaming on, and has the value of every argument that the codec lists."""
    known = {name: value for name, value in GIVEN.items() if name in codec.arguments}
    assert codec.arguments.keys() == {"model", "prompt", *known}
    if codec.max_stop == 1:
        known["stop"] = known["stop"][:1]
    asked = model_input(**known)
    before = copy.deepcopy({name: getattr(asked, name) for name in asked.__dataclass_fields__})
    body = codec.encode(asked)
    assert json.loads(json.dumps(body)) == body
    assert {name: getattr(asked, name) for name in asked.__dataclass_fields__} == before
    assert body.items() >= dict(codec.streaming).items()
    assert all(fields for argument, fields in codec.arguments.items() if argument != "model")
    inside = list(values_in(body))
    translated = sample_of(codec.name).translated
    for argument, value in translated.items():
        assert any(at_path(path, value).items() <= body.items() for path in codec.arguments[argument]), argument
    for argument, value in known.items():
        if argument in translated:
            continue
        for wanted in value if argument == "stop" else [value[0] if isinstance(value, tuple) else value]:
            assert any(one == wanted and type(one) is type(wanted) for one in inside), argument
    assert "Hi" in inside
    # an argument that the protocol does not have is the caller's error
    for argument in GIVEN.keys() - known.keys():
        with pytest.raises(UsageError, match=argument):
            codec.encode(model_input(**{argument: GIVEN[argument]}))


def keeps_the_turns_apart(codec: Codec) -> None:
    """Both of the user's turns have one form and the assistant's has another. All turns are there, in order."""
    texts = ("the first", "the second", "the third")
    roles = ("user", "assistant", "user")
    messages = tuple({"role": role, "content": text} for role, text in zip(roles, texts, strict=True))
    body = codec.encode(model_input(messages=messages, system="the rules"))
    assert [one for one in values_in(body) if one in texts] == list(texts)
    assert "the rules" in values_in(body)
    every = (*texts, "the rules")
    first, second, third, rules = (
        turn_with(body, text, tuple(other for other in every if other != text)) for text in every
    )
    assert first
    assert second
    assert first == third
    assert first != second
    assert rules not in (first, second)


def lets_extra_win(codec: Codec) -> None:
    """A field of `extra` is added, replaces a field, or (None) removes it, and the codec changes neither input."""
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
    """The codec finds every spelling that it lists for an argument, and the argument's own name, in `extra`."""
    for argument, fields in codec.arguments.items():
        assert codec.undone_by(argument, {}) is None
        for name in (argument, *fields):
            assert codec.undone_by(argument, {"seed": 1, **at_path(name, {"a": 1})}) == name
            assert codec.undone_by(argument, at_path(name, None)) == name


def names_the_settings_in_use(codec: Codec) -> None:
    """The codec names each setting that an argument or a field of `extra` turns on. A plain request has none."""
    assert codec.settings_in_use({}, {}) == {}
    assert codec.settings_in_use({"thinking": None, "tools": (), "response_format": None}, {"seed": 1}) == {}
    for setting in ("thinking", "tools", "response_format"):
        value = GIVEN[setting]
        assert codec.settings_in_use({setting: value}, {}) == {setting: setting}
        assert codec.settings_in_use({}, {setting: value}) == {setting: f"extra[{setting!r}]"}


def writes_a_text_part(codec: Codec) -> None:
    """A text part contains the text, and is not a tool's result."""
    part = codec.text_part("one more text")
    assert "one more text" in list(texts_of([part]))
    assert not codec.is_tool_result({"role": "user", "content": [part]})
    assert not codec.is_tool_result({"role": "user", "content": "one more text"})


def makes_a_turn_of_a_reply(codec: Codec) -> None:
    """The turn has the role assistant and contains the known and the new text.

    An edit that changes nothing returns it.
    """
    turn = codec.message([TextDelta("x").text, "y"], lead="known ")
    assert turn["role"] == "assistant"
    assert "known xy" in "".join(texts_of([turn["content"]]))
    assert codec.edit(turn, lambda part: part) == turn


def reads_errors(codec: Codec) -> None:
    """An error body has the host's own words, whatever the status. A page of HTML has none.

    The request's id is found.
    """
    sample = sample_of(codec.name)
    assert codec.error(sample.error_status, sample.error_body, {}) == (sample.error_type, DETAIL)
    found = codec.error_delta(sample.error_body)
    assert (found.error_type, found.detail) == (sample.error_type, DETAIL)
    assert codec.error(502, b"<html>Bad gateway</html>", {}) == ("", "")
    assert codec.request_id({sample.request_id_header: "r1"}) == "r1"
    assert codec.request_id({"content-type": "text/plain"}) is None
    assert StopReason.MAX_TOKENS in codec.stop_reasons.values()


def decodes_its_reply(codec: Codec) -> None:
    """The decoder yields the text, the stop reason, the token counts and the end, and nothing after the end."""
    records = records_of(codec, sample_of(codec.name).reply)
    decoder = codec.decoder()
    deltas: list[Delta] = []
    for record in records:
        deltas += decoder.decode(record)
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == TEXT
    assert [delta.reason for delta in deltas if isinstance(delta, FinishDelta)] == [StopReason.END]
    counts = [delta.usage for delta in deltas if isinstance(delta, UsageDelta)]
    assert (counts[-1].input_tokens, counts[-1].output_tokens) == COUNTED
    if not isinstance(deltas[-1], EndDelta):
        deltas += decoder.close()
    assert isinstance(deltas[-1], EndDelta)
    assert sum(isinstance(delta, EndDelta) for delta in deltas) == 1
    for record in records:
        assert list(decoder.decode(record)) == []
    assert list(decoder.close()) == []


def finds_every_cut(codec: Codec) -> None:
    """A body that is cut before the stop reason is `Truncated`, wherever the cut is.

    After it, the reply is complete.
    """
    records = records_of(codec, sample_of(codec.name).reply)
    has_ended = False
    for cut in range(len(records) + 1):
        decoder = codec.decoder()
        deltas = [delta for record in records[:cut] for delta in decoder.decode(record)]
        if any(isinstance(delta, FinishDelta) for delta in deltas):
            has_ended = True
            assert isinstance([*deltas, *decoder.close()][-1], EndDelta)
        else:
            with pytest.raises(Truncated):
                decoder.close()
            # a record that was begun and never completed counts only if it is the end
            decoder = codec.decoder()
            last = [delta for record in records[: cut + 1] for delta in decoder.decode(record)]
            if not any(isinstance(delta, FinishDelta) for delta in last):
                decoder = codec.decoder()
                for record in records[:cut]:
                    decoder.decode(record)
                with pytest.raises(Truncated):
                    decoder.close(records[cut])
    assert has_ended


def joins_halves_of_a_character(codec: Codec) -> None:
    """A character that the host has cut into two escapes, in two records, is put together."""
    halves = {b"Hello,": rb"Hello\ud83d", " wörld!".encode(): rb"\ude00!"}
    decoder = codec.decoder()
    deltas: list[Delta] = []
    for record in records_of(codec, sample_of(codec.name).reply):
        data = record.data
        for text, half in halves.items():
            data = data.replace(text, half)
        deltas += decoder.decode(Record(data, record.event, record.id))
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == "Hello\U0001f600!"


def ends_with_an_error_of_the_hosts(codec: Codec) -> None:
    """An error inside the stream is the last delta, and later records yield nothing."""
    sample = sample_of(codec.name)
    decoder = codec.decoder()
    deltas = [delta for record in records_of(codec, sample.error) for delta in decoder.decode(record)]
    assert [delta.text for delta in deltas if isinstance(delta, TextDelta)] == ["Hello,"]
    last = deltas[-1]
    assert isinstance(last, ErrorDelta)
    assert (last.error_type, last.detail) == (sample.error_type, DETAIL)
    assert [delta for record in records_of(codec, sample.reply) for delta in decoder.decode(record)] == []
    assert list(decoder.close()) == []


def knows_its_end_rules(codec: Codec) -> None:
    """The codec accepts the end rules that it lists, with "strict" among them. Any other rule is the caller's error."""
    assert "strict" in codec.end_rules
    for rule in codec.end_rules:
        codec.decoder(end=rule)
    with pytest.raises(UsageError):
        codec.decoder(end="whenever")


#: Everything that a codec must do.
CODEC: tuple[Callable[[Codec], None], ...] = (
    says_where_it_goes,
    names_the_model,
    carries_the_key_in_its_headers,
    encodes_and_leaves_its_input_alone,
    keeps_the_turns_apart,
    lets_extra_win,
    finds_what_undoes_an_argument,
    names_the_settings_in_use,
    writes_a_text_part,
    makes_a_turn_of_a_reply,
    reads_errors,
    decodes_its_reply,
    finds_every_cut,
    joins_halves_of_a_character,
    ends_with_an_error_of_the_hosts,
    knows_its_end_rules,
)

# --- transports -------------------------------------------------------------------------------------------------


async def gives_a_whole_response(transport: Transport, request: HttpRequest) -> bytes:
    """The response has a status, headers with lower-case names and a body that ends. Its URL contains no secret."""
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
    """A response can be closed at once and twice, before or after the first read, and the next request works."""
    for begun in (False, True):
        response = await transport.open(request)
        if begun:
            await response.receive()
        await response.aclose()
        await response.aclose()
        assert response.kill() is False
    await gives_a_whole_response(transport, request)


async def gives_an_error_as_a_response(transport: Transport, request: HttpRequest, status: int) -> None:
    """A status that is not 2xx raises nothing. The body can be read."""
    response = await transport.open(request)
    try:
        assert response.status == status
        assert await response.receive()
    finally:
        await response.aclose()


async def closes_twice(transport: Transport) -> None:
    """A transport can be closed twice, also before any request."""
    await transport.aclose()
    await transport.aclose()

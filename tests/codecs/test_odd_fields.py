"""Every kind of field in the recordings is tried with a value of every JSON type.

Only the fields that carry text may end a reply.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from aprefill._codecs import codec, openai_chat
from aprefill._codecs._json import Reader
from aprefill._deltas import ErrorDelta, Record
from aprefill._errors import AprefillError, ProtocolError
from aprefill._wire.ndjson import NdjsonDecoder
from aprefill._wire.sse import SseDecoder

from ..support.thorough import usually
from . import calls, decode, text, turn_of
from .chat import DONE, chunk
from .recorded import CODECS, recordings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VALUES = [None, True, False, 0, 7, 1.5, "x", "", [], ["x"], {}, {"x": 1}]

#: The fields that hold text, say which kind of text it is, or end the reply. `*` is any place in a list.
NEEDED = {
    "cohere": {
        *("type", "delta", "delta.message", "delta.message.content", "delta.message.content.text"),
        *("delta.finish_reason", "delta.error"),
    },
    "ollama": {"message", "message.content", "response", "done"},
    "openai_chat": {
        *("choices", "choices.*", "choices.*.delta", "choices.*.delta.content", "choices.*.delta.content.*"),
        *("choices.*.delta.content.*.text", "choices.*.delta.refusal", "choices.*.finish_reason"),
    },
    "anthropic_messages": {
        *("type", "delta", "delta.type", "delta.text", "delta.stop_reason"),
        *("content_block", "content_block.type", "content_block.text"),
    },
    "openai_responses": {"type", "delta"},
    "gemini": {
        *("candidates", "candidates.*", "candidates.*.content", "candidates.*.content.parts"),
        *("candidates.*.content.parts.*", "candidates.*.content.parts.*.text", "candidates.*.content.parts.*.thought"),
        *("candidates.*.finishReason", "candidates.*.index"),
        # without one piece, a tool would be run with other arguments
        *(f"candidates.*.content.parts.*.functionCall.partialArgs{rest}" for rest in ("", ".*", ".*.jsonPath")),
    },
}


#: The framings that can be taken apart and put together again record by record.
FRAMINGS: dict[str, type[SseDecoder | NdjsonDecoder]] = {"sse": SseDecoder, "ndjson": NdjsonDecoder}
#: How many kinds of fields there are at least, of a protocol that has few.
FEWEST = {"cohere": 50, "gemini": 80, "ollama": 15}


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from paths(item, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, dict):
        return {**value, path[0]: put(value[path[0]], path[1:], new)}
    return [put(item, path[1:], new) if at == path[0] else item for at, item in enumerate(value)]


def kind_of(value: Any, path: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the record's kind, the field's path and the type of its value. Fields of one kind are tried once."""
    at = value
    for key in path:
        at = at[key]
    inner = [value.get(name) for name in ("delta", "content_block")]
    kinds = [str(one.get("type")) if isinstance(one, dict) else "" for one in (value, *inner)]
    return (*kinds, dotted(path), type(at).__name__)


def dotted(path: tuple[Any, ...]) -> str:
    return ".".join("*" if isinstance(key, int) else key for key in path)


def played(name: str, records: list[Record]) -> str:
    """Return the text of the reply. Raises an error if the reply fails."""
    decoder = codec(name).decoder()
    deltas = [delta for record in records for delta in decoder.decode(record)]
    deltas += decoder.close()
    if isinstance(deltas[-1], ErrorDelta):
        raise ProtocolError("the record counts as an error")
    turn_of(name, deltas)
    return text(deltas)


def fatal(folder: Path, name: str) -> tuple[set[str], int]:
    """Return the fields whose wrong values end a reply or change its text, and how many fields were tried.

    Each field is tried with some of the values.
    """
    step = usually(3, 1)
    found: set[str] = set()
    seen: set[tuple[str, ...]] = set()
    for one in recordings(folder):
        framing = FRAMINGS.get(one["framing"])
        if CODECS[one["format"]] != name or framing is None or one["in_band_errors"] or not one["finish"]:
            continue
        records = framing().feed(one["bytes"])
        try:
            whole = played(name, records)
        except AprefillError:
            continue
        for number, record in enumerate(records):
            value = json.loads(record.data) if record.data[:1] == b"{" else {}
            for path in paths(value):
                kind = kind_of(value, path)
                if kind in seen:
                    continue
                seen.add(kind)
                for new in VALUES[len(seen) % step :: step]:
                    odd = Record(json.dumps(put(value, path, new)).encode(), record.event)
                    try:
                        survived = played(name, [*records[:number], odd, *records[number + 1 :]]) == whole
                    except AprefillError:
                        survived = False
                    if not survived:
                        found.add(dotted(path))
    return found, len(seen)


@pytest.mark.parametrize("name", NEEDED)
def test_no_reply_dies_of_a_field_that_no_text_needs(shared: Path, name: str) -> None:
    """A wrong value in a field that is not listed causes no error and no other text."""
    found, tried = fatal(shared / "recordings", name)
    assert tried > FEWEST.get(name, 200)
    assert found <= NEEDED[name]


def test_control_a_strict_reader_dies_of_them(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a reader that requires every field finds more fields that end a reply."""
    everything = staticmethod(lambda value: tuple(value))
    for struct in (openai_chat._Delta, openai_chat._Choice, openai_chat._Chunk):
        monkeypatch.setattr(struct, "needs", everything)
    found, _ = fatal(shared / "recordings", "openai_chat")
    assert found - NEEDED["openai_chat"]


@pytest.mark.parametrize("odd", [False, True, 0, 1.5, "x", {}, {"a": 1}], ids=repr)
def test_odd_calls_do_not_end_a_reply(odd: Any) -> None:
    """A wrong value in place of the calls, one call, its function or its arguments does not end a reply.

    Readable parts of the other calls are kept.
    """
    good = {"index": 0, "id": "i", "function": {"name": "f", "arguments": "{}"}}
    shapes = [
        odd,
        [good, {**good, "index": 1, "id": "j", "function": odd}],
        [good, {"index": 0, "function": {"arguments": odd if not isinstance(odd, str | dict) else None}}],
    ]
    for shape in shapes:
        deltas = decode("openai_chat", chunk(content="Hi", tool_calls=shape), chunk("stop"), DONE)
        assert text(deltas) == "Hi"
        if isinstance(shape, list):
            assert calls(deltas)[0] == ("i", "f", "{}")


def test_numbers_for_text_and_text_for_numbers() -> None:
    """An index given as text is used as a number, and an id given as a number is used as text."""
    pieces = [
        {"index": "1", "id": 7, "function": {"name": "f", "arguments": "{"}},
        {"index": 1, "function": {"arguments": "}"}},
    ]
    deltas = decode("openai_chat", *(chunk(tool_calls=[one]) for one in pieces), chunk("tool_calls"), DONE)
    assert calls(deltas) == {0: ("7", "f", "{}")}
    assert text(decode("openai_chat", {"choices": [{"index": "0", "delta": {"content": "Hi"}}]}, chunk("stop"))) == "Hi"
    other = {"choices": [{"index": "1", "delta": {"content": "no"}}]}
    assert text(decode("openai_chat", other, chunk("stop"))) == ""


def test_half_a_pair_in_a_fields_name() -> None:
    """Half a surrogate pair in the name of an unknown field does not end a reply."""
    reader: Reader[Any] = Reader(openai_chat._Chunk)
    assert (
        reader.read(b'{"\\ud83d": 1, "choices": [{"\\ud83d": 2, "delta": {"content": "a"}}]}').choices[0].delta.content
        == "a"
    )

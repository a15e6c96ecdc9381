"""The values that a caller gets are dataclasses that JSON, web frameworks and type readers can use."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import anyio
import msgspec
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import aprefill
from aprefill import (
    AttemptEnded,
    AttemptReport,
    AttemptStarted,
    Event,
    HeldEvent,
    ReasoningEvent,
    Reply,
    StopReason,
    Support,
    TextEvent,
    Timing,
    ToolEvent,
    Usage,
    Verdict,
)
from aprefill.testing import Script, ToolCall, serve

from .support.loopback import ask
from .support.public import MODULES, public

if TYPE_CHECKING:
    from collections.abc import Iterator
    from enum import StrEnum

REPORT = AttemptReport(
    number=1,
    provider="vllm",
    model="m",
    mode="native",
    support=Support.EATS,
    verdict=Verdict.ABSENT,
    status=200,
    usage=Usage(input_tokens=7),
    stop_reason=StopReason.END,
)
VALUES = [
    Usage(input_tokens=7, output_tokens=5),
    Timing(accepted_s=0.5),
    REPORT,
    TextEvent("a", 1, prefill=True),
    HeldEvent("a", more=True),
    ReasoningEvent("hm"),
    ToolEvent(0, "id", "f", "{}"),
    AttemptStarted(1, "native", Support.ECHOES),
    AttemptEnded(REPORT),
]


def kind(value: object) -> str:
    return type(value).__name__


def test_every_kind_is_tried() -> None:
    """The list above contains every event, the report, the usage and the timing."""
    assert {type(value) for value in VALUES} == {Usage, Timing, AttemptReport, *get_args(Event)}


@pytest.mark.parametrize("value", VALUES, ids=kind)
def test_a_value_as_a_dict(value: Any) -> None:
    """`as_dict()` has every field, also those that are None, as values that JSON can hold."""
    found = value.as_dict()
    assert list(found) == [field.name for field in dataclasses.fields(value)]
    assert json.loads(json.dumps(found)) == found


def test_what_a_dict_holds() -> None:
    """In `as_dict()`, enums are strings, nested values are dicts, and None is kept."""
    report = REPORT.as_dict()
    assert report["support"] == "eats"
    assert type(report["support"]) is type(report["verdict"]) is type(report["stop_reason"]) is str
    assert report["usage"] == {
        "input_tokens": 7,
        "output_tokens": None,
        "cache_read_tokens": None,
        "cache_write_tokens": None,
        "reasoning_tokens": None,
        "echo_tokens": None,
    }
    assert report["request_id"] is None
    assert AttemptEnded(REPORT).as_dict() == {"report": report}
    assert TextEvent("a", 1).as_dict() == {"text": "a", "offset": 1, "prefill": False}


@pytest.mark.parametrize("value", VALUES, ids=kind)
def test_a_value_is_a_frozen_dataclass(value: Any) -> None:
    """A value is immutable, hashable and equal to its copies, and other libraries see the same fields."""
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)
    assert not hasattr(value, "__dict__")
    again = pickle.loads(pickle.dumps(value))
    assert again == value == copy.deepcopy(value) == dataclasses.replace(value)
    assert hash(again) == hash(value)
    assert json.loads(msgspec.json.encode(value)) == value.as_dict()
    assert json.loads(json.dumps(dataclasses.asdict(value))) == value.as_dict()


@pytest.mark.parametrize("words", [Verdict, Support, StopReason])
def test_the_enums_are_words(words: type[StrEnum]) -> None:
    """A member of an enum is equal to its string, is printed as it, and can be encoded as JSON."""
    for member in words:
        assert member == member.value
        assert f"{member}" == str(member) == member.value
        assert json.dumps({"it": member}) == json.dumps({"it": member.value})
        assert words(member.value) is member


async def whole(**options: Any) -> tuple[Reply, list[Event]]:
    """Read a reply with text, reasoning and a tool call to its end. Return the reply and its events."""
    script = Script(
        text="abcd", cuts=1, reasoning="hm", tools=[ToolCall(name="f")], prefill="eats", input_tokens=7, output_tokens=5
    )
    async with serve(script) as server:
        reply = ask(server, "chat", prefill="> ", **options)
        return reply, [event async for event in reply.events()]


def test_fastapi_returns_them() -> None:
    """A FastAPI path operation may return the values, and may have one as its return type."""
    reply, events = anyio.run(whole)
    assert reply.usage is not None
    app = FastAPI()

    @app.get("/usage")
    def usage() -> Any:
        return {"usage": reply.usage}

    @app.get("/all")
    def everything() -> Any:
        return {
            "usage": reply.usage,
            "timing": reply.timing,
            "attempts": reply.attempts,
            "events": events,
            "words": [reply.verdict, reply.support, reply.stop_reason],
        }

    @app.get("/typed")
    def typed() -> Usage:
        assert reply.usage is not None
        return reply.usage

    @app.get("/report")
    def report() -> AttemptReport:
        return reply.attempts[0]

    client = TestClient(app)
    assert client.get("/usage").json() == {"usage": reply.usage.as_dict()}
    assert client.get("/usage").json()["usage"]["output_tokens"] == 5
    assert client.get("/typed").json() == reply.usage.as_dict()
    assert client.get("/report").json() == reply.attempts[0].as_dict()
    assert client.get("/all").json() == {
        "usage": reply.usage.as_dict(),
        "timing": reply.timing.as_dict(),
        "attempts": [one.as_dict() for one in reply.attempts],
        "events": [event.as_dict() for event in events],
        "words": ["absent", "eats", "tool_use"],
    }


@pytest.mark.anyio
@pytest.mark.parametrize("made", [True, False])
async def test_events_follow_the_reply(made: bool) -> None:
    """`events()` joins the text of one read if the reply was made with `coalesce`."""
    async with serve(Script(text="abcd", cuts=1, prefill="eats", wire_cuts=100_000)) as server:
        reply = ask(server, "chat", prefill=">", coalesce=made)
        texts = [event.text async for event in reply.events() if isinstance(event, TextEvent)]
    assert texts == ([">", "abcd"] if made else [">", "a", "b", "c", "d"])


# --- type hints -------------------------------------------------------------------------------------------------------


def without_hints(things: Iterator[tuple[str, Any]]) -> dict[str, str]:
    """Return the names whose type hints cannot be resolved, and why."""
    found = {}
    for name, thing in things:
        try:
            get_type_hints(inspect.unwrap(thing))
        except Exception as exc:
            found[name] = repr(exc)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_type_hints_of_all_that_is_public_can_be_read(name: str) -> None:
    """`typing.get_type_hints` works on every public function, class, method and property."""
    module = import_module(name)
    names = [found for found, _ in public(module)]
    assert len(names) >= len(module.__all__) / 2
    assert without_hints(public(module)) == {}


def test_the_hints_that_people_ask_for() -> None:
    """The hints of `stream`, `Session` and `Reply` are real types."""
    hints = get_type_hints(aprefill.stream)
    assert hints["return"] is Reply
    assert hints["support"] == Support | str | None
    names = [name for name, _ in public(aprefill)]
    assert {"stream", "Session.__init__", "Session.stream", "Reply.events", "Reply.usage", "dedupe"} <= {*names}
    assert get_type_hints(Reply.usage.fget)["return"] == Usage | None  # type: ignore[attr-defined]


def test_control_a_name_for_type_checkers_alone_is_found() -> None:
    """Control: the same check finds a hint whose name exists only for type checkers."""

    def function(argument: OnlyForTypeCheckers) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Does nothing."""

    assert list(without_hints(iter([("function", function)]))) == ["function"]

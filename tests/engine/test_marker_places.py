"""aprefill's markers never reach a caller in text, reasoning, arguments or the message, wherever the reply is cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import ReasoningEvent, TextEvent, ToolEvent
from aprefill._deltas import ReasoningDelta, TextDelta, ToolDelta
from aprefill._engine.splice import Splice
from aprefill._seam.markers import SHORTEST, Markers, without_markers

from ..support.bodies import STOP, block, end, event, finish, host, piece
from ..support.marked import END, LONG, NAME, run, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: What the model writes in one kind of delta, and what the caller gets.
WRITTEN = [
    (f'{{"at": "<{NAME}>here</{NAME}>"}}', '{"at": "here"}'),
    (f'{{"at": "\\u003c\\/{NAME}\\u003ehere"}}', '{"at": "here"}'),
    (f'{{"{NAME}": "<te", "b": "</t"}}', '{"": "<te", "b": "</t"}'),
    (f'{{"at": "<te<{NAME}>xt{NAME[4:]}>"}}', '{"at": ""}'),
]
CALL = ToolDelta(7, "b", "other", "{}")


@pytest.fixture(autouse=True)
def one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the markers of every request the same name."""
    monkeypatch.setattr("aprefill._plan.emulate.markers", lambda *_: (f"<{NAME}>", f"</{NAME}>"))


def pieces(raw: str) -> list[list[str]]:
    """Return `raw` whole, by character, cut in two at every place, and with every eight characters cut out."""
    return [
        [raw],
        list(raw),
        *([raw[:at], raw[at:]] for at in range(1, len(raw))),
        *([raw[:at], raw[at : at + 8], raw[at + 8 :]] for at in range(1, len(raw) - 8)),
    ]


def arguments_of(items: Sequence[Any], index: int = 0) -> str:
    return "".join(item.arguments for item in items if isinstance(item, ToolEvent) and item.index == index)


def shown_with(make: Callable[[str], Any], between: Any, written: Sequence[str]) -> list[Any]:
    """Return the events of a reply with `written` in one kind of delta, and `between` after each piece but the last."""
    parts: list[Any] = [LONG]
    for number, part in enumerate(written):
        parts += [between, make(part)] if number and between is not None else [make(part)]
    return run([*parts, END], events=True)[1]


BETWEEN = [None, TextDelta("Hello "), CALL, ReasoningDelta("Hm "), ToolDelta(7, arguments="<t")]


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize(("raw", "new"), WRITTEN)
def test_arguments(raw: str, new: str, between: Any) -> None:
    """Arguments contain no marker and lose nothing else, whatever comes between two pieces of one call."""
    for written in pieces(raw):
        items = shown_with(lambda part: ToolDelta(0, arguments=part), between, [*written])
        assert arguments_of(items) == new
        assert NAME not in repr(items)


@pytest.mark.parametrize("between", [None, TextDelta("Hello "), CALL])
@pytest.mark.parametrize(("raw", "new"), WRITTEN)
def test_reasoning(raw: str, new: str, between: Any) -> None:
    """Reasoning contains no marker.

    If another delta interrupts a marker, a part that is too short to be recognised may stay.
    """
    for written in pieces(raw):
        items = shown_with(ReasoningDelta, between, written)
        shown = "".join(item.text for item in items if isinstance(item, ReasoningEvent))
        assert NAME not in repr(items)
        assert NAME[:SHORTEST] not in shown
        # At most two partial markers of fewer than 8 characters stay, counted as JSON escapes.
        left = len(shown) - len(new)
        assert 0 <= left <= 18 * (between is not None)


@pytest.mark.parametrize("between", [None, CALL, ReasoningDelta("Hm ")])
@pytest.mark.parametrize(("raw", "new"), WRITTEN)
def test_text(raw: str, new: str, between: Any) -> None:
    """Text contains no marker and loses nothing else, also when calls and reasoning interrupt it."""
    for written in pieces(raw):
        items = shown_with(TextDelta, between, written)
        assert text_of(items) == LONG + new
        assert NAME not in repr(items)


def test_reasoning_ends_before_what_follows() -> None:
    """Reasoning that is held because it may begin a marker comes before the next text, not at the end of the reply."""
    _, items = run([ReasoningDelta("They want <t"), *f"{LONG}To", ReasoningDelta("o"), END], events=True)
    assert [item if isinstance(item, str) else item.text for item in items][:2] == ["They want ", "<t"]
    assert "".join(item.text for item in items if isinstance(item, ReasoningEvent)) == "They want <to"


@pytest.mark.parametrize("written", [raw for raw, _ in WRITTEN])
def test_what_is_shown_early_is_not_given_twice(written: str) -> None:
    """A stage that shows held text early, at any place, repeats no character and shows no part of a marker's name."""
    for at in range(len(written)):
        stage = Markers(NAME)
        before = stage.feed(written[:at])
        early = stage.show() + stage.show()
        out = before + early + stage.feed(written[at:]) + stage.close()
        plain = Markers(NAME)
        expected = plain.feed(written) + plain.close()
        assert NAME not in out
        assert len(early) < 2 * SHORTEST
        assert out in (expected, before + early + expected[len(before) :])


def test_values() -> None:
    """Markers are removed from strings and field names at any depth.

    Everything else stays, and the value that was passed in is not changed.
    """
    deep: Any = f"<{NAME}>x"
    for _ in range(20_000):
        deep = [deep]
    given = {f"a{NAME}": [1, None, True, f"</{NAME}>b", {"c": {"d": NAME[:-1]}}], "e": ("f",), "deep": deep}
    cleaned = without_markers(given, NAME)
    inner = cleaned.pop("deep")
    while isinstance(inner, list):
        inner = inner[0]
    assert inner == "x"
    assert cleaned == {"a": [1, None, True, "b", {"c": {"d": NAME[:-1]}}], "e": ("f",)}
    assert f"a{NAME}" in given


# --- the message ------------------------------------------------------------------------------------------------

SIGNED = f"They want <{NAME}>text</{NAME}>"


def records(raw: str, at: int) -> list[bytes]:
    """Return the records of a reply with the host's own blocks. The input of one block is cut at `at`."""
    found = [{"type": "web_search_result", "title": f"About <{NAME}>", "url": "u"}]
    return [
        event({"type": "message_start", "message": {"id": "m"}}),
        *(block(0, "thinking", thinking="", signature=""), piece(0, "thinking_delta", thinking=SIGNED)),
        *(piece(0, "signature_delta", signature="s0"), end(0)),
        *(
            block(1, "text", text=""),
            piece(1, "text_delta", text=f"<{NAME}>{LONG}"),
            piece(1, "text_delta", text="One"),
        ),
        *(end(1), block(2, "server_tool_use", id="s", name="web_search", input={})),
        *(piece(2, "input_json_delta", partial_json=raw[:at]), piece(2, "input_json_delta", partial_json=raw[at:])),
        end(2),
        *(block(3, "web_search_tool_result", tool_use_id="s", content=found), end(3)),
        *(block(4, "server_tool_use", id="z", name="run", input={f"k<{NAME}>": [f"</{NAME}>v"]}), end(4)),
        *(block(5, "tool_use", id="t", name=f"look{NAME}", input={}), piece(5, "input_json_delta", partial_json=raw)),
        *(end(5), block(6, "text", text=""), piece(6, "text_delta", text=f" two</{NAME}>"), end(6)),
        finish("tool_use"),
        STOP,
    ]


@pytest.mark.any_loop
@pytest.mark.anyio
@pytest.mark.parametrize(("raw", "new"), WRITTEN)
async def test_the_message(raw: str, new: str) -> None:
    """The blocks of the message contain no marker, however their input was cut.

    Only signed thinking stays unchanged.
    """
    for at in range(0, len(raw), 3):
        async with host([b"".join(records(raw, at))]) as ask:
            reply = ask("messages", prefill=LONG, support="emulated", max_tokens=99)
            events = [event async for event in reply.events()]
            assert "".join(e.text for e in events if isinstance(e, TextEvent)) == f"{LONG}One two"
            assert NAME not in repr(events)
            thought, text, *rest = reply.message["content"]
            assert thought == {"type": "thinking", "thinking": SIGNED, "signature": "s0"}
            assert text == {"type": "text", "text": f"{LONG}One"}
            assert NAME not in json.dumps(rest)
            assert rest[0]["input"] == rest[3]["input"] == json.loads(new)
            assert rest[1]["content"] == [{"type": "web_search_result", "title": "About ", "url": "u"}]
            assert rest[2]["input"] == {"k": ["v"]}
            assert (rest[3]["name"], rest[4]["text"]) == ("look", " two")


@pytest.mark.anyio
async def test_control_a_message_that_is_not_cleaned_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a message that is not cleaned fails the check."""
    monkeypatch.setattr(Splice, "clean", lambda self, message, codec: message)
    with pytest.raises(AssertionError):
        await test_the_message(*WRITTEN[0])

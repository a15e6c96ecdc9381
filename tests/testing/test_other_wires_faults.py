"""Each fault in the formats that aprefill itself does not use."""

from __future__ import annotations

import json
import re

import openai
import pytest
from anyio import create_task_group, fail_after

from aprefill.testing import Script, serve

from .asking import CALL, Reading, openai_client
from .asking_others import MODEL, PATHS, TEXT, WIRES, ask, deltas, is_whole, objects, reason, sent, turns

pytestmark = [
    pytest.mark.any_loop,
    pytest.mark.anyio,
    # the SDK leaves its own generators to the garbage collector, which trio reports
    pytest.mark.filterwarnings("ignore:Exception ignored in.*async_generator:pytest.PytestUnraisableExceptionWarning"),
]
wires = pytest.mark.parametrize("wire", WIRES)


@wires
async def test_it_ends_without_its_end(wire: str) -> None:
    """Both `no_end` and `no_done` omit the stop reason, which these formats have in the terminal record."""
    for script in (Script(text=TEXT, no_end=True), Script(text=TEXT, no_done=True)):
        text = await sent(script, wire)
        assert "".join(deltas(text, wire)) == TEXT
        assert not is_whole(text, wire)
    text = await sent(Script(text=TEXT, half_event_at_end=True), wire)
    whole = await sent(Script(text=TEXT), wire)
    assert is_whole(whole, wire)
    assert whole.startswith(text)
    rest = re.split(r"\r?\n", text)[-1]
    assert rest.startswith(('{"', 'data: {"', "event: response"))


@wires
async def test_what_closes_the_last_record_is_missing(wire: str) -> None:
    """With `no_last_blank` only the end of the last record is missing: the blank line, the line end or the bracket."""
    whole, short = await sent(Script(text=TEXT), wire), await sent(Script(text=TEXT, no_last_blank=True), wire)
    missing = {"responses": "\n", "ollama": "\n", "gemini": "\r\n", "gemini-array": "]"}
    assert short + missing[wire] == whole
    assert is_whole(whole, wire)
    assert not is_whole(short, wire)


@wires
async def test_it_talks_after_its_end(wire: str) -> None:
    """With `text_after_end` more text comes after the end of the reply."""
    whole = await sent(Script(text=TEXT), wire)
    text = await sent(Script(text=TEXT, text_after_end="More"), wire)
    assert text.startswith(whole)
    assert '"More"' in text.removeprefix(whole)


@wires
@pytest.mark.parametrize(("after", "before"), [(0, ""), (6, "Alabam"), (None, TEXT)])
async def test_an_error_event_is_the_hosts_own(wire: str, after: int | None, before: str) -> None:
    """An error event has the host's own form and comes at its place. Then the stream ends without a fault."""
    text = await sent(Script(text=TEXT, after=after, error_event=("overloaded_error", "Overloaded")), wire)
    *_, last = found = objects(text, wire)
    assert "".join(deltas(text, wire)) == before
    if wire == "responses":
        assert [one["sequence_number"] for one in found] == list(range(len(found)))
        assert (last["type"], last["error"]["code"], last["error"]["message"]) == (
            "error", "overloaded_error", "Overloaded",
        )  # fmt: skip
    elif wire == "ollama":
        assert last == {"error": "Overloaded"}
    else:
        assert last == {"error": {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}}
    if wire == "gemini-array":
        assert len(json.loads(text)) == len(found)
    assert reason(text, wire) is None


@wires
@pytest.mark.parametrize(
    ("status", "kind", "word"),
    [
        (400, "invalid_request_error", "INVALID_ARGUMENT"),
        (429, "rate_limit_error", "RESOURCE_EXHAUSTED"),
        (503, "server_error", "UNAVAILABLE"),
        (529, "server_error", "UNAVAILABLE"),
        (599, "server_error", "UNAVAILABLE"),
    ],
)
async def test_an_error_status_has_the_hosts_own_body(wire: str, status: int, kind: str, word: str) -> None:
    """An error status has the host's own body, with the usual word for the status or the script's."""
    with fail_after(10):
        async with serve([Script(status=status), Script(status=status, error=("made_up", "My words"))]) as server:
            usual, told = await ask(server, wire), await ask(server, wire)
    assert (usual.status_code, told.status_code) == (status, status)
    one, other = usual.json(), told.json()
    if wire == "gemini-array":
        [one], [other] = one, other
    if wire == "ollama":
        assert isinstance(one["error"], str)
        assert other == {"error": "My words"}
    elif wire == "responses":
        assert one["error"]["type"] == ("rate_limit_error" if status == 429 else kind)
        assert (other["error"]["type"], other["error"]["message"]) == ("made_up", "My words")
    else:
        assert (one["error"]["code"], one["error"]["status"]) == (status, word)
        assert other["error"] == {"code": status, "message": "My words", "status": "made_up"}


async def test_openai_takes_the_errors_of_responses() -> None:
    """The openai SDK raises its own errors for an error status of /responses and for an error inside a stream."""
    scripts = [
        Script(status=429, error=("rate_limit_error", "Slow down")),
        Script(text=TEXT, after=6, error_event=("server_error", "It broke")),
    ]
    got = ""
    with fail_after(10):
        async with serve(scripts) as server, openai_client(server) as client:
            with pytest.raises(openai.RateLimitError, match="Slow down"):
                await client.responses.create(model=MODEL, input="x")
            with pytest.raises(openai.APIError, match="It broke"):
                async for event in await client.responses.create(model=MODEL, input="x", stream=True):
                    got += event.delta if event.type == "response.output_text.delta" else ""
    assert got == "Alabam"


@wires
async def test_one_record_is_broken(wire: str) -> None:
    """With `bad_event` one record is not JSON, or not UTF-8, and the stream continues after it."""
    with fail_after(10):
        async with serve(
            [Script(text=TEXT, after=6, bad_event="utf8"), Script(text=TEXT, after=6, bad_event="json")]
        ) as server:
            utf8, broken = (await ask(server, wire)).content, (await ask(server, wire)).text
    assert "".join(deltas(utf8.decode(errors="replace"), wire)) == TEXT[:6] + "\ufffd" + TEXT[6:]
    assert utf8.count(b"\xff") == 1
    with pytest.raises(json.JSONDecodeError):
        if wire == "gemini-array":
            json.loads(broken)
        else:
            objects(broken, wire)
    assert '"a' in broken.partition("Alab")[2]


@wires
async def test_bytes_of_ones_own_come_between_two_records(wire: str) -> None:
    """With `insert` the given bytes come unchanged between two records."""
    text = await sent(Script(text=TEXT, after=6, insert=b"\n \n", newline="\r\n"), wire)
    before, after = text.split("\n \n")
    assert "am" in before
    assert "a" in after
    plain = await sent(Script(text=TEXT, cuts=[4, 2, 2]), wire)
    assert deltas(plain, wire)[:3] == ["Alab", "am", 'a"']


@wires
async def test_a_line_has_no_end(wire: str) -> None:
    """With `endless_line` the stream ends with this many bytes without a line end, after all of the text."""
    text = await sent(Script(text=TEXT, endless_line=50_000), wire)
    plain = await sent(Script(text=TEXT, no_end=True), wire)
    assert len(text) == len(plain) + 50_000
    assert text.startswith(plain)
    assert text.endswith("xxx")


@wires
@pytest.mark.parametrize("after", [0, 6])
async def test_what_keeps_it_alive_adds_nothing(wire: str, after: int) -> None:
    """Keep-alives anywhere leave all records complete, with the text so far."""
    script = Script(text=TEXT, keepalive_after=after, keepalive_s=0.001)
    with fail_after(10):
        async with serve(script) as server:
            async with create_task_group() as tasks:
                reading = Reading(server, wire, PATHS[wire], {"stream": True, **turns(wire, None)})
                tasks.start_soon(reading.run)
                exchange = await server.wait_exchange()
                await exchange.waiting.wait()
                text = await reading.until(exchange.sent_bytes + 3)
                tasks.cancel_scope.cancel()
            await exchange.closed.wait()
    assert exchange.outcome == "client_closed"
    assert "".join(deltas(text, wire)) == TEXT[:after]


@wires
async def test_it_stalls(wire: str) -> None:
    """A stalled stream stays silent until the client leaves."""
    with fail_after(10):
        async with serve(Script(text=TEXT, stall_after=6)) as server:
            async with create_task_group() as tasks:
                reading = Reading(server, wire, PATHS[wire], {"stream": True, **turns(wire, None)})
                tasks.start_soon(reading.run)
                exchange = await server.wait_exchange()
                await exchange.waiting.wait()
                text = await reading.until(exchange.sent_bytes)
                tasks.cancel_scope.cancel()
            await exchange.closed.wait()
    assert exchange.outcome == "client_closed"
    assert "".join(deltas(text, wire)) == "Alabam"


@pytest.mark.parametrize(("word", "code"), [("RESOURCE_EXHAUSTED", 429), ("timeout_error", 504), ("MADE_UP", 500)])
async def test_gemini_has_a_code_for_googles_own_words(word: str, code: int) -> None:
    """Gemini has an HTTP status for each of Google's own words for an error, and 500 for an unknown word."""
    text = await sent(Script(text=TEXT, error_event=(word, "No")), "gemini")
    error = objects(text, "gemini")[-1]["error"]
    assert error["code"] == code
    assert error["status"] == {"timeout_error": "DEADLINE_EXCEEDED"}.get(word, word)


async def test_responses_talk_after_a_call_in_a_message_of_its_own() -> None:
    """With `text_after_end` after a tool call, /responses sends a delta for a message, never for the tool call."""
    script = Script(text="Ab", tools=[CALL], text_after_end="More")
    text = await sent(script, "responses")
    *_, last = objects(text, "responses")
    assert (last["type"], last["delta"], last["output_index"]) == ("response.output_text.delta", "More", 2)
    assert last["item_id"].startswith("msg_")


@wires
async def test_damage_is_done_to_the_text(wire: str) -> None:
    """A fault damages the text, and not a model's name that has the same characters."""
    with fail_after(10):
        async with serve(Script(text=TEXT, after=6, bad_event="utf8", cuts=50)) as server:
            response = await ask(server, wire, model="mod\u00e9le-\ufdd1")
    assert "".join(deltas(response.content.decode(errors="replace"), wire)) == TEXT[:6] + "\ufffd" + TEXT[6:]

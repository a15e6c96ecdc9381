"""A reply as server-sent events: its records, headers, heartbeats, and requests that must not make a reply."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.responses import Response

from aprefill import Timeouts, UsageError, stream, web
from aprefill.testing import Script, ToolCall, serve

from ..conftest import LOOPS
from .site import STATES, all_of, application, claude, events_in, get, records_of, session_of, site, text_of

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS[:1])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Use one event loop. The sockets of the others are tested in test_leaving.py and test_slow.py."""
    return request.param


WHOLE = '["Alabama", "Alaska"]'


async def test_records_add_up_to_the_reply() -> None:
    """The text records add up to the reply, with offsets and the prefill first. The end record describes the reply."""
    *texts, end = await all_of(STATES)
    assert {record["type"] for record in texts} == {"text"}
    assert text_of(texts) == WHOLE
    assert texts[0] == {"type": "text", "text": '["', "offset": 0, "prefill": True, "id": 2}
    assert [record for record in texts if "prefill" in record] == texts[:1]
    assert (end["type"], end["verdict"], end["mode"], end["support"]) == ("end", "absent", "native", "eats")
    assert (end["stop_reason"], end["stop_sequence"], end["length"], end["id"]) == ("end", None, 21, 21)
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"], end["attempts"]) == (10, 5, 1)
    timing = end["timing"]
    assert 0 < timing["accepted_s"] <= timing["first_token_s"] <= timing["first_text_s"] <= timing["total_s"]


async def test_offsets_count_characters() -> None:
    """Offsets and lengths count code points, not bytes or UTF-16 units."""
    *texts, end = await all_of(Script(text="é😀\u2028\n\r\nz" * 5, cuts=1), prefill="😀")
    assert text_of(texts) == "😀" + "é😀\u2028\n\r\nz" * 5
    assert end["length"] == 36


async def test_reasoning_and_tools_only_if_asked_for() -> None:
    """Reasoning and tool calls are sent only with their options. The text records are the same in both cases."""
    script = Script(text="abc", reasoning="hmm", tools=[ToolCall(name="look_up", arguments={"year": 1819})])
    plain = await all_of(script)
    assert {record["type"] for record in plain} == {"text", "end"}
    full = await all_of(script, reasoning=True, tools=True)
    assert [record for record in full if record["type"] == "text"] == [r for r in plain if r["type"] == "text"]
    assert "".join(record["text"] for record in full if record["type"] == "reasoning") == "hmm"
    tools = [record for record in full if record["type"] == "tool"]
    assert tools[0]["name"] == "look_up"
    assert json.loads("".join(record["arguments"] for record in tools)) == {"year": 1819}


async def test_attempts_only_if_asked_for() -> None:
    """With `attempts=True` a refused request and the request after it are reported.

    The error is only its class name.
    """
    script = [Script(prefill="refuses"), Script(text="Alabama", prefill="echoes", echo_text='["')]
    async with serve(script) as provider, claude(provider) as session:
        app = application(lambda: session.stream("hi", prefill='["'), attempts=True)
        async with site(app) as here:
            attempts = [record for record in await records_of(here.url) if record["type"] == "attempt"]
    assert attempts == [
        {"type": "attempt", "number": 1, "mode": "native", "support": "eats", "id": 0},
        {
            "type": "attempt",
            "number": 1,
            "mode": "native",
            "support": "eats",
            "error": "PrefillRefused",
            "status": 400,
            "id": 0,
        },
        {"type": "attempt", "number": 2, "mode": "emulated", "support": "emulated", "id": 0},
    ]


async def test_what_is_held_only_if_asked_for() -> None:
    """With `held=True` held text is sent as it arrives, and is decided before the text record.

    `coalesce` joins it too.
    """
    script = Script(text=' "Alaska"', prefill="echoes")
    asked = {"support": "echoes", "show_when": "now"}
    plain = await all_of(script, prefill='["Alabama",', asked=asked)
    assert {record["type"] for record in plain} == {"text", "end"}
    full = await all_of(script, prefill='["Alabama",', asked=asked, held=True)
    told = [(record["text"], record.get("more", False)) for record in full if record["type"] == "held"]
    assert told == [('["Al', False), ("abam", True), ("", False)]
    assert [record["type"] for record in full][:5] == ["text", "held", "held", "held", "text"]
    assert [r for r in full if r["type"] == "text"] == [r for r in plain if r["type"] == "text"]
    script = replace(script, wire_cuts=1_000_000)
    joined = await all_of(script, prefill='["Alabama",', asked={**asked, "coalesce": True}, held=True)
    assert [record["type"] for record in joined] == ["text", "held", "text", "end"]


async def test_coalesce_is_one_frame_a_read() -> None:
    """Ten tokens of one read are one record with `coalesce`, and ten without. The prefill always has its own record."""
    script = Script(text="abcdefghij", cuts=1, wire_cuts=1_000_000)
    apart = await all_of(script)
    joined = await all_of(script, asked={"coalesce": True})
    assert text_of(apart) == text_of(joined) == '["abcdefghij'
    assert [record["text"] for record in apart[:-1]] == ['["', *"abcdefghij"]
    assert [record["text"] for record in joined[:-1]] == ['["', "abcdefghij"]


async def test_coalesce_keeps_the_order_of_other_events() -> None:
    """With `coalesce`, text does not overtake reasoning or tool calls."""
    script = Script(text="abcd", cuts=1, reasoning="hm", tools=[ToolCall(name="f")], wire_cuts=1_000_000)
    records = await all_of(script, asked={"coalesce": True}, reasoning=True, tools=True)
    kinds = [record["type"] for record in records]
    assert kinds.count("text") == 2
    assert kinds.index("reasoning") < kinds.index("tool")
    assert [r["text"] for r in records if r["type"] == "text"] == ['["', "abcd"]


@pytest.mark.parametrize("show", [{"show_when": "never"}, {"show_from": 1}])
async def test_a_hidden_prefill_counts_in_the_offsets(show: dict[str, Any]) -> None:
    """Offsets are positions in the whole reply, even if the prefill is hidden."""
    *texts, end = await all_of(STATES, asked=show)
    assert texts[0]["offset"] == show.get("show_from", 2)
    assert end["length"] == end["id"] == 21


async def test_the_head_of_the_response() -> None:
    """The response has headers that stop proxies from buffering, and the caller's own headers."""
    async with serve(STATES) as provider, session_of(provider) as session:
        app = application(lambda: session.stream("hi"), headers={"x-mine": "1"})
        async with site(app) as here:
            response = await get(f"{here.url}/sse")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-mine"] == "1"
    assert "content-length" not in response.headers


# --- time -----------------------------------------------------------------------------------------------------


async def test_heartbeats_while_the_model_is_silent() -> None:
    """While the model is silent the client gets comments, and they do not change the text."""
    script = Script(text="one two three", cuts=4, pace_s=0.06)
    records = await all_of(script, heartbeat_s=0.02)
    kinds = [record["type"] for record in records]
    assert text_of([record for record in records if record["type"] == "text"]) == '["one two three'
    assert kinds.count("comment") >= 4
    assert kinds[-1] == "end"
    quiet = await all_of(script, heartbeat_s=None)
    assert "comment" not in [record["type"] for record in quiet]


async def test_heartbeats_do_not_feed_the_replys_clocks() -> None:
    """Heartbeats do not restart the reply's timeouts: a model that stalls is still `Stalled`."""
    script = Script(text="one two three", cuts=4, stall_after=4)
    *_, error = await all_of(script, heartbeat_s=0.02, asked={"timeouts": Timeouts(progress_s=0.2)})
    assert error["error"] == "Stalled"


@pytest.mark.parametrize("held", [False, True])
async def test_what_is_held_begins_no_response(held: bool) -> None:
    """Held text does not begin the response, so an error while text is held is still an HTTP status."""
    script = Script(text="x", prefill="echoes", after=6, error_event=("overloaded_error", "Overloaded"))
    async with serve(script) as provider, session_of(provider, support="echoes", show_when="decided") as session:
        async with site(application(lambda: session.stream("hi", prefill='["Alabama",'), held=held)) as here:
            response = await get(f"{here.url}/sse")
    assert (response.status_code, response.json()["error"]) == (503, "StatusError")


async def test_a_response_can_begin_before_the_model_does() -> None:
    """With `begin_after_s` the status is sent before any record, heartbeats follow, and a later error is a record."""
    script = Script(status=500, first_byte_s=0.2)
    for begin_after_s in (0, 0.05):
        records = await all_of(script, begin_after_s=begin_after_s, heartbeat_s=0.04)
        kinds = [record["type"] for record in records]
        assert kinds.count("comment") >= 2
        assert records[-1]["error"] == "StatusError"
    records = await all_of(STATES, begin_after_s=0, attempts=True)
    # the first record is about the request that is sent
    assert [record["type"] for record in records[:3]] == ["attempt", "text", "text"]


@pytest.mark.parametrize("option", ["heartbeat_s", "send_timeout_s", "begin_after_s"])
async def test_seconds_are_checked(option: str) -> None:
    """A negative time raises `UsageError` when the response is made."""
    with pytest.raises(UsageError, match=option):
        web.sse(stream("hi", model="demo:eats"), **{option: -1})


# --- requests that must not cost a reply ----------------------------------------------------------------------


async def test_a_reconnecting_reader_is_told_to_stop() -> None:
    """A request with Last-Event-ID gets 204 and asks no model, unless `reconnects=True`."""
    async with serve(STATES) as provider, session_of(provider) as session:
        for reconnects, status in ((False, 204), (True, 200)):
            async with site(application(lambda: session.stream("hi"), reconnects=reconnects)) as here:
                response = await get(f"{here.url}/sse", headers={"Last-Event-ID": "5"})
            assert response.status_code == status
            assert len(provider.exchanges) == reconnects


async def test_head_asks_no_model() -> None:
    """A HEAD request, which Starlette sends to the GET endpoint, asks no model."""
    async with serve(STATES) as provider, session_of(provider) as session:
        async with site(application(lambda: session.stream("hi"))) as here, httpx2.AsyncClient() as client:
            response = await client.head(f"{here.url}/sse")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert provider.exchanges == []


async def test_the_connection_is_kept_for_the_next_request() -> None:
    """After a complete response, the client's and the provider's connections are used again."""
    async with serve(STATES) as provider, session_of(provider) as session:
        async with site(application(lambda: session.stream("hi"))) as here, httpx2.AsyncClient() as client:
            for _ in range(3):
                response = await client.post(f"{here.url}/sse", content=b"x" * 200_000)
                assert events_in(response.content)[-1]["type"] == "end"
        assert provider.connections == 1


async def test_fastapi_takes_it_as_a_response() -> None:
    """A FastAPI path operation with a JSON body can return the response."""
    app = FastAPI()
    async with serve(STATES) as provider, session_of(provider) as session:

        @app.post("/sse")
        async def chat(asked: dict[str, str]) -> Response:
            return web.sse(session.stream(asked["prompt"], prefill=asked["prefill"]))

        async with site(app) as here, httpx2.AsyncClient() as client:
            response = await client.post(f"{here.url}/sse", json={"prompt": "hi", "prefill": '["'})
    assert text_of(events_in(response.content)) == WHOLE


async def test_lines_are_lines_for_everybody() -> None:
    """A reader that splits lines at U+2028, U+2029 and U+0085, as `str.splitlines` does, still finds whole records."""
    text = "a\u2028b\u2029c\u0085d"
    async with serve(Script(text=text, cuts=50)) as provider, session_of(provider) as session:
        async with site(application(lambda: session.stream("hi"))) as here:
            body = (await get(f"{here.url}/sse")).text
    records = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
    assert records[0]["text"] == text


async def test_headers_of_ones_own_are_there_once() -> None:
    """The caller's header replaces the default in any letter case. A content-length is refused."""
    async with serve(Script(text="one")) as provider, session_of(provider) as session:
        headers = {"Cache-Control": "no-store", "X-Own": "1"}
        async with site(application(lambda: session.stream("hi"), headers=headers)) as here:
            response = await get(f"{here.url}/sse")
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert response.headers["x-own"] == "1"
        with pytest.raises(UsageError, match="content-length"):
            web.sse(session.stream("hi"), headers={"Content-Length": "3"})


def test_a_session_is_not_needed() -> None:
    """The response can be made without a session and outside of an event loop."""
    response = web.sse(stream("hi", model="demo:eats"))
    response.set_cookie("seen", "1")
    assert isinstance(response, Response)


def test_without_the_extra_it_says_what_to_install() -> None:
    """Without Starlette, `aprefill.web` says what to install, and the rest of the package still imports."""
    code = "import sys; sys.modules['starlette'] = None; from aprefill import stream; import aprefill.web"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'aprefill[web]'" in done.stderr.splitlines()[-1]

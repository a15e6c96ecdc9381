"""Event streams: one client per reply, replies that are ended early, and the background task."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx2
import pytest
from starlette.background import BackgroundTask

from aprefill import ConnectFailed, UsageError, stream, web
from aprefill._records import Records
from aprefill.testing import Script, serve

from ..conftest import LOOPS
from .site import STATES, Raw, application, events_in, get, session_of, site

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS[:1])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Use one event loop. The sockets of the others are tested in test_leaving.py and test_slow.py."""
    return request.param


@pytest.mark.parametrize("waits", ["for the model", "for its client"])
async def test_two_readers_of_one_reply(waits: str) -> None:
    """If two clients get the same reply, the second gets an error, and the first gets all of its text."""
    if waits == "for its client":
        script = Script(text="word " * 200_000, cuts=4000, pace_s=0.0001)
        async with serve(script) as provider, session_of(provider) as session:
            reply = session.stream("hi")
            async with site(application(lambda: reply)) as here:
                first = await Raw.open(here, "/sse")
                await first.read_until(b'"offset":0')
                second = await get(f"{here.url}/sse")
                assert (second.status_code, second.json()["error"]) == (500, "UsageError")
                await first.read_until(b"event: end")
            assert reply.text_so_far == script.text
        return
    async with serve(Script(text="one two three", cuts=4, pace_s=0.05)) as provider, session_of(provider) as session:
        reply = session.stream("hi")
        async with site(application(lambda: reply)) as here:
            first = await Raw.open(here, "/sse")
            await first.read_until(b'"offset":4')
            second = await get(f"{here.url}/sse")
            assert (second.status_code, second.json()["error"]) == (500, "UsageError")


async def test_a_server_that_ends_its_replies() -> None:
    """If the server closes its replies, as at a shutdown, the client gets an error record that can be continued."""
    script = Script(text="one two three", cuts=4, stall_after=4)
    async with serve(script) as provider, session_of(provider) as session:
        async with site(application(lambda: session.stream("hi"))) as here:
            client = await Raw.open(here, "/sse")
            await client.read_until(b'"one "')
            await session.aclose()
            await client.read_until(b"event: error")
            await client.read_until(b"}\n\n")
    error = json.loads(client.seen.rpartition(b"data: ")[2].partition(b"\n")[0])
    assert (error["error"], error["can_continue"], error["length"]) == ("ReplyClosed", True, 4)
    assert error["message"] == "the server has ended the reply"


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_uvicorn_ends_its_replies(http: str) -> None:
    """When uvicorn cancels a response at its shutdown, the client gets a last record and the end of the body."""
    script = Script(text="one two three", cuts=4, stall_after=4)
    async with serve(script) as provider, session_of(provider) as session:
        async with site(application(lambda: session.stream("hi")), http=http) as here:
            client = await Raw.open(here, "/sse")
            await client.read_until(b'"one "')
            for task in here.server.server_state.tasks:
                task.cancel("as uvicorn does")
            await client.read_until(b"0\r\n\r\n")
            await provider.exchanges[0].closed.wait()
    assert b'"error":"ReplyClosed"' in client.seen
    assert b'"can_continue":true' in client.seen


async def test_a_reply_that_was_read_already() -> None:
    """A reply that was read to its end is an error. Of a partly read reply the rest is sent."""
    async with serve(Script(text="one two", cuts=4)) as provider, session_of(provider) as session:
        replies: list[Any] = []
        async with site(application(lambda: replies[0])) as here, session.stream("hi") as reply:
            replies.append(reply)
            assert await reply.text() == "one two"
            response = await get(f"{here.url}/sse")
            assert (response.status_code, response.json()["error"]) == (500, "ReplyConsumed")
        async with site(application(lambda: replies[0])) as here, session.stream("hi") as reply:
            replies[0] = reply
            assert await anext(aiter(reply)) == "one "
            *texts, end = events_in((await get(f"{here.url}/sse")).content)
    assert [(record["text"], record["offset"]) for record in texts] == [("two", 4)]
    assert end["type"] == "end"


async def test_a_host_that_is_not_trusted() -> None:
    """After a connection error that would happen again, such as an untrusted certificate, `can_continue` is false."""
    error = ConnectFailed("https://llm.example", "its certificate is not trusted", may_pass=False)
    records = Records(
        stream("hi", model="demo:eats"), reasoning=False, tools=False, attempts=False, held=False, details=False
    )
    assert records.error(error).can_continue is False
    assert records.error(ConnectFailed("https://llm.example", "refused")).can_continue is True


def test_what_is_no_reply() -> None:
    """`sse()` raises `UsageError` at once for an argument that is not a reply."""
    with pytest.raises(UsageError, match="reply=str"):
        web.sse("a text")


@pytest.mark.parametrize("stays", [True, False])
async def test_the_background_task_runs_afterwards(stays: bool) -> None:
    """The background task runs after the reply was closed, also after a disconnect, and sees the text so far."""
    script = Script(text="one two three", cuts=4, stall_after=None if stays else 8)
    done = anyio.Event()
    saved: list[Any] = []
    async with serve(script) as provider, session_of(provider) as session:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            reply = session.stream("hi", prefill="zero ")

            async def save() -> None:
                saved.extend([reply.text_so_far, reply.stop_reason.value if reply.stop_reason else None])
                done.set()

            await web.sse(reply, background=BackgroundTask(save))(scope, receive, send)

        async with site(app) as here:
            client = await Raw.open(here, "/")
            await client.read_until(b'"type":"end"' if stays else b'"offset":9')
            client.fin()
            with anyio.fail_after(2):
                await done.wait()
    assert saved == (["zero one two three", "end"] if stays else ["zero one two ", "cancelled"])


async def test_no_background_where_no_model_was_asked() -> None:
    """The background task does not run after a 204 or a HEAD request."""
    ran: list[str] = []
    async with serve(STATES) as provider, session_of(provider) as session:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            background = BackgroundTask(ran.append, scope["method"])
            await web.sse(session.stream("hi"), background=background)(scope, receive, send)

        async with site(app) as here, httpx2.AsyncClient() as client:
            assert (await client.get(here.url, headers={"Last-Event-ID": "5"})).status_code == 204
            assert (await client.head(here.url)).status_code == 200
            assert ran == []
            await client.get(here.url)
        assert ran == ["GET"]

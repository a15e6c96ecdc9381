"""The recipe "A chat over one WebSocket", run as printed on a real uvicorn."""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import websockets

from aprefill.testing import Script, serve

from ..conftest import LOOPS
from ..support.pages import changed, lead_to, recipe
from .site import site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

(CHAT,) = recipe("A chat over one WebSocket")
FIRST = {"role": "user", "content": "Name a city in Norway."}
SECOND = {"role": "user", "content": "How many people live there?"}
KEEP_ON = "        if not await web.websocket(ws, reply, keep_open=True):\n            break  # the client has left\n"


@pytest.fixture(params=LOOPS[:2])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """uvicorn runs on asyncio and on uvloop."""
    return request.param


@asynccontextmanager
async def chat(
    code: str, *scripts: Script, monkeypatch: pytest.MonkeyPatch, ws: str = "websockets-sansio"
) -> AsyncIterator[tuple[Any, Any]]:
    """Serve the recipe's application. Yields the loopback host and the URL of the chat."""
    space: dict[str, Any] = {"__name__": "chat"}
    exec(compile(code, "recipe", "exec"), space)
    async with serve(scripts) as provider:
        lead_to({"anthropic": provider.url}, monkeypatch)
        async with site(space["app"], ws=ws) as here:
            yield provider, here.ws_url.replace("/ws", "/chat")


async def ask(client: Any, prompt: str) -> tuple[str, dict[str, Any]]:
    """Send one prompt. Return the text of the reply and its last record."""
    await client.send(prompt)
    text = ""
    with anyio.fail_after(20):
        while True:
            record = json.loads(await client.recv())
            if record["type"] in {"end", "error"}:
                return text, record
            text += record.get("text", "")


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
async def test_two_prompts_on_one_connection(ws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both prompts are answered, and the second request contains the first turn."""
    oslo, many = Script(text="Oslo."), Script(text="About 700,000.")
    async with chat(CHAT, oslo, many, monkeypatch=monkeypatch, ws=ws) as (provider, url):
        async with websockets.connect(url) as client:
            text, end = await ask(client, FIRST["content"])
            assert (text, end["type"]) == ("Oslo.", "end")
            text, end = await ask(client, SECOND["content"])
            assert (text, end["type"]) == ("About 700,000.", "end")
        turn = {"role": "assistant", "content": "Oslo."}
        assert [one.messages for one in provider.exchanges] == [[FIRST], [FIRST, turn, SECOND]]


async def test_control_an_endpoint_that_returns_after_the_first_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: if the endpoint returns after the first reply, the second prompt is not answered."""
    code = changed(CHAT, KEEP_ON, "        return await web.websocket(ws, reply)\n")
    async with chat(code, Script(text="Oslo."), monkeypatch=monkeypatch) as (provider, url):
        async with websockets.connect(url) as client:
            await ask(client, FIRST["content"])
            with pytest.raises(websockets.ConnectionClosed):
                await ask(client, SECOND["content"])
        assert len(provider.exchanges) == 1


async def leaves_in_the_second_reply(code: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Disconnect in the second reply. Return the outcome of that request to the provider, at most a second later."""
    silent = Script(text="About 700,000.", cuts=6, stall_after=6)
    async with chat(code, Script(text="Oslo."), silent, monkeypatch=monkeypatch) as (provider, url):
        async with websockets.connect(url) as client:
            await ask(client, FIRST["content"])
            await client.send(SECOND["content"])
            assert json.loads(await client.recv())["text"] == "About "
            exchange = provider.exchanges[1]
            await exchange.waiting.wait()
            assert exchange.outcome == "open"
        with anyio.move_on_after(1):
            await exchange.closed.wait()
        return exchange.outcome


async def test_the_client_leaves_in_the_second_reply(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The provider sees the close, and the endpoint ends without an error."""
    assert await leaves_in_the_second_reply(CHAT, monkeypatch) == "client_closed"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_control_an_endpoint_that_reads_on_after_the_client_has_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Control: the same check finds the error of an endpoint that ignores the return value of `web.websocket`."""
    code = changed(CHAT, KEEP_ON, "        await web.websocket(ws, reply, keep_open=True)\n")
    await leaves_in_the_second_reply(code, monkeypatch)
    assert [record for record in caplog.records if record.levelname == "ERROR"] != []


async def test_control_a_reply_that_hears_nothing_of_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the same check finds a connection to the provider that stays open."""
    monkeypatch.setattr("aprefill.web._websocket._SocketChannel.listen", lambda self: anyio.sleep(math.inf))
    assert await leaves_in_the_second_reply(CHAT, monkeypatch) == "open"


async def test_a_failed_reply_does_not_end_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed reply without text adds no turn to the conversation. A reply that was cut adds its text."""
    scripts = Script(status=400), Script(text="Oslo, the", no_end=True), Script(text="About 700,000.")

    async def messages_of(code: str) -> Any:
        async with chat(code, *scripts, monkeypatch=monkeypatch) as (provider, url):
            async with websockets.connect(url) as client:
                assert (await ask(client, FIRST["content"]))[1]["error"] == "StatusError"
                assert (await ask(client, FIRST["content"]))[1]["error"] == "Truncated"
                assert (await ask(client, SECOND["content"]))[0] == "About 700,000."
            return provider.exchanges[-1].messages

    wanted = [FIRST, {"role": "assistant", "content": "Oslo, the"}, SECOND]
    assert await messages_of(CHAT) == wanted
    assert await messages_of(changed(CHAT, " if reply.text_so_far else messages", "")) != wanted


async def test_what_comes_during_a_reply_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop ends the reply and keeps its text.

    Another prompt during the reply is dropped. The next prompt is answered.
    """
    silent = Script(text="Oslo, the capital", cuts=5, stall_after=5)
    async with chat(CHAT, silent, Script(text="About 700,000."), monkeypatch=monkeypatch) as (provider, url):
        async with websockets.connect(url) as client:
            await client.send(FIRST["content"])
            assert json.loads(await client.recv())["text"] == "Oslo,"
            await client.send("Too early.")
            _, end = await ask(client, '{"type": "stop"}')
            assert end["stop_reason"] == "cancelled"
            assert (await ask(client, SECOND["content"]))[0] == "About 700,000."
        assert provider.exchanges[-1].messages == [FIRST, {"role": "assistant", "content": "Oslo,"}, SECOND]


async def test_a_foreign_page_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first prompt of a page with another origin closes the connection, and no model is asked."""
    async with chat(CHAT, Script(text="Oslo."), monkeypatch=monkeypatch) as (provider, url):
        async with websockets.connect(url, origin="https://evil.example") as client:
            with pytest.raises(websockets.ConnectionClosed):
                await ask(client, FIRST["content"])
            assert client.close_code == 1008
        assert provider.exchanges == []


def test_the_recipe_is_short() -> None:
    """The recipe has at most 15 lines, because the README prints it too."""
    assert len(CHAT.splitlines()) <= 15

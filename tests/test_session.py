"""Message history, sessions, and the caller's own clients."""

from __future__ import annotations

import warnings
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from aprefill import ReplyClosed, Session, UsageError, stream
from aprefill.testing import Script, serve

from .support.loopback import QUESTION, STATES, WHOLE, WIRES, ask, server_has

pytestmark = pytest.mark.anyio

# --- messages, history ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_a_trailing_assistant_turn_is_the_prefill(wire: str) -> None:
    """If the last message is the assistant's, it is the prefill. With `prefill=` as well, it is a `UsageError`."""
    prompt = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": '["'}]
    async with serve(STATES) as server:
        assert await ask(server, wire, prompt=prompt).text() == WHOLE
        with pytest.raises(UsageError, match="keep one"):
            ask(server, wire, prompt=prompt, prefill="x")


@pytest.mark.parametrize("wire", WIRES)
async def test_the_second_turn_carries_the_first_whole(wire: str) -> None:
    """`message` is the assistant's turn for the next request, with the whole prefill even if it was hidden."""
    async with serve(STATES) as server:
        for show_when in ("accepted", "never"):
            first = ask(server, wire, prefill='["', show_when=show_when)
            await first.text()
            history = [{"role": "user", "content": QUESTION}, first.message, {"role": "user", "content": "more"}]
            await ask(server, wire, prompt=history, prefill="[").text()
            sent = server.exchanges[-1].messages
            assert sent[1] == {"role": "assistant", "content": WHOLE}


# --- sessions and clients ---------------------------------------------------------------------------------------------


async def test_a_session_has_one_pool_and_the_same_defaults() -> None:
    """A session has one connection pool. Its defaults apply unless an argument is given; None is an argument too."""
    async with serve(STATES) as server:
        session = Session("openai:m", base_url=server.openai_url, support="eats", max_tokens=9, system="be brief")
        async with session:
            await session.stream("a", prefill='["').text()
            await session.stream("b", max_tokens=5, system=None).text()
        first, second = server.exchanges
        assert server.connections == 1
        assert (first.json["max_completion_tokens"], first.messages[0]) == (
            9,
            {"role": "system", "content": "be brief"},
        )
        assert (second.json["max_completion_tokens"], second.messages[0]["role"]) == (5, "user")
        with pytest.raises(UsageError, match="closed"):
            session.stream("c")
        with anyio.fail_after(2):
            await server.wait_closed()


def test_a_session_belongs_to_one_loop() -> None:
    """Using a session in another event loop raises `UsageError` before anything is sent."""
    session = Session("demo:eats")

    async def ask_once() -> str:
        return await session.stream("states").text()

    anyio.run(ask_once)
    with pytest.raises(UsageError, match="another event loop"):
        anyio.run(ask_once)


async def test_closing_a_session_ends_its_replies() -> None:
    """When a session is closed, a waiting reader gets `ReplyClosed` with the text so far."""
    async with serve(Script(text="abcd", stall_after=4)) as server:
        session = Session("openai:m", base_url=server.openai_url)
        errors: list[ReplyClosed] = []

        async def read() -> None:
            try:
                await session.stream("a").text()
            except ReplyClosed as exc:
                errors.append(exc)

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await server_has(server, 1)
            with anyio.fail_after(2):
                await server.exchanges[0].waiting.wait()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            await session.aclose()
        assert [error.text_so_far for error in errors] == ["abcd"]
        with anyio.fail_after(2):
            await server.wait_closed()


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
async def test_a_callers_client_is_used_and_stays_open(library: Any) -> None:
    """A client of httpx2 or httpx is used and stays open. Its timeouts do not apply."""
    async with serve(STATES) as server, library.AsyncClient(timeout=0.000001) as client:
        reply = stream("hi", prefill='["', model="m", client=client, base_url=server.openai_url, support="eats")
        assert await reply.text() == WHOLE
        async with Session("m", client=client, base_url=server.openai_url) as session:
            await session.stream("hi").text()
        assert not client.is_closed
        assert server.connections == 1


async def test_a_mock_transport_has_no_socket_to_shut_down() -> None:
    """With a mock transport, which has no socket, leaving the reply closes the response soon after."""
    closed: list[bool] = []

    class Body(httpx2.AsyncByteStream):
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> bytes:
            await anyio.lowlevel.checkpoint()
            return b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'

        async def aclose(self) -> None:
            closed.append(True)

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        async for chunk in stream("hi", model="m", client=client, base_url="https://host.test/v1"):
            assert chunk == "x"
            break
        with anyio.fail_after(2):
            while not closed:
                await anyio.lowlevel.checkpoint()


async def test_the_demo_model_needs_no_network() -> None:
    """The demo models give the same text without a network."""
    for model in ("demo:eats", "demo:echoes"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            text = await stream(QUESTION, prefill='["', model=model).text()
        assert text.startswith('["Alabama", "Alaska"')
        assert text.endswith('"Wyoming"]')

"""Every transport keeps the transport contract on every event loop, and the checks find one that does not."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from aprefill._codecs import codec
from aprefill._json import to_bytes
from aprefill._transports import HttpRequest
from aprefill._transports.demo import DemoTransport
from aprefill._transports.http import HttpTransport
from aprefill._transports.sdk import SdkTransport
from aprefill.testing import Script, serve

from ..support import contracts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aprefill._transports import Response, Transport

TEXT = "one, two, three, four. " * 40


def request_of(protocol: str, base_url: str, **more: Any) -> HttpRequest:
    """Return the request that the engine would send for this protocol."""
    it = codec(protocol)
    asked = contracts.model_input(**{"model": "eats", "max_tokens": 400, **more})
    path = it.path(asked)
    return HttpRequest(
        url=base_url + path,
        headers={"accept": it.accept, "content-type": "application/json", **it.auth(contracts.KEY, "bearer")},
        body=to_bytes(it.encode(asked)),
        path=path,
        connect_s=5.0,
    )


def refused() -> HttpRequest:
    """Return a request that the demo model answers with an error."""
    prefilled = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "["})
    return request_of("openai_chat", "demo:", model="refuses", messages=prefilled)


@asynccontextmanager
async def over(name: str, *scripts: Script) -> AsyncIterator[tuple[Transport, HttpRequest]]:
    """Yield a transport and a request for it. The requests are answered as `scripts` say."""
    if name == "demo":
        yield DemoTransport(), request_of("openai_chat", "demo:")
        return
    async with serve(*scripts) as server:
        if name == "http":
            transport = HttpTransport()
            yield transport, request_of("openai_chat", f"{server.url}/v1")
            await transport.aclose()
        elif name == "openai":
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=contracts.KEY) as client:
                yield SdkTransport(client), request_of("openai_chat", f"{server.url}/v1")
        else:
            async with anthropic.AsyncAnthropic(base_url=server.url, api_key=contracts.KEY) as client:
                yield SdkTransport(client), request_of("anthropic_messages", server.url)


TRANSPORTS = pytest.mark.parametrize("name", ["http", "openai", "anthropic", "demo"])
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("small_ca")]


@TRANSPORTS
async def test_a_whole_response(name: str) -> None:
    """A response has its head and its whole body, and its `repr` and URL contain no key."""
    async with over(name, Script(text=TEXT)) as (transport, request):
        assert b"data: " in await contracts.gives_a_whole_response(transport, request)


@TRANSPORTS
async def test_closing_early(name: str) -> None:
    """A response that is closed before its end does not prevent the next request."""
    async with over(name, Script(text=TEXT)) as (transport, request):
        await contracts.closes_before_the_end(transport, request)


@TRANSPORTS
@pytest.mark.parametrize("status", [302, 400, 503])
async def test_an_error_is_a_response(name: str, status: int) -> None:
    """An error status is a response, not an exception, and a redirect is not followed."""
    if name == "demo":
        await contracts.gives_an_error_as_a_response(DemoTransport(), refused(), 400)
        return
    script = Script(status=status, body=b"no", content_type="text/plain", headers={"location": "https://host.test/"})
    async with over(name, script) as (transport, request):
        await contracts.gives_an_error_as_a_response(transport, request, status)


@TRANSPORTS
async def test_closing_a_transport(name: str) -> None:
    """A transport can be closed more than once, with or without a request before."""
    async with over(name, Script(text=TEXT)) as (transport, _):
        await contracts.closes_twice(transport)
    async with over(name, Script(text=TEXT)) as (transport, request):
        await contracts.gives_a_whole_response(transport, request)
        await contracts.closes_twice(transport)


# --- the control ----------------------------------------------------------------------------------------------


class Broken:
    """The demo's transport with one fault."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._inner = DemoTransport()
        self._closed = False

    async def open(self, request: HttpRequest) -> Response:
        response: Any = await self._inner.open(request)
        if self._what == "headers":
            response.headers = {"Content-Type": "text/event-stream", "content-type": "text/event-stream"}
        elif self._what == "url":
            response.url = lambda: f"https://host.test/?key={contracts.KEY}"
        elif self._what == "status":
            response.status = 500
        elif self._what == "error":
            response.status = 200
        elif self._what == "kill":
            response.kill = lambda: True
        return response  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        assert not self._closed
        self._closed = True


@pytest.mark.parametrize("what", ["headers", "url", "status", "kill", "aclose", "error"])
async def test_control_a_broken_transport_is_found(what: str) -> None:
    """Control: each fault fails one of the checks."""
    request = request_of("openai_chat", "demo:")
    with pytest.raises(AssertionError):
        if what == "error":
            await contracts.gives_an_error_as_a_response(Broken(what), refused(), 400)
        elif what == "aclose":
            await contracts.closes_twice(Broken(what))
        elif what == "kill":
            await contracts.closes_before_the_end(Broken(what), request)
        else:
            await contracts.gives_a_whole_response(Broken(what), request)

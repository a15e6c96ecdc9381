"""The server's life: what it records, what it sees of its clients, and that nothing is left when it ends."""

from __future__ import annotations

import builtins
import json
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from anyio import fail_after
from anyio.streams.tls import TLSStream

import aprefill.testing
from aprefill._errors import UsageError
from aprefill.testing import Exchange, Received, Script, Server, serve, serve_in_thread

from .asking import PATHS, ask, body, client_of, deltas

if TYPE_CHECKING:
    from anyio.abc import ByteStream

pytestmark = pytest.mark.anyio

REQUEST = json.dumps(body()).encode()
#: One whole request, as bytes.
POST = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(REQUEST) + REQUEST


async def connect(server: Server) -> ByteStream:
    """Return a raw connection to the server, with TLS if the server uses it."""
    stream = await anyio.connect_tcp("127.0.0.1", server.port)
    if server.ssl_context is None:
        return stream
    return await TLSStream.wrap(stream, hostname="127.0.0.1", ssl_context=server.ssl_context, standard_compatible=False)


# --- what it records ------------------------------------------------------------------------------------------


async def test_it_records_what_it_was_asked() -> None:
    """Every request is recorded in order, with lower-case header names, the raw and decoded body, and the prefill."""
    with fail_after(10):
        async with serve(Script(text="x")) as server:
            await ask(server, "anthropic", '["')
            await ask(server, "openai", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
            await ask(server, "openai")
    first, second, third = server.exchanges
    assert (first.index, first.method, first.path) == (0, "POST", "/v1/messages")
    assert first.headers["content-type"] == "application/json"
    assert json.loads(first.body) == first.json == body('["')
    assert [e.prefill for e in server.exchanges] == ['["', "ab", ""]
    assert (third.last_user_text, third.ends_with_assistant) == ("Name two states.", False)
    assert [e.connection for e in server.exchanges] == [1, 2, 3]
    assert first.started_at < second.started_at < third.started_at
    assert {e.outcome for e in server.exchanges} == {"complete"}


async def test_what_is_no_chat_request_is_recorded_too() -> None:
    """A request that is not a chat request is recorded too, and no body causes an error in the server."""
    bodies = [
        b"",
        b"{",
        b"\xff",
        b"[1]",
        b'{"messages": 7}',
        b'{"messages": ["x", {"role": "assistant"}], "stop": 1}',
    ]
    with fail_after(10):
        async with serve(Script(text="x")) as server, client_of(server) as client:
            for content in bodies:
                response = await client.post(server.url + PATHS["openai"], content=content)
                assert response.status_code == 200
    assert [e.json for e in server.exchanges[:3]] == [None, None, None]
    assert {e.prefill for e in server.exchanges} == {""}


async def test_no_repr_holds_a_key_or_a_prompt() -> None:
    """No repr contains a key or a prompt, because tests print what they compare."""
    with fail_after(10):
        async with serve(Script(text="x")) as server, client_of(server) as client:
            await client.post(server.url + PATHS["openai"], json=body("secret"), headers={"x-api-key": "secret"})
            assert "secret" not in f"{server!r} {server.exchanges!r}"
            assert "/v1/chat/completions" in repr(server.exchanges[0])


async def test_a_connection_is_kept_for_the_next_request() -> None:
    """A connection is kept for the client's next request, and closes when the client closes it."""
    with fail_after(10):
        async with serve(Script(text="x")) as server:
            async with client_of(server) as client:
                for wire in ("anthropic", "openai", "anthropic"):
                    await client.post(server.url + PATHS[wire], json=body())
                assert (server.connections, server.open_connections) == (1, 1)
                assert not server.exchanges[0].closed.is_set()
            await server.wait_closed()
            assert (server.connections, server.open_connections) == (1, 0)
            assert all(e.closed.is_set() and e.closed_at for e in server.exchanges)


async def test_requests_sent_together_are_answered_in_turn() -> None:
    """Requests that are sent together (pipelining) or cut anywhere are answered in order."""
    with fail_after(10):
        async with serve(Script(text="x", framing="length")) as server:
            stream = await connect(server)
            async with stream:
                await stream.send(POST[:70])
                await stream.send(POST[70:] + POST)
                assert await server.wait_exchange(1)
                await server.exchanges[1].done.wait()
    assert [e.outcome for e in server.exchanges] == ["complete", "complete"]


async def test_a_client_may_wait_for_100_continue() -> None:
    """A client can wait for "100 Continue", as curl does with a long prompt."""
    with fail_after(10):
        async with serve(Script(text="x")) as server:
            async with await connect(server) as stream:
                await stream.send(POST.replace(b"host: x", b"host: x\r\nexpect: 100-continue").removesuffix(REQUEST))
                assert await stream.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
                await stream.send(REQUEST)
                assert (await stream.receive()).startswith(b"HTTP/1.1 200 OK")


async def test_what_is_not_http_gets_a_400() -> None:
    """Input that is not HTTP gets a 400, and the connection ends."""
    with fail_after(10):
        async with serve(Script(text="x")) as server:
            async with await connect(server) as stream:
                await stream.send(b"EHLO example.org\r\n\r\n")
                answer = b"".join([data async for data in stream])
            await server.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert server.exchanges == []


# --- which script is played -----------------------------------------------------------------------------------


async def test_a_sequence_is_one_script_a_request_and_the_last_repeats() -> None:
    """A sequence has one script per request. The last script is repeated."""
    with fail_after(10):
        async with serve([Script(text="one"), Script(text="two")]) as server:
            replies = [deltas((await ask(server, "openai")).text) for _ in range(3)]
    assert replies == [["one"], ["two"], ["two"]]


async def test_a_callable_chooses_by_the_request() -> None:
    """A callable chooses the script, and gets the received request."""

    def choose(received: Received) -> Script:
        return Script(text=f"{received.index}: {received.last_user_text}", cuts=99)

    with fail_after(10):
        async with serve(choose) as server:
            await ask(server, "openai")
            assert deltas((await ask(server, "anthropic")).text) == ["1: Name two states."]


async def test_an_exception_of_a_callable_comes_out_on_leaving() -> None:
    """An exception in the callable is raised when the server is left, without a group.

    The client gets a 500 with its type.
    """

    def choose(received: Received) -> Script:
        raise ZeroDivisionError("of mine")

    with fail_after(10), pytest.raises(ZeroDivisionError, match="of mine"):
        async with serve(choose) as server:
            response = await ask(server, "openai")
            assert response.status_code == 500
            assert "ZeroDivisionError" in response.text
            assert "of mine" not in response.text

    with fail_after(10), pytest.raises(UsageError, match="returned a str"):
        async with serve(lambda _: "text") as server:
            await ask(server, "openai")


@pytest.mark.parametrize("wrong", [[], [1], "text", 7, None])
def test_what_cannot_be_played_is_refused(wrong: Any) -> None:
    """Something that is not a script is refused before the server listens."""
    with pytest.raises(UsageError, match=r"serve\(\) was given|is not a Script"):
        serve(wrong)


# --- the client leaves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(Script(first_byte_s=3600), id="before-the-head"),
        pytest.param(Script(text="abc", stall_after=1), id="stalled"),
        pytest.param(Script(text="abc", keepalive_after=1, keepalive_s=3600), id="kept-alive"),
        pytest.param(Script(text="abc", hold_open_s=3600), id="held-open"),
        pytest.param(Script(text="abc", pace_s=3600), id="paced"),
        pytest.param(Script(endless_line=1 << 40), id="sending"),
    ],
)
async def test_the_clients_close_is_seen_at_once(script: Script, how: str) -> None:
    """The server sees a client's close at once, whatever it is doing.

    It records the close and the end of the answer.
    """
    with fail_after(10):
        async with serve(script) as server:
            stream = await connect(server)
            await stream.send(POST)
            exchange = await server.wait_exchange()
            if not script.first_byte_s:
                await stream.receive()  # the answer has begun
            if how == "rst":
                raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
                with socket.fromfd(raw.fileno(), raw.family, raw.type) as duplicate:
                    duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            left_at = time.perf_counter()
            await stream.aclose()
            await exchange.closed.wait()
            assert exchange.done.is_set()
            assert exchange.outcome == "client_closed"
            assert server.open_connections == 0
            assert exchange.closed_at is not None
            # measured: 0.1 to 0.3 ms; the bound allows for a busy machine
            assert exchange.closed_at - left_at < 0.5


async def test_over_tls_a_bare_close_counts_as_a_close() -> None:
    """Over TLS, a socket that is closed without TLS's close message counts as a close."""
    with fail_after(10):
        async with serve(Script(text="abc", stall_after=1), tls=True) as server:
            stream = await connect(server)
            await stream.send(POST)
            exchange = await server.wait_exchange()
            await exchange.waiting.wait()
            await anyio.aclose_forcefully(stream)
            await exchange.closed.wait()
            assert exchange.outcome == "client_closed"


async def test_a_complete_answer_stays_complete() -> None:
    """A client that leaves after the last event leaves a complete answer, and not an early close."""
    with fail_after(20):
        async with serve(Script(text="abc")) as server:
            for _ in range(50):
                async with await connect(server) as stream:
                    await stream.send(POST)
                    got = b""
                    while b'message_stop"' not in got:
                        got += await stream.receive()
            await server.wait_closed()
            assert {e.outcome for e in server.exchanges} == {"complete"}


async def test_a_client_that_keeps_its_socket_is_counted_as_open() -> None:
    """A client that keeps its socket after the server's FIN is counted as open, so that a leak is seen."""
    with fail_after(10):
        async with serve(Script(text="abc", drop_after_bytes=10)) as server:
            async with await connect(server) as stream:
                await stream.send(POST)
                assert [data async for data in stream]
                assert server.exchanges[0].outcome == "dropped"
                with pytest.raises(TimeoutError, match="1 of 1 connections still open"):
                    await server.wait_closed(timeout_s=0.01)
            await server.wait_closed()


async def test_waiting_for_a_request_that_never_comes_is_bounded() -> None:
    """Waiting for a request that never comes ends with an error, which has the number of requests that came."""
    with fail_after(10):
        async with serve(Script()) as server:
            with pytest.raises(TimeoutError, match="0 requests arrived within"):
                await server.wait_exchange(timeout_s=0.01)


# --- the server ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(Script(first_byte_s=3600), id="before-the-head"),
        pytest.param(Script(text="abc", stall_after=1), id="stalled"),
        pytest.param(Script(endless_line=1 << 40), id="sending-to-nobody"),
        pytest.param(Script(text="abc"), id="idle"),
    ],
)
async def test_leaving_ends_everything_at_once(script: Script, tls: bool) -> None:
    """Leaving the server ends connections, tasks and the listener at once, whatever the clients are doing."""
    async with AsyncExitStack() as stack:
        with fail_after(10):
            async with serve(script, tls=tls) as server:
                stream = await connect(server)
                await stack.enter_async_context(stream)
                await stream.send(POST)
                exchange = await server.wait_exchange()
                if script.first_byte_s:
                    await exchange.waiting.wait()
                else:
                    await stream.receive()
                if script == Script(text="abc"):
                    await exchange.done.wait()
                started = time.perf_counter()
            took = time.perf_counter() - started
            assert took < 1
            assert server.open_connections == 0
            assert exchange.outcome == ("complete" if script == Script(text="abc") else "dropped")
            with pytest.raises(OSError, match="connection attempts failed"):
                await anyio.connect_tcp("127.0.0.1", server.port)
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    await stream.receive()


async def test_the_callers_own_exception_comes_out_as_it_is() -> None:
    """The caller's own exception is raised unchanged, and not in an ExceptionGroup."""
    with fail_after(10), pytest.raises(KeyError, match="mine"):
        async with serve(Script(text="abc", stall_after=1)) as server:
            async with await connect(server) as stream:
                await stream.send(POST)
                await server.wait_exchange()
                raise KeyError("mine")


async def test_a_cancelled_caller_leaves_at_once() -> None:
    """A cancelled caller leaves the server at once, and the cancellation goes on."""
    with fail_after(10):
        with anyio.CancelScope() as scope:
            async with serve(Script(text="abc", stall_after=1)) as server:
                async with await connect(server) as stream:
                    await stream.send(POST)
                    await server.wait_exchange()
                    scope.cancel()
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert server.open_connections == 0


async def test_it_may_be_left_in_another_task_than_it_was_entered_in() -> None:
    """The server can be left in another task than it was entered in, as pytest-asyncio's fixtures are."""
    with fail_after(10):
        context = serve(Script(text="x"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(context.__aenter__)
        assert (await ask(context, "openai")).status_code == 200
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(context.__aexit__, None, None, None)
        assert context.open_connections == 0


async def test_many_clients_that_vanish_leave_nothing() -> None:
    """A hundred clients that vanish at once, in every state, leave nothing open."""
    scripts = [Script(text="abc", stall_after=1), Script(text="abc"), Script(text="abc" * 9999, pace_s=0.001)]

    async def vanish(number: int) -> None:
        async with await connect(server) as stream:
            await stream.send(POST[: number * 7])
            if number % 2:
                with anyio.move_on_after(0.01):
                    await stream.receive()

    with fail_after(20):
        async with serve(lambda received: scripts[received.index % 3]) as server:
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(vanish, number)
            await server.wait_closed()
            assert server.connections == 100
            assert len(server.exchanges) > 30


# --- where the server listens ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_it_listens_on_loopback_only(host: str) -> None:
    """The server listens only on loopback, because it answers everybody who asks."""
    with pytest.raises(UsageError, match="loopback"):
        serve(Script(), host=host)


@pytest.mark.any_loop
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_it_is_found_under_its_host(host: str, tls: bool) -> None:
    """The server is reached at the `host` that was given, with a certificate for that name or address."""
    if host == "::1" and not _has_ipv6():
        pytest.skip("no IPv6 loopback here")
    with fail_after(10):
        async with serve(Script(text="x"), host=host, tls=tls) as server:
            assert server.openai_url == server.url + "/v1"
            assert (await ask(server, "openai")).status_code == 200


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_where_it_is_is_known_while_it_runs() -> None:
    """`url` is known while the server runs. Before that the error says what to do."""
    server = serve(Script())
    with pytest.raises(UsageError, match="async with"):
        _ = server.url
    async with serve(Script()) as plain:
        assert (plain.ssl_context, plain.ca_file) == (None, None)


async def test_the_certificate_is_trusted_by_who_is_told_to() -> None:
    """A client trusts the certificate only through `ssl_context` or the file.

    Other clients refuse it, and their failed handshake leaves nothing open. The file is deleted at the end.
    """
    with fail_after(10):
        async with serve(Script(text="x"), tls=True) as server:
            assert server.url.startswith("https://")
            assert server.ca_file is not None
            context = ssl.create_default_context(cafile=server.ca_file)
            async with httpx2.AsyncClient(verify=context) as client:
                assert (await client.post(server.url + PATHS["openai"], json=body())).status_code == 200
            async with httpx2.AsyncClient(verify=ssl.create_default_context()) as stranger:
                with pytest.raises(httpx2.ConnectError):
                    await stranger.post(server.url + PATHS["openai"], json=body())
            await server.wait_closed()
            assert len(server.exchanges) == 1
    assert not await anyio.Path(server.ca_file or "").exists()


async def test_without_trustme_tls_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without trustme, which is not a dependency of the package, `tls=True` says what to install."""
    real = builtins.__import__

    def no_trustme(name: str, *more: Any, **named: Any) -> Any:
        if name == "trustme":
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", no_trustme)
    with pytest.raises(UsageError, match="pip install trustme"):
        async with serve(Script(), tls=True):
            pass


# --- without an event loop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_synchronous_tests_have_it_in_a_thread(backend: Any, tls: bool) -> None:
    """Synchronous tests use the server in a thread, with a synchronous client."""
    with serve_in_thread(Script(text="x"), tls=tls, backend=backend) as server:
        with httpx2.Client(verify=server.ssl_context or False) as client:
            assert deltas(client.post(server.url + PATHS["openai"], json=body()).text) == ["x"]
        assert server.exchanges[0].prefill == ""


def test_it_runs_as_a_process_of_its_own() -> None:
    """The server runs as a process, which prints its address first and ends on SIGINT."""
    command = [sys.executable, "-m", "aprefill.testing", '{"prefill": "echoes", "cuts": 9}', "--text", "abc"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            with httpx2.Client(timeout=10) as client:
                assert deltas(client.post(url + PATHS["anthropic"], json=body("[")).text) == ["[", "abc"]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize("wrong", ['{"texxt": 1}', '{"pace_s": -1}', "[1]"])
def test_a_wrong_script_on_the_command_line_is_told(wrong: str) -> None:
    """A wrong script on the command line is an error of one line, with exit code 2."""
    command = [sys.executable, "-m", "aprefill.testing", wrong]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "error:" in done.stderr.splitlines()[-1]


def test_the_public_names_are_exact() -> None:
    """`__all__` has exactly the public names, and each is documented."""
    assert isinstance(aprefill.testing.__all__, tuple)
    for name in aprefill.testing.__all__:
        assert getattr(aprefill.testing, name) is not None
    assert list(aprefill.testing.__all__) == sorted(aprefill.testing.__all__)
    assert issubclass(Exchange, Received)

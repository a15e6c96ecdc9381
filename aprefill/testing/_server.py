"""The server: it listens on loopback, chooses the scripts, and records the requests."""

# Imported at run time, so that `typing.get_type_hints` works on public names.
# ruff: noqa: TC003
from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import anyio
import msgspec
from anyio.abc import SocketAttribute

from .._errors import UsageError
from ._answer import check
from ._connection import Connection
from ._endpoint import endpoint_of
from ._exchange import Exchange, Received
from ._script import Script
from ._tls import Certificate

if TYPE_CHECKING:
    from anyio.abc import SocketStream
    from anyio.streams.stapled import MultiListener

#: What `serve()` takes: one script for all requests, one per request (the last repeats), or a function of the request.
Scripts: TypeAlias = Script | Sequence[Script] | Callable[[Received], Script]

_NOT_FOUND = Script(status=404)


def serve(
    script: Scripts,
    *,
    static: Mapping[str, Any] | None = None,
    tls: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Server:
    """Return a server for `async with`, in the running event loop. `port=0` chooses a free port.

    `static` holds the answers of other paths, such as a list of models. It maps a path without a query to a value that
    is sent as JSON. It is looked up before the scripts.

    Raises `UsageError` for a host that is not loopback, an empty sequence, a static path that does not begin with a
    slash, a static answer that JSON cannot hold, or `tls=True` without trustme.
    """
    return Server(script, static=static, tls=tls, host=host, port=port)


class Server:
    """A running server, made by `serve()`. Leaving its `async with` ends every connection at once.

    If a callable script raises, or if the host of a request cannot send what a script plays, the request is answered
    with a 500. The exception is raised when the server is left.
    """

    def __init__(
        self,
        script: Scripts,
        *,
        static: Mapping[str, Any] | None = None,
        tls: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if not isinstance(script, Script) and isinstance(script, Sequence):
            script = tuple(script)
            if not script or not all(isinstance(one, Script) for one in script):
                raise UsageError(
                    "serve() was given no Script", "pass a Script, a sequence of one or more Scripts, or a callable"
                )
        elif not isinstance(script, Script) and not callable(script):
            raise UsageError(
                f"serve() was given a {type(script).__name__}", "pass a Script, a sequence of Scripts, or a callable"
            )
        self._script = script
        self._static = {path: _static(path, value) for path, value in (static or {}).items()}
        self._host = host
        self._address = _loopback(host)
        self._port = port
        self._certificate: Certificate | None = None
        self._wants_tls = tls
        self._scope: anyio.CancelScope
        self._stopped: anyio.Event
        self._failure: Exception | None = None
        self._played = 0
        self._asked = anyio.Event()
        self._all_closed = anyio.Event()
        #: all requests so far, in order
        self.exchanges: list[Exchange] = []
        #: number of TCP connections accepted so far
        self.connections = 0
        #: number of TCP connections that are still open
        self.open_connections = 0

    # --- its address ------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL for the clients of Anthropic (also of Vertex and Bedrock), Ollama and Gemini."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._wants_tls else 'http'}://{host}:{self.port}"

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI's clients. `/chat/completions` and `/responses` are below it."""
        return self.url + "/v1"

    @property
    def port(self) -> int:
        if not self._port:
            raise UsageError("the server is not running", "start it with `async with serve(...) as server`")
        return self._port

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """A context for the client, which trusts this server. None without `tls=True`."""
        return self._certificate.client_context if self._certificate else None

    @property
    def ca_file(self) -> str | None:
        """The path of a PEM file with which a client trusts this server. None without `tls=True`.

        The file is deleted when the server is left.
        """
        return self._certificate.ca_file if self._certificate else None

    # --- waiting ----------------------------------------------------------------------------------------------

    async def wait_closed(self, timeout_s: float = 5.0) -> None:
        """Wait until no connection is open. Raises `TimeoutError`, which says how many are still open."""
        with anyio.move_on_after(timeout_s):
            while self.open_connections:
                await self._all_closed.wait()
        if self.open_connections:
            raise TimeoutError(
                f"{self.open_connections} of {self.connections} connections still open after {timeout_s:g} s"
            )

    async def wait_exchange(self, index: int = 0, timeout_s: float = 5.0) -> Exchange:
        """Wait until request number `index` has arrived, and return it. Raises `TimeoutError`."""
        with anyio.move_on_after(timeout_s):
            while len(self.exchanges) <= index:
                await self._asked.wait()
        if len(self.exchanges) <= index:
            raise TimeoutError(
                f"{len(self.exchanges)} requests arrived within {timeout_s:g} s, but not request number {index}"
            )
        return self.exchanges[index]

    # --- running ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        listener = await anyio.create_tcp_listener(local_host=self._address, local_port=self._port)
        try:
            if self._wants_tls:
                self._certificate = Certificate(self._host)
            self._port = listener.extra(SocketAttribute.local_port)
        except BaseException:
            await anyio.aclose_forcefully(listener)
            raise
        self._scope = anyio.CancelScope()
        self._stopped = anyio.Event()
        _spawn(partial(self._run, listener))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._stopped.wait()  # not long: everything in the task is cancelled
        if self._certificate is not None:
            self._certificate.remove()
        if self._failure is not None and (error is None or isinstance(error, Exception)):
            raise self._failure

    async def _run(self, listener: MultiListener[SocketStream]) -> None:
        try:
            with self._scope:
                async with listener, anyio.create_task_group() as tasks:
                    await listener.serve(self._handle, tasks)
        except Exception as exc:
            self._failure = self._failure or exc
        finally:
            self._stopped.set()

    async def _handle(self, stream: SocketStream) -> None:
        self.connections += 1
        if not self.open_connections:
            self._all_closed = anyio.Event()
        self.open_connections += 1
        connection = Connection(stream, number=self.connections, exchanges=self.exchanges, choose=self._choose)
        try:
            await connection.run(self._certificate.server_context if self._certificate else None)
        except Exception as exc:
            # a failure of the server itself must not cancel the caller's work: it is raised when the server is left
            self._failure = self._failure or exc
        finally:
            self.open_connections -= 1
            if not self.open_connections:
                self._all_closed.set()

    def _choose(self, exchange: Exchange) -> Script:
        self._asked.set()
        self._asked = anyio.Event()
        if static := self._static.get(exchange.path.partition("?")[0]):
            return static
        if exchange.method != "POST" or (endpoint_of(exchange.path) is None and not self._has_body()):
            return _NOT_FOUND
        self._played += 1
        try:
            script = self._script_for(exchange)
            check(script, exchange)
        except Exception as exc:
            self._failure = self._failure or exc
            return Script(status=500, error=("script_error", f"the script raised {type(exc).__name__}"))
        return script

    def _has_body(self) -> bool:
        """Whether the scripts give whole bodies, which can be sent at any path."""
        scripts = self._script if isinstance(self._script, tuple) else (self._script,)
        return all(isinstance(script, Script) and script.body is not None for script in scripts)

    def _script_for(self, exchange: Exchange) -> Script:
        if isinstance(self._script, Script):
            return self._script
        if isinstance(self._script, tuple):
            return self._script[min(self._played, len(self._script)) - 1]
        script = self._script(exchange)
        if not isinstance(script, Script):
            raise UsageError(f"the callable given to serve() returned a {type(script).__name__}", "return a Script")
        return script

    def __repr__(self) -> str:
        seen = f"{len(self.exchanges)} requests, {self.open_connections} connections open"
        return f"<Server {self._host}:{self._port}, {seen}>"


def _static(path: str, value: Any) -> Script:
    """Return the script for a static path."""
    if not path.startswith("/") or "?" in path or " " in path:
        raise UsageError(
            f"static: {path!r} is not a path",
            "give one that begins with a slash, as it is sent and without a query, such as '/v1/models'",
        )
    try:
        body = msgspec.json.encode(value)
    except (TypeError, ValueError) as exc:
        raise UsageError(f"static: the answer of {path!r} is not JSON: {exc}", "give plain JSON values") from None
    return Script(body=body, content_type="application/json", framing="length")


def _loopback(host: str) -> str:
    """Return the address to listen on."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise UsageError(f"host={host!r} is not a loopback address", "pass '127.0.0.1', '::1' or 'localhost'")
    return host


#: References to the running tasks, because asyncio holds only weak ones.
_tasks: set[asyncio.Task[None]] = set()


def _spawn(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work`, which must not raise, in a task outside any task group.

    A task group has to be left in the task that entered it, but pytest-asyncio enters and leaves a fixture in two
    tasks. A task group would also wrap the caller's own exceptions in an ExceptionGroup.
    """
    try:
        # not get_running_loop(): trio in guest mode runs inside an asyncio loop, but not in an asyncio task
        in_asyncio = asyncio.current_task() is not None
    except RuntimeError:
        in_asyncio = False
    if in_asyncio:
        task = asyncio.create_task(work())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
    else:
        import trio

        trio.lowlevel.spawn_system_task(work)

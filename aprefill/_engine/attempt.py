"""An attempt: open one request, read its response, close it. This code awaits, but decides nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import anyio

from .._codecs import codec as codec_by_name
from .._json import to_bytes
from .._loops import clock_of, is_trio, native_loop, spawn_closing
from .._transports import HttpRequest
from .._transports._foreign import break_cycles, translate
from .._wire import decoder_for
from .ahead import Ahead
from .clocks import Clocks
from .deadline import ReadDeadline
from .head import Head
from .reading import Reading

if TYPE_CHECKING:
    from .._deltas import Delta
    from .._errors import AprefillError
    from .._hosts.row import KnownRefusal
    from .._plan.request import Request
    from .._plan.step import AttemptPlan
    from .._transports import Response, Transport

#: Maximum number of bytes to read after the protocol's end, so that the connection can be reused.
DRAIN_BYTES = 65_536
#: Timeout for reading the body of an error response, in seconds.
ERROR_BODY_S = 5.0

#: Other tasks may run at least once per this many reads. If many small chunks have arrived together, an HTTP library
#: returns one chunk per read and never waits, so that no other task could run.
READS_A_TURN = 32


class Attempt:
    """One request to one host.

    Call `open()`, then `read()` until `ended` or `failure`, then `drain()` if the connection is to be reused, then
    `aclose()`. `aclose()` may be called from another task and at any time: a response that arrives later is closed at
    once. `kill()` ends the connection at once, from anywhere.
    """

    def __init__(
        self,
        plan: AttemptPlan,
        request: Request,
        transport: Transport,
        *,
        total_at: float,
        reads_ahead: bool = False,
    ) -> None:
        self._plan = plan
        self._target = plan.target
        self._transport = transport
        self._timeouts = request.timeouts
        self._limits = request.limits
        self._clocks = Clocks(request.timeouts, total_at=total_at)
        self.codec = codec_by_name(plan.row.codec)
        self._head = Head(plan, request, self.codec)
        self._response: Response | None = None
        self._reading: Reading | None = None
        self._scope: anyio.CancelScope | None = None
        self._deadline: ReadDeadline | None = None
        self._reads_ahead = reads_ahead
        self._ahead: Ahead | None = None
        self._now = time.monotonic
        # Start of the waiting time that has not been counted yet.
        self._since = 0.0
        self._reads = 0
        # Whether `open()` is running.
        self._opening = False
        # Whether `aclose()` was called.
        self._closing = False
        # If `aclose()` was called while `open()` was running: an event that is set when the attempt is closed.
        self._opened: anyio.Event | None = None
        #: Whether `kill()` shuts down the connection. None before the host has accepted the request.
        self.closes_at_once: bool | None = None
        #: The event loop in which a finalizer may schedule the asynchronous close.
        self.loop: Any = None

    # --- state ------------------------------------------------------------------------------------------------

    @property
    def status(self) -> int | None:
        """The HTTP status, once it is known."""
        return self._head.status

    @property
    def request_id(self) -> str | None:
        """Identifies the request for the host's support team. None if the host sent no such id."""
        return self._head.request_id

    @property
    def fields(self) -> dict[str, Any]:
        """The request body that was sent, as a dict."""
        return self._head.fields

    @property
    def refusal(self) -> KnownRefusal | None:
        """The known refusal of the prefill with which the host answered, if it did."""
        return self._head.refusal

    @property
    def received_bytes(self) -> int:
        """Number of bytes of the response body received so far."""
        return 0 if self._reading is None else self._reading.received_bytes

    @property
    def broken_end(self) -> str:
        """Class name of an error that broke the stream after the model's stop reason. The reply is complete then."""
        return "" if self._reading is None else self._reading.broken_end

    @property
    def ended(self) -> bool:
        """Whether the protocol's end marker has been read."""
        return self._reading is not None and self._reading.ended

    @property
    def failure(self) -> AprefillError | None:
        """The error of the stream. Deltas that are returned together with it came before it."""
        return None if self._reading is None else self._reading.failure

    def forget_failure(self) -> None:
        """Drop the reference to the error."""
        if self._reading is not None:
            self._reading.failure = None

    # --- opening ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Send the request and wait for the head of the response. Raises if it is not a stream of this protocol.

        Returns without a response if `aclose()` was called in the meantime.
        """
        plan, target = self._plan, self._target
        self.loop = native_loop()
        self._now = clock_of(self.loop)
        self._head.fields = self.codec.encode(plan.model_input)
        path = self.codec.path(plan.model_input)
        http_request = HttpRequest(
            url=target.url(path, with_prefill=plan.sends_prefill),
            headers=target.headers(),
            body=to_bytes(self._head.fields),
            path=path,
            connect_s=self._timeouts.connect_s,
        )
        self._since = self._now()
        limit = self._clocks.left(self._since)
        self._opening = True
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + limit) as scope:
                self._scope = scope
                try:
                    self._response = await self._transport.open(http_request)
                except Exception as exc:
                    raise self._ours(exc, "open") from exc
        finally:
            self._scope = None
            self._opening = False
            if self._closing:
                # Close in a new task, like every close, because this task may be cancelled. That also closes a response
                # that came although the request was cancelled, because the client noticed it too late.
                closed = spawn_closing(self._close, self.loop)
                if self._opened is not None and closed is None:
                    self._opened.set()
            self._count()
        if self._closing:
            return
        if self._response is None:
            raise self._clocks.stalled(0)
        response = self._response
        self._head.came(response)
        if response.can_kill and not is_trio(self.loop):
            self._deadline = ReadDeadline(self.loop, response.kill)
        self._head.check()
        if not self._head.is_stream:
            raise self._head.error(await self._error_body())
        self.closes_at_once = response.can_kill
        headers = response.headers
        wire = decoder_for(headers.get("content-type", ""), self._limits.record_bytes, accept=self.codec.accept)
        decoder = self.codec.decoder(end=plan.row.end)
        self._reading = Reading(wire, decoder, self._head, headers, self._clocks)
        self._receive = response.receive
        if self._reads_ahead:
            self._ahead = Ahead(response.receive, self.loop)
            self._receive = self._ahead.receive

    async def _error_body(self) -> bytes:
        assert self._response is not None
        parts: list[bytes] = []
        size = 0
        with anyio.move_on_after(min(ERROR_BODY_S, max(0.0, self._clocks.left(self._now())))) as self._scope:
            try:
                while size < self._limits.error_body_bytes:
                    parts.append(await self._response.receive())
                    size += len(parts[-1])
                    await self._give_turns()
            except StopAsyncIteration:
                pass
            except Exception as exc:
                # Half an error body says more than the failure to read the other half.
                if translate(exc, stage="read", host=self._target.host, redact=self._head.redact) is None:
                    raise
        self._scope = None
        self._count()
        return b"".join(parts)[: self._limits.error_body_bytes]

    # --- reading ----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """The reader waits again, so its clocks continue."""
        self._since = self._now()

    def has_more(self) -> bool:
        """Whether `read()` will return without waiting for the network."""
        reading = self._reading
        if reading is None or reading.ended or reading.failure:
            return False
        return reading.has_more or (self._ahead is not None and self._ahead.has_more())

    async def read(self) -> list[Delta]:
        """Return the deltas of one network read, or of a part of it, maybe none. May set `ended` or `failure`."""
        reading = self._reading
        assert reading is not None
        limit = self._clocks.left(self._since)
        if limit <= 0:
            return reading.cut(self._clocks.stalled(reading.received_bytes))
        if reading.has_more:
            await anyio.lowlevel.checkpoint()
            self._count()
            return reading.decode()
        self._reads += 1
        if self._reads % READS_A_TURN == 0:
            await anyio.lowlevel.checkpoint()
        deadline = self._deadline
        data: bytes | None = b""
        try:
            if deadline is not None:
                deadline.start(self._since + limit)
                try:
                    data = await self._receive()
                finally:
                    deadline.stop()
                stalled = deadline.fired
            else:
                with anyio.CancelScope(deadline=anyio.current_time() + limit) as scope:
                    self._scope = scope
                    data = await self._receive()
                self._scope = None
                stalled = scope.cancelled_caught
        except StopAsyncIteration:
            data = None
            # If the body ends with the connection, it seems to end cleanly when the deadline shuts the connection down.
            stalled = deadline is not None and deadline.fired
        except Exception as exc:
            if deadline is None or not deadline.fired:
                self._count()
                return reading.cut(self._ours(exc, "read"))
            break_cycles(exc)
            stalled = True
        except BaseException as exc:
            if deadline is None or not deadline.absorbs(exc):
                raise
            stalled = deadline.fired
        self._count()
        if stalled:
            return reading.cut(self._clocks.stalled(reading.received_bytes))
        return reading.close() if data is None else reading.feed(data)

    async def _give_turns(self) -> None:
        """Let other tasks run, once per `READS_A_TURN` reads."""
        self._reads += 1
        if self._reads % READS_A_TURN == 0:
            await anyio.lowlevel.checkpoint()

    def _ours(self, exc: Exception, stage: Literal["open", "read"]) -> AprefillError:
        """Return our error for an exception of another library, chained to it. Raises `exc` if it is a bug.

        A separate method, so that no frame in a traceback keeps the error in a variable: that would be a cycle.
        """
        error = translate(
            exc,
            stage=stage,
            host=self._target.host,
            port=self._target.port,
            redact=self._head.redact,
            connect_s=self._timeouts.connect_s if stage == "open" else None,
            received_bytes=self.received_bytes,
        )
        if error is None:
            raise exc
        error.__cause__ = exc
        return error

    def _count(self) -> None:
        """Count the time since the last call as waiting time."""
        now = self._now()
        self._clocks.count(now - self._since)
        self._since = now

    # --- ending -----------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Make a waiting `open` or `read` return now. Synchronous. Can be called from any task of the event loop."""
        if self._scope is not None:
            self._scope.cancel()
        if self._deadline is not None:
            self._deadline.interrupt()
        else:
            self.kill()

    def kill(self) -> bool:
        """Shut down the connection without awaiting. Returns False if only an asynchronous close is possible."""
        return self._response is not None and self._response.kill()

    async def drain(self) -> None:
        """Read the rest of the body, so that the connection can be reused. Gives up after `drain_s` or 64 KiB."""
        if not self._limits.drain_s:
            return
        size = 0
        with anyio.move_on_after(self._limits.drain_s):
            try:
                while size <= DRAIN_BYTES:
                    size += len(await self._receive())
                    await self._give_turns()
            except Exception as exc:
                # StopAsyncIteration is the end. Any other error costs the connection, but never the reply.
                if not isinstance(exc, StopAsyncIteration):
                    translate(exc, stage="read", host=self._target.host, redact=self._head.redact)

    async def aclose(self) -> None:
        """Release the connection, and wait for an `open()` that is running. Idempotent. Raises nothing."""
        self._closing = True
        if self._opening:
            self._opened = anyio.Event()
            await self._opened.wait()
        else:
            await self._close()

    async def _close(self) -> None:
        if self._deadline is not None:
            self._deadline.close()
        try:
            if self._ahead is not None:
                await self._ahead.aclose()
            if self._response is not None:
                await self._response.aclose()
        except Exception as exc:
            translate(exc, stage="read", host=self._target.host, redact=self._head.redact)
        finally:
            try:
                if not self._target.keep:
                    await self._transport.aclose()
            finally:
                if self._opened is not None:
                    self._opened.set()

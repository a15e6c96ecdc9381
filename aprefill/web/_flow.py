"""Sends one reply to one client. One task reads and sends, one listens to the client, and one checks timeouts."""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

import anyio

from .. import AprefillError, Reply, ReplyClosed, ReplyConsumed, StopReason, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from .. import Event
    from .._records import Records, ReplyRecord

log = logging.getLogger("aprefill.web")

#: Timeout in seconds for sending the last record when the server cancels the request.
_LAST_WORD_S = 0.5

#: The replies that are being sent to a client.
_under_way: set[Reply] = set()


def check_reply(reply: object) -> None:
    """Raise `UsageError` if `reply` is not a `Reply`. Called early, so that the caller gets the error."""
    if not isinstance(reply, Reply):
        raise UsageError(
            f"reply={type(reply).__name__}(...) is not a reply",
            "pass what stream() returned, without awaiting or iterating it",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Timeouts and intervals in seconds; None: no limit."""

    heartbeat_s: float | None
    send_timeout_s: float | None
    begin_after_s: float | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and (value > 0 or (value == 0 and one.name == "begin_after_s"))):
                raise UsageError(f"{one.name}={value!r} is not a time", "pass seconds above 0, or None for no limit")


class ClientGone(Exception):
    """The client has disconnected."""


class Channel(Protocol):
    """One client's connection. `send`, `ping`, `begin` and `finish` wait for the client, and raise `ClientGone`."""

    #: whether the response has begun, so that records and heartbeats can be sent
    begun: bool

    async def begin(self) -> None:
        """Begin the response without a record."""

    async def send(self, record: ReplyRecord) -> None:
        """Send one record."""

    async def ping(self) -> None:
        """Send a heartbeat."""

    async def finish(self, record: ReplyRecord, error: AprefillError | None) -> None:
        """Send the last record and end the response."""

    async def listen(self) -> None:
        """Read what the client sends. Returns when the client has disconnected."""


class Flow:
    """Sends one reply to one client.

    The next text is requested only after the previous text was sent. So if a client does not read, the provider's
    socket is not read either, and at most the records of one read are buffered. The number of tasks does not depend on
    the length of the reply.
    """

    def __init__(self, reply: Reply, records: Records, channel: Channel, clocks: Clocks) -> None:
        self._reply = reply
        self._records = records
        self._channel = channel
        self._heartbeat_s = _or_never(clocks.heartbeat_s)
        self._send_timeout_s = _or_never(clocks.send_timeout_s)
        self._begin_after_s = _or_never(clocks.begin_after_s)
        # records and heartbeats are sent one at a time
        self._turn = anyio.Lock(fast_acquire=True)
        # when the current send began, and when the last send ended; `time.monotonic` seconds
        self._waiting_since: float | None = None
        self._quiet_since = 0.0
        self._group: anyio.CancelScope | None = None
        self._listening = anyio.CancelScope()
        self._gone = False
        self._failure: Exception | None = None
        self._events: AsyncIterator[Event]
        self._unusable: AprefillError | None = None
        self._is_ours = True
        # whether a send was cancelled: then it is not known how much of it was sent
        self._interrupted = False
        self._last: tuple[ReplyRecord, AprefillError | None] | None = None

    async def run(self) -> bool:
        """Send the complete reply, then close it. Return True if the client is still connected."""
        if self._reply in _under_way:
            # This client gets an error. The other client's reply is not affected.
            self._unusable = UsageError(
                "this reply is already being sent to another client", "call stream() for each client"
            )
            self._is_ours = False
            return await self._run(nullcontext())
        _under_way.add(self._reply)
        try:
            return await self._run(self._reply)
        finally:
            _under_way.discard(self._reply)

    async def _run(self, ours: AbstractAsyncContextManager[object]) -> bool:
        self._quiet_since = time.monotonic()
        try:
            # before the reply is entered, because `events` raises if the reply is finished
            self._events = self._reply.events(held=self._records.wants_held)
        except AprefillError as error:
            self._unusable = error
        async with ours, anyio.create_task_group() as group:
            self._group = group.cancel_scope
            if self._is_ours:  # a client can stop only its own reply
                group.start_soon(self._guarded, self._listen)
            group.start_soon(self._guarded, self._watch_clock)
            await self._guarded(self._pump)
            group.cancel_scope.cancel()
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback refers to this frame, which would form a reference cycle
        return not self._gone

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for `work`. On disconnect or error, stop the flow.

        The error is stored, not raised, so that the task group does not wrap it in an ExceptionGroup.
        """
        try:
            await work()
        except ClientGone:
            self._leave()
        except Exception as exc:
            self._failure = self._failure or exc
            self._leave()

    def _leave(self) -> None:
        """Stop the flow: cancel the reply and all tasks."""
        self._gone = True
        if self._is_ours:
            self._reply.cancel()
        if self._group is not None:
            self._group.cancel()

    async def _pump(self) -> None:
        try:
            await self._send_all()
        except anyio.get_cancelled_exc_class():
            if not self._gone:
                await self._say_closed()
            raise

    async def _say_closed(self) -> None:
        """Tell the client that the reply was closed, after the server has cancelled the request, as at its shutdown."""
        if self._is_ours:
            self._reply.cancel()  # close the provider's connection first, without waiting for the client
        if self._interrupted or self._turn.locked():
            return
        with anyio.move_on_after(_LAST_WORD_S, shield=True):
            try:
                await self._finish(ReplyClosed())
            except ClientGone:
                self._gone = True

    async def _send_all(self) -> None:
        failure: AprefillError | None = None
        reply, sends = self._reply, False
        was_over = reply.timing.total_s is not None and reply.stop_reason is not StopReason.CANCELLED
        try:
            if self._unusable is not None:
                raise self._unusable
            async for event in self._events:
                sends = True
                record = self._records.of(event)
                if record is None:
                    self._records.note(event)
                else:
                    await self._take_turn(self._send, event, record)
            if was_over and not sends:
                raise ReplyConsumed
        except AprefillError as error:
            failure = error.with_traceback(None)
        if not self._gone:
            await self._finish(failure)

    async def _send(self, event: Event, record: ReplyRecord) -> None:
        self._records.note(event)
        await self._channel.send(record)

    async def _finish(self, failure: AprefillError | None) -> None:
        """Send the last record. If this is called twice, the record of the first call is sent."""
        if self._last is None:
            if failure is not None:
                log.log(
                    logging.ERROR if isinstance(failure, UsageError) else logging.WARNING,
                    "a reply failed after %d characters: %s: %s", self._records.offset, type(failure).__name__, failure,
                )  # fmt: skip
            self._last = (self._records.end() if failure is None else self._records.error(failure), failure)
        # The reply is over. Ignore later messages and the disconnect of the client.
        self._listening.cancel()
        await self._take_turn(self._channel.finish, *self._last)

    async def _take_turn(self, send: Callable[..., Awaitable[None]], *what: object) -> None:
        async with self._turn:
            self._waiting_since = time.monotonic()
            try:
                await send(*what)
            except anyio.get_cancelled_exc_class():
                self._interrupted = True
                raise
            finally:
                self._waiting_since = None
                self._quiet_since = time.monotonic()

    async def _listen(self) -> None:
        with self._listening:
            await self._channel.listen()
        if not self._listening.cancel_called:
            raise ClientGone

    async def _watch_clock(self) -> None:
        """Send heartbeats while there is no text, and raise `ClientGone` if the client does not read."""
        began = self._quiet_since
        step = min(self._heartbeat_s, self._send_timeout_s)
        while True:
            now = time.monotonic()
            if self._waiting_since is not None:
                due = self._waiting_since + self._send_timeout_s
            else:
                due = self._quiet_since + self._heartbeat_s if self._channel.begun else began + self._begin_after_s
            if now < due:
                pause = min(due - now, step)
                if pause == math.inf:
                    return
                await anyio.sleep(pause)
            elif self._waiting_since is None:
                with anyio.move_on_after(None if self._send_timeout_s == math.inf else self._send_timeout_s) as scope:
                    await self._take_turn(self._beat)
                if scope.cancelled_caught:
                    raise self._too_slow()
            else:
                raise self._too_slow()

    async def _beat(self) -> None:
        if self._channel.begun:
            await self._channel.ping()
        else:
            await self._channel.begin()

    def _too_slow(self) -> ClientGone:
        log.warning("a client was disconnected: a record could not be sent to it for %g s", self._send_timeout_s)
        return ClientGone()


def _or_never(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds

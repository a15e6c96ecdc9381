"""One reply to one client: one task reads and sends, one listens to the client, one looks at the clock."""

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
    from .._records import Record, Records

log = logging.getLogger("aprefill.web")

#: How long the last record may take where the server ends the request itself, in seconds.
_LAST_WORD_S = 0.5

#: The replies that are on their way to a client.
_under_way: set[Reply] = set()


def check_reply(reply: object) -> None:
    """Raise `UsageError` for what is no reply, while there is still a caller to tell."""
    if not isinstance(reply, Reply):
        raise UsageError(
            f"reply={type(reply).__name__}(...) is no reply", "pass what stream() gave, not awaited and not iterated"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """How long to wait for what, in seconds; None: for ever."""

    heartbeat_s: float | None
    send_timeout_s: float | None
    begin_after_s: float | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and (value > 0 or (value == 0 and one.name == "begin_after_s"))):
                raise UsageError(f"{one.name}={value!r} is no time", "pass seconds above 0, or None for no limit")


class ClientGone(Exception):
    """There is nobody to send to any more."""


class Channel(Protocol):
    """One client's connection. `send`, `ping`, `begin` and `finish` wait for it, and raise `ClientGone`."""

    #: the response has begun: what comes now can be sent, and a heartbeat too
    begun: bool

    async def begin(self) -> None:
        """Begin the response without a record."""

    async def send(self, record: Record) -> None:
        """Send one record."""

    async def ping(self) -> None:
        """Send a heartbeat."""

    async def finish(self, record: Record, error: AprefillError | None) -> None:
        """Send the last record and end the response."""

    async def listen(self) -> None:
        """Read what the client sends; returns when it has gone."""


class Flow:
    """A reply on its way to a client.

    Text is asked for when the text before it was sent, so a client that takes nothing stops the reading of the
    provider's socket, and no more than one read's records wait here. The number of tasks does not depend on the
    reply's length.
    """

    def __init__(self, reply: Reply, records: Records, channel: Channel, clocks: Clocks) -> None:
        self._reply = reply
        self._records = records
        self._channel = channel
        self._heartbeat_s = _or_never(clocks.heartbeat_s)
        self._send_timeout_s = _or_never(clocks.send_timeout_s)
        self._begin_after_s = _or_never(clocks.begin_after_s)
        # records and heartbeats take turns
        self._turn = anyio.Lock(fast_acquire=True)
        # since when a send is waiting, and when the last one was done; `time.monotonic` seconds
        self._waiting_since: float | None = None
        self._quiet_since = 0.0
        self._group: anyio.CancelScope | None = None
        self._listening = anyio.CancelScope()
        self._gone = False
        self._failure: Exception | None = None
        self._events: AsyncIterator[Event]
        self._unusable: AprefillError | None = None
        self._is_ours = True
        # a send was cancelled: nobody knows how much of it the client has
        self._interrupted = False
        self._last: tuple[Record, AprefillError | None] | None = None

    async def run(self) -> bool:
        """Send the reply to its end; True: the client is still there. The reply is closed afterwards."""
        if self._reply in _under_way:
            # told as an error, and that other client's reply left alone
            self._unusable = UsageError("this reply is on its way to another client", "give each its own stream()")
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
            # before the reply is ours: a finished one says so
            self._events = self._reply.events(held=self._records.wants_held)
        except AprefillError as error:
            self._unusable = error
        async with ours, anyio.create_task_group() as group:
            self._group = group.cancel_scope
            if self._is_ours:  # what this client says is about its own reply
                group.start_soon(self._guarded, self._listen)
            group.start_soon(self._guarded, self._watch_clock)
            await self._guarded(self._pump)
            group.cancel_scope.cancel()
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback leads back here: that would be a cycle
        return not self._gone

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for `work`; a client that went or a bug in it ends all, and no group makes a group of it."""
        try:
            await work()
        except ClientGone:
            self._leave()
        except Exception as exc:
            self._failure = self._failure or exc
            self._leave()

    def _leave(self) -> None:
        """The client has gone: the reply is cancelled, and whoever waits is woken."""
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
        """The server ends the request, as at its shutdown, and the client is still there: tell it."""
        if self._is_ours:
            self._reply.cancel()  # the provider's connection does not wait for this client
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

    async def _send(self, event: Event, record: Record) -> None:
        self._records.note(event)
        await self._channel.send(record)

    async def _finish(self, failure: AprefillError | None) -> None:
        """Send the last record: the first that was chosen."""
        if self._last is None:
            if failure is not None:
                log.log(
                    logging.ERROR if isinstance(failure, UsageError) else logging.WARNING,
                    "a reply failed after %d characters: %s: %s", self._records.offset, type(failure).__name__, failure,
                )  # fmt: skip
            self._last = (self._records.end() if failure is None else self._records.error(failure), failure)
        # The provider is closed already. What the client says from here on is not ours to read, and that it goes when it
        # has all is no news.
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
        """Send heartbeats while the model is silent, and give up on a client that takes nothing."""
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
        log.warning("a client was let go: the server could not hand a record over to it for %g s", self._send_timeout_s)
        return ClientGone()


def _or_never(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds

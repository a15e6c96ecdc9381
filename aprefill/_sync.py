"""The API without async: `stream_sync()` and `SyncSession`. The asynchronous engine runs in a thread of its own.

Each reply of `stream_sync()` has such a thread from its first chunk to its end. A session has one thread for all its
replies. The caller's thread takes chunks that are already there without contacting the other thread. It waits for the
other thread only if there are none.
"""

# These names are imported at run time, so that `typing.get_type_hints` works on the public functions.
# ruff: noqa: TC001, TC003
from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from contextvars import Context
from functools import partial
from threading import Event as ThreadEvent
from threading import RLock, Thread, current_thread, get_ident
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from weakref import ref

import anyio
from anyio.from_thread import BlockingPortal

from ._engine.phases import OVER, Phase
from ._engine.run import Run, read_to_end
from ._errors import ReplyClosed, UsageError
from ._events import Event
from ._loops import CLOSE_S, native_loop, spawn
from ._reply import Events, ReplyFacts
from ._session import Session, stream
from ._words import Words

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")

#: How long to wait for a reply's connection and thread to end, in seconds. Closing itself times out earlier.
_LEAVE_S = CLOSE_S + 1


class Ended(Exception):
    """A call came after the thread had been asked to end."""


async def _nothing() -> None:
    pass


class LoopThread:
    """An event loop in its own thread. The first `perform` starts it, and `end` stops it.

    It is a daemon thread, so it does not keep the interpreter from exiting. A forked child process does not have it.
    When this object is garbage collected, the thread awaits `at_end` and stops.
    """

    __slots__ = ("__weakref__", "_at_end", "_ended", "_lock", "_loop", "_pid", "_portal", "_thread")

    def __init__(self, at_end: Callable[[], Awaitable[None]] = _nothing) -> None:
        self._at_end = at_end
        # Held while a call is passed to the loop. Reentrant, because a signal handler in the same thread may call too.
        self._lock = RLock()
        self._thread: Thread | None = None
        self._portal: BlockingPortal | None = None
        self._loop: Any = None
        self._pid = 0
        self._ended = False

    @property
    def is_running(self) -> bool:
        """Whether the thread was started in this process and was not asked to end."""
        return self._portal is not None and not self._ended and self._pid == os.getpid()

    def perform(self, work: Callable[..., Any]) -> Any:
        """Run `work` in the loop and wait for it. Return its result or raise its exception. May raise `Ended`."""
        with self._lock:
            if self._ended:
                raise Ended
            if self._portal is None:
                self._begin()
            assert self._portal is not None
            if self._pid != os.getpid():
                raise UsageError("this reply or session was begun in another process", "make a new one after a fork")
            future = self._portal.start_task_soon(work)
        return future.result()

    def perform_if_begun(self, work: Callable[[], None]) -> None:
        """Run `work` in the loop and wait for it. Before the loop starts, run it here. After its end, do nothing."""
        with self._lock:
            if self._portal is None:
                work()
                return
        if self._thread is current_thread():
            work()
        elif self.is_running:
            with suppress(Ended):
                self.perform(work)

    def _begin(self) -> None:
        begun: Future[tuple[BlockingPortal, Any]] = Future()
        # Since Python 3.14 a thread may inherit the context, in which another event loop may be running.
        options: dict[str, Any] = {"context": Context()} if sys.version_info >= (3, 14) else {}
        self._thread = Thread(target=_run_loop, args=(begun,), name="aprefill", daemon=True, **options)
        self._thread.start()
        self._pid = os.getpid()
        try:
            self._portal, self._loop = begun.result()
        except BaseException:
            # Interrupted by a signal. If the loop has not started yet, it never will.
            if not begun.cancel() and begun.exception() is None:
                self._portal, self._loop = begun.result()
            raise

    def end(self, *, wait: bool = True) -> None:
        """Stop the loop and its thread after awaiting `at_end`. With `wait`, wait for the thread, at most two seconds.

        Without `wait`, this may be called from a finalizer.
        """
        if self.is_running:
            self.spawn(self._at_end, wait=False, last=True)
        self._ended = True
        thread = self._thread
        if wait and thread is not None and thread is not current_thread() and self._pid == os.getpid():
            thread.join(_LEAVE_S)

    def spawn(self, work: Callable[[], Awaitable[None]], *, wait: bool, last: bool = False) -> None:
        """Run `work` in the loop if the loop is running. `work` must not raise. With `last`, stop the loop after it.

        With `wait`, wait until `work` is done, at most two seconds. Without `wait`, this may be called from a
        finalizer.
        """
        portal = self._portal
        if portal is None or not self.is_running:
            return
        self._ended = last
        done = ThreadEvent()

        async def run() -> None:
            try:
                await work()
            finally:
                done.set()
                if last:
                    # Without the lock, another thread could pass a call to the loop at this moment, and would then wait
                    # for a loop that has ended.
                    while not self._lock.acquire(blocking=False):
                        await anyio.lowlevel.cancel_shielded_checkpoint()
                    try:
                        await portal.stop()
                    finally:
                        self._lock.release()

        if spawn(self._loop, run) and wait and self._thread is not current_thread():
            done.wait(_LEAVE_S)

    def __del__(self) -> None:
        # The interpreter may be shutting down, and a finalizer must not raise.
        with suppress(Exception):
            self.end(wait=False)


def _run_loop(begun: Future[tuple[BlockingPortal, Any]]) -> None:
    async def run() -> None:
        async with BlockingPortal() as portal:
            with suppress(InvalidStateError):  # cancelled
                begun.set_result((portal, native_loop()))
                await portal.sleep_until_stopped()

    try:
        anyio.run(run)
    except BaseException as exc:
        if begun.done():
            raise
        begun.set_exception(exc)


class _SyncSide:
    """One run and the thread in which it runs. Refers neither to the `SyncReply` nor to a loop over it."""

    __slots__ = ("_lock", "_owns_thread", "run", "thread")

    def __init__(self, run: Run, thread: LoopThread, *, owns_thread: bool) -> None:
        self.run = run
        self.thread = thread
        self._owns_thread = owns_thread
        # Held while a thread becomes the reader. Reentrant, because a signal handler in the same thread may try too.
        self._lock = RLock()

    def pull(self) -> bool:
        """Wait for more of the transcript. False at the end. Raises the reply's error. An interrupt ends the reply."""
        if self.run.is_over():
            self.settle()
            return False
        self.run.readers.task = ref(current_thread())
        found: bool = self.perform(self.run.pull)
        return found

    def perform(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run `work` of the run in the other thread and wait for it. An interrupt of this wait ends the reply."""
        run = self.run
        try:
            result = self.thread.perform(work)
        except Ended:
            if run.phase is not Phase.NEW:
                raise run.transcript.put_on(ReplyClosed()) from None
            raise UsageError("this session was closed before the reply began", "make a new one") from None
        except UsageError:
            # Somebody else reads the reply, or it is over. This does not end the reply.
            self.settle()
            raise
        except BaseException:
            self.leave(wait=True)
            raise
        self.settle()
        return result

    def settle(self) -> None:
        """If the reply is over, end its thread, unless the thread belongs to a session."""
        if self._owns_thread and self.run.phase in OVER:
            self.thread.end()

    def leave(self, *, wait: bool) -> None:
        """End the reply, from any thread or a finalizer. With `wait`, wait until its connection is released."""
        if self._owns_thread:
            self.thread.end(wait=wait)
        elif self.run.phase not in OVER:
            self.thread.spawn(self.run.aclose, wait=wait)

    def cancel(self) -> None:
        """Like `Run.cancel`, but from any thread."""
        self.thread.perform_if_begun(self.run.cancel)

    def begin(self, reader: object, *, joins_thread: bool = False) -> None:
        """Make `reader` the current reader."""
        with self._lock:
            self.run.readers.claim(id(reader), current_thread(), joins_task=joins_thread)

    def end(self, reader: object) -> None:
        """`reader` stops reading, at the end or because its loop was left. The latter ends a reply without a `with`."""
        run = self.run
        if run.readers.let_go(id(reader)) and not run.owned and run.phase not in OVER:
            run.connection.kill()
            # A thread other than the reader's is here only as a finalizer, which must not wait.
            self.leave(wait=run.readers.is_in_thread(get_ident()) and not sys.is_finalizing())


def _chunks(side: _SyncSide) -> Iterator[str]:
    """The iterator of one `for` loop. Only the loop's stack refers to it, so that leaving the loop ends it."""
    transcript = side.run.transcript
    reader = object()
    side.begin(reader)
    try:
        while True:
            at = transcript.next
            try:
                item = transcript.items[at]
            except IndexError:
                if side.pull():
                    continue
                return
            transcript.next = at + 1
            if type(item) is str:
                yield item
    finally:
        side.end(reader)


def _events(side: _SyncSide, events: Events) -> Iterator[Event]:
    """The iterator of one `for` loop over `events()`."""
    transcript = side.run.transcript
    reader = object()
    side.begin(reader)
    events.begin()
    try:
        while True:
            try:
                event = events.take(transcript.next)
            except IndexError:
                if side.pull():
                    continue
                return
            if event is not None:
                yield event
    finally:
        side.end(reader)


class SyncReply(ReplyFacts):
    """One streamed reply without async. Iterate it once, or use it in a `with` block to read it in several loops.

    It works like `Reply`, with `for` instead of `async for`. Nothing is sent before the first chunk is requested.
    Leaving the loop in any way, also by Ctrl-C, closes the provider's connection at once. So do `close()`, `cancel()`
    and the end of a `with` block. A reply has one reader at a time.

    A reply of `stream_sync()` has its own thread from the first chunk to the end. It is a daemon thread, so it does not
    keep the interpreter from exiting. After a fork, the child process cannot continue a reply that the parent has
    begun. A `SyncReply` also works inside a coroutine, but it blocks the event loop there.
    """

    __slots__ = ("_side",)

    def __init__(self, run: Run, thread: LoopThread | None = None) -> None:
        super().__init__(run)
        run.reads_ahead = True
        self._side = _SyncSide(run, thread or LoopThread(run.aclose), owns_thread=thread is None)

    def __iter__(self) -> Iterator[str]:
        self._check_fresh()
        return _chunks(self._side)

    def events(self, *, coalesce: bool | None = None, held: bool = False) -> Iterator[Event]:
        """Iterate over typed events instead of plain text, like `Reply.events`.

        With `coalesce`, all text that is already there becomes one event.
        """
        self._check_fresh()
        return _events(self._side, Events(self._run, coalesce=coalesce, held=held))

    def text(self) -> str:
        """Return the whole reply, after reading the stream to its end. It has the prefill, whatever `show_when` says.

        Raises the error of the stream, with `text_so_far`. Raises `ReplyClosed` if the reply was left early or
        cancelled, and `UsageError` while another thread reads the reply.
        """
        run = self._run
        if run.phase is Phase.DONE:
            # Everything has been yielded.
            return run.transcript.text_so_far
        reader = object()
        self._side.begin(reader, joins_thread=True)
        try:
            text: str = self._side.perform(partial(read_to_end, run))
        finally:
            run.readers.let_go(id(reader))
        return text

    def cancel(self) -> None:
        """End the reply at once. Can be called from any thread.

        A loop that reads the reply ends normally, and `stop_reason` is `StopReason.CANCELLED`. A waiting `text()`
        raises `ReplyClosed`.
        """
        self._side.cancel()

    def close(self) -> None:
        """End the reply and release its connection. Can be called from any thread. Idempotent.

        Takes at most about a second. If the reply has not begun, its request is never sent.
        """
        self._side.thread.perform_if_begun(self._run.close_unsent)
        if self._side.thread.is_running and self._run.phase is not Phase.NEW:
            self._side.leave(wait=True)

    def __enter__(self) -> Self:
        self._run.owned = True
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        self._run.owned = False

    def __del__(self) -> None:
        run = self._run
        if run.owned and run.phase not in {Phase.NEW, *OVER}:
            warnings.warn(f"{self!r} was dropped inside its `with`", ResourceWarning, stacklevel=2, source=self)
            run.connection.kill()
            self._side.leave(wait=False)


# --- the arguments of the asynchronous functions ------------------------------------------------------------------


def _takes(original: Callable[P, object]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Give a function the signature of `original`, for type checkers, `inspect` and `typing.get_type_hints`."""

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        _show_arguments(original, function)
        return function

    return decorate


def _takes_of_method(
    original: Callable[Concatenate[Any, P], object],
) -> Callable[[Callable[Concatenate[S, ...], R]], Callable[Concatenate[S, P], R]]:
    """Like `_takes`, for a method."""

    def decorate(function: Callable[Concatenate[S, ...], R]) -> Callable[Concatenate[S, P], R]:
        _show_arguments(original, function)
        return function

    return decorate


def _show_arguments(original: Any, function: Any) -> None:
    returns = function.__annotations__["return"]
    function.__signature__ = inspect.signature(original).replace(return_annotation=returns)
    # Names in annotations are looked up in the module of `original`. That module does not know the returned class.
    function.__annotations__ = {**original.__annotations__, "return": globals().get(returns)}
    function.__wrapped__ = original


def _check_no_client(client: object) -> None:
    if client is not None:
        raise UsageError(
            "client= is for stream() and Session: an asynchronous client belongs to its own event loop, and a "
            "synchronous client cannot be used",
            Words("leave {client} out and pass {base_url} and {api_key}"),
        )


@_takes(stream)
def stream_sync(*args: Any, **options: Any) -> SyncReply:
    """Like `stream`, but without async: `for chunk in stream_sync(...)`. Takes the same arguments, except `client`.

    The asynchronous engine runs in its own thread while the reply is read. Use a `SyncSession` for many calls. A
    `client` raises `UsageError`, because an asynchronous client belongs to its own event loop.
    """
    _check_no_client(options.get("client"))
    return SyncReply(stream(*args, **options)._run)


class SyncSession:
    """Like `Session`, but without async: defaults for many replies, which share one connection pool and one thread.

    `with SyncSession(model=...) as session: session.stream(...)`. It takes the same arguments as `Session`, except
    `client`. Several threads may use it. Leaving the `with` block ends all replies that are still open, and the thread.
    Make a new session after a fork.
    """

    @_takes_of_method(Session.__init__)
    def __init__(self, *args: Any, **defaults: Any) -> None:
        _check_no_client(defaults.get("client"))
        self._session = Session(*args, **defaults)
        self._thread = LoopThread(self._session.aclose)

    @_takes_of_method(Session.stream)
    def stream(self, *args: Any, **options: Any) -> SyncReply:
        """Like `stream_sync`, but with the session's defaults and pool."""
        return SyncReply(self._session.stream(*args, **options)._run, self._thread)

    def close(self) -> None:
        """End all open replies at the same time, then close the pool and end the thread. Idempotent.

        Takes at most about a second.
        """
        self._session.mark_closed()
        self._thread.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Sync{repr(self._session).removeprefix('<')}"

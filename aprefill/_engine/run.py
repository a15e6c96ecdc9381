"""The run: the object that does the work of a `Reply`. It owns the connection and waits for the text.

A run is always in one `Phase` (see `phases.TABLE`). `pull` does the work of the current phase until there is something
to yield. `drop` ends the run in any phase, whether a reader is waiting or not. `_plan` decides which requests to send.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import AprefillError, PrefillIgnored, ProviderError, ReplyClosed, Truncated
from .._events import AttemptEnded
from .._plan.first import Way
from .connection import Connection
from .ledger import Ledger
from .log import Log
from .phases import Phase, State
from .readers import Readers
from .requests import Requests, token
from .transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._deltas import Delta
    from .._hosts.refusals import RefusalMemory
    from .._hosts.target import Target
    from .._plan.request import Request
    from .._transports import Transport
    from .attempt import Attempt

#: How many turns of the event loop the end of a reply waits for its connection to become free. In these turns, data
#: that the host has sent already is read, so that the next request finds the connection in the pool. Nothing waits for
#: the network.
_TURNS = 12

#: How many items a reader in another thread takes per pull. Passing many at once costs less per item.
_ITEMS_A_PULL = 256

#: Used for every read: a module-level name is several times faster than an attribute of an enumeration.
_READING = Phase.READING


class Run:
    """A running reply: reads deltas, joins their text to the known text, and closes the connection.

    The known text is the prefill and all text that was yielded after it.

    It refers neither to the `Reply` nor to a cursor, so that dropping these can end it.
    """

    def __init__(
        self, request: Request, target: Target, make_transport: Callable[[], Transport], refusals: RefusalMemory
    ) -> None:
        self.request = request
        self.state = State()
        self.transcript = Transcript(request.prefill)
        self.readers = Readers(self.state, self.transcript)
        self.ledger = Ledger(self.state, self.transcript)
        #: Used with `async with`: losing a cursor does not close it, `aclose` does.
        self.owned = False
        #: For a reader in another thread: read ahead, up to a limit, and take everything that is there in one pull.
        self.reads_ahead = False
        self.connection = Connection()
        self._log = Log()
        way = Way(target, make_transport, token)
        self.requests = Requests(request, way, refusals, self.ledger, self.connection, self._log)

    # --- reading ----------------------------------------------------------------------------------------------

    async def pull(self) -> bool:
        """Wait for more of the transcript, one network read at a time. Returns False at the end.

        Raises the reply's error. Call it only when everything in the transcript has been yielded.
        """
        readers = self.readers
        readers.begin_to_wait()
        state, items, connection = self.state, self.transcript.items, self.connection
        have = len(items)
        if connection.attempt is not None:
            connection.attempt.resume()
        try:
            while len(items) == have or (
                self.reads_ahead
                and len(items) - have < _ITEMS_A_PULL
                and state.phase is _READING
                and connection.has_more()
            ):
                if state.phase is _READING:
                    attempt = connection.attempt
                    assert attempt is not None
                    deltas = await attempt.read()
                    # The run may have been ended during the await.
                    if state.phase is _READING:
                        self._take(attempt, deltas)
                elif self.is_over():
                    return False
                else:
                    await _PULLS[state.phase](self)
            return True
        except GeneratorExit:
            self.drop()
            raise
        except BaseException as exc:
            # Everything else, such as a cancellation, is a reader that leaves.
            self.drop("failed" if isinstance(exc, Exception) else "drop")
            await connection.wait()
            if isinstance(exc, AprefillError):
                self.transcript.put_on(exc)
            if isinstance(exc, ProviderError):
                state.failed = type(exc).__name__
            raise
        finally:
            readers.wait = False

    async def _begin(self) -> None:
        """NEW: decide on the first request."""
        self.requests.first()
        transport = self.requests.transport()
        self.connection.begin(self)
        self.requests.start_clock()
        self._prepare(transport)

    def _prepare(self, transport: Transport) -> None:
        self.requests.prepare(transport, reads_ahead=self.reads_ahead)
        self.state.go("pull", Phase.OPENING)

    async def _open(self) -> None:
        """OPENING: send the request and wait for the head of the response."""
        plan, attempt = self.requests.plan, self.connection.attempt
        assert plan is not None
        assert attempt is not None
        self.ledger.note("began")
        self._log.sent(plan)
        try:
            await attempt.open()
        except AprefillError as error:
            if self.phase is Phase.OPENING and not self._replace(error):
                self._end("failed", error)
            return
        if self.phase is not Phase.OPENING:
            return
        self.ledger.note("accepted")
        self._log.accepted(attempt.status)
        self.transcript.accepted = True
        self.state.go("opened", Phase.READING)
        self.requests.show_prefill("accepted")

    def _take(self, attempt: Attempt, deltas: list[Delta]) -> None:
        """READING: join the deltas of one read to the known text, and find out whether the response has ended."""
        splice = self.requests.splice
        assert splice is not None
        before = len(self.transcript.items)
        try:
            if deltas:
                splice.take(deltas)
                self.ledger.note_progress(splice)
            failure = splice.exceeded or attempt.failure
            if failure is not None:
                if self._replace(failure):
                    return
                splice.close(cut=True)
            elif attempt.ended or splice.stopped:
                splice.close(cut=False)
                self.ledger.note_progress(splice)
                failure = splice.exceeded
                if self._replace(failure):
                    return
            else:
                return
        except (PrefillIgnored, Truncated) as error:
            if not self._replace(error):
                del self.transcript.items[before:]
                self._end("failed", error)
            return
        self.ledger.note_progress(splice)
        self._end("read" if failure is None else "failed", failure, early=splice.stopped)

    def _end(self, event: str, failure: AprefillError | None, *, early: bool = True) -> None:
        """Nothing more will come. Yield what has come, then raise `failure`. `early`: the host has not finished."""
        self.state.go(event, Phase.HANDING_OUT)
        if failure is not None:
            # Without its frames, which lead back to this run: that would be a cycle.
            self.state.failure = failure.with_traceback(None)
        if failure is not None or early:
            # Close before the last text is yielded.
            self.connection.kill()
            self.connection.close()
        if self.transcript.wants_events:
            self.transcript.items.append(AttemptEnded(self.ledger.report()))

    async def _hand_out(self) -> None:
        """HANDING_OUT: everything was yielded. Raise the error, or give the connection back to its pool."""
        self.ledger.note("over")
        if self.state.failure is not None:
            self.state.go("failed", Phase.CLOSED)
            self.connection.forget_failure()
            raise self.state.take_failure()
        self.state.told_end = True
        self._log.complete(len(self.transcript.text_so_far))
        self.state.go("pull", Phase.DONE)
        if self.connection.closed is None:
            # Nobody waits for this, so it may take the time that the caller allows.
            self.connection.close(drain_s=self.request.limits.drain_s if self.requests.target.keep else None)
        await self.connection.wait_turns(_TURNS)

    async def _wait_to_ask_again(self) -> None:
        """PAUSING: wait until the last connection is closed, then for the time in the plan."""
        self.ledger.note_read()
        await self.requests.wait()
        if self.phase is Phase.PAUSING:
            self.requests.check_clock()
            self._prepare(self.requests.transport())

    def _replace(self, error: AprefillError | None) -> bool:
        """Replace a request that failed or ended cleanly by another one, if the plan has one."""
        replaced = self.requests.go_on(error)
        if replaced:
            self.state.go("read" if error is None else "failed", Phase.PAUSING)
        return replaced

    # --- ending -----------------------------------------------------------------------------------------------

    def drop(self, event: str = "drop") -> None:
        """End the run now, from any task or a finalizer. Never raises.

        Shuts down the socket. The event loop does the rest later. A waiting reader returns. A reply that has not begun
        is not changed: `close_unsent` is for that.
        """
        if self.phase is Phase.NEW or self.state.is_over or not self.connection.is_ours:
            return
        self.ledger.note("over")
        whole = event != "failed" and self._is_handed_out()
        # A reader that left after the last event has got everything. Note this while it can still be determined.
        self.state.told_end = self.ledger.is_whole()
        if event == "failed":
            self._log.broke(self.phase.value)
        else:
            self._log.left("at its end" if whole else f"while {self.phase.value}")
        self.state.go(event, Phase.DONE if whole else Phase.CLOSED)
        self.transcript.forget_rest()
        self.requests.interrupt()
        self.connection.interrupt()

    def _is_handed_out(self) -> bool:
        """Whether the reply is complete and its last text has been yielded."""
        if self.phase is not Phase.HANDING_OUT or self.state.failure is not None:
            return False
        return self.transcript.next == len(self.transcript.items)

    def close_unsent(self, event: str = "aclose") -> None:
        """Close a reply that has not begun, so that it sends nothing. Call it in its event loop, if it has one."""
        if self.phase is Phase.NEW:
            self.state.go(event, Phase.CLOSED)

    async def aclose(self) -> None:
        """End the run now and release its connection. Shielded from cancellation, at most a second. Idempotent."""
        self.close_unsent()
        self.drop("aclose")
        # After a complete reply, the rest of the body may still be read, so that the connection can go back to a pool
        # that outlives the reply. Do not wait for that.
        if self.phase is Phase.CLOSED or not self.requests.target.keep:
            await self.connection.wait()

    def cancel(self) -> None:
        """End the run, from any task of its event loop. The reader's loop ends as at the end of the reply.

        A reply whose last text was yielded is not changed. In a forked child nothing happens.
        """
        if self.phase is Phase.NEW or (self.connection.is_ours and not self.state.is_over):
            self.state.cancelled = not self._is_handed_out()
            self.close_unsent("cancel")
            self.drop("cancel")

    # --- phase ------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return self.state.phase

    def is_over(self) -> bool:
        """Whether nothing more will come. Raises `ReplyClosed` if the reply was left early or has failed."""
        if self.phase is Phase.CLOSED and not self.state.cancelled:
            raise self.transcript.put_on(ReplyClosed())
        return self.state.is_over


#: Phase -> its work during a pull. READING is handled in `pull` itself, because every chunk passes through it.
_PULLS: dict[Phase, Callable[[Run], Awaitable[None]]] = {
    Phase.NEW: Run._begin,
    Phase.OPENING: Run._open,
    Phase.PAUSING: Run._wait_to_ask_again,
    Phase.HANDING_OUT: Run._hand_out,
}


async def read_to_end(run: Run) -> str:
    """Yield everything and return the whole text. Raises the reply's error."""
    transcript = run.transcript
    run.readers.check_alone()
    transcript.next = len(transcript.items)
    while run.phase is not Phase.DONE:
        if not await run.pull() and run.phase is Phase.CLOSED:
            raise transcript.put_on(ReplyClosed())
        transcript.next = len(transcript.items)
    return transcript.text_so_far

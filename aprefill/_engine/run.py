"""The run: what stands behind a `Reply`, owns its connection and waits for its text.

A run is in one `Phase` at a time (`phases.TABLE`). `pull` does what the phase asks for until there is something to hand
out; `drop` ends the run from any phase, while a reader waits or not. `_plan` decides what is sent, first and next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from .._errors import AprefillError, PrefillIgnored, ProviderError, ReplyClosed, Truncated, UsageError
from .._events import AttemptEnded
from .connection import Connection
from .ledger import Ledger
from .log import Log
from .phases import Phase, State
from .readers import Readers
from .requests import Requests
from .transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._deltas import Delta
    from .._hosts.refusals import RefusalMemory
    from .._hosts.target import Target
    from .._plan.request import Request
    from .._transports import Transport
    from .attempt import Attempt

#: So many turns of the event loop the end of a reply waits for its connection to be free again. What a host has sent
#: already is read in these, so that the next request finds the connection in the pool; nobody waits for the network.
_TURNS = 12

#: So much is taken in one pull by a reader in another thread: what goes to another thread costs less by the piece.
_ITEMS_A_PULL = 256

#: Looked at for every read; an attribute of an enumeration takes several times as long as a name.
_READING = Phase.READING


class Run:
    """One reply under way: asks for deltas, has them spliced, ends the connection.

    It refers to neither the `Reply` nor a cursor, so that dropping those can end it.
    """

    def __init__(
        self, request: Request, target: Target, make_transport: Callable[[], Transport], refusals: RefusalMemory
    ) -> None:
        self.request = request
        self.target = target
        self.state = State()
        self.readers = Readers()
        self.transcript = Transcript(request.prefill)
        self.ledger = Ledger(self.state, self.transcript)
        #: used with `async with`: losing a cursor does not end it, `aclose` does
        self.owned = False
        #: for a reader in another thread: what is there is taken in one pull, and read ahead of it, up to a bound
        self.reads_ahead = False
        self.connection = Connection()
        self._log = Log()
        self.requests = Requests(
            request,
            target,
            make_transport,
            refusals,
            self.transcript,
            self.ledger,
            self.connection,
            self._log,
        )
        # the wait before a request is sent again
        self._pause: anyio.CancelScope | None = None
        self._pulling = False

    # --- reading ----------------------------------------------------------------------------------------------

    def claim(self, reader: int, task: object, *, joins_task: bool = False) -> None:
        """Make `reader` the one that reads, as `Readers.claim`. Raises `UsageError` while another one does."""
        if self.state.is_over:
            self.readers.now = 0
        if not self.readers.claim(reader, task, joins_task=joins_task):
            raise self.transcript.put_on(
                UsageError(
                    "this reply is being read already; read it in one loop, end that one first, or give each reader its "
                    "own stream()"
                )
            )

    async def pull(self) -> bool:
        """Wait for more of the transcript, one network read at a time; False at the end. Raises what went wrong.

        To be called when everything in the transcript was handed out.
        """
        self.check_alone()
        self._pulling = True
        state, items, connection = self.state, self.transcript.items, self.connection
        have = len(items)
        if connection.attempt is not None:
            connection.attempt.resume()
        try:
            while len(items) == have or (self.reads_ahead and self._has_more(len(items) - have)):
                if state.phase is _READING:
                    attempt = connection.attempt
                    assert attempt is not None
                    deltas = await attempt.read()
                    # `await` may have ended the run
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
            self.drop()
            await connection.wait()
            if isinstance(exc, AprefillError):
                self.transcript.put_on(exc)
            if isinstance(exc, ProviderError):
                state.failed = type(exc).__name__
            raise
        finally:
            self._pulling = False

    def check_alone(self) -> None:
        """Raise `UsageError` while another pull waits."""
        if self._pulling:
            raise self.transcript.put_on(
                UsageError("two tasks are reading one reply; give each its own stream(), or read in one of them")
            )

    def _has_more(self, taken: int) -> bool:
        """Whether more of the answer is here, for which nobody has to wait, and a pull that has `taken` items may take it."""
        attempt = self.connection.attempt
        return taken < _ITEMS_A_PULL and self.phase is _READING and attempt is not None and attempt.has_more()

    async def _begin(self) -> None:
        """NEW: decide on the first request."""
        transport = self.requests.first()
        self.connection.begin(self)
        self.requests.start_clock()
        self._show_prefill("now")
        self._prepare(transport)

    def _prepare(self, transport: Transport) -> None:
        self.requests.prepare(transport, reads_ahead=self.reads_ahead)
        self.state.go("pull", Phase.OPENING)

    def _show_prefill(self, when: str) -> None:
        """Hand the prefill out, if this is when it is to be shown and it was not."""
        plan = self.requests.plan
        if self.request.shown and plan is not None and plan.show_when == when and self.transcript.lead_at < 0:
            self.transcript.show(self.request.shown)

    async def _open(self) -> None:
        """OPENING: send the request and wait for the head of the answer."""
        plan, attempt = self.requests.plan, self.connection.attempt
        assert plan is not None
        assert attempt is not None
        self.ledger.note("began")
        self._log.sent(plan)
        try:
            await attempt.open()
        except AprefillError as error:
            if self.phase is Phase.OPENING and not self._replace(error):
                self._fail(error)
            return
        if self.phase is not Phase.OPENING:
            return
        self.ledger.note("accepted")
        self._log.accepted(attempt.status)
        self.transcript.accepted = True
        self.state.go("opened", Phase.READING)
        self._show_prefill("accepted")

    def _take(self, attempt: Attempt, deltas: list[Delta]) -> None:
        """READING: splice what one read gave, and see whether that was all."""
        splice, state = self.requests.splice, self.state
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
                state.failure = failure
                splice.close(cut=True)
            elif attempt.ended or splice.stopped:
                splice.close(cut=False)
                state.failure = splice.exceeded
                if self._replace(state.failure):
                    return
            else:
                return
        except (PrefillIgnored, Truncated) as error:
            if self._replace(error):
                return
            if self.transcript.next == before:
                raise
            # raised when everything is handed out that earlier reads of the same pull gave
            del self.transcript.items[before:]
            self._fail(error.with_traceback(None))
            return
        self.ledger.note_progress(splice)
        if state.failure is not None:
            self._end_early("failed")
        elif splice.stopped:
            # a host would go on past a stop sequence of ours: cut it off before the last text is handed out
            self._end_early("read")
        else:
            state.go("read", Phase.HANDING_OUT)
        self._tell_end()

    def _replace(self, error: AprefillError | None) -> bool:
        """Have another request follow a failure or a clean end, if the plan wants one."""
        replaced = self.requests.go_on(error)
        if replaced:
            self.state.go("failed", Phase.PAUSING)
        return replaced

    def _fail(self, error: AprefillError) -> None:
        """The reply fails with `error`, once everything is handed out that came before."""
        # without the frames, which lead back here: that would be a cycle
        self.state.failure = error.with_traceback(None)
        self._end_early("failed")
        self._tell_end()

    def _end_early(self, event: str) -> None:
        """End the connection; what came is still to be handed out."""
        self.state.go(event, Phase.HANDING_OUT)
        self.connection.kill()
        self.connection.close()

    def _tell_end(self) -> None:
        if self.transcript.wants_events:
            self.transcript.items.append(AttemptEnded(self.ledger.report()))

    async def _hand_out(self) -> None:
        """HANDING_OUT: all was handed out. Raise what went wrong, or let the connection go back to its pool."""
        self.ledger.note("over")
        if self.state.failure is not None:
            self.state.go("failed", Phase.CLOSED)
            self.connection.forget_failure()
            raise self.state.take_failure()
        self.state.told_end = True
        self._log.complete(len(self.transcript.text_so_far))
        self.state.go("pull", Phase.DONE)
        if self.connection.closed is None:
            # nobody waits for it, so it may take the time that the caller gives it
            self.connection.close(drain_s=self.request.limits.drain_s if self.target.keep else None)
        await self.connection.wait_turns(_TURNS)

    async def _wait_to_ask_again(self) -> None:
        """PAUSING: wait until the last connection is closed, then for as long as the plan says."""
        plan = self.requests.plan
        assert plan is not None
        try:
            with anyio.CancelScope() as self._pause:
                await self.connection.wait()
                if plan.wait_s:
                    await anyio.sleep(plan.wait_s)
        finally:
            self._pause = None
        if self.phase is Phase.PAUSING:
            self._prepare(plan.transport())

    # --- ending -----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Shut the connection down, from any thread. `drop` has to follow, in the loop."""
        if not self.state.is_over:
            self.connection.kill()

    def drop(self, event: str = "drop") -> None:
        """End it now, from any task or a finaliser: shut the socket down, leave the rest to the loop. Raises nothing.

        A reader that waits comes back. A reply of which nobody has asked for a chunk yet stays as it is: for that there is
        `close_unsent`.
        """
        if self.phase is Phase.NEW or self.state.is_over or not self.connection.is_ours:
            return
        self.ledger.note("over")
        whole = self._is_handed_out()
        self._log.left("at its end" if whole else f"while {self.phase.value}")
        self.state.go(event, Phase.DONE if whole else Phase.CLOSED)
        self.transcript.forget_rest()
        if self._pause is not None:
            self._pause.cancel()
        self.connection.interrupt()

    def _is_handed_out(self) -> bool:
        """Whether the reply came whole and its last text was handed out."""
        if self.phase is not Phase.HANDING_OUT or self.state.failure is not None:
            return False
        return self.transcript.next == len(self.transcript.items)

    def close_unsent(self, event: str = "aclose") -> None:
        """Close a reply of which nobody has asked for a chunk yet, so that it sends nothing. In its loop, if it has one."""
        if self.phase is Phase.NEW:
            self.state.go(event, Phase.CLOSED)

    async def aclose(self) -> None:
        """End it now and release its connection. Shielded from cancellation, at most a second, idempotent."""
        self.close_unsent()
        self.drop("aclose")
        if self.phase is Phase.CLOSED or not self.target.keep:
            # a connection that is read to its end for its pool is nothing to wait for
            await self.connection.wait()

    def cancel(self) -> None:
        """End it from any task of its loop; its reader's loop ends as if the reply had ended.

        A reply whose last text was handed out stays what it is.
        """
        if not self.state.is_over:
            self.state.cancelled = not self._is_handed_out()
            self.close_unsent("cancel")
            self.drop("cancel")

    # --- where it is ------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where it is."""
        return self.state.phase

    def is_over(self) -> bool:
        """Whether nothing more will come. Raises `ReplyClosed` for a reply that was left early or has failed."""
        if self.phase is Phase.CLOSED and not self.state.cancelled:
            raise self.transcript.put_on(ReplyClosed())
        return self.state.is_over


#: Phase -> what a pull waits for there. READING is in `pull` itself: it is on the path of every chunk.
_PULLS: dict[Phase, Callable[[Run], Awaitable[None]]] = {
    Phase.NEW: Run._begin,
    Phase.OPENING: Run._open,
    Phase.PAUSING: Run._wait_to_ask_again,
    Phase.HANDING_OUT: Run._hand_out,
}


async def read_to_end(run: Run) -> str:
    """Hand everything out, and give the whole text. Raises what went wrong."""
    transcript = run.transcript
    run.check_alone()
    transcript.next = len(transcript.items)
    while run.phase is not Phase.DONE:
        if not await run.pull() and run.phase is Phase.CLOSED:
            raise transcript.put_on(ReplyClosed())
        transcript.next = len(transcript.items)
    return transcript.text_so_far

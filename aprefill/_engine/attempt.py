"""One request: open it, read deltas from it, close it. Awaits; decides nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import anyio

from .._codecs import codec as codec_by_name
from .._codecs._host_error import error_from
from .._deltas import EndDelta, ErrorDelta, ReasoningDelta, Record, TextDelta, ToolDelta
from .._errors import AprefillError, PrefillRefused, ProtocolError, StatusError, Truncated
from .._hosts.prefill import known_refusal
from .._json import to_bytes
from .._loops import clock_of, is_trio, native_loop, spawn_closing
from .._transports import HttpRequest
from .._transports._foreign import break_cycles, translate
from .._transports._headers import retry_after_s
from .._wire import decoder_for
from .._wire.sse import SseDecoder
from .ahead import Ahead
from .clocks import Clocks
from .deadline import ReadDeadline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._deltas import Delta
    from .._hosts.redact import Redactor
    from .._hosts.row import KnownRefusal
    from .._hosts.target import Target
    from .._plan.request import Request
    from .._plan.step import AttemptPlan
    from .._transports import Response, Transport

#: After the protocol's end the body is read on, to keep the connection, for at most this much.
DRAIN_BYTES = 65_536
#: How long an error body is read, in seconds.
ERROR_BODY_S = 5.0

#: Content codings (IANA's registry) that cannot be read here. Any other word in that header says nothing about the bytes.
_COMPRESSED = frozenset(
    "aes128gcm br compress dcb dcz deflate exi gzip pack200-gzip x-compress x-gzip zstd".split()  # noqa: SIM905
)

#: So much is decoded at once, in bytes and in records: then other tasks have their turn.
SLICE_BYTES = 16_384
SLICE_RECORDS = 256
#: Other tasks have their turn at least once in so many reads. An HTTP library gives small chunks that came together one
#: by one, without waiting.
READS_A_TURN = 32

_PROGRESS = (TextDelta, ReasoningDelta, ToolDelta)


class Attempt:
    """One request to one host.

    `open()`, then `read()` until `ended` or `failure`, then `drain()` if the connection is worth keeping, then
    `aclose()`, which may also come from another task, at any time: what arrives after it is closed at once.
    `kill()` ends the connection at once, from anywhere.
    """

    def __init__(
        self,
        plan: AttemptPlan,
        request: Request,
        target: Target,
        transport: Transport,
        *,
        total_at: float,
        reads_ahead: bool = False,
    ) -> None:
        self.plan = plan
        self._request = request
        self._target = target
        self._transport = transport
        self._redactor: Redactor | None = None
        self._timeouts = request.timeouts
        self._limits = request.limits
        self._clocks = Clocks(request.timeouts, total_at=total_at)
        self.codec = codec_by_name(plan.row.codec)
        self._decoder = self.codec.decoder(end=plan.row.end)
        self._response: Response | None = None
        self._scope: anyio.CancelScope | None = None
        self._deadline: ReadDeadline | None = None
        self._reads_ahead = reads_ahead
        self._ahead: Ahead | None = None
        self._now = time.monotonic
        # since when the reader has been waiting, as far as that was not counted yet
        self._since = 0.0
        # what was read last, decoded up to `_at`; and records of it that the codec has not seen
        self._data = b""
        self._at = 0
        self._records: Sequence[Record] = ()
        self._reads = 0
        # `open()` is under way; `aclose()` was called; what is set once both are through
        self._opening = False
        self._closing = False
        self._opened: anyio.Event | None = None
        #: HTTP status, once known
        self.status: int | None = None
        self._request_id: str | None = None
        self.received_bytes = 0
        self._has_records = False
        #: the protocol's end was seen
        self.ended = False
        #: the body that was sent, and the known refusal that it was answered with
        self.fields: dict[str, Any] = {}
        self.refusal: KnownRefusal | None = None
        #: what went wrong; the deltas returned along with it came before
        self.failure: AprefillError | None = None
        #: the class of what broke the stream after the model's own end; the reply is complete
        self.broken_end = ""
        #: whether `kill()` shuts the connection down; None before the host accepted
        self.closes_at_once: bool | None = None
        #: where the asynchronous close may be scheduled from a finaliser
        self.loop: Any = None

    @property
    def request_id(self) -> str | None:
        """For the host's support; None: it gave none."""
        return self._without_keys(self._request_id) if self._request_id else self._request_id

    def _without_keys(self, text: str) -> str:
        """`text` without our key and those that the client sent."""
        sent = set() if self._response is None else self._response.secrets()
        return self._target.redactor((), sent)(text)

    # --- opening ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Send the request and wait for the head of the answer. Raises unless it is a stream of this protocol.

        After an `aclose()` meanwhile it comes back without an answer.
        """
        plan, target = self.plan, self._target
        self.loop = native_loop()
        self._now = clock_of(self.loop)
        self.fields = self.codec.encode(plan.model_input)
        path = self.codec.path
        http_request = HttpRequest(
            url=target.url(path, with_prefill=plan.sends_prefill),
            headers=target.headers(),
            body=to_bytes(self.fields),
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
                # In a task of its own, like every close: this one may be cancelled. An answer that came all the same,
                # because the cancellation did not reach the client in time, is closed there.
                closed = spawn_closing(self._close, self.loop)
                if self._opened is not None and closed is None:
                    self._opened.set()
            self._count()
        if self._closing:
            return
        if self._response is None:
            raise self._clocks.stalled(0)
        self.status = self._response.status
        headers = self._response.headers
        self._request_id = headers.get("request-id") or headers.get("x-request-id") or headers.get("x-amzn-requestid")
        if self._response.can_kill and not is_trio(self.loop):
            self._deadline = ReadDeadline(self.loop, self._response.kill)
        await self._check_head()
        self.closes_at_once = self._response.can_kill
        self._wire = decoder_for(headers.get("content-type", ""), self._limits.record_bytes)
        self._receive = self._response.receive
        if self._reads_ahead:
            self._ahead = Ahead(self._response.receive, self.loop)
            self._receive = self._ahead.receive

    async def _check_head(self) -> None:
        response = self._response
        assert response is not None
        headers = response.headers
        encodings = {word.strip().lower() for word in headers.get("content-encoding", "").split(",")}
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if compressed := encodings & _COMPRESSED:
            raise ProtocolError(
                f"the answer is compressed ({min(compressed)}) though identity was asked for",
                status=response.status,
                content_type=self._redact(content_type),
            )
        if response.status != 200:
            raise self._status_error(await self._error_body(), headers)
        if content_type == "application/json":
            body = await self._error_body()
            if any(self.codec.error(200, body, headers)):
                raise self._in_band(error_from(Record(body)), before_text=True)
        if content_type in {"text/html", "application/json", "application/xhtml+xml"}:
            raise ProtocolError(
                f"the answer is {content_type}, not a stream", status=response.status, content_type=content_type
            )

    def _status_error(self, body: bytes, headers: Mapping[str, str]) -> AprefillError:
        assert self.status is not None
        assert self._response is not None
        error_type, detail = map(self._redact, self.codec.error(self.status, body, headers))
        refused = self._refused(self.status, body.decode(errors="replace"), detail)
        if refused is not None:
            return refused
        if 300 <= self.status < 400:
            detail = "a redirect, which is never followed: the prompt would go to another host"
        return StatusError(
            self.status,
            error_type=error_type,
            detail=detail,
            retry_after_s=retry_after_s(headers),
            request_id=self.request_id,
            url=self._without_keys(self._response.url()),
        )

    def _refused(self, status: int, said: str, quote: str) -> PrefillRefused | None:
        """The error for a native prefill that the host's words refuse; None: they are about something else."""
        plan = self.plan
        if not plan.sends_prefill:
            return None
        self.refusal = known = known_refusal(plan.row, status, said, self._request.fields())
        if known is None:
            return None
        off = self._request.forbids_emulation
        return PrefillRefused(plan.model_input.model, status=status, quote=quote, why=known.why, off=off)

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
                # half an error body says more than the failure to read the rest
                if translate(exc, stage="read", host=self._target.host, redact=self._redact) is None:
                    raise
        self._scope = None
        self._count()
        return b"".join(parts)[: self._limits.error_body_bytes]

    # --- reading ----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """The reader waits for us again: its clocks go on."""
        self._since = self._now()

    def has_more(self) -> bool:
        """Whether `read()` has something to look at already and will not wait for the network."""
        return bool(
            not (self.ended or self.failure)
            and (self._records or self._at < len(self._data) or (self._ahead is not None and self._ahead.has_more()))
        )

    async def read(self) -> list[Delta]:
        """The deltas of one network read, or of a slice of it, perhaps none. `ended` or `failure` may be set then."""
        limit = self._clocks.left(self._since)
        if limit <= 0:
            return self._cut(self._clocks.stalled(self.received_bytes))
        if self._records or self._at < len(self._data):
            await anyio.lowlevel.checkpoint()
            self._count()
            return self._decode()
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
            # a body that ends with its connection ends cleanly when the watch shuts that down
            stalled = deadline is not None and deadline.fired
        except Exception as exc:
            if deadline is None or not deadline.fired:
                self._count()
                return self._cut(self._ours(exc, "read"))
            break_cycles(exc)
            stalled = True
        except BaseException as exc:
            if deadline is None or not deadline.absorbs(exc):
                raise
            stalled = deadline.fired
        self._count()
        if stalled:
            return self._cut(self._clocks.stalled(self.received_bytes))
        if data is None:
            return self._eof()
        self.received_bytes += len(data)
        self._data, self._at = data, 0
        return self._decode()

    async def _give_turns(self) -> None:
        """Let other tasks have their turn, once in so many reads."""
        self._reads += 1
        if self._reads % READS_A_TURN == 0:
            await anyio.lowlevel.checkpoint()

    def _ours(self, exc: Exception, stage: Literal["open", "read"]) -> AprefillError:
        """Our error for a foreign one, chained; a bug is raised as it is.

        Here, so that no frame on either's traceback holds it in a variable: that would be a cycle.
        """
        error = translate(
            exc,
            stage=stage,
            host=self._target.host,
            port=self._target.port,
            redact=self._redact,
            connect_s=self._timeouts.connect_s if stage == "open" else None,
            received_bytes=self.received_bytes,
        )
        if error is None:
            raise exc
        error.__cause__ = exc
        return error

    def _decode(self) -> list[Delta]:
        """Decode a slice of what was read."""
        decode = self._decoder.decode
        deltas: list[Delta] = []
        try:
            records = self._records
            if not records:
                data = self._data
                if len(data) > SLICE_BYTES:
                    data = data[self._at : self._at + SLICE_BYTES]
                self._at += len(data)
                records = self._wire.feed(data)
                if records:
                    self._has_records = True
            if len(records) > SLICE_RECORDS:
                records, self._records = records[:SLICE_RECORDS], records[SLICE_RECORDS:]
            else:
                self._records = ()
            for record in records:
                deltas += decode(record)
        except AprefillError as error:
            return deltas + self._cut(self._counted(error), deltas)
        if deltas:
            self._look(deltas)
        return deltas

    def _eof(self) -> list[Delta]:
        deltas: list[Delta] = []
        try:
            undispatched = self._wire.close()
            if not self._has_records and not self._has_begun():
                what = (
                    "an empty body" if self.received_bytes == 0 else f"{self.received_bytes} bytes that are no stream"
                )
                raise ProtocolError(f"the answer is {what}", status=self.status)
            deltas += self._decoder.close(undispatched)
        except AprefillError as error:
            return self._cut(self._counted(error))
        self._look(deltas)
        return deltas

    def _json_error(self) -> AprefillError | None:
        """The error that came as a JSON body though an event stream was announced, if that is what came."""
        body = self._wire.json_body if isinstance(self._wire, SseDecoder) else b""
        if not body or self._response is None:
            return None
        if not any(self.codec.error(200, body, self._response.headers)):
            return None
        return self._in_band(error_from(Record(body)), before_text=True)

    def _has_begun(self) -> bool:
        """Whether what came, without a whole event in it, is the beginning of a stream and not something else."""
        assert self._response is not None
        headers = self._response.headers
        if self.received_bytes == 0:
            # nothing at all, and no length said so
            return "content-length" not in headers and "transfer-encoding" not in headers
        return self._wire.has_begun

    def _counted(self, error: AprefillError) -> AprefillError:
        """A decoder's `Truncated` with the bytes that only we have counted."""
        return Truncated(error.reason, received_bytes=self.received_bytes) if isinstance(error, Truncated) else error

    def _cut(self, error: AprefillError, before: Sequence[Delta] = ()) -> list[Delta]:
        """The stream broke or fell silent: an error, unless the model had given its stop reason; gives the last deltas.

        `before` are deltas of the same read, which nobody has looked at.
        """
        deltas: list[Delta] = []
        try:
            deltas += self._decoder.close()
        except AprefillError:
            self.failure = (None if self._has_records else self._json_error()) or error
        else:
            self.broken_end = type(error).__name__
        self._look([*before, *deltas])
        return deltas

    def _look(self, deltas: list[Delta]) -> None:
        last = deltas[-1] if deltas else None
        if type(last) is EndDelta:
            self.ended = True
        elif type(last) is ErrorDelta:
            before_text = not self._clocks.saw_token and not any(type(delta) in _PROGRESS for delta in deltas)
            self.failure = self._in_band(last, before_text=before_text)
        for delta in deltas:
            if type(delta) in _PROGRESS:
                self._clocks.note_progress()
                return

    def _in_band(self, error: ErrorDelta, *, before_text: bool) -> AprefillError:
        detail = self._redact(error.detail)
        refused = self._refused(200, error.body, detail) if before_text else None
        if refused is not None:
            return refused
        return StatusError(
            error.status,
            error_type=self._redact(error.error_type),
            detail=detail,
            request_id=self.request_id,
            in_band=True,
        )

    def _redact(self, text: str) -> str:
        """`text` of the host's, without the key and the prompt. Made ready only when something went wrong."""
        if self._redactor is None:
            sent = set() if self._response is None else self._response.secrets()
            self._redactor = self._target.redactor(self._request.texts(), sent, self.fields)
        return self._redactor(text)

    def _count(self) -> None:
        """Count the time since the last look at the clock as waited."""
        now = self._now()
        self._clocks.count(now - self._since)
        self._since = now

    # --- ending -----------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Make a waiting `open` or `read` come back now; synchronous, from any task of the loop."""
        if self._scope is not None:
            self._scope.cancel()
        if self._deadline is not None:
            self._deadline.interrupt()
        else:
            self.kill()

    def kill(self) -> bool:
        """Shut the connection down without awaiting; False where only an asynchronous close is possible."""
        return self._response is not None and self._response.kill()

    async def drain(self) -> None:
        """Read the body to its end so that the connection can be used again; gives up after `drain_s` or 64 KiB."""
        if not self._limits.drain_s:
            return
        size = 0
        with anyio.move_on_after(self._limits.drain_s):
            try:
                while size <= DRAIN_BYTES:
                    size += len(await self._receive())
                    await self._give_turns()
            except Exception as exc:
                # StopAsyncIteration is the end; anything else costs the connection, never the reply
                if not isinstance(exc, StopAsyncIteration):
                    translate(exc, stage="read", host=self._target.host, redact=self._redact)

    async def aclose(self) -> None:
        """Release the connection, and wait for an `open()` that is under way. Idempotent; raises nothing."""
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
            translate(exc, stage="read", host=self._target.host, redact=self._redact)
        finally:
            try:
                if not self._target.keep:
                    await self._transport.aclose()
            finally:
                if self._opened is not None:
                    self._opened.set()

"""One request: open it, read deltas from it, close it. Awaits; decides nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import anyio

from ._body import retry_after_s, to_bytes
from ._errors import (
    AprefillError,
    PrefillRefused,
    ProtocolError,
    Stalled,
    StatusError,
    Truncated,
)
from ._support import refusal
from ._types import EndDelta, ErrorDelta, ReasoningDelta, Record, TextDelta, ToolDelta
from ._watch import Watch, is_trio, native_loop
from .codecs import codec as codec_by_name
from .codecs._host_error import error_from
from .transports import Request
from .transports._foreign import translate
from .wire import decoder_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._ask import Ask
    from ._plan import Step
    from ._redact import Redactor
    from ._support import Refusal
    from ._target import Target
    from ._types import Delta
    from .transports import Response, Transport

#: After the protocol's end the body is read on, to keep the connection, for at most this long and this much.
DRAIN_S = 0.05
DRAIN_BYTES = 65_536
#: Largest error body that is read, in bytes, and for how long, in seconds.
ERROR_BODY_BYTES = 65_536
ERROR_BODY_S = 5.0

#: How much of a body is kept to tell a stream that was cut from something else, in bytes.
_BEGINS = 32

_NEVER = float("inf")
_PROGRESS = (TextDelta, ReasoningDelta, ToolDelta)


class Attempt:
    """One request to one host.

    `open()`, then `read()` until `ended` or `failure`, then `drain()` if the connection is worth keeping, then
    `aclose()`. `kill()` ends the connection at once, from anywhere.
    """

    def __init__(self, step: Step, ask: Ask, target: Target, transport: Transport, *, spent_s: float = 0.0) -> None:
        self.step = step
        self._ask = ask
        self._target = target
        self._transport = transport
        self._redactor: Redactor | None = None
        self._timeouts = timeouts = ask.timeouts
        self._first_token_s, self._progress_s, self._idle_s, self._total_s = (
            _NEVER if seconds is None else seconds
            for seconds in (
                timeouts.first_token_s, timeouts.progress_s, timeouts.idle_s, timeouts.total_s
            )
        )  # fmt: skip
        # what earlier requests of the same reply have used of the total
        self._total_s -= spent_s
        self._codec = codec_by_name(step.row.codec)
        self.decoder = self._codec.decoder(end=step.row.end)
        self._response: Response | None = None
        self._scope: anyio.CancelScope | None = None
        self._watch: Watch | None = None
        self._now = time.monotonic
        #: seconds spent in our own awaits, the only time that the clocks count
        self.waited_s = 0.0
        self._waited_since_progress = 0.0
        self._saw_token = False
        #: HTTP status, once known
        self.status: int | None = None
        self._request_id: str | None = None
        self.received_bytes = 0
        # the first bytes of the body
        self._begins = b""
        self._records = 0
        #: the protocol's end was seen
        self.ended = False
        #: the body that was sent, and the known refusal that it was answered with
        self.fields: dict[str, Any] = {}
        self.refusal: Refusal | None = None
        #: what went wrong; the deltas returned along with it came before
        self.failure: AprefillError | None = None
        #: `interrupt()` was called
        self.interrupted = False
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
        text = self._target.without_key(text)
        for secret in set() if self._response is None else self._response.secrets():
            text = text.replace(secret, "[key]")
        return text

    # --- opening ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Send the request and wait for the head of the answer. Raises unless it is a stream of this protocol."""
        step, target = self.step, self._target
        self.loop = native_loop()
        self.fields = self._codec.encode(step.call)
        path = self._codec.path
        request = Request(
            url=target.url(path, with_prefill=step.sends_prefill),
            headers=target.headers(),
            body=to_bytes(self.fields),
            path=path,
            connect_s=self._timeouts.connect_s,
        )
        limit = self._seconds_left()
        began = anyio.current_time()
        try:
            with anyio.CancelScope(deadline=began + limit) as scope:
                self._scope = scope
                try:
                    self._response = await self._transport.open(request)
                except Exception as exc:
                    raise self._ours(exc, "open") from exc
            self._scope = None
            if self._response is None:
                # an interrupted open ends the same way; the caller looks at `interrupted` first
                raise self._stalled(limit)
        finally:
            self._count(anyio.current_time() - began)
        self.status = self._response.status
        headers = self._response.headers
        self._request_id = headers.get("request-id") or headers.get("x-request-id") or headers.get("x-amzn-requestid")
        if self._response.can_kill and not is_trio(self.loop):
            self._watch = Watch(self.loop, self._response.kill)
        else:
            self._now = anyio.current_time
        await self._check_head()
        self.closes_at_once = self._response.can_kill
        self._wire = decoder_for(headers.get("content-type", ""))
        self._receive = self._response.receive

    async def _check_head(self) -> None:
        response = self._response
        assert response is not None
        headers = response.headers
        encoding = headers.get("content-encoding", "identity").strip().lower()
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if encoding not in {"", "identity"}:
            raise ProtocolError(
                f"the answer is compressed ({self._redact(encoding)[:20]}) though identity was asked for",
                status=response.status,
                content_type=self._redact(content_type),
            )
        if response.status != 200:
            raise self._status_error(await self._error_body(), headers)
        if content_type == "application/json":
            body = await self._error_body()
            if any(self._codec.error(200, body, headers)):
                raise self._in_band(error_from(Record(body)))
        if content_type in {"text/html", "application/json", "application/xhtml+xml"}:
            raise ProtocolError(
                f"the answer is {content_type}, not a stream", status=response.status, content_type=content_type
            )

    def _status_error(self, body: bytes, headers: Mapping[str, str]) -> AprefillError:
        assert self.status is not None
        assert self._response is not None
        step = self.step
        error_type, detail = map(self._redact, self._codec.error(self.status, body, headers))
        known = refusal(step.row, self.status, body.decode(errors="replace")) if step.sends_prefill else None
        if known is not None:
            self.refusal = known
            off = self._ask.forbids_emulation
            return PrefillRefused(step.call.model, status=self.status, quote=detail, why=known.why, off=off)
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

    async def _error_body(self) -> bytes:
        assert self._response is not None
        parts: list[bytes] = []
        size = 0
        began = anyio.current_time()
        with anyio.move_on_after(min(ERROR_BODY_S, self._seconds_left())):
            try:
                while size < ERROR_BODY_BYTES:
                    parts.append(await self._response.receive())
                    size += len(parts[-1])
            except StopAsyncIteration:
                pass
            except Exception as exc:
                # half an error body says more than the failure to read the rest
                if translate(exc, stage="read", host=self._target.host, redact=self._redact) is None:
                    raise
        self._count(anyio.current_time() - began)
        return b"".join(parts)[:ERROR_BODY_BYTES]

    # --- reading ----------------------------------------------------------------------------------------------

    async def read(self) -> list[Delta]:
        """The deltas of one network read, perhaps none. Afterwards `ended` or `failure` may be set."""
        now = self._now
        began = now()
        limit = self._seconds_left()
        watch = self._watch
        data: bytes | None = b""
        try:
            if watch is not None:
                watch.start(began + limit)
                try:
                    data = await self._receive()
                finally:
                    watch.stop()
                stalled = watch.fired
            else:
                with anyio.CancelScope(deadline=began + limit) as scope:
                    self._scope = scope
                    data = await self._receive()
                self._scope = None
                stalled = scope.cancelled_caught
        except StopAsyncIteration:
            data = None
            # a body that ends with its connection ends cleanly when the watch shuts that down
            stalled = watch is not None and watch.fired
        except Exception as exc:
            if watch is None or not watch.fired:
                self._count(now() - began)
                return self._cut(self._ours(exc, "read"))
            stalled = True
        if stalled:
            error = self._stalled(limit)
            self._count(now() - began)
            return self._cut(error)
        self._count(now() - began)
        return self._eof() if data is None else self._decode(data)

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

    def _decode(self, data: bytes) -> list[Delta]:
        if self.received_bytes < _BEGINS:
            self._begins += data[:_BEGINS]
        self.received_bytes += len(data)
        decode = self.decoder.decode
        deltas: list[Delta] = []
        try:
            records = self._wire.feed(data)
            self._records += len(records)
            for record in records:
                deltas += decode(record)
        except AprefillError as error:
            self.failure = self._counted(error)
        if deltas:
            self._look(deltas)
        return deltas

    def _eof(self) -> list[Delta]:
        deltas: list[Delta] = []
        try:
            undispatched = self._wire.close()
            if self._records == 0 and not self._has_begun():
                what = (
                    "an empty body" if self.received_bytes == 0 else f"{self.received_bytes} bytes that are no stream"
                )
                raise ProtocolError(f"the answer is {what}", status=self.status)
            deltas += self.decoder.close(undispatched)
            self._look(deltas)
        except AprefillError as error:
            self.failure = self._counted(error)
        return deltas

    def _has_begun(self) -> bool:
        """Whether what came, without a whole event in it, is the beginning of a stream and not something else."""
        assert self._response is not None
        headers = self._response.headers
        if not self._begins:
            # nothing at all, and no length said so
            return "content-length" not in headers and "transfer-encoding" not in headers
        begins = self._begins.lstrip(b"\xef\xbb\xbf\r\n")
        return any(word.startswith(begins[: len(word)]) for word in (b":", b"data:", b"event:", b"id:", b"retry:"))

    def _counted(self, error: AprefillError) -> AprefillError:
        """A decoder's `Truncated` with the bytes that only we have counted."""
        return Truncated(error.reason, received_bytes=self.received_bytes) if isinstance(error, Truncated) else error

    def _cut(self, error: AprefillError) -> list[Delta]:
        """The connection died or fell silent: an error, unless all that was missing is the protocol's last word."""
        try:
            deltas = [*self.decoder.close()]
        except AprefillError:
            self.failure = error
            return []
        self._look(deltas)
        return deltas

    def _look(self, deltas: list[Delta]) -> None:
        last = deltas[-1] if deltas else None
        if type(last) is EndDelta:
            self.ended = True
        elif type(last) is ErrorDelta:
            self.failure = self._in_band(last)
        for delta in deltas:
            if type(delta) in _PROGRESS:
                self._saw_token = True
                self._waited_since_progress = 0.0
                return

    def _in_band(self, error: ErrorDelta) -> StatusError:
        return StatusError(
            error.status,
            error_type=self._redact(error.error_type),
            detail=self._redact(error.detail),
            request_id=self.request_id,
            in_band=True,
        )

    def _redact(self, text: str) -> str:
        """`text` of the host's, without the key and the prompt. Made ready only when something went wrong."""
        if self._redactor is None:
            sent = set() if self._response is None else self._response.secrets()
            self._redactor = self._target.redactor(self._ask.texts(), sent)
        return self._redactor(text)

    # --- clocks -----------------------------------------------------------------------------------------------

    def _count(self, waited_s: float) -> None:
        self.waited_s += waited_s
        self._waited_since_progress += waited_s

    def _seconds_left(self) -> float:
        """Until the first clock runs out, when a read begins."""
        first = (
            self._progress_s - self._waited_since_progress if self._saw_token else self._first_token_s - self.waited_s
        )
        return max(0.0, min(first, self._idle_s, self._total_s - self.waited_s))

    def _stalled(self, limit: float) -> Stalled:
        """The error of the clock that gave a read `limit` seconds; to be called before the wait is counted."""
        if limit == self._idle_s:
            clock = "idle_s"
        elif limit >= self._total_s - self.waited_s:
            clock = "total_s"
        else:
            clock = "progress_s" if self._saw_token else "first_token_s"
        return Stalled(clock, getattr(self._timeouts, clock))

    # --- ending -----------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Make a waiting `open` or `read` come back now; synchronous, from any task of the loop."""
        self.interrupted = True
        if self._scope is not None:
            self._scope.cancel()
        self.kill()

    def kill(self) -> bool:
        """Shut the connection down without awaiting; False where only an asynchronous close is possible."""
        return self._response is not None and self._response.kill()

    async def drain(self) -> None:
        """Read the body to its end so that the connection can be used again; gives up after 50 ms or 64 KiB."""
        size = 0
        with anyio.move_on_after(DRAIN_S):
            try:
                while size <= DRAIN_BYTES:
                    size += len(await self._receive())
            except Exception as exc:
                # StopAsyncIteration is the end; anything else costs the connection, never the reply
                if not isinstance(exc, StopAsyncIteration):
                    translate(exc, stage="read", host=self._target.host, redact=self._redact)

    async def aclose(self) -> None:
        """Release the connection. Shielded, bounded, idempotent; raises nothing."""
        if self._watch is not None:
            self._watch.close()
        try:
            if self._response is not None:
                await self._response.aclose()
        except Exception as exc:
            translate(exc, stage="read", host=self._target.host, redact=self._redact)
        finally:
            if not self._target.keep:
                await self._transport.aclose()

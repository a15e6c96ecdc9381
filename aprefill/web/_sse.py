"""A reply as server-sent events: the response of a Starlette or FastAPI endpoint."""

# Imported at run time, so that `typing.get_type_hints` works on what is public.
# ruff: noqa: TC002, TC003
from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.background import BackgroundTask
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .. import Reply, UsageError
from .._records import AttemptRecord, ErrorRecord, HeldRecord, Records, as_event, as_json, http_status
from ._flow import ClientGone, Clocks, Flow, check_reply

if TYPE_CHECKING:
    from .. import AprefillError
    from .._records import Record

log = logging.getLogger("aprefill.web")

#: `no-transform` and nginx's own header keep proxies from holding events back to compress or to buffer them.
_HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}

#: A comment: readers of events pass it over.
_PING = b": ping\n\n"
#: An id and no event: an `EventSource` that asks again says so from here on, and is told that it need not.
_BEGUN = b"id: 0\n\n"


def sse(
    reply: Reply,
    *,
    reasoning: bool = False,
    tools: bool = False,
    attempts: bool = False,
    held: bool = False,
    details: bool = False,
    heartbeat_s: float | None = 15.0,
    send_timeout_s: float | None = 60.0,
    begin_after_s: float | None = None,
    reconnects: bool = False,
    headers: Mapping[str, str] | None = None,
    background: BackgroundTask | None = None,
) -> EventStreamResponse:
    """A response that streams `reply` as server-sent events: return it from the endpoint.

    The reply is asked for when the response is sent, and closed with it: a client that goes away closes the
    provider's connection at once. The HTTP status waits for the first record, so that an error before it is a status of
    its own, with the error record as a JSON body.

    Args:
        reply: What `stream()` gave, not yet iterated.
        reasoning, tools, attempts: Send records of these kinds as well.
        held: Send the model's text that is held back too, and when it is decided: for a page that greys it.
        details: Tell the client the error's own sentence, which may hold the host's words and the model's name. Without
            it a plain one; the log has the other, under ``aprefill.web``.
        heartbeat_s: Send a comment after this much silence, once the response has begun. None: never.
        send_timeout_s: Let a client go that has not taken one record for so long. None: wait for ever.
        begin_after_s: Send the status 200 after this long even if there is no record yet, for proxies that give up on
            a silent host; 0: at once. An error is a record then. None: wait for the first record.
        reconnects: Answer a request with Last-Event-ID as any other. Without it the answer is 204, which makes
            a browser's `EventSource` stop asking; it would ask, and pay, for the whole reply again.
        headers: More response headers.
        background: What to run afterwards, also when the client has gone; not where no model was asked (204, HEAD).

    Raises `UsageError` for wrong arguments.
    """
    check_reply(reply)
    return EventStreamResponse(
        reply,
        Records(reply, reasoning=reasoning, tools=tools, attempts=attempts, held=held, details=details),
        Clocks(heartbeat_s=heartbeat_s, send_timeout_s=send_timeout_s, begin_after_s=begin_after_s),
        reconnects=reconnects,
        headers=headers,
        background=background,
    )


class EventStreamResponse(Response):
    """What `sse` returns. Its headers and cookies can be set as on any response of Starlette's."""

    media_type = "text/event-stream"

    def __init__(
        self,
        reply: Reply,
        records: Records,
        clocks: Clocks,
        *,
        reconnects: bool,
        headers: Mapping[str, str] | None,
        background: BackgroundTask | None,
    ) -> None:
        # not the base class's, which would render a body and say how long it is
        self.status_code = 200
        self.background = background
        own = {name.lower(): value for name, value in (headers or {}).items()}
        if "content-length" in own:
            raise UsageError("headers= has a content-length, and nobody knows how long a reply will be", "leave it out")
        self.init_headers({**_HEADERS, **own})
        self._reply = reply
        self._records = records
        self._clocks = clocks
        self._reconnects = reconnects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI)."""
        asked_again = not self._reconnects and any(name == b"last-event-id" for name, _ in scope["headers"])
        if asked_again or scope["method"] == "HEAD":
            # a reply costs money, and neither of them can be shown one
            await send({
                "type": "http.response.start", "status": 204 if asked_again else 200, "headers": self.raw_headers,
            })  # fmt: skip
            await send({"type": "http.response.body", "body": b""})
            return
        channel = _EventChannel(self, self._records, receive, send)
        await Flow(self._reply, self._records, channel, self._clocks).run()
        if self.background is not None:
            await self.background()


class _EventChannel:
    """A client that reads server-sent events."""

    def __init__(self, response: Response, records: Records, receive: Receive, send: Send) -> None:
        self._response = response
        self._records = records
        self._receive = receive
        self._asgi_send = send
        self.begun = False
        # records that came before anything of the reply: the status may still be an error's
        self._early: list[bytes] = []

    async def begin(self) -> None:
        early = bool(self._early)
        await self._start()
        if not early:
            await self._send(_part(_BEGUN))

    async def _start(self) -> None:
        await self._send({
            "type": "http.response.start", "status": self._response.status_code, "headers": self._response.raw_headers,
        })  # fmt: skip
        self.begun = True
        if self._early:
            await self._send(_part(b"".join(self._early)))
            self._early.clear()

    async def send(self, record: Record) -> None:
        block = as_event(record, self._records.offset)
        if not self.begun:
            if isinstance(record, AttemptRecord | HeldRecord):
                self._early.append(block)
                return
            await self._start()
        await self._send(_part(block))

    async def ping(self) -> None:
        await self._send(_part(_PING))

    async def finish(self, record: Record, error: AprefillError | None) -> None:
        if error is not None and not self.begun:
            assert isinstance(record, ErrorRecord)
            await self._send_error(record, http_status(error))
            return
        await self.send(record)
        await self._send(_part(b"", more=False))

    async def _send_error(self, record: ErrorRecord, status: int) -> None:
        body = as_json(record) + b"\n"
        headers = MutableHeaders(raw=list(self._response.raw_headers))
        headers["content-type"] = "application/json"
        headers["content-length"] = str(len(body))
        headers["cache-control"] = "no-store"
        if record.retry_after_s is not None and status in {429, 503}:
            headers["retry-after"] = str(-int(-record.retry_after_s // 1))
        await self._send({"type": "http.response.start", "status": status, "headers": headers.raw})
        await self._send(_part(body, more=False))

    async def listen(self) -> None:
        # what is left of the request's body comes first
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        try:
            await self._asgi_send(message)
        except OSError as exc:  # ASGI 2.4: the client has gone
            raise ClientGone from exc
        except RuntimeError as exc:
            # uvloop's, of a transport that the server has closed and did not tell of (behind a pipelined request)
            if not str(exc).endswith("the handler is closed"):
                raise
            log.debug("a response was closed by the server: %s", exc)
            raise ClientGone from exc


def _part(body: bytes, *, more: bool = True) -> MutableMapping[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}

"""Sends a reply as server-sent events, as the response of a Starlette or FastAPI endpoint."""

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
    from .._records import ReplyRecord

log = logging.getLogger("aprefill.web")

#: `no-transform`, and nginx's own header, stop proxies from delaying events for compression or buffering.
_HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}

#: A comment, which readers of event streams ignore.
_PING = b": ping\n\n"
#: An id without an event, so that an `EventSource` that reconnects sends Last-Event-ID and gets status 204.
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
    """Return a response that streams `reply` as server-sent events. Return this response from the endpoint.

    The request to the provider is made when the response is sent. If the client disconnects, the provider's connection
    is closed at once. The HTTP status is sent with the first record. So an error before the first record has its own
    HTTP status, and its error record is the JSON body.

    Args:
        reply: What `stream()` returned, not yet iterated.
        reasoning, tools, attempts: Send records of these kinds as well.
        held: Also send the model's text that is still held back, and a record when it is decided, so that a page can
            show this text in grey.
        details: Send the client the error's full message, which may contain the host's text and the model's name.
            Without it, a general message is sent. The full message is always in the log ``aprefill.web``.
        heartbeat_s: Send a comment after this many seconds without a record, once the response has begun. None: never.
        send_timeout_s: Disconnect a client if one record cannot be sent to it for this many seconds. None: no limit.
        begin_after_s: Send the status 200 after this many seconds even if there is no record yet, for proxies with a
            timeout; 0: at once. A later error is then a record. None: wait for the first record.
        reconnects: Treat a request with Last-Event-ID like any other request. Without it, the response to such a
            request is 204, which stops the reconnecting of a browser's `EventSource`. Otherwise a reconnect would
            request, and pay for, the whole reply again.
        headers: Additional response headers.
        background: A task to run after the response, also after a disconnect. It is not run if no model was asked (204,
            HEAD).

    Raises `UsageError` for invalid arguments.
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
    """The response that `sse` returns. Headers and cookies can be set as on any Starlette response."""

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
        # The base class's `__init__` is not called, because it would render a body and set Content-Length.
        self.status_code = 200
        self.background = background
        own = {name.lower(): value for name, value in (headers or {}).items()}
        if "content-length" in own:
            raise UsageError(
                "headers= contains content-length, but the length of a reply is not known", "remove content-length"
            )
        self.init_headers({**_HEADERS, **own})
        self._reply = reply
        self._records = records
        self._clocks = clocks
        self._reconnects = reconnects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response (ASGI)."""
        is_reconnect = not self._reconnects and any(name == b"last-event-id" for name, _ in scope["headers"])
        if is_reconnect or scope["method"] == "HEAD":
            # The response to a HEAD request has no body, and a 204 has none either. So do not ask the model for a
            # reply, which would cost money.
            await send({
                "type": "http.response.start", "status": 204 if is_reconnect else 200, "headers": self.raw_headers,
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
        # Records that came before the reply's text. They are held back, because the status may still become an error.
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

    async def send(self, record: ReplyRecord) -> None:
        block = as_event(record, self._records.offset)
        if not self.begun:
            if isinstance(record, AttemptRecord | HeldRecord):
                self._early.append(block)
                return
            await self._start()
        await self._send(_part(block))

    async def ping(self) -> None:
        await self._send(_part(_PING))

    async def finish(self, record: ReplyRecord, error: AprefillError | None) -> None:
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
        # the rest of the request's body comes before the disconnect
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        try:
            await self._asgi_send(message)
        except OSError as exc:  # ASGI 2.4: the client has disconnected
            raise ClientGone from exc
        except RuntimeError as exc:
            # Raised by uvloop if the server has closed the transport without sending `http.disconnect`. This happens
            # after a pipelined request.
            if not str(exc).endswith("the handler is closed"):
                raise
            log.debug("a response was closed by the server: %s", exc)
            raise ClientGone from exc


def _part(body: bytes, *, more: bool = True) -> MutableMapping[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}

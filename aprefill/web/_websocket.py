"""Sends a reply over a WebSocket, with one JSON text frame per record."""

# Imported at run time, so that `typing.get_type_hints` works on what is public.
# ruff: noqa: TC003
from __future__ import annotations

import json
import logging
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from .. import Reply, UsageError
from .._records import PING, Records, as_json, close_code
from ._flow import ClientGone, Clocks, Flow, check_reply
from ._origin import Origins, origin_allowed

if TYPE_CHECKING:
    from .. import AprefillError
    from .._records import ReplyRecord

log = logging.getLogger("aprefill.web")

#: The close code for a policy violation (RFC 6455).
_POLICY = 1008

#: Maximum length of a "stop" message. Longer messages are not parsed.
_STOP_CHARS = 200


async def websocket(
    ws: WebSocket,
    reply: Reply,
    *,
    reasoning: bool = False,
    tools: bool = False,
    attempts: bool = False,
    held: bool = False,
    details: bool = False,
    origins: Origins = None,
    heartbeat_s: float | None = 15.0,
    send_timeout_s: float | None = 60.0,
    keep_open: bool = False,
    on_message: Callable[[str | bytes], object] | None = None,
) -> bool:
    """Stream `reply` to the client of a WebSocket.

    Returns True if everything was sent, and False if the client disconnected before the end or was refused.

    Checks the Origin, and accepts the connection if it was not accepted yet. If the client disconnects, the provider's
    connection is closed at once. The text message ``{"type": "stop"}``, of at most 200 characters, stops the reply; the
    end record is sent nevertheless. At the end the connection is closed with code 1000, with 1011 after an error, or
    with 1013 if the error means that the host is busy.

    Args:
        ws: The endpoint's WebSocket, accepted or not.
        reply: What `stream()` returned, not yet iterated.
        reasoning, tools, attempts: Send records of these kinds as well.
        held: Also send the model's text that is still held back, and a record when it is decided, so that a page can
            show this text in grey.
        details: Send the client the error's full message, which may contain the host's text and the model's name.
            Without it, a general message is sent. The full message is always in the log ``aprefill.web``.
        origins: The origins of the pages that may connect, such as ``"https://chat.example"``. None: only pages of the
            host of the request itself. ``"any"``: all pages. Other pages are refused with status 403, or with close
            code 1008 if the WebSocket was accepted already. A request without an Origin is allowed, because it is not
            from a browser.
        heartbeat_s: Send a ``ping`` record after this many seconds without a record. None: never.
        send_timeout_s: Disconnect a client if one record cannot be sent to it for this many seconds. None: no limit.
        keep_open: Leave the connection open for the next reply.
        on_message: A function that is called with every other message of the client that comes before the last record.
            Without it, such messages are dropped. It must be a plain function that does not block, not an
            ``async def``.

    Raises `UsageError` for invalid arguments, before the connection is accepted.
    """
    if on_message is not None and (
        not callable(on_message) or iscoroutinefunction(on_message) or iscoroutinefunction(type(on_message).__call__)
    ):
        raise UsageError(
            "on_message= is called but not awaited",
            "pass a plain function, which can for example put the message into a queue",
        )
    check_reply(reply)
    clocks = Clocks(heartbeat_s=heartbeat_s, send_timeout_s=send_timeout_s)
    if not await _open(ws, origins):
        return False
    records = Records(reply, reasoning=reasoning, tools=tools, attempts=attempts, held=held, details=details)
    channel = _SocketChannel(ws, reply, keep_open=keep_open, on_message=on_message)
    return await Flow(reply, records, channel, clocks).run()


async def _open(ws: WebSocket, origins: Origins) -> bool:
    """Accept the connection if necessary. Return False if the client has disconnected or its Origin is refused."""
    if WebSocketState.DISCONNECTED in {ws.client_state, ws.application_state}:
        return False
    allowed = origin_allowed(ws, origins)
    try:
        if ws.client_state is WebSocketState.CONNECTING:
            await ws.receive()
        if not allowed:
            log.warning("a WebSocket was refused: its Origin %.200r is not allowed", ws.headers.get("origin"))
            await ws.close(_POLICY)
        elif ws.application_state is WebSocketState.CONNECTING:
            await ws.accept()
    except (OSError, WebSocketDisconnect):
        return False
    return allowed


class _SocketChannel:
    """A client that is connected by a WebSocket."""

    begun = True

    def __init__(
        self, ws: WebSocket, reply: Reply, *, keep_open: bool, on_message: Callable[[str | bytes], object] | None
    ) -> None:
        self._ws = ws
        self._reply = reply
        self._keep_open = keep_open
        self._on_message = on_message

    async def begin(self) -> None:
        """Do nothing: a WebSocket is open already."""

    async def send(self, record: ReplyRecord) -> None:
        await self._send({"type": "websocket.send", "text": as_json(record).decode()})

    async def ping(self) -> None:
        await self.send(PING)

    async def finish(self, record: ReplyRecord, error: AprefillError | None) -> None:
        await self.send(record)
        if not self._keep_open:
            reason = "" if error is None else type(error).__name__
            await self._send({"type": "websocket.close", "code": close_code(error), "reason": reason})

    async def listen(self) -> None:
        while True:
            message = await self._ws.receive()
            if message["type"] == "websocket.disconnect":
                return
            text, data = message.get("text"), message.get("bytes")
            if text is not None and _says_stop(text):
                self._reply.cancel()
            elif self._on_message is not None:
                self._on_message(data or b"" if text is None else text)

    async def _send(self, message: dict[str, Any]) -> None:
        is_open = self._ws.application_state is WebSocketState.CONNECTED
        try:
            await self._ws.send(message)
        except (OSError, WebSocketDisconnect) as exc:
            raise ClientGone from exc
        except RuntimeError as exc:
            # The server has closed the WebSocket without sending `websocket.disconnect`, as uvicorn does after an
            # unanswered ping.
            if not is_open:
                raise
            log.debug("a WebSocket was closed by the server: %s", exc)
            raise ClientGone from exc


def _says_stop(text: str) -> bool:
    if len(text) > _STOP_CHARS or "stop" not in text:
        return False
    try:
        message = json.loads(text)
    except ValueError:
        return False
    return isinstance(message, dict) and message.get("type") == "stop"

"""A reply over a WebSocket, one JSON text frame a record."""

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
    from .._records import Record

log = logging.getLogger("aprefill.web")

#: RFC 6455: the server has a rule against it.
_POLICY = 1008

#: A message that says "stop" is short; longer ones are not looked into.
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
    """Stream `reply` to a client of a WebSocket; True: all was sent, False: the client went first, or was refused.

    Accepts the connection if that was not done, after a look at the Origin. A client that goes away closes the
    provider's connection at once. The message ``{"type": "stop"}``, as text of at most 200 characters, stops the reply,
    whose end record comes all the same. Closes the connection at the end: 1000, 1011 after an error, 1013 after one
    that says "busy".

    Args:
        ws: The endpoint's WebSocket, accepted or not.
        reply: What `stream()` gave, not yet iterated.
        reasoning, tools, attempts: Send records of these kinds as well.
        held: Send the model's text that is held back too, and when it is decided: for a page that greys it.
        details: Tell the client the error's own sentence, which may hold the host's words and the model's name. Without
            it a plain one; the log has the other, under ``aprefill.web``.
        origins: The origins of the pages that may connect, such as ``"https://chat.example"``; None: those of the host
            that the request is for; ``"any"``: all. Others are refused, with 403 or, when accepted already, with 1008.
            A request without an Origin is not from a browser, and may.
        heartbeat_s: Send a ``ping`` record after this much silence. None: never.
        send_timeout_s: Let a client go that has not taken one record for so long. None: wait for ever.
        keep_open: Leave the connection open for the next reply.
        on_message: A function that is given what else the client says before the last record; without it that is
            dropped. It must not wait, so it is no ``async def``.

    Raises `UsageError` for wrong arguments, before anything is accepted.
    """
    if on_message is not None and (
        not callable(on_message) or iscoroutinefunction(on_message) or iscoroutinefunction(type(on_message).__call__)
    ):
        raise UsageError(
            "on_message= is called and not awaited", "pass a function, which may put the message into a queue"
        )
    check_reply(reply)
    clocks = Clocks(heartbeat_s=heartbeat_s, send_timeout_s=send_timeout_s)
    if not await _open(ws, origins):
        return False
    records = Records(reply, reasoning=reasoning, tools=tools, attempts=attempts, held=held, details=details)
    channel = _SocketChannel(ws, reply, keep_open=keep_open, on_message=on_message)
    return await Flow(reply, records, channel, clocks).run()


async def _open(ws: WebSocket, origins: Origins) -> bool:
    """Have the connection accepted; False: it is gone, or must not be."""
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
    """A client at the other end of a WebSocket."""

    begun = True

    def __init__(
        self, ws: WebSocket, reply: Reply, *, keep_open: bool, on_message: Callable[[str | bytes], object] | None
    ) -> None:
        self._ws = ws
        self._reply = reply
        self._keep_open = keep_open
        self._on_message = on_message

    async def begin(self) -> None:
        """It has begun."""

    async def send(self, record: Record) -> None:
        await self._send({"type": "websocket.send", "text": as_json(record).decode()})

    async def ping(self) -> None:
        await self.send(PING)

    async def finish(self, record: Record, error: AprefillError | None) -> None:
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
            # the server has closed it, and has not told us yet, or will not: uvicorn after an unanswered ping of its own
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

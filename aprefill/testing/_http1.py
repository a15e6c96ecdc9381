"""HTTP/1.1 as the server needs it. h11 parses the requests. The responses are written here.

h11 does not write them, because a faulty response must be faulty in exactly one way.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._script import Framing

#: A client that sends `Expect: 100-continue` waits for this response before it sends the body.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BadRequest(Exception):
    """The client sent something that is not HTTP/1.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One complete request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    #: the connection may be used for another request
    keeps_alive: bool
    #: the client accepts a chunked response
    takes_chunks: bool


class RequestReader:
    """Turns bytes into complete requests. After a request it is ready for the next one."""

    def __init__(self) -> None:
        self._start(b"")

    def _start(self, data: bytes) -> None:
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 18)
        self._head: h11.Request | None = None
        self._body = bytearray()
        if data:
            self._parser.receive_data(data)

    @property
    def wants_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends its body. True once per request."""
        if not self._parser.they_are_waiting_for_100_continue:
            return False
        self._parser.send(h11.InformationalResponse(status_code=100, headers=[]))
        return True

    def feed(self, data: bytes) -> Request | None:
        """Return the next request if it is complete, else None.

        Feed b"" to get a request that arrived together with the one before. Raises `BadRequest`.
        """
        try:
            if data:
                self._parser.receive_data(data)
            while True:
                event = self._parser.next_event()
                if isinstance(event, h11.Request):
                    self._head = event
                elif isinstance(event, h11.Data):
                    self._body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return self._finish()
                else:
                    return None
        except h11.RemoteProtocolError as exc:
            raise BadRequest(str(exc)) from exc

    def _finish(self) -> Request:
        assert self._head is not None
        headers: dict[str, str] = {}
        for raw_name, raw_value in self._head.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        modern = self._head.http_version == b"1.1"
        request = Request(
            method=self._head.method.decode("ascii"),
            path=self._head.target.decode("ascii"),
            headers=headers,
            body=bytes(self._body),
            keeps_alive=modern and "close" not in headers.get("connection", "").lower(),
            takes_chunks=modern,
        )
        # use a new parser: this one waits for a response, which h11 never gets to see here
        self._start(self._parser.trailing_data[0])
        return request


def response_head(
    status: int, headers: Mapping[str, str], *, framing: Framing, length: int, keeps_alive: bool
) -> bytes:
    """Return the status line and the headers, including the ones for the framing of the body."""
    framed = {"chunked": ("transfer-encoding", "chunked"), "length": ("content-length", str(length))}.get(framing)
    named = dict([framed] if framed else []) | ({} if keeps_alive else {"connection": "close"}) | dict(headers)
    phrase = HTTPStatus(status).phrase if status in {known.value for known in HTTPStatus} else ""
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of a chunked body. It must not be empty, because an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"

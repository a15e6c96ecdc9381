"""Server-sent events: bytes in, records out.

The rules are WHATWG's, https://html.spec.whatwg.org/multipage/server-sent-events.html (9.2.6). Its three line
ends are those of `bytes.splitlines`, so lines are cut in C and one loop interprets them. A record that lies
whole in one piece costs that loop and nothing else. Only a record cut by the end of a piece is held, and only
what is held needs counting against the bound.
"""

from __future__ import annotations

from io import BytesIO

from .._deltas import Record
from .._errors import LimitExceeded
from ._bounded import BoundedDecoder

#: A longer event name or id is an error, in bytes: decoded, a hostile one takes four times its size.
MAX_NAME_BYTES = 4096

#: How much is kept of a body that is JSON, an error mostly, in bytes.
MAX_JSON_BYTES = 65_536

#: How much of a stream is kept to know whether it began as one, in bytes.
_HEAD_BYTES = 32
#: What a line of an event stream begins with.
_FIELDS = (b":", b"data", b"event", b"id", b"retry")

_BOM = b"\xef\xbb\xbf"
_CR, _LF = b"\r\n"
#: What JSON begins with that hosts send in place of a stream.
_JSON_BEGINS = (b"{", b"[")

# Event names recur in every record: this many lines of at most this length are looked up, not parsed.
_KNOWN_LINES = 64
_KNOWN_LINE_BYTES = 128

# Stands for a comment line that has no end yet: nothing of it is kept.
_COMMENT = BytesIO()


class SseDecoder(BoundedDecoder):
    """The records of one event stream, each as soon as its blank line begins.

    >>> decoder = SseDecoder()
    >>> decoder.feed(b"event: greeting\\r\\ndata: hel")
    []
    >>> decoder.feed(b"lo\\r\\n\\r\\ndata: [DONE]")
    [Record(data=b'hello', event='greeting', id='')]
    >>> decoder.close()
    Record(data=b'[DONE]', event='', id='')

    `Record.event` is ``""`` where the stream names no event (WHATWG's "message"). `Record.data` keeps invalid
    UTF-8 as it came; in `event` and `id` it is replaced. `retry` is ignored.

    `max_record_bytes` bounds one record: the bytes of its lines up to the blank line, without line ends and
    comments. Comments take no memory and are never too many. Beyond the bound, or beyond `MAX_NAME_BYTES`:
    `LimitExceeded`. Records complete before it are not lost: the feed that has some returns them, and the
    error comes from the next `feed` or `close`, and from every one after. Held are at most 9/8 of the bound.
    """

    def __init__(self, max_record_bytes: int = 1_048_576) -> None:
        super().__init__(max_record_bytes)
        self._looks = True
        # The first bytes, for `has_begun`.
        self._head = b""
        # What came, if it begins as JSON does.
        self._json: BytesIO | None = None
        # The first bytes while they may still become a BOM; None afterwards.
        self._start: bytes | None = b""
        # The last piece ended in CR: an LF now is the second half of that line end.
        self._after_cr = False
        # The line that has no end yet, `_COMMENT` if it is a comment, None between lines.
        self._partial: BytesIO | None = None
        # The open record: the bytes of its whole lines, its data (None: no data line yet), its event name.
        self._record_bytes = 0
        self._body: bytes | BytesIO | None = None
        self._event = ""
        # The last id seen; it stays for all later records.
        self._id = ""
        # Whole `event` lines already parsed, to their names.
        self._known: dict[bytes, str] = {}

    @property
    def has_begun(self) -> bool:
        """Whether the first line is, or may become, one of an event stream: a field that it knows, or a comment."""
        head = self._head
        head = head.removeprefix(_BOM) if len(head) >= len(_BOM) or not _BOM.startswith(head) else b""
        line, *more = head.lstrip(b"\r\n").splitlines() or [b""]
        name, colon, _ = line.partition(b":")
        if colon or more:
            return not name or name in _FIELDS
        return any(field.startswith(name) for field in _FIELDS)

    @property
    def json_body(self) -> bytes:
        """What came, if it begins as JSON does and no event stream: at most `MAX_JSON_BYTES` of it; else ``b""``.

        It is decoded as a stream all the same.
        """
        return b"" if self._json is None else self._json.getvalue()

    def _look(self, data: bytes) -> None:
        if self._json is None:
            self._look_at_head(data)
        else:
            self._keep_json(data)
        self._looks = self._json is not None or len(self._head) < _HEAD_BYTES

    def _last(self) -> Record | None:
        """The record that was begun and has data, but whose blank line never came; WHATWG discards it."""
        out: list[Record] = []
        last = [self._partial.getvalue()] if self._partial is not None else []
        self._run([*last, b""], out)
        return out[-1] if out else None

    def _forget(self) -> None:
        self._partial = self._body = None

    def _look_at_head(self, data: bytes) -> None:
        """Keep the first bytes, and see whether they begin JSON. White space before that is nothing in either kind."""
        may_begin = not self._first_ink()
        self._head += data[:_HEAD_BYTES]
        if may_begin and (ink := self._first_ink()) in _JSON_BEGINS:
            self._json = BytesIO()
            self._keep_json(data[data.index(ink) :])

    def _first_ink(self) -> bytes:
        head = self._head
        if len(head) < len(_BOM) and _BOM.startswith(head):
            return b""
        return head.removeprefix(_BOM).lstrip()[:1]

    def _keep_json(self, data: bytes) -> None:
        assert self._json is not None
        self._json.write(data[: MAX_JSON_BYTES - self._json.tell()])

    def _take(self, data: bytes, out: list[Record]) -> None:
        """Decode one slice."""
        if self._start is not None:
            data = self._start + data
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._start = data
                return
            self._start = None
            data = data.removeprefix(_BOM)
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if not data:
            return
        lines = data.splitlines()
        end = data[-1]
        if end == _LF and not lines[-1] and self._partial is None and not self._record_bytes:
            self._run(lines, out)  # whole records, nothing before them and nothing after
            return
        self._after_cr = end == _CR
        rest = b"" if end in (_LF, _CR) else lines.pop()
        if lines:
            self._whole_lines(lines, out)
        if rest:
            self._keep(rest)

    def _whole_lines(self, lines: list[bytes], out: list[Record]) -> None:
        """Take lines that may go on with an open record and may leave one open."""
        if self._partial is _COMMENT:
            self._partial = None
            lines[0] = b":"
        elif self._partial is not None:
            self._keep(lines[0])
            lines[0] = self._partial.getvalue()
            self._partial = None
        # Only the first record can be too large: what follows it lies whole in this slice.
        first = lines.index(b"") if b"" in lines else len(lines)
        size = self._record_bytes + _size(lines[:first])
        if size > self._max:
            raise LimitExceeded("record_bytes", self._max, "bytes")
        self._run(lines, out)
        if first < len(lines):
            last = len(lines) - 1
            while lines[last]:
                last -= 1
            size = _size(lines[last + 1 :])
        self._record_bytes = size

    def _keep(self, piece: bytes) -> None:
        """Append to the line that has no end yet, unless that passes the bound."""
        if self._partial is None:
            self._partial = _COMMENT if piece.startswith(b":") else BytesIO()
        if self._partial is _COMMENT:
            return
        if self._record_bytes + self._partial.tell() + len(piece) > self._max:
            raise LimitExceeded("record_bytes", self._max, "bytes")
        self._partial.write(piece)

    def _run(self, lines: list[bytes], out: list[Record]) -> None:
        """Interpret whole lines. Every token passes this loop."""
        body, event = self._body, self._event
        known = self._known.get
        for line in lines:
            if body is None and line[:6] == b"data: ":
                body = line[6:]
            elif not line:
                if body is not None:
                    out.append(Record(body if isinstance(body, bytes) else body.getvalue(), event, self._id))
                    body = None
                event = ""
            elif (name := known(line)) is not None:
                event = name
            else:
                body, event = self._field(line, body, event)
        self._body = body
        self._event = event

    def _field(self, line: bytes, body: bytes | BytesIO | None, event: str) -> tuple[bytes | BytesIO | None, str]:
        """Interpret one line that is not blank; gives the record's data and event name after it."""
        colon = line.find(b":")
        name, at = (line, len(line)) if colon < 0 else (line[:colon], colon + 1)
        if line[at : at + 1] == b" ":
            at += 1
        if name == b"data":
            if body is None:
                return line[at:], event
            if isinstance(body, bytes):
                first, body = body, BytesIO()
                body.write(first)
            body.write(b"\n")
            body.write(memoryview(line)[at:])
        elif name == b"event":
            event = _text(line[at:])
            if len(line) <= _KNOWN_LINE_BYTES and len(self._known) < _KNOWN_LINES:
                self._known[line] = event
        elif name == b"id" and b"\0" not in line:
            self._id = _text(line[at:])
        return body, event


def _size(lines: list[bytes]) -> int:
    return sum(len(line) for line in lines if line[:1] != b":")


def _text(value: bytes) -> str:
    if len(value) > MAX_NAME_BYTES:
        raise LimitExceeded("name_bytes", MAX_NAME_BYTES, "bytes")
    return value.decode("utf-8", "replace")

"""Decoder for server-sent events.

The rules are WHATWG's, https://html.spec.whatwg.org/multipage/server-sent-events.html (9.2.6). The three line ends are
the same as those of `bytes.splitlines`, so lines are split in C and interpreted in one Python loop. A record that is
entirely in one input costs only this loop. Only a record that continues in the next input is held, and only held bytes
are counted against the limit.
"""

from __future__ import annotations

from io import BytesIO

from .._deltas import Record
from .._errors import LimitExceeded
from ._bounded import BoundedDecoder

#: Maximum length of an event name or id, in bytes. A longer one is an error, because decoding may need four times the
#: memory.
MAX_NAME_BYTES = 4096

#: Maximum number of bytes that are kept of a body that is JSON, which is mostly an error.
MAX_JSON_BYTES = 65_536

#: Number of bytes at the start of the body that are kept to decide whether it is an event stream.
_HEAD_BYTES = 32
#: The beginnings of a line of an event stream.
_FIELDS = (b":", b"data", b"event", b"id", b"retry")

_BOM = b"\xef\xbb\xbf"
_CR, _LF = b"\r\n"
#: The first bytes of JSON that hosts send instead of a stream.
_JSON_BEGINS = (b"{", b"[")

# The same event names occur in every record. So up to this many event lines, up to this length, are cached.
_KNOWN_LINES = 64
_KNOWN_LINE_BYTES = 128

# Marks an incomplete line as a comment. Comments are not kept.
_COMMENT = BytesIO()


class SseDecoder(BoundedDecoder):
    """Decodes one event stream. Returns a record as soon as the first byte of its blank line is received.

    >>> decoder = SseDecoder()
    >>> decoder.feed(b"event: greeting\\r\\ndata: hel")
    []
    >>> decoder.feed(b"lo\\r\\n\\r\\ndata: [DONE]")
    [Record(data=b'hello', event='greeting', id='')]
    >>> decoder.close()
    Record(data=b'[DONE]', event='', id='')

    `Record.event` is ``""`` if the stream names no event (WHATWG's "message"). Invalid UTF-8 is kept unchanged in
    `Record.data`, and replaced in `event` and `id`. `retry` is ignored.

    Google's hosts may write an error between the events as bare JSON, on lines that are no fields. WHATWG ignores such
    lines. `close` returns the JSON as an incomplete record with the event name "error", if nothing else is incomplete.

    `max_record_bytes` limits one record: the bytes of its lines up to the blank line, without line ends and comments.
    Comments take no memory and have no limit. A larger record, or a name longer than `MAX_NAME_BYTES`, raises
    `LimitExceeded`. Records that are complete before an error are not lost: `feed` returns them. The next call of
    `feed` or `close` raises the error, and so does every later call. The decoder holds at most 9/8 of the limit.
    """

    def __init__(self, max_record_bytes: int = 1_048_576) -> None:
        super().__init__(max_record_bytes)
        self._looks = True
        # The first bytes of the body, for `has_begun`.
        self._head = b""
        # The beginning of the body if it may be JSON.
        self._json: BytesIO | None = None
        # The first bytes while they may be the beginning of a BOM; None afterwards.
        self._start: bytes | None = b""
        # Whether the last input ended with CR. An LF at the start of the next input belongs to the same line end.
        self._after_cr = False
        # The incomplete line; `_COMMENT` if it is a comment; None between lines.
        self._partial: BytesIO | None = None
        # The incomplete record: the size of its complete lines, its data (None: no data line yet), its event name.
        self._record_bytes = 0
        self._body: bytes | BytesIO | None = None
        self._event = ""
        # The last id, which is valid for all later records too.
        self._id = ""
        # The first bytes of an error between the events.
        self._bare: BytesIO | None = None
        # Cache: complete `event` line -> event name.
        self._known: dict[bytes, str] = {}

    @property
    def has_begun(self) -> bool:
        """Whether the first line is, or may become, a known field or a comment of an event stream."""
        head = self._head
        head = head.removeprefix(_BOM) if len(head) >= len(_BOM) or not _BOM.startswith(head) else b""
        line, *more = head.lstrip(b"\r\n").splitlines() or [b""]
        name, colon, _ = line.partition(b":")
        if colon or more:
            return not name or name in _FIELDS
        return any(field.startswith(name) for field in _FIELDS)

    @property
    def json_body(self) -> bytes:
        """The first `MAX_JSON_BYTES` of the body if it begins like JSON; else ``b""``.

        The body is decoded as an event stream as well.
        """
        return b"" if self._json is None else self._json.getvalue()

    def _look(self, data: bytes) -> None:
        if self._json is None:
            self._look_at_head(data)
        else:
            self._keep_json(data)
        self._looks = self._json is not None or len(self._head) < _HEAD_BYTES

    def _last(self) -> Record | None:
        """Return the last record if it has data but no blank line after it, or an error between the events.

        WHATWG discards both.
        """
        out: list[Record] = []
        last = [self._partial.getvalue()] if self._partial is not None else []
        self._run([*last, b""], out)
        bare = b"" if self._bare is None else self._bare.getvalue()
        if not out and b'"error"' in bare:
            return Record(bare, "error", self._id)
        return out[-1] if out else None

    def _forget(self) -> None:
        self._partial = self._body = self._bare = None

    def _look_at_head(self, data: bytes) -> None:
        """Keep the first bytes, and check whether they begin JSON. White space before them is ignored."""
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
            self._run(lines, out)  # the input is complete records only
            return
        self._after_cr = end == _CR
        rest = b"" if end in (_LF, _CR) else lines.pop()
        if lines:
            self._whole_lines(lines, out)
        if rest:
            self._keep(rest)

    def _whole_lines(self, lines: list[bytes], out: list[Record]) -> None:
        """Process complete lines. They may continue an incomplete record and may end with an incomplete record."""
        if self._partial is _COMMENT:
            self._partial = None
            lines[0] = b":"
        elif self._partial is not None:
            self._keep(lines[0])
            lines[0] = self._partial.getvalue()
            self._partial = None
        # Only the first record can be too large: the others are entirely in this slice.
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
        """Append to the incomplete line. Raises `LimitExceeded`."""
        if self._partial is None:
            self._partial = _COMMENT if piece.startswith(b":") else BytesIO()
        if self._partial is _COMMENT:
            return
        if self._record_bytes + self._partial.tell() + len(piece) > self._max:
            raise LimitExceeded("record_bytes", self._max, "bytes")
        self._partial.write(piece)

    def _run(self, lines: list[bytes], out: list[Record]) -> None:
        """Interpret complete lines. This loop runs for every token of a reply."""
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
        """Interpret one line that is not blank. Return the record's data and event name after this line."""
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
        elif name == b"id":
            if b"\0" not in line:
                self._id = _text(line[at:])
        elif name and (self._bare is not None or (body is None and line.startswith(_JSON_BEGINS))):
            self._keep_bare(line)
        return body, event

    def _keep_bare(self, line: bytes) -> None:
        """Append a line of JSON that is no field, up to a limit."""
        if self._bare is None:
            self._bare = BytesIO()
        self._bare.write(line[: MAX_JSON_BYTES - self._bare.tell()])


def _size(lines: list[bytes]) -> int:
    return sum(len(line) for line in lines if line[:1] != b":")


def _text(value: bytes) -> str:
    if len(value) > MAX_NAME_BYTES:
        raise LimitExceeded("name_bytes", MAX_NAME_BYTES, "bytes")
    return value.decode("utf-8", "replace")

"""Decoder for JSON lines: one record per line."""

from __future__ import annotations

from io import BytesIO

from .._deltas import Record
from .._errors import LimitExceeded
from ._bounded import BoundedDecoder


class NdjsonDecoder(BoundedDecoder):
    r"""Decodes one stream of JSON lines. Returns a record as soon as its LF is received.

    >>> decoder = NdjsonDecoder()
    >>> decoder.feed(b'{"done":false}\r\n\r\n{"do')
    [Record(data=b'{"done":false}', event='', id='')]
    >>> decoder.feed(b'ne":true}')
    []
    >>> decoder.close()
    Record(data=b'{"done":true}', event='', id='')

    A line ends with LF or CRLF. A CR elsewhere is kept: in JSON it is white space. Blank lines are skipped, also if
    they contain white space. The decoder does not check that a line is JSON; the codec does.

    `max_record_bytes` limits the length of a line without its line end. A longer line raises `LimitExceeded`. Records
    that are complete before an error are not lost: `feed` returns them. The next call of `feed` or `close` raises the
    error, and so does every later call. The decoder holds at most 9/8 of the limit.
    """

    def __init__(self, max_record_bytes: int = 1_048_576) -> None:
        super().__init__(max_record_bytes)
        self._looks = True
        # The first byte that is not white space, for `has_begun`.
        self._first = b""
        # The incomplete line; None between lines.
        self._partial: BytesIO | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the first line is, or may become, a JSON object."""
        return self._first in {b"", b"{"}

    def _look(self, data: bytes) -> None:
        self._first = data.lstrip()[:1]
        self._looks = not self._first

    def _last(self) -> Record | None:
        """Return the last line if it has no LF and is not blank."""
        line = b"" if self._partial is None else self._partial.getvalue().removesuffix(b"\r")
        return Record(line) if line and not line.isspace() else None

    def _forget(self) -> None:
        self._partial = None

    def _take(self, data: bytes, out: list[Record]) -> None:
        """Decode one slice."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._partial is not None:
            if lines[0]:
                self._keep(lines[0])
            lines[0] = self._partial.getvalue()
            self._partial = None
        for line in lines:
            text = line[:-1] if line[-1:] == b"\r" else line
            if text and not text.isspace():
                out.append(Record(text))
        if rest:
            self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        """Append to the incomplete line. Raises `LimitExceeded`."""
        if self._partial is None:
            self._partial = BytesIO()
        size = self._partial.tell() + len(piece)
        # A CR at the end may be the first half of CRLF, so it counts only when another byte follows it.
        if size - piece.endswith(b"\r") > self._max:
            raise LimitExceeded("record_bytes", self._max, "bytes")
        self._partial.write(piece)

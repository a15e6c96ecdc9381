"""JSON lines: bytes in, one record a line out."""

from __future__ import annotations

from io import BytesIO

from .._deltas import Record
from .._errors import LimitExceeded
from ._bounded import BoundedDecoder


class NdjsonDecoder(BoundedDecoder):
    r"""The records of one stream of JSON lines, each as soon as its LF is here.

    >>> decoder = NdjsonDecoder()
    >>> decoder.feed(b'{"done":false}\r\n\r\n{"do')
    [Record(data=b'{"done":false}', event='', id='')]
    >>> decoder.feed(b'ne":true}')
    []
    >>> decoder.close()
    Record(data=b'{"done":true}', event='', id='')

    A line ends in LF or CRLF; a CR elsewhere is white space to JSON and stays. Blank lines, also those of
    white space alone, are skipped. That a line is JSON is for the codec to find out.

    `max_record_bytes` bounds one line without its end. Beyond it: `LimitExceeded`. Records complete before it
    are not lost: the feed that has some returns them, and the error comes from the next `feed` or `close`, and
    from every one after. Held are at most 9/8 of the bound.
    """

    def __init__(self, max_record_bytes: int = 1_048_576) -> None:
        super().__init__(max_record_bytes)
        self._looks = True
        # The first byte that is no white space, for `has_begun`.
        self._first = b""
        # The line that has no end yet; None between lines.
        self._partial: BytesIO | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the first line is, or may become, a JSON object."""
        return self._first in {b"", b"{"}

    def _look(self, data: bytes) -> None:
        self._first = data.lstrip()[:1]
        self._looks = not self._first

    def _last(self) -> Record | None:
        """The last line if its LF never came and it is not blank."""
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
        """Append to the line that has no end yet, unless that passes the bound."""
        if self._partial is None:
            self._partial = BytesIO()
        size = self._partial.tell() + len(piece)
        # A CR at the end may be half of the line's end and counts once something else follows it.
        if size - piece.endswith(b"\r") > self._max:
            raise LimitExceeded("record_bytes", self._max, "bytes")
        self._partial.write(piece)

"""JSON lines: bytes in, one record a line out."""

from __future__ import annotations

from io import BytesIO

from .._deltas import Record
from .._errors import LimitExceeded

# Larger pieces are worked off in slices of this many bytes: what a slice costs in memory is bounded too.
_SLICE_BYTES = 16_384


class NdjsonDecoder:
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
        if max_record_bytes < 1:
            raise ValueError(f"max_record_bytes is {max_record_bytes}, it must be at least 1")
        self._max = max_record_bytes
        # A line that lies whole in one slice can then not exceed the bound.
        self._slice = min(_SLICE_BYTES, max_record_bytes)
        self._closed = False
        self._error: LimitExceeded | None = None
        # The first byte that is no white space, for `has_begun`.
        self._first = b""
        # The line that has no end yet; None between lines.
        self._partial: BytesIO | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the first line is, or may become, a JSON object."""
        return self._first in {b"", b"{"}

    def feed(self, data: bytes) -> list[Record]:
        """Records completed by `data`, in order.

        Raises `LimitExceeded` (see the class) and, after `close`, RuntimeError.
        """
        if self._closed:
            raise RuntimeError("feed() after close()")
        if self._error is not None:
            raise self._error
        if not self._first:
            self._first = data.lstrip()[:1]
        out: list[Record] = []
        try:
            if len(data) <= self._slice:
                self._take(data, out)
            else:
                for at in range(0, len(data), self._slice):
                    self._take(data[at : at + self._slice], out)
        except LimitExceeded as error:
            self._error = error
            self._partial = None
            if not out:
                raise
        return out

    def close(self) -> Record | None:
        """The last line if its LF never came and it is not blank. The caller may take it.

        Raises `LimitExceeded` if one is due, and RuntimeError on a second call.
        """
        if self._closed:
            raise RuntimeError("close() after close()")
        self._closed = True
        if self._error is not None:
            raise self._error
        line = b"" if self._partial is None else self._partial.getvalue().removesuffix(b"\r")
        return Record(line) if line and not line.isspace() else None

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

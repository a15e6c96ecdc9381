"""Decoder for a stream that is one JSON array: one record per element."""

from __future__ import annotations

import re
from io import BytesIO

from .._deltas import Record
from .._errors import LimitExceeded
from ._bounded import BoundedDecoder

#: Maximum number of bytes that are kept of a body that is JSON and no array, which is mostly an error.
MAX_JSON_BYTES = 65_536

#: The next byte with a meaning: outside a string, and inside a string.
_OUTSIDE = re.compile(rb'["{}\[\],]')
_INSIDE = re.compile(rb'["\\]')
#: The first byte of an element: everything else between two elements is skipped.
_FIRST = re.compile(rb"[^\s,]")


class JsonArrayDecoder(BoundedDecoder):
    r"""Decodes one JSON array. Returns an element as soon as it is complete.

    >>> decoder = JsonArrayDecoder()
    >>> decoder.feed(b'[{"a":"]"}\n,\r\n{"b"')
    [Record(data=b'{"a":"]"}', event='', id='')]
    >>> decoder.feed(b":[1]}]")
    [Record(data=b'{"b":[1]}', event='', id='')]

    An element ends with the bracket that closes it. An element without brackets, such as a number, ends with a comma or
    with the end of the array. The decoder counts brackets outside strings, and does not check that an element is JSON;
    the codec does. Everything after the end of the array is ignored.

    `max_record_bytes` limits the length of an element. A longer element raises `LimitExceeded`. Records that are
    complete before an error are not lost: `feed` returns them. The next call of `feed` or `close` raises the error, and
    so does every later call. The decoder holds at most 9/8 of the limit.
    """

    def __init__(self, max_record_bytes: int = 1_048_576) -> None:
        super().__init__(max_record_bytes)
        self._looks = True
        # The first byte that is not white space. Only if it is a bracket, the body is an array.
        self._first = b""
        # The beginning of a body that is JSON and no array.
        self._json: BytesIO | None = None
        # Number of open brackets: 0 before and after the array, 1 between two elements or in one without brackets.
        self._depth = 0
        self._in_string = False
        # Whether the last byte of the input was a backslash in a string, so that the next byte has no meaning.
        self._escaped = False
        self._ended = False
        # The incomplete element; None between elements.
        self._partial: BytesIO | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the body is, or may become, an array."""
        return self._first in {b"", b"["}

    @property
    def json_body(self) -> bytes:
        """The first `MAX_JSON_BYTES` of the body if it begins like a JSON object; else ``b""``."""
        return b"" if self._json is None else self._json.getvalue()

    def _look(self, data: bytes) -> None:
        if not self._first:
            data = data.lstrip()
            self._first = data[:1]
            if self._first == b"{":
                self._json = BytesIO()
        if self._json is not None:
            self._json.write(data[: MAX_JSON_BYTES - self._json.tell()])
        self._looks = not self._first or self._json is not None

    def _last(self) -> Record | None:
        """Return the element that was begun and not completed, if any."""
        element = b"" if self._partial is None else self._partial.getvalue().rstrip()
        return Record(element) if element else None

    def _forget(self) -> None:
        self._partial = None

    def _take(self, data: bytes, out: list[Record]) -> None:
        """Decode one slice."""
        if self._ended or self._first != b"[":
            return
        at = 0
        if self._depth == 0:
            at = data.find(b"[") + 1
            if not at:
                return  # white space before the array
            self._depth = 1
        while at < len(data):
            if self._partial is None:
                found = _FIRST.search(data, at)
                if found is None:
                    return
                at = found.start()
                self._partial = BytesIO()
            at = self._element(data, at, out)

    def _element(self, data: bytes, start: int, out: list[Record]) -> int:
        """Read the current element from `start`. Return where the next one may begin, or the length of `data`."""
        at, end = start, len(data)
        while at < end:
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_INSIDE if self._in_string else _OUTSIDE).search(data, at)
            if found is None:
                break
            at = found.end()
            byte = found[0]
            if byte == b'"':
                self._in_string = not self._in_string
            elif byte == b"\\":
                self._escaped = True
            elif byte in b"{[":
                self._depth += 1
            elif byte == b",":
                if self._depth == 1:
                    self._complete(data[start : at - 1], out)
                    return at
            else:
                self._depth -= 1
                if self._depth == 1:
                    self._complete(data[start:at], out)
                    return at
                if self._depth == 0:
                    self._ended = True
                    self._complete(data[start : at - 1], out)
                    return end
        self._keep(data[start:])
        return end

    def _complete(self, piece: bytes, out: list[Record]) -> None:
        """Append the element that ends with `piece`. Raises `LimitExceeded`."""
        self._keep(piece)
        last = self._last()
        self._partial = None
        if last is not None:
            out.append(last)

    def _keep(self, piece: bytes) -> None:
        """Append to the incomplete element. Raises `LimitExceeded`."""
        assert self._partial is not None
        if self._partial.tell() + len(piece) > self._max:
            raise LimitExceeded("record_bytes", self._max, "bytes")
        self._partial.write(piece)

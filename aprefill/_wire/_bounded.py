"""What every wire decoder has in common: `feed` each read, `close` once, and a bound whose error comes in its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import LimitExceeded, ProtocolError

if TYPE_CHECKING:
    from .._deltas import Record

#: Larger pieces are worked off in slices of this many bytes, so that what a slice costs in memory is bounded too: as a
#: list, lines of two bytes take 20 times their size, 0.3 MiB a slice.
SLICE_BYTES = 16_384


class BoundedDecoder:
    """Slices what is fed and keeps the error of the first record that cannot be taken.

    Records complete before that one are not lost: the feed that has some returns them, and the error comes from the next
    `feed` or `close`, and from every one after.

    A subclass takes slices in `_take`, gives its last record in `_last`, and drops what it holds in `_forget`.
    """

    def __init__(self, max_record_bytes: int) -> None:
        if max_record_bytes < 1:
            raise ValueError(f"max_record_bytes is {max_record_bytes}, it must be at least 1")
        self._max = max_record_bytes
        # A record that lies whole in one slice can then not exceed the bound.
        self._slice = min(SLICE_BYTES, max_record_bytes)
        self._closed = False
        self._error: LimitExceeded | ProtocolError | None = None
        # `_look` is to see the next piece before it is sliced
        self._looks = False

    @property
    def json_body(self) -> bytes:
        """What came, if it is JSON in place of a stream of this kind, as far as it was kept; else ``b""``."""
        return b""

    def feed(self, data: bytes) -> list[Record]:
        """Records completed by `data`, in order.

        Raises the errors that the class names and, after `close`, RuntimeError.
        """
        if self._closed:
            raise RuntimeError("feed() after close()")
        if self._error is not None:
            raise self._error
        if self._looks:
            self._look(data)
        out: list[Record] = []
        try:
            if len(data) <= self._slice:
                self._take(data, out)
            else:
                for at in range(0, len(data), self._slice):
                    self._take(data[at : at + self._slice], out)
        except (LimitExceeded, ProtocolError) as error:
            self._error = error
            self._forget()
            if not out:
                raise
        return out

    def close(self) -> Record | None:
        """The record that was begun and never completed, if any. The caller may take it.

        Raises the error that is due, if any, and RuntimeError on a second call.
        """
        if self._closed:
            raise RuntimeError("close() after close()")
        self._closed = True
        if self._error is not None:
            raise self._error
        return self._last()

    def _look(self, data: bytes) -> None:
        """See a piece before it is sliced, as long as `_looks` is set."""

    def _take(self, data: bytes, out: list[Record]) -> None:
        """Decode one slice. Raises `LimitExceeded` beyond a bound, `ProtocolError` for what is no stream of this kind."""
        raise NotImplementedError  # each decoder has its own; the class is not used by itself

    def _last(self) -> Record | None:
        """The record that was begun and never completed."""
        return None

    def _forget(self) -> None:
        """Drop what is held: an error came."""

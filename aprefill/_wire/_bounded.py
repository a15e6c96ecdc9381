"""The common part of all wire decoders: the slicing of input, the limit on a record, and the order of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import LimitExceeded, ProtocolError

if TYPE_CHECKING:
    from .._deltas import Record

#: Larger inputs are processed in slices of this many bytes, to limit the memory: a list of lines of two bytes takes 20
#: times their size, which is 0.3 MiB per slice.
SLICE_BYTES = 16_384


class BoundedDecoder:
    """Passes the input to the subclass in slices, and keeps the error of the first record that cannot be decoded.

    Records that are complete before the error are not lost: `feed` returns them. The next call of `feed` or `close`
    raises the error, and so does every later call.

    A subclass implements `_take`, which decodes a slice. It may override `_last`, which returns the incomplete record
    at the end, and `_forget`, which drops held bytes.
    """

    def __init__(self, max_record_bytes: int) -> None:
        if max_record_bytes < 1:
            raise ValueError(f"max_record_bytes is {max_record_bytes}, it must be at least 1")
        self._max = max_record_bytes
        # At most the limit, so that a record that is entirely in one slice cannot exceed it.
        self._slice = min(SLICE_BYTES, max_record_bytes)
        self._closed = False
        self._error: LimitExceeded | ProtocolError | None = None
        # whether `feed` must pass its input to `_look` before slicing it
        self._looks = False

    @property
    def json_body(self) -> bytes:
        """The beginning of the body if the body is JSON and not a stream of this format; else ``b""``."""
        return b""

    def feed(self, data: bytes) -> list[Record]:
        """Return the records that `data` completes, in order.

        Raises the errors that the class documents. Raises RuntimeError after `close`.
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
        """End the stream. Return the record that was begun and not completed, if any. The caller may use it.

        Raises the error of an earlier `feed`, if any. Raises RuntimeError on a second call.
        """
        if self._closed:
            raise RuntimeError("close() after close()")
        self._closed = True
        if self._error is not None:
            raise self._error
        return self._last()

    def _look(self, data: bytes) -> None:
        """Inspect the input of `feed` before it is sliced. Called while `_looks` is set."""

    def _take(self, data: bytes, out: list[Record]) -> None:
        """Decode one slice and append its records to `out`.

        Raises `LimitExceeded` beyond a limit. Raises `ProtocolError` for data that is not a stream of this format.
        """
        raise NotImplementedError  # each framing has its own

    def _last(self) -> Record | None:
        """Return the record that was begun and not completed, if any."""
        return None

    def _forget(self) -> None:
        """Drop held bytes after an error."""

"""Turns the bytes of one body into deltas, with the decoders of the wire and of the codec. Decides how a body ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._deltas import EndDelta, ErrorDelta, ReasoningDelta, TextDelta, ToolDelta
from .._errors import AprefillError, ProtocolError, Truncated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._codecs import Decoder
    from .._deltas import Delta, Record
    from .._wire import WireDecoder
    from .clocks import Clocks
    from .head import Head

#: Maximum number of bytes and of records to decode at once. After that, other tasks may run.
SLICE_BYTES = 16_384
SLICE_RECORDS = 256

_PROGRESS = (TextDelta, ReasoningDelta, ToolDelta)


class Reading:
    """The body of one response. `feed` each read, `decode` while `has_more`, then `close` at its end, or `cut`."""

    __slots__ = (
        "_at",
        "_clocks",
        "_data",
        "_decoder",
        "_has_records",
        "_head",
        "_headers",
        "_records",
        "_wire",
        "broken_end",
        "ended",
        "failure",
        "received_bytes",
    )

    def __init__(
        self, wire: WireDecoder, decoder: Decoder, head: Head, headers: Mapping[str, str], clocks: Clocks
    ) -> None:
        self._wire = wire
        self._decoder = decoder
        self._head = head
        self._headers = headers
        self._clocks = clocks
        # The last read, which is decoded up to `_at`, and records of it that the codec has not seen yet.
        self._data = b""
        self._at = 0
        self._records: Sequence[Record] = ()
        self._has_records = False
        self.received_bytes = 0
        #: Whether the protocol's end marker has been read.
        self.ended = False
        #: The error of the stream. Deltas that are returned together with it came before it.
        self.failure: AprefillError | None = None
        #: Class name of an error that broke the stream after the model's stop reason. The reply is complete then.
        self.broken_end = ""

    @property
    def has_more(self) -> bool:
        """Whether a part of the last read is not decoded yet."""
        return bool(self._records) or self._at < len(self._data)

    def feed(self, data: bytes) -> list[Delta]:
        """Decode a network read, or its first part."""
        self.received_bytes += len(data)
        self._data, self._at = data, 0
        return self.decode()

    def decode(self) -> list[Delta]:
        """Decode the next part of the last network read."""
        decode = self._decoder.decode
        deltas: list[Delta] = []
        try:
            records = self._records
            if not records:
                data = self._data
                if len(data) > SLICE_BYTES:
                    data = data[self._at : self._at + SLICE_BYTES]
                self._at += len(data)
                records = self._wire.feed(data)
                if records:
                    self._has_records = True
            if len(records) > SLICE_RECORDS:
                records, self._records = records[:SLICE_RECORDS], records[SLICE_RECORDS:]
            else:
                self._records = ()
            for record in records:
                deltas += decode(record)
        except AprefillError as error:
            return deltas + self.cut(self._counted(error), deltas)
        if deltas:
            self._look(deltas)
        return deltas

    def close(self) -> list[Delta]:
        """The body ended. Return the last deltas and set `ended` or `failure`."""
        deltas: list[Delta] = []
        try:
            undispatched = self._wire.close()
            if not self._has_records and not self._has_begun():
                size = self.received_bytes
                what = f"{size} bytes that are not a stream" if size else "an empty body"
                raise ProtocolError(f"the answer is {what}", status=self._head.status)
            deltas += self._decoder.close(undispatched)
        except AprefillError as error:
            return self.cut(self._counted(error))
        self._look(deltas)
        return deltas

    def cut(self, error: AprefillError, before: Sequence[Delta] = ()) -> list[Delta]:
        """The connection broke or a timeout expired. Return the last deltas.

        Sets `failure`, unless the model had already sent its stop reason. `before` are deltas of the same read that
        nobody has looked at.
        """
        deltas: list[Delta] = []
        try:
            deltas += self._decoder.close()
        except AprefillError:
            self.failure = (None if self._has_records else self._json_error()) or error
        else:
            self.broken_end = type(error).__name__
        self._look([*before, *deltas])
        return deltas

    def _json_error(self) -> AprefillError | None:
        """Return the error of a JSON body that came although the response announced an event stream, or None."""
        body = self._wire.json_body
        return self._head.json_error(body) if body else None

    def _has_begun(self) -> bool:
        """Whether a body without a complete event is the beginning of a stream, and not something else."""
        if self.received_bytes == 0:
            # An empty body that no Content-Length announced.
            return "content-length" not in self._headers and "transfer-encoding" not in self._headers
        return self._wire.has_begun

    def _counted(self, error: AprefillError) -> AprefillError:
        """Add the number of received bytes, which only this object knows, to a decoder's `Truncated`."""
        return Truncated(error.reason, received_bytes=self.received_bytes) if isinstance(error, Truncated) else error

    def _look(self, deltas: list[Delta]) -> None:
        last = deltas[-1] if deltas else None
        if type(last) is EndDelta:
            self.ended = True
        elif type(last) is ErrorDelta:
            before_text = not self._clocks.saw_token and not any(type(delta) in _PROGRESS for delta in deltas)
            self.failure = self._head.in_band(last, before_text=before_text)
        for delta in deltas:
            if type(delta) in _PROGRESS:
                self._clocks.note_progress()
                return

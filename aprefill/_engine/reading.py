"""From the bytes of one body to deltas: the wire decoder and the codec's, and how a body ends. Does not wait."""

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

#: So much is decoded at once, in bytes and in records: then other tasks have their turn.
SLICE_BYTES = 16_384
SLICE_RECORDS = 256

_PROGRESS = (TextDelta, ReasoningDelta, ToolDelta)


class Reading:
    """The body of one answer. `feed` each read, `decode` while `has_more`; then `close` at its end, or `cut`."""

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
        # what was read last, decoded up to `_at`; and records of it that the codec has not seen
        self._data = b""
        self._at = 0
        self._records: Sequence[Record] = ()
        self._has_records = False
        self.received_bytes = 0
        #: the protocol's end was seen
        self.ended = False
        #: what went wrong; the deltas returned along with it came before
        self.failure: AprefillError | None = None
        #: the class of what broke the stream after the model's own end; the reply is complete
        self.broken_end = ""

    @property
    def has_more(self) -> bool:
        """Whether there is something left of the last read."""
        return bool(self._records) or self._at < len(self._data)

    def feed(self, data: bytes) -> list[Delta]:
        """Decode what was read, or its first slice."""
        self.received_bytes += len(data)
        self._data, self._at = data, 0
        return self.decode()

    def decode(self) -> list[Delta]:
        """Decode a slice of what was read."""
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
        """The body ended: the last deltas. `ended` or `failure` is set then."""
        deltas: list[Delta] = []
        try:
            undispatched = self._wire.close()
            if not self._has_records and not self._has_begun():
                what = (
                    "an empty body" if self.received_bytes == 0 else f"{self.received_bytes} bytes that are no stream"
                )
                raise ProtocolError(f"the answer is {what}", status=self._head.status)
            deltas += self._decoder.close(undispatched)
        except AprefillError as error:
            return self.cut(self._counted(error))
        self._look(deltas)
        return deltas

    def cut(self, error: AprefillError, before: Sequence[Delta] = ()) -> list[Delta]:
        """The stream broke or fell silent: an error, unless the model had given its stop reason; gives the last deltas.

        `before` are deltas of the same read, which nobody has looked at.
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
        """The error that came as a JSON body though an event stream was announced, if that is what came."""
        body = self._wire.json_body
        return self._head.json_error(body) if body else None

    def _has_begun(self) -> bool:
        """Whether what came, without a whole event in it, is the beginning of a stream and not something else."""
        if self.received_bytes == 0:
            # nothing at all, and no length said so
            return "content-length" not in self._headers and "transfer-encoding" not in self._headers
        return self._wire.has_begun

    def _counted(self, error: AprefillError) -> AprefillError:
        """A decoder's `Truncated` with the bytes that only we have counted."""
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

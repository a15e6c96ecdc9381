"""The status and headers of a response, and the meaning of error responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._errors import AprefillError, PrefillRefused, ProtocolError, StatusError
from .._hosts.prefill import known_refusal
from .._transports._headers import retry_after_s

if TYPE_CHECKING:
    from .._codecs import Codec
    from .._deltas import ErrorDelta
    from .._hosts.redact import Redactor
    from .._hosts.row import KnownRefusal
    from .._plan.request import Request
    from .._plan.step import AttemptPlan
    from .._transports import Response

#: Content codings of the IANA registry that cannot be decoded here. Other words in the header are ignored.
_COMPRESSED = frozenset(
    "aes128gcm br compress dcb dcz deflate exi gzip pack200-gzip x-compress x-gzip zstd".split()  # noqa: SIM905
)


class Head:
    """Status and headers of one response, and its errors as our exceptions, without the key and the prompt."""

    __slots__ = ("_codec", "_plan", "_redactor", "_request", "_response", "content_type", "fields", "refusal", "status")

    def __init__(self, plan: AttemptPlan, request: Request, codec: Codec) -> None:
        self._plan = plan
        self._request = request
        self._codec = codec
        self._response: Response | None = None
        self._redactor: Redactor | None = None
        #: The HTTP status, once it is known.
        self.status: int | None = None
        #: The media type without its parameters.
        self.content_type = ""
        #: The request body that was sent, and the known refusal with which the host answered, if it did.
        self.fields: dict[str, Any] = {}
        self.refusal: KnownRefusal | None = None

    def came(self, response: Response) -> None:
        """Take the head of the response."""
        self._response = response
        self.status = response.status
        self.content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()

    def check(self) -> None:
        """Raise `ProtocolError` if the body is compressed."""
        assert self._response is not None
        encodings = {word.strip().lower() for word in self._response.headers.get("content-encoding", "").split(",")}
        if compressed := encodings & _COMPRESSED:
            raise ProtocolError(
                f"the answer is compressed ({min(compressed)}), although the request asked for no compression",
                status=self.status,
                content_type=self.redact(self.content_type),
            )

    @property
    def is_stream(self) -> bool:
        """Whether the body may be a stream. If not, read the whole body and pass it to `error`."""
        return self.status == 200 and self.content_type not in self._codec.not_streams

    def error(self, body: bytes) -> AprefillError:
        """Return the error for a response that is not a stream."""
        if self.status != 200:
            return self._status_error(body)
        return (self.json_error(body) if self.content_type == "application/json" else None) or ProtocolError(
            f"the answer is {self.content_type}, not a stream", status=self.status, content_type=self.content_type
        )

    def json_error(self, body: bytes) -> AprefillError | None:
        """Return the host's error in a JSON body with status 200. None if the body is something else."""
        assert self._response is not None
        if not any(self._codec.error(200, body, self._response.headers)):
            return None
        return self.in_band(self._codec.error_delta(body), before_text=True)

    def in_band(self, error: ErrorDelta, *, before_text: bool) -> AprefillError:
        """Return the exception for an error inside the stream. Before any text, it may be a refusal of the prefill."""
        detail = self.redact(error.detail)
        refused = self._refused(200, error.body, detail) if before_text else None
        return refused or StatusError(
            error.status,
            error_type=self.redact(error.error_type),
            detail=detail,
            request_id=self.request_id,
            in_band=True,
        )

    def _status_error(self, body: bytes) -> AprefillError:
        assert self.status is not None
        assert self._response is not None
        headers = self._response.headers
        error_type, detail = map(self.redact, self._codec.error(self.status, body, headers))
        refused = self._refused(self.status, body.decode(errors="replace"), detail)
        if refused is not None:
            return refused
        if 300 <= self.status < 400:
            detail = "a redirect, which is never followed, because the prompt would go to another host"
        return StatusError(
            self.status,
            error_type=error_type,
            detail=detail,
            retry_after_s=retry_after_s(headers),
            request_id=self.request_id,
            url=self._without_keys(self._response.url()),
        )

    def _refused(self, status: int, said: str, quote: str) -> PrefillRefused | None:
        """Return the exception if the host's words refuse a native prefill. None if they mean something else."""
        plan = self._plan
        if not plan.sends_prefill:
            return None
        self.refusal = refusal = known_refusal(plan.row, status, said, self._request.fields())
        if refusal is None:
            return None
        off = self._request.forbids_emulation
        return PrefillRefused(plan.model_input.model, status=status, quote=quote, why=refusal.why, off=off)

    # --- texts without secrets --------------------------------------------------------------------------------

    @property
    def request_id(self) -> str | None:
        """Identifies the request for the host's support team. None if the host sent no such id."""
        if self._response is None:
            return None
        found = self._codec.request_id(self._response.headers)
        return self._without_keys(found) if found else found

    def _sent(self) -> set[str]:
        """The keys that the client has sent."""
        return set() if self._response is None else self._response.secrets()

    def _without_keys(self, text: str) -> str:
        """Return `text` without our key and without the keys that the client has sent."""
        return self._plan.target.redactor((), self._sent())(text)

    def redact(self, text: str) -> str:
        """Return a text of the host without the key and the prompt. The redactor is made only after a failure."""
        if self._redactor is None:
            self._redactor = self._plan.target.redactor(self._request.texts(), self._sent(), self.fields)
        return self._redactor(text)

"""The Anthropic wire at Bedrock's InvokeModel: the same events in binary frames, and errors in AWS's own form.

From recordings of 2024 and 2025. The exceptions are the ones in botocore's description of bedrock-runtime.
"""

from __future__ import annotations

from typing import ClassVar

from .anthropic import AnthropicWire
from .aws_frames import EventStream, chunk, exception
from .base import to_json, usual_message

_BY_STATUS = {
    400: "ValidationException",
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
    504: "ModelTimeoutException",
    529: "ServiceUnavailableException",
}

#: The error types of Anthropic and OpenAI, which a script uses for all protocols -> AWS's exceptions.
_BY_TYPE = {
    "invalid_request_error": "ValidationException",
    "request_too_large": "ValidationException",
    "authentication_error": "AccessDeniedException",
    "permission_error": "AccessDeniedException",
    "not_found_error": "ResourceNotFoundException",
    "rate_limit_error": "ThrottlingException",
    "rate_limit_exceeded": "ThrottlingException",
    "timeout_error": "ModelTimeoutException",
    "overloaded_error": "ServiceUnavailableException",
    "api_error": "InternalServerException",
    "server_error": "InternalServerException",
}

#: The exceptions that botocore knows inside a stream. Other error types become `ModelStreamErrorException` there.
_IN_STREAM = {
    "ValidationException",
    "ThrottlingException",
    "ModelTimeoutException",
    "ServiceUnavailableException",
    "InternalServerException",
}


class BedrockWire(AnthropicWire):
    """One reply of a Claude on Bedrock."""

    packing = EventStream()
    request_id_header = "x-amzn-requestid"
    # AWS has no keep-alive, so this sends Anthropic's in a frame
    keepalive = chunk(b'{"type":"ping"}')
    pings: ClassVar[bool] = False  # no recorded stream has a ping
    mark: ClassVar[str] = "bdrk_"

    @property
    def request_id(self) -> str:
        return f"00000000-0000-4000-8000-{self._index:012d}"

    def last(self) -> bytes:
        metrics = {
            "inputTokenCount": self._output.input_tokens,
            "outputTokenCount": self._output.output_tokens,
            "invocationLatency": 20,
            "firstByteLatency": 10,
        }
        return self._event("message_stop", {"amazon-bedrock-invocationMetrics": metrics})

    def error_event(self, kind: str, message: str) -> bytes:
        name = _BY_TYPE.get(kind, kind)
        if name not in _IN_STREAM and not kind.endswith("Exception"):
            name = "ModelStreamErrorException"
        # exception names begin with a small letter in a stream, and with a capital in a response
        return exception(name[0].lower() + name[1:], message)

    def error_body(self, status: int, error: tuple[str, str] | None) -> bytes:
        return to_json({"message": error[1] if error else usual_message(status)})

    def error_headers(self, status: int, error: tuple[str, str] | None) -> dict[str, str]:
        if error:
            name = _BY_TYPE.get(error[0], error[0])
        else:
            name = _BY_STATUS.get(status, "ValidationException" if status < 500 else "InternalServerException")
        return {"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"}

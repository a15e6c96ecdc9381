"""Extracts the type, the message and the HTTP status from the error formats of all hosts that we know.

Only the host's own message is extracted, at most `KEPT` characters. Code that quotes this message redacts it first and
then cuts it to `QUOTE_MAX`. Fields that quote the request are not read: FastAPI's `input`, Groq's `failed_generation`,
and the `input_value=` in pydantic's messages.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from aprefill._codecs._json import dumps, loads
from aprefill._codecs._surrogates import mend
from aprefill._deltas import ErrorDelta
from aprefill._errors import QUOTE_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aprefill._deltas import Record

#: Error type or code, in lower case -> the HTTP status it means when the error is inside a stream with status 200.
STATUS: dict[str, int] = {
    # Anthropic (platform.claude.com, errors)
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    # OpenAI and compatible hosts, as a type or as a code
    "invalid_api_key": 401,
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "tool_use_failed": 400,
    "server_error": 500,
    "internal_error": 500,
    "internal_server_error": 500,
    "service_unavailable": 503,
    "engine_overloaded": 503,
    # vLLM: the names of Python classes
    "badrequesterror": 400,
    "authenticationerror": 401,
    "notfounderror": 404,
    "ratelimiterror": 429,
    "internalservererror": 500,
    # llama.cpp
    "exceed_context_size_error": 400,
    "not_supported_error": 501,
    "unavailable_error": 503,
    # TGI's error_type
    "validation": 422,
    "generation": 424,
    "overloaded": 429,
    "incomplete_generation": 500,
    # finish reasons that are errors
    "error": 500,
    "insufficient_system_resource": 503,
    "network_error": 500,
    # Bedrock's exceptions (botocore, bedrock-runtime)
    "validationexception": 400,
    "accessdeniedexception": 403,
    "resourcenotfoundexception": 404,
    "modeltimeoutexception": 408,
    "modelerrorexception": 424,
    "modelstreamerrorexception": 424,
    "modelnotreadyexception": 429,
    "throttlingexception": 429,
    "internalserverexception": 500,
    "serviceunavailableexception": 503,
}

# The fields that may hold the message, the type and the status. The first field that fits is used.
_MESSAGES = ("error", "errors", "message", "msg", "detail", "status_msg", "base_resp")
_TYPES = ("type", "error_type", "code", "status")
_STATUSES = ("status_code", "originalStatusCode", "status", "code")
#: Maximum length of an extracted message, in characters. It is larger than `QUOTE_MAX`, the maximum for a quotation,
#: because redaction comes between the two: a secret that is cut in half could not be recognised.
KEPT = 10 * QUOTE_MAX
#: Types that only mean "this is an error".
_HOLLOW = {"error", "object", ""}
#: How many levels of nested objects are searched.
_DEPTH = 5


def said(value: Any, depth: int = _DEPTH) -> tuple[str, str]:
    """Return `(error_type, detail)` from a parsed error. Each is ``""`` if the host does not send it."""
    if isinstance(value, str):
        text = value.strip()
        inner = loads(text) if text[:1] in {"{", "["} else None  # Mistral and OpenRouter send JSON inside a string
        return said(inner, depth - 1) if isinstance(inner, dict | list) else ("", _sentence(text))
    if depth <= 0:
        return "", ""
    if isinstance(value, list):
        pairs = [said(item, depth - 1) for item in value[:20]]
        details = [detail for _, detail in pairs if detail]
        return next((kind for kind, _ in pairs if kind), ""), "; ".join(details)[:KEPT]
    if isinstance(value, dict):
        return _said_by_object(value, depth)
    return "", ""


# For a malformed request, vLLM's message is the repr of pydantic's errors, or pydantic's text. LiteLLM's message is a
# few words and then the JSON or repr from its upstream host. All of these quote the request. So if the text contains
# such a JSON or repr, only the words before it and the values of its `msg` fields are kept. From pydantic's text, the
# value of `input_value` is removed.
_INPUT = re.compile(r"""['"]input['"]\s*:""")
_MSG = re.compile(r"""['"]msg['"]\s*:\s*(?:'([^']*)'|"([^"]*)")""")
_INPUT_VALUE = re.compile(r"input_value=.*?(?=, input_type=|$)", re.DOTALL)


def _sentence(text: str) -> str:
    text = text[:KEPT]  # limits the time of the searches
    if _INPUT.search(text):
        opening = re.search(r"\[?\{", text)
        messages = "; ".join(single or double for single, double in _MSG.findall(text))
        text = text[: opening.start() if opening else 0] + messages
    elif "input_value=" in text:
        text = _INPUT_VALUE.sub("input_value=...", text)
    return mend(text)[:KEPT]


def _said_by_object(value: dict[str, Any], depth: int) -> tuple[str, str]:
    own = _type_of(value)
    for key in _MESSAGES:
        inner = value.get(key)
        if not inner:
            continue
        kind, detail = said(inner, depth - 1)
        if key == "error" and isinstance(inner, str) and isinstance(value.get("message"), str):
            return own or detail, said(value["message"], depth - 1)[1]  # {"error": "Unauthorized", "message": "..."}
        metadata = value.get("metadata")
        if isinstance(metadata, dict) and metadata.get("raw"):  # OpenRouter: the upstream host's error
            detail = ": ".join(part for part in (detail, said(metadata["raw"], depth - 1)[1]) if part)
        if kind or own or detail:
            nested = key in {"error", "errors"}
            return (kind or own if nested else own or kind), detail[:KEPT]
    return own, ""


def _type_of(value: dict[str, Any]) -> str:
    for key in _TYPES:
        word = value.get(key)
        if isinstance(word, str) and word.lower() not in _HOLLOW and not word.isdigit():
            return mend(word)[:KEPT]
    return ""


def status_of(value: Any, kind: str) -> int:
    """Return the HTTP status of an error inside a stream.

    It is the number in the error, else the status that `kind` or the error's code means, else 200.
    """
    if isinstance(value, list) and value:  # Google wraps its errors in a list
        value = value[0]
    holders = [value, value.get("error")] if isinstance(value, dict) else []
    words = [kind]
    for holder in reversed([holder for holder in holders if isinstance(holder, dict)]):
        for key in _STATUSES:
            number = holder.get(key)
            if isinstance(number, str):
                words.append(number)
                number = int(number) if number.isascii() and number.isdigit() and len(number) == 3 else None
            if isinstance(number, int) and 400 <= number <= 599:
                return number
    return next((STATUS[word.lower()] for word in words if word.lower() in STATUS), 200)


#: Names that contain "error" or "exception" but mean success.
_NO_ERROR = re.compile(r"(no|non|without)[-_.]?(error|exception)", re.IGNORECASE)


def names_error(event: str, data: bytes = b"") -> bool:
    """Whether a record's event name says that the record is an error: SSE's `event: error`, Bedrock's `...Exception`.

    An unknown name that ends in "Error" counts only if the payload can be an error too, because a host may define
    events of its own, and such an event must not end a reply.
    """
    if not event or event == "error":
        return bool(event)
    if not event.endswith(("Exception", "Error")) or _NO_ERROR.fullmatch(event):
        return False
    if event.endswith("Exception") or event.lower() in STATUS:
        return True
    value = loads(data)
    return not value or not isinstance(value, dict) or says_error(value) or any(key in value for key in _MESSAGES)


def says_error(value: Any) -> bool:
    """Whether a parsed record says that it is an error, in one of the forms that hosts use."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return False
    if value.get("error") or value.get("error_type"):
        return True
    if any(isinstance(name, str) and name.lower() == "error" for name in (value.get("object"), value.get("type"))):
        return True
    base = value.get("base_resp")  # MiniMax: {"status_code": 0} means success
    return isinstance(base, dict) and bool(base.get("status_code"))


def error_delta(value: Any, kind: str = "") -> ErrorDelta:
    """Return the delta for an error inside the stream. `kind` is its type if the record's event name says it."""
    inner, detail = said(value)
    kind = kind or inner
    return ErrorDelta(status_of(value, kind), kind, detail, value if isinstance(value, str) else dumps(value))


def error_from(record: Record) -> ErrorDelta:
    """Return the delta for a record that is an error. Its payload may be plain text."""
    value = loads(record.data)
    if value is None:
        value = record.data.decode("utf-8", "replace")
    return error_delta(
        value, record.event if names_error(record.event, record.data) and record.event != "error" else ""
    )


def body_error(status: int, body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
    """Return `(error_type, detail)` from the body of an HTTP error. An HTML page has no detail.

    With a status below 400, the body counts as an error only if it says so. It may be a complete reply, sent although a
    stream was requested; then both values are ``""``.
    """
    header = next((text for name, text in headers.items() if name.lower() == "x-amzn-errortype"), "")
    kind = header.partition(":")[0]  # AWS: "ThrottlingException:http://internal.amazon.com/..."
    text = body.decode("utf-8", "replace").strip()
    if text.startswith("<"):
        return kind, ""
    value = loads(text)
    if value is None or isinstance(value, str):
        return kind, "" if status < 400 or text[:1] == "{" else _sentence(value or text)
    if status < 400 and isinstance(value, list) and not any(isinstance(item, dict) for item in value):
        return kind, ""
    inner, detail = said(value)
    if status < 400 and not detail and not (isinstance(value, dict) and value.get("error")):
        return kind, ""
    return kind or inner, detail

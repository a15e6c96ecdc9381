from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprefill._codecs import codec
from aprefill._codecs._host_error import KEPT, STATUS, body_error, error_delta, names_error, said, says_error, status_of
from aprefill._deltas import Record

from . import BOTH
from .grammar import anything, error

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "my secret prompt"

#: Bodies of HTTP errors: the body, and the type and message in it.
BODIES: dict[str, tuple[Any, tuple[str, str]]] = {
    "Anthropic": (
        {
            "type": "error",
            "error": {"type": "authentication_error", "message": "invalid x-api-key"},
            "request_id": "r",
        },
        ("authentication_error", "invalid x-api-key"),
    ),
    "OpenAI": (
        {
            "error": {
                "message": "no such model",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            }
        },
        ("invalid_request_error", "no such model"),
    ),
    "a code and no type (Azure)": (
        {"error": {"code": "RateLimitReached", "message": "too many"}},
        ("RateLimitReached", "too many"),
    ),
    "a number as code": ({"error": {"code": 401, "message": "no key"}}, ("", "no key")),
    "a number as type": ({"error": {"type": "404", "message": "gone"}}, ("", "gone")),
    "a plain string (Ollama)": ({"error": "model 'x' not found"}, ("", "model 'x' not found")),
    "a string with its type (TGI)": (
        {"error": "too long", "error_type": "validation"},
        ("validation", "too long"),
    ),
    "a status word and a message": (
        {"status": 401, "error": "Unauthorized", "message": "no"},
        ("Unauthorized", "no"),
    ),
    "object: error (vLLM, Mistral)": (
        {"object": "error", "message": "bad", "type": "BadRequestError", "param": None, "code": 400},
        ("BadRequestError", "bad"),
    ),
    "a message alone (Bedrock, Cohere)": ({"message": "no such model"}, ("", "no such model")),
    "a list (Gemini's)": (
        [{"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}],
        ("UNAVAILABLE", "busy"),
    ),
    "errors (Cloudflare)": (
        {"success": False, "errors": [{"code": 10000, "message": "no auth"}]},
        ("", "no auth"),
    ),
    "a detail": ({"detail": "Invalid API Key"}, ("", "Invalid API Key")),
    "FastAPI's 422": (
        {
            "detail": [
                {
                    "type": "missing",
                    "loc": ["body", "model"],
                    "msg": "Field required",
                    "input": {"prompt": SECRET},
                },
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "x"],
                    "msg": "Extra inputs are not permitted",
                    "input": SECRET,
                },
            ]
        },
        ("missing", "Field required; Extra inputs are not permitted"),
    ),
    "the same inside a message (Mistral)": (
        {
            "object": "error",
            "message": {"detail": [{"type": "missing", "msg": "Field required", "input": SECRET}]},
            "type": "invalid_request_error",
        },
        ("invalid_request_error", "Field required"),
    ),
    "the same as JSON in a string": (
        {
            "object": "error",
            "message": json.dumps({"detail": [{"msg": "Field required", "input": SECRET}]}),
            "type": "e",
        },
        ("e", "Field required"),
    ),
    "the same as a Python repr (vLLM)": (
        {
            "error": {
                "message": f"[{{'type': 'missing', 'loc': ('body',), 'msg': 'Field required', "
                f"'input': {{'p': '{SECRET}'}}}}]",
                "type": "Bad Request",
            }
        },
        ("Bad Request", "Field required"),
    ),
    "the same behind a gateway's words (LiteLLM)": (
        {"error": {"message": f"MistralException - {{'detail': [{{'msg': 'Not permitted', 'input': '{SECRET}'}}]}}"}},
        ("", "MistralException - Not permitted"),
    ),
    "and as JSON there": (
        {"error": {"message": "upstream said " + json.dumps([{"input": SECRET, "msg": "Not permitted"}])}},
        ("", "upstream said Not permitted"),
    ),
    "pydantic's own sentence": (
        {"error": {"message": f"1 error\n messages [type=missing, input_value='{SECRET}', input_type=str]"}},
        ("", "1 error\n messages [type=missing, input_value=..., input_type=str]"),
    ),
    "what the upstream host said (OpenRouter)": (
        {
            "error": {
                "code": 400,
                "message": "Provider returned error",
                "metadata": {"raw": json.dumps({"type": "error", "error": {"type": "x", "message": "no prefill"}})},
            }
        },
        ("", "Provider returned error: no prefill"),
    ),
    "the reply that failed is not quoted (Groq)": (
        {
            "error": {
                "code": "tool_use_failed",
                "failed_generation": SECRET,
                "message": "bad call",
                "type": "invalid_request_error",
            }
        },
        ("invalid_request_error", "bad call"),
    ),
    "plain text": (b"upstream connect error\n", ("", "upstream connect error")),
    "HTML": (b"<html><body>502 Bad Gateway</body></html>", ("", "")),
    "half of JSON": (b'{"detail": [{"input": "' + SECRET.encode(), ("", "")),
    "a type without a message": ({"error": {"type": "overloaded_error"}}, ("overloaded_error", "")),
    "nothing": (b"", ("", "")),
    "another object": ({"id": "x", "n": [1]}, ("", "")),
}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("body", "expected"), BODIES.values(), ids=BODIES)
def test_every_shape_gives_type_and_message(name: str, body: Any, expected: tuple[str, str]) -> None:
    """Every known shape gives the host's type and message, and never the request that it quotes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert codec(name).error(400, raw, {}) == expected
    assert SECRET not in "".join(expected)


def test_aws_names_the_type_in_a_header() -> None:
    """Bedrock sends the type in a header, in any case, and the message in the body."""
    headers = {"X-Amzn-ErrorType": "ThrottlingException:http://internal.amazon.com/coral/"}
    assert body_error(429, b'{"message":"slow down"}', headers) == ("ThrottlingException", "slow down")


def test_a_whole_reply_is_no_error() -> None:
    """A whole reply with status 200 is no error. A 200 with an error in its body is one."""
    assert body_error(200, b'{"type":"message","role":"assistant","content":[]}', {}) == ("", "")
    assert body_error(200, b'{"object":"chat.completion","choices":[{"message":{"content":"hi"}}]}', {}) == (
        "",
        "",
    )
    assert body_error(200, b'{"error":{"type":"overloaded_error"}}', {}) == ("overloaded_error", "")
    assert body_error(200, b'{"error":{"message":"no"}}', {}) == ("", "no")


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ({"error": {"type": "overloaded_error"}}, 529),
        ({"error": {"type": "rate_limit_error"}}, 429),
        ({"error": {"type": "request_too_large"}}, 413),
        ({"error": {"type": "invalid_request_error", "code": "tool_use_failed", "status_code": 400}}, 400),
        ({"error": {"message": "x", "type": None, "code": "500"}}, 500),
        ({"error": {"message": "x", "code": 502}}, 502),
        ({"error": {"code": "rate_limit_exceeded", "type": "requests"}}, 429),
        ({"error": "x", "error_type": "overloaded"}, 429),
        ({"object": "error", "message": "x", "type": "BadRequestError", "code": 400}, 400),
        ([{"error": {"code": 503, "message": "x"}}], 503),
        ({"originalStatusCode": 503, "message": "x"}, 503),
        ({"error": {"message": "who knows"}}, 200),
        ({"error": {"code": 1302, "message": "x"}}, 200),
        ({"error": {"code": "9" * 5000}}, 200),
        ("who knows", 200),
    ],
)
def test_the_status_an_error_stands_for(value: Any, status: int) -> None:
    """The status of an error is its own number if that is an HTTP error.

    Otherwise it is the meaning of its type or code, and 200 if that has none.
    """
    assert status_of(value, said(value)[0]) == status


def test_framing_can_name_the_error() -> None:
    """The frame of a Bedrock exception has its name. The payload has only a message."""
    assert error_delta({"message": "slow"}, "throttlingException").status == 429
    assert names_error("modelStreamErrorException")
    assert names_error("error")
    assert not names_error("content_block_delta")
    assert all(name == name.lower() for name in STATUS)


@given(
    st.one_of(
        error,
        anything,
        st.recursive(
            anything,
            lambda inner: st.dictionaries(st.sampled_from(["error", "message", "detail", "metadata", "raw"]), inner),
            max_leaves=5,
        ),
    )
)
@settings(derandomize=True, deadline=None)
def test_said_is_bounded_text(value: Any) -> None:
    """Any value gives two strings of at most KEPT characters that can be encoded."""
    for word in said(value):
        assert len(word) <= KEPT
        word.encode()
    assert 200 <= status_of(value, "x") <= 599
    assert says_error(value) in {True, False}


@given(
    st.one_of(st.binary(), error.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))),
    st.sampled_from([200, 400, 500]),
)
@settings(derandomize=True, deadline=None)
def test_any_body_gives_two_bounded_strings(body: bytes, status: int) -> None:
    """A body of any bytes gives two bounded strings."""
    for word in body_error(status, body, {}):
        assert len(word) <= KEPT
        word.encode()


def test_long_and_deep_bodies() -> None:
    """A body with 200,000 levels, or with a message of a megabyte, is read in time and within the bounds."""
    assert body_error(500, b'{"error":' * 200_000, {}) == ("", "")
    deep: Any = "x"
    for _ in range(500):
        deep = {"error": deep}
    assert body_error(500, json.dumps(deep).encode(), {}) == ("", "")
    long = {"error": {"message": "input_value=" * 100_000}}
    assert len(body_error(500, json.dumps(long).encode(), {})[1]) <= KEPT


def test_recorded_error_bodies(shared: Path) -> None:
    """Every recorded HTTP error gives the host's message, and its type if the body has one."""
    bodies = sorted((shared / "recordings" / "_errors").glob("*.body"))
    assert bodies
    seen: Counter[bool] = Counter()
    for path in bodies:
        body = path.read_bytes()
        meta = json.loads(path.with_suffix(".json").read_text())
        kind, detail = codec("openai_chat").error(meta["status"], body, {})
        assert (kind, detail) == codec("anthropic_messages").error(meta["status"], body, {})
        words = json.loads(body)
        inner = words.get("error", words)
        message = inner if isinstance(inner, str) else inner.get("message") or inner["detail"]
        assert detail.startswith(message[:KEPT]), path.name
        own = inner.get("type") or inner.get("code") if isinstance(inner, dict) else ""
        assert kind == (own if isinstance(own, str) else ""), path.name
        seen[bool(kind)] += 1
    assert seen[True] > seen[False] > 0


def test_an_error_record_of_plain_text() -> None:
    """An `event: error` whose data is plain text gives that text as the message."""
    for name in BOTH:
        (delta,) = codec(name).decoder().decode(Record(b"upstream timed out", "error"))
        assert (delta.status, delta.error_type, delta.detail) == (200, "", "upstream timed out")

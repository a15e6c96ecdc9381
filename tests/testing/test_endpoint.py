"""What the server learns from a path, and what it reports about a request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aprefill.testing import Received
from aprefill.testing._endpoint import endpoint_of

VERTEX = "/v1/projects/p/locations/global/publishers/anthropic/models/"
ARN = "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude"


@pytest.mark.parametrize(
    ("path", "wire", "model", "streams"),
    [
        ("/v1/messages", "anthropic", None, None),
        ("/v1/messages?beta=true", "anthropic", None, None),
        ("/openai/deployments/x/chat/completions?api-version=1", "openai", None, None),
        (VERTEX + "claude-haiku-4-5@20251001:streamRawPredict", "anthropic", "claude-haiku-4-5@20251001", True),
        (VERTEX + "claude-haiku-4-5%4020251001:rawPredict?x=1", "anthropic", "claude-haiku-4-5@20251001", False),
        ("/model/anthropic.claude-v2:1/invoke-with-response-stream", "bedrock", "anthropic.claude-v2:1", True),
        ("/proxy/model/anthropic.claude-v2%3A1/invoke", "bedrock", "anthropic.claude-v2:1", False),
        (f"/model/{ARN}/invoke", "bedrock", ARN, False),
        (f"/model/{ARN.replace('/', '%2F')}/invoke-with-response-stream", "bedrock", ARN, True),
    ],
)
def test_a_path_tells_the_wire(path: str, wire: str, model: str | None, streams: bool | None) -> None:
    """The end of a path decides the protocol. The model's name in a path is unescaped."""
    endpoint = endpoint_of(path)
    assert endpoint is not None
    assert (endpoint.wire, endpoint.model, endpoint.streams) == (wire, model, streams)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        VERTEX + "count-tokens:rawPredict",
        VERTEX + "claude-haiku-4-5:predict",
        VERTEX + "claude-haiku-4-5:streamRawPredict/x",
        "/v1/publishers/google/models/gemini:rawPredict",
        "/model/anthropic.claude-v2/converse-stream",
        "/model//invoke",
        "/model/invoke",
    ],
)
def test_other_paths_tell_none(path: str) -> None:
    """Paths for counting tokens, for another vendor's models or for Bedrock's other operations name no protocol."""
    assert endpoint_of(path) is None


def received(path: str, **fields: Any) -> Received:
    return Received(method="POST", path=path, headers={}, body=json.dumps(fields).encode(), connection=1, index=0)


def test_a_request_reports_its_model_and_whether_it_streams() -> None:
    """A request reports its model and whether it streams: from the body, or from the path on hosts that use it."""
    asked = received("/v1/messages", model="m", stream=True)
    assert (asked.model, asked.streamed) == ("m", True)
    asked = received("/v1/chat/completions", model=1, stream="yes")
    assert (asked.model, asked.streamed) == ("", False)
    asked = received("/model/a%3A0/invoke", model="m", stream=True)
    assert (asked.model, asked.streamed) == ("a:0", False)
    asked = received("/model/a%3A0/invoke-with-response-stream")
    assert (asked.model, asked.streamed) == ("a:0", True)
    asked = received("/elsewhere", model="m")
    assert (asked.model, asked.streamed) == ("m", False)

"""Finds from a request's path the wire (the form of the answer) and, at Vertex, Bedrock and Gemini, also the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import parse_qs, unquote

WireName: TypeAlias = Literal[
    "anthropic", "openai", "responses", "cohere", "ollama", "gemini", "gemini-array", "bedrock"
]  # fmt: skip

#: (wire, pattern whose groups are the model and the verb, the verb that streams)
_WITH_MODEL: tuple[tuple[WireName, re.Pattern[str], str], ...] = (
    # Vertex has count-tokens in the place of a model's name; its answer is not a reply
    (
        "anthropic",
        re.compile(r"/publishers/anthropic/models/(?!count-tokens:)([^/]+):(streamRawPredict|rawPredict)\Z"),
        "streamRawPredict",
    ),
    # a model's name may be an ARN, and some clients do not escape its slashes
    ("bedrock", re.compile(r"/model/(.+)/(invoke-with-response-stream|invoke)\Z"), "invoke-with-response-stream"),
    # Vertex has Gemini's models below /publishers/google; the models of other vendors have other verbs
    (
        "gemini",
        re.compile(r"/(?:models|tunedModels|endpoints)/([^/]+):(streamGenerateContent|generateContent)\Z"),
        "streamGenerateContent",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A path at which a model replies."""

    wire: WireName
    #: the model; None: it is in the body
    model: str | None = None
    #: whether the reply is streamed; None: the body's `stream` decides
    streams: bool | None = None
    #: whether the reply is streamed if the body has no `stream`
    streams_untold: bool = False


_BY_END = {
    "/messages": Endpoint(wire="anthropic"),
    "/chat/completions": Endpoint(wire="openai"),
    "/responses": Endpoint(wire="responses"),
    "/v2/chat": Endpoint(wire="cohere"),
    "/api/chat": Endpoint(wire="ollama", streams_untold=True),
}


def endpoint_of(path: str) -> Endpoint | None:
    """Return the endpoint for the end of `path`, or None.

    >>> endpoint_of("/model/anthropic.claude-v2%3A1/invoke")
    Endpoint(wire='bedrock', model='anthropic.claude-v2:1', streams=False, streams_untold=False)
    """
    path, _, query = path.partition("?")
    for end, endpoint in _BY_END.items():
        if path.endswith(end):
            return endpoint
    for wire, pattern, streaming in _WITH_MODEL:
        if found := pattern.search(path):
            streams = found[2] == streaming
            if wire == "gemini" and streams and parse_qs(query).get("alt") != ["sse"]:
                wire = "gemini-array"
            return Endpoint(wire=wire, model=unquote(found[1]), streams=streams)
    return None


#: Paths at which no model replies, and the wire in which their errors are sent.
_NEAR: tuple[tuple[WireName, re.Pattern[str]], ...] = (
    ("anthropic", re.compile(r"/messages/")),
    ("ollama", re.compile(r"/api/\w+\Z")),
    ("gemini", re.compile(r"/(models|tunedModels|endpoints)/[^/]+:\w+\Z")),
)


def wire_at(path: str) -> WireName:
    """Return the wire that is used at `path`, even if only errors are sent there."""
    if endpoint := endpoint_of(path):
        return endpoint.wire
    bare = path.partition("?")[0]
    for wire, pattern in _NEAR:
        if pattern.search(bare):
            return wire
    return "openai"

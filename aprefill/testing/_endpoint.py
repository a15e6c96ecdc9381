"""What a request's path tells: the wire that is spoken there, and at the clouds' own doors the model as well."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import parse_qs, unquote

WireName: TypeAlias = Literal["anthropic", "openai", "responses", "ollama", "gemini", "gemini-array", "bedrock"]

#: (wire, where the model stands, which verb streams)
_WITH_MODEL: tuple[tuple[WireName, re.Pattern[str], str], ...] = (
    # count-tokens stands where Vertex has its models, and its answer is no reply
    (
        "anthropic",
        re.compile(r"/publishers/anthropic/models/(?!count-tokens:)([^/]+):(streamRawPredict|rawPredict)\Z"),
        "streamRawPredict",
    ),
    # a model's name may be an ARN, whose slashes not every client escapes
    ("bedrock", re.compile(r"/model/(.+)/(invoke-with-response-stream|invoke)\Z"), "invoke-with-response-stream"),
    # Vertex has Gemini's models below /publishers/google, and other makers' with other verbs
    (
        "gemini",
        re.compile(r"/(?:models|tunedModels|endpoints)/([^/]+):(streamGenerateContent|generateContent)\Z"),
        "streamGenerateContent",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A place where replies are made."""

    wire: WireName
    #: None: the body has it
    model: str | None = None
    #: None: the body's `stream` decides
    streams: bool | None = None
    #: what it is where the body has no `stream`
    streams_untold: bool = False


_BY_END = {
    "/messages": Endpoint(wire="anthropic"),
    "/chat/completions": Endpoint(wire="openai"),
    "/responses": Endpoint(wire="responses"),
    "/api/chat": Endpoint(wire="ollama", streams_untold=True),
}


def endpoint_of(path: str) -> Endpoint | None:
    """The endpoint at `path`, told by how it ends, or None.

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


#: Where a path belongs that makes no replies: whose errors it gets.
_NEAR: tuple[tuple[WireName, re.Pattern[str]], ...] = (
    ("anthropic", re.compile(r"/messages/")),
    ("ollama", re.compile(r"/api/\w+\Z")),
    ("gemini", re.compile(r"/(models|tunedModels|endpoints)/[^/]+:\w+\Z")),
)


def wire_at(path: str) -> WireName:
    """The wire that is spoken at `path`, be it in errors alone."""
    if endpoint := endpoint_of(path):
        return endpoint.wire
    bare = path.partition("?")[0]
    for wire, pattern in _NEAR:
        if pattern.search(bare):
            return wire
    return "openai"

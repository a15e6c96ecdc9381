"""What is specific to a protocol is in its codec: no other module names a protocol, or a field or header of one."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aprefill._codecs import PROTOCOLS
from aprefill._wire import FRAMINGS

if TYPE_CHECKING:
    from collections.abc import Collection

#: What the list of framings may name: their media types, modules and classes.
FRAMING_NAMES = {*FRAMINGS, *(word for words in FRAMINGS.values() for word in words)}
PACKAGE = Path(__file__).parents[1] / "aprefill"

#: Folders that may name protocols: the codecs, the fake hosts, which must be independent of the codecs, and the LLM
#: plugin.
HOMES = ("_codecs/", "testing/", "llm_plugin/")
#: This module lists the media types of the framings. Some contain the name of a protocol.
WIRE = "_wire/__init__.py"
#: Text that is about a protocol anywhere in a string: names of protocols, paths, headers, fields and values.
ABOUT = re.compile(
    rf"{'|'.join(PROTOCOLS)}|/chat/completions|/v1/messages|x-api-key|anthropic-version|request-?id\b|x-amzn"
    r"|text/event-stream|stop_sequences|max_completion_tokens|stream_options|response_format\.|choices|finish_reason"
    r"|stop_reason\.|content_block|tool_result|tool_use|tool_calls|function_call|input_text|prediction\.|include_usage"
)
#: Words that are about a protocol only as a whole string: names of apis, and types of message parts.
EXACT = {"chat", "messages", "responses", "completions", "redacted_thinking", "image_url", "stream"}
#: Code that makes or reads a part of a message: `{"type": "text"...}`, `.get("type")`, `["type"]`.
SHAPE = re.compile(r"""\{'type': 'text'|\.get\('type'\)|\['type'\]""")

#: module -> what it may name, and why. A new protocol must not need a line here.
ALLOWED: dict[str, tuple[set[str], str]] = {
    "__init__.py": ({"stream"}, "the function of that name"),
    "_hosts/schema.py": (
        {"chat", "messages", "responses", "completions", "x-api-key", "max_completion_tokens"},
        "the words that a row of the table may have",
    ),
    "_plan/request.py": (
        {"tool_calls", "shape"},
        "`stream()` reads messages before the protocol is known: a last turn of the assistant is the prefill",
    ),
    "_transports/http.py": (
        {"anthropic-version", "request-id"},
        "headers without a secret, which errors may quote",
    ),
    "_transports/sdk.py": ({"stream"}, "a value of the SDKs' header for a raw response"),
    "_types.py": ({"tool_use"}, "a member of our own `StopReason`"),
    "web/_sse.py": ({"text/event-stream", "shape"}, "the media type of our own endpoint, and ASGI messages"),
    "web/_websocket.py": ({"shape"}, "messages of our own endpoint, and ASGI messages"),
}


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the constants that are docstrings."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.add(id(first.value))
    return found


def named_in(source: str, spare: Collection[str] = ()) -> set[str]:
    """Return what the strings of a module name; "shape" is a part of a message. Strings in `spare` are ignored."""
    tree = ast.parse(source)
    told = docstrings(tree)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            if node.value in spare:
                continue
            if node.value in EXACT:
                found.add(node.value)
            found |= {match[0] for match in ABOUT.finditer(node.value)}
        if isinstance(node, ast.Dict | ast.Call | ast.Subscript) and SHAPE.search(ast.unparse(node)):
            found.add("shape")
    return found


def protocols_named(root: Path = PACKAGE) -> dict[str, set[str]]:
    """Return module -> what it names, without the modules of `HOMES`."""
    names = {}
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        names[name] = named_in(path.read_text("utf-8"), FRAMING_NAMES if name == WIRE else ())
    return {name: found for name, found in names.items() if found and not name.startswith(HOMES)}


def test_no_other_module_names_a_protocol() -> None:
    """Only the listed modules name a protocol, and each listed exception is still needed."""
    assert protocols_named() == {module: words for module, (words, _) in ALLOWED.items()}


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ('HEADERS = {"accept": "text/event-stream"}', {"text/event-stream"}),
        ('found = headers.get("x-amzn-requestid") or headers.get("request-id")', {"x-amzn", "requestid", "request-id"}),
        ('if row.codec == "openai_chat": pass', {"openai_chat"}),
        ('if row.api == "chat": pass', {"chat"}),
        ('part = {"type": "text", "text": text}', {"shape"}),
        ('kind = part.get("type")', {"shape"}),
        ('body = {**fields, "stream_options": None}', {"stream_options"}),
        ('_STOPS = ("stop", "stop_sequences")', {"stop_sequences"}),
        ('"""A docstring on text/event-stream."""\nsays = "a chat about messages"', set()),
    ],
)
def test_control_a_named_protocol_is_found(source: str, named: set[str], tmp_path: Path) -> None:
    """Control: each way to name a protocol is found in every module outside of `HOMES`."""
    for name in ("_plan/first.py", "_codecs/first.py", "_wire/__init__.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(source)
    in_wire = named - {"text/event-stream"}
    expected = {"_plan/first.py": named, "_wire/__init__.py": in_wire}
    assert protocols_named(tmp_path) == {name: words for name, words in expected.items() if words}

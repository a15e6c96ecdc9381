"""What is particular to a protocol is in its codec: no other module names one, nor a field or a header of one."""

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

PACKAGE = Path(__file__).parents[1] / "aprefill"

#: Who may: the codecs themselves, the fake hosts that are to be able to contradict them, and what knows LLM's models.
HOMES = ("_codecs/", "testing/", "llm_plugin/")
#: Lists the media types of the framings. Some have the name of a protocol in them.
WIRE = "_wire/__init__.py"
#: A text that is about a protocol wherever it stands: protocols, paths, headers, fields and words of theirs.
ABOUT = re.compile(
    rf"{'|'.join(PROTOCOLS)}|/chat/completions|/v1/messages|x-api-key|anthropic-version|request-?id\b|x-amzn"
    r"|text/event-stream|stop_sequences|max_completion_tokens|stream_options|response_format\.|choices|finish_reason"
    r"|stop_reason\.|content_block|tool_result|tool_use|tool_calls|function_call|input_text|prediction\.|include_usage"
)
#: A word that is one as a whole text: names of apis, and kinds of parts.
EXACT = {"chat", "messages", "responses", "completions", "redacted_thinking", "image_url", "stream"}
#: Where a part of a message is made or looked at, as code: `{"type": "text"...}`, `.get("type")`, `["type"]`.
SHAPE = re.compile(r"""\{'type': 'text'|\.get\('type'\)|\['type'\]""")

#: module -> what it may name, and why. A new protocol needs no line here.
ALLOWED: dict[str, tuple[set[str], str]] = {
    "__init__.py": ({"stream"}, "the function of that name"),
    "_hosts/schema.py": (
        {"chat", "messages", "responses", "completions", "x-api-key", "max_completion_tokens"},
        "the words of the table: a host chooses among them",
    ),
    "_plan/request.py": (
        {"tool_calls", "shape"},
        "`stream()` takes messages before it is known where they go; an assistant turn of text alone at their end is a prefill",
    ),
    "_transports/http.py": (
        {"anthropic-version", "request-id"},
        "headers that hold no secret; of a protocol that is not listed, errors quote less",
    ),
    "_transports/sdk.py": ({"stream"}, "a word in the SDKs' own header for a raw response"),
    "_types.py": ({"tool_use"}, "our own word for why a reply ended"),
    "web/_sse.py": ({"text/event-stream", "shape"}, "what our own endpoint sends to a browser, and messages of ASGI"),
    "web/_websocket.py": ({"shape"}, "messages of our own endpoint, and of ASGI"),
}


def docstrings(tree: ast.AST) -> set[int]:
    """The constants that are docstrings."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.add(id(first.value))
    return found


def named_in(source: str, spare: Collection[str] = ()) -> set[str]:
    """What a module's texts name of protocols; "shape" for a part of a message. Texts in `spare` are not looked at."""
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
    """Module -> what it names, homes left out."""
    names = {}
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        names[name] = named_in(path.read_text("utf-8"), FRAMINGS if name == WIRE else ())
    return {name: found for name, found in names.items() if found and not name.startswith(HOMES)}


def test_no_other_module_names_a_protocol() -> None:
    """Beside the listed exceptions, and every one of these is still needed."""
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
    """Each way in which one was named before is found, in a module of any name but those of the homes."""
    for name in ("_plan/first.py", "_codecs/first.py", "_wire/__init__.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(source)
    in_wire = named - {"text/event-stream"}
    expected = {"_plan/first.py": named, "_wire/__init__.py": in_wire}
    assert protocols_named(tmp_path) == {name: words for name, words in expected.items() if words}

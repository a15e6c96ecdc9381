"""What is specific to a protocol is in its codec: no other module names a protocol, or a field or header of one."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aprefill._codecs import PROTOCOLS, codec
from aprefill._codecs._dialects import DIALECTS
from aprefill._wire import FRAMINGS

if TYPE_CHECKING:
    from collections.abc import Collection

#: What the list of framings may name: their media types, modules and classes.
FRAMING_NAMES = {*FRAMINGS, *(word for words in FRAMINGS.values() for word in words)}
PACKAGE = Path(__file__).parents[1] / "aprefill"

#: Folders that may name protocols: the codecs, and the fake hosts, which must be independent of the codecs.
HOMES = ("_codecs/", "testing/")
#: This module lists the media types of the framings. Some contain the name of a protocol.
WIRE = "_wire/__init__.py"
CODECS = [codec(name) for name in PROTOCOLS]
#: The arguments of `stream()`. Every module may name them, although some protocols have a field or a word of that name.
ARGUMENTS = {argument for one in CODECS for argument in one.arguments}
#: The body fields of the codecs, each part of a path by itself, and the words with which their hosts end a reply.
FIELDS = {part for one in CODECS for fields in one.arguments.values() for field in fields for part in field.split(".")}
STREAMING = {field for one in CODECS for field in one.streaming}
STOP_WORDS = {word for one in CODECS for word in one.stop_reasons}
#: The fields that a dialect adds to a request, and the switches of a codec for a prefill.
SWITCHES = {field for fields in DIALECTS.values() for part in fields for field in part} | {
    field for one in CODECS for dialect in DIALECTS for field in one.prefill_switches(dialect, eats=True)
}


def is_compound(word: str) -> bool:
    """Whether a word consists of several, as in `stop_sequences` and `generationConfig`, and so is not plain English."""
    return re.search("_|[a-z][A-Z]", word) is not None


#: What the codecs themselves say about their protocols.
DERIVED = (FIELDS | STREAMING | STOP_WORDS | SWITCHES) - ARGUMENTS
#: Text that is about a protocol anywhere in a string: names of protocols, paths, headers, fields and values.
ABOUT = re.compile(
    "|".join(
        [
            # A longer word first: it may begin with a shorter one.
            *sorted({*map(re.escape, filter(is_compound, DERIVED)), *PROTOCOLS}, key=len, reverse=True),
            r"/chat/completions|/v1/messages|/responses|x-api-key|anthropic-version|request-?id\b|x-amzn",
            r"text/event-stream|stop_sequences|max_completion_tokens|max_output_tokens|stream_options|generationConfig",
            r"response_format\.|choices|finish_reason|stop_reason\.|content_block|tool_result|tool_use|tool_calls",
            r"function_call|input_text|prediction\.|include_usage",
        ]
    )
)
#: Words that are about a protocol only as a whole string: names of apis and SDKs, types of message parts, and roles.
EXACT = {
    *("chat", "messages", "responses", "completions", "redacted_thinking", "image_url", "developer"),
    *(word for word in STREAMING | SWITCHES if not is_compound(word)),
    *filter(None, PROTOCOLS.values()),
}
#: Code that makes or reads a part of a message: `{"type": "text"...}`, `.get("type")`, `["type"]`.
SHAPE = re.compile(r"""\{'type': 'text'|\.get\('type'\)|\['type'\]""")


def as_provider(*names: str) -> set[str]:
    """Return the names of providers that are also the name of a protocol or of an SDK."""
    return {name for name in names if name in {*PROTOCOLS, *PROTOCOLS.values()}}


#: module -> what it may name, and why. A new protocol must not need a line here.
ALLOWED: dict[str, tuple[set[str], str]] = {
    "__init__.py": ({"stream"}, "the function of that name"),
    "_hosts/names.py": (as_provider("anthropic", "openai"), "the providers of some families of models"),
    "_hosts/prefill.py": ({"echo"}, "a rule of the seam"),
    "_hosts/schema.py": (
        {"chat", "messages", "responses", "completions", "x-api-key", "max_completion_tokens"},
        "the words that a row of the table may have",
    ),
    "_plan/request.py": (
        {"tool_calls", "shape"},
        "`stream()` reads messages before the protocol is known: a last turn of the assistant is the prefill",
    ),
    "_seam/plan.py": ({"echo"}, "a rule of the seam"),
    "_transports/http.py": (
        {"anthropic-version", "request-id"},
        "headers without a secret, which errors may quote",
    ),
    "_transports/sdk.py": ({"stream"}, "a value of the SDKs' header for a raw response"),
    "_types.py": ({"tool_use", "stop_sequence"}, "members of our own `StopReason`"),
    "cli/_run.py": ({"stop_sequence"}, "an attribute of our own `Reply`"),
    "llm_plugin/__init__.py": ({"tool_calls"}, "`_tool_calls`, an attribute of LLM's responses"),
    "llm_plugin/_cli.py": ({"chat"}, "the command `llm chat`"),
    "llm_plugin/_hosts.py": (
        {"messages", "chat", "prefix", *as_provider("anthropic", "gemini", "mistral", "ollama", "openai")},
        "the provider and the api of the models of LLM and its plugins, their classes, and an option of llm-mistral",
    ),
    "llm_plugin/_json_start.py": ({"shape"}, "the keyword `type` of a JSON schema"),
    "llm_plugin/_listing.py": (
        {"chat", "prefix", "/responses"},
        "how a prefill is passed to a model of LLM, and a sentence about LLM's models that use another api",
    ),
    "llm_plugin/_models.py": ({"stream"}, "an argument of LLM's `execute`"),
    "llm_plugin/_prepare.py": ({"prefix", "stop_sequences"}, "options of LLM's plugins"),
    "llm_plugin/_turn.py": (
        {"responses", "openai", "choices", "finish_reason"},
        "LLM's conversation, the module of LLM's own models, their SDK, and fields of the host's reply, which LLM stores",
    ),
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
        ('if "output_config" in extra or "output_format" in extra: pass', {"output_config", "output_format"}),
        ('limit = extra.get("max_completion_tokens")', {"max_completion_tokens"}),
        ('limit = extra.get("max_output_tokens")', {"max_output_tokens"}),
        ('config = extra["generationConfig"]', {"generationConfig"}),
        ('body |= {"stream": True}', {"stream"}),
        ('over = finish.raw == "end_turn"', {"end_turn"}),
        (
            'if finish.raw in ("pause_turn", "content_filter", "model_context_window_exceeded"): pass',
            {"pause_turn", "content_filter", "model_context_window_exceeded"},
        ),
        ('if PROTOCOLS[row.codec] == "openai": pass', {"openai"}),
        ('sdk = "anthropic"', {"anthropic"}),
        ('wanted = {"continue_final_message": True}', {"continue_final_message"}),
        ('if name in {"add_generation_prompt", "echo"}: pass', {"add_generation_prompt", "echo"}),
        ('turn = {**turn, "prefix": True}', {"prefix"}),
        ('turn = {**turn, "partial": True}', {"partial"}),
        ('url = base_url + "/responses"', {"/responses"}),
        ('if turn["role"] in {"system", "developer"}: pass', {"developer"}),
        ('names = ("model", "stop", "tools", "system", "temperature", "max_tokens", "thinking")', set()),
        ('says = "openai and anthropic, a prefix, a developer, a partial echo"', set()),
        ('"""A docstring on text/event-stream."""\nsays = "a chat about messages"', set()),
    ],
)
def test_control_a_named_protocol_is_found(source: str, named: set[str], tmp_path: Path) -> None:
    """Control: each way to name a protocol is found in every module outside of `HOMES`."""
    for name in ("_plan/next.py", "_codecs/first.py", "_wire/__init__.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(source)
    in_wire = named - {"text/event-stream"}
    expected = {"_plan/next.py": named, "_wire/__init__.py": in_wire}
    assert protocols_named(tmp_path) == {name: words for name, words in expected.items() if words}

"""Writes docs/reference.md from the docstrings. `--check` writes nothing and exits 1 when the page is stale."""

from __future__ import annotations

import enum
import inspect
import re
import sys
import textwrap
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Literal, Union, get_args, get_origin

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = Path(__file__).with_name("reference.md")
#: Characters in a line of the page.
WIDTH = 120
MODULES = ("aprefill", "aprefill.testing", "aprefill.web")

#: The page's sections, in order: title, module, names. Every public name stands in one of them.
TOPICS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Stream a reply", "aprefill", ("stream", "Session", "Reply", "Prompt", "Message")),
    ("Settings", "aprefill", ("Timeouts", "Recovery", "Limits", "Absent", "ShowWhen", "Emulation", "Unset")),
    ("Without async", "aprefill", ("stream_sync", "SyncSession", "SyncReply")),
    (
        "What a reply knows",
        "aprefill",
        ("Verdict", "Support", "StopReason", "Usage", "Timing", "AttemptReport"),
    ),
    (
        "Events",
        "aprefill",
        ("Event", "TextEvent", "ReasoningEvent", "ToolEvent", "HeldEvent", "AttemptStarted", "AttemptEnded"),
    ),
    (
        "Errors",
        "aprefill",
        (
            "AprefillError",
            "UsageError",
            "ReplyClosed",
            "ReplyConsumed",
            "ProviderError",
            "ConnectFailed",
            "StatusError",
            "PrefillRefused",
            "PrefillIgnored",
            "Stalled",
            "Truncated",
            "ProtocolError",
            "LimitExceeded",
        ),
    ),
    (
        "Remove a repeated prefill from any stream",
        "aprefill",
        ("dedupe", "Deduped", "dedupe_sync", "DedupedSync", "DedupeShowWhen", "Seam", "Echo"),
    ),
    ("The support table", "aprefill", ("support_table", "SupportTable", "SupportRow", "KnownRefusal")),
    (
        "aprefill.web: replies to a browser",
        "aprefill.web",
        ("sse", "websocket", "EventStreamResponse", "origin_allowed", "Origins"),
    ),
    (
        "aprefill.testing: a host on loopback",
        "aprefill.testing",
        (
            "serve",
            "serve_in_thread",
            "Server",
            "Script",
            "Scripts",
            "Exchange",
            "Received",
            "ToolCall",
            "Prefill",
            "Echo",
            "AskedFor",
            "Finder",
            "BadEvent",
            "Framing",
            "Outcome",
        ),
    ),
)

#: Classes that users do not make -> who makes them. No signature is shown.
MADE_BY = {
    "Reply": "stream()` and `Session.stream()",
    "SyncReply": "stream_sync()` and `SyncSession.stream()",
    "Deduped": "dedupe()",
    "DedupedSync": "dedupe_sync()",
    "EventStreamResponse": "sse()",
}

#: `#: words` above `name: type = value` or `NAME = value`, or after it on no line of its own
ATTRIBUTE = re.compile(r"((?:^    #:.*\n)+)^    (\w+)(?::[^=\n]+)?(?: = .+)?$", re.MULTILINE)


def signature(name: str, thing: object) -> str:
    """How it is called, as Python text; one parameter a line when it is long."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    parameters, keyword_only = [], False
    for parameter in found.parameters.values():
        if parameter.name in {"self", "cls"}:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parameters.append("*")
        text = parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {plain(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {default(parameter.default)}"
        parameters.append(text)
    returns = "" if found.return_annotation in {found.empty, None, "None"} else f" -> {plain(found.return_annotation)}"
    line = f"{name}({', '.join(parameters)}){returns}"
    return line if len(line) <= 100 else f"{name}(\n    " + ",\n    ".join(parameters) + f",\n){returns}"


def prefix(thing: object) -> str:
    """ "async " for a function whose result is awaited or entered with `async with`."""
    inner = inspect.unwrap(thing)
    is_async = inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
    return "async " if is_async else ""


def plain(annotation: object) -> str:
    """An annotation as it stands in the source."""
    return annotation.strip("'\"") if isinstance(annotation, str) else inspect.formatannotation(annotation)


def default(value: object) -> str:
    """Return the repr of a default. A dataclass and a long text are shortened."""
    if is_dataclass(value):
        return f"{type(value).__name__}()"
    if isinstance(value, str) and len(value) > 60:
        return f"{value[:50]!r}..."
    return repr(value)


def doc(thing: object) -> str:
    """The docstring, its example fenced and its arguments as a list."""
    text = inspect.getdoc(thing) or ""
    head, _, args = text.partition("\nArgs:\n")
    head = re.sub(r"((?:^>>> .*\n?(?:^(?!$|>>> ).*\n?)*)+)", r"```pycon\n\1\n```\n", head, flags=re.MULTILINE)
    head = re.sub(r"\n\n```\n", "\n```\n", head)
    if not args:
        return head
    items = re.sub(r"\n        \s*", " ", args)
    return head + "\n\n" + "\n".join(re.sub(r"^    ([\w, ]+): ", r"- `\1`: ", line) for line in items.splitlines())


def attributes(cls: type) -> list[str]:
    """Attributes documented by `#:` comments, one bullet each."""
    found = []
    for comment, name in ATTRIBUTE.findall(inspect.getsource(cls)):
        words = " ".join(line.strip().removeprefix("#:").strip() for line in comment.splitlines())
        if not name.startswith("_"):
            found.append(f"- `{name}`: {words}")
    return found


def is_public(cls: type) -> bool:
    """Whether a class has a section of its own."""
    return any(
        cls in vars(import_module(name)).values() or cls.__name__ in import_module(name).__all__ for name in MODULES
    )


def members(cls: type) -> list[str]:
    """Public methods and properties of its own, and of bases that are not public, each with its docstring."""
    out = []
    # a base that is not public has no section of its own: what it gives is listed here
    bases = [base for base in cls.__mro__[1:] if base.__module__.startswith("aprefill") and not is_public(base)]
    for name, member in (item for klass in (cls, *bases) for item in vars(klass).items()):
        target = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(target):
            continue
        called = prefix(target) + signature(name, target)
        if isinstance(member, property):
            out.append(f"**`{name}`**: {doc(target)}")
        elif "\n" in called:
            out.append(f"**`{prefix(target)}{name}`**\n\n```python\n{called}\n```\n\n{doc(target)}")
        else:
            out.append(f"**`{called}`**: {doc(target)}")
    return out


def kind_name(kind: object) -> str:
    """A type or a value as it stands in the source."""
    if inspect.isclass(kind) and get_origin(kind) is None:
        return kind.__name__
    return re.sub(r"\b(typing|collections\.abc|aprefill\.[\w.]+)\.", "", repr(kind))


def entry(name: str, thing: object) -> str:
    """One name's section."""
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        kinds = get_args(thing) if get_origin(thing) in {Literal, Union, UnionType} else (thing,)
        of = "One of " if len(kinds) > 1 else "A name for "
        return f"### {name}\n\n{of}{', '.join(f'`{kind_name(kind)}`' for kind in kinds)}."
    lines = [f"### {name}"]
    if name in MADE_BY and inspect.isclass(thing):
        lines.append(f"You get one from `{MADE_BY[name]}`.")
    elif inspect.isfunction(thing) or (
        inspect.isclass(thing)
        and not issubclass(thing, enum.Enum)
        and ("__init__" in vars(thing) or issubclass(thing, msgspec.Struct))
    ):
        lines.append(f"```python\n{prefix(thing)}{signature(name, thing)}\n```")
    if inspect.isclass(thing) and thing.__bases__ != (object,):
        bases = [b.__name__ for b in thing.__bases__ if b.__module__.startswith("aprefill") and is_public(b)]
        if bases:
            lines.append(f"Subclass of {', '.join(f'`{base}`' for base in bases)}.")
    lines.append(doc(thing))
    if inspect.isclass(thing):
        if listed := attributes(thing):
            lines.append("\n".join(listed))
        lines += members(thing)
    return "\n\n".join(line for line in lines if line)


def section(title: str, module: str, names: tuple[str, ...]) -> str:
    """One topic's section."""
    there = import_module(module)
    return f"## {title}\n\n" + "\n\n".join(entry(name, getattr(there, name)) for name in names)


def check_topics() -> None:
    """Every public name stands in one topic, and every name of a topic is public."""
    for module in MODULES:
        listed = sorted(name for _, where, names in TOPICS if where == module for name in names)
        public = sorted(import_module(module).__all__)
        if listed != public:
            sys.exit(f"{module}: in one of the two only, or listed twice: {sorted({*listed} ^ {*public}) or listed}")


def page() -> str:
    """The whole page."""
    check_topics()
    intro = (
        "# Reference\n\nEvery public name, by topic. The terms are explained in [Words](words.md).\n"
        "`async` in front of a function means that its result is awaited or used in `async with`.\n\n"
        + "\n".join(f"- [{title}](#{anchor(title)})" for title, _, _ in TOPICS)
        + "\n\nThis page is generated from the docstrings by `nox -s docs`.\n\n"
    )
    text = intro + "\n\n".join(section(*topic) for topic in TOPICS)
    return "\n".join(wrapped(text)) + "\n"


def wrapped(text: str) -> Iterable[str]:
    """The page's lines. Paragraphs and list items with a line that is too long are wrapped, code is not."""
    is_code = False
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        is_code ^= line.startswith("```")
        starts = is_code or not line.strip() or line.startswith(("- ", "```", "#"))
        if starts and block:
            yield from flow(block)
            block = []
        if is_code or not line.strip() or line.startswith("```"):
            yield line.rstrip()
        else:
            block.append(line.rstrip())


def flow(block: list[str]) -> list[str]:
    """One paragraph or list item, wrapped if a line of it is too long."""
    if all(len(line) <= WIDTH for line in block):
        return block
    indent = "  " if block[0].startswith("- ") else ""
    return textwrap.wrap(
        " ".join(line.strip() for line in block),
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def anchor(title: str) -> str:
    """What a forge calls the heading in a link."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(
            0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page() else f"{PAGE.name} is stale: nox -s docs"
        )
    PAGE.write_text(page(), encoding="utf-8")

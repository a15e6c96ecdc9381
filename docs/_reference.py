"""Write docs/reference.md from the docstrings. With `--check` write nothing, and exit with 1 if the page is stale."""

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
    from types import ModuleType

PAGE = Path(__file__).with_name("reference.md")
MODULES = ("aprefill", "aprefill.testing", "aprefill.web")

#: A comment `#: words` on the lines above `name: type = value` or `NAME = value`.
ATTRIBUTE = re.compile(r"((?:^    #:.*\n)+)^    (\w+)(?::[^=\n]+)?(?: = .+)?$", re.MULTILINE)


def signature(name: str, thing: object) -> str:
    """Return the signature as Python text, with one parameter per line if it is long."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    parameters, keyword_only = [], False
    for parameter in found.parameters.values():
        if parameter.name == "self":
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


def plain(annotation: object) -> str:
    """Return an annotation as it is written in the source."""
    return annotation.strip("'\"") if isinstance(annotation, str) else inspect.formatannotation(annotation)


def default(value: object) -> str:
    """Return the repr of a default. A dataclass and a long text are shortened."""
    if is_dataclass(value):
        return f"{type(value).__name__}()"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:70]}...{text[-1]}"


def doc(thing: object) -> str:
    """Return the docstring, with its example in a code fence and its arguments as a list."""
    text = inspect.getdoc(thing) or ""
    head, _, args = text.partition("\nArgs:\n")
    head = re.sub(r"((?:^>>> .*\n?(?:^(?!$|>>> ).*\n?)*)+)", r"```pycon\n\1\n```\n", head, flags=re.MULTILINE)
    head = re.sub(r"\n\n```\n", "\n```\n", head)
    if not args:
        return head
    items = re.sub(r"\n        \s*", " ", args)
    return (
        head + "\n\n" + "\n".join(item(re.sub(r"^    ([\w, ]+): ", r"- `\1`: ", line)) for line in items.splitlines())
    )


def item(text: str) -> str:
    """Return a list item or a paragraph, wrapped."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def attributes(cls: type) -> list[str]:
    """Return the attributes that `#:` comments document, one list item each."""
    found = []
    for comment, name in ATTRIBUTE.findall(inspect.getsource(cls)):
        words = " ".join(line.strip().removeprefix("#:").strip() for line in comment.splitlines())
        if not name.startswith("_"):
            found.append(item(f"- `{name}`: {words}"))
    return found


def is_public(cls: type) -> bool:
    """Return whether a class has its own section on the page."""
    return any(
        cls in vars(import_module(name)).values() or cls.__name__ in import_module(name).__all__ for name in MODULES
    )


def members(cls: type) -> list[str]:
    """Return the public methods and properties of a class and of its bases that are not public, with docstrings."""
    out = []
    # a base that is not public has no section, so its members are listed with the class
    bases = [base for base in cls.__mro__[1:] if base.__module__.startswith("aprefill") and not is_public(base)]
    for name, member in (item for klass in (cls, *bases) for item in vars(klass).items()):
        target = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(target):
            continue
        title = f"`{name}`" if isinstance(member, property) else f"`{signature(name, target)}`"
        if "\n" in title:
            out.append(f"**`{name}`**\n\n```python\n{signature(name, target)}\n```\n\n{doc(target)}")
        else:
            first, gap, rest = doc(target).partition("\n\n")
            out.append(item(f"**{title}**: {first}") + gap + rest)
    return out


def kind_name(kind: object) -> str:
    """Return a type or a value as it is written in the source."""
    if inspect.isclass(kind) and get_origin(kind) is None:
        return kind.__name__
    return re.sub(r"\b(typing|collections\.abc|aprefill\.[\w.]+)\.", "", repr(kind))


def entry(name: str, thing: object) -> str:
    """Return the section of one name."""
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        kinds = get_args(thing) if get_origin(thing) in {Literal, Union, UnionType} else (thing,)
        of = "One of " if len(kinds) > 1 else "A name for "
        return f"### {name}\n\n" + item(f"{of}{', '.join(f'`{kind_name(kind)}`' for kind in kinds)}.")
    lines = [f"### {name}"]
    if inspect.isfunction(thing) or (
        inspect.isclass(thing)
        and not issubclass(thing, enum.Enum)
        and ("__init__" in vars(thing) or issubclass(thing, msgspec.Struct))
    ):
        lines.append(f"```python\n{signature(name, thing)}\n```")
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


def section(module: ModuleType) -> str:
    """Return the section of one module, in the order of its `__all__`."""
    return f"## {module.__name__}\n\n" + "\n\n".join(entry(name, getattr(module, name)) for name in module.__all__)


def page() -> str:
    """Return the whole page."""
    intro = "# Reference\n\nGenerated from the docstrings by `nox -s docs`; do not edit.\n\n"
    text = intro + "\n\n".join(section(import_module(name)) for name in MODULES)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(
            0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page() else f"{PAGE.name} is stale: nox -s docs"
        )
    PAGE.write_text(page(), encoding="utf-8")

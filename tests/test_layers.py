"""The layout: imports point downwards and form no cycle, importing the package is cheap, and `__all__` is exact."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

import aprefill

PACKAGE = Path(__file__).parents[1] / "aprefill"

#: The layer of each part: a folder, or a module at the top. Imports lead to the same layer or a lower one.
LAYERS = {
    "_errors": 0,
    "_words": 0,
    "_types": 0,
    "_events": 0,
    "_deltas": 0,
    "_settings": 0,
    "_json": 0,
    "_loops": 0,
    "_version": 0,
    "_seam": 1,
    "_wire": 1,
    "_codecs": 1,
    "_hosts": 2,
    "_plan": 2,
    "_engine": 3,
    "_transports": 3,
    "_session": 4,
    "_sync": 4,
    "_reply": 4,
    "_dedupe": 4,
    "__init__": 4,
    "_records": 5,
    "__main__": 5,
    "cli": 5,
    "llm_plugin": 5,
    "testing": 5,
    "web": 5,
}
#: Parts that only use others. They are imported by nobody.
EDGES = {name for name, layer in LAYERS.items() if layer == 5} - {"_records"}

#: Pure parts: text and data in, text and data out, without coroutines, clocks, random numbers, environment or network.
PURE = {"_seam", "_wire", "_codecs", "_hosts", "_plan"}
IMPURE = {
    "aiohttp",
    "anthropic",
    "anyio",
    "asyncio",
    "datetime",
    "httpx",
    "httpx2",
    "importlib",
    "openai",
    "os",
    "random",
    "secrets",
    "socket",
    "threading",
    "time",
    "trio",
    "uuid",
}
#: Functions that import a module by its name. A constant name counts as an import.
BY_NAME = {"import_module", "__import__"}
#: Exceptions for pure modules: module -> what it imports, and why
EXCEPTIONS = {
    "_codecs": {"importlib": "a codec is imported on first use"},
    "_wire": {"importlib": "a framing is imported on first use"},
    "_wire.eventstream": {"importlib": "botocore is optional, and is imported on first use"},
    "_hosts.schema": {"datetime": "a date in the table is a value of the type `date`; no clock is read"},
    "_hosts.target": {"os": "the model, the key and the base URL may come from the environment"},
    "_hosts.table": {
        "os": "a caller's table may be given as a path",
        "importlib": "the built-in table is a file of the package",
    },
    "_hosts.refusals": {
        "time": "a refusal is forgotten after an hour",
        "threading": "several threads use the same memory of refusals",
    },
}

#: Private names that the edges use, and why
NOT_PUBLIC = {
    "__main__: cli.main": "`python -m aprefill` is the command line",
    "cli: _errors.joined": "its messages are joined like those of the library",
    "cli: _hosts.names.ALIASES": "`aprefill models` lists them",
    "llm_plugin: _codecs.codec": "the codec knows the form of a text in the protocol",
    "llm_plugin: _codecs.limit_words": "finds a reply that reached its token limit in LLM's stored response",
    "llm_plugin: _codecs._switches.TOKEN_LIMITS": "LLM's plugins use the hosts' names of token limits",
    "cli: _words.spelled": "turns the settings of an error message into options",
    # LLM's own models make the requests. So the plugin uses the core's stages without its engine.
    "llm_plugin: _hosts.prefill.attach_prefill": "makes the assistant turn and the fields of a native prefill",
    "llm_plugin: _hosts.prefill.known_refusal": "recognizes a refusal in the error of an LLM plugin",
    "llm_plugin: _hosts.refusals.RefusalKey": "a refusal is remembered under the host and the model of an LLM model",
    "llm_plugin: _hosts.refusals": "the process has one memory of refusals",
    "llm_plugin: _hosts.table.builtin_table": "finds the row of the host of an LLM model",
    "llm_plugin: _plan.conflicts.conflict": "options and schemas of LLM may conflict with a native prefill too",
    "llm_plugin: _plan.emulate.DEFAULT": "the plugin has no option for another wording",
    "llm_plugin: _plan.emulate.emulate": "the prompt of an LLM model asks for the prefill in the same words",
    "llm_plugin: _plan.next.LASTING": "says which refusals are remembered",
    "llm_plugin: _plan.next.is_quoted": "a host that quotes the prompt in an error has not refused the prefill",
    "llm_plugin: _plan.stops.stops": "divides the stop sequences between the host and the plugin",
    "llm_plugin: _seam.plan.SeamPlan": "the rules of the seam come from the request, and the splicer makes the seam",
    "llm_plugin: _seam.markers.Markers": "removes the markers of the prompt from a reply",
    "llm_plugin: _seam.stage.TextStage": "joins the prefill and the text of a reply, and applies the stop sequences",
}


def room_of(module: str) -> str:
    """Return the folder of a module path relative to the package, or the module if it is at the top."""
    return module.split(".")[0]


@cache
def modules(root: Path = PACKAGE) -> dict[str, ast.Module]:
    """Return the syntax tree of each module, by its path relative to the package.

    A package stands for its `__init__`.
    """
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(path.read_text())
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(name: str, tree: ast.Module, known: set[str]) -> list[tuple[str, str]]:
    """Yield `(module, name)` of each import at run time. Imports of this package are relative, with a leading dot."""
    is_package = name == "__init__" or any(other.startswith(f"{name}.") for other in known)
    out: list[tuple[str, str]] = []

    def ours(module: str, imported: str) -> tuple[str, str]:
        full = f"{module}.{imported}".strip(".")
        return (f".{full}", "") if full in known else (f".{module}" if module else ".__init__", imported)

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                continue
            if isinstance(child, ast.Import):
                out.extend((alias.name, "") for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                if child.level:
                    here = [] if name == "__init__" else name.split(".")
                    here = here if is_package else here[:-1]
                    base = here[: len(here) - (child.level - 1)]
                    module = ".".join([*base, *([module] if module else [])])
                elif module.split(".")[0] == "aprefill":
                    module = module.removeprefix("aprefill").removeprefix(".")
                else:
                    out.append((module, ""))
                    continue
                out.extend(ours(module, alias.name) for alias in child.names)
            elif isinstance(child, ast.Call) and ast.unparse(child.func).rpartition(".")[2] in BY_NAME:
                out.extend(
                    (name.value, "")
                    for name in child.args[:1]
                    if isinstance(name, ast.Constant) and isinstance(name.value, str)
                )
            walk(child)

    walk(tree)
    return [
        (f".{'.'.join(module.split('.')[1:]) or '__init__'}", imported)
        if module.split(".")[0] == "aprefill"
        else (module, imported)
        for module, imported in out
    ]


@cache
def graph(root: Path = PACKAGE) -> dict[str, list[tuple[str, str]]]:
    """Return module -> what it imports."""
    trees = modules(root)
    return {name: imports(name, tree, set(trees)) for name, tree in trees.items()}


def wrong_imports(root: Path = PACKAGE) -> list[str]:
    """Return every import that leads to a higher layer, or that a pure module must not have.

    `EXCEPTIONS` are left out.
    """
    wrong = []
    for name, targets in graph(root).items():
        for target, _ in targets:
            if target.startswith("."):
                if LAYERS[room_of(target[1:])] > LAYERS[room_of(name)]:
                    wrong.append(f"{name} imports {target}")
                elif room_of(target[1:]) in EDGES and room_of(name) not in {room_of(target[1:]), "__main__"}:
                    wrong.append(f"{name} imports the edge {target}")
            elif room_of(name) in PURE and target.split(".")[0] in IMPURE - EXCEPTIONS.get(name, {}).keys():
                wrong.append(f"{name} is pure and imports {target}")
    return wrong


def unused_exceptions(root: Path = PACKAGE) -> list[str]:
    """Return the exceptions for imports that do not exist."""
    found = {name: {target.split(".")[0] for target, _ in targets} for name, targets in graph(root).items()}
    return [f"{name}: {one}" for name, ones in EXCEPTIONS.items() for one in ones if one not in found.get(name, ())]


def circles(edges: dict[str, set[str]]) -> list[str]:
    """Return one cycle for each node that is on one, as `a > b > a`."""
    found = []
    for start in edges:
        todo = [(start, [start])]
        seen = set()
        while todo:
            at, path = todo.pop()
            for following in sorted(edges.get(at, ())):
                if following == start:
                    found.append(" > ".join([*path, start]))
                    todo.clear()
                    break
                if following not in seen:
                    seen.add(following)
                    todo.append((following, [*path, following]))
    return found


def edges_of(root: Path = PACKAGE, *, rooms: bool = False) -> dict[str, set[str]]:
    """Return which module, or which part, imports which others."""
    known = graph(root)
    out: dict[str, set[str]] = {}
    for name, targets in known.items():
        of = room_of(name) if rooms else name
        for target, _ in targets:
            if target.startswith("."):
                to = room_of(target[1:]) if rooms else target[1:]
                if to != of:
                    out.setdefault(of, set()).add(to)
    return out


def test_imports_point_only_down() -> None:
    """No module imports from a higher layer, nobody imports an edge, and pure modules import nothing impure."""
    assert wrong_imports() == []
    assert unused_exceptions() == []


@pytest.mark.parametrize("rooms", [False, True], ids=["modules", "rooms"])
def test_nothing_imports_in_a_circle(rooms: bool) -> None:
    """The imports of modules and of parts have no cycle, including imports inside functions."""
    assert circles(edges_of(rooms=rooms)) == []


def test_control_wrong_imports_are_found(tmp_path: Path) -> None:
    """Control: the same checks find upward imports, imports inside a function, impure imports, edges and cycles."""
    (tmp_path / "_wire").mkdir()
    (tmp_path / "_wire" / "__init__.py").write_text("from .._reply import Reply\n")
    (tmp_path / "_wire" / "sse.py").write_text("def f():\n    import aprefill.testing\n    import time\n")
    (tmp_path / "_reply.py").write_text("from ._wire import sse\n")
    (tmp_path / "web.py").write_text("from . import cli\n")
    (tmp_path / "cli.py").write_text("from .web import x\n")
    assert wrong_imports(tmp_path) == [
        "_wire imports ._reply",
        "_wire.sse imports .testing",
        "_wire.sse is pure and imports time",
        "cli imports the edge .web",
        "web imports the edge .cli",
    ]
    assert circles(edges_of(tmp_path, rooms=True)) == [
        "_reply > _wire > _reply",
        "_wire > _reply > _wire",
        "cli > web > cli",
        "web > cli > web",
    ]
    assert circles(edges_of(tmp_path)) == ["cli > web > cli", "web > cli > web"]


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import datetime", "datetime"),
        ("from datetime import datetime", "datetime"),
        ("import uuid", "uuid"),
        ("from importlib import resources", "importlib"),
        ("import importlib.util", "importlib.util"),
        ("def f():\n    return import_module('time')", "time"),
        ("loop = importlib.import_module('asyncio.events')", "asyncio.events"),
        ("clock = __import__('time').monotonic", "time"),
        ("import_module('json')\nimport_module(name)\nimport_module(f'{__name__}.time')\nimport_module()", None),
    ],
)
def test_control_impure_imports_are_found(source: str, imported: str | None, tmp_path: Path) -> None:
    """Control: clocks, random ids, and imports by name are found in a pure module, and allowed in another one."""
    for room in ("_plan", "_engine"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "first.py").write_text(source + "\n")
    assert wrong_imports(tmp_path) == ([f"_plan.first is pure and imports {imported}"] if imported else [])
    assert "_hosts.refusals: time" in unused_exceptions(tmp_path)


def private_uses() -> list[str]:
    """Return the private names and whole modules that the edges import from other parts."""
    found = set()
    for name, targets in graph().items():
        if room_of(name) in EDGES:
            for target, imported in targets:
                inner = room_of(target[1:]) if target.startswith(".") else ""
                if inner not in {"", room_of(name), "__init__", "_records"} and imported not in aprefill.__all__:
                    found.add(f"{room_of(name)}: {target[1:]}.{imported}".rstrip("."))
    return sorted(found)


def test_the_edges_use_public_names() -> None:
    """The edges use public names, and exactly the private names that are listed here with a reason."""
    assert private_uses() == sorted(NOT_PUBLIC)


def test_pure_modules_have_no_async() -> None:
    """Pure modules have no coroutine."""
    for name, tree in modules().items():
        if room_of(name) in PURE:
            found = [n for n in ast.walk(tree) if isinstance(n, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor)]
            assert not found, name


def test_every_module_has_a_layer() -> None:
    """Every module has a layer in this test."""
    for name in modules():
        assert room_of(name) in LAYERS, f"{name} has no layer in this test"


def test_all_is_exact() -> None:
    """`__all__` is a sorted tuple, each name resolves, and it has the same names as the lazy import."""
    assert isinstance(aprefill.__all__, tuple)
    assert list(aprefill.__all__) == sorted(aprefill.__all__)
    assert set(aprefill.__all__) == set(aprefill._HOME_OF)
    for name in aprefill.__all__:
        value = getattr(aprefill, name)
        # a type alias has no docstring
        assert value.__doc__ or not callable(value) or get_args(value), name
    assert set(aprefill.__all__) <= set(dir(aprefill))
    with pytest.raises(AttributeError):
        aprefill.nothing_of_the_kind  # noqa: B018


def test_import_is_lean() -> None:
    """`import aprefill` imports no HTTP library, SDK, command line or web package."""
    code = (
        "import sys, aprefill; "
        "heavy = {'httpx', 'httpx2', 'httpcore2', 'anyio', 'asyncio', 'trio', 'openai', 'anthropic', 'click', 'rich', "
        "'starlette', 'fastapi', 'msgspec', 'llm', 'redis', 'botocore', 'aiohttp'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"

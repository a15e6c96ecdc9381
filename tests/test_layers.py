"""The house: imports point down, the root is lean, and the public names are exactly the listed ones."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aprefill

PACKAGE = Path(__file__).parents[1] / "aprefill"

#: Each module's layer; a package's `__init__` is listed by the package's name. A longer prefix wins.
LAYERS = {
    "_errors": 0,
    "_types": 0,
    "_version": 0,
    "_seam": 1,
    "_echo": 1,
    "_chatter": 1,
    "_closing": 1,
    "_joint": 1,
    "_stop": 1,
    "_support": 1,
    "_schema": 1,
    "_ask": 1,
    "_clocks": 1,
    "_conflicts": 1,
    "_either": 1,
    "_fence": 1,
    "_held": 1,
    "_history": 1,
    "_markers": 1,
    "_emulate": 1,
    "_names": 1,
    "_plan": 1,
    "_redact": 1,
    "_splice": 1,
    "wire": 1,
    "codecs": 1,
    "_refusals": 2,
    "_watch": 2,
    "_clients": 2,
    "_target": 2,
    "transports": 2,
    "_account": 2,
    "_ahead": 2,
    "_body": 2,
    "_attempt": 2,
    "_run": 2,
    "_reply": 2,
    "_session": 3,
    "_sync": 3,
    "_dedupe": 3,
    "__init__": 3,
    "__main__": 4,
    "cli": 4,
    "llm_plugin": 4,
    "testing": 4,
    "web": 4,
}

PURE = {name for name, layer in LAYERS.items() if layer <= 1}
#: What a pure module may not touch.
IMPURE = {"anyio", "asyncio", "trio", "httpx", "httpx2", "openai", "anthropic", "time", "socket", "threading"}


def layer_of(module: str) -> int:
    """The layer of a module path relative to the package, such as `wire.sse`."""
    return LAYERS[module.split(".")[0]]


def modules(root: Path = PACKAGE) -> list[tuple[str, ast.Module]]:
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found.append((name, ast.parse(path.read_text())))
    return found


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(name: str, tree: ast.Module, *, package: bool) -> list[str]:
    """Modules that `tree` imports at run time, ours relative to the package with a leading dot, others by name."""
    out: list[str] = []

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt) and is_type_checking(child):
                continue
            if isinstance(child, ast.Import):
                out.extend(absolute(alias.name) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                out.extend(resolve(child))
            walk(child)

    def absolute(module: str) -> str:
        return "." + module.removeprefix("aprefill").removeprefix(".") if module.split(".")[0] == "aprefill" else module

    def resolve(node: ast.ImportFrom) -> list[str]:
        if node.level == 0:
            module = absolute(node.module or "")
        else:
            here = name.split(".") if package else name.split(".")[:-1]
            base = here[: len(here) - (node.level - 1)]
            module = "." + ".".join([*base, *([node.module] if node.module else [])])
        if module == ".":
            return [f".{alias.name}" for alias in node.names]
        return [module]

    walk(tree)
    return out


def upward(root: Path = PACKAGE) -> list[str]:
    """Every import that does not point down (or sideways inside one layer)."""
    wrong = []
    for name, tree in modules(root):
        package = (root / Path(*name.split("."))).is_dir()
        for target in imports(name, tree, package=package or name == "__init__"):
            if target.startswith(".") and target != ".":
                inner = target[1:].split(".")[0]
                known = inner if inner in LAYERS else "__init__"  # a public name, from the front door
                if LAYERS[known] > layer_of(name):
                    wrong.append(f"{name} imports {target}")
            elif name.split(".")[0] in PURE and target.split(".")[0] in IMPURE:
                wrong.append(f"{name} is pure and imports {target}")
    return wrong


def test_imports_point_only_down() -> None:
    """No module imports from a layer above its own, and pure modules touch no clock, loop or network library."""
    assert upward() == []


def test_control_an_upward_import_is_found(tmp_path: Path) -> None:
    """The same check finds an upward import, at the top or inside a function, and an impure one."""
    (tmp_path / "wire").mkdir()
    (tmp_path / "wire" / "__init__.py").write_text("from .._reply import Reply\n")
    (tmp_path / "wire" / "sse.py").write_text("def f():\n    import aprefill.testing\n    import anyio\n")
    assert upward(tmp_path) == [
        "wire imports ._reply",
        "wire.sse imports .testing",
        "wire.sse is pure and imports anyio",
    ]


def test_pure_modules_have_no_async() -> None:
    """`feed` and `close`, never a coroutine."""
    for name, tree in modules():
        if name.split(".")[0] in PURE:
            found = [n for n in ast.walk(tree) if isinstance(n, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor)]
            assert not found, name


def test_every_module_has_a_layer() -> None:
    """A new module says where it belongs."""
    for name, _ in modules():
        assert name.split(".")[0] in LAYERS, f"{name} has no layer in this test"


def test_all_is_exact() -> None:
    """`__all__` is a sorted tuple, each name resolves, and it is what the lazy table can give."""
    assert isinstance(aprefill.__all__, tuple)
    assert list(aprefill.__all__) == sorted(aprefill.__all__)
    assert set(aprefill.__all__) == set(aprefill._HOME_OF)
    for name in aprefill.__all__:
        assert getattr(aprefill, name).__doc__, name
    assert set(aprefill.__all__) <= set(dir(aprefill))
    with pytest.raises(AttributeError):
        aprefill.nothing_of_the_kind  # noqa: B018


def test_import_is_lean() -> None:
    """`import aprefill` loads no HTTP library, SDK, command line or web package, nor the front door itself."""
    code = (
        "import sys, aprefill; "
        "heavy = {'httpx', 'httpx2', 'httpcore2', 'anyio', 'asyncio', 'trio', 'openai', 'anthropic', 'click', 'rich', "
        "'starlette', 'fastapi', 'msgspec', 'llm', 'redis', 'botocore', 'aiohttp'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"

"""Every type of ours that a public name returns or takes is public itself."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aprefill

from .support.public import MODULES, public

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Methods that users do not call -> who does.
NOT_CALLED = {
    "Reply.__init__": "stream() and Session.stream() make replies",
    "Deduped.__init__": "dedupe() makes them",
    "DedupedSync.__init__": "dedupe_sync() makes them",
    "SyncReply.__init__": "stream_sync() and SyncSession.stream() make them",
    "EventStreamResponse.__init__": "sse() makes it",
}


def names_in(annotation: Any) -> Iterator[str]:
    """The names that stand in an annotation."""
    if not isinstance(annotation, str):
        if inspect.isclass(annotation):
            yield annotation.__name__
        return
    for node in ast.walk(ast.parse(annotation, mode="eval")):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            continue
        if isinstance(node, ast.Name):
            yield node.id


def home_of(thing: Any) -> dict[str, Any]:
    return vars(sys.modules[thing.__module__])


def hints_of(thing: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each name in the annotations of a function, a class or its fields, and where it is looked up."""
    thing = inspect.unwrap(thing)
    for annotation in getattr(thing, "__annotations__", {}).values():
        for name in names_in(annotation):
            yield name, home_of(thing)


def aliases_of(package: Path) -> set[str]:
    """The aliases of types that the modules of a package define."""
    return {
        node.target.id
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.annotation, ast.Name)
        and node.annotation.id == "TypeAlias"
    }


ALIASES = aliases_of(Path(aprefill.__file__).parent)


def is_ours(name: str, value: Any) -> bool:
    """Whether what an annotation names is a type or an alias of this package's."""
    if inspect.isclass(value):
        return value.__module__.partition(".")[0] in {"aprefill", __name__.partition(".")[0]}
    return value is not None and name in ALIASES


def not_public(things: Iterator[tuple[str, Any]]) -> dict[str, str]:
    """Types and aliases of ours that are not exported -> a public name that has one in its hints."""
    found: dict[str, str] = {}
    for where, thing in things:
        if where in NOT_CALLED or (inspect.isclass(thing) and not dataclasses.is_dataclass(thing)):
            continue
        for name, home in hints_of(thing):
            value = home.get(name)
            if is_ours(name, value) and not is_exported(name, value):
                found.setdefault(name, where)
    return found


def is_exported(name: str, value: Any) -> bool:
    modules = map(import_module, MODULES)
    return any(name in module.__all__ and getattr(module, name) == value for module in modules)


@pytest.mark.parametrize("name", MODULES)
def test_what_is_returned_and_taken_is_public(name: str) -> None:
    """Of all functions, methods, properties and fields that are public."""
    assert len(ALIASES) > 5
    assert not_public(public(import_module(name))) == {}


@pytest.mark.parametrize("made", sorted(NOT_CALLED))
def test_what_is_not_called_by_users_is_there(made: str) -> None:
    """Each exception is about a method that there is."""
    assert any(made == where for name in MODULES for where, _ in public(import_module(name)))


def test_control_a_hidden_type_is_found() -> None:
    """The same look finds a class and an alias of ours that nobody exports, as an argument, a result and a field."""
    from aprefill._deltas import Delta, Record

    def taker(one: Record | None) -> list[Delta]:  # type: ignore[empty-body]
        """Takes and gives what is not public."""

    @dataclasses.dataclass
    class Holder:
        """Has it as a field."""

        one: Record

    taker.__globals__.update(Record=Record, Delta=Delta)
    try:
        assert not_public(iter([("taker", taker)])) == {"Record": "taker", "Delta": "taker"}
        assert not_public(iter([("Holder", Holder)])) == {"Record": "Holder"}
    finally:
        del taker.__globals__["Record"], taker.__globals__["Delta"]

"""Every type that a public name returns or takes is public too."""

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

#: method that users do not call -> what calls it
NOT_CALLED = {
    "Reply.__init__": "stream() and Session.stream() make replies",
    "Deduped.__init__": "dedupe() makes them",
    "DedupedSync.__init__": "dedupe_sync() makes them",
    "SyncReply.__init__": "stream_sync() and SyncSession.stream() make them",
    "EventStreamResponse.__init__": "sse() makes it",
}


def names_in(annotation: Any) -> Iterator[str]:
    """Yield the names in an annotation."""
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
    """Yield each name in the annotations of a function or class, with the module's names that it is looked up in."""
    thing = inspect.unwrap(thing)
    for annotation in getattr(thing, "__annotations__", {}).values():
        for name in names_in(annotation):
            yield name, home_of(thing)


def aliases_of(package: Path) -> set[str]:
    """Return the type aliases that the modules of a package define."""
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
    """Return whether the value of an annotation is a type or alias of this package."""
    if inspect.isclass(value):
        return value.__module__.partition(".")[0] in {"aprefill", __name__.partition(".")[0]}
    return value is not None and name in ALIASES


def not_public(things: Iterator[tuple[str, Any]]) -> dict[str, str]:
    """Return type or alias of this package that is not exported -> a public name that has it in its hints."""
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
    """The types in the hints of all public functions, methods, properties and fields are exported."""
    assert len(ALIASES) > 5
    assert not_public(public(import_module(name))) == {}


@pytest.mark.parametrize("made", sorted(NOT_CALLED))
def test_what_is_not_called_by_users_is_there(made: str) -> None:
    """Each method in `NOT_CALLED` exists."""
    assert any(made == where for name in MODULES for where, _ in public(import_module(name)))


def test_control_a_hidden_type_is_found() -> None:
    """Control: the same check finds an unexported class and alias, as an argument, a result and a field."""
    from aprefill._deltas import Delta, Record

    def taker(one: Record | None) -> list[Delta]:  # type: ignore[empty-body]
        """Takes and returns types that are not public."""

    @dataclasses.dataclass
    class Holder:
        """Has a field of a type that is not public."""

        one: Record

    taker.__globals__.update(Record=Record, Delta=Delta)
    try:
        assert not_public(iter([("taker", taker)])) == {"Record": "taker", "Delta": "taker"}
        assert not_public(iter([("Holder", Holder)])) == {"Record": "Holder"}
    finally:
        del taker.__globals__["Record"], taker.__globals__["Delta"]

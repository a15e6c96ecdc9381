"""Lists what the public modules offer: every function, class, method and property that has type hints."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

MODULES = ["aprefill", "aprefill.web", "aprefill.testing"]


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield everything public in a module that has type hints: functions, classes, their methods and properties."""
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing):
            yield name, thing
            for base in thing.__mro__:
                if base.__module__.partition(".")[0] == "aprefill":
                    for attribute, member in vars(base).items():
                        target = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                        private = attribute.startswith("_") and not attribute.startswith("__")
                        if inspect.isfunction(target) and not private:
                            yield f"{name}.{attribute}", target
        elif inspect.isfunction(thing):
            yield name, thing

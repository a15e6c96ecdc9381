"""The selection of cases that run on one event loop only: each case runs, and each loop has some."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from .support.thorough import case_of, on_one_loop_each

LOOPS = ("asyncio", "uvloop", "trio")


@dataclass(frozen=True)
class Item:
    """A stand-in for a pytest item."""

    nodeid: str
    any_loop: bool = True

    def get_closest_marker(self, name: str) -> Any:
        return name if name == "any_loop" and self.any_loop else None


def stay(items: list[Item]) -> list[str]:
    left_out = on_one_loop_each(items)  # type: ignore[arg-type]
    return [item.nodeid for item in items if item not in left_out]


@pytest.mark.parametrize("shape", ["t.py::t[{loop}-{case}]", "t.py::t[{case}-{loop}]", "t.py::t[{case}-{loop}-x]"])
def test_each_case_stays_once_and_all_loops_have_some(shape: str) -> None:
    """Each case runs once, and each loop has some of the cases, wherever the loop is in the test's name."""
    names = [shape.format(loop=loop, case=case) for case in range(60) for loop in LOOPS]
    kept = stay([Item(name) for name in names])
    assert sorted(map(case_of, kept)) == sorted({case_of(name) for name in names})
    assert len(kept) == 60
    on = Counter(next(loop for loop in LOOPS if loop in name) for name in kept)
    assert min(on[loop] for loop in LOOPS) > 10


def test_what_else_is_there_does_not_matter() -> None:
    """The loop of a case does not depend on the other cases. Cases without the mark run on every loop."""
    one = [Item(f"t.py::t[{loop}-a]") for loop in LOOPS]
    other = [Item(f"t.py::u[{loop}]") for loop in LOOPS]
    assert stay([*one, *other]) == [*stay(one), *stay(other)]
    assert stay(one) == ["t.py::t[uvloop-a]"]
    unmarked = [Item(f"t.py::v[{loop}]", any_loop=False) for loop in LOOPS]
    assert stay(unmarked) == [item.nodeid for item in unmarked]

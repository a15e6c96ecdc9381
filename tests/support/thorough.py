"""How often the tests repeat: each proof as often as it needs, or far more often with `nox -s slow`."""

from __future__ import annotations

import os
import re
import zlib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

THOROUGH = os.environ.get("APREFILL_THOROUGH") == "1"

T = TypeVar("T")

_LOOP = re.compile(r"(?<=[\[-])(?:asyncio|uvloop|trio)(?=[]-])")


def usually(few: T, many: T) -> T:
    """Return the first value, or the second if the tests are thorough."""
    return many if THOROUGH else few


def case_of(node_id: str) -> str:
    """Return a test's name without its loop, which is the same for a case on every loop."""
    return _LOOP.sub("", node_id, count=1)


def on_one_loop_each(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return the tests marked `any_loop` that can be left out. Each case stays on one loop, which its name decides."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("any_loop"):
            cases.setdefault(case_of(item.nodeid), []).append(item)
    return [
        item
        for case, loops in cases.items()
        for number, item in enumerate(loops)
        if number != zlib.crc32(case.encode()) % len(loops)
    ]

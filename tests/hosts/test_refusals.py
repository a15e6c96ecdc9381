"""The memory of refusals: what it keeps, for how long, and what the key of a refusal contains."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from aprefill._hosts.refusals import BELIEVED_S, KEPT, RefusalKey, RefusalMemory, of_this_process
from aprefill._hosts.table import builtin_table
from aprefill._plan.first import refusal_key

from ..support.planning import asked

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "https://api.anthropic.com"
WHAT = RefusalKey("anthropic_messages", HOST, "claude-next", False)


class Clock:
    """A clock that a test sets by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def model(number: int) -> RefusalKey:
    return WHAT._replace(model=f"m{number}")


def kept(memory: RefusalMemory, numbers: range) -> list[int]:
    """Return which of these are remembered, without a look-up that would count as use."""
    return [number for number in numbers if model(number) in memory._until]


def test_what_was_refused_is_remembered() -> None:
    """A refusal is remembered, and nothing else. Adding it again adds no second entry."""
    memory = RefusalMemory()
    assert WHAT not in memory
    assert len(memory) == 0
    assert not memory
    memory.add(WHAT)
    memory.add(WHAT)
    assert WHAT in memory
    assert len(memory) == 1
    assert memory


@pytest.mark.parametrize(
    "other",
    [{"protocol": "openai_chat"}, {"base_url": "https://other.example"}, {"model": "claude"}, {"thinking": True}],
    ids=lambda other: next(iter(other)),
)
def test_each_part_of_it_counts(other: dict[str, Any]) -> None:
    """A refusal does not apply to another protocol, host or model, or with thinking switched the other way."""
    memory = RefusalMemory()
    memory.add(WHAT)
    assert WHAT._replace(**other) not in memory
    memory.add(WHAT._replace(**other))
    assert len(memory) == 2


def test_the_one_used_longest_ago_goes_first() -> None:
    """The least recently used refusal is removed first. A look-up and a new refusal both count as use."""
    memory = RefusalMemory(kept=3)
    for number in range(3):
        memory.add(model(number))
    assert model(0) in memory
    memory.add(model(1))
    memory.add(model(3))
    assert kept(memory, range(4)) == [0, 1, 3]
    memory.add(model(4))
    assert kept(memory, range(5)) == [1, 3, 4]


def test_it_never_holds_more_than_its_bound() -> None:
    """The memory keeps at most the latest 1024 refusals."""
    memory = RefusalMemory()
    for number in range(KEPT * 3):
        memory.add(model(number))
        assert len(memory) <= KEPT
    assert KEPT == 1024
    assert kept(memory, range(KEPT * 3)) == list(range(KEPT * 2, KEPT * 3))


def test_a_refusal_is_believed_for_an_hour() -> None:
    """A refusal is remembered for one hour after it last occurred.

    A look-up does not extend that time, and an expired refusal is removed.
    """
    clock = Clock()
    memory = RefusalMemory(clock=clock)
    memory.add(WHAT)
    clock.now += BELIEVED_S - 1
    assert BELIEVED_S == 3600
    assert WHAT in memory
    clock.now += 1
    assert WHAT not in memory
    assert len(memory) == 0
    memory.add(WHAT)
    clock.now += BELIEVED_S / 2
    memory.add(WHAT)
    clock.now += BELIEVED_S - 1
    assert WHAT in memory


def test_another_time_can_be_set() -> None:
    """The time can be set, and each refusal expires by itself."""
    clock = Clock()
    memory = RefusalMemory(believed_s=10, clock=clock)
    memory.add(model(0))
    clock.now += 6
    memory.add(model(1))
    clock.now += 6
    assert (model(0) in memory, model(1) in memory) == (False, True)


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Make threads switch as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def used_by_threads(lock: Any = None) -> tuple[list[Exception], list[int]]:
    """Return the errors and the sizes seen while four threads add, look up and let time pass."""
    clock = Clock()

    def slow() -> float:
        time.sleep(0)  # let other threads run in the middle of a look-up
        return clock()

    memory = RefusalMemory(kept=8, believed_s=2, clock=slow)
    memory._lock = lock or memory._lock
    errors: list[Exception] = []
    sizes: list[int] = []
    start = threading.Barrier(4)

    def use(seed: int) -> None:
        start.wait(10)
        try:
            for number in range(1000):
                memory.add(model((number * seed) % 13))
                _ = model((number + seed) % 13) in memory
                if number % 7 == 0:
                    clock.now += 1
                sizes.append(len(memory))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in (1, 2, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return errors, sizes


@pytest.mark.usefixtures("many_switches")
def test_several_threads_may_use_one() -> None:
    """Several threads may share one memory: nothing is raised, and only an entry being added may exceed the bound."""
    errors, sizes = used_by_threads()
    assert errors == []
    assert len(sizes) == 4000
    assert max(sizes) <= 9


@pytest.mark.usefixtures("many_switches")
def test_control_without_a_lock_threads_collide() -> None:
    """The control: without a lock, threads collide when both remove the same expired entry."""
    errors, _ = used_by_threads(nullcontext())
    assert errors


def test_bare_calls_share_one() -> None:
    """Calls without a session share one memory per process, with the default bounds."""
    assert isinstance(of_this_process, RefusalMemory)
    assert (of_this_process._kept, of_this_process._believed_s) == (KEPT, BELIEVED_S)


@pytest.mark.parametrize(
    ("options", "thinking"),
    [
        ({}, False),
        ({"thinking": {"type": "enabled"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"extra": {"enable_thinking": True}}, True),
        ({"thinking": {"type": "enabled"}, "extra": {"thinking": None}}, False),
        ({"tools": [{"name": "f"}], "stop": "x", "max_tokens": 3, "prefill": "other"}, False),
    ],
)
def test_what_a_refusal_is_about(options: dict[str, Any], thinking: bool) -> None:
    """The key of a refusal is protocol, URL, model and thinking on or off, and nothing else of the request."""
    row = builtin_table().row("anthropic", "claude-next")
    about = refusal_key(asked(**{"prefill": "[", **options}), row, HOST, "claude-next")
    assert about == RefusalKey("anthropic_messages", HOST, "claude-next", thinking)

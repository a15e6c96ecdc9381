"""What every test may ask for: the three event loops, the shared recordings, a heap without surprises."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis  # noqa: F401 - before the heap is frozen: it asks the collector who refers to trio's random numbers
import pytest
import trustme

from aprefill._hosts.refusals import RefusalMemory

from .support.names import Names, resolve_from
from .support.thorough import THOROUGH, on_one_loop_each

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(
        ("asyncio", {"use_uvloop": True}),
        id="uvloop",
        marks=pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not exist for Windows"),
    ),
    pytest.param(("trio", {}), id="trio"),
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A case marked `any_loop` runs on one of the loops, unless it is asked for by its name."""
    if THOROUGH or any("::" in argument for argument in config.args):
        return
    left_out = set(on_one_loop_each(items))
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """What the tests themselves are made of lives to the end: no collection has to look at it again.

    Thousands of tests are a million objects, a quarter of a second for each of the many collections asked for here.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Tests marked `anyio` run on asyncio, on uvloop and on trio."""
    return request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the project that holds recordings and specifications; skips where there is none."""
    path = Path(os.environ.get("APREFILL_SHARED", ROOT.parent / "shared"))
    if not (path / "spec").is_dir():
        pytest.skip(f"no shared folder at {path}: set APREFILL_SHARED to the one that holds spec/ and recordings/")
    return path


@pytest.fixture(scope="session")
def small_ca_file() -> Iterator[str]:
    """A file with one certificate in it."""
    with trustme.CA().cert_pem.tempfile() as path:
        yield path


@pytest.fixture
def small_ca(small_ca_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the machine's list, which an SDK's client would read for 25 ms when it is made."""
    monkeypatch.setenv("SSL_CERT_FILE", small_ca_file)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Host names for this test: fill it with loopback addresses, or with what looking a name up raises."""
    found: Names = {}
    resolve_from(found, monkeypatch)
    return found


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Without the cyclic collector: what closes here closes by reference counting alone.

    What is alive already, modules above all, is out of the collector's sight from then on: it would be looked at twice a
    test, for 60 ms.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is sent again at once: nearly all tests ask what happens, not how long it was waited."""
    monkeypatch.setattr("aprefill._plan.next.FIRST_WAIT_S", 0.005)


@pytest.fixture(autouse=True)
def _demo_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo model writes faster than a person reads."""
    monkeypatch.setattr("aprefill._transports.demo.PACE_S", 0.0001)


@pytest.fixture(autouse=True)
def _nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins as a new process would: what another has met is forgotten."""
    for module in ("_hosts.refusals", "_session"):
        monkeypatch.setattr(f"aprefill.{module}.of_this_process", RefusalMemory())


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, model or proxy of the machine's reaches a test."""
    for name in list(os.environ):
        if (
            name.endswith(("_API_KEY", "_AUTH_TOKEN", "_BASE_URL"))
            or name.startswith("APREFILL_MODEL")
            or name.lower().endswith("_proxy")
        ):
            monkeypatch.delenv(name)

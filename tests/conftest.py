"""Fixtures for all tests: the three event loops, the shared recordings, and a clean environment."""

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
    """Run a case marked `any_loop` on one event loop only, unless a test is selected by its name."""
    if THOROUGH or any("::" in argument for argument in config.args):
        return
    left_out = set(on_one_loop_each(items))
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """Exclude the collected tests themselves from later garbage collections.

    Thousands of tests are a million objects. Each of the many collections in the tests would take 0.25 s longer.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run tests marked `anyio` on asyncio, uvloop and trio."""
    return request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with recordings and specifications. Skips the test if there is none."""
    path = Path(os.environ.get("APREFILL_SHARED", ROOT.parent / "shared"))
    if not (path / "spec").is_dir():
        pytest.skip(f"no shared folder at {path}: set APREFILL_SHARED to the one that holds spec/ and recordings/")
    return path


@pytest.fixture(scope="session")
def small_ca_file() -> Iterator[str]:
    """The path of a file with one CA certificate."""
    with trustme.CA().cert_pem.tempfile() as path:
        yield path


@pytest.fixture
def small_ca(small_ca_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the system's CA certificates by one, because an SDK's client needs 25 ms to load them all."""
    monkeypatch.setenv("SSL_CERT_FILE", small_ca_file)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The host names of this test: host name -> a loopback address, or the exception that a lookup raises."""
    found: Names = {}
    resolve_from(found, monkeypatch)
    return found


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Disable the cyclic garbage collector, so that only reference counting closes what the test drops.

    The objects that exist already, mostly modules, are excluded from the collections here. Otherwise each test would
    take 60 ms longer.
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
    """Make the backoff before a retry short. Only few tests are about the backoff."""
    monkeypatch.setattr("aprefill._plan.next.FIRST_WAIT_S", 0.005)


@pytest.fixture(autouse=True)
def _demo_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the demo model write without pauses."""
    monkeypatch.setattr("aprefill._transports.demo.PACE_S", 0.0001)


@pytest.fixture(autouse=True)
def _nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the refusals that other tests have met, as in a new process."""
    for module in ("_hosts.refusals", "_session"):
        monkeypatch.setattr(f"aprefill.{module}.of_this_process", RefusalMemory())


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the machine's keys, models and proxies from the environment."""
    for name in list(os.environ):
        if (
            name.endswith(("_API_KEY", "_AUTH_TOKEN", "_BASE_URL"))
            or name.startswith("APREFILL_MODEL")
            or name.lower().endswith("_proxy")
        ):
            monkeypatch.delenv(name)

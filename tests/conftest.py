"""What every test may ask for: the three event loops, the shared recordings, a heap without surprises."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


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


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Without the cyclic collector: what closes here closes by reference counting alone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, model or proxy of the machine's reaches a test."""
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name.startswith("APREFILL_MODEL") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)

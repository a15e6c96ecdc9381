"""LLM in this process, with a home of its own, a model that plays what the test says, and the plugin really loaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

# some plugins look for their home when they are loaded
os.environ.setdefault("LLM_USER_PATH", tempfile.mkdtemp(prefix="aprefill-llm-"))

import llm
from click.testing import CliRunner
from llm.cli import cli as llm_cli
from llm.plugins import pm

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """LLM and its plugins warn of things of their own."""
    for item in items:
        if "tests/llm/" in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def user_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LLM's home: keys, templates, log."""
    path = tmp_path / "llm"
    path.mkdir()
    monkeypatch.setenv("LLM_USER_PATH", str(path))
    monkeypatch.delenv("LLM_MODEL", raising=False)
    return path


Chunks = list[Any]


@dataclass
class Stage:
    """What the model plays, one entry a turn (the last repeats), and the prompts that it was given."""

    turns: list[Chunks | Exception] = field(default_factory=lambda: [["Hello."]])
    prompts: list[Any] = field(default_factory=list)
    streams: list[bool] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    #: how often a reply was left before its end
    closed: int = 0
    #: called with the response and the prompt, for what a plugin does beside yielding
    beside: Callable[[Any, Any], None] | None = None

    def play(self, *chunks: Any) -> None:
        self.turns = [list(chunks)]

    def next(self, prompt: Any, stream: bool, response: Any, key: str | None = None) -> Chunks:
        turn = self.turns[min(len(self.prompts), len(self.turns) - 1)]
        self.prompts.append(prompt)
        self.streams.append(stream)
        self.keys.append(key)
        if self.beside is not None:
            self.beside(response, prompt)
        if isinstance(turn, Exception):
            raise turn
        response.set_usage(input=3, output=len(turn))
        return turn

    def asked(self, turn: int = -1) -> str:
        """The last user message that the plugin was given."""
        texts = [
            "".join(getattr(part, "text", "") for part in message.parts)
            for message in self.prompts[turn].messages
            if message.role == "user"
        ]
        return texts[-1]


class _Shared:
    model_id = "mock"
    can_stream = True
    supports_schema = True
    supports_tools = True
    attachment_types = frozenset({"image/png"})

    class Options(llm.Options):
        max_tokens: int | None = None
        stop: list[str] | str | None = None

    def __init__(self, stage: Stage, model_id: str = "mock") -> None:
        self.stage = stage
        self.model_id = model_id


class Mock(_Shared, llm.Model):
    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[Any]:
        done = False
        try:
            yield from self.stage.next(prompt, stream, response)
            done = True
        finally:
            self.stage.closed += not done


class KeyMock(_Shared, llm.KeyModel):
    needs_key = "mock"
    key_env_var = "MOCK_KEY"

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None, key: str | None = None
    ) -> Iterator[Any]:
        yield from self.stage.next(prompt, stream, response, key)


class AsyncMock(_Shared, llm.AsyncModel):
    async def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> AsyncIterator[Any]:
        done = False
        try:
            for chunk in self.stage.next(prompt, stream, response):
                yield chunk
            done = True
        finally:
            self.stage.closed += not done


class AsyncKeyMock(_Shared, llm.AsyncKeyModel):
    needs_key = "mock"
    key_env_var = "MOCK_KEY"

    async def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None, key: str | None = None
    ) -> AsyncIterator[Any]:
        for chunk in self.stage.next(prompt, stream, response, key):
            yield chunk


@pytest.fixture
def stage() -> Iterator[Stage]:
    """The models `mock` and `key-mock`, sync and async, play this."""
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

    def run(*arguments: str, code: int = 0, typed: str | None = None) -> Result:
        result = CliRunner().invoke(llm_cli, list(arguments), input=typed)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run

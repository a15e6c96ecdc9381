"""The command line in this process: arguments and standard input in, an exit code and two streams out."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from aprefill.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def anyio_backend() -> Any:
    """The command line has a loop of its own, so one loop of the test's is enough."""
    return "asyncio"


@dataclass(frozen=True)
class Done:
    """What a run left."""

    code: int
    out: bytes
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("aprefill: ")
        return lines[0].removeprefix("aprefill: ")


class Screen(io.BytesIO):
    """A terminal, as far as the command line looks at it."""

    @property
    def buffer(self) -> Screen:
        return self

    def isatty(self) -> bool:
        return True


class Keyboard:
    """Standard input that is a terminal; reading it fails the test."""

    def isatty(self) -> bool:
        return True

    @property
    def buffer(self) -> Any:
        raise AssertionError("a terminal was read")


class Cli(Protocol):
    def __call__(self, *arguments: str, stdin: bytes | None = None, screen: bool = False) -> Done: ...


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Run the command line. `stdin=None` is a keyboard; `screen` makes standard output a terminal."""

    def run(*arguments: str, stdin: bytes | None = None, screen: bool = False) -> Done:
        terminal = Screen()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", Keyboard() if stdin is None else io.TextIOWrapper(io.BytesIO(stdin)))
            if screen:
                patch.setattr(sys, "stdout", terminal)
            code = main(list(arguments))
        out, err = capfdbinary.readouterr()
        return Done(code, terminal.getvalue() if screen else out, err.decode())

    return run

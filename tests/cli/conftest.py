"""Runs the command line in this process, with arguments and standard input.

The result is the exit code and the output.
"""

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
    """Use one event loop, because the command line runs its own."""
    return "asyncio"


@dataclass(frozen=True)
class Done:
    """The exit code and the output of one run."""

    code: int
    out: bytes
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error, without its beginning `aprefill: `."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("aprefill: ")
        return lines[0].removeprefix("aprefill: ")


class Screen(io.BytesIO):
    """Standard output that is a terminal."""

    @property
    def buffer(self) -> Screen:
        return self

    def isatty(self) -> bool:
        return True


class Keyboard:
    """Standard input that is a terminal. Reading it fails the test."""

    def isatty(self) -> bool:
        return True

    @property
    def buffer(self) -> Any:
        raise AssertionError("a terminal was read")


class Cli(Protocol):
    def __call__(self, *arguments: str, stdin: bytes | None = None, screen: bool = False) -> Done: ...


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Return a function that runs the command line.

    `stdin=None`: a terminal; `screen`: standard output is a terminal.
    """

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

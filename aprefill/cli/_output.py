"""Writes to standard output and standard error, and handles closed pipes, full disks and Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from typing import IO, TYPE_CHECKING

from ._terminal import TerminalFilter, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The error codes of a pipe whose reader was closed. On Windows this is EINVAL.
_GONE = frozenset({errno.EPIPE, errno.EINVAL})


class OutputClosed(Exception):
    """The reader of standard output was closed, as in `aprefill ... | head -c 1`."""


class OutputFailed(Exception):
    """Writing to standard output failed, for example because of a full disk. The message is the system's reason."""


class Output:
    """Standard output. Writes UTF-8 regardless of the locale, and flushes every piece.

    If it is a terminal, the text is filtered, and `end_line` ends the last line. Otherwise the text is written
    unchanged.
    """

    def __init__(self) -> None:
        if sys.stdout is None:  # the shell's >&-
            raise OutputFailed("it is closed")
        self._stream = sys.stdout
        self.is_terminal = self._stream.isatty()
        self._filter = TerminalFilter() if self.is_terminal else None
        self._in_line = False

    def write(self, text: str, *, interrupted: Callable[[], object] = lambda: False) -> None:
        """Write `text` and flush. Raises `OutputClosed` or `OutputFailed`. After these, nothing more can be written.

        Ctrl-C raises `KeyboardInterrupt`, also while the write waits for the reader of a full pipe. `interrupted` tells
        whether Ctrl-C was pressed before this call and has so far only cancelled the caller's task.
        """
        if self._filter is not None:
            text = self._filter.feed(text)
        if not text:
            return
        self._in_line = not text.endswith("\n")
        try:
            with _interruptible():
                if interrupted():
                    raise KeyboardInterrupt
                self._write(text)
        except OSError as exc:
            raise output_error(exc) from exc
        except KeyboardInterrupt:
            # otherwise the interpreter would wait at exit until the rest is written
            abandon(self._stream)
            raise

    def _write(self, text: str) -> None:
        # Write bytes: a text stream would translate line ends on Windows and fail for characters outside the locale.
        data = memoryview(text.encode("utf-8", "replace"))
        while data:
            # with PYTHONUNBUFFERED this is an unbuffered file, whose write() may write only a part
            data = data[self._stream.buffer.write(data) :]
        self._stream.buffer.flush()

    def end_line(self) -> None:
        """On a terminal, end the last line if the text did not end it."""
        if self.is_terminal and self._in_line:
            self.write("\n")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt` inside this block.

    asyncio's own handler only cancels the task, which has no effect on a blocking write.
    """
    before = signal.getsignal(signal.SIGINT)
    # if the process was started with SIGINT ignored, keep ignoring it
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def output_error(exc: OSError) -> OutputClosed | OutputFailed:
    """Return the exception for a failed write to standard output. Afterwards nothing more is written there."""
    abandon(sys.stdout)
    return OutputClosed() if exc.errno in _GONE else OutputFailed(exc.strerror or type(exc).__name__)


def say(message: str) -> None:
    """Print `message` as one line on standard error. Errors are ignored, because they could not be reported."""
    _to_stderr(f"aprefill: {one_line(message)}\n")


def leave_interrupted_line() -> None:
    """Start a new line, because the terminal has printed `^C` in the current line."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream.isatty():
            with contextlib.suppress(OSError):
                stream.write("\n")
                stream.flush()
            return


def _to_stderr(line: str) -> None:
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except OSError:
        abandon(sys.stderr)


def abandon(stream: IO[str]) -> None:
    """Discard buffered output. Otherwise the flush at exit would fail again, with a traceback and exit code 120."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

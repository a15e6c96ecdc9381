"""Standard output and standard error, as a well-kept tool treats them."""

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

#: A pipe that nobody reads any more; EINVAL is Windows' word for it.
_GONE = frozenset({errno.EPIPE, errno.EINVAL})


class OutputClosed(Exception):
    """The reader of standard output is gone, as in `aprefill ... | head -c 1`."""


class OutputFailed(Exception):
    """Standard output takes nothing, say a full disk. The message is the system's reason."""


class Output:
    """Standard output as UTF-8 whatever the locale, each piece written at once.

    On a terminal the text goes through the filter, and `end_line` finishes the line. Anywhere else the bytes are
    those of the text and no others.
    """

    def __init__(self) -> None:
        if sys.stdout is None:  # the shell's >&-
            raise OutputFailed("it is closed")
        self._stream = sys.stdout
        self.is_terminal = self._stream.isatty()
        self._filter = TerminalFilter() if self.is_terminal else None
        self._in_line = False

    def write(self, text: str, *, interrupted: Callable[[], object] = lambda: False) -> None:
        """Write `text` and flush. Raises `OutputClosed` or `OutputFailed`, after which nothing can be written.

        Ctrl-C ends it with `KeyboardInterrupt`, also while nobody reads a pipe that is full. `interrupted` tells whether
        Ctrl-C came before and only the caller's event loop was told.
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
            # the interpreter would wait at its exit until the rest is written
            abandon(self._stream)
            raise

    def _write(self, text: str) -> None:
        # bytes: text streams would translate line ends on Windows and refuse what the locale cannot say
        data = memoryview(text.encode("utf-8", "replace"))
        while data:
            # under PYTHONUNBUFFERED this is the bare file, which may take a part of it
            data = data[self._stream.buffer.write(data) :]
        self._stream.buffer.flush()

    def end_line(self) -> None:
        """On a terminal, end the line that the text left open."""
        if self.is_terminal and self._in_line:
            self.write("\n")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt` here.

    The handler that asyncio installs only cancels the task, which a write that waits for its reader does not notice.
    """
    before = signal.getsignal(signal.SIGINT)
    # a process that was started with SIGINT ignored goes on ignoring it
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def output_error(exc: OSError) -> OutputClosed | OutputFailed:
    """What a failed write to standard output means; nothing more is written there afterwards."""
    abandon(sys.stdout)
    return OutputClosed() if exc.errno in _GONE else OutputFailed(exc.strerror or type(exc).__name__)


def say(message: str) -> None:
    """One line on standard error, whatever is in `message`. Raises nothing: there is nobody left to tell."""
    _to_stderr(f"aprefill: {one_line(message)}\n")


def leave_interrupted_line() -> None:
    """Go to a fresh line: the terminal has written `^C` into the present one."""
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
    """Let what is still buffered go nowhere: flushing it at exit would fail again, loudly and with code 120."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

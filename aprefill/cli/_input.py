"""Reads the prompt from the argument, from standard input, or from both."""

from __future__ import annotations

import sys

from .._errors import UsageError


def prompt_of(words: tuple[str, ...]) -> str:
    """Return the prompt: the piped text, a blank line, and the argument.

    If standard input is a terminal, it is not read, so the command never waits for typing. Raises `UsageError` if there
    is no prompt.
    """
    if len(words) > 1:
        raise UsageError(f"there are {len(words)} prompts", "put the prompt in quotes, as one argument")
    parts = [part for part in (_piped(), *words) if part.strip()]
    if not parts:
        raise UsageError("no prompt", "run aprefill 'your question', or pipe a prompt in (see aprefill --help)")
    return "\n\n".join(parts)


def _piped() -> str:
    """Return standard input as text without line ends at its end; "" if it is a terminal or closed."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        data = sys.stdin.buffer.read()
        return data.decode("utf-8-sig").rstrip("\r\n")
    except OSError as exc:
        raise UsageError(f"cannot read standard input: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"standard input is not UTF-8 text (byte {exc.start})", "convert it, as with iconv") from exc

"""The prompt: the argument, what is piped in, or both."""

from __future__ import annotations

import sys

from .._errors import UsageError


def prompt_of(words: tuple[str, ...]) -> str:
    """The prompt that the arguments and standard input make: the document first, a blank line, the question.

    A terminal is never read, so nothing waits for someone to type. Raises `UsageError` when there is no prompt.
    """
    if len(words) > 1:
        raise UsageError(f"{len(words)} prompts were given", "put one prompt in quotes")
    parts = [part for part in (_piped(), *words) if part.strip()]
    if not parts:
        raise UsageError("no prompt", "aprefill 'your question', or pipe one in (aprefill --help says more)")
    return "\n\n".join(parts)


def _piped() -> str:
    """Standard input as text, without its last line ends; "" for a terminal or none."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        data = sys.stdin.buffer.read()
        return data.decode("utf-8-sig").rstrip("\r\n")
    except OSError as exc:
        raise UsageError(f"cannot read standard input: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"standard input is not UTF-8 text (byte {exc.start})", "convert it, as with iconv") from exc

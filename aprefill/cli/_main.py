"""Runs the command line and returns the exit code. Prints an error as one line, and nothing after Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Final

import click

from .._errors import AprefillError, UsageError
from ._commands import commands
from ._output import OutputClosed, OutputFailed, leave_interrupted_line, output_error, say
from ._spelling import in_options

if TYPE_CHECKING:
    from ._commands import Job

#: The provider, the network or the output (for example a full disk) failed.
EXIT_FAILED: Final = 1
#: The arguments are wrong. Nothing was sent.
EXIT_USAGE: Final = 2
#: Ctrl-C. The number is that of shells: 128 + SIGINT.
EXIT_INTERRUPTED: Final = 130
#: The reader of the output was closed. The number is that of shells: 128 + SIGPIPE. It is not 0, because the reply was
#: not printed completely, and not 1, because nothing failed. Scripts under `pipefail` get this number from other tools.
EXIT_OUTPUT_CLOSED: Final = 141


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code. If `arguments` is None, the process's arguments are used."""
    try:
        job = _parse(sys.argv[1:] if arguments is None else arguments)
        if job is not None:
            job()
    except click.ClickException as exc:
        say(_sentence(exc))
        return EXIT_USAGE
    except AprefillError as exc:
        say(in_options(exc))
        return EXIT_USAGE if isinstance(exc, UsageError) else EXIT_FAILED
    except OutputClosed:
        return EXIT_OUTPUT_CLOSED
    except OutputFailed as exc:
        say(f"cannot write to standard output: {exc}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        # a second Ctrl-C while the interpreter shuts down would print a traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        leave_interrupted_line()
        return EXIT_INTERRUPTED
    return 0


def _parse(arguments: list[str]) -> Job | None:
    """Return the job for the arguments; None if click has done everything, as for --help."""
    if "_APREFILL_COMPLETE" in os.environ:
        commands.main(prog_name="aprefill")  # shell completion; this exits the process
    # `commands.main` is not used: it would expand a * in the prompt on Windows, and prints its own text for Ctrl-C.
    try:
        with commands.make_context("aprefill", list(arguments)) as context:
            job: Job = commands.invoke(context)
            return job
    except click.exceptions.Exit:
        return None
    except OSError as exc:  # --help into a closed pipe
        raise output_error(exc) from exc


def _sentence(error: click.ClickException) -> str:
    sentence = error.format_message()
    if isinstance(error, click.NoSuchOption):
        sentence += " If the prompt begins with a dash, put -- before it."
    return f"{sentence} (aprefill --help lists the options)"

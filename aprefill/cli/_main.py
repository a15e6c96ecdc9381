"""From the arguments to an exit code: errors as one line, interruptions quietly."""

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

#: The provider, the way to it, or the way out (a full disk).
EXIT_FAILED: Final = 1
#: The call itself is wrong; nothing was sent.
EXIT_USAGE: Final = 2
#: As shells count Ctrl-C: 128 + SIGINT.
EXIT_INTERRUPTED: Final = 130
#: As shells count a tool whose reader left: 128 + SIGPIPE. Not 0: the reply was not printed whole. Not 1: nothing
#: failed. Scripts under `pipefail` know this number from every other tool.
EXIT_OUTPUT_CLOSED: Final = 141


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code. `arguments` are those of the process when None."""
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
    """The work that the arguments ask for; None when click has done it, as for --help."""
    if "_APREFILL_COMPLETE" in os.environ:
        commands.main(prog_name="aprefill")  # the shell asks how a word may end; this exits
    # not `commands.main`: that would expand a * in the prompt on Windows, and has a word of its own for Ctrl-C
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
        sentence += " A prompt that begins with a dash goes after --."
    return f"{sentence} (aprefill --help lists the options)"

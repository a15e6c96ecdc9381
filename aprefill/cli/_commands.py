"""The commands and their options. `run` is the default command.

A command's function only reads the options and returns a job. `_main` runs the job after click has returned. So click's
own handling of Ctrl-C and of errors does not apply to a reply.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import click

from .. import __version__

Job: TypeAlias = Callable[[], None]

_HELP = {"help_option_names": ["-h", "--help"]}


class DefaultGroup(click.Group):
    """A group with a default command: `aprefill PROMPT` means `aprefill run PROMPT`."""

    default = "run"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {*self.commands, *self.get_help_option_names(ctx), "--version"}
        # shell completion calls this without arguments to get the names of the commands
        if not (args and args[0] in own) and not (ctx.resilient_parsing and not args):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        command = self.commands[self.default]
        inner = click.Context(command, info_name=self.default, parent=ctx)
        records = [record for param in command.get_params(inner) if (record := param.get_help_record(inner))]
        with formatter.section(f"Options of {self.default}, the default command"):
            formatter.write_dl(records)


def _utf8(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Raise for an argument that is not UTF-8, because it could not be sent in a request."""
    for text in value if isinstance(value, tuple) else (value or "",):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise click.BadParameter("this is not UTF-8 text", ctx, param) from None
    return value


@click.group(
    cls=DefaultGroup,
    context_settings=_HELP,
    options_metavar="",
    subcommand_metavar="[run] [OPTIONS] PROMPT | COMMAND ...",
)
@click.version_option(__version__, message="aprefill %(version)s")
def commands() -> None:
    """Stream a model's reply. You can write the beginning of it.

    \b
    aprefill 'JSON list of US state names' --prefill '["'
    aprefill 'Summarize this' < report.txt
    aprefill -- models

    The first argument is the prompt, unless it is the name of a command. After -- it is always the prompt. Piped text
    is put before the prompt. If no model is named and no key is set in the environment, the built-in demo model
    answers.
    """


@commands.command(context_settings=_HELP)
@click.argument("words", nargs=-1, metavar="PROMPT", callback=_utf8)
@click.option("-m", "--model", metavar="PROVIDER:NAME", callback=_utf8, help="The model (default: $APREFILL_MODEL).")
@click.option("--prefill", default="", metavar="TEXT", callback=_utf8, help="The first characters of the reply.")
@click.option("-s", "--system", metavar="TEXT", callback=_utf8, help="The system prompt.")
@click.option(
    "--stop", multiple=True, metavar="TEXT", callback=_utf8, help="End the reply at this text; can be repeated."
)
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Maximum number of new tokens.")
@click.option("-t", "--temperature", type=float, metavar="T", help="Temperature; sent to the host unchanged.")
@click.option("--hide-prefill", is_flag=True, help="Print only the model's text, without the prefill.")
@click.option(
    "--absent",
    default="join",
    metavar="WORD",
    help="If a model does not begin with the prefill as asked: join, retry or raise.",
)
@click.option("--no-emulate", is_flag=True, help="Fail instead of asking for the prefill in the prompt.")
@click.option("--strict", is_flag=True, help="Fail unless the host takes the prefill natively.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option("--timing", is_flag=True, help="Print times in milliseconds to standard error.")
@click.option("--base-url", metavar="URL", callback=_utf8, help="The API's URL: https, or http on this machine.")
@click.option("--allow-http", is_flag=True, help="Allow unencrypted http to other machines.")
@click.option("--api", metavar="API", help="chat (OpenAI's) or messages (Anthropic's); default: the provider's.")
@click.option("--support", metavar="WORD", help="What the host does with a prefill, if the support table is wrong.")
def run(**options: Any) -> Job:
    """Ask a model and print its reply.

    Keys are read from the environment (ANTHROPIC_API_KEY, OPENAI_API_KEY, ...). There is no option for a key, because
    every user of the machine can read the command line of a process.
    """
    from ._run import Request, run

    return partial(run, Request(**options))


@commands.command(context_settings=_HELP)
@click.argument("provider", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON, with source and date.")
def models(provider: str | None, *, as_json: bool) -> Job:
    """Print what each host does with a prefill.

    Prints one line per pattern of model names, for all providers or for one PROVIDER. The first matching line is used.
    A line says what the host does with a prefill, how the prefill is switched on in a request (the dialect), and on
    what evidence. "emulated" with the evidence "unknown" or "guess" means that nobody has checked.
    """
    from ._models import models

    return partial(models, provider, as_json=as_json)

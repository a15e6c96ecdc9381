"""What can be typed: the commands, their options, and `run` as the one meant when none is named.

A command's function only reads the options; it gives back the work, which `_main` does when click is through. So
click's own treatment of Ctrl-C and of errors ends where a reply begins.
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
    """A group whose first argument may be the prompt itself: `aprefill PROMPT` is `aprefill run PROMPT`."""

    default = "run"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {*self.commands, *self.get_help_option_names(ctx), "--version"}
        # shell completion asks with no arguments yet, to hear of the commands
        if not (args and args[0] in own) and not (ctx.resilient_parsing and not args):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        command = self.commands[self.default]
        inner = click.Context(command, info_name=self.default, parent=ctx)
        records = [record for param in command.get_params(inner) if (record := param.get_help_record(inner))]
        with formatter.section(f"Options of {self.default}, the command when none is named"):
            formatter.write_dl(records)


def _utf8(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse what the shell gave as bytes that are no UTF-8: a request could not carry it."""
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
    """Stream a model's reply of which you write the beginning.

    \b
    aprefill 'JSON list of US state names' --prefill '["'
    aprefill 'Summarize this' < report.txt
    aprefill -- models

    The first argument is the prompt, unless it is the name of a command; after -- it always is. What is piped in
    comes before it. With no model and no key in the environment the built-in demo model answers.
    """


@commands.command(context_settings=_HELP)
@click.argument("words", nargs=-1, metavar="PROMPT", callback=_utf8)
@click.option("-m", "--model", metavar="PROVIDER:NAME", callback=_utf8, help="Which model; else APREFILL_MODEL.")
@click.option("--prefill", default="", metavar="TEXT", callback=_utf8, help="The first characters of the reply.")
@click.option("-s", "--system", metavar="TEXT", callback=_utf8, help="The system prompt.")
@click.option("--stop", multiple=True, metavar="TEXT", callback=_utf8, help="End the reply here; can be repeated.")
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Limit for the new text.")
@click.option("-t", "--temperature", type=float, metavar="T", help="Sent to the host as it is.")
@click.option("--hide-prefill", is_flag=True, help="Print only what the model adds.")
@click.option(
    "--absent",
    default="join",
    metavar="WORD",
    help="If a model that was asked to begin with the prefill does not: join, retry or raise.",
)
@click.option("--no-emulate", is_flag=True, help="An error rather than asking for the prefill in the prompt.")
@click.option("--strict", is_flag=True, help="An error rather than anything but a native prefill.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option("--timing", is_flag=True, help="Say on standard error how long things took.")
@click.option("--base-url", metavar="URL", callback=_utf8, help="Where the API lives: https, or http to this machine.")
@click.option("--allow-http", is_flag=True, help="Take plain http to other machines, in clear.")
@click.option("--api", metavar="API", help="chat (OpenAI's) or messages (Anthropic's), if not the provider's own.")
@click.option("--support", metavar="WORD", help="What the host does with a prefill, where the table is wrong.")
def run(**options: Any) -> Job:
    """Ask a model and print its reply.

    Keys come from the environment (ANTHROPIC_API_KEY, OPENAI_API_KEY, ...): on a command line every user of the
    machine could read them.
    """
    from ._run import Request, run

    return partial(run, Request(**options))


@commands.command(context_settings=_HELP)
@click.argument("provider", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON, with source and date.")
def models(provider: str | None, *, as_json: bool) -> Job:
    """Print what each host does with a prefill.

    For all of them or one PROVIDER: a line a pattern of model names, tried from top to bottom, with how the
    prefill is sent and on what evidence. "emulated" with the evidence "unknown" or "guess" means that nobody has
    looked.
    """
    from ._models import models

    return partial(models, provider, as_json=as_json)

"""Adds two options to `llm prompt` and `llm chat`, and the command `llm prefill models`.

The options are appended to LLM's commands, and the callbacks of these commands are wrapped. Without `--prefill` and
without a prefill in a template, a callback is called unchanged. Otherwise `SCOPE` is set while the command runs, and
the models that LLM looks up in this time take the option `prefill` (see `_models.register_all`). LLM's modules are
not changed.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ._scope import LISTING, SCOPE, TELL, CommandScope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_PREFILL = "Begin the reply with this text"
_PREFILL_CHAT = "Begin the first reply with this text"
_HIDE = "Do not print the prefill; the log and the conversation contain it"


def install(cli: click.Group) -> None:
    """Add the options and the command to LLM's `cli`. Skip a command that is missing or has the options already."""
    for name, is_chat in (("prompt", False), ("chat", True)):
        command = cli.commands.get(name)
        if command is None or command.callback is None or any(p.name == "prefill" for p in command.params):
            continue
        text = _PREFILL_CHAT if is_chat else _PREFILL
        command.params += [
            click.Option(["--prefill"], metavar="TEXT", help=text),
            click.Option(["--hide-prefill"], is_flag=True, help=_HIDE),
        ]
        command.callback = _attaching(command.callback, is_chat=is_chat)
    for name in ("models", "aliases"):
        group = cli.commands.get(name)
        listing = group.commands.get("list") if isinstance(group, click.Group) else None
        if listing is not None and listing.callback is not None:
            listing.callback = _listing(listing.callback)
    if "prefill" not in cli.commands:
        cli.add_command(_group())


def install_notice(cli: click.Group, notice: str) -> None:
    """Print the notice on stderr, and add only `llm prefill models`, whose error is the notice.

    LLM registers commands once per process, when its command line is imported. So a program that uses LLM as a library
    does not print the notice.
    """
    click.echo(notice, err=True)

    @click.command("models", help=notice, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def models() -> None:
        raise click.ClickException(notice)

    group = click.Group("prefill", help=notice)
    group.add_command(models)
    cli.add_command(group)


def _attaching(callback: Callable[..., Any], *, is_chat: bool) -> Callable[..., Any]:
    @functools.wraps(callback)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _telling(at_once=is_chat):
            return attach(*args, **kwargs)

    def attach(*args: Any, prefill: str | None = None, hide_prefill: bool = False, **kwargs: Any) -> Any:
        chosen: Any = kwargs.get("options")
        options: tuple[tuple[str, Any], ...] = tuple(chosen) if chosen else ()
        if prefill is not None:
            if any(name == "prefill" for name, _ in options):
                raise click.ClickException("--prefill and -o prefill are the same; give one of them")
            options += (("prefill", prefill),)
            if is_chat:  # `llm prompt` uses a template's options itself
                given = {name for name, _ in options}
                more = _of_templates(kwargs.get("template"), is_chat=True) or ()
                options += tuple(pair for pair in more if pair[0] not in given)
        elif (found := _of_templates(kwargs.get("template"), is_chat=is_chat)) is not None:
            given = {name for name, _ in options}
            options += tuple(pair for pair in found if pair[0] not in given)
        elif not hide_prefill:
            with _errors_in_a_line():
                return callback(*args, **kwargs)
        elif not any(name == "prefill" for name, _ in options):
            raise click.ClickException("--hide-prefill needs --prefill; give both")
        if hide_prefill:
            if prefill and "```" in prefill and (kwargs.get("extract") or kwargs.get("extract_last")):
                raise click.ClickException(
                    "-x searches the printed text for a code fence, and --hide-prefill hides the fence's first line; "
                    "leave one of them out"
                )
            options = (*(pair for pair in options if pair[0] != "hide_prefill"), ("hide_prefill", "true"))
        with _within(CommandScope(first_only=is_chat)):
            return callback(*args, **{**kwargs, "options": options})

    return run


@contextmanager
def _within(scope: CommandScope) -> Iterator[None]:
    token = SCOPE.set(scope)
    try:
        with _errors_in_a_line():
            yield
    finally:
        SCOPE.reset(token)


@contextmanager
def _telling(*, at_once: bool) -> Iterator[None]:
    """Print notes on stderr after the command's output, or with `at_once` each note directly after its reply."""
    notes: list[str] = []

    def tell(note: str) -> None:
        if at_once:
            click.echo(nl=False)
            click.echo(f"\n{note}", err=True)  # the reply's last line has no line end yet
        else:
            notes.append(note)

    token = TELL.set(tell)
    try:
        yield
    finally:
        TELL.reset(token)
        if notes:
            click.echo(nl=False)  # flushes LLM's output, so that it comes before the notes
        for note in notes:
            click.echo(note, err=True)


@contextmanager
def _errors_in_a_line() -> Iterator[None]:
    """Turn a `PrefillError` into a one-line error, also for `llm chat`, which does not do this itself."""
    try:
        yield
    except Exception as exc:
        from ._errors import PrefillError

        if isinstance(exc, PrefillError):
            raise click.ClickException(str(exc)) from exc
        raise


def _of_templates(names: str | tuple[str, ...] | None, *, is_chat: bool) -> tuple[tuple[str, Any], ...] | None:
    """Return the options to add if a template may have a prefill; None if no template has one.

    LLM applies a template's options for `llm prompt`, but not for `llm chat`. So for `llm prompt` there are no options
    to add.
    """
    from llm.cli import LoadTemplateError, load_template

    for name in (names,) if isinstance(names, str) else names or ():
        if ":" in name and not is_chat:
            return ()  # the template is at a URL or from a plugin's loader: do not load it twice
        try:
            found = load_template(name).options or {}
        except Exception as exc:
            # LLM will report this error itself. It loads templates with httpx or httpx2. The base class of the errors
            # has the same name in both.
            if isinstance(exc, LoadTemplateError | OSError | ValueError) or _is_http_error(exc):
                continue
            raise
        if "prefill" in found:
            wanted = ("prefill", "hide_prefill", "prefill_strict")
            return tuple((key, value) for key, value in found.items() if key in wanted) if is_chat else ()
    return None


def _is_http_error(exc: Exception) -> bool:
    return any(kind.__name__ == "HTTPError" for kind in type(exc).__mro__)


def _listing(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def run(*args: Any, **kwargs: Any) -> Any:
        named = [*(kwargs.get("query") or ()), *(kwargs.get("model_ids") or ())]
        token = LISTING.set(not any("prefill" in name for name in named))
        try:
            return callback(*args, **kwargs)
        finally:
            LISTING.reset(token)

    return run


def _group() -> click.Group:
    @click.command("models")
    @click.option("queries", "-q", "--query", multiple=True, help="Only models that match all of these")
    @click.option("async_", "--async", is_flag=True, help="The async models")
    @click.option("json_", "--json", is_flag=True, help="Output as JSON")
    def models(queries: tuple[str, ...], async_: bool, json_: bool) -> None:
        """Show how a prefill is sent for each installed model."""
        from ._listing import listing

        for line in listing(queries, async_=async_, as_json=json_):
            click.echo(line)

    group = click.Group("prefill", help="Prefill: begin the reply with your own text (aprefill)")
    group.add_command(models)
    return group

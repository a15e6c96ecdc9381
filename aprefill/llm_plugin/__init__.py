"""Prefill for Simon Willison's LLM: `llm --prefill TEXT`, `llm.get_model("prefill/<id>")`, `with_prefill(model)`.

LLM loads this module at every start, so it imports nothing but LLM's own marker; the rest comes when it is used.
Outside the tested versions of LLM it registers one command that says so, and nothing else.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    from llm import hookimpl
except ModuleNotFoundError as exc:
    if exc.name != "llm":
        raise
    raise ModuleNotFoundError("aprefill.llm_plugin is for LLM: pip install 'aprefill[llm]'", name="llm") from exc

if TYPE_CHECKING:
    import click

__all__ = ("with_prefill",)

#: The versions of LLM that this was tested with, from the first up to but not including the second.
TESTED = ((0, 36), (0, 37))


def _installed() -> str:
    try:
        return version("llm")
    except PackageNotFoundError:
        return "unknown"


def _is_tested(installed: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", installed)
    return found is not None and TESTED[0] <= (int(found[1]), int(found[2])) < TESTED[1]


INSTALLED = _installed()


def _untested() -> str:
    (low, high) = (".".join(map(str, bound)) for bound in TESTED)
    return f"aprefill is switched off: it was tested with LLM {low} or later, below {high}, and this is LLM {INSTALLED}"


def with_prefill(model: Any) -> Any:
    """`model`, sync or async, with the options `prefill`, `hide_prefill` and `prefill_strict`. It has a new `model_id`.

    `prefill`: the reply begins with this text, once. `hide_prefill`: `text()` and the stream leave it out; the
    messages, and so the conversation, always have it. `prefill_strict`: an error where the model takes no prefill
    natively, or does not repeat it although its host is known to. Errors are `llm.ModelError`.
    """
    if not _is_tested(INSTALLED):
        raise RuntimeError(_untested())
    from ._models import wrap

    return wrap(model)


if _is_tested(INSTALLED):

    @hookimpl(trylast=True)
    def register_models(register: Any, model_aliases: Any) -> None:
        """`prefill/<id>` for every model that other plugins have registered."""
        from ._models import register_all

        register_all(register, model_aliases)

    @hookimpl
    def register_commands(cli: click.Group) -> None:
        """`--prefill` on `llm prompt` and `llm chat`, and `llm prefill models`."""
        from ._cli import install

        install(cli)

else:

    @hookimpl
    def register_commands(cli: click.Group) -> None:
        """`llm prefill models`, which says why there is nothing more."""
        from ._cli import install_notice

        install_notice(cli, _untested())

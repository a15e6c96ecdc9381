"""Prefill for Simon Willison's LLM: `llm --prefill TEXT`, `llm.get_model("prefill/<id>")`, `with_prefill(model)`.

LLM loads this module at every start. So it imports only LLM's marker `hookimpl`; everything else is imported when it is
used. If the version of LLM is not supported, or if LLM lacks something that the plugin needs, the plugin switches
itself off and `llm` works as without it. One line on stderr and the command `llm prefill models` say so.
"""

from __future__ import annotations

import re
import sys
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

#: The supported versions of LLM: from the first version up to, but not including, the second.
TESTED = ((0, 32), (1, 0))


def _installed() -> str:
    try:
        return version("llm")
    except PackageNotFoundError:
        return "unknown"


def _is_tested(installed: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", installed)
    return found is not None and TESTED[0] <= (int(found[1]), int(found[2])) < TESTED[1]


INSTALLED = _installed()

#: The names that the plugin uses of LLM: module -> dotted names. LLM itself imports these modules at every start.
_USED = {
    "llm": ("Model", "KeyModel", "AsyncModel", "AsyncKeyModel", "Options", "ModelError", "get_models_with_aliases"),
    "llm.models": ("ModelWithAliases", "Prompt.messages", "_BaseResponse._messages_now"),
    "llm.parts": ("Message", "StreamEvent", "TextPart", "ToolCallPart", "ToolResultPart"),
}
#: The instance attributes that the plugin reads or sets: class in llm.models -> names that its `__init__` must set.
_SET = {
    "Prompt": ("_explicit_messages", "_prompt", "options", "schema", "tools"),
    "_BaseResponse": ("_chunks", "_stream_events", "_tool_calls", "response_json", "conversation"),
}


def _lacks() -> str | None:
    """Return the first name that the plugin needs and the installed LLM lacks, or None."""
    for module, names in _USED.items():
        for name in names:
            found: Any = sys.modules.get(module)
            for part in name.split("."):
                found = getattr(found, part, None)
            if found is None:
                return f"{module}.{name}"
    for kind, names in _SET.items():
        code = getattr(getattr(sys.modules["llm.models"], kind).__init__, "__code__", None)
        for name in names:
            if code is not None and name not in code.co_names:
                return f"llm.models.{kind}().{name}"
    spec = getattr(sys.modules.get("llm.hookspecs"), "register_models", None)
    if "model_aliases" not in getattr(getattr(spec, "__code__", None), "co_varnames", ()):
        return "model_aliases for register_models"
    return None


def _why_not() -> str | None:
    """Return why the plugin is switched off; None if it is on."""
    if not _is_tested(INSTALLED):
        (low, high) = (".".join(map(str, bound)) for bound in TESTED)
        return f"aprefill is switched off: it works with LLM {low} or later, below {high}, but this is LLM {INSTALLED}"
    if (missing := _lacks()) is not None:
        return f"aprefill is switched off: LLM {INSTALLED} has no {missing}, which it needs"
    return None


OFF = _why_not()


def with_prefill(model: Any) -> Any:
    """Return a sync or async model with the options `prefill`, `hide_prefill` and `prefill_strict`.

    The new model has the `model_id` ``prefill/<id>``.

    - `prefill`: the reply begins with this text, once.
    - `hide_prefill`: `text()` and the stream omit the prefill. The messages and the conversation always contain it.
    - `prefill_strict`: raises an error if the host does not take the prefill natively, or if the model does not repeat
      the prefill although its host is known to repeat it.

    Errors are `llm.ModelError`.
    """
    if OFF is not None:
        raise RuntimeError(OFF)
    from ._models import wrap

    return wrap(model)


if OFF is None:

    @hookimpl(trylast=True)
    def register_models(register: Any, model_aliases: Any) -> None:
        """Register `prefill/<id>` for every model of other plugins."""
        from ._models import register_all

        register_all(register, model_aliases)

    @hookimpl
    def register_commands(cli: click.Group) -> None:
        """Add `--prefill` and `--hide-prefill` to `llm prompt` and `llm chat`, and add `llm prefill models`."""
        from ._cli import install

        install(cli)

else:

    @hookimpl
    def register_commands(cli: click.Group) -> None:
        """Add only `llm prefill models`, whose error says why the plugin is off, and print this reason on stderr."""
        from ._cli import install_notice

        install_notice(cli, OFF or "")

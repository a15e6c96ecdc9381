"""Context variables through which a command of LLM passes settings to the models that run inside it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class CommandScope:
    """One call of `llm prompt` or `llm chat` with a prefill."""

    #: whether only the first reply begins with the prefill
    first_only: bool
    #: whether a reply has begun with the prefill
    delivered: bool = False


#: set while such a command runs
SCOPE: ContextVar[CommandScope | None] = ContextVar("aprefill_llm_scope", default=None)


#: set while `llm prompt` or `llm chat` runs: prints a note about a reply on stderr
TELL: ContextVar[Callable[[str], None] | None] = ContextVar("aprefill_llm_tell", default=None)


#: set while `llm models` or `llm aliases` lists models, so that `prefill/<id>` does not list every model twice
LISTING: ContextVar[bool] = ContextVar("aprefill_llm_listing", default=False)

"""Which model to ask: the option, the environment, or the built-in demo."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import aprefill

from .._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEMO = "demo:eats"
DEMO_NOTE = (
    f"no model was named and no key is set, so this is {DEMO}, the built-in demo model; "
    "for a real one pass -m provider:name or set APREFILL_MODEL"
)


def choose_model(model: str | None, base_url: str | None) -> str | None:
    """The model to ask, or None: nothing says which, and the demo model is to answer.

    Raises `UsageError` where the demo would be a surprise: with a base URL, also one of the environment's, or with a
    provider's key in the environment. A model is never chosen for the owner of a key: it is their money.
    """
    name = model or os.environ.get("APREFILL_MODEL")
    if name:
        return name
    if base_url:
        raise UsageError("--base-url needs a model", "pass -m NAME")
    rows = aprefill.support_table()
    for row in rows:
        if row.url_env and os.environ.get(row.url_env):
            raise UsageError(f"no model, and {row.url_env} is set", f"pass -m {row.provider}:NAME, or try -m demo:")
    for row in rows:
        for variable in filter(None, (*row.key_env, row.token_env)):
            if os.environ.get(variable):
                raise UsageError(
                    f"no model, and {variable} is set",
                    f"pass {_example(row.provider, rows)}, or set APREFILL_MODEL, or try -m demo:",
                )
    return None


def _example(provider: str, rows: Sequence[aprefill.SupportRow]) -> str:
    """How to name a model of `provider`, with one that takes a prefill where the table has its plain name."""
    own = [row for row in rows if row.provider == provider]
    if not any(row.base_url for row in own):
        return "-m NAME --base-url URL"
    names = [name for row in own if row.native for name in row.models if not set(name) & set("*?[")]
    return f"-m {provider}:{names[0]}" if names else f"-m {provider}:NAME"

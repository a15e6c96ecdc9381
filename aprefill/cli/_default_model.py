"""Chooses the model to ask: from the option, from the environment, or the built-in demo model."""

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
    "for a real model pass -m provider:name or set APREFILL_MODEL"
)


def choose_model(model: str | None, base_url: str | None) -> str | None:
    """Return the model to ask. Return None if nothing names a model and the demo model is to answer.

    Raises `UsageError` where a reply of the demo model would be unexpected: with a base URL in an option or in the
    environment, or with a provider's key in the environment. If there is a key, no model is chosen automatically,
    because requests cost money.
    """
    name = model or os.environ.get("APREFILL_MODEL")
    if name:
        return name
    if base_url:
        raise UsageError("--base-url needs a model", "pass -m NAME")
    rows = aprefill.support_table()
    for row in rows:
        if row.url_env and os.environ.get(row.url_env):
            raise UsageError(
                f"no model is named, but {row.url_env} is set", f"pass -m {row.provider}:NAME, or try -m demo:"
            )
    for row in rows:
        for variable in filter(None, (*row.key_env, row.token_env)):
            if os.environ.get(variable):
                raise UsageError(
                    f"no model is named, but {variable} is set",
                    f"pass {_example(row.provider, rows)}, or set APREFILL_MODEL, or try -m demo:",
                )
    return None


def _example(provider: str, rows: Sequence[aprefill.SupportRow]) -> str:
    """Return an example of `-m` for `provider`. It names a model that takes a prefill, if the table has a full name."""
    own = [row for row in rows if row.provider == provider]
    if not any(row.base_url for row in own):
        return "-m NAME --base-url URL"
    names = [name for row in own if row.native for name in row.models if not set(name) & set("*?[")]
    return f"-m {provider}:{names[0]}" if names else f"-m {provider}:NAME"

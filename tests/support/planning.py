"""The plan's functions with the arguments that the engine passes: a host that does not exist, and random names."""

from __future__ import annotations

import secrets
from functools import cache
from typing import TYPE_CHECKING, Any

from aprefill._codecs import codec
from aprefill._hosts.table import SupportTable, builtin_table
from aprefill._hosts.target import Target
from aprefill._plan import emulate as emulation
from aprefill._plan import first
from aprefill._plan.options import Options
from aprefill._plan.request import make_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aprefill import Emulation
    from aprefill._hosts.row import SupportRow
    from aprefill._plan.emulate import EmulatedPrompt
    from aprefill._plan.request import Request
    from aprefill._plan.step import AttemptPlan


def token() -> str:
    return secrets.token_hex(8)


def no_transport() -> None:
    """Stands for a transport. Nothing is sent."""


def way(row: SupportRow, model: str) -> first.Way:
    """Return the way to `model` on the host of this row."""
    return first.Way(Target(row, model, base_url=row.base_url, keep=False), no_transport, token)


def plan_first(request: Request, row: SupportRow, model: str, *, refused: bool = False) -> AttemptPlan:
    """Return the plan of the first request."""
    return first.plan_first(request, request.prefill, way(row, model), refused=refused)


def emulate(how: Emulation, messages: Sequence[dict[str, Any]], known: str, *, again: bool = False) -> EmulatedPrompt:
    """Return the prompt that asks for `known`."""
    return emulation.emulate(how, messages, known, codec=codec("openai_chat"), token=token, again=again)


EATS, ECHOES = "eats", "echoes"
USER = {"role": "user", "content": "Hi"}


def asked(prompt: Any = "Hi", prefill: str = "", **options: Any) -> Request:
    return make_request(prompt, prefill, Options(**options))


@cache
def acme(keys: str = "", support: str = "eats") -> SupportRow:
    """Return the row of a host that is not built in, with only these lines of TOML."""
    entry = f'match = ["*"]\nsupport = "{support}"\nevidence = "engine"\nsource = "ours"\ndate = 2026-11-23\n'
    host = (
        'provider = "acme"\napi = "chat"\ncodec = "openai_chat"\nbase_url = "https://acme.example/v1"\nauth = "none"\n'
    )
    return SupportTable.load(f"[[host]]\n{host}{keys}\n[[host.model]]\n{entry}").row("acme", "m")


def known(model: str) -> SupportRow:
    """Return a built-in row, by "provider:model"."""
    provider, _, name = model.partition(":")
    return builtin_table().row(provider, name)


def step(row: SupportRow, prompt: Any = "Hi", **options: Any) -> AttemptPlan:
    return plan_first(asked(prompt, **options), row, "m")

"""The plan's functions with what the engine hands in: a host that is nowhere, and random names."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from aprefill._codecs import codec
from aprefill._hosts.target import Target
from aprefill._plan import emulate as emulation
from aprefill._plan import first

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
    """Nothing is sent."""


def way(row: SupportRow, model: str) -> first.Way:
    """To `model` on a host that this row is about."""
    return first.Way(Target(row, model, base_url=row.base_url, keep=False), no_transport, token)


def plan_first(request: Request, row: SupportRow, model: str, *, refused: bool = False) -> AttemptPlan:
    """The first request for what was asked."""
    return first.plan_first(request, request.prefill, way(row, model), refused=refused)


def emulate(how: Emulation, messages: Sequence[dict[str, Any]], known: str, *, again: bool = False) -> EmulatedPrompt:
    """The prompt that asks for `known`."""
    return emulation.emulate(how, messages, known, codec=codec("openai_chat"), token=token, again=again)

"""One request that was decided on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._deltas import ModelInput
    from .._hosts.row import SupportRow
    from .._hosts.target import Target
    from .._seam.plan import SeamPlan
    from .._types import Support
    from .options import Absent, ShowWhen


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AttemptPlan:
    """One request to make and how to splice its reply."""

    #: whom to ask, and what gives the transport that the request is sent with
    target: Target
    transport: Callable[[], Any]
    #: what the host does with a prefill: the target's row, or with the caller's word
    row: SupportRow
    model_input: ModelInput
    #: "native", "emulated", or "none" without a prefill
    mode: str
    support: Support
    seam: SeamPlan
    #: the name of the markers in the prompt, which are taken out of the reply; empty: there are none
    marker: str = ""
    #: the sequences that are applied here, not by the host
    stop: tuple[str, ...]
    show_when: ShowWhen
    #: part of the prefill is in the request, so the host's own base URL for prefills applies
    sends_prefill: bool = False
    #: what becomes of a reply without the echo that was asked for
    absent: Absent = "join"
    #: how long to wait before it is sent, in seconds
    wait_s: float = 0.0

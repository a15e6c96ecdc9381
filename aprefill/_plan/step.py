"""The plan of one attempt: a request that was decided on."""

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
    """One request to send, and how to join its reply to the known text."""

    #: The host, model and key, and a function that returns the transport for the request.
    target: Target
    transport: Callable[[], Any]
    #: The target's row of the support table. With `support=`, it has the caller's value instead of the table's.
    row: SupportRow
    model_input: ModelInput
    #: "native", "emulated", or "none" without a prefill.
    mode: str
    support: Support
    seam: SeamPlan
    #: The name inside the markers of the prompt, which are removed from the reply. Empty if there are no markers.
    marker: str = ""
    #: The stop sequences that are applied here, not by the host.
    stop: tuple[str, ...]
    show_when: ShowWhen
    #: Whether the request contains (a part of) the prefill. The host's separate base URL for prefills applies then.
    sends_prefill: bool = False
    #: What to do if the reply does not have the echo that the prompt asked for.
    absent: Absent = "join"
    #: The wait before the request is sent, in seconds.
    wait_s: float = 0.0

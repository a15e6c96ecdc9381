"""Shared by the tests of one attempt's deltas: a plan, and a splice that records what it yields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aprefill import AprefillError, StopReason
from aprefill._deltas import Delta, FinishDelta, TextDelta
from aprefill._engine.splice import Splice
from aprefill._engine.transcript import Transcript

from .planning import acme, asked, plan_first

if TYPE_CHECKING:
    from aprefill._plan.step import AttemptPlan


LIMIT = FinishDelta(StopReason.MAX_TOKENS, "length")
END = FinishDelta(StopReason.END, "stop")


def planned(prefill: str, support: str = "emulated", **options: Any) -> AttemptPlan:
    return plan_first(asked(prefill=prefill, **options), acme(support=support), "m")


class Done:
    """What is left of an attempt."""

    def __init__(self, step: AttemptPlan, *parts: str | Delta, cut: bool = False, coalesce: bool = False) -> None:
        transcript = Transcript(step.seam.known)
        transcript.accepted = True
        self.splice = Splice(step, transcript, lead=step.seam.known, coalesce=coalesce)
        self.error: AprefillError | None = None
        try:
            for part in parts:
                self.splice.take([TextDelta(part) if isinstance(part, str) else part])
            self.splice.close(cut=cut)
        except AprefillError as error:
            self.error = error
        self.chunks = list(transcript.items)
        self.verdict = self.splice.verdict

    @property
    def text(self) -> str:
        return "".join(chunk for chunk in self.chunks if isinstance(chunk, str))

    @property
    def echo_tokens(self) -> int | None:
        return None if self.splice.usage is None else self.splice.usage.echo_tokens

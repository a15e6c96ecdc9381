"""Shared by the tests of markers: a splice over a text with markers, and the text that it yields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aprefill import StopReason
from aprefill._deltas import FinishDelta, TextDelta
from aprefill._engine.splice import Splice
from aprefill._engine.transcript import Transcript

from .splicing import planned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aprefill._plan.step import AttemptPlan


NAME = "text-e9c0123456789abc"
LONG = "The first of many lines.\n" * 9 + 'and then the last line: {"name": "'
END = FinishDelta(StopReason.END, "stop")


def run(
    parts: Sequence[Any],
    prefill: str = LONG,
    *,
    held: bool = False,
    cut: bool = False,
    events: bool = False,
    **options: Any,
) -> tuple[Splice, list[Any]]:
    step: AttemptPlan = planned(prefill, **options)
    transcript = Transcript(prefill)
    transcript.accepted = True
    transcript.wants_held = held
    transcript.wants_events = held or events
    splice = Splice(step, transcript, lead=prefill, coalesce=False)
    for part in parts:
        splice.take([TextDelta(part) if isinstance(part, str) else part])
    splice.close(cut=cut)
    return splice, transcript.items


def text_of(items: Sequence[Any]) -> str:
    return "".join(item for item in items if isinstance(item, str))

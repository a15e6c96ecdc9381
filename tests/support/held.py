"""Shared by the tests of held text."""

from __future__ import annotations

from typing import Any

from aprefill import HeldEvent


def replayed(events: list[Any]) -> list[tuple[str, str]]:
    """Return (text so far, held text) after each event, as a web page would keep them."""
    text = held = ""
    seen = []
    for event in events:
        if isinstance(event, HeldEvent):
            held = held + event.text if event.more else event.text
        else:
            text += event if isinstance(event, str) else ""
        seen.append((text, held))
    return seen

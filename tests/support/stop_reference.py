"""The rule for stop sequences, applied to the whole text at once. `StopStage` is tested against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def until_stop(sequences: Sequence[str], text: str) -> tuple[str, str | None]:
    """Return the text that may be shown, and the sequence that fired: the one that ends first, then the longest."""
    for end in range(1, len(text) + 1):
        found = [sequence for sequence in sequences if text[:end].endswith(sequence)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None

"""What the seam of one reply needs: the known text, and the rules for finding a repetition of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .fallback import FallbackSeam
from .opener import FenceOpenerSeam, is_opener
from .seam import Seam

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, repr=False)
class SeamPlan:
    """Everything that the seam of a reply is made from. It has no repr, because it contains the prefill."""

    #: the text that the reply already has, in the form that the seam looks for
    known: str
    #: keyword arguments of `Seam`
    rules: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"echo": "never"}))
    #: For a long prefill, the prompt asks only for its last lines: these lines, and the rules of a second seam for them
    tail: str = ""
    tail_rules: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    #: whether the prompt asked the model to repeat the known text
    asked: bool = False

    def seam(self) -> Seam | FallbackSeam:
        """Return a new seam."""
        seam = Seam(self.known, **self.rules)
        if self.tail:
            return FallbackSeam(seam, Seam(self.tail, **self.tail_rules))
        if self.asked and is_opener(self.known):
            return FallbackSeam(seam, FenceOpenerSeam(self.known, self.rules.get("preamble", 0)))
        return seam

"""How one reply is spliced: the known text, and what is known of how the model may repeat it. Pure."""

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
    """What the seam of a reply is made of. It has no repr: it holds the prefill."""

    #: the text that the reply already has, as the seam is to look for it
    known: str
    #: keyword arguments of `Seam`
    rules: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"echo": "never"}))
    #: where the model was asked for the end of a long text alone: that, and the rules of a second seam for it
    end: str = ""
    end_rules: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    #: the prompt asked for an echo
    asked: bool = False

    def seam(self) -> Seam | FallbackSeam:
        """A new seam."""
        seam = Seam(self.known, **self.rules)
        if self.end:
            return FallbackSeam(seam, Seam(self.end, **self.end_rules))
        if self.asked and is_opener(self.known):
            return FallbackSeam(seam, FenceOpenerSeam(self.known, self.rules.get("preamble", 0)))
        return seam

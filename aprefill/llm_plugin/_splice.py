"""One reply's chunks, spliced onto the prefill: what LLM is handed in place of what the plugin yields.

Pure, and knows nothing of LLM but this: a chunk is a str, or an event with `type` and `chunk`, a dataclass.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .._seam import Seam, Verdict
from .._stop import StopStage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._either import Either


class Ignored(Exception):
    """The reply does not begin with the prefill, and it must."""


class Splice:
    """`take` chunks, then `end` once; both give what to yield. Events that are not text keep their place.

    >>> splice = Splice('["', rules={})
    >>> [splice.take(chunk) for chunk in ('["', 'Ala', 'bama"]')], splice.end(), splice.verdict.value
    ([[], ['["', 'Ala'], ['bama"]']], [], 'echoed')
    """

    def __init__(
        self,
        prefill: str,
        *,
        rules: Mapping[str, Any] = MappingProxyType({}),
        seam: Seam | Either | None = None,
        hidden: bool = False,
        stop: tuple[str, ...] = (),
        must_echo: bool = False,
    ) -> None:
        self._seam = Seam(prefill, **rules) if seam is None else seam
        self._stop = StopStage(stop) if stop else None
        self._prefill = prefill
        self._hidden = hidden
        self._must_echo = must_echo
        #: the last text chunk: what comes out later is given its form and its place
        self._last: Any = ""
        self._fed = False
        self._has_tool = False
        #: the seam is closed: what comes now is passed on as it is
        self._over = False
        #: the prefill was given out, or would have been if it were not hidden
        self.delivered = False

    @property
    def verdict(self) -> Verdict:
        """What stood at the front of the model's text."""
        return self._seam.verdict

    @property
    def stopped(self) -> bool:
        """A stop sequence of ours was met: the rest is not wanted."""
        return self._stop is not None and self._stop.fired is not None

    def take(self, chunk: Any) -> list[Any]:
        """What may be yielded now; nothing for None. Raises `Ignored`."""
        if chunk is None:
            return []
        kind = "text" if isinstance(chunk, str) else chunk.type
        if kind == "reasoning":
            return [chunk]
        if kind != "text":
            # what is held came before it, and must stand before it in the conversation
            before = self._flush() if self._fed else []
            self._has_tool = True
            return [*before, chunk]
        text = chunk if isinstance(chunk, str) else chunk.chunk
        if self._over or (self._has_tool and not self._fed and not text.strip()):
            return [chunk]  # the second: a space that a plugin puts behind a tool call
        self._last = chunk
        self._fed = self._fed or bool(text)
        return self._show(self._until_stop(self._seam.feed(text)), chunk)

    def end(self) -> list[Any]:
        """What is left, after a clean end. Raises `Ignored`."""
        if self.stopped or (self._has_tool and not self._fed):
            return []
        out = self._flush()
        if not self.delivered:
            if self._must_echo and self.verdict is Verdict.ABSENT:
                raise Ignored
            out += self._lead(self._last)
        return out

    def _flush(self) -> list[Any]:
        if self._over:
            return []
        self._over = True
        text = self._until_stop(self._seam.close())
        if self._stop is not None and not self.stopped:
            text += self._stop.close()
        out = self._show(text, self._last)
        if not self.delivered and self.verdict is not Verdict.ABSENT:
            out += self._lead(self._last)  # the model wrote the prefill, and nothing else
        return out

    def _until_stop(self, text: str) -> str:
        return text if self._stop is None else self._stop.feed(text)

    def _show(self, new: str, chunk: Any) -> list[Any]:
        if not new:
            # metadata that must go back to the provider stands on events of text too
            return [_with(chunk, "")] if getattr(chunk, "provider_metadata", None) else []
        lead = [] if self.delivered else self._lead(chunk)
        return [*lead, _with(chunk, new)]

    def _lead(self, chunk: Any) -> list[Any]:
        if self._must_echo and self.verdict is Verdict.ABSENT:
            raise Ignored
        self.delivered = True
        if self._hidden:
            return []
        lead = _with(chunk, self._prefill)
        return [lead if isinstance(lead, str) else replace(lead, provider_metadata=None)]


def _with(chunk: Any, text: str) -> Any:
    return text if isinstance(chunk, str) else replace(chunk, chunk=text)

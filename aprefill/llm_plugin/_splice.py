"""Splices the chunks of one reply onto the prefill. LLM receives the result instead of the plugin's own chunks.

Pure. The only knowledge about LLM here: a chunk is a str, or an event, which is a dataclass with `type` and `chunk`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .._seam.markers import Markers
from .._seam.plan import SeamPlan
from .._seam.stage import TextStage
from .._types import Verdict


class Ignored(Exception):
    """The reply does not begin with the prefill, although it must."""


class Cut(Exception):
    """A token limit was reached inside the repetition of the prefill, before any new text."""


class ChunkSplicer:
    """Splices chunks: `take` each chunk, then call `end` or `cut` once. All three return the chunks to yield.

    Events that are not text keep their place. The text between two tool calls is a *passage*. Only the answer begins
    with the prefill, and not a passage before a tool call. So with `may_call`, a passage that does not repeat the
    prefill is kept back until its end.

    `plan` makes the seam of each passage. `marker` is the name of the markers in the prompt, which are removed from the
    text.

    >>> from aprefill._seam.plan import SeamPlan
    >>> splice = ChunkSplicer('["', SeamPlan('["', {}))
    >>> [splice.take(chunk) for chunk in ('["', 'Ala', 'bama"]')], splice.end(), splice.verdict.value
    ([[], ['["', 'Ala'], ['bama"]']], [], 'echoed')
    """

    def __init__(
        self,
        prefill: str,
        plan: SeamPlan,
        *,
        hidden: bool = False,
        stop: tuple[str, ...] = (),
        must_echo: bool = False,
        may_call: bool = False,
        marker: str = "",
    ) -> None:
        self._plan = plan
        self._stops = stop
        self._must_echo = must_echo
        self._may_call = may_call
        #: the text stage of the current passage
        self._stage = TextStage(plan.seam(), lead="" if hidden else prefill, stop=stop)
        self._markers = Markers(marker) if marker else None
        #: the verdict of the earlier passages
        self._verdict: Verdict | None = None
        #: white space after a tool call, which some plugins add; it becomes part of the next text, if there is any
        self._spaces: list[Any] = []
        #: decided chunks that are kept back until it is known whether a tool call follows
        self._kept: list[Any] = []
        #: the last text chunk of the passage; text that is released later gets the form of this chunk
        self._last: Any = ""
        self._has_tool = False
        #: whether the prefill was yielded, or would have been if it were not hidden
        self.delivered = False
        # Whether an earlier passage contained the prefill. The text of this passage is then yielded unchanged.
        self._is_behind = False
        self._over = False

    @property
    def verdict(self) -> Verdict:
        """What was found at the start of the model's text, as far as there was text."""
        if self._verdict is not None and (self._is_behind or not self._stage.fed):
            return self._verdict
        return self._stage.verdict

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence that this library applies was found, so that the rest of the stream is not needed."""
        return self._stage.fired is not None

    def take(self, chunk: Any) -> list[Any]:
        """Return the chunks that can be yielded now; no chunks for None. Raises `Ignored`."""
        if chunk is None or self._over:
            return []
        kind = "text" if isinstance(chunk, str) else chunk.type
        if kind == "reasoning":
            if self._kept:
                self._kept.append(chunk)
                return []
            spaces, self._spaces = self._spaces, []
            return [*spaces, chunk]
        if kind != "text":
            # the held text came before this event, and must come before it in the conversation
            before = self._end_passage()
            self._has_tool = True
            return before if self._over else [*before, chunk]
        return self._take_text(chunk if self._markers is None else _with(chunk, self._markers.feed(_text(chunk))))

    def end(self, *, limited: bool = False, calls: bool = False) -> list[Any]:
        """Return the remaining chunks after a clean end. Raises `Ignored` and `Cut`.

        `limited`: a token limit was reached. `calls`: tools must be run before the answer, so this was not the answer.
        """
        if self._over:
            return []
        if calls:
            return self._end_passage()
        before = self._take_last()
        self._over = True
        stage = self._stage
        if self._has_tool and not stage.fed and not self._is_behind:
            return [*before, *self._spaces]
        is_open = stage.verdict is Verdict.UNDECIDED and stage.fed > 0
        if limited and is_open and not stage.holds_own_text:
            raise Cut
        return [*before, *self._finish(stage.close())]

    def cut(self) -> list[Any]:
        """Return the remaining chunks after an error: all text except an incomplete repetition. Raises nothing."""
        if self._over or self.stopped:
            return []
        if self._markers is not None:
            self._markers.close(cut=True)
        self._over = True
        out = [*self._kept_text(), *self._with(self._stage.close(cut=not self._stage.holds_own_text))]
        if self.delivered or not out:
            return out
        if self._must_echo and self._stage.verdict is Verdict.ABSENT:
            return []
        return [*self._lead(self._last), *out]

    # --- the steps --------------------------------------------------------------------------------------------

    def _take_text(self, chunk: Any) -> list[Any]:
        if self._has_tool and not self._stage.fed and not self._is_behind and not _text(chunk).strip():
            self._spaces.append(chunk)
            return []
        out = []
        spaces, self._spaces = self._spaces, []
        for one in (*spaces, chunk):
            out += self._feed(one)
        return out

    def _take_last(self) -> list[Any]:
        """Take the text that the markers stage still holds at the end of a passage."""
        left = "" if self._markers is None or self.stopped else self._markers.close()
        return self._take_text(_with(self._last, left)) if left else []

    def _feed(self, chunk: Any) -> list[Any]:
        self._last = chunk
        return self._show(self._stage.feed(_text(chunk)), chunk)

    def _end_passage(self) -> list[Any]:
        """End the passage before a tool call, and return its remaining chunks."""
        before = self._take_last()
        spaces, self._spaces = self._spaces, []
        if not self._stage.fed and not self._is_behind:
            return [*before, *spaces]
        text = self._stage.close()
        if self.stopped:  # nothing after a stop sequence is yielded, and no tool call either
            self._over = True
            return [*before, *self._finish(text)]
        self._verdict = self.verdict
        out = [*self._kept_text(), *self._with(text)]
        if self.delivered:
            self._is_behind = True
        elif self._stage.verdict is not Verdict.ABSENT:
            if any(_is_text(one) and _text(one).strip() for one in out):
                out = [*self._lead(self._last), *out]
                self._is_behind = True
            else:
                # The passage was the prefill alone. The prefill is yielded with the answer instead.
                out = [one for one in out if not _is_text(one)]
        # after the prefill, the text is yielded as the model wrote it, up to a stop sequence
        plan = SeamPlan("") if self._is_behind else self._plan
        self._stage = TextStage(plan.seam(), lead=self._stage.lead, stop=self._stops)
        return [*before, *out]

    def _finish(self, text: str) -> list[Any]:
        """Return the last chunks of the answer, of which `text` is the last text."""
        if self.delivered:
            return self._with(text)
        if self._must_echo and self._stage.verdict is Verdict.ABSENT:
            raise Ignored
        return [*self._lead(self._last), *self._kept_text(), *self._with(text)]

    def _show(self, new: str, chunk: Any) -> list[Any]:
        if self.delivered:
            return self._with_metadata(chunk, new)
        if self._may_call and (self._stage.verdict is Verdict.ABSENT or not new.strip()) and (new or self._kept):
            self._kept += self._with_metadata(chunk, new)
            return []
        if not new:
            return self._with_metadata(chunk, new)
        if self._must_echo and self._stage.verdict is Verdict.ABSENT:
            raise Ignored
        return [*self._lead(chunk), *self._kept_text(), _with(chunk, new)]

    def _kept_text(self) -> list[Any]:
        kept, self._kept = self._kept, []
        return kept

    def _lead(self, chunk: Any) -> list[Any]:
        self.delivered = True
        text = self._stage.take_lead()
        if not text:
            return []
        return [text if isinstance(chunk, str) else replace(chunk, chunk=text, provider_metadata=None)]

    def _with(self, text: str) -> list[Any]:
        return [_with(self._last, text)] if text else []

    @staticmethod
    def _with_metadata(chunk: Any, text: str) -> list[Any]:
        # text events too may carry metadata that must go back to the provider
        return [_with(chunk, text)] if text or getattr(chunk, "provider_metadata", None) else []


def _is_text(chunk: Any) -> bool:
    return isinstance(chunk, str) or chunk.type == "text"


def _text(chunk: Any) -> str:
    return chunk if isinstance(chunk, str) else str(chunk.chunk)


def _with(chunk: Any, text: str) -> Any:
    return text if isinstance(chunk, str) else replace(chunk, chunk=text)

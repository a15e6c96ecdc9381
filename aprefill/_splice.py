"""From deltas to what may be handed out: the seam and the stop stage of one attempt, and the text of the reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._errors import PrefillIgnored
from ._seam import Seam
from ._stop import StopStage
from ._types import (
    Event,
    FinishDelta,
    ReasoningDelta,
    ReasoningEvent,
    StopReason,
    TextDelta,
    ToolDelta,
    ToolEvent,
    Usage,
    UsageDelta,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._plan import Step
    from ._types import Delta

#: After these the seam is closed as for a cut: what it holds was a repetition or a fence in the making.
_LIMITS = frozenset({StopReason.MAX_TOKENS, StopReason.CONTEXT_WINDOW})


class Transcript:
    """What a reply has to say, in order, and how much of it was handed out. The buffer is the history.

    >>> reply = Transcript('["')
    >>> reply.show('["')
    >>> reply.items += ["Ala", "bama"]
    >>> reply.next = 2
    >>> reply.text_so_far
    '["Ala'
    """

    __slots__ = ("_joined", "_shown", "_text", "accepted", "items", "lead_at", "next", "wants_events")

    def __init__(self, prefill: str) -> None:
        #: a host has accepted a request, so the reply has begun
        self.accepted = False
        #: `events()` was asked for: other events than text are kept as well, and text is never joined
        self.wants_events = False
        #: text, and events if they are wanted
        self.items: list[str | Event] = []
        #: the first that was not handed out
        self.next = 0
        #: where in `items` the shown prefill stands
        self.lead_at = -1
        # how many characters of that item are the prefill's
        self._shown = 0
        # the text of the first `_joined` items, so that reading it in a loop stays cheap
        self._text = prefill
        self._joined = 0

    def show(self, prefill: str) -> None:
        """Hand out the prefill, or its tail, here."""
        self.lead_at = len(self.items)
        self._shown = len(prefill)
        self.items.append(prefill)

    def merge(self, start: int) -> None:
        """Make one chunk of the text from `start` on."""
        if len(self.items) - start > 1:
            self.items[start:] = ["".join(item for item in self.items[start:] if isinstance(item, str))]

    @property
    def text_so_far(self) -> str:
        """The prefill and what was handed out after it; ``""`` while neither was shown nor accepted anywhere."""
        if not self.accepted and self.lead_at < 0:
            return ""
        if self._joined < self.next:
            new = self.items[self._joined : self.next]
            if self._joined <= self.lead_at < self.next:
                lead = new[self.lead_at - self._joined]
                assert isinstance(lead, str)
                new[self.lead_at - self._joined] = lead[self._shown :]
            self._text += "".join(item for item in new if isinstance(item, str))
            self._joined = self.next
        return self._text

    def forget_rest(self) -> None:
        """The reply was left: what was not handed out will not be."""
        del self.items[self.next :]


class Splice:
    """One attempt's deltas, spliced onto the known text and written to the reply's transcript.

    `take` deltas, then `close` once. Afterwards `finish` and `usage` are what the host said last.
    """

    __slots__ = (
        "_coalesce",
        "_lead",
        "_step",
        "_stop",
        "_transcript",
        "finish",
        "has_shown",
        "has_text",
        "has_token",
        "seam",
        "stopped",
        "usage",
    )

    def __init__(self, step: Step, transcript: Transcript, *, lead: str, coalesce: bool) -> None:
        self._step = step
        self._transcript = transcript
        # the prefill, if it is to be shown with the first new text
        self._lead = lead
        self._coalesce = coalesce
        self.seam = Seam(step.known, **step.rules)
        self._stop = StopStage(step.stop) if step.stop else None
        self.finish: FinishDelta | None = None
        self.usage: Usage | None = None
        #: a stop sequence of ours has fired: the host is to be cut off
        self.stopped = False
        #: the model has produced a token of any kind; text; text that could be handed out
        self.has_token = self.has_text = self.has_shown = False

    def take(self, deltas: Sequence[Delta]) -> None:
        """Take one read's deltas. Raises `PrefillIgnored` where an echo is required and there is none."""
        items = self._transcript.items
        before = len(items)
        feed = self.seam.feed
        stop = self._stop
        for delta in deltas:
            if type(delta) is TextDelta:
                piece = delta.text
                if not piece:
                    continue
                self.has_text = self.has_token = True
                text = feed(piece)
                if stop is not None:
                    text = self._until_stop(stop, text)
                if text:
                    if not self.has_shown:
                        self._first()
                    items.append(text)
                if self.stopped:
                    break
            else:
                self._note(delta)
        if self._coalesce and not self._transcript.wants_events:
            self._transcript.merge(before)

    def close(self, *, cut: bool) -> None:
        """The attempt is over, cut or cleanly; what the stages still hold is the last text, or is dropped."""
        before = len(self._transcript.items)
        if not self.stopped:
            text = self.seam.close(cut or (self.finish is not None and self.finish.reason in _LIMITS))
            if self._stop is not None:
                text = self._until_stop(self._stop, text)
                if not self.stopped:
                    text += self._stop.close()
            if text:
                if not self.has_shown:
                    self._first()
                self._transcript.items.append(text)
        if not cut:
            if self._step.echo_required and not self.has_token:
                raise PrefillIgnored(self._step.call.model)
            self._show_lead()
        if self._coalesce and not self._transcript.wants_events:
            self._transcript.merge(before)

    def _first(self) -> None:
        """What stands before the first new text."""
        if self._step.echo_required and self.seam.verdict is Verdict.ABSENT:
            raise PrefillIgnored(self._step.call.model)
        self.has_shown = True
        self._show_lead()

    def _show_lead(self) -> None:
        if self._lead:
            self._transcript.show(self._lead)
            self._lead = ""

    def _until_stop(self, stop: StopStage, text: str) -> str:
        text = stop.feed(text)
        if stop.fired is not None:
            self.stopped = True
            self.finish = FinishDelta(StopReason.STOP_SEQUENCE, "stop", stop.fired)
        return text

    def _note(self, delta: Delta) -> None:
        """Take a delta that is not text."""
        match delta:
            case ReasoningDelta() if delta.text:
                self.has_token = True
                if self._transcript.wants_events:
                    self._transcript.items.append(ReasoningEvent(delta.text))
            case ToolDelta():
                self.has_token = True
                if self._transcript.wants_events:
                    self._transcript.items.append(ToolEvent(delta.index, delta.id, delta.name, delta.arguments))
            case UsageDelta():
                self.usage = delta.usage
            case FinishDelta():
                self.finish = delta

"""Turns the deltas of one attempt into what the caller receives, and records where in the text other deltas came.

The text passes three stages:

- The markers stage. A prompt that asks for the prefill may put markers around it (tags with a random name), and a model
  may copy them into its reply. This stage removes them.
- The seam. A model may repeat the known text, which is the prefill and the text shown so far, before it continues. This
  repetition is called the echo, and the seam drops it. The seam is *decided* once it is certain whether there is an
  echo. Before that it holds all text. After that it may still hold white space or a possible end of a code fence.
- The stop sequences, which end the text.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from .._deltas import BlockDelta, FinishDelta, ReasoningDelta, TextDelta, ToolDelta, UsageDelta
from .._errors import LimitExceeded, PrefillIgnored, Truncated
from .._events import Event, ReasoningEvent, ToolEvent
from .._seam.held import Held
from .._seam.markers import Markers, without_markers
from .._seam.stage import TextStage
from .._types import TOKEN_LIMIT_REASONS, StopReason, Usage, Verdict
from .._words import Words
from .history import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._codecs import Codec
    from .._deltas import Delta, Message
    from .._plan.step import AttemptPlan
    from .transcript import Transcript

#: The key for reasoning in `_sides`, where the other keys are the indices of tool calls.
_REASONING = -1
#: Characters per token, for an estimate if the host does not count tokens.
CHARS_A_TOKEN = 4


class Splice:
    """Splices one attempt's deltas onto the known text and writes them to the reply's transcript.

    `take` deltas, then `close` once. Afterwards, `finish` and `usage` are the last ones that the host sent.
    """

    __slots__ = (
        "_coalesce",
        "_doubtful",
        "_held",
        "_history",
        "_looked",
        "_markers",
        "_plan",
        "_reply_chars",
        "_sides",
        "_stage",
        "_taken",
        "_transcript",
        "exceeded",
        "finish",
        "has_text",
        "has_token",
        "has_tool",
        "stopped",
        "usage",
    )

    def __init__(
        self, plan: AttemptPlan, transcript: Transcript, *, lead: str, coalesce: bool, reply_chars: int | None = None
    ) -> None:
        self._plan = plan
        self._transcript = transcript
        self._coalesce = coalesce
        # `lead` is the prefill, if it must be shown before the first new text
        self._stage = TextStage(
            plan.seam.seam(),
            lead=lead,
            stop=plan.stop,
            most=None if reply_chars is None else reply_chars - len(plan.seam.known),
        )
        # whether `_look` was called, because the seam has let text through
        self._looked = False
        # removes the prompt's markers from the reply, if the prompt has any
        self._markers = Markers(plan.marker) if plan.marker else None
        # number of characters that the markers stage removed, once it is closed
        self._taken = 0
        # the same stage for other deltas: one for each tool call, by its index, and one for the reasoning
        self._sides: dict[int, Markers] = {}
        # Whether a delta other than text came while the seam was decided and still held text. The place of that delta
        # is uncertain until the seam drops or shows the text.
        self._doubtful = False
        self._history = History()
        # reports the held text, if the reader asked for that
        self._held: Held | None = None
        self.finish: FinishDelta | None = None
        self.usage: Usage | None = None
        # `Limits.reply_chars`
        self._reply_chars = reply_chars
        #: whether a stop sequence that this library applies has fired; the connection must then be closed
        self.stopped = False
        #: set if the reply is longer than the caller allows; the connection must then be closed
        self.exceeded: LimitExceeded | None = None
        #: whether the model has produced a token of any kind; text; a tool call
        self.has_token = self.has_text = self.has_tool = False

    @property
    def verdict(self) -> Verdict:
        """What was found at the start of the model's text, as far as it is known."""
        return self._stage.verdict

    @property
    def has_shown(self) -> bool:
        """Whether the model has produced text that can be handed out."""
        return self._stage.shown > 0

    def take(self, deltas: Sequence[Delta]) -> None:
        """Take the deltas of one network read. Raises `PrefillIgnored` if the plan needs an echo and there is none."""
        items = self._transcript.items
        before = len(items)
        stage = self._stage
        feed = stage.feed
        markers = self._markers
        if self._held is None and self._transcript.wants_held:
            self._held = Held()
        held = self._held
        for delta in deltas:
            if type(delta) is TextDelta:
                piece = delta.text
                if not piece:
                    continue
                self.has_text = self.has_token = True
                if markers is not None:
                    self._show_side()
                    piece = self._feed_markers(markers, piece)
                text = self._feed_slowly(piece) if self._doubtful else feed(piece)
                if not self._looked and stage.decided:
                    self._look()
                if text:
                    if held is not None:
                        self.settle_held()
                    if stage.lead:
                        self._show_lead()
                    items.append(text)
                if stage.over:
                    self._end_early()
                    break
                if held is not None:
                    event = held.feed(piece, stage.held, "" if markers is None else markers.doubtful)
                    if event is not None:
                        items.append(event)
            else:
                self._note(delta)
        self._merge(before)

    def close(self, *, cut: bool) -> None:
        """End the attempt, after a clean end or a cut.

        After a clean end, held text is written. After a cut, held text that may be part of a repetition is dropped.
        Raises `PrefillIgnored` as `take` does. Raises `Truncated` if a token limit ended the reply inside the
        repetition that the prompt asked for, because another request would reach the limit at the same place.
        """
        before = len(self._transcript.items)
        self._end_sides()
        if self._markers is not None and not self.stopped:
            # At a token limit, the text may end with the beginning of a marker. If that has at least 8 characters, it
            # is removed. A shorter one is kept, because it is probably the model's own text. So a token limit does not
            # count as a cut here: after a cut, all held text is dropped.
            markers = self._markers
            start = self._place() - markers.held - markers.passed
            markers.taken_at = sys.maxsize
            last = markers.close(cut)
            if markers.taken_at < sys.maxsize:
                self._history.clip(start + markers.taken_at)
            self._markers = None
            self._taken = markers.taken
            if last:
                self.take([TextDelta(last)])
        self.settle_held()
        stage = self._stage
        if not stage.over:
            # At a token limit, the seam is closed as after a cut, so the held text is dropped. It is an incomplete
            # repetition or fence. In one case it is not dropped: the prompt asked for the repetition, and the held text
            # has no part of a repetition or fence. Then the model wrote something else, and that is shown.
            limited = self.finish is not None and self.finish.reason in TOKEN_LIMIT_REASONS
            is_asked = self._plan.mode == "emulated"
            own_text = limited and is_asked and stage.holds_own_text
            text = stage.close(cut or (limited and not own_text))
            if limited and not cut and is_asked and stage.verdict is Verdict.TRUNCATED:
                self._estimate(0)
                raise Truncated(
                    f"the token limit was reached inside the repetition of the prefill, after "
                    f"{stage.fed} characters; no new text came, and the same request would end there again",
                    remedy=Words("raise {max_tokens}", "raise the limit that {extra} sets"),
                    may_pass=False,
                )
            if not self._looked and stage.decided:
                self._look()
            if text:
                self._show_lead()
                self._transcript.items.append(text)
            self._end_early()
        if not cut:
            unseen = not stage.decided and stage.verdict is Verdict.ABSENT
            if unseen and self._wants_echo() and not self.has_tool:
                raise self._ignored()
            self._show_lead()
        self._estimate(stage.shown)
        self._merge(before)

    def handed_out(self, text: str) -> tuple[Usage | None, FinishDelta | None]:
        """Return the host's usage and finish at the moment when the end of `text`, the new text, was handed out."""
        history = self._history
        count = history.count(len(text), self._transcript.next)
        counted = history.last(UsageDelta, count)
        return None if counted is None else counted.usage, history.last(FinishDelta, count)

    def parts(self, text: str, *, whole: bool) -> list[str | Delta]:
        """Return `text`, the new text that was handed out, with the host's other deltas in their places.

        `whole` says that the reader received everything. Then deltas after the text are included too. But if a stop
        sequence cut the text, deltas after that place are not included.
        """
        history = self._history
        count = history.count(len(text), self._transcript.next)
        if whole:
            count = max(count, history.count_until(len(text) if self.stopped else sys.maxsize))
        return history.parts(text, self._transcript.next, count)

    def clean(self, message: Message, codec: Codec) -> Message:
        """Return `message`, made of `parts`, without markers in the input and output of tools that the host runs.

        Signed thinking is kept unchanged, even if the model wrote a marker in it, because the host refuses thinking
        that does not match its signature.
        """
        marker = self._plan.marker
        return codec.edit(message, lambda part: without_markers(part, marker)) if marker else message

    def _merge(self, start: int) -> None:
        """Merge the text of one network read into one chunk, if the caller asked for that."""
        if self._coalesce and not self._transcript.wants_events:
            self._transcript.merge(start)

    def _place(self) -> int:
        """Return the number of characters of new text before a delta that comes now. Held characters are included."""
        return self._stage.place + (0 if self._markers is None else self._markers.held)

    def _feed_markers(self, markers: Markers, piece: str) -> str:
        """Return `piece` without the prompt's markers."""
        held = markers.held
        if not held:
            return markers.feed(piece)
        # the position in the new text where the text begins that the markers stage passes on
        start = self._place() - held - markers.passed
        markers.taken_at = sys.maxsize
        piece = markers.feed(piece)
        if markers.taken_at < sys.maxsize:
            # The held text was a marker and not text of the reply. A delta that came meanwhile is placed where the
            # marker began.
            self._history.clip(start + markers.taken_at)
        return piece

    def _feed_slowly(self, piece: str) -> str:
        """Feed the seam one character at a time, to find the places of deltas that came while it held text.

        Such a place depends on how much of the held text the seam drops. If the seam drops text after a character, the
        dropped text is at the front: everything that the seam then shows or still holds comes after it. Once all places
        are known, the rest of `piece` is fed at once.
        """
        stage, seam, history = self._stage, self._stage.seam, self._history
        out: list[str] = []
        place = stage.place - seam.held
        for at, c in enumerate(piece):
            if history.last_place <= place:
                self._doubtful = False
                out.append(seam.feed(piece[at:]))
                break
            held = seam.held
            text = seam.feed(c)
            if dropped := held + 1 - len(text) - seam.held:
                history.drop(place, dropped)
            place += len(text)
            out.append(text)
        return stage.pass_on("".join(out))

    def settle_held(self) -> None:
        """Report that no text is held any more, if held text was reported."""
        event = None if self._held is None else self._held.settle()
        if event is not None:
            self._transcript.items.append(event)

    def _look(self) -> None:
        """Handle the first text that the seam lets through. Raises `PrefillIgnored` if the plan needs an echo."""
        self._looked = True
        self._history.drop_front(self._stage.dropped)
        if self._stage.verdict is Verdict.ABSENT and self._wants_echo():
            raise self._ignored()

    def _end_early(self) -> None:
        """Set `stopped` or `exceeded`, if the stop stage or the limit has ended the text."""
        if self._stage.fired is not None:
            self.stopped = True
            self.finish = FinishDelta(StopReason.STOP_SEQUENCE, "stop", self._stage.fired)
        if self._stage.exceeded:
            assert self._reply_chars is not None
            self.exceeded = LimitExceeded("reply_chars", self._reply_chars, "characters")

    def _wants_echo(self) -> bool:
        # No retry after a tool call: the call was handed out already, and a second request would make it twice.
        absent = self._plan.absent
        return absent == "raise" or (absent == "retry" and not self.has_tool)

    def _ignored(self) -> PrefillIgnored:
        self._estimate(0)
        return PrefillIgnored(self._plan.model_input.model, strict=self._plan.mode == "native")

    def _show_lead(self) -> None:
        if lead := self._stage.take_lead():
            self._transcript.show(lead)

    def _estimate(self, new: int) -> None:
        """Estimate how many output tokens were the repetition that the prompt asked for, from its share of the text.

        `new` is the number of characters of new text.
        """
        if self._plan.mode != "emulated":
            return
        # if there is no new text, all text that came was the repetition
        echo = (self._stage.dropped if self._stage.decided else self._stage.fed) + self._taken
        if self._markers is not None:
            echo += self._markers.taken
        tokens = math.ceil(echo / CHARS_A_TOKEN)
        if self.usage is not None and self.usage.output_tokens is not None and echo + new:
            text_tokens = max(0, self.usage.output_tokens - (self.usage.reasoning_tokens or 0))
            tokens = math.ceil(text_tokens * echo / (echo + new))
        self.usage = replace(self.usage or Usage(), echo_tokens=tokens)

    def _note(self, delta: Delta) -> None:
        """Handle a delta that is not text."""
        match delta:
            case ReasoningDelta():
                self.has_token = self.has_token or bool(delta.text)
                # The markers are removed only from the event. Signed thinking must go back to the host unchanged.
                shown = delta.text if self._markers is None else self._without_markers(_REASONING, delta.text)
                self._keep(delta, ReasoningEvent(shown) if shown else None)
            case ToolDelta():
                self.has_token = self.has_tool = True
                self._show_side()
                if self._markers is not None:
                    arguments = self._without_markers(delta.index, delta.arguments)
                    if not (arguments or delta.id or delta.name):
                        return
                    delta = ToolDelta(delta.index, delta.id, without_markers(delta.name, self._plan.marker), arguments)
                self._keep(delta, ToolEvent(delta.index, delta.id, delta.name, delta.arguments))
            case UsageDelta():
                self.usage = delta.usage
                self._keep(delta)
            case FinishDelta():
                self.finish = delta
                self._keep(delta)
            case BlockDelta():
                self._keep(delta)

    def _keep(self, delta: Delta, event: Event | None = None) -> None:
        """Add the delta to the history. Write its event if it has one and the reader wants events."""
        items = self._transcript.items
        place = self._place()
        item = -1
        if event is not None and self._transcript.wants_events:
            item = len(items)
            items.append(event)
        self._history.note(delta, place=place, item=item)
        self._doubtful = self._stage.decided and self._stage.seam.held > 0

    def _without_markers(self, side: int, text: str) -> str:
        """Return the part of `text` that can be passed on now, without markers: for reasoning and tool arguments."""
        if side not in self._sides:
            self._sides[side] = Markers(self._plan.marker)
        return self._sides[side].feed(text)

    def _show_side(self) -> None:
        """Show the held reasoning before something else comes, unless it is most of a marker.

        Held arguments of a tool call wait for more arguments. Of complete arguments, nothing is held.
        """
        stage = self._sides.get(_REASONING)
        text = "" if stage is None else stage.show()
        if text and self._transcript.wants_events:
            self._transcript.items.append(ReasoningEvent(text))

    def _end_sides(self) -> None:
        """End the reasoning and all tool calls: the text that is held of each is written as its end."""
        for side in (_REASONING, *self._sides.copy()):
            self._end_side(side)

    def _end_side(self, side: int) -> None:
        stage = self._sides.pop(side, None)
        text = "" if stage is None else stage.close()
        if text and side != _REASONING:
            self._keep(ToolDelta(side, arguments=text), ToolEvent(side, "", "", text))
        elif text and self._transcript.wants_events:
            self._transcript.items.append(ReasoningEvent(text))

"""From deltas to what may be handed out: the stages of one attempt's text, and where the other deltas stand in it."""

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

#: Stands for the reasoning among the indices of tool calls.
_REASONING = -1
#: For an estimate where the host counts nothing.
CHARS_A_TOKEN = 4


class Splice:
    """One attempt's deltas, spliced onto the known text and written to the reply's transcript.

    `take` deltas, then `close` once. Afterwards `finish` and `usage` are what the host said last.
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
        # `lead` is the prefill, if it is to be shown with the first new text
        self._stage = TextStage(
            plan.seam.seam(),
            lead=lead,
            stop=plan.stop,
            most=None if reply_chars is None else reply_chars - len(plan.seam.known),
        )
        # `_look` was called: the seam has let text through
        self._looked = False
        # takes the markers that are in the prompt out of the reply, if there are any
        self._markers = Markers(plan.marker) if plan.marker else None
        # characters that it has taken out
        self._taken = 0
        # the same for what is no text: a stage for each tool call, by its index, and one for the reasoning
        self._sides: dict[int, Markers] = {}
        # a delta came while the seam, which had decided, held text: its place depends on what becomes of that
        self._doubtful = False
        self._history = History()
        # what was told of the text that is held, if that was asked for
        self._held: Held | None = None
        self.finish: FinishDelta | None = None
        self.usage: Usage | None = None
        # `Limits.reply_chars`
        self._reply_chars = reply_chars
        #: a stop sequence of ours has fired: the host is to be cut off
        self.stopped = False
        #: the reply is longer than the caller allows: the host is to be cut off
        self.exceeded: LimitExceeded | None = None
        #: the model has produced a token of any kind; text; a tool call
        self.has_token = self.has_text = self.has_tool = False

    @property
    def verdict(self) -> Verdict:
        """What stood at the front of the model's text, as far as it is known."""
        return self._stage.verdict

    @property
    def has_shown(self) -> bool:
        """The model has produced text that could be handed out."""
        return self._stage.shown > 0

    def take(self, deltas: Sequence[Delta]) -> None:
        """Take one read's deltas. Raises `PrefillIgnored` where there is no echo and joining is not wanted."""
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
        """The attempt is over, cut or cleanly; what the stages still hold is the last text, or is dropped.

        Raises `PrefillIgnored` as `take` does, and `Truncated` when a token limit left nothing but a part of the
        repetition that was asked for: going on from there would meet it again.
        """
        before = len(self._transcript.items)
        self._end_sides()
        if self._markers is not None and not self.stopped:
            # A token limit is no cut here: a beginning that is still held is taken out, or it is the model's own text.
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
            # the seam is closed as for a cut: what it holds was a repetition or a fence in the making
            limited = self.finish is not None and self.finish.reason in TOKEN_LIMIT_REASONS
            is_asked = self._plan.mode == "emulated"
            own_text = limited and is_asked and stage.holds_own_text
            text = stage.close(cut or (limited and not own_text))
            if limited and not cut and is_asked and stage.verdict is Verdict.TRUNCATED:
                self._estimate(0)
                raise Truncated(
                    f"the token limit was met inside the repetition of the prefill, after "
                    f"{stage.fed} characters; nothing new came, and the same request would end there again",
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
        """What the host had counted, and why it had stopped, when the last of `text`, the new text, was handed out."""
        history = self._history
        count = history.count(len(text), self._transcript.next)
        counted = history.last(UsageDelta, count)
        return None if counted is None else counted.usage, history.last(FinishDelta, count)

    def parts(self, text: str, *, whole: bool) -> list[str | Delta]:
        """`text`, the new text that was handed out, with the host's other deltas in their places.

        With `whole` the reader got everything, so that what came after the text counts too, but nothing after the place
        where a stop sequence of ours has cut it.
        """
        history = self._history
        count = history.count(len(text), self._transcript.next)
        if whole:
            count = max(count, history.count_until(len(text) if self.stopped else sys.maxsize))
        return history.parts(text, self._transcript.next, count)

    def clean(self, message: Message, codec: Codec) -> Message:
        """`message`, made of `parts`, without a marker of ours in what the host's own tools were given and gave back.

        Thinking that is signed stays as it came, with a marker if the model has written one: the host refuses what does
        not fit the signature.
        """
        marker = self._plan.marker
        return codec.edit(message, lambda part: without_markers(part, marker)) if marker else message

    def _merge(self, start: int) -> None:
        """One chunk a network read, if that was asked for."""
        if self._coalesce and not self._transcript.wants_events:
            self._transcript.merge(start)

    def _place(self) -> int:
        """How many characters of new text come before a delta that comes now: those held are among them."""
        return self._stage.place + (0 if self._markers is None else self._markers.held)

    def _feed_markers(self, markers: Markers, piece: str) -> str:
        """`piece` without our markers."""
        held = markers.held
        if not held:
            return markers.feed(piece)
        # where the text that the stage passes on begins in the new text
        start = self._place() - held - markers.passed
        markers.taken_at = sys.maxsize
        piece = markers.feed(piece)
        if markers.taken_at < sys.maxsize:
            # What was held was no text of the reply. A delta that came meanwhile stands where the marker began.
            self._history.clip(start + markers.taken_at)
        return piece

    def _feed_slowly(self, piece: str) -> str:
        """Feed the seam by character, for the places of deltas that came while it held text, until those are known.

        What one character makes it drop stands before everything that it then shows or holds.
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
        """Say that nothing is held any more, if something was."""
        event = None if self._held is None else self._held.settle()
        if event is not None:
            self._transcript.items.append(event)

    def _look(self) -> None:
        """The seam has let text through, the first text of the model's that is no repetition."""
        self._looked = True
        self._history.drop_front(self._stage.dropped)
        if self._stage.verdict is Verdict.ABSENT and self._wants_echo():
            raise self._ignored()

    def _end_early(self) -> None:
        """Say why the host is to be cut off, if it is."""
        if self._stage.fired is not None:
            self.stopped = True
            self.finish = FinishDelta(StopReason.STOP_SEQUENCE, "stop", self._stage.fired)
        if self._stage.exceeded:
            assert self._reply_chars is not None
            self.exceeded = LimitExceeded("reply_chars", self._reply_chars, "characters")

    def _wants_echo(self) -> bool:
        # after a tool call nothing is asked for again: it was handed out, or will be made twice
        absent = self._plan.absent
        return absent == "raise" or (absent == "retry" and not self.has_tool)

    def _ignored(self) -> PrefillIgnored:
        self._estimate(0)
        return PrefillIgnored(self._plan.model_input.model, strict=self._plan.mode == "native")

    def _show_lead(self) -> None:
        if lead := self._stage.take_lead():
            self._transcript.show(lead)

    def _estimate(self, new: int) -> None:
        """Add to the usage what of the output was the repetition that the prompt asked for, by its share of the text.

        `new` is how many characters of new text there are.
        """
        if self._plan.mode != "emulated":
            return
        # without any new text, all of it was the repetition, or nothing was
        echo = (self._stage.dropped if self._stage.decided else self._stage.fed) + self._taken
        if self._markers is not None:
            echo += self._markers.taken
        tokens = math.ceil(echo / CHARS_A_TOKEN)
        if self.usage is not None and self.usage.output_tokens is not None and echo + new:
            text_tokens = max(0, self.usage.output_tokens - (self.usage.reasoning_tokens or 0))
            tokens = math.ceil(text_tokens * echo / (echo + new))
        self.usage = replace(self.usage or Usage(), echo_tokens=tokens)

    def _note(self, delta: Delta) -> None:
        """Take a delta that is not text."""
        match delta:
            case ReasoningDelta():
                self.has_token = self.has_token or bool(delta.text)
                # signed thinking goes back to the host as it was
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
        """Note the delta for the history, and write its event if it has one and events are wanted."""
        items = self._transcript.items
        place = self._place()
        item = -1
        if event is not None and self._transcript.wants_events:
            item = len(items)
            items.append(event)
        self._history.note(delta, place=place, item=item)
        self._doubtful = self._stage.decided and self._stage.seam.held > 0

    def _without_markers(self, side: int, text: str) -> str:
        """What of `text` can be passed on now: reasoning and the arguments of tool calls hold no marker of ours either."""
        if side not in self._sides:
            self._sides[side] = Markers(self._plan.marker)
        return self._sides[side].feed(text)

    def _show_side(self) -> None:
        """Something else than reasoning comes: what is held of that is shown before it, unless it is most of a marker.

        Arguments wait until more of them comes: where they are whole, nothing of them is held.
        """
        stage = self._sides.get(_REASONING)
        text = "" if stage is None else stage.show()
        if text and self._transcript.wants_events:
            self._transcript.items.append(ReasoningEvent(text))

    def _end_sides(self) -> None:
        """Nothing more comes of the reasoning or of a tool call: what is held of it is its end."""
        for side in (_REASONING, *self._sides.copy()):
            self._end_side(side)

    def _end_side(self, side: int) -> None:
        stage = self._sides.pop(side, None)
        text = "" if stage is None else stage.close()
        if text and side != _REASONING:
            self._keep(ToolDelta(side, arguments=text), ToolEvent(side, "", "", text))
        elif text and self._transcript.wants_events:
            self._transcript.items.append(ReasoningEvent(text))

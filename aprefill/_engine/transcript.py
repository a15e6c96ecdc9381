"""The items of a reply so far, and how many of them have been yielded."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .._errors import AprefillError

if TYPE_CHECKING:
    from .._events import Event

E = TypeVar("E", bound=AprefillError)


class Transcript:
    """The items of a reply in order, and how many of them have been yielded. Yielded items stay as the history.

    >>> reply = Transcript('["')
    >>> reply.show('["')
    >>> reply.items += ["Ala", "bama"]
    >>> reply.next = 2
    >>> reply.text_so_far, reply.all_text
    ('["Ala', '["Alabama')
    """

    __slots__ = (
        "_joined",
        "_last",
        "_older",
        "_shown",
        "_text",
        "accepted",
        "items",
        "lead_at",
        "next",
        "prefill_length",
        "wants_events",
        "wants_held",
    )

    def __init__(self, prefill: str) -> None:
        #: Length of the prefill, in characters.
        self.prefill_length = len(prefill)
        #: Whether a host has accepted a request, so that the reply has begun.
        self.accepted = False
        #: Whether `events()` was called. Then other events than text are kept too, and text is never joined.
        self.wants_events = False
        #: Whether `events(held=True)` was called.
        self.wants_held = False
        #: Text, and events if they are wanted.
        self.items: list[str | Event] = []
        #: Index of the first item that has not been yielded.
        self.next = 0
        #: Index of the shown prefill in `items`.
        self.lead_at = -1
        # How many characters of that item belong to the prefill.
        self._shown = 0
        # `_text` is the text of the first `_joined` items. `_older` is the text before the last change, so that
        # `_text == _older + _last`. New text is appended to `_older`, because that is faster: CPython appends in place
        # if nothing else refers to the string. A caller that reads the text in a loop usually still refers to `_text`,
        # but not to `_older`.
        self._text = self._older = prefill
        self._last = ""
        self._joined = 0

    def show(self, prefill: str) -> None:
        """Append the prefill, or its shown part, as the next item."""
        self.lead_at = len(self.items)
        self._shown = len(prefill)
        self.items.append(prefill)

    def merge(self, start: int) -> None:
        """Join the text items from index `start` on into one chunk."""
        if len(self.items) - start > 1:
            self.items[start:] = ["".join(item for item in self.items[start:] if isinstance(item, str))]

    @property
    def lead_length(self) -> int:
        """How many characters of the prefill are shown."""
        return self._shown

    @property
    def text_so_far(self) -> str:
        """The prefill and the text yielded after it. ``""`` until a host accepts a request or the prefill is shown."""
        return self._yielded() if self.accepted or self.lead_at >= 0 else ""

    @property
    def all_text(self) -> str:
        """The prefill and the text of all items, whether they have been yielded or not.

        A whole network read is decoded before its text is yielded. The next request must continue all of this text.
        """
        return self._yielded() + self._text_of(self.next, len(self.items))

    def _yielded(self) -> str:
        if self._joined < self.next:
            last = self._text_of(self._joined, self.next)
            self._joined = self.next
            if last:
                text, self._older = self._older, self._text
                self._text = ""
                text += self._last + last
                self._last, self._text = last, text
        return self._text

    def _text_of(self, start: int, end: int) -> str:
        """Return the text of these items, without the prefill."""
        items = self.items[start:end]
        if start <= self.lead_at < end:
            lead = items[self.lead_at - start]
            assert isinstance(lead, str)
            items[self.lead_at - start] = lead[self._shown :]
        return "".join([item for item in items if isinstance(item, str)])

    def forget_rest(self) -> None:
        """Remove the items that have not been yielded, because the reply was left."""
        del self.items[self.next :]

    def put_on(self, error: E) -> E:
        """Set `text_so_far` of an error, and return the error."""
        error.text_so_far = self.text_so_far
        return error

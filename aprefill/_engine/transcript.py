"""What a reply has so far, and what of it was handed out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .._errors import AprefillError

if TYPE_CHECKING:
    from .._events import Event

E = TypeVar("E", bound=AprefillError)


class Transcript:
    """What a reply has to say, in order, and how much of it was handed out. The buffer is the history.

    >>> reply = Transcript('["')
    >>> reply.show('["')
    >>> reply.items += ["Ala", "bama"]
    >>> reply.next = 2
    >>> reply.text_so_far
    '["Ala'
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
        #: characters of the prefill
        self.prefill_length = len(prefill)
        #: a host has accepted a request, so the reply has begun
        self.accepted = False
        #: `events()` was asked for: other events than text are kept as well, and text is never joined
        self.wants_events = False
        #: `events(held=True)` was asked for
        self.wants_held = False
        #: text, and events if they are wanted
        self.items: list[str | Event] = []
        #: the first that was not handed out
        self.next = 0
        #: where in `items` the shown prefill stands
        self.lead_at = -1
        # how many characters of that item are the prefill's
        self._shown = 0
        # The text of the first `_joined` items; the text as it was read before that, and what it lacks. CPython
        # appends to a string in place if nobody else refers to it. Who reads the text in a loop mostly still has the
        # last one and never the one before, so that one grows.
        self._text = self._older = prefill
        self._last = ""
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
    def lead_length(self) -> int:
        """How many characters of the prefill are shown."""
        return self._shown

    @property
    def text_so_far(self) -> str:
        """The prefill and what was handed out after it; ``""`` while neither was shown nor accepted anywhere."""
        return self.known if self.accepted or self.lead_at >= 0 else ""

    @property
    def known(self) -> str:
        """The prefill and what was handed out after it, whether a host has accepted it or not."""
        if self._joined < self.next:
            new = self.items[self._joined : self.next]
            if self._joined <= self.lead_at < self.next:
                lead = new[self.lead_at - self._joined]
                assert isinstance(lead, str)
                new[self.lead_at - self._joined] = lead[self._shown :]
            self._joined = self.next
            last = "".join([item for item in new if isinstance(item, str)])
            if last:
                text, self._older = self._older, self._text
                self._text = ""
                text += self._last + last
                self._last, self._text = last, text
        return self._text

    def forget_rest(self) -> None:
        """The reply was left: what was not handed out will not be."""
        del self.items[self.next :]

    def put_on(self, error: E) -> E:
        """Put the text so far on an error."""
        error.text_so_far = self.text_so_far
        return error

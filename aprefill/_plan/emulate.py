"""Asking in the prompt for a prefill that the host does not take. Pure.

The model is asked to *repeat* what it is to begin with, and the seam drops the repetition: so the ambiguous case (did
it go on, or start over?) becomes visible. A short text is asked for whole and stands at the very end of the prompt,
without a marker: `docs/obedience.md` has the figures. A longer one is quoted between two markers and only its end is
asked back. The seam splices by overlap; a model that starts over with all of it is seen as well.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from string import Formatter
from typing import TYPE_CHECKING, Any, NamedTuple

from .._errors import UsageError
from .._json import texts_of
from .._seam.finders import ink, safe_overlap
from .._seam.plan import SeamPlan
from .._seam.seam import INK_PLAIN
from .._words import Words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._codecs import Codec
    from .._deltas import Message

#: Up to here the whole text is asked for, in characters.
WHOLE_MAX = 200
#: How much of a longer text is asked for, in characters. The least is what the seam takes for an overlap.
END_MIN = 16
END_MAX = 120
#: Characters of chatter behind which the echo is still looked for. In 1,400 real replies none was longer than 73.
PREAMBLE = 120

# `docs/obedience.md` compares these with others. A model obeys best where the text is the end of the prompt.
BEGIN = """\
Write out the following text again, unchanged, and then go on from where it ends:

{text}"""

CONTINUE = """\
This is the first part of your reply, which is already written:
{open}{text}{close}

Write the rest of it. Your text must begin with: {open}{end}{close}"""

AGAIN = """\
Write out the complete reply, including its beginning, which is fixed. It begins like this:

{text}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulation:
    """The words with which a prefill is asked for in the prompt. Pass one as `emulate=` to use your own.

    Each is a `str.format` template; a brace of its own is doubled. ``{text}`` is the prefill. ``{open}`` and ``{close}``
    are the markers of a tag, made anew for each request, that occur in none of its messages, so that no text can close
    the quotation early. Where a template uses one of them, the markers are taken out of the reply.
    """

    #: up to 200 characters
    begin: str = BEGIN
    #: beyond; ``{end}`` is the piece at the end of ``{text}`` (16 to 120 characters) that is to be repeated
    continued: str = CONTINUE
    #: in place of either when the reply is asked for again (`absent="retry"`); without ``{end}``, all is to be repeated
    again: str = AGAIN

    def __post_init__(self) -> None:
        known = {"open", "close", "text", "end"}
        needed = {"begin": {"text"}, "continued": {"text", "end"}, "again": {"text"}}
        for field in fields(self):
            template = getattr(self, field.name)
            if not isinstance(template, str):
                raise UsageError(f"Emulation({field.name}=) is a {type(template).__name__}", "pass a str")
            try:
                parts = [part for part in Formatter().parse(template) if part[1] is not None]
                used = {name for _, name, _, _ in parts}
                template.format(**dict.fromkeys(known, ""))
                if any(spec or conversion for _, _, spec, conversion in parts):
                    raise ValueError("a text goes in as it is, without a format or a conversion")
            except (ValueError, KeyError, IndexError, AttributeError) as exc:
                raise UsageError(
                    f"Emulation({field.name}=) is no template: {exc}",
                    "its fields are {open}, {close}, {text} and {end}, any other brace is doubled",
                ) from None
            if missing := needed[field.name] - used:
                raise UsageError(
                    f"Emulation({field.name}=) has no {{{min(missing)}}}, so it asks for nothing",
                    "put that field into it",
                )


#: Our own words.
DEFAULT = Emulation()


class EmulatedPrompt(NamedTuple):
    """A request for the echo: the messages, and what the model is asked to repeat.

    `seam` is how the reply is taken apart. `marker` is the name that is to be taken out of it (`_seam.markers`); it is empty
    where the request has no markers.
    """

    messages: tuple[Message, ...]
    echo: str
    seam: SeamPlan
    marker: str = ""

    @property
    def room(self) -> int:
        """Tokens that the repetition may take: all of the text, also where its end is asked for, as models start over."""
        return room(self.seam.known) if self.echo else 0


def emulate(
    how: Emulation,
    messages: Sequence[Message],
    known: str,
    *,
    codec: Codec,
    token: Callable[[], str],
    again: bool = False,
) -> EmulatedPrompt:
    """`messages` with a request to begin with `known` in the last user turn. The input is left alone.

    With `again`, in the words for a reply that had no echo. Of a text of white space alone no echo could be seen, so none
    is asked for. Raises `UsageError` when the last turn is not the user's, or holds a tool's result: a request beside it
    would be read as a part of it.
    """
    text = known.rstrip()
    if not text:
        return EmulatedPrompt(tuple(messages), "", SeamPlan(known, {"stripped": known}, asked=True))
    stripped = known[len(text) :]
    is_short = len(known) <= WHOLE_MAX or len(text) <= END_MAX
    # Where known repeats itself at its end, new text that is equal to old one would be taken for a short overlap.
    repeats = safe_overlap(known if is_short else text, END_MIN) != END_MIN
    overlap = {} if repeats else {"overlap": END_MIN}
    asked_whole: dict[str, Any] = {"whitespace": True, "fence": True, "preamble": PREAMBLE}
    opening, closing = markers([known, how.begin, how.continued, how.again, *texts_of(messages)], token)
    template = how.again if again else how.begin if is_short else how.continued
    if is_short:
        request = template.format(open=opening, close=closing, text=known, end=known)
        echo, seam = known, SeamPlan(known, asked_whole | overlap, asked=True)
    elif not _uses(template, "end"):
        request = template.format(open=opening, close=closing, text=text)
        echo, seam = text, SeamPlan(known, asked_whole | overlap | {"stripped": stripped}, asked=True)
    else:
        end = end_of(text)
        request = template.format(open=opening, close=closing, text=text, end=end)
        # Without a preamble: looking for the whole text behind chatter would hold every reply that begins with its end.
        # The second seam looks for the end there.
        rules: dict[str, Any] = {"whitespace": True, "fence": True, "stripped": stripped} | overlap
        end_rules = asked_whole | overlap | {"stripped": stripped}
        echo, seam = end, SeamPlan(known, rules, end + stripped, end_rules, asked=True)
    name = closing[2:-1]
    told = (*messages[:-1], _told(messages[-1], request, codec))
    return EmulatedPrompt(told, echo, seam, marker=name if name in request else "")


def _uses(template: str, name: str) -> bool:
    return any(field == name for _, field, _, _ in Formatter().parse(template))


def markers(texts: Iterable[str], token: Callable[[], str]) -> tuple[str, str]:
    """An opening and a closing marker that occur in none of `texts`, nor across the end of one and the marker itself.

    Neither marker begins with what it ends with, so a text cannot complete one early.
    """
    texts = list(texts)
    while True:
        name = "text-" + token()
        if not any(name in text for text in texts):
            return f"<{name}>", f"</{name}>"


def end_of(text: str) -> str:
    """The piece at the end of `text` that is asked back: its last lines, at most 120 characters.

    So many that they have 16 characters other than white space, by which they are known behind chatter, and stand nowhere
    else in `text`, as far as 120 allow: of a text of equal lines the seam, which takes the longest overlap, would drop
    the new lines that are equal too.

    >>> end_of("One line.\\n" * 30 + "The last line of them all")
    'The last line of them all'
    """
    start = text.rfind("\n", 0, max(0, len(text) - END_MIN)) + 1
    while len(text) - start <= END_MAX:
        piece = text[start:]
        if not start or (len(ink(piece)) >= INK_PLAIN and text.find(piece) == start):
            return piece
        start = text.rfind("\n", 0, start - 1) + 1
    start = len(text) - END_MAX
    # from a word's beginning on, if that is near: half a word is copied badly
    blank = text.find(" ", start, len(text) - END_MIN)
    piece = text[blank + 1 :]
    return piece if blank >= 0 and len(ink(piece)) >= INK_PLAIN else text[start:]


def room(echo: str) -> int:
    """Tokens that repeating `echo` may take, on the safe side.

    Two letters or blanks a token, one digit or sign of ASCII, half a character of other scripts; and a few to spare.
    """
    if not echo:
        return 0
    plain = sum(c.isascii() and (c.isalpha() or c == " ") for c in echo)
    ascii_only = sum(c.isascii() for c in echo)
    return plain // 2 + (ascii_only - plain) + 2 * (len(echo) - ascii_only) + 4


def _told(turn: Message, request: str, codec: Codec) -> Message:
    content = turn["content"]
    if codec.is_tool_result(turn):
        raise UsageError(
            "the messages end with a tool's result, after which a prefill cannot be asked for in the prompt",
            Words("add a user message", "leave {prefill} out", "choose a model that takes a prefill"),
        )
    if turn["role"] != "user" or not isinstance(content, str | list):
        raise UsageError(
            f"the last message is the {turn['role']}'s, and to ask for a prefill in the prompt it must be the user's",
            Words("add a user message", "leave {prefill} out"),
        )
    if isinstance(content, str):
        return {**turn, "content": f"{content}\n\n{request}" if content else request}
    return {**turn, "content": [*content, codec.text_part(request)]}

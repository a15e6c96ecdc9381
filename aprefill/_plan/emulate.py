"""Emulation: the prompt asks for a prefill that the host does not take. Pure.

The prompt asks the model to *repeat* the text with which its reply must begin. The seam (the code that joins the
model's text to the prefill) then drops the repetition. This makes the ambiguous case visible: did the model continue,
or did it start again? A short text is asked for as a whole. It stands at the very end of the prompt, without markers,
because models obey this best: see `docs/obedience.md`. A longer text is quoted between two markers, and the model is
asked to repeat only its end. The seam then joins by overlap. It also recognizes a model that starts again with the
whole text.
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

#: Up to this length, in characters, the model is asked to repeat the whole text.
WHOLE_MAX = 200
#: Length of the end of a longer text that the model is asked to repeat, in characters. The minimum is also the shortest
#: overlap that the seam accepts.
TAIL_MIN = 16
TAIL_MAX = 120
#: How much chatter before the echo the seam accepts, in characters. In 1,400 real replies it was at most 73.
PREAMBLE = 120

# `docs/obedience.md` compares these wordings with others. A model obeys best if the text is the end of the prompt.
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
    """The wording with which the prompt asks for a prefill. To use your own, pass an instance as `emulate=`.

    Each field is a `str.format` template. Double a brace that you want in the text. ``{text}`` is the prefill.
    ``{open}`` and ``{close}`` are markers around a quotation. They are new for each request and occur in none of its
    messages, so that no text can end the quotation early. If a template uses one of them, both markers are removed from
    the reply.
    """

    #: The template for a prefill of up to 200 characters.
    begin: str = BEGIN
    #: The template for a longer prefill. ``{end}`` is the end of ``{text}`` (16 to 120 characters), which the model
    #: must repeat.
    continued: str = CONTINUE
    #: The template for the second request of `absent="retry"`, for any length. Without ``{end}``, the model must repeat
    #: the whole text.
    again: str = AGAIN

    def __post_init__(self) -> None:
        allowed = {"open", "close", "text", "end"}
        needed = {"begin": {"text"}, "continued": {"text", "end"}, "again": {"text"}}
        for field in fields(self):
            template = getattr(self, field.name)
            if not isinstance(template, str):
                raise UsageError(f"Emulation({field.name}=) is a {type(template).__name__}", "pass a str")
            try:
                parts = [part for part in Formatter().parse(template) if part[1] is not None]
                used = {name for _, name, _, _ in parts}
                template.format(**dict.fromkeys(allowed, ""))
                if any(spec or conversion for _, _, spec, conversion in parts):
                    raise ValueError("a field is replaced by its text, without a format or a conversion")
            except (ValueError, KeyError, IndexError, AttributeError) as exc:
                raise UsageError(
                    f"Emulation({field.name}=) is not a template: {exc}",
                    "use the fields {open}, {close}, {text} and {end}, and double any other brace",
                ) from None
            if missing := needed[field.name] - used:
                raise UsageError(
                    f"Emulation({field.name}=) has no {{{min(missing)}}}, so it asks for nothing",
                    "add that field",
                )


#: The default wording.
DEFAULT = Emulation()


class EmulatedPrompt(NamedTuple):
    """A prompt that asks for the echo: the messages, and the text that the model is asked to repeat.

    `seam` has the rules for the seam of the reply. `marker` is the name inside the two markers, which are removed from
    the reply (`_seam.markers`). It is empty if the prompt has no markers.
    """

    messages: tuple[Message, ...]
    echo: str
    seam: SeamPlan
    marker: str = ""

    @property
    def room(self) -> int:
        """Tokens that a repetition of the whole text may take. Models may repeat all of it if asked for the end."""
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
    """Add a request to begin with `known` to the last user turn of `messages`. The input is not changed.

    With `again`, use the wording for a reply that had no echo. If `known` is only white space, nothing is added,
    because no echo could be recognized. Raises `UsageError` if the last turn is not the user's, or if it contains the
    result of a tool: a request next to a result would be read as a part of the result.
    """
    text = known.rstrip()
    if not text:
        return EmulatedPrompt(tuple(messages), "", SeamPlan(known, {"stripped": known}, asked=True))
    stripped = known[len(text) :]
    is_short = len(known) <= WHOLE_MAX or len(text) <= TAIL_MAX
    # If the end of `known` repeats itself, new text that equals old text would be taken for a short overlap.
    repeats = safe_overlap(known if is_short else text, TAIL_MIN) != TAIL_MIN
    overlap = {} if repeats else {"overlap": TAIL_MIN}
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
        tail = tail_of(text)
        request = template.format(open=opening, close=closing, text=text, end=tail)
        # The reply passes two seams (`FallbackSeam`). The first looks for the whole text, and the second for its end.
        # Chatter is a sentence that a model writes before the repetition. Only the second seam allows chatter
        # (`preamble`). If the first one did, it would hold back every reply that begins with the end of the text.
        rules: dict[str, Any] = {"whitespace": True, "fence": True, "stripped": stripped} | overlap
        tail_rules = asked_whole | overlap | {"stripped": stripped}
        echo, seam = tail, SeamPlan(known, rules, tail + stripped, tail_rules, asked=True)
    name = closing[2:-1]
    told = (*messages[:-1], _told(messages[-1], request, codec))
    return EmulatedPrompt(told, echo, seam, marker=name if name in request else "")


def _uses(template: str, name: str) -> bool:
    return any(field == name for _, field, _, _ in Formatter().parse(template))


def markers(texts: Iterable[str], token: Callable[[], str]) -> tuple[str, str]:
    """Return an opening and a closing marker that occur in none of `texts`.

    If a text is next to a marker, the two together do not contain a further marker at the border. The reason is that
    neither marker begins with the characters that it ends with.
    """
    texts = list(texts)
    while True:
        name = "text-" + token()
        if not any(name in text for text in texts):
            return f"<{name}>", f"</{name}>"


def tail_of(text: str) -> str:
    """Return the end of `text` that the model is asked to repeat: its last lines, at most 120 characters.

    Lines are added from the end of `text` until two conditions are met, or until there are 120 characters. First, they
    have at least 16 characters other than white space, so that the seam can recognize them after chatter. Second, they
    occur only once in `text`. The seam takes the longest overlap, so in a text of equal lines it would otherwise drop
    new lines that are equal to old ones.

    >>> tail_of("One line.\\n" * 30 + "The last line of them all")
    'The last line of them all'
    """
    start = text.rfind("\n", 0, max(0, len(text) - TAIL_MIN)) + 1
    while len(text) - start <= TAIL_MAX:
        piece = text[start:]
        if not start or (len(ink(piece)) >= INK_PLAIN and text.find(piece) == start):
            return piece
        start = text.rfind("\n", 0, start - 1) + 1
    start = len(text) - TAIL_MAX
    # Begin at a word if one begins nearby: models copy half a word badly.
    blank = text.find(" ", start, len(text) - TAIL_MIN)
    piece = text[blank + 1 :]
    return piece if blank >= 0 and len(ink(piece)) >= INK_PLAIN else text[start:]


def room(echo: str) -> int:
    """Return an upper estimate of the tokens that repeating `echo` takes.

    It counts one token per two ASCII letters or spaces, one per other ASCII character, two per other character, and
    four more.
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
            "the messages end with a tool's result, and after that the prompt cannot ask for a prefill",
            Words("add a user message", "leave {prefill} out", "choose a model that takes a prefill"),
        )
    if turn["role"] != "user" or not isinstance(content, str | list):
        raise UsageError(
            f"the last message is the {turn['role']}'s, and it must be the user's to ask for a prefill in the prompt",
            Words("add a user message", "leave {prefill} out"),
        )
    if isinstance(content, str):
        return {**turn, "content": f"{content}\n\n{request}" if content else request}
    return {**turn, "content": [*content, codec.text_part(request)]}

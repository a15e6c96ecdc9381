"""What the server plays: one frozen value per reply, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from .._errors import UsageError
from ._asked import AskedFor, Finder, check_finder

Prefill: TypeAlias = Literal["eats", "echoes", "refuses", "ignores"]
Echo: TypeAlias = Literal["split", "joined", "whitespace", "fence", "chatter", "chatter+fence"]
Framing: TypeAlias = Literal["chunked", "close", "length"]
BadEvent: TypeAlias = Literal["json", "utf8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool call that the reply makes after its text. `arguments` is JSON text, or an object that is encoded as JSON.

    Models also write text that is not JSON. It can be played only if the host sends arguments as text. Ollama, Gemini
    and an Anthropic reply without a stream send them as an object.
    """

    name: str
    arguments: str | Mapping[str, Any] = "{}"
    #: the id of the call; "": one in the host's own style is made up
    id: str = ""

    @property
    def arguments_json(self) -> str:
        """The arguments as JSON text."""
        return self.arguments if isinstance(self.arguments, str) else msgspec.json.encode(self.arguments).decode()

    @property
    def arguments_object(self) -> Any:
        """The arguments as an object. Raises `UsageError` if they are not JSON."""
        try:
            return msgspec.json.decode(self.arguments_json)
        except msgspec.DecodeError as exc:
            raise UsageError(
                f"ToolCall: the arguments of {self.name!r} are not JSON ({exc}), and this host sends them as an object",
                "give a JSON object",
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One reply, good or bad. Everything has a default: `Script(text="Hello")` is a good reply in every protocol.

    A name that ends in ``_s`` is in seconds. A name that ends in ``_bytes`` counts bytes of the response body.
    `stall_after`, `keepalive_after` and `after` count characters of content as it is sent, including an echo (the
    repetition of the prefill). A number larger than the content means: after all of it. Raises `UsageError` for a
    value or a combination that makes no sense.
    """

    # --- what the model says --------------------------------------------------------------------------------
    #: the new text
    text: str = ""
    #: reasoning before the text, sent in the form of the protocol
    reasoning: str = ""
    #: tool calls after the text
    tools: Sequence[ToolCall] = ()
    #: what the host does with a prefill, which is a last message of the assistant: it leaves it out of the reply
    #: ("eats"), repeats it in the reply ("echoes"), answers with a 400 as Claude 4.6 does ("refuses"; a request
    #: without a prefill is answered as usual), or acts as if it were not there ("ignores")
    prefill: Prefill = "eats"
    #: how the prefill is repeated: in separate deltas ("split"), in one delta with the first new token ("joined"), with
    #: other white space ("whitespace"), in a code fence with the text ("fence"), after a line of chatter ("chatter"),
    #: or after chatter in a code fence ("chatter+fence")
    echo: Echo = "split"
    #: the text that is repeated; None: the request's prefill. Set it if the prompt asks for the echo in words that
    #: `asked="obeys"` does not find
    echo_text: str | None = None
    #: what the model does if the user's last message asks in words for a prefill: it does not obey ("ignores"), it
    #: obeys ("obeys"), or it obeys only the second request of `absent="retry"`, which is in other words
    #: ("obeys_second"). A reply that obeys begins with that text, repeated as `echo` says. If the message asks for
    #: nothing, `text` is the reply
    asked: AskedFor = "ignores"
    #: how the requested text is found in the message: a regular expression with one group, or a function that returns
    #: the text or None. If `find_asked` is None, the text is found by the words that aprefill uses by default
    find_asked: Finder | None = None
    #: the line of chatter
    chatter: str = "Sure, here it is:\n"
    #: the host's stop reason; None: the real one; "": null. A word of one protocol is translated for the others
    stop_reason: str | None = None
    #: the stop sequence that is reported; None: the one that ended the text
    stop_sequence: str | None = None
    #: the request's stop sequences end the text
    obey_stop: bool = True
    #: the request's `max_tokens` ends the text; each delta counts as one token
    obey_max_tokens: bool = False
    #: answer 400 to a prefill that ends in white space, as api.anthropic.com does
    refuse_trailing_whitespace: bool = False
    input_tokens: int = 10
    #: None: the number of deltas
    output_tokens: int | None = None
    cached_tokens: int = 0

    # --- how it travels -------------------------------------------------------------------------------------
    #: characters per delta, a list of sizes (the rest is one more delta), or a list of the deltas themselves
    cuts: int | Sequence[int] | Sequence[str] = 4
    #: bytes per network write, across events; None: one write per event
    wire_cuts: int | None = None
    #: the time between network writes
    pace_s: float = 0.0
    #: the delay before the status line; `math.inf`: the server never answers
    first_byte_s: float = 0.0
    #: the delay before the first token, after the headers
    first_token_s: float = 0.0
    #: how the client learns the body's end; None: "chunked" for a stream, "length" for anything else
    framing: Framing | None = None
    #: line ends of the stream: "\n", "\r\n" or "\r"; None: the host's own. Bedrock's frames have no lines
    newline: str | None = None
    #: additional response headers, or other values for existing ones
    headers: Mapping[str, str] = field(default_factory=dict)

    # --- how it fails: with another answer ------------------------------------------------------------------
    status: int = 200
    #: the Retry-After header: seconds, or an HTTP date
    retry_after: float | str | None = None
    #: (type, message) of an error status; None: the usual ones for the status
    error: tuple[str, str] | None = None
    #: answer with a 307 to this URL
    redirect: str | None = None
    #: sent as it is, instead of a reply
    body: bytes | None = None
    #: None: the content type of a good answer
    content_type: str | None = None
    #: a gzip body that inflates to this many bytes
    gzip_bomb: int | None = None
    #: the connection ends without an answer
    hang_up: bool = False

    # --- how it fails: within the stream --------------------------------------------------------------------
    #: FIN after this many bytes of the body, or at its end if that comes first. The end of the framing is not sent
    drop_after_bytes: int | None = None
    #: the same with a RST
    reset_after_bytes: int | None = None
    #: nothing is sent after this place, until the client leaves
    stall_after: int | None = None
    #: only pings or comments are sent after this place, every `keepalive_s`, until the client leaves
    keepalive_after: int | None = None
    keepalive_s: float = 0.05
    #: the place of `error_event`, `bad_event`, `insert` and `endless_line`; None: after all content
    after: int | None = None
    #: (type, message) of an error event, which ends the stream. On Bedrock the type is translated into AWS's word
    error_event: tuple[str, str] | None = None
    #: a line of this many bytes without a line end, which ends the stream; on Bedrock a frame that announces more bytes
    endless_line: int | None = None
    #: one event that is not JSON ("json"), or JSON that is not UTF-8 ("utf8"). The stream continues after it. On
    #: Bedrock the frame itself is valid
    bad_event: BadEvent | None = None
    #: bytes that are sent unchanged. The stream continues after them
    insert: bytes | None = None

    # --- how it fails: at its end ---------------------------------------------------------------------------
    #: the body ends cleanly after the content, without a stop reason or a terminal record
    no_end: bool = False
    #: the same, with half an event last
    half_event_at_end: bool = False
    #: only the terminal record is missing: `message_stop`, `[DONE]`, `response.completed`, or the record with the stop
    #: reason
    no_done: bool = False
    #: the end of the last event is missing: its blank line, Ollama's line end, Bedrock's last byte, or an array's
    #: bracket
    no_last_blank: bool = False
    #: more text after the terminal record
    text_after_end: str = ""
    #: how long the body stays open after everything was sent
    hold_open_s: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.cuts, Sequence) and any(isinstance(cut, str) for cut in self.cuts):
            joined = "".join(str(cut) for cut in self.cuts)
            if self.text and self.text != joined:
                raise UsageError(
                    f"Script: cuts= ({len(joined)} characters) and text= ({len(self.text)} characters) differ",
                    "give one of the two, or the same text in both",
                )
            object.__setattr__(self, "text", joined)
        _check_words(self)
        _check_numbers(self)
        _check_together(self)


_WORDS: dict[str, tuple[object, ...]] = {
    "prefill": get_args(Prefill),
    "echo": get_args(Echo),
    "asked": get_args(AskedFor),
    "framing": (None, *get_args(Framing)),
    "bad_event": (None, *get_args(BadEvent)),
    "newline": (None, "\n", "\r\n", "\r"),
}

#: Options that exclude each other: at most one of each row can be given.
_ONE_OF = (
    ("hang_up", "drop_after_bytes", "reset_after_bytes"),
    ("stall_after", "keepalive_after", "error_event", "endless_line"),
    ("redirect", "body", "gzip_bomb", "hang_up"),
    ("no_end", "half_event_at_end", "no_done", "no_last_blank", "text_after_end"),
    ("bad_event", "insert"),
)


def _check_words(script: Script) -> None:
    for name, known in _WORDS.items():
        value = getattr(script, name)
        if value not in known:
            raise UsageError(f"Script: {name}={value!r} is unknown", f"use one of {', '.join(map(repr, known))}")


def _check_numbers(script: Script) -> None:
    # the name of a field says whether it is a time; its annotation, a string here, says whether it is a count
    for f in fields(script):
        value = getattr(script, f.name)
        if f.name.endswith("_s"):
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
                raise UsageError(f"Script: {f.name}={value!r} is not a time", "give seconds, 0 or more")
        elif "int" in str(f.type).split(" | ") and f.name != "cuts":
            least = 1 if f.name == "wire_cuts" else 0
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise UsageError(f"Script: {f.name}={value!r} is not a count", f"give a whole number, {least} or more")
    if not 200 <= script.status <= 599:
        raise UsageError(f"Script: status={script.status} is not a final HTTP status", "give 200 to 599")
    cuts: Sequence[object] = (script.cuts,) if isinstance(script.cuts, int) else script.cuts
    if isinstance(cuts, str) or not (
        all(isinstance(cut, str) for cut in cuts) or all(isinstance(cut, int) and cut >= 0 for cut in cuts)
    ):
        raise UsageError(
            "Script: cuts= has a value of the wrong kind",
            "give a number of characters, a sequence of numbers, or a sequence of strings",
        )
    if script.cuts == 0:
        raise UsageError("Script: cuts=0 would never end", "give 1 or more characters per delta")
    if isinstance(script.retry_after, int | float) and not 0 <= script.retry_after < math.inf:
        raise UsageError(f"Script: retry_after={script.retry_after!r} is not a time", "give seconds, or an HTTP date")


def _is_given(value: object) -> bool:
    # compared by identity, because 0 bytes and an empty body count as given
    return value is not None and value is not False and not (isinstance(value, str) and not value)


def _check_together(script: Script) -> None:
    for row in _ONE_OF:
        given = [name for name in row if _is_given(getattr(script, name))]
        if len(given) > 1:
            raise UsageError(f"Script: {' and '.join(given)} cannot be played together", "give one of them")
    obeys = script.asked != "ignores"
    if script.prefill in {"eats", "ignores"} and (
        (script.echo != "split" and not obeys) or script.echo_text is not None
    ):
        raise UsageError(f"Script: with prefill={script.prefill!r} there is no echo", "pass prefill='echoes'")
    if obeys and script.echo_text is not None:
        raise UsageError(
            f"Script: with asked={script.asked!r} the repeated text is found in the prompt", "leave echo_text= out"
        )
    if script.find_asked is not None and not obeys:
        raise UsageError("Script: find_asked= works only if the model obeys the prompt", "pass asked='obeys'")
    if wrong := check_finder(script.find_asked):
        raise UsageError(f"Script: find_asked= {wrong}")
    if script.find_asked is not None and script.asked == "obeys_second":
        raise UsageError(
            "Script: asked='obeys_second' recognises the second request by aprefill's own words",
            "for other words pass asked='obeys' and a find_asked= that finds the text in the second request only",
        )
    for name in ("error", "error_event"):
        pair = getattr(script, name)
        if pair is not None and (isinstance(pair, str) or len(pair) != 2):
            raise UsageError(f"Script: {name}={pair!r} is not a pair", "give (type, message)")
    if script.retry_after is not None and script.status < 400:
        raise UsageError("Script: retry_after= needs an error status", "give an error status=, such as 429")
    if script.error is not None and script.status < 400:
        raise UsageError(
            "Script: error= needs an error status", "give an error status=, or error_event= for an error in a stream"
        )
    if script.keepalive_after is not None and script.framing == "length":
        raise UsageError("Script: a stream that is kept alive has no known length", "leave framing='length' out")
    if script.keepalive_after is not None and not script.keepalive_s:
        raise UsageError("Script: keepalive_s=0 would flood the client", "give more than 0 seconds")

"""What the server plays: one frozen value a reply, checked when it is made."""

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
    """A tool call that the reply makes after its text. `arguments` is JSON text, or an object to be made into it.

    Text that is not JSON, as models do write it, can be played where a host sends text: not by Ollama and Gemini, and not in
    a reply of Anthropic's without a stream.
    """

    name: str
    arguments: str | Mapping[str, Any] = "{}"
    #: empty: made up in the host's own style
    id: str = ""

    @property
    def arguments_json(self) -> str:
        """The arguments as JSON text."""
        return self.arguments if isinstance(self.arguments, str) else msgspec.json.encode(self.arguments).decode()

    @property
    def arguments_object(self) -> Any:
        """The arguments as hosts have them that send no text. Raises `UsageError` where they are not JSON."""
        try:
            return msgspec.json.decode(self.arguments_json)
        except msgspec.DecodeError as exc:
            raise UsageError(
                f"ToolCall: the arguments of {self.name!r} are not JSON ({exc}), and this host sends them as an object",
                "give a JSON object",
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One reply, good or bad. Everything has a default: `Script(text="Hello")` is a good reply on every wire.

    A name that ends in ``_s`` is in seconds, in ``_bytes`` counts bytes of the response body. `stall_after`,
    `keepalive_after` and `after` count characters of content as sent, an echo included; a number beyond the
    content means after all of it. Raises `UsageError` for what does not make sense.
    """

    # --- what the model says --------------------------------------------------------------------------------
    #: the new text
    text: str = ""
    #: sent ahead of the text, as the wire's own kind of reasoning
    reasoning: str = ""
    #: sent after the text
    tools: Sequence[ToolCall] = ()
    #: what becomes of the request's last message when it is the assistant's: left out of the reply ("eats"),
    #: repeated in it ("echoes"), answered with a 400 as Claude 4.6 does ("refuses"; a request without a prefill
    #: is answered as usual), or treated as if it were not there ("ignores")
    prefill: Prefill = "eats"
    #: how it is repeated: in deltas of its own ("split"), in one delta with the first new token ("joined"), over
    #: other white space ("whitespace"), in a code fence with the text ("fence"), behind a line of chatter
    echo: Echo = "split"
    #: what is repeated; None: the request's prefill. Give it where the request asks for the echo in its prompt, in words
    #: that `asked="obeys"` does not find
    echo_text: str | None = None
    #: what becomes of a prefill that the user's last message asks for in words: not obeyed ("ignores"), obeyed ("obeys"),
    #: or obeyed only in the second request of `absent="retry"`, which has words of its own ("obeys_second"). A reply that
    #: obeys begins with that text, repeated as `echo` says. A message that asks for nothing is answered with `text`
    asked: AskedFor = "ignores"
    #: how the text is found in the message: a regular expression with one group, or a function that returns the text or
    #: None. None: by the words that aprefill asks with when it is not given others
    find_asked: Finder | None = None
    #: the line of chatter
    chatter: str = "Sure, here it is:\n"
    #: the host's word for why it stopped; None: what happened, "": null. A word of one wire is translated on the others
    stop_reason: str | None = None
    #: the sequence reported; None: the one that was met
    stop_sequence: str | None = None
    #: the request's stop sequences end the text
    obey_stop: bool = True
    #: the request's `max_tokens` ends the text, a delta counting as a token
    obey_max_tokens: bool = False
    #: answer 400 to a prefill that ends in white space, as api.anthropic.com does
    refuse_trailing_whitespace: bool = False
    input_tokens: int = 10
    #: None: the number of deltas
    output_tokens: int | None = None
    cached_tokens: int = 0

    # --- how it travels -------------------------------------------------------------------------------------
    #: characters a delta; or the size of each delta, what is left over being one more; or the deltas themselves
    cuts: int | Sequence[int] | Sequence[str] = 4
    #: bytes a network write, across events; None: one write an event
    wire_cuts: int | None = None
    #: between network writes
    pace_s: float = 0.0
    #: ahead of the status line; `math.inf`: the server never answers
    first_byte_s: float = 0.0
    #: ahead of the first token, when the head is already sent
    first_token_s: float = 0.0
    #: how the body's end is told; None: "chunked" for a stream, "length" for anything else
    framing: Framing | None = None
    #: line ends of the stream: "\n", "\r\n" or "\r"; None: the host's own. Bedrock's frames have none
    newline: str | None = None
    #: more response headers, or other values for those there are
    headers: Mapping[str, str] = field(default_factory=dict)

    # --- how it fails: answered with something else ---------------------------------------------------------
    status: int = 200
    #: seconds, or an HTTP date
    retry_after: float | str | None = None
    #: (type, message) of an error status; None: what is usual for the status
    error: tuple[str, str] | None = None
    #: a 307 to this address
    redirect: str | None = None
    #: sent as it is, instead of a reply
    body: bytes | None = None
    #: None: what the request would have got
    content_type: str | None = None
    #: a gzip body that inflates to this many bytes
    gzip_bomb: int | None = None
    #: the connection ends without an answer
    hang_up: bool = False

    # --- how it fails: on the way ---------------------------------------------------------------------------
    #: FIN after this much of the body, or at its end if that comes first; the end of the framing is not sent
    drop_after_bytes: int | None = None
    #: the same with a RST
    reset_after_bytes: int | None = None
    #: silence from here on, until the client goes
    stall_after: int | None = None
    #: pings or comments from here on, every `keepalive_s`, until the client goes
    keepalive_after: int | None = None
    keepalive_s: float = 0.05
    #: where `error_event`, `bad_event`, `insert` and `endless_line` come; None: after all content
    after: int | None = None
    #: (type, message) of an error inside the stream, which ends there. On Bedrock the type becomes AWS's word for it
    error_event: tuple[str, str] | None = None
    #: a line of this many bytes without an end, and the stream ends there; on Bedrock a frame that announces more
    endless_line: int | None = None
    #: one event that is not JSON, or JSON that is not UTF-8; the stream goes on after it. Bedrock's frame is sound
    bad_event: BadEvent | None = None
    #: raw bytes of yours; the stream goes on after them
    insert: bytes | None = None

    # --- how it fails: at its end ---------------------------------------------------------------------------
    #: the body ends cleanly after the content: no stop reason, no terminal record
    no_end: bool = False
    #: the same, and half an event comes last
    half_event_at_end: bool = False
    #: all but the terminal record: `message_stop`, `[DONE]`, `response.completed`, the record that says why it stopped
    no_done: bool = False
    #: what closes the last event is missing: the blank line, Ollama's line end, Bedrock's last byte, an array's bracket
    no_last_blank: bool = False
    #: more text after the terminal record
    text_after_end: str = ""
    #: the body stays open this long after everything is sent
    hold_open_s: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.cuts, Sequence) and any(isinstance(cut, str) for cut in self.cuts):
            joined = "".join(str(cut) for cut in self.cuts)
            if self.text and self.text != joined:
                raise UsageError(
                    f"Script: cuts= makes {len(joined)} characters that are not text= ({len(self.text)} characters)",
                    "give one of the two, or the same text",
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

#: What cannot be had at the same time: of each row at most one.
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
            raise UsageError(f"Script: {name}={value!r} is unknown", f"known are {', '.join(map(repr, known))}")


def _check_numbers(script: Script) -> None:
    # annotations are strings here: a field is a time by its name, and a count if it may be an int
    for f in fields(script):
        value = getattr(script, f.name)
        if f.name.endswith("_s"):
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
                raise UsageError(f"Script: {f.name}={value!r} is no time", "give seconds, 0 or more")
        elif "int" in str(f.type).split(" | ") and f.name != "cuts":
            least = 1 if f.name == "wire_cuts" else 0
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise UsageError(f"Script: {f.name}={value!r} is no count", f"give a whole number, {least} or more")
    if not 200 <= script.status <= 599:
        raise UsageError(f"Script: status={script.status} is no final HTTP status", "give 200 to 599")
    cuts: Sequence[object] = (script.cuts,) if isinstance(script.cuts, int) else script.cuts
    if isinstance(cuts, str) or not (
        all(isinstance(cut, str) for cut in cuts) or all(isinstance(cut, int) and cut >= 0 for cut in cuts)
    ):
        raise UsageError(
            "Script: cuts= is none of what it takes",
            "give a number of characters, a sequence of numbers, or a sequence of strings",
        )
    if script.cuts == 0:
        raise UsageError("Script: cuts=0 would never end", "give 1 or more characters a delta")
    if isinstance(script.retry_after, int | float) and not 0 <= script.retry_after < math.inf:
        raise UsageError(f"Script: retry_after={script.retry_after!r} is no time", "give seconds, or an HTTP date")


def _is_given(value: object) -> bool:
    # by identity: 0 bytes and an empty body are given
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
        raise UsageError(f"Script: there is no echo with prefill={script.prefill!r}", "pass prefill='echoes'")
    if obeys and script.echo_text is not None:
        raise UsageError(f"Script: asked={script.asked!r} finds what is repeated in the prompt", "leave echo_text= out")
    if script.find_asked is not None and not obeys:
        raise UsageError("Script: find_asked= is for a host that obeys the prompt", "pass asked='obeys'")
    if wrong := check_finder(script.find_asked):
        raise UsageError(f"Script: find_asked= {wrong}")
    if script.find_asked is not None and script.asked == "obeys_second":
        raise UsageError(
            "Script: asked='obeys_second' knows the second request by aprefill's own words",
            "with words of your own pass "
            "asked='obeys' and a find_asked= that finds the text in your second request only",
        )
    for name in ("error", "error_event"):
        pair = getattr(script, name)
        if pair is not None and (isinstance(pair, str) or len(pair) != 2):
            raise UsageError(f"Script: {name}={pair!r} is no pair", "give (type, message)")
    if script.retry_after is not None and script.status < 400:
        raise UsageError("Script: retry_after= is for an error", "give an error status=, such as 429")
    if script.error is not None and script.status < 400:
        raise UsageError("Script: error= is the body of an error status=", "inside a good stream it is error_event=")
    if script.keepalive_after is not None and script.framing == "length":
        raise UsageError("Script: a body that is kept alive has no length", "leave framing='length' out")
    if script.keepalive_after is not None and not script.keepalive_s:
        raise UsageError("Script: keepalive_s=0 would flood the client", "give more than 0 seconds")

"""What the model says to one request: the echo, the text, where both are cut, and why it stopped.

The *echo* is the repetition of the prefill, that is, of the text that the caller wrote as the beginning of the reply.
Pure: takes a script and a request, and returns the deltas. All wires are written from the same output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ._asked import find_with, insists

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._exchange import Received
    from ._script import Script, ToolCall

#: The places of the stop sequences and of the token limit in a request. They differ by host, but every place is read
#: for every host.
_STOPS = (
    ("stop_sequences",),
    ("stop",),
    ("options", "stop"),
    ("generationConfig", "stopSequences"),
    ("generation_config", "stop_sequences"),
)
_LIMITS = (
    ("max_tokens",),
    ("max_completion_tokens",),
    ("max_output_tokens",),
    ("options", "num_predict"),
    ("generationConfig", "maxOutputTokens"),
    ("generation_config", "max_output_tokens"),
)

#: Other hosts' stop reasons -> Anthropic's.
_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "max_output_tokens": "max_tokens",
    "STOP": "end_turn",
    "MAX_TOKENS": "max_tokens",
    "SAFETY": "refusal",
    "COMPLETE": "end_turn",
    "STOP_SEQUENCE": "stop_sequence",
    "TOOL_CALL": "tool_use",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """The deltas of one reply. The stop reason is one of Anthropic's words, or an unknown word from the script."""

    reasoning: tuple[str, ...]
    #: the content, with the echo
    content: tuple[str, ...]
    tools: tuple[ToolCall, ...]
    stop_reason: str
    stop_sequence: str | None
    input_tokens: int
    cached_tokens: int
    output_tokens: int


def speak(script: Script, received: Received) -> ModelOutput:
    """Return what the model of `script` says to `received`."""
    echo, text, given = _shape(script, received)
    pieces = _cut(script, echo, text)
    stop_reason, stop_sequence = "tool_use" if script.tools else "end_turn", None

    if script.obey_stop and (met := _first_stop("".join(pieces)[given:], _stops(received))):
        pieces = _until(pieces, given + met[0])
        stop_reason, stop_sequence = "stop_sequence", met[1]
    # a delta does not count as a new token if all of it is the echo of a native prefill
    new = [i for i, end in enumerate(accumulate(map(len, pieces))) if end > given]
    most = _max_tokens(received) if script.obey_max_tokens else None
    if most is not None and len(new) > most:
        pieces = pieces[: new[most]]
        new = new[:most]
        stop_reason, stop_sequence = "max_tokens", None
    cut_short = stop_reason in {"stop_sequence", "max_tokens"}

    if script.stop_sequence is not None:
        stop_reason, stop_sequence = "stop_sequence", script.stop_sequence
    if script.stop_reason is not None:
        stop_reason = _REASONS.get(script.stop_reason, script.stop_reason)
    reasoning = tuple(split(script.reasoning, script.cuts if isinstance(script.cuts, int) else 4))
    return ModelOutput(
        reasoning=reasoning,
        content=tuple(pieces),
        tools=() if cut_short else tuple(script.tools),
        stop_reason=stop_reason,
        stop_sequence=stop_sequence,
        input_tokens=script.input_tokens,
        cached_tokens=script.cached_tokens,
        output_tokens=len(reasoning) + len(new) if script.output_tokens is None else script.output_tokens,
    )


def split(text: str, size: int) -> Iterator[str]:
    """Return `text` in parts of `size` characters.

    >>> list(split("Alabama", 3))
    ['Ala', 'bam', 'a']
    """
    return (text[at : at + size] for at in range(0, len(text), size))


def split_at(pieces: Sequence[str], offsets: set[int]) -> Iterator[str]:
    """Yield `pieces`, cut at each of `offsets` as well.

    >>> list(split_at(["Ala", "bama"], {1, 3, 9}))
    ['A', 'la', 'bama']
    """
    at = 0
    for piece in pieces:
        inner = sorted(offset - at for offset in offsets if at < offset < at + len(piece))
        for start, end in zip([0, *inner], [*inner, len(piece)], strict=True):
            yield piece[start:end]
        at += len(piece)


def _shape(script: Script, received: Received) -> tuple[str, str, int]:
    """Return the echo as it is sent, the text after it, and how many characters of the echo are not new tokens."""
    known, is_asked = _echoed(script, received)
    if not known:
        return "", script.text, 0
    lead = tail = ""
    if script.echo == "whitespace":
        known = "\n" + re.sub(r"\s+", lambda run: run[0] + "\n  ", known)
    if "chatter" in script.echo:
        lead = script.chatter
    if "fence" in script.echo:
        lead, tail = lead + "```json\n", "\n```"
    given = 0 if lead or is_asked else len(known)
    return lead + known, script.text + tail, given


def _echoed(script: Script, received: Received) -> tuple[str, bool]:
    """Return the text that the reply repeats ("" for none), and whether the prompt asked for it."""
    if script.echo_text is not None:
        return (script.echo_text if script.prefill in {"echoes", "refuses"} else ""), True
    if received.ends_with_assistant:
        return (received.prefill if script.prefill == "echoes" else ""), False
    prompt = received.last_user_text
    if script.asked == "ignores" or (script.asked == "obeys_second" and not insists(prompt)):
        return "", True
    return find_with(script.find_asked, prompt), True


def _cut(script: Script, echo: str, text: str) -> list[str]:
    cuts = script.cuts
    if isinstance(cuts, int):
        if script.echo == "joined" and echo:
            return [echo + text[:cuts], *split(text[cuts:], cuts)]
        return [*split(echo, cuts), *split(text, cuts)]
    strings = [cut for cut in cuts if isinstance(cut, str)]
    if strings:
        if tail := text.removeprefix(script.text):
            strings.append(tail)
        if script.echo == "joined":
            return [echo + strings[0], *strings[1:]]
        return [echo, *strings] if echo else strings
    body, at, pieces = echo + text, 0, []
    for size in (cut for cut in cuts if isinstance(cut, int)):
        if at >= len(body):
            break
        pieces.append(body[at : at + size])
        at += size
    return [*pieces, body[at:]] if at < len(body) else pieces


def _asked(received: Received, places: Sequence[tuple[str, ...]]) -> Any:
    for outer, *inner in places:
        value = received.option(outer)
        if inner:
            value = value.get(inner[0]) if isinstance(value, dict) else None
        if value:
            return value
    return None


def _stops(received: Received) -> list[str]:
    asked = _asked(received, _STOPS)
    asked = [asked] if isinstance(asked, str) else asked
    return [stop for stop in asked if isinstance(stop, str) and stop] if isinstance(asked, list) else []


def _max_tokens(received: Received) -> int | None:
    most = _asked(received, _LIMITS)
    # -1 means no limit at Ollama
    return most if type(most) is int and most > 0 else None


def _first_stop(text: str, stops: list[str]) -> tuple[int, str] | None:
    """Return where the text ends, and the stop sequence that ends it: the one that is complete first."""
    met = [(at + len(stop), at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not met:
        return None
    _, at, stop = min(met)
    return at, stop


def _until(pieces: list[str], end: int) -> list[str]:
    kept: list[str] = []
    for piece in pieces:
        if end <= 0:
            break
        kept.append(piece[:end])
        end -= len(piece)
    return kept

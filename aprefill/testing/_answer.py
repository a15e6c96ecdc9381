"""Builds the answer to one request as a sequence of steps: bytes to write, and times to wait.

Pure: `answer()` decides what is sent, and the server only sends it. A body is a chain of generators. Each has one task:
to make the events, to cut the body after n bytes, or to set the size of the writes.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from ._endpoint import WireName, endpoint_of, wire_at
from ._output import ModelOutput, speak, split_at
from ._wires.anthropic import AnthropicWire
from ._wires.base import TRAILING_WHITESPACE, Wire
from ._wires.bedrock import BedrockWire
from ._wires.gemini import GeminiArrayWire, GeminiWire
from ._wires.ollama import OllamaWire
from ._wires.openai import OpenAIWire
from ._wires.responses import ResponsesWire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._exchange import Received
    from ._script import Framing, Script

#: Very large bodies are made of blocks of this many bytes, so that no such body is ever in memory as a whole.
_BLOCK_BYTES = 1 << 16

_WIRES: dict[WireName, type[Wire]] = {
    "anthropic": AnthropicWire,
    "openai": OpenAIWire,
    "responses": ResponsesWire,
    "ollama": OllamaWire,
    "gemini": GeminiWire,
    "gemini-array": GeminiArrayWire,
    "bedrock": BedrockWire,
}


@dataclass(frozen=True, slots=True)
class Wait:
    """Send nothing for this long. `math.inf` means: until the client leaves."""

    seconds: float
    #: set `Exchange.waiting` when the wait begins
    announced: bool = True


Step: TypeAlias = bytes | Wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One response. Each call of `body` returns a new iterator over its steps."""

    status: int
    headers: dict[str, str]
    framing: Framing
    body: Callable[[], Iterator[Step]] = field(repr=False)

    def length(self) -> int:
        """Return the length of the body in bytes."""
        return sum(len(step) for step in self.body() if isinstance(step, bytes))


def answer(script: Script, received: Received) -> Answer:
    """Return the answer of `script` to `received`."""
    output = speak(script, received)
    options, endpoint = received.option("stream_options"), endpoint_of(received.path)
    new_wire = partial(
        _WIRES[wire_at(received.path)],
        output,
        model=received.model or "scripted",
        index=received.index,
        usage_asked=isinstance(options, dict) and options.get("include_usage") is True,
    )
    wire = new_wire()
    status, error, headers = _status(script, received, refusal=wire.refusal)
    streamed = received.streamed and status < 300 and endpoint is not None
    headers |= wire.packing.headers if streamed else {"content-type": "application/json"}
    if wire.request_id_header:
        headers[wire.request_id_header] = wire.request_id
    if status >= 400:
        headers |= wire.error_headers(status, error)
    if script.gzip_bomb is not None:
        headers["content-encoding"] = "gzip"
    if script.content_type is not None:
        headers["content-type"] = script.content_type
    headers |= {name.lower(): value for name, value in script.headers.items()}

    def body() -> Iterator[Step]:
        # A wire is an object that writes one reply in one protocol (`_wires/`). It remembers which block of the reply
        # is open, so each call makes a new wire.
        if script.body is not None:
            return iter([script.body])
        if script.gzip_bomb is not None:
            return _gzip_bomb(script.gzip_bomb)
        if status >= 300:
            return iter([wire.error_body(status, error)] if status >= 400 else [])
        if not streamed:
            return iter([new_wire().whole()])
        events = _events(script, output, new_wire())
        newline = script.newline or wire.newline
        if newline == "\n" or not wire.packing.has_lines:
            return events
        return _with_newline(events, newline.encode(), raw=script.insert)

    framing = script.framing or ("chunked" if streamed or script.gzip_bomb is not None else "length")
    return Answer(status=status, headers=headers, framing=framing, body=body)


def check(script: Script, received: Received) -> None:
    """Raise `UsageError` if this host cannot send the tool calls of the script. Also raise what `find_asked` raises."""
    if callable(script.find_asked):
        speak(script, received)
    wire = _WIRES[wire_at(received.path)]
    if not script.tools or not wire.sends_objects(streamed=received.streamed):
        return
    says_more = script.body is None and script.gzip_bomb is None and not script.hang_up
    if says_more and _status(script, received, refusal=wire.refusal)[0] < 300:
        for call in speak(script, received).tools:
            call.arguments_object  # noqa: B018 - raises


def _status(script: Script, received: Received, *, refusal: str) -> tuple[int, tuple[str, str] | None, dict[str, str]]:
    if script.redirect is not None:
        return 307, None, {"location": script.redirect}
    if script.retry_after is not None:
        after = script.retry_after
        return script.status, script.error, {"retry-after": after if isinstance(after, str) else f"{after:g}"}
    if script.status == 200 and received.ends_with_assistant:
        if script.prefill == "refuses":
            return 400, ("invalid_request_error", refusal), {}
        if script.refuse_trailing_whitespace and received.prefill != received.prefill.rstrip():
            return 400, ("invalid_request_error", TRAILING_WHITESPACE), {}
    return script.status, script.error, {}


# --- the events of a stream -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """Steps that are inserted into the content."""

    #: the place in the content, in characters
    at: int
    steps: Iterator[Step]
    #: nothing is sent after these steps
    ends: bool


def _events(script: Script, output: ModelOutput, wire: Wire) -> Iterator[Step]:
    yield from wire.start()
    if script.first_token_s:
        yield Wait(script.first_token_s)
    for piece in output.reasoning:
        yield from wire.reasoning(piece)
    # sorted() is stable: at the same place, steps after which the stream continues come before those that end it
    turns = sorted(_turns(script, wire, length=sum(map(len, output.content))), key=lambda turn: turn.at)
    sent = 0
    for piece in split_at(output.content, {turn.at for turn in turns}):
        while turns and turns[0].at <= sent:
            turn = turns.pop(0)
            yield from turn.steps
            if turn.ends:
                return
        yield from wire.text(piece)
        sent += len(piece)
    for turn in turns:
        yield from turn.steps
        if turn.ends:
            return
    yield from wire.tools()
    yield from _end(script, wire)


def _turns(script: Script, wire: Wire, *, length: int) -> Iterator[_Turn]:
    after = length if script.after is None else script.after
    if script.insert is not None:
        yield _Turn(at=after, steps=iter([script.insert]), ends=False)
    if script.bad_event is not None:
        yield _Turn(at=after, steps=_bad_event(wire, utf8=script.bad_event == "utf8"), ends=False)
    if script.error_event is not None:
        yield _Turn(at=after, steps=_error_event(wire, *script.error_event), ends=True)
    if script.endless_line is not None:
        yield _Turn(at=after, steps=_endless_line(wire, script.endless_line), ends=True)
    if script.stall_after is not None:
        yield _Turn(at=script.stall_after, steps=iter([Wait(math.inf)]), ends=True)
    if script.keepalive_after is not None:
        yield _Turn(at=script.keepalive_after, steps=_keepalive(wire, script.keepalive_s), ends=True)


def _end(script: Script, wire: Wire) -> Iterator[Step]:
    if script.no_end:
        return
    closing = [*wire.finish(), wire.last()]
    if script.half_event_at_end:
        yield closing[0][: len(closing[0]) // 2]
        return
    if script.no_done:
        closing.pop()
    if script.no_last_blank:
        closing[-1] = wire.packing.unclosed(closing[-1])
    yield from closing
    if script.text_after_end:
        yield from wire.text(script.text_after_end)
    if script.hold_open_s:
        yield Wait(script.hold_open_s)


def _error_event(wire: Wire, kind: str, message: str) -> Iterator[Step]:
    # a generator, so that the event is made in its turn: events are numbered, and array elements need commas
    yield wire.error_event(kind, message)


def _bad_event(wire: Wire, *, utf8: bool) -> Iterator[Step]:
    # The event is damaged at the first place of this character. So the character must not be elsewhere in the event,
    # for example in the model's name, which comes from the request. No request contains this character.
    marker = "\ufdd0"

    def damage(data: bytes) -> bytes:
        head, _, tail = data.partition(marker.encode())
        return head + b"\xff" + tail if utf8 else head

    return wire.text(marker, damage)


def _keepalive(wire: Wire, every_s: float) -> Iterator[Step]:
    announced = True
    while True:
        yield Wait(every_s, announced)
        announced = False
        yield wire.keepalive


def _endless_line(wire: Wire, size: int) -> Iterator[Step]:
    start = wire.packing.open_end(size)
    yield start[:size]
    yield from _blocks(b"x", size - len(start))


def _gzip_bomb(size: int) -> Iterator[Step]:
    """Yield comment lines of `size` bytes, compressed to very few."""
    # after a full flush a compressed block does not depend on the ones before it, so it can be sent repeatedly
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    line = b":" + b" " * 1022 + b"\n"
    block = line * (_BLOCK_BYTES // len(line))
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    whole, rest = divmod(size, len(block))
    yield b"\x1f\x8b\x08" + b"\0" * 6 + b"\xff"
    crc = 0
    for _ in range(whole):
        crc = zlib.crc32(block, crc)
        yield packed
    crc = zlib.crc32(block[:rest], crc)
    yield packer.compress(block[:rest]) + packer.flush()
    yield crc.to_bytes(4, "little") + (size % (1 << 32)).to_bytes(4, "little")


def _blocks(fill: bytes, size: int) -> Iterator[bytes]:
    block = fill * _BLOCK_BYTES
    for _ in range(max(size, 0) // _BLOCK_BYTES):
        yield block
    if size > 0 and size % _BLOCK_BYTES:
        yield fill * (size % _BLOCK_BYTES)


# --- changes to any body --------------------------------------------------------------------------------------


def first_bytes(steps: Iterator[Step], limit: int) -> Iterator[Step]:
    """Yield `steps` until `limit` bytes were yielded."""
    for step in steps:
        if isinstance(step, bytes):
            step = step[:limit]
            limit -= len(step)
        yield step
        if limit <= 0:
            return


def recut(steps: Iterator[Step], size: int) -> Iterator[Step]:
    """Yield `steps` in writes of `size` bytes, across events. Before a wait, yield the bytes that are left over."""
    held = bytearray()
    for step in steps:
        if isinstance(step, bytes):
            held += step
            while len(held) >= size:
                yield bytes(held[:size])
                del held[:size]
            continue
        if held:
            yield bytes(held)
            held.clear()
        yield step
    if held:
        yield bytes(held)


def _with_newline(steps: Iterator[Step], newline: bytes, *, raw: bytes | None) -> Iterator[Step]:
    for step in steps:
        # the bytes of `Script.insert` are not changed
        yield step.replace(b"\n", newline) if isinstance(step, bytes) and step is not raw else step

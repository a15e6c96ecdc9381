"""Builds the assistant message of a Messages stream from what the caller received, so that it can be sent back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aprefill._codecs._json import loads
from aprefill._codecs._surrogates import mend, mend_all
from aprefill._deltas import BlockDelta, FinishDelta, ReasoningDelta, ToolDelta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aprefill._deltas import Delta, Message

#: Key for sending back arguments that are not JSON, from Anthropic's guide on fine-grained tool streaming.
INVALID_JSON = "INVALID_JSON"

_THINKING = ("thinking", "redacted_thinking")
#: Blocks at the start of an assistant message. The prefill is placed after them.
_LEADING = (*_THINKING, "compaction", "fallback")


class _Block:
    """One content block: its first record, and the pieces that followed."""

    __slots__ = ("has_ended", "is_call", "parts", "signature", "spoiled", "start")

    def __init__(self, start: dict[str, Any], *, is_call: bool = False) -> None:
        self.start = start
        #: whether the block is a call of one of the caller's own tools
        self.is_call = is_call
        #: the text of a thinking block, or the JSON text of a tool's input
        self.parts: list[str] = []
        self.signature: str | None = None
        #: whether the end of the block was received
        self.has_ended = False
        #: whether a part of the block could not be read
        self.spoiled = False

    @property
    def kind(self) -> Any:
        return self.start["type"]

    def content(self) -> dict[str, Any] | None:
        """Return the block as it is sent in the next request; None if it must be left out.

        Anthropic refuses thinking that is incomplete or has no signature, and an incomplete call of a tool that the
        host runs itself. A call of the caller's own tools was handed out already, so it is kept even if incomplete.
        """
        comes_in_pieces = self.kind in _LEADING or "input" in self.start
        if not self.is_call and (self.spoiled or (comes_in_pieces and not self.has_ended)):
            return None
        if self.kind == "thinking":
            signature = self.signature or self.start.get("signature")
            return {"type": "thinking", "thinking": "".join(self.parts), "signature": signature} if signature else None
        if self.is_call or "input" in self.start or self.parts:
            return {**self.start, "input": self._input()}
        return self.start

    def _input(self) -> dict[str, Any]:
        """Return the parsed arguments. If they are not a JSON object, return their text under `INVALID_JSON`.

        They are not JSON if a token limit cut them.
        """
        joined = mend("".join(self.parts))
        if self.is_call:
            # Input in the call's first record is not taken from `start`: the decoder yields it as a `ToolDelta` too.
            # So it is in `parts` if the caller received it.
            value = loads(joined) if joined else {}
        else:
            value = loads(joined) if joined else self.start.get("input") or {}
        # an escape sequence in the arguments may be half of a surrogate pair
        try:
            return mend_all(value) if isinstance(value, dict) else {INVALID_JSON: joined or value}
        except RecursionError:
            return {INVALID_JSON: joined}


def turn_of(parts: Sequence[str | Delta], lead: str) -> Message:
    """Return the assistant message with all blocks in the host's order. Neighbouring text becomes one block.

    `lead`, the prefill, is the first text. It is placed after the thinking at the start of the message. If there is
    only text, the content is a str. Blocks of tools that the host runs itself are kept unchanged. Thinking is kept if
    it is signed and complete, but never at the end of the message. Citations are dropped, because the text blocks that
    they refer to have changed.

    >>> turn_of(["llo", ToolDelta(0, "t", "look", "{}")], "He")["content"]
    [{'type': 'text', 'text': 'Hello'}, {'type': 'tool_use', 'id': 't', 'name': 'look', 'input': {}}]
    """
    content: list[str | dict[str, Any]] = []
    for block in _blocks(parts):
        kept = block if isinstance(block, str) else block.content()
        if kept is not None:
            content.append(kept)
    at = next((i for i, kept in enumerate(content) if isinstance(kept, str) or kept["type"] not in _LEADING), None)
    content.insert(len(content) if at is None else at, lead)
    content = _with_ink(content)
    while content and not isinstance(content[-1], str) and content[-1]["type"] in _THINKING:
        content.pop()
    if all(isinstance(kept, str) for kept in content):
        return {"role": "assistant", "content": lead + "".join(part for part in parts if isinstance(part, str))}
    return {
        "role": "assistant",
        "content": [{"type": "text", "text": kept} if isinstance(kept, str) else kept for kept in content],
    }


def _blocks(parts: Sequence[str | Delta]) -> list[str | _Block]:
    """Return the blocks of `parts`, in the order in which they started."""
    blocks: list[str | _Block] = []
    by_number: dict[int, _Block] = {}
    calls: dict[int, _Block] = {}
    last: _Block | None = None
    # the fields of a call's first record, which may be more than id, name and input
    more: dict[str, Any] = {}

    def begin(block: _Block | None) -> None:
        """End the last block, because some hosts do not send its end. Then start `block`, unless it is None.

        None is for text and for the end of the reply, which are not a `_Block`.
        """
        nonlocal last
        if last is not None:
            last.has_ended = True
        last = block
        if block is not None:
            blocks.append(block)

    for part in parts:
        if isinstance(part, str):
            begin(None)
            blocks.append(part)
        elif isinstance(part, ReasoningDelta):
            if last is None or last.kind != "thinking":
                begin(_Block({"type": "thinking"}))
            assert last is not None
            last.parts.append(part.text)
        elif isinstance(part, ToolDelta):
            call = calls.get(part.index)
            if call is None:
                start = {"type": "tool_use", **more, "id": part.id, "name": part.name}
                calls[part.index] = call = _Block(start, is_call=True)
                more = {}
                begin(call)
            call.parts.append(part.arguments)
        elif isinstance(part, FinishDelta):
            begin(None)
        elif isinstance(part, BlockDelta):
            if part.step == "restart":
                blocks = [block for block in blocks if isinstance(block, str)]
                by_number, calls, last = {}, {}, None
            elif part.step == "start":
                if part.value["type"] == "tool_use":
                    more = part.value
                else:
                    by_number[part.number] = block = _Block(part.value)
                    begin(block)
            elif (known := by_number.get(part.number)) is not None:
                _take(known, part)
    return blocks


def _take(block: _Block, part: BlockDelta) -> None:
    match part.step:
        case "input":
            block.parts.append(part.value)
        case "signature":
            block.signature = part.value
        case "fill":
            block.start = {**block.start, **part.value}
        case "spoiled":
            block.spoiled = True
        case "stop":
            block.has_ended = True


def _with_ink(content: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
    """Join neighbouring text, and remove text that is only white space, which Anthropic refuses.

    Such white space is appended to the text before it. If there is none, it is put before the next visible text. If no
    text is visible, it is dropped.
    """
    joined: list[str | dict[str, Any]] = []
    blank = ""
    at: int | None = None
    for kept in content:
        if not isinstance(kept, str):
            joined.append(kept)
        elif at is not None and (at == len(joined) - 1 or not kept.strip()):
            joined[at] = f"{joined[at]}{kept}"
        elif kept.strip():
            at = len(joined)
            joined.append(blank + kept)
            blank = ""
        else:
            blank += kept
    return joined

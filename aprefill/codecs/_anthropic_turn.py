"""The assistant turn of a Messages stream, kept while it streams so that it can be sent back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aprefill.codecs._json import loads
from aprefill.codecs._surrogates import mend

if TYPE_CHECKING:
    from aprefill._types import Message

#: The key Anthropic's guide on fine-grained tool streaming uses to send arguments back that are not JSON.
INVALID_JSON = "INVALID_JSON"

#: Blocks that lead a turn: text goes behind them.
_LEADING = ("thinking", "redacted_thinking", "compaction", "fallback")


class Block:
    """One content block: how it started, and the pieces that followed."""

    __slots__ = ("call", "parts", "signature", "start")

    def __init__(self, start: dict[str, Any], call: int | None = None) -> None:
        self.start = start
        #: the number of the tool call among the reply's, None for every other kind of block
        self.call = call
        #: the text of a thinking block, the arguments of a tool call; the text of the reply is the caller's to keep
        self.parts: list[str] = []
        self.signature: str | None = None

    def arguments(self) -> dict[str, Any]:
        """The call's input. Arguments that are no JSON object (cut by a token limit) come whole under `INVALID_JSON`."""
        joined = mend("".join(self.parts))
        value = loads(joined) if joined else self.start.get("input") or {}
        return value if isinstance(value, dict) else {INVALID_JSON: joined or value}

    def content(self) -> dict[str, Any] | None:
        """The block as the next request carries it; None if it must stay out."""
        kind = self.start["type"]
        if kind == "thinking":
            # Unsigned thinking is refused by Anthropic and means nothing to a host that signs none.
            signature = self.signature or self.start.get("signature")
            thought = mend("".join(self.parts))
            return {"type": kind, "thinking": thought, "signature": signature} if signature else None
        if "input" in self.start or self.parts:
            return {**self.start, "input": self.arguments()}
        return self.start


class Turn:
    """The content blocks of one message, by index."""

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}

    def open(self, index: int | None, block: Block) -> None:
        self._blocks[len(self._blocks) if index is None else index] = block

    def get(self, index: int | None) -> Block | None:
        """The block of that index; without an index, the last one opened."""
        if index is not None:
            return self._blocks.get(index)
        return next(reversed(self._blocks.values()), None)

    def message(self, text: str) -> Message:
        """All blocks in their order, with `text` whole as one text block where the first text block was.

        Only text: its content is the str. Blocks of server tools stay as they came, thinking stays if it is signed.
        Citations are dropped: they belong to text blocks that are not the same any more.
        """
        content: list[dict[str, Any]] = []
        # Anthropic refuses a text block without ink.
        words = {"type": "text", "text": text} if text.strip() else None
        for block in self._blocks.values():
            if block.start["type"] != "text":
                kept = block.content()
                if kept is not None:
                    content.append(kept)
            elif words is not None:
                content.append(words)
                words = None
        if words is not None:  # no text came, all there is is the prefill
            lead = next((i for i, kept in enumerate(content) if kept["type"] not in _LEADING), len(content))
            content.insert(lead, words)
        if all(kept["type"] == "text" for kept in content):
            return {"role": "assistant", "content": text}
        return {"role": "assistant", "content": content}

"""Assembles the tool calls of a chat completions stream from their pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from aprefill._codecs._json import dumps, within_depth
from aprefill._codecs._surrogates import mend
from aprefill._deltas import ToolDelta

if TYPE_CHECKING:
    from collections.abc import Iterable


class FunctionPiece(Struct, gc=False):
    name: str | None = None
    #: a fragment of JSON text; some hosts send the object itself
    arguments: Any = None


class CallPiece(Struct, gc=False):
    #: a number; some hosts send it as text
    index: int | str | None = None
    #: text; some hosts send a number
    id: str | int | None = None
    function: FunctionPiece | None = None


class _Call:
    __slots__ = ("id", "name", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = ""
        self.name = ""


class Calls:
    """Numbers the calls in the order in which they arrive.

    Hosts use `index` in different ways: some omit it, and some send 0 for every call. So a piece with a name begins a
    new call in two cases. Either its id is new (its index does not matter then), or it has no id and no index. Any
    other piece without an index belongs to the last call.
    """

    def __init__(self) -> None:
        self._count = 0
        self._by_index: dict[int | str | None, _Call] = {}

    def feed(self, piece: CallPiece) -> ToolDelta | None:
        """Return the delta of one piece, or None if the piece contains nothing new.

        A call's `id` and `name` are each in one delta only: the delta of the first piece that has them.
        """
        function = piece.function or FunctionPiece()
        index = int(piece.index) if isinstance(piece.index, str) and _is_number(piece.index) else piece.index
        id_ = mend("" if piece.id is None else str(piece.id))
        name = mend(function.name or "")
        call = self._by_index.get(index)
        if call is None or (name and call.name and (id_ != call.id if id_ else index is None)):
            call = self._begin(index)
        new_id, new_name = "" if call.id else id_, "" if call.name else name
        call.id = call.id or id_
        call.name = call.name or name
        arguments = function.arguments
        if isinstance(arguments, dict | list):
            arguments = within_depth(dumps, arguments)
        elif not isinstance(arguments, str):
            arguments = ""
        if not (new_id or new_name or arguments):
            return None
        return ToolDelta(call.number, new_id, new_name, arguments)

    def _begin(self, index: int | str | None) -> _Call:
        call = _Call(self._count)
        self._count += 1
        self._by_index[index] = self._by_index[None] = call
        return call


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9  # int() raises for very long numbers


def turn_of(deltas: Iterable[ToolDelta]) -> list[dict[str, Any]]:
    """Return the calls as `tool_calls` of an assistant message. The arguments stay JSON text, as the protocol requires.

    >>> turn_of([ToolDelta(0, "t", "f", '{"a"'), ToolDelta(0, arguments=":1}")])
    [{'id': 't', 'type': 'function', 'function': {'name': 'f', 'arguments': '{"a":1}'}}]
    """
    calls: dict[int, list[ToolDelta]] = {}
    for delta in deltas:
        calls.setdefault(delta.index, []).append(delta)
    return [
        {
            "id": "".join(delta.id for delta in call),
            "type": "function",
            "function": {
                "name": "".join(delta.name for delta in call),
                "arguments": "".join(delta.arguments for delta in call) or "{}",
            },
        }
        for call in calls.values()
    ]

"""The tool calls of a chat completions stream, put together from their pieces."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from aprefill._types import ToolDelta
from aprefill.codecs._json import dumps, within_depth
from aprefill.codecs._surrogates import mend


class FunctionPiece(Struct, gc=False):
    name: str | None = None
    #: a fragment of JSON text; some hosts send the object itself
    arguments: Any = None


class CallPiece(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: FunctionPiece | None = None


class _Call:
    __slots__ = ("arguments", "id", "name", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class Calls:
    """Numbers the calls in the order they come, and keeps them.

    Hosts disagree on `index`: some leave it out, some give 0 to every one of several calls. So a piece with a name
    begins a new call if its id is new, whatever its index, or if it has neither id nor index; any other piece
    without an index belongs to the last call.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int | None, _Call] = {}

    def feed(self, piece: CallPiece) -> ToolDelta | None:
        """The delta of one piece, or None if it brings nothing new. `id` and `name` are in a call's first one only."""
        function = piece.function or FunctionPiece()
        id_, name = mend(piece.id or ""), mend(function.name or "")
        call = self._by_index.get(piece.index)
        if call is None or (name and call.name and (id_ != call.id if id_ else piece.index is None)):
            call = self._begin(piece.index)
        new_id, new_name = "" if call.id else id_, "" if call.name else name
        call.id = call.id or id_
        call.name = call.name or name
        arguments = function.arguments
        if arguments is None:
            arguments = ""
        elif not isinstance(arguments, str):
            arguments = within_depth(dumps, arguments)
        call.arguments.append(arguments)
        if not (new_id or new_name or arguments):
            return None
        return ToolDelta(call.number, new_id, new_name, arguments)

    def _begin(self, index: int | None) -> _Call:
        call = _Call(len(self._calls))
        self._calls.append(call)
        self._by_index[index] = self._by_index[None] = call
        return call

    def turn(self) -> list[dict[str, Any]]:
        """The calls as `tool_calls` of an assistant message, their arguments as they came: this protocol takes text."""
        return [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": mend("".join(call.arguments)) or "{}"},
            }
            for call in self._calls
        ]

"""Puts together the calls that a Gemini stream makes. Vertex can send the arguments of a call in pieces."""

from __future__ import annotations

import re
from typing import Any

from aprefill._codecs._gemini_turn import made_id
from aprefill._codecs._json import dumps, within_depth
from aprefill._codecs._surrogates import mend, mend_all
from aprefill._deltas import BlockDelta, Delta, ToolDelta
from aprefill._errors import ProtocolError

#: One step of a JSON path (RFC 9535) that names one place: `.name`, `['name']`, `["name"]` or `[0]`.
_STEP = re.compile(r"""\.([^.\[\]'"]+)|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]|\[(\d{1,6})\]""")
_ESCAPE = re.compile(r"\\(.)")
#: Maximum number of steps in a path.
_DEPTH = 100
#: The fields of a piece that hold a value. Without one of them, the value is null.
_VALUES = ("stringValue", "numberValue", "boolValue")


class Calls:
    """Makes deltas of the parts with a call. `feed` takes one part; `close` ends a call that has no end.

    >>> calls = Calls()
    >>> calls.feed({"functionCall": {"name": "look", "args": {"at": 1}}})[1:]
    [ToolDelta(index=0, id='call_0', name='look', arguments='{"at":1}')]

    For each call there is a `BlockDelta` with the whole part, which the next request needs. The pieces of a call that
    comes in pieces are collected, because each piece names its place by a path and is no piece of JSON text. Such a
    call gives a `ToolDelta` with its name at once, and one with all arguments at its end. A piece that cannot be read
    raises `ProtocolError`, because a tool must not be run with a part of its arguments.
    """

    def __init__(self) -> None:
        self.count = 0
        # the call that comes in pieces, and its part
        self._open: dict[str, Any] | None = None
        self._part: dict[str, Any] = {}
        self._id = ""
        # the last path, and the pieces of its text, which are joined when another path comes
        self._path = ""
        self._texts: list[str] = []
        # whether a record of this call may contain a lone surrogate
        self._mends = False

    def feed(self, part: dict[str, Any], *, mends: bool = False) -> list[Delta]:
        call = part.get("functionCall")
        if not isinstance(call, dict):
            return []
        self._mends = self._mends or mends
        pieces, name = call.get("partialArgs"), call.get("name")
        continues = call.get("willContinue") is True
        if self._open is None or (isinstance(name, str) and name):
            before = self.close()
            if not continues and pieces is None:
                return before + self._whole(part)
            return before + self._begin(part, call, pieces) + ([] if continues else self.close())
        if "thoughtSignature" in part:
            self._part["thoughtSignature"] = part["thoughtSignature"]
        self._take(call, pieces)
        return [] if continues else self.close()

    def close(self) -> list[Delta]:
        """End the call that comes in pieces, if there is one."""
        if self._open is None:
            return []
        self._join()
        part, self._open = self._mended({**self._part, "functionCall": self._open}), None
        arguments = within_depth(dumps, part["functionCall"]["args"])
        return [BlockDelta("part", value=part), ToolDelta(self.count - 1, arguments=arguments)]

    def _mended(self, part: dict[str, Any]) -> dict[str, Any]:
        """Return `part` without lone surrogates, and begin to look for them again."""
        mends, self._mends = self._mends, False
        return within_depth(mend_all, part) if mends else part

    def _whole(self, part: dict[str, Any]) -> list[Delta]:
        part = self._mended(part)
        call: dict[str, Any] = part["functionCall"]
        args = call.get("args")
        arguments = within_depth(dumps, args if isinstance(args, dict) else {})
        return [BlockDelta("part", value=part), ToolDelta(self._number(call), self._id, _name_of(call), arguments)]

    def _begin(self, part: dict[str, Any], call: dict[str, Any], pieces: Any) -> list[Delta]:
        id_, args = call.get("id"), call.get("args")
        self._part = part
        self._open = {
            "name": _name_of(call),
            "args": dict(args) if isinstance(args, dict) else {},
            **({"id": id_} if isinstance(id_, str) and id_ else {}),
        }
        index = self._number(call)
        self._take({}, pieces)
        return [ToolDelta(index, mend(self._id), mend(self._open["name"]))]

    def _number(self, call: dict[str, Any]) -> int:
        """Count one more call. Return its number, and keep its id."""
        id_ = call.get("id")
        self._id = id_ if isinstance(id_, str) and id_ else made_id(self.count)
        self.count += 1
        return self.count - 1

    def _take(self, call: dict[str, Any], pieces: Any) -> None:
        """Add what a further record has of the open call."""
        assert self._open is not None
        if isinstance(call.get("args"), dict):
            self._open["args"] |= call["args"]
        for piece in pieces if isinstance(pieces, list) else ():
            path = piece.get("jsonPath") if isinstance(piece, dict) else None
            if not isinstance(path, str):
                raise ProtocolError("a piece of a function call has no path")
            text = piece.get("stringValue")
            if isinstance(text, str) and path == self._path:
                self._texts.append(text)
                continue
            self._join()
            kind = next((name for name in _VALUES if name in piece), None)
            _put(self._open["args"], _steps_of(path), None if kind is None else piece[kind])
            if isinstance(text, str):
                self._path = path

    def _join(self) -> None:
        """Append the pieces of the last text to it."""
        if self._texts and self._open is not None:
            _put(self._open["args"], _steps_of(self._path), "".join(self._texts))
        self._path, self._texts = "", []


def _name_of(call: dict[str, Any]) -> str:
    name = call.get("name")
    return name if isinstance(name, str) else ""


def _steps_of(path: str) -> list[str | int]:
    """Return the steps of a JSON path. Raises `ProtocolError` if it does not name one place.

    >>> _steps_of("$.a['b c'][0]")
    ['a', 'b c', 0]
    """
    steps: list[str | int] = []
    at = 1
    while at < len(path) and len(steps) < _DEPTH:
        step = _STEP.match(path, at)
        if step is None:
            break
        at = step.end()
        name = next((group for group in step.groups()[:3] if group is not None), None)
        steps.append(int(step[4]) if name is None else name if step[1] else _ESCAPE.sub(r"\1", name))
    if not steps or at < len(path) or path[0] != "$":
        raise ProtocolError("a piece of a function call has a path that cannot be read")
    return steps


def _put(root: dict[str, Any], steps: list[str | int], value: Any) -> None:
    """Set the place to `value`. Text is appended to text that is there already. Raises `ProtocolError`."""
    holder: Any = root
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(step, str) and isinstance(holder, dict):
            is_new = step not in holder
        elif isinstance(step, int) and isinstance(holder, list) and step <= len(holder):
            is_new = step == len(holder)
            if is_new:
                holder.append(None)
        else:
            raise ProtocolError("a piece of a function call does not fit the pieces before it")
        place: Any = holder
        if following is None:
            old = None if is_new else place[step]
            place[step] = old + value if isinstance(old, str) and isinstance(value, str) else value
        elif is_new:
            place[step] = {} if isinstance(following, str) else []
        holder = place[step]

"""The neutral form of tools: that of OpenAI's chat completions. Each codec accepts it and translates it to its own.

So a history with tool calls can move from one host to another:

- a tool is `{"type": "function", "function": {"name", "description", "parameters"}}`
- a call is an item of `tool_calls` in an assistant turn: `{"id", "function": {"name", "arguments"}}`, with the
  arguments as JSON text
- a result is a turn of its own: `{"role": "tool", "tool_call_id", "content"}`
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from aprefill._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aprefill._deltas import Message


class Tool(NamedTuple):
    """A function that the model may call. `parameters` is a JSON schema."""

    name: str
    description: str | None
    parameters: dict[str, Any]


class Call(NamedTuple):
    """A call that the model has made. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str

    @property
    def arguments_object(self) -> dict[str, Any]:
        """The arguments as an object. Raises `UsageError` if they are not the JSON text of one."""
        try:
            found = json.loads(self.arguments or "{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UsageError(
                f"the arguments of the tool call {self.id!r} are not a JSON object",
                "pass the call as the model made it",
            )
        return found


class Result(NamedTuple):
    """What a tool gave back. `content` is a str, or parts in the form of the caller's protocol."""

    call_id: str
    content: Any


def tool_of(tool: Mapping[str, Any]) -> Tool | None:
    """Return a tool in the neutral form, or None if it is in another form.

    >>> tool_of({"type": "function", "function": {"name": "now"}})
    Tool(name='now', description=None, parameters={'type': 'object', 'properties': {}})
    >>> tool_of({"name": "now", "input_schema": {}})
    """
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return Tool(function["name"], function.get("description"), parameters)


def calls_of(turn: Message) -> list[Call]:
    """Return the calls of an assistant turn in the neutral form.

    >>> calls_of({"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "now", "arguments": "{}"}}]})
    [Call(id='c1', name='now', arguments='{}')]
    """
    found = []
    for call in turn.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UsageError("a tool call of an assistant turn has no function with a name", "pass the whole turn")
        found.append(Call(str(call.get("id", "")), function["name"], function.get("arguments") or "{}"))
    return found


def result_of(turn: Message) -> Result | None:
    """Return the result of a tool in the neutral form, or None if the turn is not one.

    >>> result_of({"role": "tool", "tool_call_id": "c1", "content": "noon"})
    Result(call_id='c1', content='noon')
    """
    if turn.get("role") != "tool" or "tool_call_id" not in turn:
        return None
    return Result(str(turn["tool_call_id"]), turn.get("content", ""))


def names_of(messages: Iterable[Message]) -> dict[str, str]:
    """Return the names of the functions by the ids of their calls, for protocols in which a result needs the name."""
    return {call.id: call.name for turn in messages if turn.get("role") == "assistant" for call in calls_of(turn)}

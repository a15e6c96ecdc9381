"""Translates tools, calls and results from the neutral form into that of the Messages protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aprefill._codecs._neutral import calls_of, result_of, tool_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aprefill._deltas import Message


def tool_in(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool as this protocol wants it. A tool in the protocol's own form is returned unchanged.

    >>> tool_in({"type": "function", "function": {"name": "now", "description": "The time."}})
    {'name': 'now', 'description': 'The time.', 'input_schema': {'type': 'object', 'properties': {}}}
    """
    neutral = tool_of(tool)
    if neutral is None:
        return dict(tool)
    described = {} if neutral.description is None else {"description": neutral.description}
    return {"name": neutral.name, **described, "input_schema": neutral.parameters}


def turns_in(messages: Iterable[Message]) -> list[Message]:
    """Return the messages with calls and results as content blocks. Other messages are returned unchanged.

    Results that follow each other become one user turn, because Anthropic wants the results of all calls of a turn in
    the next turn.

    >>> turns_in([{"role": "tool", "tool_call_id": "c1", "content": "noon"}])
    [{'role': 'user', 'content': [{'type': 'tool_result', 'tool_use_id': 'c1', 'content': 'noon'}]}]
    """
    turns: list[Message] = []
    # the blocks of the last turn, if it was made of results here
    results: list[dict[str, Any]] | None = None
    for turn in messages:
        result = result_of(turn)
        if result is None:
            results = None
            turns.append(_with_calls(turn) if turn.get("role") == "assistant" else turn)
            continue
        if results is None:
            results = []
            turns.append({"role": "user", "content": results})
        block = {"type": "tool_result", "tool_use_id": result.call_id}
        results.append(block if result.content is None else {**block, "content": result.content})
    return turns


def _with_calls(turn: Message) -> Message:
    if "tool_calls" not in turn:
        return turn
    rest = {name: value for name, value in turn.items() if name != "tool_calls"}
    blocks = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments_object}
        for call in calls_of(turn)
    ]
    if not blocks:
        return rest
    content = turn.get("content") or []
    if isinstance(content, str):  # Anthropic refuses text that is only white space
        content = [{"type": "text", "text": content}] if content.strip() else []
    return {**rest, "content": [*content, *blocks]}

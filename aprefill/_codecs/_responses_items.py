"""The items of OpenAI's Responses protocol: messages become the input of a request, and a reply becomes a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aprefill._codecs._json import loads
from aprefill._codecs._neutral import calls_of, result_of, tool_of
from aprefill._deltas import BlockDelta, ToolDelta
from aprefill._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aprefill._deltas import Delta, Message

_ROLES = ("user", "assistant", "system", "developer")
#: Parts of a message's content. Any other object in a content list is an item of its own.
_CONTENT = frozenset({"text", "input_text", "input_image", "input_file", "input_audio", "output_text", "refusal"})
#: Kinds of calls whose result is not a `function_call_output`.
_RESULTS = {"custom_tool_call": "custom_tool_call_output"}

#: Items of calls that the caller must answer. They are sent back without their id, which they do not need.
CALLS = frozenset(
    {"function_call", "custom_tool_call", "shell_call", "apply_patch_call", "local_shell_call", "computer_call"}
)
#: Items that the caller must answer and that are known by their id.
_NEED_ID = frozenset({"computer_call", "local_shell_call", "mcp_approval_request"})


# --- the request ------------------------------------------------------------------------------------------------


def input_of(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return the messages as input items.

    A content list may contain items, such as `function_call_output`. They are sent unchanged, in their order. The
    neutral form of tools is translated. The text of an assistant turn is always sent as a list of parts, because
    llama.cpp answers 400 to a str.

    >>> input_of([{"role": "tool", "tool_call_id": "c1", "content": "noon"}])
    [{'type': 'function_call_output', 'call_id': 'c1', 'output': 'noon'}]
    """
    items: list[dict[str, Any]] = []
    # the kinds of the calls so far, by their ids
    kinds: dict[str, str] = {}
    for turn in messages:
        if turn.get("role") == "tool":
            items.append(_result(turn, kinds))
            continue
        role = turn.get("role")
        if role not in _ROLES:
            raise UsageError(f"this protocol has no role {role!r}", f"use one of {', '.join((*_ROLES, 'tool'))}")
        new = _of_turn(turn)
        new += [
            {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
            for call in calls_of(turn)
        ]
        for item in new:
            if isinstance(item.get("call_id"), str) and isinstance(item.get("type"), str):
                kinds[item["call_id"]] = item["type"]
        items += new
    return items


def _result(turn: Message, kinds: Mapping[str, str]) -> dict[str, Any]:
    result = result_of(turn)
    if result is None:
        raise UsageError("a message with the role 'tool' has no tool_call_id", "add the id of the call that it answers")
    output = result.content
    if isinstance(output, list):
        output = [_part(part, "input_text") for part in output]
    kind = _RESULTS.get(kinds.get(result.call_id, ""), "function_call_output")
    return {"type": kind, "call_id": result.call_id, "output": "" if output is None else output}


def _of_turn(turn: Message) -> list[dict[str, Any]]:
    """Return the items of one turn, without its calls in the neutral form."""
    is_reply = turn["role"] == "assistant"
    content = turn.get("content")
    rest = {name: value for name, value in turn.items() if name != "tool_calls"}
    if is_reply:
        rest = {"type": "message", **rest}
        if isinstance(content, str):
            content = [content] if content else []
    if content is None:
        return []
    if not isinstance(content, list):
        return [{**rest, "content": content}]
    items: list[dict[str, Any]] = []
    run: list[Any] = []
    for part in content:
        if isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] not in _CONTENT:
            if run:
                items.append({**rest, "content": run})
                run = []
            items.append(part)
        else:
            run.append(_part(part, "output_text" if is_reply else "input_text"))
    if run:
        items.append({**rest, "content": run})
    return items


def _part(part: Any, kind: str) -> dict[str, Any]:
    """Return one part of a content. Text without a kind, or of the kind that other protocols use, is of kind `kind`."""
    if isinstance(part, str):
        return {"type": kind, "text": part}
    if not isinstance(part, dict):
        raise UsageError(f"a part of a message is a {type(part).__name__}", "pass a dict with a type")
    return {**part, "type": kind} if part.get("type") == "text" else part


def tool_in(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool as this protocol wants it. A tool in the protocol's own form is returned unchanged.

    `strict` is always sent: it is off by default in chat completions, and on by default here.

    >>> tool_in({"type": "function", "function": {"name": "now"}})
    {'type': 'function', 'name': 'now', 'parameters': {'type': 'object', 'properties': {}}, 'strict': False}
    """
    neutral = tool_of(tool)
    if neutral is None:
        return dict(tool)
    described = {} if neutral.description is None else {"description": neutral.description}
    strict = bool(tool["function"].get("strict"))
    return {
        "type": "function",
        "name": neutral.name,
        **described,
        "parameters": neutral.parameters,
        "strict": strict,
    }


def format_in(response_format: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `response_format` of chat completions as `text.format`, and any other unchanged.

    >>> format_in({"type": "json_schema", "json_schema": {"name": "n", "schema": {}}})
    {'type': 'json_schema', 'name': 'n', 'schema': {}}
    """
    inner = response_format.get("json_schema")
    if response_format.get("type") == "json_schema" and isinstance(inner, dict):
        return {"type": "json_schema", **inner}
    return dict(response_format)


# --- the reply --------------------------------------------------------------------------------------------------


def turn_of(parts: Sequence[str | Delta], lead: str) -> Message:
    """Return the assistant message of a reply. Its content is a str if there is only text, else a list of items.

    `lead`, the prefill, is the first text. Reasoning is kept if the item holds it, encrypted or in plain text, because
    a host that does not store the reply cannot look it up by its id. OpenAI refuses reasoning that nothing follows. It
    also refuses an item with an id whose reasoning is missing. So ids are sent only together with the reasoning, and
    items of tools that the host ran itself are left out if their reasoning is.

    >>> turn_of(["llo", ToolDelta(0, "c", "look", "{}")], "He")["content"][1]
    {'type': 'function_call', 'call_id': 'c', 'name': 'look', 'arguments': '{}'}
    """
    items = _items_of(parts)
    reasoning = [item for item in items if item["type"] == "reasoning"]
    has_all = all(_holds_reasoning(item) for item in reasoning)
    kept = [_bare(item, with_id=bool(reasoning) and has_all) for item in items if has_all or not _needs_reasoning(item)]
    at = next((n for n, item in enumerate(kept) if item["type"] != "reasoning"), len(kept))
    first = next((item for item in kept if item["type"] == "message"), None)
    if lead and first is not None:
        first["content"][0]["text"] = lead + first["content"][0]["text"]
    elif lead:
        kept.insert(at, _message_of(lead))
    while kept and kept[-1]["type"] == "reasoning":
        kept.pop()
    if all(item["type"] == "message" and "phase" not in item for item in kept):
        return {"role": "assistant", "content": "".join(item["content"][0]["text"] for item in kept)}
    return {"role": "assistant", "content": kept}


def _message_of(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def _items_of(parts: Sequence[str | Delta]) -> list[dict[str, Any]]:
    """Return the items of a reply, in the order in which they started. Messages without text are left out."""
    items: list[dict[str, Any]] = []
    calls: dict[int, dict[str, Any]] = {}
    # the fields of a message, or of a call, that came before its text or its arguments
    facts: dict[str, Any] = {}
    more: dict[int, dict[str, Any]] = {}
    last: dict[str, Any] | None = None
    for part in parts:
        if isinstance(part, str):
            if last is None and part:
                last = {**_message_of(""), **facts}
                items.append(last)
            if last is not None:
                last["content"][0]["text"] += part
        elif isinstance(part, ToolDelta):
            call = calls.get(part.index)
            if call is None:
                last, facts = None, {}
                call = {"type": "function_call", "call_id": "", "name": "", "arguments": ""}
                calls[part.index] = call
                items.append(call)
            call["call_id"] += part.id
            call["name"] += part.name
            call["arguments"] += part.arguments
        elif isinstance(part, BlockDelta):
            if part.step == "call":
                more[part.number] = part.value
                continue
            last, facts = None, {}
            if part.step == "message":
                facts = part.value
            else:
                items.append(dict(part.value))
    for number, call in calls.items():
        call |= more.get(number, {})
        arguments = call["arguments"] or "{}"
        call["arguments"] = arguments
        if call["type"] == "custom_tool_call":
            del call["arguments"]
            value = loads(arguments)
            call["input"] = value.get("input", "") if isinstance(value, dict) else arguments
    return items


def _holds_reasoning(item: Mapping[str, Any]) -> bool:
    return bool(item.get("encrypted_content") or item.get("content"))


def _needs_reasoning(item: Mapping[str, Any]) -> bool:
    """Whether an item must be left out if the reasoning of its reply is."""
    return item["type"] != "message" and item["type"] not in CALLS | _NEED_ID


def _bare(item: dict[str, Any], *, with_id: bool) -> dict[str, Any]:
    if with_id or item["type"] not in {"message", *CALLS} - _NEED_ID:
        return item
    return {name: value for name, value in item.items() if name != "id"}

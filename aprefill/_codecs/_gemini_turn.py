"""Gemini's contents: makes them of our messages, and makes a message of a reply, so that it can be sent back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprefill._codecs._neutral import calls_of, result_of
from aprefill._deltas import BlockDelta
from aprefill._errors import UsageError
from aprefill._words import Words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aprefill._codecs._neutral import Result
    from aprefill._deltas import Delta, Message

#: Our role -> Gemini's. Its own names are accepted too; older models call the one who sends results "function".
_ROLES = {"user": "user", "assistant": "model", "model": "model", "tool": "user", "function": "function"}
_SYSTEM = ("system", "developer")
#: The fields of a message that become a role and parts.
_OWN_FIELDS = {"role", "content", "tool_calls"}

#: Gemini 3 and later answer 400 to a call without the signature that came with it. The documented signature for a call
#: that another model has made (https://ai.google.dev/gemini-api/docs/thought-signatures). Only the first call of a
#: turn needs one.
UNSIGNED = "skip_thought_signature_validator"
_NEEDS_NO_SIGNATURE = re.compile(r"gemini-(1|2)[.-]")


def made_id(number: int) -> str:
    """Return the id of a call that came without one: `number` counts the calls of its turn."""
    return f"call_{number}"


def needs_signature(model: str) -> bool:
    """Whether a model refuses a call without a signature."""
    model = model.lower()
    return "gemini" in model and not _NEEDS_NO_SIGNATURE.search(model)


def call_in(part: Mapping[str, Any]) -> Any:
    """Return the call in a part, in both spellings that Google accepts; None if the part is none."""
    return part.get("functionCall", part.get("function_call"))


def result_in(part: Mapping[str, Any]) -> Any:
    """Return the result in a part, in both spellings that Google accepts; None if the part is none."""
    return part.get("functionResponse", part.get("function_response"))


def split_system(system: str | None, messages: Iterable[Message]) -> tuple[list[dict[str, Any]], list[Message]]:
    """Return the parts of the system instruction, and the messages without system messages.

    Raises `UsageError` for a system message after another message, because Gemini has no place for it.
    """
    parts = [] if system is None else _parts_of(system)
    rest: list[Message] = []
    for message in messages:
        if message.get("role") not in _SYSTEM:
            rest.append(message)
        elif rest:
            raise UsageError(
                "a system message comes after another message, but this protocol has only one for the conversation",
                Words("put it first", "pass {system}"),
            )
        else:
            parts += _parts_of(message.get("content"))
    return parts, rest


def contents_of(messages: Iterable[Message], model: str) -> list[dict[str, Any]]:
    """Return Gemini's `contents`. Raises `UsageError` for a role or a part that has no place there.

    The results of one turn's calls become one content, because Gemini wants as many results in it as there were calls.
    Other fields are kept only in a last message of the assistant, where a row of the support table may have added them.
    In other messages they come from other hosts, and Google answers 400 to a field that it does not know.
    """
    messages = list(messages)
    contents: list[dict[str, Any]] = []
    # id of a call -> the name of its function, and whether the host knows the id
    calls: dict[str, tuple[str, bool]] = {}
    results: list[dict[str, Any]] | None = None
    for message in messages:
        result = result_of(message)
        if result is not None:
            if results is None:
                results = []
                contents.append({"role": "user", "parts": results})
            results.append(_result_part(result, calls))
            continue
        results = None
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise UsageError(f"a message has the role {role!r}", "pass system, user, assistant or tool")
        parts = _parts_of(message.get("content"))
        if _ROLES[role] == "model":
            made = _call_parts(message, signed=needs_signature(model))
            parts = [part for part in parts if part != {"text": ""}] + made if made else parts
            calls |= _named(parts)
        contents.append({"role": _ROLES[role], "parts": parts})
    if messages and messages[-1].get("role") == "assistant":
        contents[-1] |= {name: value for name, value in messages[-1].items() if name not in _OWN_FIELDS}
    return contents


def _named(parts: list[dict[str, Any]]) -> dict[str, tuple[str, bool]]:
    """Return the calls of a turn by the ids that they were handed out with. Ids may repeat in a later turn."""
    found = [call for part in parts if isinstance(call := call_in(part), Mapping)]
    return {
        str(call.get("id") or made_id(number)): (str(call.get("name", "")), bool(call.get("id")))
        for number, call in enumerate(found)
    }


def _parts_of(content: Any) -> list[dict[str, Any]]:
    """Return a message's content as parts. A text part of another protocol is translated; others are refused."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"text": content}]
    parts: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, str):
            parts.append({"text": part})
        elif isinstance(part, Mapping) and not isinstance(part.get("type"), str):
            parts.append(dict(part))
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            parts.append({"text": part["text"]})
        else:
            kind = repr(part["type"]) if isinstance(part, Mapping) else f"a {type(part).__name__}"
            raise UsageError(
                f"a part of a message is {kind}, for which this protocol has no place",
                'pass parts in its own form, such as {"text": ...} or {"inlineData": ...}',
            )
    return parts


def _call_parts(message: Message, *, signed: bool) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for call in calls_of(message):
        made = {"name": call.name, "args": call.arguments_object, **({"id": call.id} if call.id else {})}
        parts.append({"functionCall": made})
    if parts and signed:
        parts[0]["thoughtSignature"] = UNSIGNED
    return parts


def _result_part(result: Result, calls: Mapping[str, tuple[str, bool]]) -> dict[str, Any]:
    name, is_known = calls.get(result.call_id, ("", False))
    if not name:
        raise UsageError(
            f"the result of a tool has the id {result.call_id!r}, and no earlier call has it",
            "pass the assistant's turn with the call too",
        )
    id_ = {"id": result.call_id} if is_known else {}
    return {"functionResponse": {"name": name, "response": _response(result.content), **id_}}


def _response(content: Any) -> dict[str, Any]:
    """Return a result as the object that Gemini requires: an object as it is, anything else under `output`."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in _parts_of(content) if isinstance(part.get("text"), str))
    if isinstance(content, str):
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        return value if isinstance(value, dict) else {"output": content}
    return dict(content) if isinstance(content, Mapping) else {"output": content}


def turn_of(parts: Sequence[str | Delta], lead: str) -> Message:
    """Return the assistant message with all parts in the host's order. Neighbouring text becomes one part.

    `lead`, the prefill, is the first text. It is placed after signed thoughts at the start of the message. If there is
    only text, the content is a str. A signed part is kept as it came and is not joined with others, as Google's guide
    demands. Thoughts without a signature are summaries for the reader, and are left out.

    >>> turn_of(["llo", BlockDelta("part", value={"functionCall": {"name": "now", "args": {}}})], "He")["content"]
    [{'text': 'Hello'}, {'functionCall': {'name': 'now', 'args': {}}}]
    """
    content: list[str | dict[str, Any]] = []
    # where the signed text begins
    signs_from = 0
    for part in parts:
        if isinstance(part, str):
            content.append(part)
        elif isinstance(part, BlockDelta):
            if part.step == "part":
                content.append(part.value)
            elif part.step == "signed":
                signs_from = len(content)
            elif part.step == "signature":
                signed = "".join(text for text in content[signs_from:] if isinstance(text, str))
                content[signs_from:] = [{"text": signed, "thoughtSignature": part.value}]
    at = next((i for i, kept in enumerate(content) if isinstance(kept, str) or not kept.get("thought")), len(content))
    content.insert(at, lead)
    if all(isinstance(kept, str) for kept in content):
        return {"role": "assistant", "content": "".join(map(str, content))}
    joined: list[dict[str, Any]] = []
    is_text = False
    for kept in content:
        if not isinstance(kept, str):
            joined.append(kept)
            is_text = False
        elif is_text:
            joined[-1]["text"] += kept
        elif kept:
            joined.append({"text": kept})
            is_text = True
    return {"role": "assistant", "content": joined}

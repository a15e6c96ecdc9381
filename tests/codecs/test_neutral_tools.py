"""One history with tool turns, in the neutral form, moves between chat completions, Messages and Responses."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import Session, UsageError
from aprefill._codecs import codec
from aprefill._hosts.table import SupportTable
from aprefill.testing import Script, ToolCall, serve

from ..support.contracts import model_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aprefill.testing import Server

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "temp", "description": "In Celsius.", "parameters": SCHEMA}}


def call(id_: str, city: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": "temp", "arguments": json.dumps({"city": city})}}


def result(id_: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": text}


HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "Rome and Oslo?"},
    {"role": "assistant", "content": "I look.", "tool_calls": [call("c1", "Rome"), call("c2", "Oslo")]},
    result("c1", "31"),
    result("c2", "12"),
    {"role": "assistant", "content": None, "tool_calls": [call("c3", "Bonn")]},
    result("c3", "20"),
    {"role": "assistant", "content": "31, 12, and 20 in Bonn."},
    {"role": "user", "content": "Which is the warmest?"},
]

#: The history and the tools as each protocol wants them.
CHAT = {"messages": HISTORY, "tools": [TOOL]}
MESSAGES = {
    "messages": [
        {"role": "user", "content": "Rome and Oslo?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c1", "name": "temp", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "c2", "name": "temp", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "31"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "12"},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c3", "name": "temp", "input": {"city": "Bonn"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c3", "content": "20"}]},
        {"role": "assistant", "content": "31, 12, and 20 in Bonn."},
        {"role": "user", "content": "Which is the warmest?"},
    ],
    "tools": [{"name": "temp", "description": "In Celsius.", "input_schema": SCHEMA}],
}


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def item(id_: str, city: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": id_, "name": "temp", "arguments": json.dumps({"city": city})}


def output(id_: str, text: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id_, "output": text}


RESPONSES = {
    "input": [
        {"role": "user", "content": "Rome and Oslo?"},
        said("I look."),
        item("c1", "Rome"),
        item("c2", "Oslo"),
        output("c1", "31"),
        output("c2", "12"),
        item("c3", "Bonn"),
        output("c3", "20"),
        said("31, 12, and 20 in Bonn."),
        {"role": "user", "content": "Which is the warmest?"},
    ],
    "tools": [
        {"type": "function", "name": "temp", "description": "In Celsius.", "parameters": SCHEMA, "strict": False}
    ],
}
WANTED = {"openai_chat": CHAT, "anthropic_messages": MESSAGES, "openai_responses": RESPONSES}


@pytest.mark.parametrize("name", WANTED)
def test_the_neutral_form_is_translated(name: str) -> None:
    """Each codec translates calls, results and tools to its own form, and does not change the caller's lists."""
    before = copy.deepcopy((HISTORY, TOOL))
    body = codec(name).encode(model_input(messages=tuple(HISTORY), tools=(TOOL,)))
    assert {field: body[field] for field in WANTED[name]} == WANTED[name]
    assert before == (HISTORY, TOOL)


@pytest.mark.parametrize("name", WANTED)
def test_the_own_form_is_sent_unchanged(name: str) -> None:
    """The form that a codec translates to is its own form, which is sent unchanged."""
    wanted = WANTED[name]
    tools = tuple(wanted["tools"])
    turns: Any = wanted.get("messages") or [{"role": "user", "content": [*wanted["input"]]}]
    body = codec(name).encode(model_input(messages=tuple(turns), tools=tools))
    assert {field: body[field] for field in wanted if field != "input"} == {
        field: wanted[field] for field in wanted if field != "input"
    }
    if name == "openai_responses":  # items stand in the content of a turn
        calls = [one for one in wanted["input"] if one.get("type") in {"function_call", "function_call_output"}]
        assert [one for one in body["input"] if one in calls] == calls


@pytest.mark.parametrize("name", ["anthropic_messages", "openai_responses"])
def test_parts_of_a_result(name: str) -> None:
    """A text part of a result becomes a part of that protocol, and a result may have no content."""
    parts = [{"type": "text", "text": "31"}]
    messages = ({**HISTORY[1]}, {**result("c1", ""), "content": parts}, {**result("c2", ""), "content": None})
    body = codec(name).encode(model_input(messages=messages))
    if name == "anthropic_messages":
        assert body["messages"][-1]["content"] == [
            {"type": "tool_result", "tool_use_id": "c1", "content": parts},
            {"type": "tool_result", "tool_use_id": "c2"},
        ]
    else:
        assert [one["output"] for one in body["input"][-2:]] == [[{"type": "input_text", "text": "31"}], ""]


def test_a_call_with_broken_arguments() -> None:
    """Arguments that are no JSON object are an error in Messages. It names the call and does not quote the arguments."""
    broken = {"id": "c9", "function": {"name": "temp", "arguments": '{"city": "Ro'}}
    turn = {"role": "assistant", "content": None, "tool_calls": [broken]}
    with pytest.raises(UsageError, match="'c9'") as error:
        codec("anthropic_messages").encode(model_input(messages=(turn,)))
    assert "Ro" not in str(error.value).replace("role", "")


def test_an_empty_list_of_calls_is_no_call() -> None:
    """An empty `tool_calls` is not sent to a host that would refuse the field."""
    for empty in (None, []):
        turn = {"role": "assistant", "content": "Hi", "tool_calls": empty}
        body = codec("anthropic_messages").encode(model_input(messages=(turn,)))
        assert body["messages"] == [{"role": "assistant", "content": "Hi"}]
        assert codec("openai_responses").encode(model_input(messages=(turn,)))["input"] == [said("Hi")]


# --- the whole way ----------------------------------------------------------------------------------------------


def table(server: Server) -> SupportTable:
    lines = []
    for provider, api, path in (
        ("openai", "chat", "/v1"),
        ("openai", "responses", "/v1"),
        ("anthropic", "messages", ""),
    ):
        lines += ["[[host]]", f'provider = "{provider}"', f'api = "{api}"', f'base_url = "{server.url}{path}"']
    return SupportTable.load("\n".join(lines) + "\n")


HOSTS = {"chat": "openai:gpt-4o", "responses": "openai:gpt-4o", "messages": "anthropic:claude-haiku-4-5"}


async def ask(server: Server, api: str, history: Sequence[dict[str, Any]]) -> Any:
    """Send the history to one host and return the message of the reply."""
    async with Session(HOSTS[api], api=api, api_key="k", table=table(server), max_tokens=99) as session:
        reply = session.stream(history, tools=[TOOL])
        await reply.text()
        return reply.message


@pytest.mark.anyio
@pytest.mark.any_loop
@pytest.mark.parametrize("last", HOSTS)
async def test_a_history_moves_from_host_to_host(last: str) -> None:
    """A history with a call from chat completions and its result can be sent to a host of each protocol."""
    made = ToolCall(name="temp", arguments={"city": "Rome"}, id="c1")
    async with serve([Script(text="I look.", tools=[made]), Script(text="Warm.")]) as server:
        history: list[dict[str, Any]] = [{"role": "user", "content": "Rome?"}]
        history.append(await ask(server, "chat", history))
        history.append(result("c1", "31"))
        message = await ask(server, last, history)
    assert message == {"role": "assistant", "content": "Warm."}
    sent = server.exchanges[-1].json
    arguments = history[1]["tool_calls"][0]["function"]["arguments"]
    wanted = {
        "chat": ("messages", history),
        "messages": (
            "messages",
            [
                {"role": "user", "content": "Rome?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "c1", "name": "temp", "input": {"city": "Rome"}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "31"}]},
            ],
        ),
        "responses": (
            "input",
            [
                {"role": "user", "content": "Rome?"},
                said("I look."),
                {"type": "function_call", "call_id": "c1", "name": "temp", "arguments": arguments},
                output("c1", "31"),
            ],
        ),
    }
    field, turns = wanted[last]
    assert sent[field] == turns


@pytest.mark.anyio
@pytest.mark.any_loop
@pytest.mark.parametrize("api", HOSTS)
async def test_a_neutral_result_answers_a_reply_of_any_protocol(api: str) -> None:
    """A result in the neutral form can follow the message of a reply of any protocol."""
    made = ToolCall(name="temp", arguments={"city": "Rome"}, id="c1")
    async with serve([Script(text="I look.", tools=[made]), Script(text="Warm.")]) as server:
        history: list[dict[str, Any]] = [{"role": "user", "content": "Rome?"}]
        history.append(await ask(server, api, history))
        history.append(result("c1", "31"))
        assert (await ask(server, api, history))["content"] == "Warm."
    sent = json.dumps(server.exchanges[-1].json)
    assert sent.count('"c1"') == 2
    assert sent.count("I look.") == 1

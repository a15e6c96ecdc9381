"""The Responses protocol: items, calls, ends, errors, and what its requests look like."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import (
    ReasoningEvent,
    Recovery,
    StatusError,
    StopReason,
    ToolEvent,
    Truncated,
    Usage,
    UsageError,
    stream,
)
from aprefill._codecs import codec
from aprefill._deltas import EndDelta, ErrorDelta, FinishDelta, TextDelta, ToolDelta, UsageDelta
from aprefill._errors import ProtocolError
from aprefill._wire.sse import SseDecoder
from aprefill.testing import Script, ToolCall, serve

from ..support.contracts import model_input
from . import calls, decode, feed, only, reasoning, record, text, turn_of
from .items import COMPLETED, NAME, added, arguments, done, end, said, thought, whole

if TYPE_CHECKING:
    from aprefill import Reply
    from aprefill.testing import Server

CODEC = codec(NAME)


def encode(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return CODEC.encode(model_input(messages=messages or ({"role": "user", "content": "Hi"},), **more))


# --- text and reasoning -----------------------------------------------------------------------------------------


def test_reasoning_of_both_kinds() -> None:
    """Summaries, part after part, and plain reasoning."""
    deltas = decode(
        NAME, thought("Hm"), thought(", so."), thought("Raw.", "reasoning_text", 1), said("Yes.", 2), COMPLETED
    )
    assert (reasoning(deltas), text(deltas)) == ("Hm, so.Raw.", "Yes.")


def test_usage() -> None:
    """All counts, those in the details too, before the end."""
    counts = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 5},
    }
    deltas = decode(NAME, said("a"), end(usage=counts))
    assert only(UsageDelta, deltas) == [
        UsageDelta(
            Usage(input_tokens=9, output_tokens=7, cache_read_tokens=4, cache_write_tokens=1, reasoning_tokens=5)
        )
    ]


def test_the_text_of_a_refusal_is_text() -> None:
    """The reply would be empty without it. The stop reason says that it is a refusal."""
    refusal = {"type": "response.refusal.delta", "output_index": 0, "delta": "I can't."}
    item = done("message", content=[{"type": "refusal", "refusal": "I can't."}])
    for records in ((refusal, item), (item,)):
        deltas = decode(NAME, added("message", id="m"), *records, COMPLETED)
        assert text(deltas) == "I can't."
        assert only(FinishDelta, deltas) == [FinishDelta(StopReason.REFUSAL, "completed")]


@pytest.mark.parametrize("numbers", [[None, None, None], [5, 3, 3], ["x", -1, 2.5]])
def test_sequence_numbers_do_not_matter(numbers: list[Any]) -> None:
    """Records count in the order in which they come: hosts leave numbers out, and gateways leave out records."""
    records = [said("a"), said("b"), COMPLETED]
    records = [{**one, "sequence_number": n} for one, n in zip(records, numbers, strict=True)]
    assert text(decode(NAME, *records)) == "ab"


def test_text_that_came_in_no_delta() -> None:
    """A gateway that sends a whole reply as a stream puts the text into the item, or into the last record alone."""
    item = {
        "type": "message",
        "content": [{"type": "output_text", "text": "Hi "}, {"type": "output_text", "text": "you"}],
    }
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    assert text(decode(NAME, whole(item), COMPLETED)) == "Hi you"
    deltas = decode(NAME, end(output=[item, call]))
    assert (text(deltas), calls(deltas)) == ("Hi you", {0: ("c", "f", "{}")})
    # the control: text that came in deltas does not come twice
    assert text(decode(NAME, said("Hi "), said("you"), whole(item), end(output=[item]))) == "Hi you"
    assert text(decode(NAME, said("Hi "), said("you"), end(output=[item]))) == "Hi you"
    # llama.cpp sends no index, and its items have ids
    deltas = decode(NAME, said("Hi you", None, item_id="m"), whole({**item, "id": "m"}, None), COMPLETED)
    assert text(deltas) == "Hi you"


# --- calls ------------------------------------------------------------------------------------------------------


def test_calls_of_functions() -> None:
    """Two calls whose pieces come mixed; the id is the call's, not the item's."""
    deltas = decode(
        NAME,
        added("function_call", 0, id="fc_1", call_id="c1", name="f", arguments=""),
        added("function_call", 1, id="fc_2", call_id="c2", name="g", arguments=""),
        arguments('{"a"', 0),
        arguments("{}", 1),
        arguments(":1}", 0),
        done("function_call", 0, id="fc_1", call_id="c1", name="f", arguments='{"a":1}'),
        COMPLETED,
    )
    assert calls(deltas) == {0: ("c1", "f", '{"a":1}'), 1: ("c2", "g", "{}")}
    assert only(FinishDelta, deltas)[0].reason is StopReason.TOOL_USE


@pytest.mark.parametrize("index", [0, None])
@pytest.mark.parametrize("how", ["done", "arguments.done", "object"])
def test_arguments_that_came_in_no_delta(how: str, index: int | None) -> None:
    """They are in the record that ends the arguments, or in the item; as text or as JSON itself."""
    value = {"a": 1} if how == "object" else '{"a":1}'
    item = {"id": "fc_1", "call_id": "c1", "name": "f"}
    records = [added("function_call", index, **item), done("function_call", index, **item, arguments=value), COMPLETED]
    if how == "arguments.done":
        kind = {"type": "response.function_call_arguments.done", "item_id": "fc_1", "arguments": value}
        records.insert(1, kind if index is None else {**kind, "output_index": index})
    assert calls(decode(NAME, *records)) == {0: ("c1", "f", '{"a":1}')}


def test_calls_without_an_index() -> None:
    """llama.cpp sends no `output_index`, and names a call by its item's id or, in older builds, by the call's."""
    deltas = decode(
        NAME,
        added("function_call", None, call_id="c1", name="f"),
        arguments('{"a"', None, "c1"),
        added("function_call", None, id="fc_2", call_id="c2", name="g"),
        arguments("{}", None, "fc_2"),
        arguments(":1}", None, "c1"),
        COMPLETED,
    )
    assert calls(deltas) == {0: ("c1", "f", '{"a":1}'), 1: ("c2", "g", "{}")}


def test_ids_that_change_with_each_record() -> None:
    """GitHub Copilot does so. The index says which item it is."""
    deltas = decode(
        NAME,
        added("function_call", 3, id="x1", call_id="c1", name="f"),
        {**arguments('{"a"', 3), "item_id": "x2"},
        {**arguments(":1}", 3), "item_id": "x3"},
        done("function_call", 3, id="x4", call_id="c1", name="f", arguments='{"a":1}'),
        COMPLETED,
    )
    assert calls(deltas) == {0: ("c1", "f", '{"a":1}')}


def test_a_call_that_was_not_announced() -> None:
    """Its name comes with the whole item. Pieces without any address belong to the last call."""
    deltas = decode(
        NAME, arguments("{", 0), arguments("}", 0), done("function_call", 0, call_id="c", name="f"), COMPLETED
    )
    assert calls(deltas) == {0: ("c", "f", "{}")}
    deltas = decode(NAME, added("function_call", 0, call_id="c", name="f"), arguments("{}", None), COMPLETED)
    assert calls(deltas) == {0: ("c", "f", "{}")}


def test_a_custom_tool() -> None:
    """Its input is plain text, so the arguments are an object with it. The turn has the item in its own form."""
    item = {"id": "ct", "call_id": "c", "name": "sql", "input": 'SELECT "a"'}
    deltas = decode(
        NAME, added("custom_tool_call", **{**item, "input": ""}), done("custom_tool_call", **item), COMPLETED
    )
    assert calls(deltas) == {0: ("c", "sql", '{"input":"SELECT \\"a\\""}')}
    assert only(FinishDelta, deltas)[0].reason is StopReason.TOOL_USE
    turn = turn_of(NAME, deltas)
    assert turn["content"] == [{"type": "custom_tool_call", "call_id": "c", "name": "sql", "input": 'SELECT "a"'}]
    body = encode({"role": "user", "content": "Hi"}, turn, {"role": "tool", "tool_call_id": "c", "content": "7"})
    assert body["input"][-1] == {"type": "custom_tool_call_output", "call_id": "c", "output": "7"}


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([done("web_search_call", id="ws")], StopReason.END),
        ([done("shell_call", call_id="c")], StopReason.TOOL_USE),
        ([done("shell_call", call_id="c"), done("shell_call_output", call_id="c")], StopReason.END),
        ([done("mcp_approval_request", id="m")], StopReason.TOOL_USE),
        ([done("mcp_call", id="m")], StopReason.END),
    ],
)
def test_only_calls_that_wait_for_the_caller_are_a_tool_use(items: list[Any], reason: StopReason) -> None:
    """A tool that the host ran itself gives no delta, and needs no answer."""
    deltas = decode(NAME, *items, said("a", 5), COMPLETED)
    assert only(FinishDelta, deltas)[0].reason is reason
    assert not only(ToolDelta, deltas)


# --- the end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "reason", "raw"),
    [
        (end(), StopReason.END, "completed"),
        ({"type": "response.completed"}, StopReason.END, "completed"),
        (
            end("incomplete", incomplete_details={"reason": "max_output_tokens"}),
            StopReason.MAX_TOKENS,
            "max_output_tokens",
        ),
        (end("incomplete", incomplete_details={"reason": "content_filter"}), StopReason.REFUSAL, "content_filter"),
        (end("incomplete", incomplete_details={"reason": "steered"}), StopReason.OTHER, "steered"),
        (end("incomplete", incomplete_details=None), StopReason.OTHER, "incomplete"),
        (
            {**end("incomplete", incomplete_details={"reason": "max_output_tokens"}), "type": "response.completed"},
            StopReason.MAX_TOKENS,
            "max_output_tokens",
        ),
    ],
)
def test_why_a_reply_ended(last: dict[str, Any], reason: StopReason, raw: str) -> None:
    """The status, and for an incomplete reply the host's reason."""
    deltas = decode(NAME, said("a"), last)
    assert deltas == [TextDelta("a"), FinishDelta(reason, raw), EndDelta()]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [said("a")],
        [said("a"), done("message", status="completed", content=[])],
        [{"type": "response.created", "response": {"status": "in_progress"}}],
    ],
)
def test_a_stream_that_just_stops(records: list[Any]) -> None:
    """Even after the whole message: only the last record says that the reply is whole."""
    with pytest.raises(Truncated, match=r"response\.completed"):
        decode(NAME, *records)


def test_done_alone_is_no_end() -> None:
    """Some gateways add it to every stream, also to one that was cut. After the end it is nothing."""
    with pytest.raises(Truncated, match="DONE"):
        decode(NAME, said("a"), b"[DONE]")
    assert decode(NAME, said("a"), COMPLETED, b"[DONE]")[-1] == EndDelta()


@pytest.mark.parametrize(
    ("last", "ends"),
    [
        (COMPLETED, EndDelta),
        ({"type": "error", "message": "x"}, ErrorDelta),
        (said("b"), None),
        (b'{"type":"resp', None),
    ],
)
def test_a_last_record_without_its_blank_line(last: Any, ends: Any) -> None:
    """It counts if it is the end itself, and complete."""
    decoder = CODEC.decoder()
    feed(decoder, [said("a")])
    if ends is None:
        with pytest.raises(Truncated):
            decoder.close(record(last))
    else:
        assert type(decoder.close(record(last))[-1]) is ends


def test_a_type_that_only_the_event_has() -> None:
    """The event's name is the type then. Without either, the record is no event of this protocol."""
    decoder = CODEC.decoder()
    assert text(decoder.decode(record({"delta": "Hi"}, "response.output_text.delta"))) == "Hi"
    assert type(decoder.decode(record({"response": {}}, "response.completed"))[-1]) is EndDelta
    for name in ("", "message"):
        with pytest.raises(ProtocolError, match="type"):
            CODEC.decoder().decode(record({"delta": "Hi"}, name))
    assert list(CODEC.decoder().decode(record({"delta": "Hi"}, "response.made_up.delta"))) == []


def test_a_delta_of_text_needs_its_text() -> None:
    """Losing text without a word would be worse than an error."""
    for odd in (None, 7, ["a"], {"text": "a"}):
        with pytest.raises(ProtocolError, match="delta"):
            CODEC.decoder().decode(record({**said(""), "delta": odd}))
    assert list(CODEC.decoder().decode(record(said("")))) == []


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "status", "kind"),
    [
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None}, 429, "rate_limit_exceeded"),
        ({"type": "error", "error": {"type": "invalid_request_error", "code": "x", "message": "slow down"}}, 400, "invalid_request_error"),
        ({"error": {"message": "slow down", "type": "server_error"}}, 500, "server_error"),
        (end("failed", error={"code": "server_error", "message": "slow down"}), 500, "server_error"),
        (end("failed", error={"code": "invalid_prompt", "message": "slow down"}), 400, "invalid_prompt"),
        ({**end("failed", error={"code": "server_error", "message": "slow down"}), "type": "response.completed"}, 500, "server_error"),
    ],
)  # fmt: skip
def test_errors_in_the_stream(last: dict[str, Any], status: int, kind: str) -> None:
    """As a record of its own, flat or nested, or as a reply that failed. What follows gives nothing."""
    decoder = CODEC.decoder()
    deltas = feed(decoder, [said("a"), last, said("b"), COMPLETED])
    assert deltas == [TextDelta("a"), ErrorDelta(status, kind, "slow down")]
    assert list(decoder.close()) == []


def test_a_failure_without_an_error() -> None:
    """It is an error all the same, with the tokens that were used."""
    deltas = decode(NAME, end("failed", error=None, usage={"input_tokens": 3}))
    assert deltas == [UsageDelta(Usage(input_tokens=3)), ErrorDelta(500, "failed", "")]


# --- the turn for the next request ------------------------------------------------------------------------------

THOUGHT = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "gAAA"}
SEARCH = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search"}}
CALL = {"id": "fc", "call_id": "c", "name": "f"}


def test_a_turn_of_text_is_a_str() -> None:
    """Also with reasoning that the turn cannot hold, and behind a prefill."""
    deltas = decode(
        NAME,
        done("reasoning", 0, id="rs", summary=[]),
        added("message", 1, id="m"),
        said("llo", 1),
        done("message", 1, id="m", content=[{"type": "output_text", "text": "llo"}]),
        COMPLETED,
    )
    assert turn_of(NAME, deltas, "He") == {"role": "assistant", "content": "Hello"}


def reply(thought: dict[str, Any]) -> list[Any]:
    return [
        whole(thought),
        added("web_search_call", 1, id="ws"),
        whole(SEARCH, 1),
        added("message", 2, id="m", phase="commentary"),
        said("I look.", 2),
        added("function_call", 3, **CALL, namespace="n"),
        arguments("{}", 3),
        done("function_call", 3, **CALL, arguments="{}"),
        COMPLETED,
    ]


def words(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], **more}


def test_a_turn_with_encrypted_reasoning_has_every_item() -> None:
    """With their ids, in the host's order; the prefill is the first text."""
    turn = turn_of(NAME, decode(NAME, *reply(THOUGHT)), "So: ")
    wanted = [
        THOUGHT,
        SEARCH,
        words("So: I look.", id="m", phase="commentary"),
        {"type": "function_call", "arguments": "{}", **CALL, "namespace": "n"},
    ]
    assert turn == {"role": "assistant", "content": wanted}
    assert encode({"role": "user", "content": "Hi"}, turn)["input"][1:] == wanted
    # plain reasoning, which DeepSeek wants back, is in the item too
    plain = {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    assert turn_of(NAME, decode(NAME, *reply(plain)))["content"][0] == plain


def test_a_turn_without_the_reasoning_has_no_ids() -> None:
    """OpenAI refuses an item with an id whose reasoning is missing, and a tool's item cannot be sent without its id."""
    turn = turn_of(NAME, decode(NAME, *reply({"type": "reasoning", "id": "rs", "summary": []})))
    assert turn["content"] == [
        words("I look.", phase="commentary"),
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": "n"},
    ]
    # the control: a model that does not reason has nothing that could be missing
    assert turn_of(NAME, decode(NAME, *reply(THOUGHT)[1:]))["content"][0] == SEARCH


def test_reasoning_at_the_end_is_left_out() -> None:
    """OpenAI refuses reasoning that nothing follows. That is so if a reply is left early, or reached its token limit."""
    assert turn_of(NAME, decode(NAME, whole(THOUGHT), COMPLETED)) == {"role": "assistant", "content": ""}
    assert turn_of(NAME, decode(NAME, whole(THOUGHT), COMPLETED), "a")["content"] == [THOUGHT, words("a")]


def test_an_edit_changes_what_the_hosts_tools_said() -> None:
    """Text and calls were edited on arrival, and reasoning is encrypted."""
    turn = {"role": "assistant", "content": [THOUGHT, SEARCH, words("a"), {"type": "function_call", "name": "f"}]}
    changed = CODEC.edit(turn, lambda item: "changed")
    assert changed["content"] == [THOUGHT, "changed", words("a"), {"type": "function_call", "name": "f"}]


# --- requests ---------------------------------------------------------------------------------------------------


def test_what_is_sent() -> None:
    """Each argument in its field; the text of an assistant turn as a part, which llama.cpp needs."""
    body = encode(
        {"role": "developer", "content": "Rules."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_image", "image_url": "u"}, "b"]},
        {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
        {"role": "assistant", "content": "d"},
        system="Be brief.",
        max_tokens=7,
        temperature=0.5,
        thinking={"effort": "low"},
    )
    assert body == {
        "model": "a-model",
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "Rules."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_image", "image_url": "u"},
                    {"type": "input_text", "text": "b"},
                ],
            },
            words("c"),
            words("d"),
        ],
        "max_output_tokens": 7,
        "temperature": 0.5,
        "reasoning": {"effort": "low"},
        "stream": True,
    }


def test_items_in_a_content_list_are_sent_as_they_are() -> None:
    """So a result, an approval or a reference in the protocol's own form stands between the parts of a message."""
    output = {"type": "function_call_output", "call_id": "c", "output": "7"}
    reference = {"type": "item_reference", "id": "rs"}
    content = [{"type": "input_text", "text": "a"}, output, reference, {"type": "input_text", "text": "b"}]
    turn = {"role": "user", "content": content}
    assert encode(turn)["input"] == [
        {"role": "user", "content": content[:1]},
        output,
        reference,
        {"role": "user", "content": content[3:]},
    ]
    assert CODEC.is_tool_result(turn)
    assert CODEC.is_tool_result({"role": "user", "content": [{"type": "custom_tool_call_output"}]})
    assert not CODEC.is_tool_result({"role": "user", "content": content[:1]})


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ({"role": "function", "content": "a"}, "role"),
        ({"role": "tool", "content": "a"}, "tool_call_id"),
        ({"role": "user", "content": [7]}, "int"),
    ],
)
def test_what_cannot_be_sent(message: dict[str, Any], what: str) -> None:
    """The caller's error, before anything is sent."""
    with pytest.raises(UsageError, match=what):
        encode(message)


def test_a_stop_sequence_cannot_be_sent() -> None:
    """The protocol has no field for it; the rows of its hosts say so, and the sequence is applied here."""
    with pytest.raises(UsageError, match="stop"):
        encode(stop=("x",))


def test_a_response_format() -> None:
    """That of chat completions is translated; another field of `text` stays beside it."""
    inner = {"name": "n", "schema": {}, "strict": True}
    asked: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": inner}}
    assert encode(**asked)["text"] == {"format": {"type": "json_schema", **inner}}
    assert encode(**asked, extra={"text": {"verbosity": "low"}})["text"]["verbosity"] == "low"
    assert encode(**asked, extra={"text": {"verbosity": "low"}})["text"]["format"]["name"] == "n"
    assert CODEC.undone_by("response_format", {"text": {"verbosity": "low"}}) is None
    assert CODEC.undone_by("response_format", {"text": {"format": {"type": "text"}}}) == "text.format"
    assert CODEC.undone_by("response_format", {"text": None}) == "text.format"


def test_a_strict_tool_stays_strict() -> None:
    """The default differs between the protocols, so it is always sent."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    assert encode(tools=(tool,))["tools"] == [
        {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    ]
    own = ({"type": "web_search"}, {"type": "function", "name": "f"})
    assert encode(tools=own)["tools"] == list(own)


@pytest.mark.parametrize(
    ("extra", "on"),
    [
        ({"text": {"format": {"type": "json_schema"}}}, {"response_format": "extra['text']"}),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {}),
        ({"reasoning": {"effort": "high"}}, {"thinking": "extra['reasoning']"}),
        ({"reasoning": {"effort": "none"}}, {}),
        ({"tool_choice": {"type": "function", "name": "f"}}, {"tool_choice": "extra['tool_choice']"}),
    ],
)
def test_settings_in_the_protocols_own_spelling(extra: dict[str, Any], on: dict[str, str]) -> None:
    """Found in `extra`, with the caller's name for it."""
    assert CODEC.settings_in_use({}, extra) == on


# --- a host without indices -------------------------------------------------------------------------------------


def test_the_recorded_stream_of_llama_cpp(shared: Any) -> None:
    """llama-server 0.3.36 sends neither indices nor sequence numbers."""
    data = (shared / "recordings" / "_local" / "llama-server-responses-noprefill.sse").read_bytes()
    decoder = CODEC.decoder()
    deltas = [delta for one in SseDecoder().feed(data) for delta in decoder.decode(one)]
    assert text(deltas) == " makP. than can othcaZ peoplekZ wa"
    assert type(deltas[-1]) is EndDelta
    assert turn_of(NAME, deltas)["content"] == text(deltas)


# --- the whole way ----------------------------------------------------------------------------------------------


def ask(server: Server, **options: Any) -> Reply:
    asked = {"model": "openai:gpt-4o", "api": "responses", "base_url": server.openai_url, "api_key": "k"}
    return stream("Two states.", **{**asked, "recovery": Recovery(retries=0), **options})


@pytest.mark.anyio
@pytest.mark.any_loop
async def test_an_emulated_prefill_and_a_stop_sequence() -> None:
    """The prompt asks for the prefill. The sequence is not sent, and the text ends before it."""
    async with serve(Script(text='Alabama", "Alaska"]', reasoning="Hm.")) as server:
        reply = ask(server, prefill='["', stop='", "Al', max_tokens=50, system="Be brief.")
        events = [event async for event in reply.events()]
    assert reply.text_so_far == '["Alabama'
    assert (reply.mode, reply.stop_reason, reply.stop_sequence) == ("emulated", StopReason.STOP_SEQUENCE, '", "Al')
    assert "".join(event.text for event in events if isinstance(event, ReasoningEvent)) == "Hm."
    sent = server.exchanges[0].json
    assert sent.keys() == {"model", "instructions", "input", "max_output_tokens", "stream"}
    assert sent["instructions"] == "Be brief."


@pytest.mark.anyio
@pytest.mark.any_loop
async def test_a_call_and_the_counts() -> None:
    """As events, in the message for the next turn, and in the usage."""
    made = ToolCall(name="look", arguments={"a": 1}, id="c1")
    script = Script(text="I look.", tools=[made], input_tokens=21, cached_tokens=3)
    async with serve(script) as server:
        reply = ask(server)
        found = [event async for event in reply.events() if isinstance(event, ToolEvent)]
    assert (found[0].id, found[0].name) == ("c1", "look")
    assert json.loads("".join(event.arguments for event in found)) == {"a": 1}
    assert reply.stop_reason is StopReason.TOOL_USE
    assert [item["type"] for item in reply.message["content"]] == ["message", "function_call"]
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.cache_read_tokens) == (21, 3)


@pytest.mark.anyio
@pytest.mark.any_loop
async def test_the_token_limit() -> None:
    """The host's own word is in the report."""
    async with serve(Script(text="Alabama", stop_reason="max_tokens")) as server:
        reply = ask(server)
        assert await reply.text() == "Alabama"
    assert (reply.stop_reason, reply.attempts[0].raw_stop_reason) == (StopReason.MAX_TOKENS, "max_output_tokens")


@pytest.mark.anyio
@pytest.mark.any_loop
async def test_errors_of_the_host() -> None:
    """Inside the stream with the text so far, and as a status with the request's id."""
    scripts = [
        Script(text="Alabama", after=4, error_event=("server_error", "It broke.")),
        Script(status=400, error=("invalid_request_error", "No such field.")),
    ]
    async with serve(scripts) as server:
        with pytest.raises(StatusError, match="It broke") as broken:
            await ask(server).text()
        with pytest.raises(StatusError, match="No such field") as refused:
            await ask(server).text()
    assert (broken.value.in_band, broken.value.text_so_far, broken.value.status) == (True, "Alab", 500)
    assert (refused.value.in_band, refused.value.status) == (False, 400)
    assert refused.value.request_id


@pytest.mark.anyio
@pytest.mark.any_loop
async def test_a_reply_that_was_cut_is_continued() -> None:
    """A native host goes on with the text so far, which is the last item of the next request."""
    scripts = [Script(text="ba", no_end=True, prefill="eats"), Script(text="ma", prefill="eats")]
    async with serve(scripts) as server:
        with pytest.raises(Truncated) as cut:
            await ask(server, model="llama_cpp:m", prefill="Ala").text()
        assert cut.value.text_so_far == "Alaba"
        assert await ask(server, model="llama_cpp:m", prefill=cut.value.text_so_far).text() == "Alabama"
    assert [exchange.prefill for exchange in server.exchanges] == ["Ala", "Alaba"]

"""The Responses protocol: items, calls, ends and errors of replies, the message of a reply, and requests."""

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
    """Summaries and plain reasoning are both reasoning. The parts of a summary follow each other."""
    deltas = decode(
        NAME, thought("Hm"), thought(", so."), thought("Raw.", "reasoning_text", 1), said("Yes.", 2), COMPLETED
    )
    assert (reasoning(deltas), text(deltas)) == ("Hm, so.Raw.", "Yes.")


def test_usage() -> None:
    """All counts are read, also those in the details, before the end of the reply."""
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
    """A refusal is text, because the reply would be empty without it. The stop reason says that it is a refusal."""
    refusal = {"type": "response.refusal.delta", "output_index": 0, "delta": "I can't."}
    item = done("message", content=[{"type": "refusal", "refusal": "I can't."}])
    for records in ((refusal, item), (item,)):
        deltas = decode(NAME, added("message", id="m"), *records, COMPLETED)
        assert text(deltas) == "I can't."
        assert only(FinishDelta, deltas) == [FinishDelta(StopReason.REFUSAL, "completed")]


@pytest.mark.parametrize("numbers", [[None, None, None], [5, 3, 3], ["x", -1, 2.5]])
def test_sequence_numbers_do_not_matter(numbers: list[Any]) -> None:
    """Records are read in the order in which they arrive, whatever their sequence numbers are."""
    records = [said("a"), said("b"), COMPLETED]
    records = [{**one, "sequence_number": n} for one, n in zip(records, numbers, strict=True)]
    assert text(decode(NAME, *records)) == "ab"


def test_text_that_came_in_no_delta() -> None:
    """Text that came in no delta is read from the complete item, or from the last record. It is never read twice."""
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
    """The pieces of two calls may be mixed. The id of a call is its `call_id`, not the id of its item."""
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
    """Arguments without a delta are read from the record that ends them or from the item, as JSON text or as an object."""
    value = {"a": 1} if how == "object" else '{"a":1}'
    item = {"id": "fc_1", "call_id": "c1", "name": "f"}
    records = [added("function_call", index, **item), done("function_call", index, **item, arguments=value), COMPLETED]
    if how == "arguments.done":
        kind = {"type": "response.function_call_arguments.done", "item_id": "fc_1", "arguments": value}
        records.insert(1, kind if index is None else {**kind, "output_index": index})
    assert calls(decode(NAME, *records)) == {0: ("c1", "f", '{"a":1}')}


def test_calls_without_an_index() -> None:
    """Without an `output_index`, as with llama.cpp, pieces are matched by the id of the item or of the call."""
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
    """GitHub Copilot sends another id in each record. There the `output_index` says which item it is."""
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
    """The name of a call that was not announced comes with its item. Pieces without id and index belong to the last call."""
    deltas = decode(
        NAME, arguments("{", 0), arguments("}", 0), done("function_call", 0, call_id="c", name="f"), COMPLETED
    )
    assert calls(deltas) == {0: ("c", "f", "{}")}
    deltas = decode(NAME, added("function_call", 0, call_id="c", name="f"), arguments("{}", None), COMPLETED)
    assert calls(deltas) == {0: ("c", "f", "{}")}


def test_a_custom_tool() -> None:
    """The arguments of a custom tool are an object with its input. The message has the item in the protocol's own form."""
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
    """The stop reason is `TOOL_USE` only if a call waits for the caller. Tools that the host ran itself give no delta."""
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
    """The stop reason comes from the status, and for an incomplete reply from the reason that the host gives."""
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
    """A stream without its last record was cut, even after a complete message."""
    with pytest.raises(Truncated, match=r"response\.completed"):
        decode(NAME, *records)


def test_done_alone_is_no_end() -> None:
    """`[DONE]` is no end, because some gateways add it to a stream that was cut. After the end it is ignored."""
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
    """A last record without its blank line counts only if it is complete and is the end itself."""
    decoder = CODEC.decoder()
    feed(decoder, [said("a")])
    if ends is None:
        with pytest.raises(Truncated):
            decoder.close(record(last))
    else:
        assert type(decoder.close(record(last))[-1]) is ends


def test_a_type_that_only_the_event_has() -> None:
    """Without a `type`, the event name is the type. A record with neither is an error."""
    decoder = CODEC.decoder()
    assert text(decoder.decode(record({"delta": "Hi"}, "response.output_text.delta"))) == "Hi"
    assert type(decoder.decode(record({"response": {}}, "response.completed"))[-1]) is EndDelta
    for name in ("", "message"):
        with pytest.raises(ProtocolError, match="type"):
            CODEC.decoder().decode(record({"delta": "Hi"}, name))
    assert list(CODEC.decoder().decode(record({"delta": "Hi"}, "response.made_up.delta"))) == []


def test_a_delta_of_text_needs_its_text() -> None:
    """A text delta without text is an error, because text would be lost otherwise. Empty text is not."""
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
    """An error is a record of its own (flat or nested) or a reply that failed. Later records give nothing."""
    decoder = CODEC.decoder()
    deltas = feed(decoder, [said("a"), last, said("b"), COMPLETED])
    assert deltas == [TextDelta("a"), ErrorDelta(status, kind, "slow down")]
    assert list(decoder.close()) == []


def test_a_failure_without_an_error() -> None:
    """A reply that failed without an error object is an error too, and its usage is read."""
    deltas = decode(NAME, end("failed", error=None, usage={"input_tokens": 3}))
    assert deltas == [UsageDelta(Usage(input_tokens=3)), ErrorDelta(500, "failed", "")]


# --- the turn for the next request ------------------------------------------------------------------------------

THOUGHT = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "gAAA"}
SEARCH = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search"}}
CALL = {"id": "fc", "call_id": "c", "name": "f"}


def test_a_turn_of_text_is_a_str() -> None:
    """The content is a str if there is only text. Reasoning without content is left out, and the prefill comes first."""
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
    """With encrypted reasoning, the message has all items with their ids, in the host's order."""
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
    """Without the reasoning, calls have no id and items of the host's own tools are left out, because OpenAI refuses both."""
    turn = turn_of(NAME, decode(NAME, *reply({"type": "reasoning", "id": "rs", "summary": []})))
    assert turn["content"] == [
        words("I look.", phase="commentary"),
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": "n"},
    ]
    # the control: a model that does not reason has nothing that could be missing
    assert turn_of(NAME, decode(NAME, *reply(THOUGHT)[1:]))["content"][0] == SEARCH


def test_reasoning_at_the_end_is_left_out() -> None:
    """Reasoning at the end of a reply is left out, because OpenAI refuses reasoning that nothing follows."""
    assert turn_of(NAME, decode(NAME, whole(THOUGHT), COMPLETED)) == {"role": "assistant", "content": ""}
    assert turn_of(NAME, decode(NAME, whole(THOUGHT), COMPLETED), "a")["content"] == [THOUGHT, words("a")]


def test_an_edit_changes_what_the_hosts_tools_said() -> None:
    """An edit changes only the items of the host's own tools."""
    turn = {"role": "assistant", "content": [THOUGHT, SEARCH, words("a"), {"type": "function_call", "name": "f"}]}
    changed = CODEC.edit(turn, lambda item: "changed")
    assert changed["content"] == [THOUGHT, "changed", words("a"), {"type": "function_call", "name": "f"}]


# --- requests ---------------------------------------------------------------------------------------------------


def test_what_is_sent() -> None:
    """Each argument is in its field. The text of an assistant turn is a part, because llama.cpp refuses a str there."""
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
    """Items in a content list, such as a result or a reference, are sent unchanged between the parts of the message."""
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
    """A role or a part that the protocol does not have is the caller's error."""
    with pytest.raises(UsageError, match=what):
        encode(message)


def test_a_stop_sequence_cannot_be_sent() -> None:
    """The protocol has no field for stop sequences, so the codec refuses one."""
    with pytest.raises(UsageError, match="stop"):
        encode(stop=("x",))


def test_a_response_format() -> None:
    """The format of chat completions is translated. A field of `text` in `extra` is merged with it."""
    inner = {"name": "n", "schema": {}, "strict": True}
    asked: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": inner}}
    assert encode(**asked)["text"] == {"format": {"type": "json_schema", **inner}}
    assert encode(**asked, extra={"text": {"verbosity": "low"}})["text"]["verbosity"] == "low"
    assert encode(**asked, extra={"text": {"verbosity": "low"}})["text"]["format"]["name"] == "n"
    assert CODEC.undone_by("response_format", {"text": {"verbosity": "low"}}) is None
    assert CODEC.undone_by("response_format", {"text": {"format": {"type": "text"}}}) == "text.format"
    assert CODEC.undone_by("response_format", {"text": None}) == "text.format"


def test_a_strict_tool_stays_strict() -> None:
    """`strict` is always sent for a translated tool, because its default differs between the protocols."""
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
    """Settings are found in `extra` in the protocol's own spelling."""
    assert CODEC.settings_in_use({}, extra) == on


# --- a host without indices -------------------------------------------------------------------------------------


def test_the_recorded_stream_of_llama_cpp(shared: Any) -> None:
    """The recorded stream of llama.cpp, which has neither indices nor sequence numbers, gives its whole text."""
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
    """The prompt asks for the prefill. The stop sequence is not sent, and the text ends before it."""
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
    """A call comes as events and is in the message for the next request. The usage has the counts."""
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
    """The token limit is the stop reason, and the host's own word for it is in the report."""
    async with serve(Script(text="Alabama", stop_reason="max_tokens")) as server:
        reply = ask(server)
        assert await reply.text() == "Alabama"
    assert (reply.stop_reason, reply.attempts[0].raw_stop_reason) == (StopReason.MAX_TOKENS, "max_output_tokens")


@pytest.mark.anyio
@pytest.mark.any_loop
async def test_errors_of_the_host() -> None:
    """An error inside the stream has the text so far. An error response has the request's id."""
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
    """A native host continues the text so far, which is the last item of the next request."""
    scripts = [Script(text="ba", no_end=True, prefill="eats"), Script(text="ma", prefill="eats")]
    async with serve(scripts) as server:
        with pytest.raises(Truncated) as cut:
            await ask(server, model="llama_cpp:m", prefill="Ala").text()
        assert cut.value.text_so_far == "Alaba"
        assert await ask(server, model="llama_cpp:m", prefill=cut.value.text_so_far).text() == "Alabama"
    assert [exchange.prefill for exchange in server.exchanges] == ["Ala", "Alaba"]

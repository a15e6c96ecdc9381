"""Claude on Vertex and Bedrock: the official SDK and the library read the testing server's paths and frames."""

from __future__ import annotations

import json
import math
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import pytest
from anyio import fail_after

pytest.importorskip("botocore.eventstream", reason="botocore is not installed")

from aprefill import Recovery, stream
from aprefill._codecs._host_error import body_error
from aprefill._codecs.anthropic_messages import AnthropicDecoder
from aprefill._deltas import EndDelta, ErrorDelta, FinishDelta, ReasoningDelta, TextDelta, UsageDelta
from aprefill._errors import ProtocolError, Truncated
from aprefill._types import StopReason
from aprefill._wire.eventstream import EventStreamDecoder
from aprefill.testing import Script, Server, ToolCall, serve

from ..support.sdk_http import http_of
from .asking import REFUSAL, client_of, deltas, is_whole

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aprefill._deltas import Delta

pytestmark = [
    pytest.mark.any_loop,
    pytest.mark.anyio,
    # the SDKs leave their own generators to the garbage collector, which trio reports
    pytest.mark.filterwarnings("ignore:Exception ignored in.*async_generator:pytest.PytestUnraisableExceptionWarning"),
]

MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
STREAM = f"/model/{MODEL}/invoke-with-response-stream"
WHOLE = f"/model/{MODEL}/invoke"
PREFILLED: Any = [{"role": "user", "content": "Name two states."}, {"role": "assistant", "content": '["'}]
STATES = 'Alabama", "Alaska"]'
CALL = ToolCall(name="look_up", arguments={"state": "Alabama", "year": 1819})


@asynccontextmanager
async def bedrock_client(server: Server) -> AsyncGenerator[anthropic.AsyncAnthropicBedrock, None]:
    http = http_of(anthropic).AsyncClient(verify=server.ssl_context or False)
    async with anthropic.AsyncAnthropicBedrock(
        base_url=server.url, api_key="test", aws_region="us-east-1", max_retries=0, timeout=10, http_client=http
    ) as client:
        yield client


@asynccontextmanager
async def vertex_client(server: Server) -> AsyncGenerator[anthropic.AsyncAnthropicVertex, None]:
    http = http_of(anthropic).AsyncClient(verify=server.ssl_context or False)
    async with anthropic.AsyncAnthropicVertex(
        base_url=server.url + "/v1",
        access_token="test",
        project_id="p",
        region="global",
        max_retries=0,
        timeout=10,
        http_client=http,
    ) as client:
        yield client


async def ask(server: Server, path: str = STREAM, messages: Any = PREFILLED) -> httpx2.Response:
    async with client_of(server) as client:
        body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 100, "messages": messages}
        return await client.post(server.url + path, json=body)


def decoded(content: bytes, size: int = 1 << 30) -> list[Delta]:
    """Return the library's deltas of a body that comes in pieces of `size` bytes. Raises what the library raises."""
    wire, codec = EventStreamDecoder(), AnthropicDecoder()
    found: list[Delta] = []
    for at in range(0, len(content), size):
        for record in wire.feed(content[at : at + size]):
            found += codec.decode(record)
    return [*found, *codec.close(wire.close())]


def text_of(found: list[Delta]) -> str:
    return "".join(delta.text for delta in found if isinstance(delta, TextDelta))


def text_until_error(content: bytes, error: type[Exception]) -> str:
    """Return the text that the library yields before it raises `error`."""
    wire, codec = EventStreamDecoder(), AnthropicDecoder()
    found: list[Delta] = []
    with pytest.raises(error):
        take_bytes(content, wire, codec, found)
    return text_of(found)


def text_to_the_end(content: bytes) -> str:
    """Return the text of a stream that the library accepts as complete."""
    found: list[Delta] = []
    take_bytes(content, EventStreamDecoder(), AnthropicDecoder(), found)
    return text_of(found)


def take_bytes(content: bytes, wire: EventStreamDecoder, codec: AnthropicDecoder, found: list[Delta]) -> None:
    for at in range(len(content)):
        for record in wire.feed(content[at : at + 1]):
            found += codec.decode(record)
    codec.close(wire.close())


async def sent(script: Script) -> bytes:
    with fail_after(10):
        async with serve(script) as server:
            response = await ask(server)
            await server.exchanges[0].done.wait()
            assert server.exchanges[0].outcome == "complete"
            assert response.status_code == 200
            return response.content


# --- good replies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tls", "newline", "wire_cuts"),
    [(False, "\n", None), (True, "\r\n", 7), (False, "\r", 1), (False, "\n", 100_000)],
)
async def test_the_sdk_streams_from_bedrock(tls: bool, newline: Any, wire_cuts: int | None) -> None:
    """The SDK reads text, usage and stop reason from Bedrock's frames, with every transport.

    `newline` has no effect there.
    """
    script = Script(text=STATES, newline=newline, wire_cuts=wire_cuts, input_tokens=21, cached_tokens=20)
    with fail_after(10):
        async with serve(script, tls=tls) as server, bedrock_client(server) as client:
            async with client.messages.stream(model=MODEL, max_tokens=99, messages=PREFILLED) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                message = await stream.get_final_message()
            asked = server.exchanges[0]
    assert text == STATES
    assert (message.model, message.stop_reason, message.stop_sequence) == (MODEL, "end_turn", None)
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (21, 5, 20)
    assert (asked.model, asked.streamed, asked.prefill) == (MODEL, True, '["')
    assert asked.last_user_text == "Name two states."
    assert asked.option("model") is asked.option("stream") is None


async def test_the_sdk_reads_thinking_and_tool_calls_from_bedrock() -> None:
    """The SDK reads thinking and tool calls from Bedrock, streamed and as a whole reply."""
    script = Script(text="I look.", reasoning="Hm, hm.", tools=[CALL])
    with fail_after(10):
        async with serve(script) as server, bedrock_client(server) as client:
            async with client.messages.stream(model=MODEL, max_tokens=99, messages=PREFILLED[:1]) as stream:
                streamed = await stream.get_final_message()
            whole = await client.messages.create(model=MODEL, max_tokens=99, messages=PREFILLED[:1])
            assert [(asked.model, asked.streamed) for asked in server.exchanges] == [(MODEL, True), (MODEL, False)]
    for message in (streamed, whole):
        thinking, text, tool = (block.model_dump() for block in message.content)
        assert (thinking["thinking"], text["text"], tool["input"]) == ("Hm, hm.", "I look.", CALL.arguments)
        assert (message.stop_reason, message.id[:9], tool["id"][:11]) == ("tool_use", "msg_bdrk_", "toolu_bdrk_")


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_bedrock_stream_that_is_cut_is_tried_again(framing: Any) -> None:
    """A Bedrock stream that is cut before any text is `Truncated`, and the request is sent again.

    This holds over the SDK's own client. The cuts are in a frame's head, in its headers, in its payload, and between
    two frames. If the stream is cut after some text has come, nothing is sent again.
    """
    content = await sent(Script(text=STATES))
    first = int.from_bytes(content[:4])
    kind = "application/vnd.amazon.eventstream"
    for kept in (1, 4, 11, 12, 13, 40, first - 1, first, first + 5):
        cut = Script(body=content[:kept], content_type=kind, framing=framing)
        with fail_after(10):
            async with serve([cut, cut, Script(text=STATES)]) as server, bedrock_client(server) as client:
                with pytest.raises(Truncated):
                    await stream("hi", model=MODEL, client=client, recovery=Recovery(retries=0)).text()
                reply = stream("Name two states.", prefill='["', model=MODEL, client=client)
                assert await reply.text() == '["' + STATES
                assert [attempt.error for attempt in reply.attempts] == ["Truncated", ""]
                assert (reply.mode, server.exchanges[-1].prefill) == ("native", '["')
    late = Script(body=content[: len(content) // 2], content_type=kind, framing=framing)
    with fail_after(10):
        async with serve([late, Script(text=STATES)]) as server, bedrock_client(server) as client:
            with pytest.raises(Truncated) as cut_late:
                await stream("Name two states.", prefill='["', model=MODEL, client=client).text()
            text = cut_late.value.text_so_far
            assert text.startswith('["A')
            assert ('["' + STATES).startswith(text)
            assert len(server.exchanges) == 1


@pytest.mark.parametrize("size", [1, 7, 1 << 30])
async def test_the_library_decodes_bedrock(size: int) -> None:
    """The library decodes a Bedrock body into the same deltas, however the body is cut."""
    content = await sent(Script(text=STATES, reasoning="Hm.", prefill="echoes", stop_sequence="\n", input_tokens=21))
    found = decoded(content, size)
    texts = [delta.text for delta in found if isinstance(delta, TextDelta)]
    assert texts == ['["', "Alab", 'ama"', ', "A', "lask", 'a"]']
    assert [delta.text for delta in found if isinstance(delta, ReasoningDelta)] == ["Hm."]
    assert [delta for delta in found if isinstance(delta, FinishDelta)] == [
        FinishDelta(StopReason.STOP_SEQUENCE, "stop_sequence", "\n")
    ]
    assert [delta.usage.input_tokens for delta in found if isinstance(delta, UsageDelta)] == [21, 21]
    assert found[-1] == EndDelta()


async def test_the_frames_are_those_of_a_recording() -> None:
    """The frames and headers are those of a recording: no ping, and the metrics in the last event."""
    with fail_after(10):
        async with serve(Script(text="ab", input_tokens=3)) as server:
            response = await ask(server)
    assert response.headers["content-type"] == "application/vnd.amazon.eventstream"
    assert response.headers["x-amzn-bedrock-content-type"] == "application/json"
    assert response.headers["x-amzn-requestid"] == "00000000-0000-4000-8000-000000000000"
    assert "request-id" not in response.headers
    events = [json.loads(record.data) for record in EventStreamDecoder().feed(response.content)]
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    metrics = events[-1]["amazon-bedrock-invocationMetrics"]
    assert (metrics["inputTokenCount"], metrics["outputTokenCount"]) == (3, 1)


async def test_deltas_may_hold_what_utf8_cannot() -> None:
    """Two deltas can each hold half of a surrogate pair, escaped inside the frame."""
    assert text_of(decoded(await sent(Script(cuts=["a\ud83d", "\ude00b"])))) == "a\U0001f600b"


# --- errors ---------------------------------------------------------------------------------------------------


async def test_a_refusal_is_a_validation_exception() -> None:
    """A refusal is a 400 with AWS's body, for a stream and for a whole reply. Without a prefill the model answers."""
    with fail_after(10):
        async with serve(Script(text=STATES, prefill="refuses")) as server:
            for path in (STREAM, WHOLE):
                refused = await ask(server, path)
                assert (refused.status_code, refused.json()) == (400, {"message": REFUSAL})
                assert refused.headers["x-amzn-errortype"].startswith("ValidationException:http://")
                assert body_error(400, refused.content, refused.headers) == ("ValidationException", REFUSAL)
            taken = await ask(server, messages=PREFILLED[:1])
            async with bedrock_client(server) as client:
                with pytest.raises(anthropic.BadRequestError, match=REFUSAL):
                    await client.messages.create(model=MODEL, max_tokens=9, messages=PREFILLED, stream=True)
    assert text_of(decoded(taken.content)) == STATES


@pytest.mark.parametrize(
    ("status", "error", "name", "says"),
    [
        (403, None, "AccessDeniedException", "Forbidden"),
        (404, None, "ResourceNotFoundException", "Not Found"),
        (413, None, "ValidationException", None),
        (429, None, "ThrottlingException", "Too Many Requests"),
        (500, None, "InternalServerException", "Internal Server Error"),
        (503, None, "ServiceUnavailableException", "Service Unavailable"),
        (400, ("rate_limit_error", "Slow"), "ThrottlingException", "Slow"),
        (424, ("ModelErrorException", "No"), "ModelErrorException", "No"),
        (400, ("made_up", "My words"), "made_up", "My words"),
    ],
)
async def test_an_error_status_is_awss(status: int, error: Any, name: str, says: str | None) -> None:
    """An error status has its type in a header (the usual one or the script's), and only the message in its body."""
    with fail_after(10):
        async with serve(Script(status=status, error=error, retry_after=1)) as server:
            response = await ask(server)
    assert (response.status_code, response.headers["retry-after"]) == (status, "1")
    assert list(response.json()) == ["message"]
    kind, detail = body_error(status, response.content, response.headers)
    assert kind == name
    assert says is None or detail == says


@pytest.mark.parametrize(
    ("kind", "name", "status"),
    [
        ("invalid_request_error", "validationException", 400),
        ("rate_limit_error", "throttlingException", 429),
        ("overloaded_error", "serviceUnavailableException", 503),
        ("api_error", "internalServerException", 500),
        ("timeout_error", "modelTimeoutException", 408),
        ("permission_error", "modelStreamErrorException", 424),
        ("made_up", "modelStreamErrorException", 424),
        ("", "modelStreamErrorException", 424),
        ("modelStreamErrorException", "modelStreamErrorException", 424),
        ("AccessDeniedException", "accessDeniedException", 403),
    ],
)
async def test_an_error_event_is_an_exception_frame(kind: str, name: str, status: int) -> None:
    """An error event is an exception frame with AWS's name for it.

    It comes after exactly `after` characters, as the last frame.
    """
    found = decoded(await sent(Script(text="abcdefgh", after=6, error_event=(kind, "No more"))))
    assert text_of(found) == "abcdef"
    assert found[-1] == ErrorDelta(status, name, "No more")


async def test_an_exception_frame_is_the_sdks_error() -> None:
    """An exception frame in a response with status 200 is the SDK's own error, after the text that came before it."""
    script = Script(text="abcdefgh", after=6, error_event=("overloaded_error", "Overloaded"))
    with fail_after(10):
        async with serve(script) as server, bedrock_client(server) as client:
            pieces = []
            # anthropic before 1.0 turns the frame into a ValueError
            with pytest.raises((anthropic.APIStatusError, ValueError), match="Overloaded"):
                async with client.messages.stream(model=MODEL, max_tokens=9, messages=PREFILLED) as stream:
                    async for piece in stream.text_stream:
                        pieces.append(piece)
    assert pieces == ["abcd", "ef"]


# --- faults in frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"no_end": True}, {"half_event_at_end": True}])
async def test_the_end_is_missing(fields: dict[str, Any]) -> None:
    """With `no_end` or half an event, all of the text comes, and the library raises `Truncated`."""
    content = await sent(Script(text=STATES, **fields))
    assert text_until_error(content, Truncated) == STATES


async def test_the_terminal_record_is_missing() -> None:
    """Without the terminal record the reply is complete, because the stop reason is there."""
    assert text_to_the_end(await sent(Script(text=STATES, no_done=True))) == STATES


async def test_the_last_frame_is_one_byte_short() -> None:
    """With `no_last_blank` the last frame lacks one byte.

    The reply is complete, because the stop reason came before.
    """
    whole, short = await sent(Script(text=STATES)), await sent(Script(text=STATES, no_last_blank=True))
    assert short == whole[:-1]
    assert text_to_the_end(short) == STATES


async def test_it_talks_after_its_end() -> None:
    """With `text_after_end` another good frame comes after the end, and its text is not part of the reply."""
    content = await sent(Script(text=STATES, text_after_end="And more"))
    records = EventStreamDecoder().feed(content)
    assert b"And more" in records[-1].data
    assert b"message_stop" in records[-2].data
    assert text_of(decoded(content)) == STATES


async def test_one_event_is_not_json() -> None:
    """With `bad_event="json"` the frame is whole and its checksums are right, but the event in it breaks off."""
    content = await sent(Script(text=STATES, after=6, bad_event="json"))
    records = EventStreamDecoder().feed(content)
    assert len([record for record in records if record.data.endswith(b'"text":"')]) == 1
    assert b"message_stop" in records[-1].data
    assert text_until_error(content, ProtocolError) == STATES[:6]


async def test_one_event_is_not_utf8() -> None:
    """With `bad_event="utf8"` the bad byte is inside the frame. The library replaces it with U+FFFD."""
    content = await sent(Script(text=STATES, after=6, bad_event="utf8"))
    assert len([record for record in EventStreamDecoder().feed(content) if b'"text":"\xff"' in record.data]) == 1
    assert text_of(decoded(content)) == STATES[:6] + "\ufffd" + STATES[6:]


async def test_bytes_of_ones_own_are_no_frame() -> None:
    """Inserted bytes come unchanged between two frames, and no reader can read past them."""
    inserted = b": one\n\nretry: 5\n\n"
    content = await sent(Script(text=STATES, after=6, insert=inserted, newline="\r\n"))
    assert inserted in content
    assert text_until_error(content, ProtocolError) == STATES[:6]


@pytest.mark.parametrize("size", [5, 200_000])
async def test_a_frame_has_no_end(size: int) -> None:
    """With `endless_line` the stream ends with `size` bytes of a frame that claims to be longer."""
    content = await sent(Script(text=STATES, endless_line=size))
    assert len(content) == len(await sent(Script(text=STATES, after=99, no_end=True))) + size
    assert text_until_error(content, Truncated) == STATES


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"drop_after_bytes": 700}, "dropped"),
        ({"drop_after_bytes": 700, "framing": "length"}, "dropped"),
        ({"reset_after_bytes": 700}, "reset"),
    ],
)
async def test_it_breaks_off_after_n_bytes(fields: dict[str, Any], outcome: str) -> None:
    """A connection that breaks after 700 bytes breaks in the middle of a frame."""
    with fail_after(10):
        async with serve(Script(text=STATES, **fields)) as server:
            with pytest.raises(httpx2.TransportError):
                await ask(server)
            exchange = server.exchanges[0]
            await exchange.done.wait()
            assert (exchange.outcome, exchange.sent_bytes) == (outcome, 700)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"stall_after": 6}, STATES[:6]),
        ({"hold_open_s": math.inf}, STATES),
        ({"keepalive_after": 6, "keepalive_s": 0.001}, STATES[:6]),
    ],
)
async def test_it_stalls_and_keeps_alive(fields: dict[str, Any], says: str) -> None:
    """Between two frames the server stalls until the client leaves, or sends pings in frames of their own."""
    wire, codec, found = EventStreamDecoder(), AnthropicDecoder(), list[Any]()
    pings = 0
    with fail_after(10):
        async with serve(Script(text=STATES, **fields)) as server, client_of(server) as client:
            async with client.stream("POST", server.url + STREAM, json={}) as response:
                async with aclosing(response.aiter_raw()) as pieces:
                    async for piece in pieces:
                        for record in wire.feed(piece):
                            found += codec.decode(record)
                            pings += record.data == b'{"type":"ping"}'
                        ends = {"stall_after": text_of(found) == says, "keepalive_after": pings > 20}
                        if ends.get(next(iter(fields)), EndDelta() in found):
                            break
            exchange = server.exchanges[0]
            await exchange.done.wait()
            assert exchange.outcome == "client_closed"
    assert text_of(found) == says
    assert (EndDelta() in found) == ("hold_open_s" in fields)


# --- Vertex ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-haiku-4-5@20251001"])
async def test_the_sdk_takes_it_for_vertex(model: str) -> None:
    """The SDK takes the server for Vertex, streamed and as a whole reply. The request's body has no model."""
    with fail_after(10):
        async with serve(Script(text=STATES, prefill="echoes")) as server, vertex_client(server) as client:
            async with client.messages.stream(model=model, max_tokens=99, messages=PREFILLED) as stream:
                streamed = await stream.get_final_message()
            whole = await client.messages.create(model=model, max_tokens=99, messages=PREFILLED)
            first, second = server.exchanges
    for message in (streamed, whole):
        assert message.content[0].model_dump()["text"] == '["' + STATES
        assert message.model == model
    assert (first.model, first.streamed, first.prefill) == (model, True, '["')
    assert (second.model, second.streamed, second.prefill) == (model, False, '["')
    assert first.option("model") is None


async def test_vertex_fails_as_anthropic_does() -> None:
    """Vertex fails as Anthropic does: with server-sent events and Anthropic's errors."""
    scripts = [
        Script(text=STATES, no_end=True),
        Script(prefill="refuses"),
        Script(text="ab", error_event=("overloaded_error", "Overloaded")),
    ]
    path = "/v1/projects/p/locations/global/publishers/anthropic/models/claude-haiku-4-5:streamRawPredict"
    with fail_after(10):
        async with serve(scripts) as server:
            cut, refused, failed = [await ask(server, path) for _ in scripts]
    assert cut.headers["content-type"].startswith("text/event-stream")
    assert "".join(deltas(cut.text)) == STATES
    assert not is_whole(cut.text)
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, REFUSAL)
    assert "event: error\n" in failed.text

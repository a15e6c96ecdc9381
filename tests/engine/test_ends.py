"""Which records end a reply, what counts as a truncated stream, and what does neither.

The test builds the body itself.
"""

from __future__ import annotations

import httpx2
import pytest

from aprefill import ProtocolError, Recovery, StatusError, StopReason, Truncated
from aprefill.testing._wires.aws_frames import chunk

from ..support.bodies import DONE, STOP, block, chat, event, finish, host, piece

pytestmark = [pytest.mark.anyio, pytest.mark.any_loop]

HI = [block(0, "text", text=""), piece(0, "text_delta", text="Hi")]
LOST = httpx2.ReadError("connection reset")


@pytest.mark.parametrize("wire", ["messages", "chat"])
async def test_a_stop_reason_is_the_models_own_end(wire: str) -> None:
    """After a stop reason the body may end or break on every wire.

    The reply is complete and the report has the break.
    """
    records = [*HI, finish("end_turn")] if wire == "messages" else [chat("Hi"), chat(reason="stop")]
    async with host(records) as ask:
        reply = ask(wire)
        assert await reply.text() == "Hi"
        assert reply.stop_reason is StopReason.END
        assert (reply.attempts[0].broken_end, reply.attempts[0].error) == ("", "")
    for broken in ([LOST], [b'data: {"broken'], [b"data: " + b"x" * 1_100_000, LOST]):
        async with host([*records, *broken]) as ask:
            reply = ask(wire)
            assert await reply.text() == "Hi"
            assert (reply.stop_reason, reply.attempts[0].error) == (StopReason.END, "")
            if broken[-1] is LOST:
                assert reply.attempts[0].broken_end


@pytest.mark.parametrize("wire", ["messages", "chat"])
async def test_without_one_it_is_cut(wire: str) -> None:
    """The control: the same ends without a stop reason raise `Truncated`."""
    records = HI if wire == "messages" else [chat("Hi")]
    for broken in ([], [LOST]):
        async with host([*records, *broken]) as ask:
            with pytest.raises(Truncated) as cut:
                await ask(wire).text()
            assert cut.value.text_so_far == "Hi"


async def test_done_without_a_finish_reason_names_the_setting() -> None:
    """Without a finish reason, `[DONE]` raises an error that names the setting.

    Snowflake Cortex never sends a finish reason, and its row has the setting.
    """
    async with host([chat("4"), DONE]) as ask:
        with pytest.raises(Truncated, match='set end = "done" in its row'):
            await ask("chat").text()
        assert await ask("chat", model="snowflake:claude-sonnet-4-6").text() == "4"
    async with host([chat("4")]) as ask:
        with pytest.raises(Truncated):
            await ask("chat", model="snowflake:claude-sonnet-4-6").text()


# --- whether a stream had begun -----------------------------------------------------------------------------------


BEDROCK = "application/vnd.amazon.eventstream"
NDJSON = "application/x-ndjson"


def whole(kind: str) -> bytes:
    if kind == BEDROCK:
        return b"".join(chunk(record.partition(b"data: ")[2].strip()) for record in (*HI, finish("end_turn"), STOP))
    if kind == NDJSON:
        return b"".join(record.partition(b"data: ")[2].strip() + b"\n" for record in (*HI, finish("end_turn"), STOP))
    return b"".join([*HI, finish("end_turn"), STOP])


@pytest.mark.parametrize("kind", [BEDROCK, NDJSON, "text/event-stream"])
async def test_a_body_that_is_cut_early_is_cut_on_every_wire(kind: str) -> None:
    """A body that ends at any byte of the first record raises `Truncated`, and the request is sent again."""
    body = whole(kind)
    for kept in (*range(1, 40), 60):
        async with host([body[:kept]], [body], headers={"content-type": kind}) as ask:
            with pytest.raises(Truncated):
                await ask("messages").text()
        async with host([body[:kept]], [body], headers={"content-type": kind}) as ask:
            reply = ask("messages", recovery=Recovery(retries=1))
            assert await reply.text() == "Hi"
            assert [report.error for report in reply.attempts] == ["Truncated", ""]


@pytest.mark.parametrize("body", [b"<html>", b"no stream at all", b'["x"]', b"\x1f\x8b\x08\x00"])
@pytest.mark.parametrize("kind", [BEDROCK, NDJSON, "text/event-stream"])
async def test_what_is_no_stream_is_none_on_every_wire(kind: str, body: bytes) -> None:
    """The control: HTML, a sentence, other JSON and compressed bytes raise `ProtocolError` without a retry."""
    async with host([body], headers={"content-type": kind}) as ask:
        reply = ask("messages", recovery=Recovery(retries=1))
        with pytest.raises(ProtocolError):
            await reply.text()
        assert len(reply.attempts) == 1


# --- what no text needs -------------------------------------------------------------------------------------------


async def test_fields_that_no_text_needs() -> None:
    """Odd values in fields that the text does not need are accepted.

    Examples: a refusal that is false, an index as text, an id that is a number, and an event of the host named noError.
    """
    pieces = [{"index": "0", "id": 1, "function": {"name": "f", "arguments": '{"a":'}}]
    more = [{"index": "0", "function": {"arguments": "1}"}}]
    for name, data in (("noError", {"status": "ok"}), ("noError", {"message": "fine"}), ("lastError", {"none": 1})):
        body = [
            event(data, name),
            chat("Hi", refusal=False),
            chat(tool_calls=pieces),
            chat(tool_calls=more, refusal=False),
            chat(reason="tool_calls"),
            DONE,
        ]
        async with host(body) as ask:
            reply = ask("chat")
            assert await reply.text() == "Hi"
            (made,) = reply.message["tool_calls"]
            assert (made["id"], made["function"]) == ("1", {"name": "f", "arguments": '{"a":1}'})


async def test_an_event_named_error_still_is_one() -> None:
    """The control: "error", AWS's exceptions, and an unknown event whose payload is an error raise `StatusError`."""
    for name in ("error", "throttlingException", "InternalServerError", "UpstreamError"):
        async with host([chat("Hi"), event({"message": "sorry"}, name), chat("more", "stop"), DONE]) as ask:
            with pytest.raises(StatusError, match="sorry"):
                await ask("chat").text()


async def test_a_charset_in_the_wrong_header_is_no_compression() -> None:
    """`content-encoding: utf-8` is ignored; gzip, alone or in a list, raises an error that names compression."""
    for encoding in ("utf-8", "UTF8", "none", "identity", ""):
        async with host([chat("Hi", "stop"), DONE], headers={"content-encoding": encoding}) as ask:
            assert await ask("chat").text() == "Hi"
    for encoding in ("gzip", "utf-8, br", "x-gzip"):
        async with host([chat("Hi", "stop"), DONE], headers={"content-encoding": encoding}) as ask:
            with pytest.raises(ProtocolError, match="compressed"):
                await ask("chat").text()

"""The public surface, pinned for type checkers: read by mypy under --strict, never run."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import httpx2
from starlette.responses import Response
from starlette.websockets import WebSocket

from aprefill import (
    Absent,
    AprefillError,
    AttemptEnded,
    AttemptReport,
    AttemptStarted,
    ConnectFailed,
    Deduped,
    DedupedSync,
    DedupeShowWhen,
    Echo,
    Emulation,
    Event,
    HeldEvent,
    KnownRefusal,
    LimitExceeded,
    Limits,
    Message,
    PrefillIgnored,
    PrefillRefused,
    Prompt,
    ProtocolError,
    ProviderError,
    ReasoningEvent,
    Recovery,
    Reply,
    ReplyClosed,
    ReplyConsumed,
    Seam,
    Session,
    ShowWhen,
    Stalled,
    StatusError,
    StopReason,
    Support,
    SupportRow,
    SupportTable,
    SyncReply,
    SyncSession,
    TextEvent,
    Timeouts,
    Timing,
    ToolEvent,
    Truncated,
    Unset,
    Usage,
    UsageError,
    Verdict,
    dedupe,
    dedupe_sync,
    stream,
    stream_sync,
    support_table,
)
from aprefill.web import EventStreamResponse, origin_allowed, sse, websocket


async def the_front_door(client: httpx2.AsyncClient, table: SupportTable) -> None:
    reply = stream("hi", prefill="x", model="anthropic:claude-haiku-4-5")
    assert_type(reply, Reply)
    async for chunk in reply:
        assert_type(chunk, str)
    async for event in stream("hi").events(coalesce=True, held=True):
        assert_type(event, Event)
        assert_type(event.as_dict(), dict[str, Any])
        match event:
            case TextEvent():
                assert_type(event.text, str)
                assert_type(event.offset, int)
                assert_type(event.prefill, bool)
            case HeldEvent():
                assert_type((event.text, event.more), tuple[str, bool])
            case ReasoningEvent():
                assert_type(event.text, str)
            case ToolEvent():
                assert_type((event.index, event.id, event.name, event.arguments), tuple[int, str, str, str])
            case AttemptStarted():
                assert_type(event.support, Support)
            case AttemptEnded():
                assert_type(event.report, AttemptReport)
                assert_type(event.report.error, str)
                assert_type(event.report.waited_s, float)
                assert_type(event.report.usage, Usage | None)
    assert_type(await reply.text(), str)
    assert_type(reply.text_so_far, str)
    assert_type(reply.verdict, Verdict)
    assert_type(reply.mode, str | None)
    assert_type(reply.support, Support | None)
    assert_type(reply.closes_at_once, bool | None)
    assert_type(reply.attempts, tuple[AttemptReport, ...])
    assert_type(reply.usage, Usage | None)
    assert_type(reply.stop_reason, StopReason | None)
    assert_type(reply.stop_sequence, str | None)
    assert_type(reply.timing, Timing)
    assert_type(reply.timing.as_dict(), dict[str, Any])
    assert_type(reply.attempts[0].as_dict(), dict[str, Any])
    assert_type(reply.timing.held_s, float | None)
    reply.cancel()
    await reply.aclose()
    async with stream(
        [{"role": "user", "content": "hi"}],
        prefill="x",
        model="m",
        client=client,
        base_url="https://host.test/v1",
        api_key="k",
        api="chat",
        allow_http=True,
        system="s",
        max_tokens=10,
        stop=["\n"],
        temperature=0.5,
        thinking={"type": "disabled"},
        tools=[{"type": "function"}],
        response_format={"type": "json_object"},
        extra={"seed": 1},
        support=Support.EATS,
        emulate=Emulation(begin="{text}", continued="{open}{text}{close}{end}", again="{text}"),
        absent="raise",
        strict=True,
        show_when="decided",
        show_from="x",
        coalesce=True,
        recovery=Recovery(retries=1, max_wait_s=2.5),
        timeouts=Timeouts(connect_s=1, first_token_s=2, progress_s=3, idle_s=4, total_s=None),
        limits=Limits(record_bytes=2_000_000, error_body_bytes=10, drain_s=0.5, reply_chars=None),
    ) as owned:
        assert_type(owned, Reply)
    async with Session(
        "anthropic:claude-haiku-4-5",
        allow_http=False,
        max_tokens=5,
        emulate=False,
        absent="retry",
        recovery=Recovery(),
        table=table,
    ) as session:
        assert_type(session, Session)
        assert_type(session.stream("hi", prefill="x", stop="\n", max_tokens=None), Reply)
        assert_type(session.stream("hi", allow_http=True), Reply)
        assert_type(session.stream("hi", emulate=True, absent="join", recovery=Recovery(retries=0)), Reply)


def without_async(table: SupportTable) -> None:
    reply = stream_sync("hi", prefill="x", model="anthropic:claude-haiku-4-5", timeouts=Timeouts(idle_s=4))
    assert_type(reply, SyncReply)
    for chunk in reply:
        assert_type(chunk, str)
    for event in stream_sync("hi").events(coalesce=True, held=True):
        assert_type(event, Event)
    assert_type(reply.text(), str)
    assert_type(reply.text_so_far, str)
    assert_type(reply.verdict, Verdict)
    assert_type(reply.mode, str | None)
    assert_type(reply.support, Support | None)
    assert_type(reply.closes_at_once, bool | None)
    assert_type(reply.attempts, tuple[AttemptReport, ...])
    assert_type(reply.usage, Usage | None)
    assert_type(reply.stop_reason, StopReason | None)
    assert_type(reply.stop_sequence, str | None)
    assert_type(reply.timing, Timing)
    reply.cancel()
    reply.close()
    with stream_sync("hi", stop=["\n"]) as owned:
        assert_type(owned, SyncReply)
    with SyncSession("anthropic:claude-haiku-4-5", max_tokens=5, table=table) as session:
        assert_type(session, SyncSession)
        assert_type(session.stream("hi", prefill="x", max_tokens=None), SyncReply)
        session.close()
    stream_sync("hi", prefil="x")  # type: ignore[call-arg]  # the arguments are checked
    session.stream("hi", max_tokens="5")  # type: ignore[arg-type]


def the_values(usage: Usage, recovery: Recovery, emulation: Emulation) -> None:
    assert_type(usage.echo_tokens, int | None)
    assert_type(usage + usage, Usage)
    assert_type(usage.as_dict(), dict[str, Any])
    words: list[str] = [Support.EATS, Verdict.ABSENT, StopReason.END]
    print(words)
    assert_type((recovery.retries, recovery.max_wait_s), tuple[int, float])
    assert_type((emulation.begin, emulation.continued, emulation.again), tuple[str, str, str])


def the_stages() -> None:
    seam = Seam("known", echo="maybe", whitespace=True, fence=True, preamble=200, overlap=16, stripped="")
    assert_type(seam.feed("piece"), str)
    assert_type(seam.close(cut=True), str)
    assert_type(seam.verdict, Verdict)
    assert_type(seam.held, int)
    assert_type(seam.overlap_length, int)
    assert_type(support_table(), tuple[SupportRow, ...])


async def the_buffer(chunks: AsyncIterator[str | None], plain: Iterator[str | None]) -> None:
    async for chunk in dedupe(chunks, "x", echo="maybe", whitespace=True, fence=True, preamble=0, show_when="now"):
        assert_type(chunk, str)
    for piece in dedupe_sync(plain, "x"):
        assert_type(piece, str)


async def the_back_ends(ws: WebSocket, reply: Reply) -> Response:
    heard: list[str | bytes] = []
    assert_type(origin_allowed(ws, ["https://chat.example"]), bool)
    assert_type(await websocket(ws, reply), bool)
    await websocket(
        ws,
        reply,
        reasoning=True,
        tools=True,
        attempts=True,
        details=True,
        origins="any",
        heartbeat_s=None,
        send_timeout_s=5,
        keep_open=True,
        on_message=heard.append,
    )
    assert_type(sse(reply), EventStreamResponse)
    return sse(
        reply,
        reasoning=True,
        tools=True,
        attempts=True,
        details=True,
        heartbeat_s=5,
        send_timeout_s=None,
        begin_after_s=0,
        reconnects=True,
        headers={"x-mine": "1"},
        background=None,
    )


def the_errors(error: AprefillError) -> None:
    assert_type(error.text_so_far, str)
    usage: list[type[UsageError]] = [ReplyConsumed, ReplyClosed]
    provider: list[type[ProviderError]] = [
        ConnectFailed,
        LimitExceeded,
        PrefillIgnored,
        PrefillRefused,
        ProtocolError,
        Stalled,
        StatusError,
        Truncated,
    ]
    print(usage, provider)
    if isinstance(error, ConnectFailed):
        assert_type((error.host, error.port, error.reason, error.may_pass), tuple[str, int | None, str, bool])
    if isinstance(error, StatusError):
        assert_type(error.url, str)
        assert_type(error.status, int)
        assert_type(error.retry_after_s, float | None)
        assert_type(error.request_id, str | None)
    assert_type((error.problem, error.remedy, error.may_pass), tuple[str, str, bool])


def the_names_of_types(
    prompt: Prompt, when: ShowWhen, absent: Absent, echo: Echo, dedupe_when: DedupeShowWhen
) -> Message:
    """A wrapper of a caller's own can be typed with what is public."""
    reply = stream(prompt, prefill="x", show_when=when, absent=absent)
    buffer: Deduped = dedupe(reply, "x", echo=echo, show_when=dedupe_when)
    plain: DedupedSync = dedupe_sync(["x"], "x")
    kept: type[Unset] = Unset
    refusals: tuple[KnownRefusal, ...] = support_table()[0].refusals
    print(buffer, plain, kept, refusals)
    return reply.message

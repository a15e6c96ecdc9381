"""A rule in `ANSWERS` is enough to continue a reply, to resume it after a cut, or to go on with another host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

from aprefill import AttemptEnded, Limits, Reply, Session, StatusError, StopReason, TextEvent, stream
from aprefill._engine.connection import live
from aprefill._engine.transcript import Transcript
from aprefill._plan.first import Way, plan_first
from aprefill._plan.next import ANSWERS, Answer, Outcome
from aprefill.testing import Script, serve

from ..support.bodies import DONE, call, chat, event, host
from ..support.loopback import chunks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aprefill._plan.request import Request
    from aprefill._plan.step import AttemptPlan

pytestmark = pytest.mark.anyio

PREFILL = "zero "
WHOLE = "zero one two three four five six"
FIRST = [chat("one "), chat("two "), chat("three "), chat("four ")]


def usage(tokens: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}})


#: What ends the first body -> its last records.
ENDS: dict[str, list[bytes]] = {
    "clean end": [chat(reason="length"), usage(4), DONE],
    "error": [usage(4), event({"error": {"type": "overloaded_error", "message": "busy", "code": 529}})],
    "cut": [usage(4)],
}
#: The stop reasons after which the tests' rule continues a reply.
CONTINUED = {StopReason.MAX_TOKENS, StopReason.OTHER}
SECOND = [chat("five "), chat("six"), chat(reason="stop"), usage(2), DONE]


def from_the_known_text(
    request: Request, outcome: Outcome, chance: float, token: Callable[[], str]
) -> AttemptPlan | None:
    """Ask the same host to continue the known text."""
    return plan_first(request, outcome.known, Way(outcome.plan.target, outcome.plan.transport, token))


def _may_continue(outcome: Outcome) -> bool:
    return outcome.error is None and outcome.finish is not None and outcome.finish.reason in CONTINUED


def _may_resume(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.may_pass and outcome.has_token


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Add a rule for a token limit and one for a cut. Return the list of outcomes for which they were used."""
    found: list[Outcome] = []

    def follow(request: Request, outcome: Outcome, chance: float, token: Callable[[], str]) -> AttemptPlan | None:
        found.append(outcome)
        return from_the_known_text(request, outcome, chance, token)

    rules = (Answer("continue", _may_continue, follow), Answer("resume", _may_resume, follow))
    monkeypatch.setattr("aprefill._plan.next.ANSWERS", (*rules, *ANSWERS))
    return found


def cuts(records: Sequence[bytes]) -> list[list[bytes]]:
    """Return the body by record, whole, and in two parts at every record."""
    parts = [[b"".join(records[:at]), b"".join(records[at:])] for at in range(1, len(records))]
    return [list(records), [b"".join(records)], *parts]


def facts(reply: Any, sent: list[Any]) -> dict[str, Any]:
    return {
        "requests": sent,
        "text": reply.text_so_far,
        "message": reply.message,
        "usage": reply.usage,
        "stop_reason": reply.stop_reason,
        "verdict": reply.verdict,
        "reports": [(a.stop_reason, a.usage, bool(a.error)) for a in reply.attempts],
    }


OPTIONS: dict[str, Any] = {"prefill": PREFILL, "support": "eats"}


async def read_events(reply: Reply) -> str:
    events = [event_ async for event_ in reply.events()]
    assert len([one for one in events if isinstance(one, AttemptEnded)]) == 2
    texts = [one for one in events if isinstance(one, TextEvent)]
    assert [one.offset for one in texts] == [sum(len(a.text) for a in texts[:n]) for n in range(len(texts))]
    return "".join(one.text for one in texts)


async def read_chunks(reply: Reply) -> str:
    return "".join(await chunks_of(reply))


async def read_text(reply: Reply) -> str:
    return await reply.text()


async def read_ahead(reply: Reply) -> str:
    """Read as a synchronous reply does: take everything that is there in one pull."""
    reply._run.reads_ahead = True
    return await read_chunks(reply)


READERS: dict[str, Any] = {"chunks": read_chunks, "ahead": read_ahead, "text": read_text, "events": read_events}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("end", ENDS)
async def test_the_next_request_has_all_text(end: str, read: str, outcomes: list[Outcome]) -> None:
    """However the network cuts the first body, the second request, the reply, message and usage are the same."""
    first = [*FIRST, *ENDS[end]]
    found: list[dict[str, Any]] = []
    for pieces in cuts(first):
        sent: list[Any] = []
        async with host(pieces, SECOND, sent=sent) as ask:
            reply = ask("chat", **OPTIONS)
            assert await READERS[read](reply) == WHOLE
        found.append(facts(reply, sent))
        assert outcomes.pop().known == "zero one two three four "
        assert not outcomes
    assert found == [found[0]] * len(found)
    whole = found[0]
    assert [request["messages"][-1]["content"] for request in whole["requests"]] == [
        PREFILL,
        "zero one two three four ",
    ]
    assert (whole["text"], whole["message"]) == (WHOLE, {"role": "assistant", "content": WHOLE})
    assert whole["usage"].output_tokens == 6
    assert whole["stop_reason"] is StopReason.END
    stop = StopReason.MAX_TOKENS if end == "clean end" else None
    assert [(reason, error) for reason, _, error in whole["reports"]] == [
        (stop, end != "clean end"),
        (StopReason.END, False),
    ]


async def test_control_yielded_text_alone_depends_on_the_cut(
    outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with the yielded text alone, the next request lacks text that came in the same network read."""
    monkeypatch.setattr(Transcript, "all_text", property(Transcript._yielded))
    async with host([b"".join([*FIRST, *ENDS["clean end"]])], SECOND) as ask:
        reply = ask("chat", **OPTIONS)
        await reply.text()
    assert outcomes[0].known == PREFILL
    assert reply.message["content"] == "zero five six"


# --- the message --------------------------------------------------------------------------------------------------


def looked(id_: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": "look", "arguments": arguments}}


WITH_CALLS = [
    [
        chat("one "),
        chat(**call(0, "t", "look", "{}")),
        chat("two "),
        chat(**call(1, "u", "look", "[]")),
        chat("three "),
        chat(**call(2, "v", "look", "1")),
        *ENDS["clean end"],
    ],
    [
        chat(**call(0, "w", "look", "2")),
        chat("four"),
        chat(**call(1, "x", "look", "3")),
        chat(reason="tool_calls"),
        usage(2),
        DONE,
    ],
]


async def left_after(reply: Reply, count: int, how: str) -> tuple[bool, dict[str, Any]]:
    """Leave the reply after `count` chunks or events. Return whether there were fewer, and the facts."""
    seen = 0
    async for _ in reply.events() if how.startswith("events") else reply:
        seen += 1
        if seen == count:
            if how.endswith("cancel"):
                reply.cancel()
            else:
                break
    found = facts(reply, [])
    # The reader cannot know how much of the next request the engine has begun.
    found["reports"] = found["reports"][0][:2]
    return seen < count, found


@pytest.mark.usefixtures("outcomes")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("how", ["break", "cancel", "events break", "events cancel"])
async def test_the_message_is_from_all_requests(how: str) -> None:
    """A reply that is left after any chunk has the message and usage up to there, with the calls of both requests."""
    found: list[list[dict[str, Any]]] = []
    for pieces in cuts(WITH_CALLS[0]):
        states: list[dict[str, Any]] = []
        is_over = False
        while not is_over:
            async with host(pieces, WITH_CALLS[1]) as ask:
                is_over, state = await left_after(ask("chat", **OPTIONS), len(states) + 1, how)
            states.append(state)
        found.append(states)
    for states in found[1:]:
        assert states == found[0]
    whole = [looked("t", "{}"), looked("u", "[]"), looked("v", "1"), looked("w", "2"), looked("x", "3")]
    assert found[0][-1]["message"] == {
        "role": "assistant",
        "content": "zero one two three four",
        "tool_calls": whole,
    }
    if not how.startswith("events"):
        messages = [state["message"] for state in found[0]]
        contents = [message["content"] for message in messages]
        assert contents == [PREFILL, "zero one ", "zero one two ", "zero one two three ", *[contents[-1]] * 2]
        assert [len(message.get("tool_calls", ())) for message in messages] == [0, 0, 1, 2, 4, 5]


@pytest.mark.usefixtures("outcomes")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_times_of_the_first_request_are_kept() -> None:
    """A continuation keeps the time of the first token and of the first text, because that text stays."""
    async with host([b"".join([*FIRST, *ENDS["clean end"]])], SECOND) as ask:
        reply = ask("chat", **OPTIONS)
        cursor = aiter(reply)
        assert [await anext(cursor) for _ in range(2)] == [PREFILL, "one "]
        first = reply.timing
        assert first.held_s is not None
        async for _ in cursor:
            pass
    assert reply.timing.first_token_s == first.first_token_s is not None
    assert reply.timing.held_s == first.held_s >= 0


@pytest.mark.usefixtures("outcomes")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_failure_in_between_keeps_the_times_too() -> None:
    """If the continuation itself is sent again after a failure, the times of the first text are still kept."""
    first = Script(text="one two ", stop_reason="max_tokens", wire_cuts=1 << 16)
    async with serve([first, Script(status=503), Script(text="three")]) as server:
        reply = stream("hi", model="vllm:m", base_url=server.openai_url, **OPTIONS)
        seen = None
        async for _ in reply:
            seen = seen or reply.timing.first_token_s
        assert (reply.text_so_far, len(reply.attempts)) == ("zero one two three", 3)
        assert reply.timing.first_token_s == seen is not None


@pytest.mark.usefixtures("outcomes")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_text_that_only_the_end_shows_has_its_time() -> None:
    """Text that may still be the repetition is shown at the end of the first request, and has its time then."""
    first = [chat("ze"), chat(reason="elapsed"), DONE]
    async with host([b"".join(first)], SECOND) as ask:
        reply = ask("chat", **{**OPTIONS, "support": "echoes"})
        async for chunk in reply:
            if "ze" in chunk.removeprefix(PREFILL):
                assert len(reply.attempts) == 1
                assert reply.timing.first_text_s is not None
                break
        else:
            pytest.fail("the first text did not come")


# --- another host -------------------------------------------------------------------------------------------------


@pytest.fixture
def fail_over(monkeypatch: pytest.MonkeyPatch) -> Callable[[Reply], None]:
    """Add a rule that goes on with the host of another reply, once a host has failed. Return what sets that reply."""
    others: list[Way] = []

    def follow(request: Request, outcome: Outcome, chance: float, token: Callable[[], str]) -> AttemptPlan | None:
        return plan_first(request, outcome.known, others.pop()._replace(token=token))

    def fails(outcome: Outcome) -> bool:
        return bool(others) and isinstance(outcome.error, StatusError) and outcome.error.status == 503

    monkeypatch.setattr("aprefill._plan.next.ANSWERS", (Answer("fail over", fails, follow), *ANSWERS))
    return lambda reply: others.append(reply._run.requests._way)


async def test_a_refusal_is_remembered_for_the_host_that_refused(fail_over: Callable[[Reply], None]) -> None:
    """After a fail-over, a refusal and the repr name the second host. The first one still gets native prefills."""
    refuses = Script(text="one", prefill="refuses", echo_text=PREFILL)
    eats = Script(text="one", prefill="eats")
    async with serve([Script(status=503), eats]) as a, serve([refuses, refuses, eats]) as b:
        async with Session("anthropic:claude-haiku-4-5", base_url=a.url, api_key="k") as session:
            there: dict[str, Any] = {"model": "anthropic:claude-sonnet-4-5", "base_url": b.url, "api_key": "j"}
            reply = session.stream("hi", prefill=PREFILL)
            fail_over(session.stream("hi", **there))
            assert repr(reply).startswith("<Reply anthropic:claude-haiku-4-5 new")
            assert await reply.text() == "zero one"
            assert [attempt.mode for attempt in reply.attempts] == ["native", "native", "emulated"]
            assert [attempt.model for attempt in reply.attempts[1:]] == ["claude-sonnet-4-5"] * 2
            assert repr(reply).startswith("<Reply anthropic:claude-sonnet-4-5 done")
            for options, mode in (({}, "native"), (there, "emulated")):
                after = session.stream("hi", prefill=PREFILL, **options)
                await after.text()
                assert after.mode == mode, options
        assert (len(a.exchanges), len(b.exchanges)) == (2, 3)


@pytest.mark.parametrize("keeps", [False, True], ids=["closes", "keeps"])
async def test_the_end_is_that_of_the_last_host(
    keeps: bool, fail_over: Callable[[Reply], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fail-over, the second host decides whether the connection is closed at the end or goes to a pool."""
    # The end of the reply does not wait for its connection, so only `aclose` does.
    monkeypatch.setattr("aprefill._engine.run._TURNS", 0)
    # The end of the body comes later than the end of the reply.
    late = Script(text="one", hold_open_s=0.05)
    async with serve(Script(status=503)) as a, serve(late) as b, httpx2.AsyncClient(trust_env=False) as client:
        options = [{"base_url": a.openai_url}, {"base_url": b.openai_url}]
        options[keeps]["client"] = client
        reply = stream("hi", model="vllm:m", limits=Limits(drain_s=5), **options[0])
        fail_over(stream("hi", model="vllm:m", **options[1]))
        assert await reply.text() == "one"
        await reply.aclose()
        if keeps:
            with anyio.fail_after(2):
                while len(live):
                    await anyio.lowlevel.checkpoint()
            assert await stream("hi", model="vllm:m", **options[1]).text() == "one"
            assert (len(b.exchanges), b.connections) == (2, 1)
        else:
            # `aclose` has waited.
            assert reply._run.connection.closed is not None
            assert reply._run.connection.closed.is_set()

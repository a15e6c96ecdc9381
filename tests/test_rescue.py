"""A refused prefill is asked for in the prompt instead, on the same call."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from aprefill import (
    AttemptEnded,
    AttemptStarted,
    PrefillRefused,
    Session,
    StatusError,
    Support,
    TextEvent,
    Verdict,
    stream,
)
from aprefill.testing import Script, serve

from .loopback import WIRES
from .test_recovery import FINE, REFUSES, SEED, WHOLE, ask, finished

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("wire", WIRES)
async def test_a_refusal_is_rescued_on_the_same_call(wire: str) -> None:
    """One call, two requests: the first native, the second asking in the prompt; both are reported."""
    async with serve(REFUSES) as server:
        reply = ask(server, wire)
        events = [event async for event in reply.events()]
        assert next(e.text for e in events if isinstance(e, TextEvent)) == SEED
        assert await reply.text() == WHOLE
        assert (reply.mode, reply.support, reply.verdict) == ("emulated", Support.EMULATED, Verdict.ECHOED)
        assert [(a.number, a.mode, a.support, a.status, a.error) for a in reply.attempts] == [
            (1, "native", Support.EATS, 400, "PrefillRefused"),
            (2, "emulated", Support.EMULATED, 200, ""),
        ]
        assert [e.report.number for e in events if isinstance(e, AttemptEnded)] == [1, 2]
        assert [e.number for e in events if isinstance(e, AttemptStarted)] == [1, 2]
        assert [exchange.prefill for exchange in server.exchanges] == [SEED, ""]


@pytest.mark.parametrize("wire", WIRES)
async def test_it_is_remembered(wire: str) -> None:
    """The next call asks in the prompt at once; without a prefill nothing changes."""
    async with serve(REFUSES) as server:
        for requests in (2, 3):
            reply = ask(server, wire)
            assert await reply.text() == WHOLE
            assert len(server.exchanges) == requests
        assert [a.mode for a in reply.attempts] == ["emulated"]
        assert (await finished(ask(server, wire, prefill=""))).mode == "none"


async def test_a_session_remembers_for_itself() -> None:
    """What one session met, another has to meet."""
    async with serve(REFUSES) as server:
        for expected in ([2, 1], [2, 1]):
            async with Session("anthropic:claude-haiku-4-5", base_url=server.url, api_key="k") as session:
                counts = []
                for _ in range(2):
                    reply = session.stream("hi", prefill=SEED)
                    await reply.text()
                    counts.append(len(reply.attempts))
                assert counts == expected


@pytest.mark.parametrize("options", [{"emulate": False}, {"strict": True}])
async def test_a_refusal_is_an_error_to_who_wants_one(options: dict[str, Any]) -> None:
    """`PrefillRefused`, with the status; and the memory does not make it a success later."""
    async with serve(REFUSES) as server:
        for _ in range(2):
            with pytest.raises(PrefillRefused) as refused:
                await ask(server, "messages", **options).text()
            assert refused.value.status == 400
        await ask(server, "messages").text()
        with pytest.raises(PrefillRefused):
            await ask(server, "messages", **options).text()


@pytest.mark.parametrize(
    "error",
    [
        ("invalid_request_error", "max_tokens: 4096 > 2048"),
        ("invalid_request_error", "messages: at least one message is required"),
        ("invalid_request_error", "prefill"),
    ],
)
async def test_any_other_400_teaches_nothing(error: tuple[str, str]) -> None:
    """It is the caller's error, and the next call is native again."""
    async with serve([Script(status=400, error=error), FINE]) as server:
        with pytest.raises(StatusError):
            await ask(server, "messages").text()
        reply = ask(server, "messages")
        assert await reply.text() == WHOLE
        assert reply.mode == "native"


async def test_a_refusal_of_this_request_alone_is_not_remembered() -> None:
    """White space at the end was refused, which says nothing about the next prefill."""
    text = "messages: final assistant content cannot end with trailing whitespace"
    async with serve([Script(status=400, error=("invalid_request_error", text)), FINE, FINE]) as server:
        assert [a.mode for a in (await finished(ask(server, "messages"))).attempts] == ["native", "emulated"]
        assert [a.mode for a in (await finished(ask(server, "messages"))).attempts] == ["native"]


WORDS = "This model does not support assistant message prefill. The conversation must end with a user message."


@pytest.mark.parametrize(
    "where",
    [
        {"prompt": f"why does it say '{WORDS}'?"},
        {"system": WORDS},
        {"extra": {"metadata": {"note": WORDS}}},
        {"extra": {WORDS: 1}},
    ],
    ids=["prompt", "system", "value", "name"],
)
async def test_words_of_the_request_teach_nothing(where: dict[str, Any]) -> None:
    """A host that quotes a request which holds the refusal's own words: rescued, and not remembered for others."""
    quoting = Script(status=400, error=("invalid_request_error", f"bad input: '{WORDS}'"))
    async with serve([quoting, FINE, FINE]) as server:
        options = {"model": "anthropic:claude-haiku-4-5", "base_url": server.url, "api_key": "k", "prompt": "hi"}
        await stream(prefill=SEED, **{**options, **where}).text()
        reply = await finished(ask(server, "messages"))
        assert [a.mode for a in reply.attempts] == ["native"]


async def test_one_tenants_odd_400_changes_nothing_for_others() -> None:
    """Another model, another host, another protocol, thinking the other way: each is another matter."""
    async with serve(REFUSES) as one, serve(FINE) as two:
        await ask(one, "messages").text()
        others = [
            ask(two, "messages"),
            ask(one, "messages", model="anthropic:claude-opus-4-5"),
            ask(one, "chat", model="m"),
        ]
        for reply in others:
            await reply.text()
            assert reply.attempts[0].mode == "native"
        assert (await finished(ask(one, "messages"))).attempts[0].mode == "emulated"


async def test_a_thousand_tasks_at_once() -> None:
    """Two hosts, two models each, one of the four refuses: nobody else is emulated, everybody's text is right."""

    def answer(exchange: Any) -> Script:
        return REFUSES if exchange.json["model"].startswith("claude-haiku") else FINE

    modes: dict[tuple[str, str], set[str]] = {}

    async def one(server: Any, host: str, model: str, session: Session) -> None:
        reply = session.stream("hi", prefill=SEED, model=f"anthropic:{model}", base_url=server.url)
        assert await reply.text() == WHOLE
        modes.setdefault((host, model), set()).add(str(reply.mode))

    async with serve(answer) as odd, serve(FINE) as even:
        async with Session("anthropic:x", api_key="k") as session, anyio.create_task_group() as group:
            for _ in range(250):
                for host, server in (("odd", odd), ("even", even)):
                    for model in ("claude-haiku-4-5", "claude-opus-4-5"):
                        group.start_soon(one, server, host, model, session)
    assert modes.pop(("odd", "claude-haiku-4-5")) == {"emulated"}
    assert modes == {
        ("odd", "claude-opus-4-5"): {"native"},
        ("even", "claude-haiku-4-5"): {"native"},
        ("even", "claude-opus-4-5"): {"native"},
    }


async def test_a_rescue_that_fails_hides_nothing() -> None:
    """The error is the last one; the refusal is on its chain."""
    async with serve([REFUSES, Script(status=401)]) as server:
        with pytest.raises(StatusError) as error:
            await ask(server, "messages").text()
        assert isinstance(error.value.__cause__, PrefillRefused)
        assert error.value.__notes__[0].startswith("Before it: PrefillRefused: ")


async def test_a_refusal_after_a_tools_result() -> None:
    """It cannot be asked for in the prompt there: the refusal is the error."""
    messages = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "42"}]}]
    async with serve(REFUSES) as server:
        with pytest.raises(PrefillRefused):
            await stream(
                messages, prefill=SEED, model="anthropic:claude-haiku-4-5", base_url=server.url, api_key="k"
            ).text()

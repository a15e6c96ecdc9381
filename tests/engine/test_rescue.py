"""A refused prefill is asked for in the prompt instead, on the same call."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from aprefill import (
    AttemptEnded,
    AttemptStarted,
    PrefillRefused,
    Recovery,
    Session,
    StatusError,
    Support,
    TextEvent,
    Verdict,
    stream,
)
from aprefill.testing import Script, serve

from ..support.loopback import WIRES
from ..support.recovering import FINE, REFUSES, SEED, WHOLE, ask, finished

pytestmark = [pytest.mark.anyio, pytest.mark.any_loop]


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


#: What LiteLLM makes of Anthropic's 400.
LITELLM = (
    'litellm.BadRequestError: AnthropicException - {"type":"error","error":{"type":"invalid_request_error","message":"This '
    'model does not support assistant message prefill. The conversation must end with a user message."},"request_id":"r1"}'
)
#: What gateways make of Gemini's.
GEMINI = (
    'litellm.BadRequestError: VertexAIException BadRequestError - b\'{\\n  "error": {\\n    "code": 400,\\n    '
    '"message": "Requests ending with a model turn are not supported unless the last part is a function response.",\\n '
    '   "status": "INVALID_ARGUMENT"\\n  }\\n}\\n\''
)


def as_body(text: str) -> bytes:
    return json.dumps({"error": {"message": text, "type": None, "param": None, "code": "400"}}).encode()


def as_sse(text: str) -> bytes:
    return b"data: " + as_body(text) + b"\n\n"


ANSWERS = {
    "400": lambda text: Script(status=400, body=as_body(text), content_type="application/json"),
    "403": lambda text: Script(status=403, body=as_body(text), content_type="application/json"),
    "422": lambda text: Script(status=422, body=as_body(text), content_type="application/json"),
    "raw": lambda text: Script(
        status=400,
        body=json.dumps({"error": {"message": "Provider returned error", "metadata": {"raw": text}}}).encode(),
        content_type="application/json",
    ),
    "plain": lambda text: Script(status=400, body=text.encode(), content_type="text/plain"),
    "200-json": lambda text: Script(body=as_body(text), content_type="application/json"),
    "200-json-as-sse": lambda text: Script(body=as_body(text), content_type="text/event-stream"),
    "200-json-untold": lambda text: Script(body=b"\r\n " + as_body(text), content_type=""),
    "200-first": lambda text: Script(body=as_sse(text), content_type="text/event-stream"),
    "200-event": lambda text: Script(text="x", prefill="eats", after=0, error_event=("invalid_request_error", text)),
}


@pytest.mark.parametrize("text", [LITELLM, GEMINI], ids=["claude", "gemini"])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    "model", ["openai:m", "vllm:m", "openai-compatible:m", "mistral:m", "anthropic:claude-haiku-4-5"]
)
async def test_a_refusal_that_a_gateway_quotes_is_rescued(model: str, answer: str, text: str) -> None:
    """On every host, with any 4xx status and in a 200: the call is rescued, and the session remembers."""
    async with serve([ANSWERS[answer](text), FINE, FINE]) as server:
        url = server.url if model.startswith("anthropic") else server.openai_url
        async with Session(model, base_url=url, api_key="k", support="eats", recovery=Recovery(retries=0)) as session:
            reply = session.stream("hi", prefill=SEED)
            assert await reply.text() == WHOLE
            assert [(a.mode, a.error) for a in reply.attempts] == [("native", "PrefillRefused"), ("emulated", "")]
            again = session.stream("hi", prefill=SEED)
            assert await again.text() == WHOLE
            assert [a.mode for a in again.attempts] == ["emulated"]
            assert len(server.exchanges) == 3


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("model", ["openai:gemini-3.6-flash", "openai-compatible:gemini-3.5-flash-lite"])
async def test_gemini_behind_a_gateway(model: str, answer: str) -> None:
    """Its name says nothing at another host's door: asked in the prompt; with the caller's word the refusal is rescued."""
    async with serve([FINE, ANSWERS[answer](GEMINI), FINE]) as server:
        async with Session(model, base_url=server.openai_url, api_key="k", recovery=Recovery(retries=0)) as session:
            by_table = session.stream("hi", prefill=SEED)
            assert await by_table.text() == WHOLE
            by_word = session.stream("hi", prefill=SEED, support="eats")
            assert await by_word.text() == WHOLE
            modes = [[attempt.mode for attempt in reply.attempts] for reply in (by_table, by_word)]
            assert modes == [["emulated"], ["native", "emulated"]]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    ("model", "modes"),
    [("google/gemini-3.5-flash", ["native", "emulated"]), ("google/gemini-2.5-pro", ["native", "emulated"]),
     ("google/gemini-3.5-flash-lite", ["emulated"]), ("google/gemini-3.6-pro", ["emulated"])],
)  # fmt: skip
async def test_gemini_at_openrouter(model: str, modes: list[str], answer: str) -> None:
    """The table knows which take a prefill; one that refuses it all the same is asked in the prompt."""
    scripts = [ANSWERS[answer](GEMINI), FINE] if modes[0] == "native" else [FINE]
    async with serve(scripts) as server:
        url = server.openai_url
        async with Session(f"openrouter:{model}", base_url=url, api_key="k", recovery=Recovery(retries=0)) as session:
            reply = session.stream("hi", prefill=SEED)
            assert await reply.text() == WHOLE
            assert [attempt.mode for attempt in reply.attempts] == modes


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_quoted_refusal_is_an_error_where_nothing_else_may_be_sent(answer: str) -> None:
    """`PrefillRefused` with the status and the host's words."""
    async with serve(ANSWERS[answer](LITELLM)) as server:
        with pytest.raises(PrefillRefused, match="does not support assistant message prefill") as refused:
            await ask(server, "chat", emulate=False).text()
        assert refused.value.status == (200 if answer.startswith("200") else int(answer) if answer.isdigit() else 400)
        assert len(server.exchanges) == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_an_error_after_text_is_an_ordinary_one(wire: str) -> None:
    """The model went on from the prefill before the host said that it cannot: nothing is sent again or learned."""
    late = Script(text="Alabama, Alaska", prefill="eats", after=8, error_event=("invalid_request_error", WORDS))
    async with serve([late, FINE]) as server:
        with pytest.raises(StatusError) as error:
            await ask(server, wire).text()
        assert error.value.in_band
        assert len(server.exchanges) == 1
        assert (await finished(ask(server, wire))).attempts[0].mode == "native"


@pytest.mark.parametrize("answer", ["200-json", "200-json-as-sse", "200-first", "200-event", "422"])
@pytest.mark.parametrize("where", ["prompt", "system"])
async def test_words_of_the_request_teach_nothing_wherever_they_come(answer: str, where: str) -> None:
    """A host that quotes the request inside a 200, or with another status, says nothing about itself."""
    async with serve([ANSWERS[answer](f"bad input: {WORDS}"), FINE, FINE]) as server:
        options = {"prompt": "hi", where: f"why does it say {WORDS!r}?"}
        url = server.openai_url
        async with Session("vllm:m", base_url=url, support="eats", recovery=Recovery(retries=0)) as session:
            await session.stream(prefill=SEED, **options).text()
            reply = session.stream("hi", prefill=SEED)
            await reply.text()
            assert [a.mode for a in reply.attempts] == ["native"]


async def test_a_failure_of_the_host_is_no_refusal() -> None:
    """A 500 with the words in it is the gateway's failure, and passes or not by itself."""
    async with serve(Script(status=500, body=as_body(LITELLM), content_type="application/json")) as server:
        with pytest.raises(StatusError):
            await ask(server, "chat", recovery=Recovery(retries=0)).text()
        assert len(server.exchanges) == 1


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


@pytest.mark.slow
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

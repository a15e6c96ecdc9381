"""When a host refuses the prefill, the same call is rescued: the next request asks for the prefill in the prompt."""

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
    """One call sends two requests, first a native one and then an emulated one. Both are reported."""
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
    """After a refusal the next call is emulated at once. A call without a prefill is not affected."""
    async with serve(REFUSES) as server:
        for requests in (2, 3):
            reply = ask(server, wire)
            assert await reply.text() == WHOLE
            assert len(server.exchanges) == requests
        assert [a.mode for a in reply.attempts] == ["emulated"]
        assert (await finished(ask(server, wire, prefill=""))).mode == "none"


async def test_a_session_remembers_for_itself() -> None:
    """Each session remembers refusals for itself."""
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
    """With `emulate=False` or `strict=True` a refusal raises `PrefillRefused`, even if it is remembered."""
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
    """Any other 400 is the caller's error and is not remembered: the next call is native again."""
    async with serve([Script(status=400, error=error), FINE]) as server:
        with pytest.raises(StatusError):
            await ask(server, "messages").text()
        reply = ask(server, "messages")
        assert await reply.text() == WHOLE
        assert reply.mode == "native"


async def test_a_refusal_of_this_request_alone_is_not_remembered() -> None:
    """A refusal of white space at the end is not remembered: the next prefill may have none."""
    text = "messages: final assistant content cannot end with trailing whitespace"
    async with serve([Script(status=400, error=("invalid_request_error", text)), FINE, FINE]) as server:
        assert [a.mode for a in (await finished(ask(server, "messages"))).attempts] == ["native", "emulated"]
        assert [a.mode for a in (await finished(ask(server, "messages"))).attempts] == ["native"]


#: LiteLLM's version of Anthropic's 400.
LITELLM = (
    'litellm.BadRequestError: AnthropicException - {"type":"error","error":{"type":"invalid_request_error","message":'
    '"This model does not support assistant message prefill. The conversation must end with a user message."},'
    '"request_id":"r1"}'
)
#: A gateway's version of Gemini's 400.
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
    """On every host, with any 4xx status and in a 200, a quoted refusal is rescued and the session remembers it."""
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
    """The name of a Gemini model proves nothing at another host, so it is emulated.

    If the caller passes `support`, it is native, and a refusal is rescued.
    """
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
    """The table knows which models take a prefill. If one refuses it anyway, the call is rescued."""
    scripts = [ANSWERS[answer](GEMINI), FINE] if modes[0] == "native" else [FINE]
    async with serve(scripts) as server:
        url = server.openai_url
        async with Session(f"openrouter:{model}", base_url=url, api_key="k", recovery=Recovery(retries=0)) as session:
            reply = session.stream("hi", prefill=SEED)
            assert await reply.text() == WHOLE
            assert [attempt.mode for attempt in reply.attempts] == modes


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_quoted_refusal_is_an_error_where_nothing_else_may_be_sent(answer: str) -> None:
    """If emulation is not allowed, a quoted refusal raises `PrefillRefused` with the status and the host's message."""
    async with serve(ANSWERS[answer](LITELLM)) as server:
        with pytest.raises(PrefillRefused, match="does not support assistant message prefill") as refused:
            await ask(server, "chat", emulate=False).text()
        assert refused.value.status == (200 if answer.startswith("200") else int(answer) if answer.isdigit() else 400)
        assert len(server.exchanges) == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_an_error_after_text_is_an_ordinary_one(wire: str) -> None:
    """A refusal after text is an ordinary error: nothing is sent again and nothing is remembered."""
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
    """Words of a refusal that the host quotes from the request, in a 200 or with another status, are not remembered."""
    async with serve([ANSWERS[answer](f"bad input: {WORDS}"), FINE, FINE]) as server:
        options = {"prompt": "hi", where: f"why does it say {WORDS!r}?"}
        url = server.openai_url
        async with Session("vllm:m", base_url=url, support="eats", recovery=Recovery(retries=0)) as session:
            await session.stream(prefill=SEED, **options).text()
            reply = session.stream("hi", prefill=SEED)
            await reply.text()
            assert [a.mode for a in reply.attempts] == ["native"]


async def test_a_failure_of_the_host_is_no_refusal() -> None:
    """A 500 that contains the words of a refusal is a failure of the gateway and no refusal."""
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
    """If the request itself contains the words of a refusal, a quoting host is rescued but not remembered."""
    quoting = Script(status=400, error=("invalid_request_error", f"bad input: '{WORDS}'"))
    async with serve([quoting, FINE, FINE]) as server:
        options = {"model": "anthropic:claude-haiku-4-5", "base_url": server.url, "api_key": "k", "prompt": "hi"}
        await stream(prefill=SEED, **{**options, **where}).text()
        reply = await finished(ask(server, "messages"))
        assert [a.mode for a in reply.attempts] == ["native"]


async def test_one_tenants_odd_400_changes_nothing_for_others() -> None:
    """A remembered refusal does not apply to another model, host or protocol."""
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
    """In a thousand concurrent calls, only the pair of host and model that refuses is emulated.

    Two hosts and two models take part, and every text is right.
    """

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
    """If the rescue fails too, its error is raised with the refusal as its cause."""
    async with serve([REFUSES, Script(status=401)]) as server:
        with pytest.raises(StatusError) as error:
            await ask(server, "messages").text()
        assert isinstance(error.value.__cause__, PrefillRefused)
        assert error.value.__notes__[0].startswith("Before it: PrefillRefused: ")


async def test_a_refusal_after_a_tools_result() -> None:
    """After a tool's result the prompt cannot ask for a prefill, so the refusal is the error."""
    messages = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "42"}]}]
    async with serve(REFUSES) as server:
        with pytest.raises(PrefillRefused):
            await stream(
                messages, prefill=SEED, model="anthropic:claude-haiku-4-5", base_url=server.url, api_key="k"
            ).text()

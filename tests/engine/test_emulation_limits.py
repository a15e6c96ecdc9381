"""Emulation and the caller's token limits, end to end."""

from __future__ import annotations

from typing import Any

import pytest

from aprefill import PrefillIgnored, StopReason, Truncated, Verdict, stream
from aprefill.testing import Script, serve

from ..support.emulating import NEW, SEED, ask
from ..support.loopback import WIRES

pytestmark = [pytest.mark.anyio, pytest.mark.any_loop]


@pytest.mark.parametrize("wire", WIRES)
async def test_max_tokens_means_new_text(wire: str) -> None:
    """Tokens for the echo are added to `max_tokens`, so that all of the caller's limit is left for new text."""
    prefill = "a beginning of some forty characters....."
    script = Script(text="one two three four five six", prefill="echoes", echo_text=prefill, obey_max_tokens=True)
    async with serve(script) as server:
        reply = ask(server, wire, prefill, max_tokens=7)
        assert await reply.text() == prefill + "one two three four five six"
        sent = server.exchanges[0].json
        assert 7 + len(prefill) / 4 <= sent.get("max_tokens", sent.get("max_completion_tokens")) <= 7 + len(prefill)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("absent", ["join", "retry", "raise"])
async def test_a_limit_inside_the_echo_is_an_error_that_says_so(wire: str, absent: Any) -> None:
    """A token limit inside the echo causes one request and an error that names `max_tokens`; nothing is shown."""
    field = "max_tokens" if wire == "messages" else "max_completion_tokens"
    script = Script(text=NEW, prefill="echoes", echo_text="x" * 100, obey_max_tokens=True)
    async with serve(script) as server:
        shown: list[str] = []
        with pytest.raises(Truncated, match="max_tokens") as error:
            async for chunk in ask(server, wire, "x" * 100, absent=absent, extra={field: 3}):
                shown.append(chunk)
        assert shown == []
        assert error.value.text_so_far == "x" * 100
        assert len(server.exchanges) == 1


async def test_a_limit_in_a_reply_that_went_on() -> None:
    """At a token limit the model's own text is handed out.

    This holds even if the text is so short that chatter before an echo could still explain it.
    """
    async with serve(Script(text=NEW, obey_max_tokens=True)) as server:
        reply = ask(server, "messages", extra={"max_tokens": 2})
        assert await reply.text() == SEED + NEW[:8]
        assert (reply.stop_reason, reply.verdict) == (StopReason.MAX_TOKENS, Verdict.ABSENT)


async def test_what_the_echo_cost_when_it_was_all() -> None:
    """`echo_tokens` is also set on an attempt that failed inside the echo. It is 0 on an attempt without an echo."""
    async with serve(Script(text=NEW, prefill="echoes", echo_text="x" * 100, obey_max_tokens=True)) as server:
        reply = ask(server, "messages", "x" * 100, extra={"max_tokens": 3})
        with pytest.raises(Truncated):
            await reply.text()
        assert reply.usage is not None
        assert reply.usage.echo_tokens == reply.usage.output_tokens == 3
    async with serve(Script(text=NEW)) as server:
        reply = ask(server, "messages", absent="raise")
        with pytest.raises(PrefillIgnored):
            await reply.text()
        assert reply.usage is not None
        assert reply.usage.echo_tokens == 0


async def test_the_hosts_own_limit_has_room_as_well() -> None:
    """A default `max_tokens` from the support table is raised by the tokens of the echo too."""
    async with serve(Script(text=NEW)) as server:
        await ask(server, "messages", "x" * 100).text()
        assert server.exchanges[0].json["max_tokens"] > 4096 + 25


@pytest.mark.parametrize(
    ("known", "stop", "echo", "new"),
    [("alpha  beta", "pha be", "alpha beta", " gamma pha be end"), ("Answer:\n", ": 4", "Answer:", " 42")],
)
async def test_a_stop_that_white_space_hides(known: str, stop: str, echo: str, new: str) -> None:
    """A stop sequence that can match inside the echo is not sent but applied locally.

    White space may differ: the echo need not have the same white space as the prefill.
    """
    async with serve(Script(text=new, prefill="echoes", echo_text=echo)) as server:
        reply = ask(server, "messages", known, stop=stop)
        text = await reply.text()
        assert "stop_sequences" not in server.exchanges[0].json
    assert text == (known + " gamma " if stop == "pha be" else known + " 42")


async def test_what_the_echo_cost() -> None:
    """`echo_tokens` is an estimate within the output tokens that the host counted.

    It is `None` without emulation.
    """
    prefill = "x" * 100
    async with serve(Script(text="y" * 100, prefill="echoes", echo_text=prefill)) as server:
        reply = ask(server, "messages", prefill)
        await reply.text()
        assert reply.usage is not None
        assert reply.usage.output_tokens == 50
        assert reply.usage.echo_tokens == 25
        native = stream("x", prefill=prefill, model="vllm:m", base_url=server.openai_url)
        await native.text()
        assert native.usage is not None
        assert native.usage.echo_tokens is None


async def test_prediction_goes_where_the_table_says_it_helps() -> None:
    """gpt-4o gets a `prediction`, but not with a token limit, tools or `n`. Other models never get one."""
    async with serve(Script(text=NEW)) as server:
        await ask(server, "chat").text()
        await ask(server, "chat", max_tokens=5).text()
        await stream("x", prefill=SEED, model="openai:gpt-5", base_url=server.openai_url, api_key="k").text()
        sent = [exchange.json.get("prediction") for exchange in server.exchanges]
        await ask(server, "chat", extra={"n": 2}).text()
        sent.append(server.exchanges[3].json.get("prediction"))
    assert sent == [{"type": "content", "content": SEED}, None, None, None]

"""A prefill that the host does not accept is requested in the prompt: whole replies from the loopback host."""

from __future__ import annotations

from typing import Any

import pytest

from aprefill import (
    AttemptEnded,
    AttemptStarted,
    Emulation,
    PrefillIgnored,
    PrefillRefused,
    ProviderError,
    Recovery,
    Session,
    StopReason,
    Support,
    TextEvent,
    Truncated,
    UsageError,
    Verdict,
    stream,
)
from aprefill._plan.emulate import AGAIN, BEGIN, tail_of
from aprefill.testing import Script, ToolCall, serve

from ..support.emulating import NEW, SEED, ask
from ..support.loopback import QUESTION, WIRES, chunks_of

pytestmark = [pytest.mark.anyio, pytest.mark.any_loop]

WHOLE = '["' + NEW
VERY_LONG = "".join(f"{n}: a line of a text of twenty thousand characters\n" for n in range(400)) + "the last one "
LONG = "".join(f"Line {n} of a text that goes on for a while.\n" for n in range(20)) + "The last line of it is "


# --- what the host may do with it -------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("script", "text", "verdict"),
    [
        ({"prefill": "echoes"}, WHOLE, Verdict.ECHOED),
        ({"prefill": "echoes", "echo": "joined"}, WHOLE, Verdict.ECHOED),
        ({"prefill": "echoes", "echo": "whitespace"}, WHOLE, Verdict.ECHOED),
        ({"prefill": "eats"}, WHOLE, Verdict.ABSENT),
        ({"prefill": "echoes", "echo": "fence"}, WHOLE, Verdict.FENCED),
        # Two characters may be the model's own second line. After chatter they are not taken for the echo.
        ({"prefill": "echoes", "echo": "chatter"}, SEED + "Sure, here it is:\n" + WHOLE, Verdict.ABSENT),
        ({"prefill": "echoes", "echo": "chatter+fence"}, WHOLE, Verdict.PREFACED),
        ({"prefill": "ignores", "text": "The states are Alabama and Alaska."},
         SEED + "The states are Alabama and Alaska.", Verdict.ABSENT),
    ],
    ids=["echoes", "joined", "whitespace", "continues", "fence", "chats", "chats and fence", "ignores"],
)  # fmt: skip
async def test_the_seeds_case(wire: str, script: dict[str, Any], text: str, verdict: Verdict) -> None:
    """With the prefill `["`, whatever the host does, the prefill is shown once and no text of the model is lost."""
    echo = {"echo_text": SEED} if script["prefill"] == "echoes" else {}
    async with serve(Script(**{"text": NEW, "cuts": 1, **script, **echo})) as server:
        reply = ask(server, wire)
        assert "".join(await chunks_of(reply)) == text
        assert (reply.verdict, reply.mode, reply.support) == (verdict, "emulated", Support.EMULATED)
        assert await reply.text() == reply.message["content"] == text
        assert server.exchanges[0].prefill == ""


async def test_sixteen_characters_are_found_behind_chatter() -> None:
    """An echo that is too long to be a coincidence is found after a line of chatter, and the chatter is dropped."""
    prefill = "def pelican(name: str) -> str:\n"
    async with serve(Script(text="    return name\n", prefill="echoes", echo="chatter", echo_text=prefill)) as server:
        reply = ask(server, "chat", prefill)
        assert await reply.text() == prefill + "    return name\n"
        assert reply.verdict is Verdict.PREFACED


@pytest.mark.parametrize("wire", WIRES)
async def test_the_fence_recipe(wire: str) -> None:
    """The prefill ```` ```python ```` with the stop ```` ``` ```` works on a model that takes no prefill.

    This is the most cited use of a prefill.
    """
    prefill, code = "```python\n", "def f():\n    return 1\n"
    script = Script(text=code + "```\nThis function returns one.", prefill="echoes", echo_text=prefill, cuts=3)
    async with serve(script) as server:
        reply = ask(server, wire, prefill, stop="```")
        assert await reply.text() == prefill + code
        assert (reply.stop_reason, reply.stop_sequence) == (StopReason.STOP_SEQUENCE, "```")
        # With this stop sequence the host would have stopped at the opening fence.
        assert "```" not in str(
            server.exchanges[0].json.get("stop_sequences", server.exchanges[0].json.get("stop", ""))
        )


@pytest.mark.parametrize(
    ("written", "verdict"),
    [
        ("```py\n", Verdict.ECHOED),
        ("```Python\n", Verdict.ECHOED),
        ("```\n", Verdict.ECHOED),
        ("Sure:\n```py\n", Verdict.PREFACED),
        ("", Verdict.ABSENT),
    ],
)
async def test_the_fence_recipe_with_another_opener(written: str, verdict: Verdict) -> None:
    """The code is complete whatever language the model names in its fence, and also if the model writes no fence."""
    prefill, code = "```python\n", "def f():\n    return 1\n"
    async with serve(Script(text=written + code + "```\nThis function returns one.", obey_stop=True)) as server:
        reply = ask(server, "chat", prefill, stop="```")
        assert await reply.text() == prefill + code
        assert (reply.verdict, reply.stop_sequence) == (verdict, "```")


async def test_a_limit_behind_a_fences_opener() -> None:
    """A token limit after the opener of a fence shows nothing, because the repetition could follow.

    Plain text is shown.
    """
    async with serve(Script(cuts=["Run this:\n```"], stop_reason="max_tokens")) as server:
        with pytest.raises(Truncated, match="inside the repetition of the prefill, after 13 characters"):
            await ask(server, "messages", "Answer: ").text()
    async with serve(Script(cuts=["Run this:\n\n"], stop_reason="max_tokens")) as server:
        assert await ask(server, "messages", "Answer: ").text() == "Answer: Run this:\n\n"


async def test_absent_is_seen_though_nothing_was_let_through() -> None:
    """A reply of only white space that the prefill already ends with counts as no echo."""
    for absent, requests in (("raise", 1), ("retry", 2)):
        async with serve(Script(text="\n")) as server:
            reply = ask(server, "messages", "x\n" * 150, absent=absent)
            if absent == "raise":
                with pytest.raises(PrefillIgnored):
                    await reply.text()
            else:
                assert await reply.text() == "x\n" * 150
            assert len(server.exchanges) == requests


@pytest.mark.parametrize("wire", WIRES)
async def test_what_is_sent(wire: str) -> None:
    """The instruction is added to the last user turn.

    History, system prompt and the caller's own messages stay unchanged.
    """
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "text", "text": "three"}]},
    ]
    async with serve(Script(text=NEW)) as server:
        await ask(
            server, wire, prompt=messages, system="be brief", emulate=Emulation(begin="START {open}{text}{close}")
        ).text()
        sent = [m for m in server.exchanges[0].messages if m["role"] != "system"]
    assert sent[:2] == messages[:2]
    assert sent[2]["content"][0] == {"type": "text", "text": "three"}
    asked = sent[2]["content"][1]["text"]
    assert asked.startswith("START <text-")
    assert f">{SEED}</text-" in asked
    assert messages[2]["content"] == [{"type": "text", "text": "three"}]


async def test_after_a_tools_result_it_cannot_be_asked_for() -> None:
    """After a tool's result, `UsageError` is raised and nothing is sent.

    An instruction there would be read as part of the result.
    """
    messages = [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "1", "content": "42"}]
    async with serve(Script(text=NEW)) as server:
        with pytest.raises(UsageError, match="tool's result"):
            await ask(server, "chat", prompt=messages).text()
        assert server.connections == 0


# --- long prefills ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("given", [LONG, VERY_LONG, LONG.strip() + "\n"], ids=["1k", "20k", "line end"])
async def test_a_long_prefill_is_spliced_by_its_end(wire: str, given: str) -> None:
    """Of a prefill over 200 characters, only the last line is asked back.

    The known text and the reply are joined by their overlap.
    """
    end = tail_of(given.rstrip())
    async with serve(Script(text="here, and this is new.", prefill="echoes", echo_text=end, cuts=5)) as server:
        reply = ask(server, wire, given)
        assert await reply.text() == given.rstrip() + given[len(given.rstrip()) :] + "here, and this is new."
        assert reply.verdict is Verdict.OVERLAPPED
        assert reply.usage is not None
        assert reply.usage.echo_tokens
        assert f">{end}</text-" in server.exchanges[0].last_user_text


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("echo", "verdict"),
    [("fence", Verdict.FENCED), ("chatter", Verdict.PREFACED), ("chatter+fence", Verdict.PREFACED),
     ("whitespace", Verdict.ECHOED)],
)  # fmt: skip
async def test_the_end_of_a_long_prefill_in_disguise(wire: str, echo: Any, verdict: Verdict) -> None:
    """The end of a long prefill is found in a fence, after chatter and with other white space."""
    script = Script(text="here, and this is new.", prefill="echoes", echo=echo, echo_text=tail_of(LONG.rstrip()))
    async with serve(script) as server:
        reply = ask(server, wire, LONG)
        assert await reply.text() == LONG + "here, and this is new."
        assert reply.verdict is verdict


async def test_a_long_prefill_that_is_not_repeated() -> None:
    """When a long prefill is not repeated, no text of the model is lost."""
    async with serve(Script(text="here, and this is new.")) as server:
        reply = ask(server, "messages", LONG)
        assert await reply.text() == LONG + "here, and this is new."
        assert reply.verdict is Verdict.ABSENT


async def test_a_long_prefill_that_repeats_itself() -> None:
    """New text that equals old text is not taken for overlap: exactly the repetition that was requested is dropped."""
    zeros = "0, " * 150
    async with serve(Script(text=" 0, 0, 0, 1", prefill="echoes", echo_text=tail_of(zeros.rstrip()), cuts=1)) as server:
        assert await ask(server, "messages", zeros).text() == zeros + "0, 0, 0, 1"


async def test_a_long_prefill_that_is_repeated_whole() -> None:
    """When the model repeats the whole long prefill before it continues, the whole repetition is dropped."""
    async with serve(Script(text="here.", prefill="echoes", echo_text=LONG)) as server:
        reply = ask(server, "messages", LONG)
        assert await reply.text() == LONG + "here."
        assert reply.verdict is Verdict.ECHOED


# --- no echo ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
async def test_absent_raise(wire: str) -> None:
    """With `absent="raise"`, a missing echo raises `PrefillIgnored` and nothing was shown."""
    async with serve(Script(text=NEW)) as server:
        shown: list[str] = []
        with pytest.raises(PrefillIgnored):
            async for chunk in ask(server, wire, absent="raise"):
                shown.append(chunk)
        assert shown == []
        await server.wait_closed()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("second", "verdict"), [("echoes", Verdict.ECHOED), ("eats", Verdict.ABSENT)])
async def test_absent_retry(wire: str, second: Any, verdict: Verdict) -> None:
    """With `absent="retry"`, one more request asks in other words before anything is shown.

    The text of the second reply is joined whether or not it has an echo.
    """
    again = Script(text=NEW, prefill=second, echo_text=SEED if second == "echoes" else None)
    async with serve([Script(text="Here are the states, one after another: Alabama"), again]) as server:
        reply = ask(server, wire, absent="retry")
        events = [event async for event in reply.events()]
        assert "".join(e.text for e in events if isinstance(e, TextEvent)) == WHOLE
        assert reply.verdict is verdict
        assert [report.error for report in reply.attempts] == ["PrefillIgnored", ""]
        assert [e.number for e in events if isinstance(e, AttemptStarted)] == [1, 2]
        assert [e.report.number for e in events if isinstance(e, AttemptEnded)] == [1, 2]
        first, then = (exchange.last_user_text for exchange in server.exchanges)
        assert first.endswith(BEGIN.format(text=SEED))
        assert then.endswith(AGAIN.format(text=SEED))
        with_both = reply.usage
        assert with_both is not None
        assert with_both.input_tokens == 20


async def test_absent_with_a_reply_of_tool_calls_alone() -> None:
    """A reply of only tool calls is no error with `absent="raise"`.

    It has no text that could begin with the prefill.
    """
    async with serve(Script(tools=[ToolCall(name="f", arguments={"a": 1})])) as server:
        reply = ask(server, "messages", absent="raise", tools=[{"name": "f", "input_schema": {"type": "object"}}])
        assert await reply.text() == SEED
        assert reply.stop_reason is StopReason.TOOL_USE


async def test_nothing_is_asked_again_after_a_tool_call() -> None:
    """After a tool call was handed out there is no second request, which would repeat it. The text is joined."""
    events = (
        'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}]}}]}',
        'data: {"choices":[{"delta":{"content":"The states are many."}}]}',
        'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}',
        "data: [DONE]",
    )
    body = "\n\n".join([*events, ""]).encode()
    async with serve(Script(body=body, content_type="text/event-stream")) as server:
        reply = ask(server, "chat", absent="retry")
        events_seen = [type(event).__name__ async for event in reply.events()]
        assert events_seen.count("ToolEvent") == 1
        assert await reply.text() == SEED + "The states are many."
        assert len(server.exchanges) == 1


async def test_absent_with_an_empty_reply() -> None:
    """An empty reply counts as a missing echo."""
    async with serve(Script(text="")) as server:
        with pytest.raises(PrefillIgnored):
            await ask(server, "messages", absent="raise").text()
        assert await ask(server, "messages").text() == SEED


@pytest.mark.parametrize("options", [{"emulate": False}, {"strict": True}])
async def test_who_wants_none_of_it(options: dict[str, Any]) -> None:
    """`emulate=False` and `strict=True` raise `PrefillRefused` before any HTTP."""
    async with serve(Script(text=NEW)) as server:
        with pytest.raises(PrefillRefused) as refused:
            await ask(server, "messages", **options).text()
        assert refused.value.status is None
        assert server.connections == 0


# --- when it is shown -------------------------------------------------------------------------------------------


async def test_it_is_shown_with_the_first_new_text() -> None:
    """The prefill is shown with the first new text, so an error after the head or inside the echo shows nothing."""
    for script in (
        Script(text=NEW, error_event=("api_error", "no"), after=0),
        Script(text=NEW, prefill="echoes", echo_text="x" * 50, drop_after_bytes=800),
    ):
        async with serve(script) as server:
            shown: list[str] = []
            with pytest.raises(ProviderError):
                async for chunk in ask(server, "messages", "x" * 50, recovery=Recovery(retries=0)):
                    shown.append(chunk)
            assert shown == []


@pytest.mark.parametrize("show_when", ["now", "accepted", "decided", "never"])
async def test_each_way_to_show_it(show_when: Any) -> None:
    """Every value of `show_when` gives the same text. With "never" the chunks are only the new text."""
    async with serve(Script(text=NEW, prefill="echoes", echo_text=SEED)) as server:
        reply = ask(server, "chat", show_when=show_when)
        assert "".join(await chunks_of(reply)) == (NEW if show_when == "never" else WHOLE)
        assert await reply.text() == WHOLE


async def test_show_now_waits_for_nothing() -> None:
    """With `show_when="now"` the prefill comes before the request is sent, and is not repeated with the text."""
    async with serve(Script(text=NEW, prefill="echoes", echo_text=SEED)) as server:
        chunks = aiter(ask(server, "chat", show_when="now"))
        assert await anext(chunks) == SEED
        assert server.connections == 0
        assert "".join([chunk async for chunk in chunks]) == NEW


@pytest.mark.parametrize("options", [{"absent": "retry"}, {"absent": "raise"}, {"strict": True}])
@pytest.mark.parametrize("show_when", ["now", "accepted"])
async def test_what_cannot_be_shown_early(options: dict[str, Any], show_when: Any) -> None:
    """A prefill that may turn out to be missing can be shown only with `show_when="decided"`."""
    with pytest.raises(UsageError, match="decided"):
        stream("x", prefill="y", model="demo:emulated", show_when=show_when, **options)


# --- the next turn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("show_when", [None, "never"], ids=["shown", "hidden"])
@pytest.mark.parametrize("native", [True, False], ids=["native", "emulated"])
@pytest.mark.parametrize("prefill", [SEED, LONG], ids=["short", "long"])
async def test_the_second_turn(wire: str, show_when: Any, native: bool, prefill: str) -> None:
    """A next turn built from `reply.message` sends exactly the right history, without aprefill's instructions."""
    end = prefill if len(prefill) < 200 else tail_of(prefill.rstrip())
    script = Script(text=NEW) if native else Script(text=NEW, prefill="echoes", echo_text=end)
    async with serve([script, Script(text="fine")]) as server:
        options = {"support": "eats" if native else None, "show_when": show_when}
        reply = ask(server, wire, prefill, **options)
        await chunks_of(reply)
        turns = [{"role": "user", "content": QUESTION}, reply.message, {"role": "user", "content": "and then?"}]
        await ask(server, wire, "", prompt=turns).text()
        assert server.exchanges[1].messages == [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": prefill + NEW},
            {"role": "user", "content": "and then?"},
        ]


async def test_a_session_has_the_same_arguments() -> None:
    """A session takes the same arguments as defaults, and a call can override them."""
    async with serve(Script(text=NEW)) as server:
        options = {
            "base_url": server.url,
            "api_key": "k",
            "absent": "raise",
            "emulate": Emulation(begin="Begin: {text}"),
        }
        async with Session("anthropic:claude-opus-4-6", **options) as session:
            with pytest.raises(PrefillIgnored):
                await session.stream("x", prefill=SEED).text()
            assert await session.stream("x", prefill=SEED, absent="join").text() == WHOLE
            with pytest.raises(PrefillRefused):
                await session.stream("x", prefill=SEED, emulate=False).text()
        assert server.exchanges[0].last_user_text == "x\n\nBegin: " + SEED

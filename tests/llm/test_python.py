"""In Python: `llm.get_model("prefill/<id>")`, its async version, and `with_prefill()` for any model object."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest

from .splices import CASES

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

import anyio
import llm
from llm.parts import StreamEvent
from pydantic import ConfigDict, PrivateAttr

from aprefill._plan.emulate import BEGIN
from aprefill.llm_plugin import with_prefill
from aprefill.llm_plugin._turn import is_limited

from .mocks import AsyncKeyMock, AsyncMock, KeyMock, Mock

if TYPE_CHECKING:
    from .mocks import Stage

STATES = '["Alabama", "Alaska"]'
VERSION = tuple(int(part) for part in metadata.version("llm").split(".")[:2])


@pytest.mark.parametrize(("prefill", "chunks", "reply"), CASES)
def test_what_pull_request_473_had_to_solve(stage: Stage, prefill: str, chunks: list[str | None], reply: str) -> None:
    """A reply through LLM is right for a model that yields str (and None), and for one that yields events."""
    pieces = [chunk for chunk in chunks if chunk is not None]
    model = llm.get_model("prefill/mock")
    for turn in (chunks, [StreamEvent(type="text", chunk=piece) for piece in pieces]):
        stage.turns = [turn]
        for stream in (True, False):
            response = model.prompt("x", prefill=prefill, stream=stream)
            assert "".join(response) == reply
            assert response.text() == reply
            assert [[part.text for part in one.parts] for one in response.messages()] == [[reply]]


#: The six cases of pull request 473 with the prefill "My fave color". `|` separates chunks. The replies are those of
#: the pull request, without the space that it invented.
CASES_473 = {
    "is| orange": "My fave coloris orange",
    "My| fave| is| orange": "My fave colorMy fave is orange",
    "My| fave| color| is| orange": "My fave color is orange",
    "fave| color| is| orange": "My fave colorfave color is orange",
    "My fave color is| orange": "My fave color is orange",
    "My fave color| is orange": "My fave color is orange",
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("chunks", CASES_473)
@pytest.mark.asyncio
async def test_the_six_cases_of_pull_request_473(stage: Stage, chunks: str, asynchronous: bool, stream: bool) -> None:
    """The prefill comes once if the model repeats all of it. A repetition of only a part of it stays."""
    stage.play(*chunks.split("|"))
    model = (llm.get_async_model if asynchronous else llm.get_model)("prefill/mock")
    response = model.prompt("What?", prefill="My fave color", stream=stream)
    assert (await response.text() if asynchronous else response.text()) == CASES_473[chunks]


@pytest.mark.asyncio
async def test_async(stage: Stage) -> None:
    """The async version works by name, by alias and in a conversation."""
    stage.turns = [['["Alabama", "Alaska"]'], ["Fine."]]
    conversation = llm.get_async_model("prefill/m").conversation()
    response = conversation.prompt("States", prefill='["')
    assert [chunk async for chunk in response] == ['["', 'Alabama", "Alaska"]']
    assert await conversation.prompt("Thanks").text() == "Fine."
    assert [[part.text for part in one.parts] for one in stage.prompts[1].messages] == [
        ["States"],
        [STATES],
        ["Thanks"],
    ]


@pytest.mark.parametrize("kind", [Mock, KeyMock, AsyncMock, AsyncKeyMock])
@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.asyncio
async def test_any_model_object(stage: Stage, kind: Any, hide: bool) -> None:
    """`with_prefill` takes sync and async models, with and without a key. A model that has it already is returned."""
    stage.play(STATES)
    inner = kind(stage, "some")
    inner.key = "sk-1"
    model = with_prefill(inner)
    assert with_prefill(model) is model
    assert model.model_id == "prefill/some"
    response = model.prompt("States", prefill='["', hide_prefill=hide)
    asynchronous = isinstance(response, llm.AsyncResponse)
    text = await response.text() if asynchronous else response.text()
    assert text == (STATES[2:] if hide else STATES)
    messages = await response.messages() if asynchronous else response.messages()
    assert [part.text for part in messages[0].parts] == [STATES]
    assert stage.keys == (["sk-1"] if "Key" in kind.__name__ else [None])
    follow = response.reply("On")
    follow = await follow if asynchronous else follow
    assert (await follow.text() if asynchronous else follow.text()) == STATES
    assert [part.text for part in stage.prompts[1].messages[1].parts] == [STATES]


def test_what_is_no_model() -> None:
    """Something that is not a model is a TypeError that says so."""
    with pytest.raises(TypeError, match=r"takes a model of LLM, not a str"):
        with_prefill("gpt-4o")


def test_without_a_prefill_nothing_is_different(stage: Stage) -> None:
    """Without a prefill the reply has the plugin's chunks, the options are its own, and the prompt is unchanged."""
    event = StreamEvent(type="reasoning", chunk="hm")
    stage.play(event, "a", "b")
    response = llm.get_model("prefill/mock").prompt("x", max_tokens=5)
    assert response.text() == "ab"
    assert next(response.stream_events()) is event
    assert type(stage.prompts[0].options) is Mock.Options
    assert stage.prompts[0].options.max_tokens == 5
    assert stage.asked() == "x"


def test_strict(stage: Stage) -> None:
    """`prefill_strict` raises `llm.ModelError` before anything is sent."""
    with pytest.raises(llm.ModelError, match="does not take a native prefill"):
        llm.get_model("prefill/mock").prompt("x", prefill="a", prefill_strict=True).text()
    assert stage.prompts == []


def test_messages(stage: Stage) -> None:
    """Explicit messages work, and so does a system prompt alone. A last assistant message is an error."""
    model = llm.get_model("prefill/mock")
    stage.play("abcdef")
    assert (
        model.prompt(messages=[llm.user("one"), llm.assistant("two"), llm.user("three")], prefill="abc").text()
        == "abcdef"
    )
    assert stage.asked().startswith("three\n\n" + BEGIN[:20])
    for last in ("two", "abc"):
        with pytest.raises(llm.ModelError, match="end with an assistant message"):
            model.prompt(messages=[llm.user("one"), llm.assistant(last)], prefill="abc").text()
    assert model.prompt(system="one word", prefill="abc").text() == "abcdef"
    assert [message.role for message in stage.prompts[-1].messages] == ["system", "user"]
    assert stage.asked().startswith(BEGIN[:20])
    assert stage.prompts[-1].prompt == stage.asked()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.asyncio
async def test_what_came_before_an_error(stage: Stage, asynchronous: bool) -> None:
    """The model's own text is yielded before the error, even if it was held. A repetition is not."""

    def fail() -> Any:
        raise ValueError("the host died")

    class Dying(list[Any]):
        def __iter__(self) -> Any:
            yield from super().__iter__()
            fail()

    stage.turns = [Dying(["There are 50 states, "]), Dying(["The answer to"])]
    model = (llm.get_async_model if asynchronous else llm.get_model)("prefill/mock")
    for text in ("The answer to it all is There are 50 states, ", ""):
        response = model.prompt("x", prefill="The answer to it all is ")
        got: list[str] = []
        with pytest.raises(ValueError, match="the host died"):
            if asynchronous:
                async for chunk in response:
                    got.append(chunk)
            else:
                got.extend(response)
        assert "".join(got) == text or (not asynchronous and "".join(response._chunks) == text)


def test_a_token_limit_inside_the_repetition(stage: Stage) -> None:
    """A token limit inside the repetition is an error, and half a repetition is not shown."""

    def limited(response: Any, prompt: Any) -> None:
        response.response_json = {"choices": [{"finish_reason": "length"}]}

    stage.beside = limited
    stage.turns = [["The quick brown"], ["The quick brown fox jumps"], ["The slow fox"]]
    model = llm.get_model("prefill/mock")
    with pytest.raises(llm.ModelError, match="mock reached its token limit while it repeated the prefill"):
        model.prompt("x", prefill="The quick brown fox ").text()
    assert model.prompt("x", prefill="The quick brown fox ").text() == "The quick brown fox jumps"
    assert model.prompt("x", prefill="The quick brown fox ").text() == "The quick brown fox The slow fox"


def test_options_of_every_sort_reach_the_plugin(stage: Stage) -> None:
    """The plugin gets options that the model allows without naming them, and what its own validators keep."""

    class Options(llm.Options):
        model_config = ConfigDict(extra="allow")
        size: int = 1
        _double: int = PrivateAttr(0)

        def model_post_init(self, _: Any) -> None:
            self._double = 2 * self.size

    class Loose(Mock):
        pass

    Loose.Options = Options
    with_prefill(Loose(stage, "loose")).prompt("x", prefill="a", size=5, foo=1).text()
    options = stage.prompts[0].options
    assert (options.size, options._double, options.model_extra) == (5, 10, {"foo": 1})
    assert not hasattr(options, "prefill")


def test_events_keep_their_order(stage: Stage) -> None:
    """The order is reasoning, then the text in one part, then the call. A call alone works too."""
    stage.play(
        StreamEvent(type="reasoning", chunk="hm", part_index=0),
        StreamEvent(type="text", chunk='["', part_index=1),
        StreamEvent(type="text", chunk='A"]', part_index=1),
        StreamEvent(type="tool_call_name", chunk="look", part_index=2, tool_call_id="1"),
        StreamEvent(type="tool_call_args", chunk="{}", part_index=2, tool_call_id="1"),
    )
    model = llm.get_model("prefill/mock")
    response = model.prompt("x", prefill='["')
    assert [(one.type, one.chunk) for one in response.stream_events()] == [
        ("reasoning", "hm"), ("text", '["'), ("text", 'A"]'), ("tool_call_name", "look"), ("tool_call_args", "{}"),
    ]  # fmt: skip
    kinds = [type(part).__name__ for part in response.messages()[0].parts]
    assert kinds == ["ReasoningPart", "TextPart", "ToolCallPart"]
    stage.turns = [stage.turns[0][3:]]
    response = model.prompt("x", prefill='["')
    assert response.text() == ""
    assert [type(part).__name__ for part in response.messages()[0].parts] == ["ToolCallPart"]


@pytest.mark.asyncio
async def test_leaving_early_closes_the_plugin(stage: Stage) -> None:
    """Leaving a reply early closes the plugin's generator, and so its connection, at once."""
    stage.play("a", "b", "c")
    events = llm.get_model("prefill/mock").prompt("x", prefill="z").stream_events()
    next(events)
    events.close()
    assert stage.closed == 1
    if VERSION < (0, 36):
        pytest.skip("LLM before 0.36 does not close an async model's generator when its events are left")
    astream = llm.get_async_model("prefill/mock").prompt("x", prefill="a", stream=True).astream_events()
    await anext(astream)
    await astream.aclose()
    assert stage.closed == 2


def test_to_dict_and_back(stage: Stage) -> None:
    """LLM's own persistence keeps the plugin's options and the verdict."""
    stage.play(STATES)
    model = llm.get_model("prefill/mock")
    response = model.prompt("States", prefill='["', hide_prefill=True)
    response.text()
    again = llm.Response.from_dict(response.to_dict())
    assert again.text() == STATES
    assert again.prompt.options.prefill_verdict == "echoed"
    assert again.reply("On").text() == STATES


def test_options_of_the_inner_model_are_kept(stage: Stage) -> None:
    """The inner model's options and attributes are those of the new model."""
    inner = Mock(stage, "some")
    inner.json_replacements = {"a": 1}
    model = with_prefill(inner)
    assert model.json_replacements == {"a": 1}
    assert model.supports_tools
    assert model.attachment_types == {"image/png"}
    with pytest.raises(AttributeError):
        model.nothing_of_the_kind  # noqa: B018
    model.key = "sk-2"
    assert inner.key == "sk-2"
    assert set(model.Options.model_fields) >= {"max_tokens", "stop", "prefill", "hide_prefill", "prefill_strict"}


def test_white_space_alone(stage: Stage) -> None:
    """A prefill of white space is not asked for, because its echo could not be seen. It is not doubled."""
    stage.play("  ", "code")
    assert llm.get_model("prefill/mock").prompt("x", prefill="  ").text() == "  code"
    assert stage.asked() == "x"


@pytest.mark.parametrize(
    ("end", "verdict"),
    [
        ("This is where it ends for now.", "overlapped"),
        # its last 16 characters occur in other lines too, so they do not prove an overlap: the whole line is compared
        ("Line number 11 of a long beginning.", "echoed"),
    ],
)
def test_a_long_prefill(stage: Stage, end: str, verdict: str) -> None:
    """A prefill of more than 200 characters is quoted and only its end is asked for. The texts are joined there."""
    long = "".join(f"Line number {i} of a long beginning.\n" for i in range(11)) + end + "\n"
    stage.play(end[:9], end[9:] + "\nAnd on.")
    response = llm.get_model("prefill/mock").prompt("x", prefill=long)
    assert response.text() == long + "And on."
    assert response.prompt.options.prefill_verdict == verdict
    assert stage.asked().count(end) == 2


@pytest.mark.parametrize("hide", [False, True])
def test_a_hidden_prefill_has_its_place(stage: Stage, hide: bool) -> None:
    """A prefill comes before a call after its text, is one part with its text, or is alone.

    Hiding it changes nothing.
    """
    text, call = (
        (lambda chunk, part: StreamEvent(type="text", chunk=chunk, part_index=part)),
        StreamEvent(type="tool_call_name", chunk="look", part_index=1, tool_call_id="1", server_executed=True),
    )
    model = llm.get_model("prefill/mock")
    for events, parts in (
        ([text("abc", 0), call, text("def", 2)], ["look", "abcdef"]),
        ([text("abcd", 0), call, text("ef", 2)], ["abcd", "look", "ef"]),
        ([call, text("abcdef", 2)], ["look", "abcdef"]),
        ([call, text("def", 2)], ["look", "abcdef"]),
        ([StreamEvent(type="reasoning", chunk="hm"), StreamEvent(type="text", chunk="def")], ["hm", "abcdef"]),
        (["abc", "def"], ["abcdef"]),
        (["abc"], ["abc"]),
        ([], ["abc"]),
    ):
        stage.play(*(one if isinstance(one, str) else replace(one) for one in events))
        response = model.prompt("x", prefill="abc", hide_prefill=hide)
        response.text()
        found = [part.text if hasattr(part, "text") else part.name for one in response.messages() for part in one.parts]
        assert found == parts
        assert "abc" not in response.text() or not hide
        assert all(response) or not events  # no empty chunk


@pytest.mark.parametrize(
    ("said", "limited"),
    [
        ({"choices": [{"finish_reason": "length"}]}, True),
        ({"chunks": [{"choices": [{"finish_reason": None}]}, {"choices": [{"finish_reason": "length"}]}]}, True),
        ({"finish_reason": "length"}, True),
        ({"stop_reason": "max_tokens"}, True),
        ({"done_reason": "length"}, True),
        ({"candidates": [{"finishReason": "MAX_TOKENS"}]}, True),
        ({"candidates": [{"finishReason": "FINISH_REASON_MAX_TOKENS"}]}, True),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, True),
        ({"choices": [{"finish_reason": "model_length"}]}, True),
        ([{"candidates": [{"finishReason": "STOP"}]}, {"candidates": [{"finishReason": "MAX_TOKENS"}]}], True),
        ({"stop_reason": "end_turn", "content": [{"input": {"reason": "length", "stop_reason": "length"}}]}, False),
        ({"content": "length"}, False),
        (None, False),
    ],
)
def test_what_plugins_note_of_a_token_limit(said: Any, limited: bool) -> None:
    """A token limit is recognised in the words of each host. Text of the model does not count."""
    assert is_limited(said) is limited


@pytest.mark.parametrize("stream", [True, False])
def test_a_chain_whose_model_talks_behind_its_call(stage: Stage, stream: bool) -> None:
    """If the model writes text after its call, the answer has the prefill, and the second request asks for it."""

    def look(word: str) -> str:
        return word

    stage.calls("look", word="x")
    name = StreamEvent(type="tool_call_name", chunk="look", tool_call_id="t1")
    arguments = StreamEvent(type="tool_call_args", chunk='{"word": "x"}', tool_call_id="t1")
    stage.turns = [
        [name, arguments, StreamEvent(type="text", chunk="I look.")],
        [StreamEvent(type="text", chunk='["sunny"]')],
    ]
    model = llm.get_model("prefill/mock")
    chain = model.conversation().chain("q", tools=[look], stream=stream, options={"prefill": '["'})
    assert "".join(chain).replace(" ", "") == 'Ilook.["sunny"]'
    assert stage.asked(1).endswith('\n\n["')


def test_one_prefill_a_chain(stage: Stage) -> None:
    """A prefill that came after a tool which the host ran itself is not asked for again in the chain."""

    def look(word: str) -> str:
        return word

    stage.calls("look", word="x")
    own = StreamEvent(type="tool_call_name", chunk="search", tool_call_id="s1", part_index=1, server_executed=True)
    name = StreamEvent(type="tool_call_name", chunk="look", tool_call_id="t1", part_index=3)
    arguments = StreamEvent(type="tool_call_args", chunk='{"word": "x"}', tool_call_id="t1", part_index=3)
    said = [StreamEvent(type="text", chunk=text, part_index=part) for text, part in (("I look. ", 0), ('["Ala', 2))]
    stage.turns = [[said[0], own, said[1], name, arguments], [StreamEvent(type="text", chunk='bama"]')]]
    chain = llm.get_model("prefill/mock").conversation().chain("q", tools=[look], options={"prefill": '["'})
    assert "".join(chain).replace(" ", "") == 'Ilook.["Alabama"]'
    assert BEGIN[:20] not in stage.asked(1)


def test_other_tasks_are_not_waited_for(stage: Stage) -> None:
    """Leaving a reply waits for the SDK's own generators and not for other tasks. It works on trio too."""

    async def never() -> Any:
        await anyio.sleep_forever()
        yield

    async def ask_beside() -> float:
        other = asyncio.create_task(anext(never()))
        await asyncio.sleep(0)
        begun = time.perf_counter()
        with pytest.raises(openai.APIConnectionError):
            await model.prompt("x", prefill="a", key="k").text()
        other.cancel()
        return time.perf_counter() - begun

    async def ask() -> None:
        with pytest.raises(openai.APIConnectionError):
            await model.prompt("x", prefill="a", key="k").text()

    openai = pytest.importorskip("openai")
    model = llm.get_async_model("prefill/gpt-4o")
    model._inner.api_base = "http://127.0.0.1:9/v1"
    client = model._inner.get_client
    model._inner.get_client = lambda *a, **k: client(*a, **k).with_options(max_retries=0)
    assert asyncio.run(ask_beside()) < 0.9
    anyio.run(ask, backend="trio")

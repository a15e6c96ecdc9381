"""Scripted models of LLM, of all four kinds. Needs LLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import llm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

Chunks = list[Any]

#: The prefill of LLM's pull request 473, and its six cases: the model's chunks, separated by `|`, and the reply. Where
#: the model leaves the prefill out, the pull request had an invented space before `is`; here there is none.
FAVE = "My fave color"
PULL_REQUEST_473 = [
    ("is| orange", "My fave coloris orange"),
    ("My| fave| is| orange", "My fave colorMy fave is orange"),
    ("My| fave| color| is| orange", "My fave color is orange"),
    ("fave| color| is| orange", "My fave colorfave color is orange"),
    ("My fave color is orange", "My fave color is orange"),
    ("My fave color| is orange", "My fave color is orange"),
]


@dataclass
class Stage:
    """What the model plays, with one entry per turn (the last is repeated), and the prompts that it got."""

    turns: list[Chunks | Exception] = field(default_factory=lambda: [["Hello."]])
    prompts: list[Any] = field(default_factory=list)
    streams: list[bool] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    #: how often a reply was left before its end
    closed: int = 0
    #: called with the response and the prompt, for other effects of a plugin than the yielded chunks
    beside: Callable[[Any, Any], None] | None = None

    def play(self, *chunks: Any) -> None:
        self.turns = [list(chunks)]

    def next(self, prompt: Any, stream: bool, response: Any, key: str | None = None) -> Chunks:
        turn = self.turns[min(len(self.prompts), len(self.turns) - 1)]
        self.prompts.append(prompt)
        self.streams.append(stream)
        self.keys.append(key)
        if self.beside is not None:
            self.beside(response, prompt)
        if isinstance(turn, Exception):
            raise turn
        response.set_usage(input=3, output=len(turn))
        return turn

    def calls(self, name: str, **arguments: Any) -> None:
        """Call a tool in each turn that has no tool result."""

        def beside(response: Any, prompt: Any) -> None:
            if not prompt.tool_results:
                response.add_tool_call(llm.ToolCall(name=name, arguments=arguments, tool_call_id="t1"))

        self.beside = beside

    def asked(self, turn: int = -1) -> str:
        """Return the last user message that the plugin got."""
        texts = [
            "".join(getattr(part, "text", "") for part in message.parts)
            for message in self.prompts[turn].messages
            if message.role == "user"
        ]
        return texts[-1]


class _Shared:
    model_id = "mock"
    can_stream = True
    supports_schema = True
    supports_tools = True
    attachment_types = frozenset({"image/png"})

    class Options(llm.Options):
        max_tokens: int | None = None
        stop: list[str] | str | None = None
        json_object: bool | None = None

    def __init__(self, stage: Stage, model_id: str = "mock") -> None:
        self.stage = stage
        self.model_id = model_id


class Mock(_Shared, llm.Model):
    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[Any]:
        done = False
        try:
            yield from self.stage.next(prompt, stream, response)
            done = True
        finally:
            self.stage.closed += not done


class KeyMock(_Shared, llm.KeyModel):
    needs_key = "mock"
    key_env_var = "MOCK_KEY"

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None, key: str | None = None
    ) -> Iterator[Any]:
        yield from self.stage.next(prompt, stream, response, key)


class AsyncMock(_Shared, llm.AsyncModel):
    async def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> AsyncIterator[Any]:
        done = False
        try:
            for chunk in self.stage.next(prompt, stream, response):
                yield chunk
            done = True
        finally:
            self.stage.closed += not done


class AsyncKeyMock(_Shared, llm.AsyncKeyModel):
    needs_key = "mock"
    key_env_var = "MOCK_KEY"

    async def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None, key: str | None = None
    ) -> AsyncIterator[Any]:
        for chunk in self.stage.next(prompt, stream, response, key):
            yield chunk

"""Any model of LLM's with a prefill: a model of the same four kinds around it, sync and async, with and without a key.

What the plugin yields is spliced (`_splice`); usage, tool calls and whatever else it notes go to the real response.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import llm
from llm.models import ModelWithAliases
from llm.parts import Message, ReasoningPart, TextPart
from pydantic import Field, create_model
from pydantic.json_schema import SkipJsonSchema

from .._support import refusal
from ._carry import OURS, carried, is_delivered, plain
from ._cli import LISTING, RUN
from ._errors import PrefillError
from ._hosts import host_of
from ._splice import Ignored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from ._cli import Run
    from ._hosts import Host

PREFIX = "prefill/"


def register_all(register: Callable[..., None], known: list[Any]) -> None:
    """`prefill/<id>` for each model in `known`; while a prefill is carried, the models themselves take one as well."""
    if LISTING.get():
        return
    run = RUN.get()
    for i, one in enumerate(list(known)):
        models = [one.model, one.async_model]
        if any(isinstance(model, _Prefill) for model in models) or one.model is None:
            continue
        register(
            *(model and wrap(model, run=run) for model in models), aliases=[PREFIX + alias for alias in one.aliases]
        )
        if run is not None:
            same = [model and wrap(model, run=run, model_id=model.model_id) for model in models]
            known[i] = ModelWithAliases(*same, one.aliases)


def wrap(model: Any, *, run: Run | None = None, model_id: str | None = None) -> Any:
    """`model` with a prefill. Raises `TypeError` for what is no model of LLM's."""
    if isinstance(model, _Prefill):
        return model
    for kind, ours in _KINDS.items():
        if isinstance(model, kind):
            return ours(model, run=run, model_id=model_id or PREFIX + model.model_id)
    raise TypeError(f"with_prefill() takes a model of LLM's, not a {type(model).__name__}")


def _of_inner(name: str) -> Any:
    return property(lambda self: getattr(self._inner, name))


class _Prefill:
    """What the four kinds share. Whatever is asked of it that is not about the prefill, the model inside answers."""

    can_stream = _of_inner("can_stream")
    attachment_types = _of_inner("attachment_types")
    supports_schema = _of_inner("supports_schema")
    supports_tools = _of_inner("supports_tools")
    supports_conversation = _of_inner("supports_conversation")
    supported_server_side_tools = _of_inner("supported_server_side_tools")
    needs_key = _of_inner("needs_key")
    key_env_var = _of_inner("key_env_var")

    def __init__(self, inner: Any, *, run: Run | None, model_id: str) -> None:
        self._inner = inner
        self._run = run
        self._options: Any = None
        #: this host has refused a native prefill
        self._refused = False
        self.model_id = model_id

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __str__(self) -> str:
        return str(self._inner) if self.model_id == self._inner.model_id else f"Prefill: {self._inner.model_id}"

    @property
    def key(self) -> Any:
        return self._inner.key

    @key.setter
    def key(self, value: Any) -> None:
        self._inner.key = value

    def get_key(self, explicit_key: str | None = None) -> Any:
        return self._inner.get_key(explicit_key)

    def _validate_attachments(self, attachments: Any = None) -> None:
        self._inner._validate_attachments(attachments)

    @property
    def Options(self) -> Any:
        """The model's own options and ours. Made when first asked for: a class costs a millisecond."""
        if self._options is None:
            self._options = _options(self._inner.Options)
        return self._options


def _options(base: Any) -> Any:
    def option(kind: Any, description: str) -> Any:
        return (kind | None, Field(default=None, description=description))

    logged = (SkipJsonSchema[str | None], None)
    return create_model(
        "Options",
        __base__=base,
        prefill=option(str, "Begin the reply with this text"),
        hide_prefill=option(bool, "Leave the prefill out of the text; the log and the conversation have it"),
        prefill_strict=option(bool, "An error where the model takes no prefill natively"),
        # not for the caller: what became of it, for `llm logs`
        prefill_mode=logged,
        prefill_verdict=logged,
    )


class _Turn:
    """One execution, without any waiting: which request to make, and what to yield for what comes back."""

    def __init__(self, owner: _Prefill, prompt: Any, response: Any) -> None:
        self._owner = owner
        self._prompt = prompt
        self._response = response
        self._started = False
        self._host: Host | None = None
        self._carried: Any = None
        self._prefill = prompt.options.prefill
        run = owner._run
        if self._prefill and (
            (run and run.first_only and run.delivered) or is_delivered(prompt.messages, self._prefill)
        ):
            self._prefill = None
        if self._prefill:
            self._host = host_of(owner._inner)
            self._carried = carried(owner._inner, self._host, prompt, refused=owner._refused)

    @property
    def request(self) -> tuple[Any, Any]:
        """The model and the prompt to execute."""
        if self._carried is None:
            return self._owner._inner, plain(self._owner._inner, self._prompt)
        return self._carried.model, self._carried.prompt

    @property
    def stopped(self) -> bool:
        return self._carried is not None and self._carried.splice.stopped

    def take(self, chunk: Any) -> list[Any]:
        self._started = True
        if self._carried is None:
            return [chunk]
        try:
            return list(self._carried.splice.take(chunk))
        except Ignored:
            raise self._ignored() from None

    def end(self) -> list[Any]:
        if self._carried is None:
            return []
        try:
            return list(self._carried.splice.end())
        except Ignored:
            raise self._ignored() from None

    def note(self) -> None:
        """After the last chunk was taken over by LLM: what is logged, and what the conversation has."""
        options = self._prompt.options
        if self._carried is None:
            if options.prefill or options.hide_prefill or options.prefill_mode:
                self._prompt.options = options.model_copy(update=dict.fromkeys(OURS))
            return
        splice = self._carried.splice
        noted = {"prefill_mode": self._carried.mode, "prefill_verdict": splice.verdict.value}
        self._prompt.options = options.model_copy(update=noted)
        if not splice.delivered:
            return
        if self._owner._run is not None:
            self._owner._run.delivered = True
        if options.hide_prefill:
            self._response._loaded_messages = _begun(self._response._messages_now(), self._prefill)

    def is_rescued(self, error: Exception) -> bool:
        """Whether the host has refused the prefill, and the same prompt is to be sent with a request in it instead."""
        if self._carried is None or self._carried.mode != "native" or self._started:
            return False
        if self._prompt.options.prefill_strict or self._host is None:
            return False
        if not any(_refuses(self._host, one) for one in (error, error.__cause__) if one is not None):
            return False
        try:
            self._carried = carried(self._owner._inner, self._host, self._prompt, refused=True)
        except PrefillError:
            return False  # the refusal says more
        self._owner._refused = True
        return True

    def _ignored(self) -> PrefillError:
        why = "and with a schema it cannot be put in front" if self._prompt.schema else "and prefill_strict was given"
        return PrefillError(f"{self._owner._inner.model_id} did not begin its reply with the prefill, {why}")


def _refuses(host: Host, error: BaseException) -> bool:
    status = getattr(error, "status_code", None)
    text = f"{error} {getattr(error, 'body', '')}"
    found = refusal(host.row, status, text) if isinstance(status, int) else None
    return found is not None


def _begun(messages: list[Any], prefill: str) -> list[Any]:
    """The reply's messages with the prefill at the front of its first text, in one part with it."""
    messages = list(messages) or [Message(role="assistant")]
    for i, message in enumerate(messages):
        for k, part in enumerate(message.parts):
            if isinstance(part, TextPart):
                parts = list(message.parts)
                parts[k] = TextPart(text=prefill + part.text, provider_metadata=part.provider_metadata)
                messages[i] = Message("assistant", parts, message.provider_metadata)
                return messages
    first = messages[0]
    thoughts = [part for part in first.parts if isinstance(part, ReasoningPart)]
    rest = [part for part in first.parts if not isinstance(part, ReasoningPart)]
    messages[0] = Message("assistant", [*thoughts, TextPart(text=prefill), *rest], first.provider_metadata)
    return messages


def _events(owner: _Prefill, prompt: Any, response: Any, run: Callable[[Any, Any], Any]) -> Iterator[Any]:
    turn = _Turn(owner, prompt, response)
    while True:
        source = run(*turn.request)
        try:
            with closing(source) if hasattr(source, "close") else nullcontext():
                for chunk in source:
                    yield from turn.take(chunk)
                    if turn.stopped:
                        break
            break
        except Exception as error:
            if not turn.is_rescued(error):
                raise
    yield from turn.end()
    turn.note()


class _AsyncEvents:
    """The same for an async model. An object and no generator: what it holds is closed when it is left."""

    def __init__(self, owner: _Prefill, prompt: Any, response: Any, run: Callable[[Any, Any], Any]) -> None:
        self._begin = (owner, prompt, response)
        self._run = run
        self._turn: _Turn | None = None
        self._source: Any = None
        self._ready: deque[Any] = deque()
        #: the plugin has said all
        self._ended = False
        #: nothing more will be given out
        self._over = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            try:
                if self._turn is None:
                    self._turn = _Turn(*self._begin)
                if self._ended:
                    self._over = True
                    self._turn.note()
                else:
                    await self._pull(self._turn)
            except BaseException:
                await self.aclose()
                raise
        return self._ready.popleft()

    async def _pull(self, turn: _Turn) -> None:
        if self._source is None:
            self._source = self._run(*turn.request)
        try:
            chunk = await anext(self._source)
        except StopAsyncIteration:
            self._ended = True
        except Exception as error:
            if not turn.is_rescued(error):
                raise
            await self._leave()
        else:
            self._ready += turn.take(chunk)
            self._ended = turn.stopped
        if self._ended:
            self._ready += turn.end()
            await self._leave()

    async def aclose(self) -> None:
        """Close what the plugin yields from; nothing more is given out."""
        self._over = True
        self._ready.clear()
        await self._leave()

    async def _leave(self) -> None:
        source, self._source = self._source, None
        if hasattr(source, "aclose"):
            await source.aclose()


class PrefillModel(_Prefill, llm.Model):
    """A sync model without a key."""

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[Any]:
        rest = {"stream": stream, "response": response, "conversation": conversation}
        return _events(self, prompt, response, lambda model, inner: model.execute(inner, **rest))


class PrefillKeyModel(_Prefill, llm.KeyModel):
    """A sync model with a key."""

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None, key: str | None = None
    ) -> Iterator[Any]:
        rest = {"stream": stream, "response": response, "conversation": conversation, "key": key}
        return _events(self, prompt, response, lambda model, inner: model.execute(inner, **rest))


class AsyncPrefillModel(_Prefill, llm.AsyncModel):
    """An async model without a key."""

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> AsyncIterator[Any]:
        rest = {"stream": stream, "response": response, "conversation": conversation}
        return _AsyncEvents(self, prompt, response, lambda model, inner: model.execute(inner, **rest))


class AsyncPrefillKeyModel(_Prefill, llm.AsyncKeyModel):
    """An async model with a key."""

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None, key: str | None = None
    ) -> AsyncIterator[Any]:
        rest = {"stream": stream, "response": response, "conversation": conversation, "key": key}
        return _AsyncEvents(self, prompt, response, lambda model, inner: model.execute(inner, **rest))


_KINDS: dict[Any, Any] = {
    llm.Model: PrefillModel,
    llm.KeyModel: PrefillKeyModel,
    llm.AsyncModel: AsyncPrefillModel,
    llm.AsyncKeyModel: AsyncPrefillKeyModel,
}

"""Wraps a model of LLM so that it takes a prefill.

There is one wrapper for each of LLM's four kinds of models: sync and async, with and without a key. The wrapper joins
the prefill and the text that the model's plugin yields (`_splice`). The plugin itself stores usage, tool calls and
other data in the real response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import llm
from llm.models import ModelWithAliases
from pydantic import Field, create_model
from pydantic.json_schema import SkipJsonSchema

from ._scope import LISTING, SCOPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from ._scope import CommandScope

PREFIX = "prefill/"


def register_all(register: Callable[..., None], models_with_aliases: list[Any]) -> None:
    """Register `prefill/<id>` for each model in `models_with_aliases`.

    While a command runs with a prefill (`SCOPE`), the models in this list are replaced by models that take a prefill.
    """
    if LISTING.get():
        return
    scope = SCOPE.get()
    for i, one in enumerate(list(models_with_aliases)):
        models = [one.model, one.async_model]
        if any(isinstance(model, Prefill) for model in models) or one.model is None:
            continue
        register(
            *(model and wrap(model, scope=scope) for model in models), aliases=[PREFIX + alias for alias in one.aliases]
        )
        if scope is not None:
            same = [model and wrap(model, scope=scope, model_id=model.model_id) for model in models]
            models_with_aliases[i] = ModelWithAliases(*same, one.aliases)


def wrap(model: Any, *, scope: CommandScope | None = None, model_id: str | None = None) -> Any:
    """Return a model that takes a prefill. Raises `TypeError` if `model` is not a model of LLM."""
    if isinstance(model, Prefill):
        return model
    for kind, ours in _KINDS.items():
        if isinstance(model, kind):
            return ours(model, scope=scope, model_id=model_id or PREFIX + model.model_id)
    raise TypeError(f"with_prefill() takes a model of LLM, not a {type(model).__name__}")


def _of_inner(name: str) -> Any:
    return property(lambda self: getattr(self._inner, name))


class Prefill:
    """The common part of the four wrappers. All other attributes are those of the wrapped model."""

    can_stream = _of_inner("can_stream")
    attachment_types = _of_inner("attachment_types")
    supports_schema = _of_inner("supports_schema")
    supports_tools = _of_inner("supports_tools")
    supports_conversation = _of_inner("supports_conversation")
    supported_server_side_tools = _of_inner("supported_server_side_tools")
    needs_key = _of_inner("needs_key")
    key_env_var = _of_inner("key_env_var")

    def __init__(self, inner: Any, *, scope: CommandScope | None, model_id: str) -> None:
        self._inner = inner
        self._scope = scope
        self._options: Any = None
        self.model_id = model_id

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __str__(self) -> str:
        return str(self._inner) if self.model_id == self._inner.model_id else f"Prefill: {self.model_id}"

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
        """The model's options and the plugin's options. Created on first use, because this takes a millisecond."""
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
        hide_prefill=option(bool, "Omit the prefill from the text; the log and the conversation contain it"),
        prefill_strict=option(bool, "Fail unless the model takes the prefill natively"),
        # The plugin sets these two options, not the caller. They hold the mode and the verdict of the reply, so that
        # `llm logs` shows them.
        prefill_mode=logged,
        prefill_verdict=logged,
    )


def _execute(owner: Prefill, prompt: Any, rest: dict[str, Any]) -> Iterator[Any]:
    from ._turn import events, whole

    rest["conversation"] = whole(rest["conversation"])
    return events(owner, prompt, rest["response"], lambda model, inner: model.execute(inner, **rest))


def _execute_async(owner: Prefill, prompt: Any, rest: dict[str, Any]) -> AsyncIterator[Any]:
    from ._turn import AsyncEvents, whole

    rest["conversation"] = whole(rest["conversation"])
    return AsyncEvents(owner, prompt, rest["response"], lambda model, inner: model.execute(inner, **rest))


class PrefillModel(Prefill, llm.Model):
    """A sync model without a key."""

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[Any]:
        rest = {"stream": stream, "response": response, "conversation": conversation}
        return _execute(self, prompt, rest)


class PrefillKeyModel(Prefill, llm.KeyModel):
    """A sync model with a key."""

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None, key: str | None = None
    ) -> Iterator[Any]:
        rest = {"stream": stream, "response": response, "conversation": conversation, "key": key}
        return _execute(self, prompt, rest)


class AsyncPrefillModel(Prefill, llm.AsyncModel):
    """An async model without a key."""

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> AsyncIterator[Any]:
        rest = {"stream": stream, "response": response, "conversation": conversation}
        return _execute_async(self, prompt, rest)


class AsyncPrefillKeyModel(Prefill, llm.AsyncKeyModel):
    """An async model with a key."""

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None, key: str | None = None
    ) -> AsyncIterator[Any]:
        rest = {"stream": stream, "response": response, "conversation": conversation, "key": key}
        return _execute_async(self, prompt, rest)


_KINDS: dict[Any, Any] = {
    llm.Model: PrefillModel,
    llm.KeyModel: PrefillKeyModel,
    llm.AsyncModel: AsyncPrefillModel,
    llm.AsyncKeyModel: AsyncPrefillKeyModel,
}

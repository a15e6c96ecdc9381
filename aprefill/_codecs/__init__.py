"""One pure file a protocol: all that is particular to it, from the request's path to its errors."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from aprefill._errors import UsageError
from aprefill._types import TOKEN_LIMIT_REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aprefill._deltas import Delta, ErrorDelta, Message, ModelInput, Record
    from aprefill._types import StopReason

#: The protocols there are, and for each the SDK whose clients can send its requests; "" if there is none. A protocol is the
#: module of that name in this package, with one `CODEC` in it.
PROTOCOLS: dict[str, str] = {
    "anthropic_messages": "anthropic",
    "openai_chat": "openai",
}


class Decoder(Protocol):
    """Decodes one response. One object, one stream; pure."""

    def decode(self, record: Record) -> Sequence[Delta]:
        """Deltas of one record, in order.

        Raises `ProtocolError` when a needed field is missing, and `Truncated` when the record says that all was
        sent although the protocol's end was not seen. After an `EndDelta` or `ErrorDelta` every further record
        gives nothing.
        """
        ...

    def close(self, undispatched: Record | None = None) -> Sequence[Delta]:
        """The body ended. Raises `Truncated` unless the protocol's end was seen (or the host row is lenient).

        `undispatched` is the last record if its blank line never came: it counts only if it is the end itself.
        `Truncated.received_bytes` is 0: only the pump knows.
        """
        ...


class Codec(Protocol):
    """One protocol: what a request looks like, where it goes, and a `decoder` for its response.

    Everything that is particular to a protocol is asked here, so that no other module names one.
    `_base.JsonCodec` has what most of them have in common.
    """

    #: the protocol's name in `models.toml`, one of `PROTOCOLS`
    @property
    def name(self) -> str: ...

    #: value of the request's `accept` header
    @property
    def accept(self) -> str: ...

    #: media types of a response that is no stream, whatever it holds
    @property
    def not_streams(self) -> frozenset[str]: ...

    #: fields of the body that switch streaming on
    @property
    def streaming(self) -> Mapping[str, Any]: ...

    #: most stop sequences that the protocol has room for; None: no limit. A host's row may say less.
    @property
    def max_stop(self) -> int | None: ...

    #: the rules of how a reply of this protocol ends; a host's row names one. "strict" is among them.
    @property
    def end_rules(self) -> tuple[str, ...]: ...

    #: argument of `stream()` -> the body's fields that it becomes, in every spelling that a host of this protocol takes.
    #: A field within an object is a path: "limits.words". An argument that is missing here is one that the protocol lacks.
    @property
    def arguments(self) -> Mapping[str, tuple[str, ...]]: ...

    #: the protocol's words for why a reply ended -> ours
    @property
    def stop_reasons(self) -> Mapping[str, StopReason]: ...

    def path(self, model_input: ModelInput) -> str:
        """What is appended to the base URL. Some protocols have the model in it."""
        ...

    def auth(self, key: str, form: str) -> dict[str, str]:
        """The headers that carry a key. `form` is the host's choice: `bearer`, `none` or the name of a header."""
        ...

    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        """Return the request body as a JSON object that switches streaming on.

        A message is `{"role": ..., "content": ...}`. Its role is system, user, assistant or tool. Its content is a str, or a
        list of parts that the caller wrote for this protocol. Raises `UsageError` for a role, a part or an argument that
        the protocol has no place for, and if a field is missing that it needs.
        """
        ...

    def merge(self, body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """`body` with the fields of `extra` laid over it. They win, also within an object; a None removes a field."""
        ...

    def settings_in_use(self, arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
        """The settings that a request switches on, and how the caller spelled each.

        Settings are those of `SupportRow.conflicts`: "thinking", "tools", "tool_choice" (a forced call),
        "response_format" (a schema or a pattern), "grammar" (llama.cpp's). `arguments` are those of `stream()`; a field
        of `extra` wins over the argument of the same name, as it does in the request.
        """
        ...

    def undone_by(self, argument: str, extra: Mapping[str, Any]) -> str | None:
        """The field of `extra` that has the same setting as an argument, in the protocol's spelling or any host's."""
        ...

    def text_part(self, text: str) -> dict[str, Any]:
        """`text` as one part of a message whose content is a list."""
        ...

    def is_tool_result(self, turn: Mapping[str, Any]) -> bool:
        """Whether a message is a tool's result, or holds one."""
        ...

    def decoder(self, *, end: str = "strict") -> Decoder:
        """A new decoder for one response. `end` is one of `end_rules`; raises `UsageError` for any other."""
        ...

    def message(self, parts: Sequence[str | Delta], *, lead: str = "") -> Message:
        """The assistant turn for the next request.

        `parts` is what was handed out, in the host's order: text as str, and deltas of the other kinds. `lead` is the
        known text before it, the prefill.
        """
        ...

    def edit(self, message: Message, change: Callable[[Any], Any]) -> Message:
        """`message` with `change` made of each part that may be changed: of no text, and of nothing that is signed."""
        ...

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
        """The `(error_type, detail)` in the host's own words out of an error body, both may be ``""``."""
        ...

    def error_delta(self, body: bytes) -> ErrorDelta:
        """The error that came as a whole body in place of a stream, though with status 200."""
        ...

    def request_id(self, headers: Mapping[str, str]) -> str | None:
        """The response's id, for the host's support; None: it has none. Names of headers are in lower case."""
        ...


def limit_words() -> frozenset[str]:
    """The words of every protocol for a reply that ran into a limit for its tokens."""
    reasons = [item for name in PROTOCOLS for item in codec(name).stop_reasons.items()]
    return frozenset(word for word, reason in reasons if reason in TOKEN_LIMIT_REASONS)


@cache
def codec(name: str) -> Codec:
    """The codec of a protocol; its module is imported on first use. Raises `UsageError` for an unknown name."""
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol is named {name!r}", f"there are {', '.join(PROTOCOLS)}")
    return cast("Codec", import_module(f"{__name__}.{name}").CODEC)

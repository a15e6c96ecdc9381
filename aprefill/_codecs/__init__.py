"""Codecs: one pure module per protocol, with everything that is specific to it, from the request's path to its errors.

A codec encodes the request of one wire protocol and decodes the records of its response into deltas.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from aprefill._codecs._switches import OTHER_LIMIT_WORDS
from aprefill._errors import UsageError
from aprefill._types import TOKEN_LIMIT_REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aprefill._codecs._dialects import PrefillSwitch
    from aprefill._deltas import Delta, ErrorDelta, Message, ModelInput, Record
    from aprefill._types import StopReason

#: Protocol name -> the SDK whose clients can send its requests; "" if no SDK can.
#: Each protocol is the module of that name in this package. The module defines one `CODEC`.
PROTOCOLS: dict[str, str] = {
    "anthropic_messages": "anthropic",
    "cohere": "",
    "gemini": "",
    "ollama": "",
    "openai_chat": "openai",
    "openai_responses": "openai",
}


class Decoder(Protocol):
    """Decodes one response. Pure; use one object per stream."""

    def decode(self, record: Record) -> Sequence[Delta]:
        """Return the deltas of one record, in order.

        Raises `ProtocolError` when a needed field is missing. Raises `Truncated` when the record says that the stream
        is complete although the protocol's end was not seen. After an `EndDelta` or `ErrorDelta`, every further record
        returns no deltas.
        """
        ...

    def close(self, undispatched: Record | None = None) -> Sequence[Delta]:
        """End the stream, because the body ended. Return the last deltas.

        Raises `Truncated` unless the protocol's end was seen. A decoder that was made with another end rule than
        "strict" also accepts other ends (see `Codec.decoder`).

        `undispatched` is the last record if the blank line after it is missing. This record counts only if it is the
        protocol's end itself. `Truncated.received_bytes` is 0, because only the caller knows the number.
        """
        ...


class Codec(Protocol):
    """One protocol: the form of a request, the path of its URL, and a `decoder` for its response.

    Everything that is specific to a protocol is behind this interface, so that no other module names a protocol.
    `_base.JsonCodec` implements what most protocols have in common. Hosts of one protocol differ in details. These are
    in the support table (`_hosts/models.toml`). One entry of this table, for one host and some models, is called a row.
    """

    #: the protocol's name in `models.toml`, one of `PROTOCOLS`
    @property
    def name(self) -> str: ...

    #: value of the request's `accept` header
    @property
    def accept(self) -> str: ...

    #: media types that mean that the response is not a stream, whatever its body contains
    @property
    def not_streams(self) -> frozenset[str]: ...

    #: fields of the body that switch streaming on
    @property
    def streaming(self) -> Mapping[str, Any]: ...

    #: maximum number of stop sequences in a request; None: no limit. A host's row may set a lower limit.
    @property
    def max_stop(self) -> int | None: ...

    #: names of the rules for how a reply of this protocol ends. A host's row names one of them. One is "strict".
    @property
    def end_rules(self) -> tuple[str, ...]: ...

    #: argument of `stream()` -> the body fields that carry it, in every spelling that a host of this protocol accepts.
    #: A field inside an object is written with dots, such as "limits.words". If the model's name is in the URL and not
    #: in the body, `model` has `()`. The protocol has no field for an argument that is missing here.
    @property
    def arguments(self) -> Mapping[str, tuple[str, ...]]: ...

    #: roles of the messages that do the same as `system=`
    @property
    def system_roles(self) -> frozenset[str]: ...

    #: the protocol's stop reasons -> `StopReason`
    @property
    def stop_reasons(self) -> Mapping[str, StopReason]: ...

    def path(self, model_input: ModelInput) -> str:
        """Return the path to append to the base URL. In some protocols it contains the model's name."""
        ...

    def auth(self, key: str, form: str) -> dict[str, str]:
        """Return the headers that carry a key. `form` is what the host expects: `bearer`, `none` or a header's name."""
        ...

    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        """Return the request body as a JSON object that switches streaming on.

        A message is `{"role": ..., "content": ...}`. Its role is system, user, assistant or tool. Its content is a str,
        or a list of parts that the caller wrote for this protocol. A native prefill is the last message, with the role
        assistant. Other fields of a message are sent unchanged. So a row of the support table can add fields to the
        message with the prefill (`turn_fields`).

        Raises `UsageError` for a role, a part or an argument that the protocol has no field for, and if a required
        field is missing.
        """
        ...

    def merge(self, body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """Return `body` with the fields of `extra` merged into it.

        A field of `extra` replaces the field in `body`, also within a nested object. None removes the field.
        """
        ...

    def settings_in_use(self, arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
        """Return the settings that a request switches on, and the name that the caller used for each.

        The settings are those of `SupportRow.conflicts`: "thinking", "tools", "tool_choice" (a forced call),
        "response_format" (a schema or a pattern), "grammar" (llama.cpp's). `arguments` are those of `stream()`. A field
        of `extra` takes precedence over the argument of the same name, as it does in the request.
        """
        ...

    def undone_by(self, argument: str, extra: Mapping[str, Any]) -> str | None:
        """Return the name of the field of `extra` that overrides an argument, or None.

        Every name that this protocol or any of its hosts has for the argument is looked for.
        """
        ...

    def prefill_switches(self, dialect: str, *, eats: bool) -> Mapping[str, PrefillSwitch]:
        """Return the body fields that decide whether a host continues a prefill, with the values that it needs.

        `extra` must not set another value. `dialect` is that of the host's row, "prompt" without native support. With
        `eats`, the host leaves the prefill out of its reply. The fields of the row itself are not included.
        """
        ...

    def text_part(self, text: str) -> dict[str, Any]:
        """Return `text` as one part of a message whose content is a list."""
        ...

    def is_tool_result(self, turn: Mapping[str, Any]) -> bool:
        """Whether a message is or contains the result of a tool call."""
        ...

    def decoder(self, *, end: str = "strict") -> Decoder:
        """Return a new decoder for one response. `end` is one of `end_rules`; other values raise `UsageError`."""
        ...

    def message(self, parts: Sequence[str | Delta], *, lead: str = "") -> Message:
        """Return the assistant message to send back in the next request.

        `parts` is what the caller received, in the host's order: text as str, and deltas of the other kinds. `lead` is
        the text before `parts`: the prefill.
        """
        ...

    def edit(self, message: Message, change: Callable[[Any], Any]) -> Message:
        """Return `message` with `change` applied to each part, except to text and to the model's thinking.

        A host may sign thinking. It then refuses thinking that was changed.
        """
        ...

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
        """Return `(error_type, detail)` from an error body, in the host's own words. Each may be ``""``."""
        ...

    def error_delta(self, body: bytes) -> ErrorDelta:
        """Return the error of a response with status 200 whose body is an error and not a stream."""
        ...

    def request_id(self, headers: Mapping[str, str]) -> str | None:
        """Return the id that the host's support asks for; None if there is none. Header names are in lower case."""
        ...


def limit_words() -> frozenset[str]:
    """Return the words, of all protocols, that mean that a reply reached a token limit. They are in lower case.

    Protocols without a codec are included.
    """
    reasons = [item for name in PROTOCOLS for item in codec(name).stop_reasons.items()]
    words = [word.lower() for word, reason in reasons if reason in TOKEN_LIMIT_REASONS]
    return frozenset([*words, *OTHER_LIMIT_WORDS])


@cache
def codec(name: str) -> Codec:
    """Return the codec of a protocol. Its module is imported on first use. Raises `UsageError` for an unknown name."""
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol is named {name!r}", f"the protocols are {', '.join(PROTOCOLS)}")
    return cast("Codec", import_module(f"{__name__}.{name}").CODEC)

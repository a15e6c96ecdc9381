"""The common part of the codecs: JSON in the request, server-sent events in the response, a key in a header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aprefill._codecs._host_error import body_error, error_from
from aprefill._codecs._json import overlay
from aprefill._codecs._switches import is_tool_result, same_setting, settings_in_use
from aprefill._deltas import Record
from aprefill._errors import UsageError
from aprefill._words import Words

if TYPE_CHECKING:
    from collections.abc import Callable

    from aprefill._codecs._dialects import PrefillSwitch
    from aprefill._deltas import ErrorDelta, Message, ModelInput

#: Headers with a request's id. The first that is present is used. Gateways pass on the headers of their upstream host.
_REQUEST_IDS = ("request-id", "x-request-id", "x-amzn-requestid")
#: Message parts that `edit` does not change: text was processed on arrival, and the host refuses a changed signed part.
_FIXED_PARTS = frozenset({"text", "thinking", "redacted_thinking"})


class JsonCodec:
    """Default implementation of a `Codec`. A protocol overrides only what differs."""

    name: str
    accept = "text/event-stream"
    not_streams: frozenset[str] = frozenset({"text/html", "application/json", "application/xhtml+xml"})
    streaming: Mapping[str, Any] = {"stream": True}
    max_stop: int | None = None
    end_rules: tuple[str, ...] = ("strict",)
    arguments: Mapping[str, tuple[str, ...]] = {}
    system_roles = frozenset({"system", "developer"})
    #: Body fields that combine several settings. An object that the caller passes for one is merged, not replaced.
    nested: frozenset[str] = frozenset()

    def auth(self, key: str, form: str) -> dict[str, str]:
        if form == "none":
            return {}
        return {"authorization": f"Bearer {key}"} if form == "bearer" else {form: key}

    def merge(self, body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        return overlay(body, extra, self.nested)

    def settings_in_use(self, arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
        return settings_in_use(arguments, extra)

    def undone_by(self, argument: str, extra: Mapping[str, Any]) -> str | None:
        own = (argument, *self.arguments.get(argument, ()))
        return next((name for name in own if self._has(extra, name)), None) or same_setting(argument, extra)

    def prefill_switches(self, dialect: str, *, eats: bool) -> Mapping[str, PrefillSwitch]:
        return {}

    def _has(self, extra: Mapping[str, Any], field: str) -> bool:
        """Whether `extra` sets a field of the body. `field` may be a path such as `limits.words`."""
        name, _, rest = field.partition(".")
        if name not in extra or not rest:
            return name in extra
        inner = extra[name]
        # an object that is not merged replaces the codec's own one
        return rest in inner if name in self.nested and isinstance(inner, Mapping) else True

    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        for argument in ("system", "stop", "temperature", "thinking", "tools", "response_format"):
            if getattr(model_input, argument) and argument not in self.arguments:
                setting = f"{{{argument}}}"
                raise UsageError(
                    Words(f"this host's protocol has no field for {setting}"), Words(f"leave {setting} out")
                )
        return self.merge(self.merge(self.body(model_input), model_input.fields), model_input.extra)

    def body(self, model_input: ModelInput) -> dict[str, Any]:
        """Return the request body with `streaming` in it. `encode` adds the fields of the host's row, then `extra`."""
        raise NotImplementedError  # each codec has its own

    def text_part(self, text: str) -> dict[str, Any]:
        return {"type": "text", "text": text}

    def is_tool_result(self, turn: Mapping[str, Any]) -> bool:
        return is_tool_result(turn)

    def edit(self, message: Message, change: Callable[[Any], Any]) -> Message:
        content = message["content"]
        if not isinstance(content, list):
            return message
        return {**message, "content": [part if part["type"] in _FIXED_PARTS else change(part) for part in content]}

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
        return body_error(status, body, headers)

    def error_delta(self, body: bytes) -> ErrorDelta:
        return error_from(Record(body))

    def check_end_rule(self, end: str) -> None:
        """Raise `UsageError` unless this protocol has the end rule `end`."""
        if end not in self.end_rules:
            raise UsageError(f"{self.name} has no end rule {end!r}", f"it has {', '.join(map(repr, self.end_rules))}")

    def request_id(self, headers: Mapping[str, str]) -> str | None:
        return next((headers[name] for name in _REQUEST_IDS if headers.get(name)), None)

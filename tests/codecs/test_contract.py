"""Every codec in the registry passes the contract checks, and each check finds a broken codec."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from aprefill import stream
from aprefill._codecs import PROTOCOLS, Codec, codec
from aprefill._codecs.openai_chat import OpenAIChat, OpenAIChatDecoder
from aprefill._deltas import ErrorDelta, TextDelta, UsageDelta

from ..support import contracts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aprefill._deltas import Delta, Message, ModelInput, Record


@pytest.mark.parametrize("check", contracts.CODEC, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_contract(name: str, check: Callable[[Codec], None]) -> None:
    """Every protocol passes every check."""
    check(codec(name))


@pytest.mark.anyio
@pytest.mark.any_loop
@pytest.mark.parametrize("name", PROTOCOLS)
async def test_a_request_and_its_reply(name: str) -> None:
    """A host of the table gets the request of the sample, with the key in its header, and its reply is read."""
    assert await differences(name, codec(name)) == []


async def differences(name: str, its: Codec) -> list[str]:
    """What differs between the sample and what `stream()` sends and returns."""
    sample = contracts.sample_of(name)
    asked = {argument: value for argument, value in contracts.CONVERSATION.items() if argument in its.arguments}
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, headers={"content-type": sample.content_type}, content=sample.reply)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        target = {"model": sample.request["model"], "api": sample.request["api"], "api_key": "KEY", "client": client}
        text = await stream(**asked, **target).text()
    (request,) = sent
    holds = {
        "url": str(request.url) == sample.request["url"],
        "key": {head: value for head, value in request.headers.items() if "KEY" in value} == sample.request["key"],
        "body": json.loads(request.content) == sample.request["body"],
        "text": text == contracts.TEXT,
    }
    return [what for what, held in holds.items() if not held]


@pytest.mark.anyio
@pytest.mark.any_loop
@pytest.mark.parametrize(
    ("method", "other", "broken"),
    [
        ("body", lambda self, model_input: {"model": model_input.model, "messages": []}, "body"),
        ("path", lambda self, model_input: "/speak", "url"),
        ("auth", lambda self, key, form: {"x-api-key": key}, "key"),
    ],
    ids=["body", "path", "auth"],
)
async def test_control_another_request_is_found(
    method: str, other: Any, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another body, another path, or the key in another header differs from the sample."""
    monkeypatch.setattr(OpenAIChat, method, other)
    assert await differences("openai_chat", codec("openai_chat")) == [broken]


# --- the control: at least one broken codec per check ---------------------------------------------------------


class NoPath(OpenAIChat):
    def path(self, model_input: ModelInput) -> str:
        return "chat/completions"


class ModelInAQuery(OpenAIChat):
    arguments: Mapping[str, tuple[str, ...]] = {**OpenAIChat.arguments, "model": ()}

    def path(self, model_input: ModelInput) -> str:
        return f"/models/{model_input.model}/chat"


class OneStop(OpenAIChat):
    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        body = super().encode(model_input)
        return {**body, "stop": body["stop"][:1]} if "stop" in body else body


class TakesAnyLastRecord(OpenAIChat):
    def decoder(self, *, end: str = "strict") -> OpenAIChatDecoder:
        class Decoder(OpenAIChatDecoder):
            def close(self, undispatched: Record | None = None) -> Sequence[Delta]:
                return super().close() if undispatched is None else self.decode(undispatched)

        super().decoder(end=end)
        return Decoder(end=end)


class KeyTwice(OpenAIChat):
    def auth(self, key: str, form: str) -> dict[str, str]:
        return {**super().auth(key, form), "x-also": key}


class ChangesItsInput(OpenAIChat):
    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        body = super().encode(model_input)
        model_input.messages[0]["content"] = "changed"
        return body


class ForgetsTheStop(OpenAIChat):
    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        return {**super().encode(model_input), "stop": []}


class TakesWhatItLacks(OpenAIChat):
    arguments: Mapping[str, tuple[str, ...]] = {
        name: fields for name, fields in OpenAIChat.arguments.items() if name != "tools"
    }

    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        return self.body(model_input)


class OneVoice(OpenAIChat):
    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        body = super().encode(model_input)
        return {**body, "messages": [{**turn, "role": "user"} for turn in body["messages"]]}


class NoSystem(OpenAIChat):
    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        return super().encode(replace(model_input, system=None))


class KeepsNone(OpenAIChat):
    def merge(self, body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        return {**body, **extra}


class MissesASpelling(OpenAIChat):
    def undone_by(self, argument: str, extra: Mapping[str, Any]) -> str | None:
        return argument if argument in extra else None


class SpellsItsOwnWay(OpenAIChat):
    def settings_in_use(self, arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
        return {name: name for name in super().settings_in_use(arguments, extra)}


class EmptyPart(OpenAIChat):
    def text_part(self, text: str) -> dict[str, Any]:
        return {"type": "text", "text": ""}


class ForgetsTheLead(OpenAIChat):
    def message(self, parts: Sequence[str | Delta], *, lead: str = "") -> Message:
        return super().message(parts)


class NoErrors(OpenAIChat):
    def error_delta(self, body: bytes) -> ErrorDelta:
        return super().error_delta(b"{}")


class NoRequestId(OpenAIChat):
    def request_id(self, headers: Mapping[str, str]) -> str | None:
        return None


class OtherHeader(OpenAIChat):
    def auth(self, key: str, form: str) -> dict[str, str]:
        return super().auth(key, form if form in {"none", "bearer"} else "x-api-key")


class Changes(OpenAIChat):
    """A codec whose decoder's deltas are changed by `change`."""

    @staticmethod
    def change(delta: Delta) -> Delta | None:
        raise NotImplementedError  # each control has its own

    def decoder(self, *, end: str = "strict") -> OpenAIChatDecoder:
        change = self.change

        class Decoder(OpenAIChatDecoder):
            def decode(self, record: Record) -> Sequence[Delta]:
                return [new for delta in super().decode(record) if (new := change(delta)) is not None]

        super().decoder(end=end)
        return Decoder(end=end)


class SwapsTheCounts(Changes):
    @staticmethod
    def change(delta: Delta) -> Delta:
        if not isinstance(delta, UsageDelta):
            return delta
        usage = delta.usage
        return UsageDelta(replace(usage, input_tokens=usage.output_tokens, output_tokens=usage.input_tokens))


class DropsErrors(Changes):
    @staticmethod
    def change(delta: Delta) -> Delta | None:
        return None if isinstance(delta, ErrorDelta) else delta


class DropsHalves(Changes):
    @staticmethod
    def change(delta: Delta) -> Delta:
        if not isinstance(delta, TextDelta):
            return delta
        return TextDelta("".join(c for c in delta.text if c.isascii()))


class AnotherFraming(OpenAIChat):
    accept = "application/x-ndjson"


class GoesOn(OpenAIChat):
    def decoder(self, *, end: str = "strict") -> OpenAIChatDecoder:
        class Decoder(OpenAIChatDecoder):
            def decode(self, record: Record) -> Sequence[Delta]:
                self._over = False
                return super().decode(record)

        super().decoder(end=end)
        return Decoder(end=end)


class TakesCuts(OpenAIChat):
    def decoder(self, *, end: str = "strict") -> OpenAIChatDecoder:
        decoder = super().decoder(end=end)
        decoder._finished = True
        return decoder


class AnyRule(OpenAIChat):
    def decoder(self, *, end: str = "strict") -> OpenAIChatDecoder:
        return OpenAIChatDecoder(end=end)


#: Broken codec -> the check that must find it.
BROKEN: dict[type[OpenAIChat], Callable[[Codec], None]] = {
    NoPath: contracts.says_where_it_goes,
    AnotherFraming: contracts.says_where_it_goes,
    ModelInAQuery: contracts.names_the_model,
    OneStop: contracts.encodes_and_leaves_its_input_alone,
    TakesAnyLastRecord: contracts.finds_every_cut,
    KeyTwice: contracts.carries_the_key_in_its_headers,
    OtherHeader: contracts.carries_the_key_in_its_headers,
    ChangesItsInput: contracts.encodes_and_leaves_its_input_alone,
    ForgetsTheStop: contracts.encodes_and_leaves_its_input_alone,
    TakesWhatItLacks: contracts.encodes_and_leaves_its_input_alone,
    OneVoice: contracts.keeps_the_turns_apart,
    NoSystem: contracts.keeps_the_turns_apart,
    KeepsNone: contracts.lets_extra_win,
    MissesASpelling: contracts.finds_what_undoes_an_argument,
    SpellsItsOwnWay: contracts.names_the_settings_in_use,
    EmptyPart: contracts.writes_a_text_part,
    ForgetsTheLead: contracts.makes_a_turn_of_a_reply,
    NoErrors: contracts.reads_errors,
    NoRequestId: contracts.reads_errors,
    GoesOn: contracts.decodes_its_reply,
    SwapsTheCounts: contracts.decodes_its_reply,
    TakesCuts: contracts.finds_every_cut,
    DropsHalves: contracts.joins_halves_of_a_character,
    DropsErrors: contracts.ends_with_an_error_of_the_hosts,
    AnyRule: contracts.knows_its_end_rules,
}


@pytest.mark.parametrize(("broken", "check"), BROKEN.items(), ids=lambda value: value.__name__)
def test_control_a_broken_codec_is_found(broken: type[OpenAIChat], check: Callable[[Codec], None]) -> None:
    """The check fails on the broken codec and passes on the codec from which it was made."""
    check(OpenAIChat())
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(broken())


def test_every_check_has_a_control() -> None:
    """Every check has a broken codec that it finds."""
    assert set(BROKEN.values()) == set(contracts.CODEC)

"""Every codec in the registry keeps the contract; a codec that breaks a part of it is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aprefill._codecs import PROTOCOLS, codec
from aprefill._codecs.openai_chat import OpenAIChat, OpenAIChatDecoder

from ..support import contracts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aprefill._codecs import Codec
    from aprefill._deltas import Delta, ErrorDelta, Message, ModelInput, Record


@pytest.mark.parametrize("check", contracts.CODEC, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_contract(name: str, check: Callable[[Codec], None]) -> None:
    """Every check, on every protocol that there is."""
    check(codec(name))


# --- the control: one broken codec a check --------------------------------------------------------------------


class NoPath(OpenAIChat):
    def path(self, model_input: ModelInput) -> str:
        return "chat/completions"


class KeyTwice(OpenAIChat):
    def auth(self, key: str, form: str) -> dict[str, str]:
        return {**super().auth(key, form), "x-also": key}


class ChangesItsInput(OpenAIChat):
    def encode(self, model_input: ModelInput) -> dict[str, Any]:
        body = super().encode(model_input)
        model_input.messages[0]["content"] = "changed"
        return body


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


BROKEN = {
    NoPath: contracts.says_where_it_goes,
    KeyTwice: contracts.carries_the_key_in_its_headers,
    ChangesItsInput: contracts.encodes_and_leaves_its_input_alone,
    KeepsNone: contracts.lets_extra_win,
    MissesASpelling: contracts.finds_what_undoes_an_argument,
    SpellsItsOwnWay: contracts.names_the_settings_in_use,
    EmptyPart: contracts.writes_a_text_part,
    ForgetsTheLead: contracts.makes_a_turn_of_a_reply,
    NoErrors: contracts.reads_errors,
    GoesOn: contracts.decodes_its_reply,
    TakesCuts: contracts.finds_every_cut,
    AnyRule: contracts.knows_its_end_rules,
}


@pytest.mark.parametrize(("broken", "check"), BROKEN.items(), ids=lambda value: value.__name__)
def test_control_a_broken_codec_is_found(broken: type[OpenAIChat], check: Callable[[Codec], None]) -> None:
    """The check that is about what is broken fails, and with it one for an error that does not end the reply."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(broken())
    if broken is GoesOn:
        with pytest.raises(AssertionError):
            contracts.ends_with_an_error_of_the_hosts(broken())

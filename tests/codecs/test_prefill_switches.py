"""What a codec knows about the switches of a native prefill, and which roles are a system prompt."""

from __future__ import annotations

from typing import get_args

import pytest

from aprefill._codecs import PROTOCOLS, codec
from aprefill._codecs._base import JsonCodec
from aprefill._codecs._dialects import DIALECTS, Dialect, PrefillSwitch
from aprefill._hosts.table import builtin_table

CHAT = codec("openai_chat")


def test_every_dialect_has_its_fields() -> None:
    """Each dialect that a row may have is in the table of dialects, and at most one field asks for the prefill."""
    assert set(DIALECTS) == set(get_args(Dialect))
    for dialect, fields in DIALECTS.items():
        assert [*fields.turn, *fields.body] == ([] if dialect == "trailing" else [dialect])


def test_a_row_has_the_fields_of_its_dialect() -> None:
    """Each row of the built-in table has the fields of its dialect. Its own fields are added to them."""
    seen = set()
    for row in builtin_table().rows():
        fields = DIALECTS[row.native_dialect]  # type: ignore[index]
        assert fields.turn.items() <= row.turn_fields.items()
        assert fields.body.items() <= row.body_fields.items()
        seen.add(row.native_dialect)
    assert seen == set(DIALECTS)


def test_a_protocol_without_switches_has_none() -> None:
    """A codec has no switches unless it defines some."""
    for dialect in ("prompt", *DIALECTS):
        assert JsonCodec().prefill_switches(dialect, eats=True) == {}
        assert codec("anthropic_messages").prefill_switches(dialect, eats=True) == {}


@pytest.mark.parametrize("eats", [True, False])
def test_switches_of_chat_completions(eats: bool) -> None:
    """`continue_final_message` must never be undone. A native prefill needs two more switches, which may be removed."""
    continues = {"continue_final_message": PrefillSwitch(True)}
    assert CHAT.prefill_switches("prompt", eats=eats) == continues
    for dialect in DIALECTS:
        opens_turn = dialect == "continue_final_message"
        expected = continues | {"add_generation_prompt": PrefillSwitch(opens_turn, may_be_removed=True)}
        if eats:
            expected["echo"] = PrefillSwitch(False, may_be_removed=True)
        assert CHAT.prefill_switches(dialect, eats=eats) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_roles_of_a_system_prompt(protocol: str) -> None:
    """In every protocol, messages with the roles system and developer do the same as `system=`."""
    assert codec(protocol).system_roles >= {"system", "developer"}

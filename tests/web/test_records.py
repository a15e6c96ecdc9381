"""Every record can be sent, whatever the host has sent, so a client always gets its last record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from aprefill import Timing, Usage, Verdict, web
from aprefill._records import (
    EndRecord,
    ErrorRecord,
    HeldRecord,
    ReasoningRecord,
    TextRecord,
    ToolRecord,
    as_event,
    as_json,
)

from ..support.bodies import STOP, block, call, chat, event, host, piece
from .site import Server, events_in

if TYPE_CHECKING:
    from aprefill._records import ReplyRecord

pytestmark = pytest.mark.anyio

HALF = "a\ud83d"
END = EndRecord(
    verdict=Verdict.ABSENT, mode="none", support=None, stop_reason=None, stop_sequence=HALF, length=1, attempts=1,
    usage=Usage(input_tokens=10**30), timing=Timing(),
)  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        TextRecord(HALF, 0),
        HeldRecord(HALF),
        ReasoningRecord(HALF),
        ToolRecord(0, HALF, HALF, HALF),
        ErrorRecord(error=HALF, message=HALF, can_continue=False, length=0),
        END,
    ],
    ids=lambda record: type(record).__name__,
)
def test_any_record_can_be_encoded(record: ReplyRecord) -> None:
    """Half a surrogate pair becomes U+FFFD, and a number beyond 64 bits is kept. Control: msgspec alone raises."""
    with pytest.raises((UnicodeEncodeError, OverflowError)):
        msgspec.json.encode(record)
    assert "a\ufffd" in str(json.loads(as_json(record)))
    (same,) = events_in(as_event(record, len(HALF)))
    assert same == json.loads(as_json(record)) | {"id": len(HALF)}


def test_an_ordinary_record_is_encoded_as_ever() -> None:
    """A record without such values is encoded to the same bytes as by msgspec."""
    for record in (TextRecord("Ala é 😀", 2), msgspec.structs.replace(END, stop_sequence="x", usage=None)):
        assert as_json(record) == msgspec.json.encode(record)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("wire", ["messages", "chat"])
async def test_a_host_that_sends_halves_everywhere(wire: str, cut: bool) -> None:
    """If every field has half a surrogate pair, the client gets an end record, or an error record after a cut."""
    if wire == "messages":
        records = [
            event({"type": "message_start", "message": {"id": "m", "content": [{"type": "text", "text": HALF}]}}),
            *(block(0, "tool_use", id=HALF, name=HALF, input={}), piece(0, "input_json_delta", partial_json=HALF)),
            event({"type": "message_delta", "delta": {"stop_reason": HALF, "stop_sequence": HALF}}),
            STOP,
        ]
    else:
        choice = {"delta": {}, "finish_reason": HALF, "stop_reason": HALF}
        records = [
            chat(refusal=HALF),
            chat(reasoning=HALF),
            chat(**call(0, HALF, HALF, HALF)),
            event({"choices": [choice]}),
        ]
    body = b"".join(records[: 2 if cut else None])
    async with host([body]) as ask:
        server = Server()
        await server.play(web.sse(ask(wire), reasoning=True, tools=True, attempts=True, held=True))
    kinds = [record["type"] for record in events_in(server.body)]
    assert kinds[-1] == ("error" if cut else "end")
    assert "text" in kinds

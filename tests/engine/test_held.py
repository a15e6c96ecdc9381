"""Held-text events: the held text is reported as it arrives, and settled before any other event."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from aprefill import AttemptEnded, HeldEvent, StatusError, TextEvent, Verdict
from aprefill._deltas import FinishDelta, TextDelta
from aprefill._engine.splice import Splice
from aprefill._engine.transcript import Transcript
from aprefill._types import StopReason
from aprefill.testing import Script, serve

from ..support.held import replayed
from ..support.loopback import WIRES, ask
from ..support.splicing import planned

END = FinishDelta(StopReason.END, "stop")
PREFILL = '["Alabama",'
#: A closing fence with the white space before it, if a line end follows.
CLOSED = re.compile(r"\s*\n```(?=\n)")


CASES = [
    # support, prefill, options, what the model writes
    ("eats", PREFILL, {}, ' "Alaska"]'),
    ("eats", PREFILL, {"stop": ["aab"]}, "xaaab"),
    ("eats", PREFILL, {"stop": ["aab", "abc"]}, "aaaxaabababab aa"),
    ("echoes", PREFILL, {}, PREFILL + ' "Alaska"]'),
    ("echoes", PREFILL, {}, '["Alas"]'),
    ("emulated", PREFILL, {}, PREFILL + ' "Alaska"]'),
    ("emulated", PREFILL, {}, f'Sure, here it is:\n\n```json\n{PREFILL}\n "Alaska"\n``\n]\n```\n'),
    ("emulated", PREFILL, {}, f'```json\n{PREFILL} "Alaska"]\n\n```\nx'),
    ("emulated", PREFILL, {"stop": ["ka", "```"]}, f'```json\n{PREFILL} "Alaska"]\n```'),
    ("emulated", PREFILL, {}, "I will not do that."),
    ("emulated", "```python\n", {"stop": ["```"]}, "Sure:\n```py\nprint()\n```"),
    ("emulated", "word " * 300, {}, "word " * 20 + "and on"),
    ("emulated", PREFILL + "\n\n", {}, PREFILL + '\n"Alaska"]'),
]


@pytest.mark.parametrize(("support", "prefill", "options", "raw"), CASES)
def test_text_and_held_are_the_end_of_what_came(support: str, prefill: str, options: dict[str, Any], raw: str) -> None:
    """However the reply is cut, handed-out text plus held text is the end of what arrived.

    Nothing is reported twice, nothing is missing, and asking for held text does not change the text.
    """
    rng = random.Random(raw)
    for most in (1, 2, 5, 40, *rng.sample(range(3, 60), 5)):
        step = planned(prefill, support, **options)
        transcript = Transcript(prefill)
        transcript.accepted = transcript.wants_events = transcript.wants_held = True
        splice = Splice(step, transcript, lead="", coalesce=False)
        without = Transcript(prefill)
        plain = Splice(step, without, lead="", coalesce=False)
        fed = ""
        while len(fed) < len(raw) and not splice.stopped:
            piece = raw[len(fed) : len(fed) + rng.randint(1, most)]
            fed += piece
            splice.take([TextDelta(piece)])
            plain.take([TextDelta(piece)])
            text, held = replayed(transcript.items)[-1] if transcript.items else ("", "")
            if not splice.stopped:
                assert fed.endswith(held)
                # Only a closing fence may be dropped after the first text.
                assert fed.endswith(text + held) or CLOSED.sub("", fed).endswith(text + held)
                if splice.verdict in {Verdict.UNDECIDED, Verdict.ABSENT}:
                    assert text + held == fed
        for one in (splice, plain):
            one.take([END])
            one.close(cut=False)
        seen = replayed(transcript.items)
        assert seen[-1][1] == ""
        assert seen[-1][0] == "".join(item for item in without.items if isinstance(item, str))
        assert not any(isinstance(item, HeldEvent) for item in without.items)
        # When text is handed out, text that may be part of it is no longer reported as held.
        settled = [seen[at][1] for at, item in enumerate(transcript.items) if isinstance(item, str)]
        assert set(settled) <= {""}


def test_a_long_repetition_is_told_once() -> None:
    """Each held character is reported once: ten thousand short pieces give events with ten thousand short texts."""
    prefill = "abcdefghij" * 1000
    transcript = Transcript(prefill)
    transcript.wants_events = transcript.wants_held = True
    splice = Splice(planned(prefill, "echoes"), transcript, lead="", coalesce=False)
    for at in range(0, len(prefill), 2):
        splice.take([TextDelta(prefill[at : at + 2])])
    told = [item for item in transcript.items if isinstance(item, HeldEvent)]
    assert "".join(event.text for event in told) == prefill[:-2]
    assert told[-1] == HeldEvent("")


@pytest.mark.anyio
@pytest.mark.parametrize("wire", WIRES)
async def test_over_a_real_stream(wire: str) -> None:
    """The order is held text, then settled, then the text. The other events are the same as without `held`."""
    script = Script(text=' "Alaska"]', prefill="echoes")
    options: dict[str, Any] = {"prefill": PREFILL, "support": "echoes", "show_when": "now"}
    async with serve([script, script]) as server:
        events = [event async for event in ask(server, wire, **options).events(held=True)]
        plain = [event async for event in ask(server, wire, **options).events()]
    told = [event for event in events if isinstance(event, HeldEvent)]
    assert "".join(event.text for event in told[:-1]) in PREFILL
    assert [event.more for event in told[:-1]] == [False] + [True] * (len(told) - 2)
    assert told[-1] == HeldEvent("")
    new = next(at for at, event in enumerate(events) if isinstance(event, TextEvent) and not event.prefill)
    assert max(at for at, event in enumerate(events) if isinstance(event, HeldEvent)) < new
    same = [event for event in events if not isinstance(event, HeldEvent | AttemptEnded)]
    assert same == [event for event in plain if not isinstance(event, AttemptEnded)]


@pytest.mark.anyio
async def test_a_cursor_that_did_not_ask_is_not_told() -> None:
    """A cursor that did not ask for held text gets none, even if a cursor before it did."""
    script = Script(text=' "Alaska"]', prefill="echoes", pace_s=0.01)
    async with serve([script]) as server, ask(server, "chat", prefill=PREFILL, support="echoes") as reply:
        async for event in reply.events(held=True):
            if isinstance(event, HeldEvent):
                break
        rest = [event async for event in reply.events()]
    assert not any(isinstance(event, HeldEvent) for event in rest)
    assert reply.text_so_far == f'{PREFILL} "Alaska"]'


@pytest.mark.anyio
@pytest.mark.parametrize("wire", WIRES)
async def test_an_attempt_that_is_given_up_holds_nothing(wire: str) -> None:
    """Held text of an abandoned attempt is settled before the attempt's end.

    The next attempt reports its own held text.
    """
    scripts = [Script(text='["Alaska"]'), Script(text=f'{PREFILL} "Alaska"]')]
    async with serve(scripts) as server:
        reply = ask(server, wire, prefill=PREFILL, support="emulated", absent="retry")
        events = [event async for event in reply.events(held=True)]
    ends = [at for at, event in enumerate(events) if isinstance(event, AttemptEnded)]
    assert [events[at].report.error for at in ends] == ["PrefillIgnored", ""]
    assert replayed(events[: ends[0]])[-1][1] == ""
    assert any(held for _, held in replayed(events[: ends[0]]))
    assert any(held for _, held in replayed(events[ends[0] + 1 :]))
    assert reply.text_so_far == f'{PREFILL} "Alaska"]'


@pytest.mark.anyio
async def test_what_was_held_when_the_host_died() -> None:
    """When the host fails, the held text is settled before the error, and none of it was handed out."""
    script = Script(text="x", prefill="echoes", after=6, error_event=("api_error", "boom"))
    events = []
    async with serve([script]) as server:
        with pytest.raises(StatusError):
            async for event in ask(server, "chat", prefill=PREFILL, support="echoes").events(held=True):
                events.append(event)
    assert any(held for _, held in replayed(events))
    assert replayed(events)[-1][1] == ""

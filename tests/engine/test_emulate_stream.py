"""aprefill's markers never reach a caller: whole replies with their events, limits and held text.

The seam is the code that joins the prefill and the model's text.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from aprefill import Emulation, HeldEvent, ReasoningEvent, StopReason, TextEvent, ToolEvent, Verdict
from aprefill._deltas import FinishDelta, ReasoningDelta, TextDelta, ToolDelta, UsageDelta
from aprefill._engine.splice import Splice
from aprefill._engine.transcript import Transcript
from aprefill._types import Usage
from aprefill.testing import Script, serve

from ..support.emulating import ask
from ..support.held import replayed
from ..support.loopback import WIRES
from ..support.marked import END, LONG, NAME, run, text_of
from ..support.splicing import planned

LIMIT = FinishDelta(StopReason.MAX_TOKENS, "length")


@pytest.fixture(autouse=True)
def one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the markers of every request the same name."""
    monkeypatch.setattr("aprefill._plan.emulate.markers", lambda *_: (f"<{NAME}>", f"</{NAME}>"))


#: What the model writes, the new text in it, and the verdict.
REPLIES = [
    pytest.param(f'{LONG}To</{NAME}","age": 3}}', 'To","age": 3}', Verdict.ECHOED, id="in-json"),
    pytest.param(f"<{NAME}>{LONG}To\"}}</{NAME}>", 'To"}', Verdict.ECHOED, id="around-all"),
    pytest.param(f"<{NAME}>{LONG[-40:]}</{NAME}>To\"}}", 'To"}', Verdict.OVERLAPPED, id="around-the-end"),
    pytest.param(f"<{NAME}>\n{LONG}\n</{NAME}>\nTo\"}}", '\n\nTo"}', Verdict.ECHOED, id="on-lines-of-their-own"),
    pytest.param(f"```json\n<{NAME}>{LONG}To\"}}\n```", 'To"}', Verdict.FENCED, id="in-a-fence"),
    pytest.param(f"No <{NAME}> here.", "No  here.", Verdict.ABSENT, id="no-repetition"),
    pytest.param(f"<{NAME}></{NAME}>", "", Verdict.ABSENT, id="nothing-else"),
    pytest.param(f"No <{NAME[:-1]}0> here.", f"No <{NAME[:-1]}0> here.", Verdict.ABSENT, id="another-digit"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "new", "verdict"), REPLIES)
def test_the_markers_are_taken_out_before_the_seam(raw: str, new: str, verdict: Verdict) -> None:
    """Wherever the reply is cut, a repetition with a marker around it or in it is found, and no marker is shown."""
    for pieces in ([raw], list(raw), *([raw[:at], raw[at:]] for at in range(len(raw)))):
        splice, items = run([*pieces, END])
        assert text_of(items) == LONG + new
        assert splice.verdict is verdict


def test_control_without_the_stage_they_are_shown() -> None:
    """The control: when the plan names no marker, the same replies show it."""
    shown = 0
    for case in REPLIES:
        step = planned(LONG)
        transcript = Transcript(LONG)
        splice = Splice(replace(step, marker=""), transcript, lead="", coalesce=False)
        splice.take([TextDelta(str(case.values[0])), END])
        splice.close(cut=False)
        shown += NAME in text_of(transcript.items)
    assert shown >= 4


@pytest.mark.parametrize("finish", [LIMIT, END])
@pytest.mark.parametrize(
    ("tail", "left"),
    [
        ("<text-e9", ""),
        ("<text-e", "<text-e"),
        ("text-e9", "text-e9"),
        ("text-e9c", ""),
        (f"</{NAME}", ""),
        ("</text", "</text"),
    ],
)
def test_a_beginning_at_the_end_of_a_reply(finish: FinishDelta, tail: str, left: str) -> None:
    """A partial marker of 8 characters or more at the end of a reply is removed.

    A shorter one is the model's own text. Both hold at a token limit and at a clean end.
    """
    _, items = run([*f"{LONG}To{tail}", finish])
    assert text_of(items) == f"{LONG}To{left}"
    # The same holds where nothing was repeated.
    _, items = run([*f"I cannot.\nNo.\nReally: {tail}", finish])
    assert text_of(items) == f"{LONG}I cannot.\nNo.\nReally: {left}"


def test_a_cut_drops_what_may_be_a_marker() -> None:
    """When the stream is cut, a partial marker at its end is dropped, as the seam drops the text that it holds."""
    _, items = run([f"{LONG}To<te"], cut=True)
    assert text_of(items) == f"{LONG}To"


def test_a_stop_sequence_behind_a_marker() -> None:
    """A stop sequence is searched in the text without markers, including what the marker stage held until the end."""
    splice, items = run([f"{LONG}To ``<{NAME}>` 1", END], stop=["```"])
    assert (text_of(items), splice.stopped) == (f"{LONG}To ", True)
    splice, items = run([f"{LONG}To `<", END], stop=["`<"])
    assert (text_of(items), splice.stopped) == (f"{LONG}To ", True)


def test_a_short_prefill_has_no_such_stage() -> None:
    """The prompt for a short prefill has no marker, so nothing is removed and nothing is held."""
    splice, items = run([f"abcd<{NAME}>", "t"], "abcd")
    assert text_of(items) == f"abcd<{NAME}>t"
    assert splice._markers is None
    splice, items = run([f"abcd<{NAME}>", "x"], "abcd", emulate=Emulation(begin="{open}{text}{close}"))
    assert text_of(items) == "abcdx"


def test_reasoning_and_tool_calls_have_no_marker() -> None:
    """Reasoning and tool calls contain no marker and no part of one.

    Reasoning that was held comes before the next event of another kind. Held arguments come at the end at the latest.
    """
    raw = f"They want <{NAME}>text</{NAME}> t"
    parts: list[Any] = [ReasoningDelta(c) for c in raw]
    parts += [ToolDelta(0, "a", "look")] + [ToolDelta(0, arguments=c) for c in f'{{"at": "<{NAME}>here<"}}']
    parts += [ToolDelta(1, "b", "look")] + [ToolDelta(1, arguments=c) for c in f'{{"at": "\\u003c{NAME}>t']
    parts += [*f"{LONG}To", END]
    _, items = run(parts, events=True)
    kinds = [type(item) for item in items]
    assert "".join(item.text for item in items if isinstance(item, ReasoningEvent)) == "They want text t"
    calls = [
        "".join(item.arguments for item in items if isinstance(item, ToolEvent) and item.index == n) for n in (0, 1)
    ]
    assert calls == ['{"at": "here<"}', '{"at": "t']
    assert [item.name for item in items if isinstance(item, ToolEvent) and item.id] == ["look", "look"]
    assert kinds[:-1] == sorted(kinds[:-1], key=[ReasoningEvent, ToolEvent, str].index)
    assert items[-1] == ToolEvent(1, "", "", "t")


def test_what_is_held_is_told_without_markers() -> None:
    """Held-text events contain no marker.

    Short partial markers may come and go, and the text itself does not change.
    """
    chance = random.Random(4)
    seen_tails = 0
    for case in REPLIES:
        raw, new, _ = case.values
        for most in (1, 2, 5, 40):
            parts = []
            rest = str(raw)
            while rest:
                n = chance.randint(1, most)
                parts.append(rest[:n])
                rest = rest[n:]
            _, items = run([*parts, END], held=True)
            assert text_of(items) == LONG + str(new)
            told = [item.text for item in items if isinstance(item, HeldEvent)]
            seen = replayed(items)
            assert not any(NAME in held or (NAME[:8] in held and NAME[:-1] not in raw) for _, held in seen)
            assert not any(held.endswith(NAME[:8]) for _, held in seen) or NAME not in raw
            seen_tails += any(held.endswith(("<te", "<tex", "</t")) for _, held in seen)
            if told:
                assert seen[-1][1] == ""
            settled = [seen[at][1] for at, item in enumerate(items) if isinstance(item, str)]
            assert set(settled) <= {""}
    assert seen_tails > 5


def test_held_text_with_a_tail_is_told_in_pieces() -> None:
    """The end of the held text is reported in pieces when it grows, becomes text, or turns out to be a marker."""
    _, items = run([LONG[:3], "<", "t", f"{NAME[1:]}>", LONG[3:9], " t"], held=True, cut=True)
    told = [(item.text, item.more) for item in items if isinstance(item, HeldEvent)]
    assert told[:4] == [("The", False), ("<", True), ("t", True), ("The", False)]


def test_what_was_taken_out_counts_as_the_repetition() -> None:
    """The tokens of removed markers count as tokens of the repetition: they were paid for and are not new text."""
    counts = UsageDelta(Usage(input_tokens=1, output_tokens=100))
    with_markers, _ = run([f"<{NAME}>{LONG}</{NAME}>" + "x" * 300, counts, END])
    without, _ = run([LONG + "x" * 300, counts, END])
    assert with_markers.usage is not None
    assert without.usage is not None
    assert with_markers.usage.echo_tokens
    assert without.usage.echo_tokens
    assert with_markers.usage.echo_tokens > without.usage.echo_tokens


# --- over the network -------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("wire", WIRES)
async def test_a_whole_reply_over_the_network(wire: str) -> None:
    """Over the network, the text, the events and the message contain no marker."""
    script = Script(text=f'To</{NAME}","age": 3}}</{NAME}>', prefill="echoes", echo_text=LONG, cuts=7)
    async with serve(script) as server:
        reply = ask(server, wire, LONG)
        events = [event async for event in reply.events()]
        assert "".join(e.text for e in events if isinstance(e, TextEvent)) == LONG + 'To","age": 3}'
        assert reply.verdict is Verdict.ECHOED
        assert NAME in server.exchanges[0].last_user_text
        assert NAME not in str(reply.message)
        assert NAME not in repr(events)


@pytest.mark.any_loop
@pytest.mark.anyio
@pytest.mark.parametrize("wire", WIRES)
async def test_a_long_prefill_that_is_started_over_has_room(wire: str) -> None:
    """`max_tokens` limits only the new text, also when the model repeats all of a long prefill and not only its end."""
    text = "one two three four five six"
    script = Script(text=text, prefill="echoes", echo_text=LONG * 4, obey_max_tokens=True)
    async with serve(script) as server:
        reply = ask(server, wire, LONG * 4, max_tokens=7)
        assert await reply.text() == LONG * 4 + text
        assert reply.verdict is Verdict.ECHOED

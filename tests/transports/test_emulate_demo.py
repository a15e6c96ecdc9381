"""The demo model does what our requests ask for, in each of their words and in a caller's own with markers."""

from __future__ import annotations

import pytest

from aprefill import Emulation, Verdict, stream

from ..support.loopback import QUESTION

STATES = '["Alabama", "Alaska", '
#: Of more than 200 characters.
LONG = (
    '["Alabama", "Alaska", "Arizona", "Arkansas", "California", "Colorado", "Connecticut", "Delaware", "Florida", '
    '"Georgia", "Hawaii", "Idaho", "Illinois", "Indiana", "Iowa", "Kansas", "Kentucky", "Louisiana", "Maine", '
)
TAGGED = Emulation(begin="Begin with {open}{text}{close}", continued="{open}{text}{close} Its end: {open}{end}{close}")


@pytest.mark.any_loop
@pytest.mark.anyio
@pytest.mark.parametrize("emulate", [True, TAGGED], ids=["ours", "own-words"])
@pytest.mark.parametrize("model", ["emulated", "refuses"])
@pytest.mark.parametrize(
    ("prefill", "verdict"), [(STATES, Verdict.ECHOED), (LONG, Verdict.OVERLAPPED), ("x\n{", Verdict.ECHOED)]
)
async def test_it_repeats_what_it_is_asked_for(
    emulate: bool | Emulation, model: str, prefill: str, verdict: Verdict
) -> None:
    """The whole of a short text and the end of a long one; and goes on from there."""
    reply = stream(QUESTION, prefill=prefill, model=f"demo:{model}", emulate=emulate)
    text = await reply.text()
    assert (reply.verdict, reply.mode) == (verdict, "emulated")
    assert text.count(prefill) == 1
    assert text.startswith(prefill)
    assert text.endswith('"Wyoming"]') or prefill.startswith("x")


@pytest.mark.anyio
async def test_one_that_ignores_it_is_asked_twice() -> None:
    """`demo:ignores` answers the second request, in other words, as it did the first."""
    reply = stream(QUESTION, prefill=STATES, model="demo:ignores", absent="retry")
    assert (await reply.text()).startswith(STATES + "Here it is. [")
    assert len(reply.attempts) == 2

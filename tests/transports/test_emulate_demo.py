"""The demo model obeys the requests that ask for the prefill in the prompt, in our words and in the caller's."""

from __future__ import annotations

import pytest

from aprefill import Emulation, Verdict, stream

from ..support.loopback import QUESTION

STATES = '["Alabama", "Alaska", '
#: Longer than 200 characters, so that it is quoted between markers.
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
    """The demo model repeats a short text whole, or the end of a long text, and then continues it."""
    reply = stream(QUESTION, prefill=prefill, model=f"demo:{model}", emulate=emulate)
    text = await reply.text()
    assert (reply.verdict, reply.mode) == (verdict, "emulated")
    assert text.count(prefill) == 1
    assert text.startswith(prefill)
    assert text.endswith('"Wyoming"]') or prefill.startswith("x")


@pytest.mark.anyio
async def test_one_that_ignores_it_is_asked_twice() -> None:
    """`demo:ignores` ignores the second request too."""
    reply = stream(QUESTION, prefill=STATES, model="demo:ignores", absent="retry")
    assert (await reply.text()).startswith(STATES + "Here it is. [")
    assert len(reply.attempts) == 2

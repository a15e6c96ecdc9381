"""A scripted host that does what the prompt asks. It finds the requested beginning in the prompt, and obeys or not."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import anyio
import pytest

from aprefill import Emulation, Reply, UsageError, Verdict, stream
from aprefill._plan.emulate import DEFAULT
from aprefill.testing import Script, serve
from aprefill.testing._asked import find_asked, insists

from ..support.planning import emulate
from . import asking, asking_others
from .asking import client_of

pytestmark = [pytest.mark.anyio, pytest.mark.any_loop]

LINES = "".join(f"Line {number} of a text that goes on for a while.\n" for number in range(20))

#: One prefill for each way in which a prefill is asked for.
PREFILLS = {
    "short": "The first state is",
    "one character": "{",
    "JSON": '["',
    "JSON with braces": '{"states": [{"name": "',
    "several lines": "def states() -> list[str]:\n    return [",
    "white space at its end": "The states are: ",
    "line ends at its end": "# States\n\n",
    "like a request": "A good letter begins like this:\n\nDear Alabama,",
    "a tag of its own": "<text-1>Alabama</text-1>",
    "200 characters": ("Alabama, Alaska, Arizona. " * 8)[:200],
    "201 characters": ("Alabama, Alaska, Arizona. " * 8)[:201],
    "long": LINES + "The last line of it is",
    "long, white space at its end": LINES + "The last line of it is ",
    "long, line end at its end": LINES,
}

NEW = "Alabama and no other."


def ask(server: Any, prefill: str, **options: Any) -> Reply:
    """Return a reply from a model without native prefill, so that the prompt asks for it."""
    return stream(
        "Name the states.", prefill=prefill, model="openai:gpt-4o", base_url=server.openai_url, api_key="k", **options
    )


# --- aprefill's own wording is recognised ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PREFILLS)
async def test_a_real_request_is_found_and_obeyed(name: str) -> None:
    """The host finds the text that `stream(prefill=...)` asks for and repeats it, and the reply's text is right."""
    prefill = PREFILLS[name]
    with anyio.fail_after(30):
        async with serve(Script(text=NEW, asked="obeys", cuts=5)) as server:
            reply = ask(server, prefill)
            assert await reply.text() == prefill + NEW
            assert reply.mode == "emulated"
            assert reply.verdict in {Verdict.ECHOED, Verdict.OVERLAPPED}
            assert not server.exchanges[0].ends_with_assistant


@pytest.mark.parametrize("name", PREFILLS)
async def test_what_is_found_is_the_prefill_or_its_end(name: str) -> None:
    """The recogniser finds the prefill, or its end if it is long, in the first and in the second request."""
    prefill = PREFILLS[name]
    with anyio.fail_after(30):
        async with serve(Script(text=NEW)) as server:
            await ask(server, prefill, absent="retry").text()
            prompts = [exchange.last_user_text for exchange in server.exchanges]
    assert [insists(prompt) for prompt in prompts] == [False, True]
    for prompt in prompts:
        found = find_asked(prompt)
        if len(prefill) <= 200:
            assert found == prefill
        else:
            assert len(found.strip()) >= 16
            assert prefill.rstrip().endswith(found.rstrip())


@pytest.mark.parametrize("prefill", [PREFILLS["short"], PREFILLS["long"]])
async def test_control_other_words_are_not_found(prefill: str) -> None:
    """The check can fail: the recogniser does not find another wording, and the reply does not begin as asked."""
    own = Emulation(begin="Start with {text}, please.", continued="{text} Start with {end}, please.")
    with anyio.fail_after(30):
        async with serve(Script(text=NEW, asked="obeys")) as server:
            reply = ask(server, prefill, emulate=own)
            await reply.text()
            assert reply.verdict is Verdict.ABSENT


@pytest.mark.parametrize("prefill", [PREFILLS["JSON"], PREFILLS["long"]])
async def test_only_the_second_request_is_obeyed(prefill: str) -> None:
    """With `asked="obeys_second"` the host obeys only the second, sharper request of `absent="retry"`."""
    with anyio.fail_after(30):
        async with serve(Script(text=NEW, asked="obeys_second")) as server:
            reply = ask(server, prefill, absent="retry")
            assert await reply.text() == prefill + NEW
            assert reply.verdict in {Verdict.ECHOED, Verdict.OVERLAPPED}
            assert [insists(exchange.last_user_text) for exchange in server.exchanges] == [False, True]


# --- the ways in which a model obeys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "verdicts"),
    [
        ({}, {Verdict.ECHOED, Verdict.OVERLAPPED}),
        ({"echo": "joined"}, {Verdict.ECHOED, Verdict.OVERLAPPED}),
        ({"echo": "whitespace"}, {Verdict.ECHOED, Verdict.OVERLAPPED}),
        ({"echo": "fence"}, {Verdict.FENCED}),
        ({"echo": "chatter"}, {Verdict.PREFACED}),
        ({"echo": "chatter+fence"}, {Verdict.PREFACED}),
    ],
    ids=lambda value: value.get("echo", "exact") if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("name", ["several lines", "long"])
async def test_the_ways_of_obeying(name: str, fields: dict[str, Any], verdicts: set[Verdict]) -> None:
    """`echo` sets how the host obeys: exactly, with other white space, in a code fence, or after chatter."""
    prefill = PREFILLS[name]
    with anyio.fail_after(30):
        async with serve(Script(text=NEW, asked="obeys", **fields)) as server:
            reply = ask(server, prefill)
            assert await reply.text() == prefill + NEW
            assert reply.verdict in verdicts


async def test_not_at_all() -> None:
    """By default a script obeys no prompt, and the model starts with its own text."""
    with anyio.fail_after(30):
        async with serve(Script(text=NEW)) as server:
            reply = ask(server, '["')
            assert await reply.text() == '["' + NEW
            assert reply.verdict is Verdict.ABSENT


async def test_a_prompt_that_asks_for_nothing_is_answered_with_the_text() -> None:
    """One script plays the host for requests with and without a prefill."""
    with anyio.fail_after(30):
        async with serve(Script(text=NEW, asked="obeys", echo="fence")) as server:
            assert await ask(server, "").text() == NEW


async def test_a_host_that_refuses_a_prefill_and_obeys_the_prompt() -> None:
    """A host can refuse a native prefill with a 400 and obey the prompt, as Claude 4.6 does."""
    script = Script(text=NEW, prefill="refuses", asked="obeys")
    with anyio.fail_after(30):
        async with serve(script) as server:
            assert (await asking.ask(server, "anthropic", '["')).status_code == 400
            assert await ask(server, '["').text() == '["' + NEW


async def test_a_native_prefill_stays_the_hosts_own_affair() -> None:
    """`asked` does not change what the host does with a native prefill. `prefill` decides that."""
    with anyio.fail_after(30):
        async with serve(Script(text=NEW, prefill="eats", asked="obeys", cuts=100)) as server:
            response = await asking.ask(server, "openai", '["')
            assert asking.deltas(response.text) == [NEW]


# --- on every wire --------------------------------------------------------------------------------------------------

PROMPTS = {
    name: emulate(DEFAULT, [{"role": "user", "content": "Name the states."}], PREFILLS[name]).messages[-1]["content"]
    for name in ("JSON", "long")
}
FINDS = {"JSON": '["', "long": "The last line of it is"}


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("wire", [*asking.WIRES, *asking_others.WIRES, "bedrock", "vertex"])
async def test_every_wire_obeys(wire: str, streamed: bool, name: str) -> None:
    """The server reads the request from every host's form of a conversation, streamed or not."""
    text = str(PROMPTS[name])
    turns: dict[str, Any] = {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}
    body: dict[str, Any] = {"model": "any", "stream": streamed, **turns}
    paths = {
        **asking.PATHS,
        **asking_others.PATHS,
        "bedrock": f"/model/any/invoke{'-with-response-stream' if streamed else ''}",
        "vertex": f"/v1/publishers/anthropic/models/any:{'streamRawPredict' if streamed else 'rawPredict'}",
    }
    path = paths[wire]
    if wire == "responses":
        body = {"model": "any", "stream": streamed, "input": [{"role": "user", "content": text}]}
    elif wire == "ollama":
        body = {"model": "any", "stream": streamed, "messages": [{"role": "user", "content": text}]}
    elif wire.startswith("gemini"):
        body = {"contents": [{"parts": [{"text": text}]}]}
        path = path if streamed else path.partition("?")[0].replace("streamGenerateContent", "generateContent")
    with anyio.fail_after(30):
        async with serve(Script(text="ZEBRA", asked="obeys", cuts=1000, echo="joined")) as server:
            async with client_of(server) as client:
                response = await client.post(server.url + path, json=body)
    assert response.status_code == 200
    content = response.content.decode(errors="replace")
    expected = FINDS[name] + "ZEBRA"
    if wire == "bedrock" and streamed:
        # each frame has its event in base64
        events = [base64.b64decode(found) for found in re.findall(rb'"bytes":"([^"]+)"', response.content)]
        content = b"\n".join(events).decode()
    assert json.dumps(expected)[1:-1] in content


# --- the user's own wording -----------------------------------------------------------------------------------------

OWN = Emulation(
    begin="Name them. BEGIN:{text}:END",
    continued="You wrote {text}\nGo on. BEGIN:{end}:END",
)


def between(prompt: str) -> str | None:
    """Return the text between the words of `OWN`."""
    found = prompt.rpartition("BEGIN:")[2].partition(":END")
    return found[0] if found[1] else None


@pytest.mark.parametrize("finder", [r"BEGIN:(.*):END", between], ids=["a regular expression", "a function"])
@pytest.mark.parametrize("name", ["JSON", "several lines", "long"])
async def test_words_of_ones_own(finder: Any, name: str) -> None:
    """`find_asked` is a regular expression with one group, whose dot matches line ends, or a function."""
    prefill = PREFILLS[name]
    with anyio.fail_after(30):
        async with serve(Script(text=NEW, asked="obeys", find_asked=finder)) as server:
            reply = ask(server, prefill, emulate=OWN)
            assert await reply.text() == prefill + NEW
            assert reply.verdict in {Verdict.ECHOED, Verdict.OVERLAPPED}


async def test_only_the_second_request_in_words_of_ones_own() -> None:
    """Two scripts work with any wording: the first request is not obeyed, and the second is."""
    obeys = Script(text=NEW, asked="obeys", find_asked=lambda prompt: between(prompt) or find_asked(prompt))
    with anyio.fail_after(30):
        async with serve([Script(text=NEW), obeys]) as server:
            reply = ask(server, '["', emulate=OWN, absent="retry")
            assert await reply.text() == '["' + NEW
            assert reply.verdict is Verdict.ECHOED
            assert len(server.exchanges) == 2


@pytest.mark.parametrize(
    ("finder", "raised", "says"),
    [(lambda prompt: 1 / 0, ZeroDivisionError, "division"), (lambda prompt: 7, UsageError, "returned a int")],
    ids=["raises", "returns no text"],
)
async def test_a_function_that_fails_is_told(finder: Any, raised: type[Exception], says: str) -> None:
    """If `find_asked` fails, the request gets a 500, and leaving the server raises what the function raised."""
    status = 0
    with anyio.fail_after(30), pytest.raises(raised, match=says):
        async with serve(Script(text=NEW, asked="obeys", find_asked=finder)) as server:
            status = (await asking.ask(server, "openai")).status_code
    assert status == 500


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"asked": "always"}, "use one of 'ignores', 'obeys', 'obeys_second'"),
        ({"asked": "obeys", "prefill": "echoes", "echo_text": "x"}, "leave echo_text= out"),
        ({"find_asked": "(x)"}, "asked='obeys'"),
        ({"asked": "obeys", "find_asked": "x"}, "one group"),
        ({"asked": "obeys", "find_asked": "(x)(y)"}, "one group"),
        ({"asked": "obeys", "find_asked": "("}, "not a regular expression"),
        ({"asked": "obeys", "find_asked": 3}, "a function"),
        ({"asked": "obeys_second", "find_asked": "(x)"}, "find_asked="),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(fields: dict[str, Any], says: str) -> None:
    """A script that makes no sense is a `UsageError` in the line that creates it."""
    with pytest.raises(UsageError, match="Script: ") as caught:
        Script(**fields)
    assert says in str(caught.value)

"""Write `docs/reliability.md`: each fault of `tests/support/faults.py`, through aprefill and through the SDKs' own streams.

`python docs/_reliability.py` runs them all on loopback and writes the page; it takes about two minutes, most of them
spent in the SDKs. It fails, and writes nothing, if aprefill does not do what `tests/support/faults.py` says. What a column does is
measured in a process of its own, what is heavy in one for itself: `python docs/_reliability.py measure COLUMN URL NAME...`.
"""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, whatever is installed

import anyio

from aprefill import __version__
from aprefill.testing import Script, serve_in_thread
from tests.support.fault_runs import Outcome, check, options_of, own_stream_of, through_aprefill, through_sdk
from tests.support.faults import BEFORE, FAULTS, GOOD, NAMES, PREFILL, TEXT, Fault, bomb, fault_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aprefill.testing import Received

TARGET = Path(__file__).with_name("reliability.md")

#: The bad ends that the page counts: a cell with one of them begins with the word.
BAD_ENDS = ("**silent**", "**foreign**", "**waits**")

#: How long anything is waited for, in seconds; for what is heavy, the loop may be blocked and the process is ended.
BOUND_S = 4.0
HEAVY_S = 150.0

#: Column -> the wire it speaks.
COLUMNS = {"aprefill chat": "chat", "aprefill messages": "messages", "openai": "chat", "anthropic": "messages"}

INTRO = f"""\
# What happens when a host fails

Written by `python docs/_reliability.py` ({{date}}), which plays every fault on loopback, once a column, and writes down what
came out. Nothing here was written by hand; `tests/support/faults.py` has the faults, and what must come out of aprefill.

A request asks for a reply that begins with `{PREFILL.strip()}` and would go on `{TEXT}`; most faults strike behind
`{BEFORE.strip()}`. The tests send each of them through aprefill on both wires (chat completions, messages), over its own
transport and through the caller's client (`httpx2.AsyncClient`, `httpx.AsyncClient`, `AsyncOpenAI`, `AsyncAnthropic`), on
asyncio, uvloop and trio, and look for the key in every error and in all that hangs from it. The two columns on the right are
what `stream=True` gives without aprefill, with the SDK's own settings, on asyncio.

| word | meaning |
|---|---|
| right text | the whole reply and nothing else |
| `Truncated`, `APIError`, ... | a typed error. aprefill's have the text so far, which the run compares; an SDK's have none |
| **silent** | the stream ended as a good one does, though the reply was not whole, or not this text |
| **foreign** | an error of some library below, which `except openai.OpenAIError` or `except anthropic.AnthropicError` does not catch |
| **waits** | nothing came to an end in {BOUND_S:g} s; then it was ended from outside |

Seconds and memory are told where they are the point. Memory is what the process grew by. Both are this run's: compare along a row.

{{versions}}

"""


def slug(name: str) -> str:
    """A fault's name as a part of a path."""
    return re.sub(r"\W+", "-", name).strip("-")


# --- in a process of its own ----------------------------------------------------------------------------------


async def measure(column: str, url: str, names: Iterable[str]) -> None:
    """Print what comes out of each fault, one line of JSON each."""
    await outcome_of(column, GOOD_REPLY, f"{url}/good", BOUND_S)  # imports and first connections do not count
    for name in names:
        fault = fault_for(name, COLUMNS[column])
        before = peak_bytes()
        outcome = await outcome_of(column, fault, f"{url}/{slug(name)}", HEAVY_S if fault.weighs else BOUND_S)
        result = {
            "name": name,
            "cell": cell(column, fault, outcome),
            "seconds": outcome.seconds,
            "bytes": peak_bytes() - before,
        }
        print(json.dumps(result), flush=True)


async def outcome_of(column: str, fault: Fault, url: str, bound_s: float) -> Outcome:
    """The fault, once."""
    wire = COLUMNS[column]
    if column.startswith("aprefill"):
        async with options_of("ours", wire, url) as options:
            outcome = await through_aprefill(fault, options, bound_s=bound_s)
        check(fault, outcome)
        return outcome
    async with own_stream_of(column, url) as ask:
        return await through_sdk(ask, bound_s)


GOOD_REPLY = Fault(name="good", script=GOOD, right=TEXT, within_s=10.0)


def peak_bytes() -> int:
    """The most memory that this process has had."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    # not ru_maxrss: a child inherits its parent's
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def cell(column: str, fault: Fault, outcome: Outcome) -> str:
    """What came out, in the words of the page."""
    if outcome.unending:
        return f"**waits**{so_far(outcome)}"
    error = outcome.error
    if error is None:
        if outcome.text == PREFILL + (fault.right or "") and fault.right is not None:
            return "right text"
        return f"**silent**{so_far(outcome)}"
    name = f"`{type(error).__name__}`"
    if column.startswith("aprefill"):
        return name
    if type(error).__module__.startswith(column):
        return name
    package = type(error).__module__.partition(".")[0]
    return f"**foreign** {name if package == 'builtins' else f'`{package}.{type(error).__name__}`'}"


def so_far(outcome: Outcome) -> str:
    """How much text had come."""
    text = outcome.text.removeprefix(PREFILL)
    if text == TEXT:
        return ", all of the text"
    if text.startswith(TEXT):
        return f", with {text[len(TEXT) :]!r} too much"
    return f", {len(text)} of {len(TEXT)} characters" if text else ", no text"


# --- the page -------------------------------------------------------------------------------------------------


def run(column: str, url: str, names: list[str], *, bound_s: float) -> dict[str, dict[str, Any]]:
    """What a process of its own measured; a process that does not end has been waiting."""
    command = [sys.executable, __file__, "measure", column, url, *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=bound_s)  # noqa: S603 - ourselves
    except subprocess.TimeoutExpired:
        if len(names) > 1:
            raise
        return {names[0]: {"cell": f"**waits**, blocks its loop for more than {bound_s:g} s"}}
    if done.returncode:
        raise SystemExit(f"{column}, {', '.join(names)}:\n{done.stderr}")
    return {result["name"]: result for result in map(json.loads, done.stdout.splitlines())}


def results(url: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Column -> fault -> what was measured."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column, wire in COLUMNS.items():
        here = [fault for fault in FAULTS if wire in fault.wires]
        light = [fault.name for fault in here if not fault.weighs]
        found[column] = run(column, url, light, bound_s=10 + BOUND_S * len(light))
        for fault in here:
            if fault.weighs:
                found[column] |= run(column, url, [fault.name], bound_s=HEAVY_S + 30)
                print(f"{column}: {fault.name}: {found[column][fault.name]}", file=sys.stderr)
    return found


def render(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("openai", "anthropic", "httpx2"))
    intro = INTRO.format(
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        versions=f"aprefill {__version__}, {versions}, Python {platform.python_version()}.",
    )
    lines = [
        *counts(found),
        "",
        "| The host | aprefill, both wires | openai, chat: its own stream | anthropic: its own stream |",
        "|---|---|---|---|",
    ]
    notes: dict[str, int] = {}
    for name in NAMES:
        faults = [fault for fault in FAULTS if fault.name == name]
        marks = [notes.setdefault(fault.note, len(notes) + 1) for fault in faults if fault.note]
        mark = "".join(f" ({number})" for number in marks)
        ours = {column: found[column][name] for column in COLUMNS if column.startswith("aprefill")}
        cells = [
            name + mark,
            both(ours, faults[0]),
            *(told(found[sdk][name], faults[0]) for sdk in ("openai", "anthropic")),
        ]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    footnotes = [f"{number}. {note}" for note, number in notes.items()]
    return "\n".join([intro + "\n".join(lines), "", *footnotes, ""])


def counts(found: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """How many faults came to each bad end. aprefill's are counted if they did so on one of the wires."""
    lines = [f"| Of {len(NAMES)} faults | aprefill, either wire | openai | anthropic |", "|---|---|---|---|"]
    for end in BAD_ENDS:
        bad = {column: {name for name in NAMES if found[column][name]["cell"].startswith(end)} for column in COLUMNS}
        ours = bad["aprefill chat"] | bad["aprefill messages"]
        lines.append(f"| {end} | {len(ours)} | {len(bad['openai'])} | {len(bad['anthropic'])} |")
    return lines


def both(ours: dict[str, dict[str, Any]], fault: Fault) -> str:
    """One text where both wires agree, with the worse of their numbers."""
    chat, messages = ours.values()
    if chat["cell"] != messages["cell"]:
        return f"chat: {told(chat, fault)}; messages: {told(messages, fault)}"
    return told({key: max(chat[key], messages[key]) for key in chat}, fault)


def told(result: dict[str, Any], fault: Fault) -> str:
    """A cell, with its numbers where they are the point."""
    if not fault.weighs or "seconds" not in result:
        return str(result["cell"])
    seconds, size = result["seconds"], result["bytes"]
    took = "under 0.1 s" if seconds < 0.1 else f"{seconds:.1f} s"
    return f"{result['cell']}; {took}, {'under 1 MB' if size < 1e6 else f'+{size / 1e6:.0f} MB'}"


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["measure"]:
        column, url, *names = arguments[1:]
        anyio.run(measure, column, url, names)
        return
    by_slug = {slug(fault.name): fault for fault in (GOOD_REPLY, *FAULTS)}

    def play(received: Received) -> Script:
        return by_slug[received.path.split("/")[1]].play(received)

    bomb()  # made once, and not while somebody waits for it
    with serve_in_thread(play) as server:
        found = results(server.url)
    TARGET.write_text(render(found), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

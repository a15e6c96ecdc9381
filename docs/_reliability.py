"""Write `docs/reliability.md`: what each fault of `tests/support/faults.py` does to aprefill and to the SDKs.

`python docs/_reliability.py` runs all faults on loopback and writes the page. It takes about two minutes, most of them
in the SDKs. If aprefill does not do what `tests/support/faults.py` says, it fails and writes nothing. Each column is
measured in a separate process: `python docs/_reliability.py measure COLUMN URL NAME...`. Each fault that is about time
and memory (`Fault.weighs`) has a process to itself.
"""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # use this checkout, not an installed aprefill

import anyio

from aprefill import __version__
from aprefill.testing import Script, serve_in_thread
from tests.support.fault_runs import Outcome, check, options_of, own_stream_of, through_aprefill, through_sdk
from tests.support.faults import BEFORE, FAULTS, GOOD, NAMES, PREFILL, TEXT, Fault, bomb, fault_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aprefill.testing import Received

TARGET = Path(__file__).with_name("reliability.md")

#: The bad outcomes that the page counts. A cell with one of them begins with the word.
BAD_ENDS = ("*silent*", "*foreign*", "*waits*")

#: The longest wait for an outcome, in seconds.
BOUND_S = 4.0
#: The same for a fault that is about time and memory. It may block the event loop, so its process has a timeout too.
HEAVY_S = 150.0

#: Column -> the protocol that it uses.
COLUMNS = {"aprefill chat": "chat", "aprefill messages": "messages", "openai": "chat", "anthropic": "messages"}

INTRO = f"""\
# What happens when a host fails

Written by `python docs/_reliability.py` ({{date}}). It plays every fault on loopback, once per column, and writes
down the outcome. Nothing on this page is written by hand. `tests/support/faults.py` defines the faults, and what
aprefill must do with each of them.

Every request asks for a reply that begins with `{PREFILL.strip()}` and continues with
`{TEXT}` ({len(TEXT)} characters). Most faults happen after `{BEFORE.strip()}`.

The tests send each fault through aprefill with both protocols (chat completions, messages), over aprefill's own
transport and through the caller's client (`httpx2.AsyncClient`, `httpx.AsyncClient`, `AsyncOpenAI`,
`AsyncAnthropic`), on asyncio, uvloop and trio. They search every error, and everything that is attached to it, for the
API key. The two columns on the right show what `stream=True` gives without aprefill, with the SDK's own settings, on
asyncio.

| word | meaning |
|---|---|
| right text | the whole reply and nothing else |
| `Truncated`, `APIError`, ... | an error of that class |
| *silent* | the stream ended like a good one, but the reply was incomplete or had the wrong text |
| *foreign* | an error of another library, which the SDK's own base class does not catch |
| *waits* | nothing happened for {BOUND_S:g} s; then the run was ended from outside |

aprefill's errors hold the text so far, and the run compares it. An SDK's errors hold no text. The base classes are
`openai.OpenAIError` and `anthropic.AnthropicError`. "8 characters" means that 8 of the {len(TEXT)} characters arrived.

{{versions}}

"""

COSTS = """\
For some faults time and memory matter. Memory is how much the process grew. The numbers are from this run, so compare
them within a row.

"""


def slug(name: str) -> str:
    """Return a fault's name in a form that can be a part of a path."""
    return re.sub(r"\W+", "-", name).strip("-")


# --- in a separate process ------------------------------------------------------------------------------------


async def measure(column: str, url: str, names: Iterable[str]) -> None:
    """Print the outcome of each fault, as one line of JSON."""
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
    """Run the fault once and return its outcome."""
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
    """Return the largest memory size that this process has had, in bytes."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    # not ru_maxrss: a child process starts with its parent's value
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def cell(column: str, fault: Fault, outcome: Outcome) -> str:
    """Return the outcome in the words of the page."""
    if outcome.unending:
        return f"*waits*{so_far(outcome)}"
    error = outcome.error
    if error is None:
        if outcome.text == PREFILL + (fault.right or "") and fault.right is not None:
            return "right text"
        return f"*silent*{so_far(outcome)}"
    name = f"`{type(error).__name__}`"
    if column.startswith("aprefill"):
        return name
    if type(error).__module__.startswith(column):
        return name
    package = type(error).__module__.partition(".")[0]
    return f"*foreign* {name if package == 'builtins' else f'`{package}.{type(error).__name__}`'}"


def so_far(outcome: Outcome) -> str:
    """Return how much of the text had arrived."""
    text = outcome.text.removeprefix(PREFILL)
    if text == TEXT:
        return ", all text"
    if text.startswith(TEXT):
        return f", with {text[len(TEXT) :]!r} too much"
    return f", {len(text)} characters" if text else ", no text"


# --- the page -------------------------------------------------------------------------------------------------


def run(column: str, url: str, names: list[str], *, bound_s: float) -> dict[str, dict[str, Any]]:
    """Return what a separate process measured. A process that does not end in time counts as waiting."""
    command = [sys.executable, __file__, "measure", column, url, *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=bound_s)  # noqa: S603 - ourselves
    except subprocess.TimeoutExpired:
        if len(names) > 1:
            raise
        return {names[0]: {"cell": f"*waits*, blocks its loop for more than {bound_s:g} s"}}
    if done.returncode:
        raise SystemExit(f"{column}, {', '.join(names)}:\n{done.stderr}")
    return {result["name"]: result for result in map(json.loads, done.stdout.splitlines())}


def results(url: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what was measured, as column -> fault -> result."""
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
        "| The host | aprefill, both protocols | openai, chat: its own stream | anthropic: its own stream |",
        "|---|---|---|---|",
    ]
    costs = ["| Time and memory | aprefill, both protocols | openai | anthropic |", "|---|---|---|---|"]
    notes: dict[str, int] = {}
    for name in NAMES:
        faults = [fault for fault in FAULTS if fault.name == name]
        marks = [notes.setdefault(fault.note, len(notes) + 1) for fault in faults if fault.note]
        mark = "".join(f" ({number})" for number in marks)
        ours = {column: found[column][name] for column in COLUMNS if column.startswith("aprefill")}
        sdks = [found[sdk][name] for sdk in ("openai", "anthropic")]
        lines.append(row(name + mark, both(ours), *(str(result["cell"]) for result in sdks)))
        if faults[0].weighs:
            costs.append(row(name, cost(*ours.values()), *map(cost, sdks)))
    footnotes = [
        textwrap.fill(f"{number}. {note}", 118, subsequent_indent="   ", break_on_hyphens=False)
        for note, number in notes.items()
    ]
    return "\n".join([intro + "\n".join(lines), "", *footnotes, "", COSTS + "\n".join(costs), ""])


def counts(found: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Return a table: how many faults had each bad outcome. One of aprefill's two protocols is enough to be counted."""
    lines = [f"| Of {len(NAMES)} faults | aprefill, either protocol | openai | anthropic |", "|---|---|---|---|"]
    for end in BAD_ENDS:
        bad = {column: {name for name in NAMES if found[column][name]["cell"].startswith(end)} for column in COLUMNS}
        ours = bad["aprefill chat"] | bad["aprefill messages"]
        lines.append(f"| {end} | {len(ours)} | {len(bad['openai'])} | {len(bad['anthropic'])} |")
    return lines


def row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def both(ours: dict[str, dict[str, Any]]) -> str:
    """Return one text if the outcome is the same with both protocols, else both."""
    chat, messages = ours.values()
    if chat["cell"] != messages["cell"]:
        return f"chat: {chat['cell']}; messages: {messages['cell']}"
    return str(chat["cell"])


def cost(*results: dict[str, Any]) -> str:
    """Return time and memory, the worst of the results."""
    if any("seconds" not in result for result in results):
        return "did not end"
    seconds, size = (max(result[key] for result in results) for key in ("seconds", "bytes"))
    took = "under 0.1 s" if seconds < 0.1 else f"{seconds:.1f} s"
    return f"{took}, {'under 1 MB' if size < 1e6 else f'+{size / 1e6:.0f} MB'}"


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["measure"]:
        column, url, *names = arguments[1:]
        anyio.run(measure, column, url, names)
        return
    by_slug = {slug(fault.name): fault for fault in (GOOD_REPLY, *FAULTS)}

    def play(received: Received) -> Script:
        return by_slug[received.path.split("/")[1]].play(received)

    bomb()  # made once, before a client waits for it
    with serve_in_thread(play) as server:
        found = results(server.url)
    TARGET.write_text(render(found), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

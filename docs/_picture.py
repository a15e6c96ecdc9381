"""Write `docs/picture.svg`: three hosts without aprefill and with it, as two terminals side by side.

`python docs/_picture.py` writes it; with `--check` it writes nothing and exits 1 when the file is stale. The script
starts `aprefill.testing` on loopback, asks it through the official SDKs and through `aprefill.stream`, and draws what came
out. Only the titles, the note and the words beside the marks are written here. The two calls that the picture shows
are the code that is run.
"""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, whatever is installed

import anthropic
import anyio
import openai

from aprefill import stream
from aprefill.testing import Script, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from aprefill.testing import Received, Server

TARGET = Path(__file__).with_name("picture.svg")

PROMPT = "Two US states, as JSON"
PREFILL = '["'
TEXT = 'Alabama", "Alaska"]'

#: What each terminal shows at its top, and runs for each host.
WITHOUT = f"""\
create(messages=[user,
  {{"role": "assistant",
   "content": {PREFILL!r}}}])"""
WITH = f"""\
stream(
  "{PROMPT}",
  prefill={PREFILL!r})"""


@dataclass(frozen=True, slots=True)
class Host:
    """A model of the support table, and the script that behaves as the table says."""

    provider: str
    model: str
    script: Script


HOSTS = (
    Host("anthropic", "claude-haiku-4-5", Script(text=TEXT, prefill="eats")),
    Host("openai", "gpt-4o", Script(text=TEXT, prefill="echoes", asked="obeys", echo="chatter+fence")),
    Host("anthropic", "claude-opus-5", Script(text=TEXT, prefill="refuses", asked="obeys")),
)


# --- the run --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of one call."""

    text: str
    #: the text begins with the caller's prefill; False for an SDK, where the model wrote all of the text
    prefilled: bool = False
    #: what an SDK raised, instead of a text
    error: str = ""
    status: int = 200
    #: aprefill's own word for how the prefill was sent
    mode: str = ""

    @property
    def good(self) -> bool:
        """The text is JSON as it is."""
        try:
            json.loads(self.text)
        except ValueError:
            return False
        return True

    @property
    def word(self) -> str:
        """The word beside the mark."""
        if self.error:
            return f"HTTP {self.status}"
        return "JSON" if self.good else "not JSON"


async def run(hosts: Iterable[Host] = HOSTS) -> list[tuple[Host, Outcome, Outcome]]:
    """Each host with what came out without aprefill and with it."""
    by_model = {host.model: host for host in hosts}

    def play(received: Received) -> Script:
        return by_model[received.model].script

    async with serve(play) as server:
        return [(host, await without(host, server), await with_it(host, server)) for host in by_model.values()]


async def without(host: Host, server: Server) -> Outcome:
    """Through the provider's own SDK: the assistant's turn is the prefill, the deltas are joined."""
    user = {"role": "user", "content": PROMPT}
    try:
        if host.provider == "anthropic":
            async with anthropic.AsyncAnthropic(base_url=server.url, api_key="any") as client:
                create = partial(client.messages.create, model=host.model, max_tokens=100, stream=True)
                events = await called(WITHOUT, create=create, user=user)
                return Outcome("".join([e.delta.text async for e in events if e.type == "content_block_delta"]))
        async with openai.AsyncOpenAI(base_url=server.openai_url, api_key="any") as client:
            create = partial(client.chat.completions.create, model=host.model, stream=True)
            chunks: AsyncIterator[Any] = await called(WITHOUT, create=create, user=user)
            return Outcome("".join([chunk.choices[0].delta.content or "" async for chunk in chunks]))
    except (anthropic.APIStatusError, openai.APIStatusError) as error:
        body: Any = error.body
        name = f"{type(error).__module__}.{type(error).__name__}"
        return Outcome("", error=f"{name}: {body['error']['message']}", status=error.status_code)


async def with_it(host: Host, server: Server) -> Outcome:
    """Through aprefill."""
    base_url = server.url if host.provider == "anthropic" else server.openai_url
    asked = partial(stream, model=f"{host.provider}:{host.model}", base_url=base_url, api_key="any", max_tokens=100)
    reply = called(WITH, stream=asked)
    text = "".join([chunk async for chunk in reply])
    return Outcome(text, prefilled=text.startswith(PREFILL), mode=reply.mode)


def called(code: str, **names: Any) -> Any:
    """The value of a call that the picture shows."""
    return eval(code, names)  # noqa: S307 - one of the two texts above


# --- the drawing ----------------------------------------------------------------------------------------------

#: class -> colour, in light and in dark. `window`, `bar` and `line` are surfaces, the others are texts on the window.
COLOURS = {
    "light": {
        "window": "#ffffff",
        "bar": "#eaeef2",
        "line": "#d1d9e0",
        "said": "#1f2328",
        "quiet": "#59636e",
        "prefill": "#0969da",
        "bad": "#b42318",
        "good": "#116329",
    },
    "dark": {
        "window": "#151b23",
        "bar": "#262c36",
        "line": "#3d444d",
        "said": "#f0f6fc",
        "quiet": "#a5adb8",
        "prefill": "#58a6ff",
        "bad": "#ff8f85",
        "good": "#56d364",
    },
}
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

WIDTH, GAP, PAD = 800, 12, 18
WINDOW = (WIDTH - GAP) // 2
BAR, ROW_GAP = 40, 16
SIZE, LEADING = 20, 27
#: The characters of a line that fit, in a font whose characters are up to 0.618 of its size wide.
COLUMNS = int((WINDOW - 2 * PAD) / (SIZE * 0.618))
#: How many lines of an error's message are shown.
MESSAGE_LINES = 2

#: Who the hosts are.
NOTE = "hosts: aprefill.testing on loopback"

#: A line of text: (class, text) pieces.
Line = list[tuple[str, str]]


def lines_of(outcome: Outcome) -> list[Line]:
    """The reply or the error as lines, each in pieces of one colour."""
    if outcome.error:
        name, _, message = outcome.error.partition(" ")
        wrapped = textwrap.wrap(message, COLUMNS, max_lines=MESSAGE_LINES, placeholder=" …")
        return [[("bad", line)] for line in (name, *wrapped)]
    first, *rest = outcome.text.splitlines()
    begin: Line = [("said", first)]
    if outcome.prefilled:
        begin = [("prefill", PREFILL), ("said", first.removeprefix(PREFILL))]
    return [begin, *([("said", line)] for line in rest)]


def code_lines(code: str) -> list[Line]:
    """A call, its prefill in the prefill's colour."""
    found = []
    for line in code.splitlines():
        before, prefill, after = line.partition(repr(PREFILL))
        found.append([piece for piece in (("quiet", before), ("prefill", prefill), ("quiet", after)) if piece[1]])
    return found


def render(results: list[tuple[Host, Outcome, Outcome]]) -> str:
    """The picture."""
    calls = [code_lines(WITHOUT), code_lines(WITH)]
    body = []
    top = BAR + ROW_GAP
    for x, lines in zip((0, WINDOW + GAP), calls, strict=True):
        body += texts(lines, x + PAD, top)
    top += LEADING * max(map(len, calls)) + ROW_GAP
    for host, *outcomes in results:
        shown = [lines_of(outcome) for outcome in outcomes]
        for x, outcome, lines in zip((0, WINDOW + GAP), outcomes, shown, strict=True):
            body.append(f'<path class="line" d="M{x + 1} {top}h{WINDOW - 2}"/>')
            body += heading(host.model, outcome, x, top + ROW_GAP // 2)
            body += texts(lines, x + PAD, top + ROW_GAP // 2 + LEADING)
        top += ROW_GAP // 2 + LEADING * (1 + max(map(len, shown))) + ROW_GAP
    height = top
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    body.append(f'<text class="quiet note" x="{WIDTH - PAD}" y="{height - PAD}">{NOTE}</text>')
    titles = ("Without: the official SDK", "With aprefill")
    frame = [part for x, title in zip((0, WINDOW + GAP), titles, strict=True) for part in window(x, height, title)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
            '<title id="title">A reply with a prefill from three hosts, without aprefill and with it</title>',
            f'<desc id="desc">{escape(description(results))}</desc>',
            f"<style>\n{style()}\n</style>",
            *frame,
            *body,
            "</svg>",
            "",
        ]
    )


def window(x: int, height: int, title: str) -> list[str]:
    """A terminal's background, bar and title."""
    right = x + WINDOW - 1
    bar = f"M{x + 1} {BAR}V11a10 10 0 0 1 10 -10H{right - 10}a10 10 0 0 1 10 10V{BAR}z"
    return [
        f'<rect class="window" x="{x + 1}" y="1" width="{WINDOW - 2}" height="{height - 2}" rx="10"/>',
        f'<path class="bar" d="{bar}"/>',
        *(f'<circle class="line" cx="{right - PAD - 18 * dot}" cy="{BAR // 2}" r="5"/>' for dot in range(3)),
        f'<text class="said title" x="{x + PAD}" y="27">{escape(title)}</text>',
    ]


def heading(model: str, outcome: Outcome, x: int, top: int) -> list[str]:
    """The model, and a mark with a word at the right."""
    kind, right, y = "good" if outcome.good else "bad", x + WINDOW - PAD, top + SIZE
    mark = "l5 6l9 -12" if outcome.good else "m0 -6l12 12m0 -12l-12 12"
    left = right - len(outcome.word) * 11 - 22
    return [
        f'<text class="quiet" x="{x + PAD}" y="{y}">{escape(model)}</text>',
        f'<path class="{kind} mark" d="M{left} {y - 6}{mark}"/>',
        f'<text class="{kind} word" x="{right}" y="{y}">{escape(outcome.word)}</text>',
    ]


def texts(lines: list[Line], x: int, top: int) -> list[str]:
    """Lines of text, the first one's top at `top`."""
    drawn = []
    for number, line in enumerate(lines):
        length = sum(len(text) for _, text in line)
        if length > COLUMNS:
            raise SystemExit(f"a line of {length} characters does not fit into {COLUMNS}: {line}")
        spans = "".join(f"<tspan class={quoteattr(kind)}>{escape(text)}</tspan>" for kind, text in line)
        drawn.append(f'<text xml:space="preserve" x="{x}" y="{top + SIZE + number * LEADING}">{spans}</text>')
    return drawn


def style() -> str:
    """The style sheet: sizes, then the colours of the light scheme, then those of the dark one."""

    def colours(scheme: dict[str, str]) -> list[str]:
        rules = [f".{name} {{ fill: {colour} }}" for name, colour in scheme.items() if name != "line"]
        rules += [f".mark.{name} {{ fill: none; stroke: {scheme[name]} }}" for name in ("good", "bad")]
        return [*rules, f".line {{ fill: {scheme['line']} }}", f".line, .window {{ stroke: {scheme['line']} }}"]

    return "\n".join(
        [
            f"text {{ font: {SIZE}px {FONTS}; white-space: pre }}",
            ".title { font-weight: bold; font-size: 18px }",
            ".word { font-weight: bold; font-size: 18px; text-anchor: end }",
            ".note { font-size: 14px; text-anchor: end }",
            ".prefill { font-weight: bold }",
            ".mark { stroke-width: 3; stroke-linecap: round; stroke-linejoin: round }",
            *colours(COLOURS["light"]),
            "@media (prefers-color-scheme: dark) {",
            *(f"  {rule}" for rule in colours(COLOURS["dark"])),
            "}",
        ]
    )


def description(results: list[tuple[Host, Outcome, Outcome]]) -> str:
    """What the picture shows, in words for screen readers."""

    def told(outcome: Outcome) -> str:
        return outcome.error or f"{' '.join(outcome.text.split())} ({outcome.word})"

    hosts = [f"{host.model}: without {told(bare)}; with aprefill {told(ours)}." for host, bare, ours in results]
    return f"Prompt: {PROMPT}. Prefill: {PREFILL} The hosts are played by aprefill.testing. {' '.join(hosts)}"


def main(arguments: list[str]) -> int:
    text = render(anyio.run(run))
    if arguments == ["--check"]:
        if TARGET.is_file() and TARGET.read_text("utf-8") == text:
            return 0
        print(f"{TARGET.name} is stale; run python docs/{Path(__file__).name}", file=sys.stderr)
        return 1
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

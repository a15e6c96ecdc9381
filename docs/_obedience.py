"""Write `docs/obedience.md`: how often a small real model repeats a prefill, for several wordings of the request.

`nox -s obedience` installs the two wheels and runs this script. It takes about twenty minutes on one processor. The
script starts llama.cpp's own server (`tests/support/engine.py`) and asks the pairs of `tests/support/pairs.py`. If the
environment variable `APREFILL_SHARED` names a folder with recorded replies of the same model, it asks their pairs as
well. If the wording in use does not reach `GOAL`, if a marker is shown, or if a text is wrong, the script fails and
writes nothing.
"""

from __future__ import annotations

import datetime
import http.client
import json
import os
import platform
import re
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))  # use this checkout, not an installed aprefill

from aprefill import Emulation, Verdict, __version__
from aprefill._plan.emulate import AGAIN, BEGIN, CONTINUE, WHOLE_MAX, EmulatedPrompt, room
from aprefill._seam.markers import SHORTEST, Markers
from tests.support.engine import Engine, versions
from tests.support.pairs import LONG, SHORT
from tests.support.planning import emulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TARGET = Path(__file__).with_name("obedience.md")

#: The wording in use must be obeyed at least this many times as often as the wording of 0.1.0, for short prefills.
GOAL = 1.4
TEMPERATURES = (0, 0.8)
#: Number of characters to read after it is clear whether a reply obeyed.
MORE = 12
#: Number of characters, without white space, to read of a long text that the model starts over.
OVER = 90
#: Timeout for one reply, in seconds.
BOUND_S = 90.0

# The wordings of release 0.1.0, for comparison.
OLD_BEGIN = """\
Begin your reply with exactly the text inside the tag below, character for character, and go straight on from where it \
ends, as one reply. Write nothing before it: no greeting, no explanation, no code fence. Do not write the tag itself, \
and do not mention this request.
{open}{text}{close}"""
OLD_CONTINUE = """\
You have already written the first part of your reply; it stands inside the first of the two tags below. Go on with it \
from exactly where it ends. So that both parts can be joined, begin by repeating its end, which stands inside the \
second tag: that piece alone, once, character for character. Then go straight on. Write nothing before it: no \
greeting, no explanation, no code fence. Do not write the tags themselves, and do not mention this request.
{open}{text}{close}
{open}{end}{close}"""
OLD_SHARPER = """\
This matters more than anything else about the form of your reply: its very first character is the first character \
inside the last tag, and the text inside that tag comes first, unchanged."""

SHORT_WORDINGS = {
    "0.1.0": OLD_BEGIN,
    "must begin": "Your reply must begin with: {text}",
    "the second request's": AGAIN,
    "unchanged": "Here is the beginning of your reply. Write it out again, unchanged, and complete it:\n\n{text}",
    "**used**": BEGIN,
}
LONG_WORDINGS = {
    "0.1.0": OLD_CONTINUE,
    "**used**": CONTINUE,
}
#: First wording -> the wording of its second request.
AGAIN_WORDINGS = {"0.1.0": OLD_BEGIN + "\n\n" + OLD_SHARPER, "**used**": AGAIN}
AGAIN_LONG_WORDINGS = {"0.1.0": OLD_CONTINUE + "\n\n" + OLD_SHARPER, "**used**": AGAIN}

Pair = tuple[str, str]


def recorded_pairs() -> list[Pair]:
    """Return the pairs of the recorded replies of the same model, if the recordings are available."""
    path = Path(os.environ.get("APREFILL_SHARED", "")) / "recordings/_emulated/replies.jsonl"
    if not os.environ.get("APREFILL_SHARED") or not path.exists():
        return []
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return sorted({(row["prompt"], row["prefill"]) for row in rows if row["model"] == "smollm2-135m"})


def ink(text: str) -> str:
    return "".join(text.split())


@dataclass
class Tally:
    """Counts the outcomes of all pairs with one wording at one temperature."""

    asked: int = 0
    #: replies that begin with the requested text, in any white space or in a fence; judged without aprefill
    obeyed: int = 0
    #: replies that begin with it only after the markers are removed
    behind: int = 0
    #: replies that begin with the whole of a long text, although only its end was requested
    over: int = 0
    #: replies in which the model wrote a marker
    wrote: int = 0
    #: replies in which a marker was left
    shown: int = 0
    wrong: list[str] = field(default_factory=list)
    #: the pairs whose reply did not obey
    rest: list[Pair] = field(default_factory=list)


@dataclass
class Answer:
    raw: str
    asked: EmulatedPrompt
    prefill: str

    @property
    def clean(self) -> str:
        """The reply without markers, and without the beginning of a marker at its end. Uses a regular expression."""
        name = self.asked.marker
        if not name:
            return self.raw
        text = re.sub(f"</?{name}>?|{name}>?", "", self.raw)
        whole = [opening + name for opening in ("</", "<", "")]
        ends = [re.escape(one[:n]) for one in whole for n in range(len(one) - 1, SHORTEST - 1, -1)]
        return re.sub("(?:" + "|".join(ends) + r")\Z", "", text)

    def begins_with(self, text: str, *, raw: bool = False) -> bool:
        """Return whether the reply begins with `text`: without its markers or, if `raw`, as the model wrote it."""
        reply = self.raw if raw else self.clean
        opener = re.match(r"\s*```[^`\r\n]{0,64}\r?\n", reply)
        body = reply[opener.end() :] if opener and not text.lstrip().startswith("```") else reply
        return any(ink(one).startswith(ink(text)) for one in (reply, body))

    def may_begin_with(self, text: str) -> bool:
        """Return whether the reply, as far as it was read, may still begin with `text`."""
        read, text = ink(self.clean), ink(text)
        return "```" in self.raw or text.startswith(read) or read.startswith(text)

    def starts_over(self) -> bool:
        """Return whether the reply, as far as it was read, is the beginning of the prefill."""
        read = ink(re.sub(r"\A\s*```[^`\r\n]*\r?\n", "", self.clean))[:OVER]
        return len(read) >= OVER // 2 and ink(self.prefill).startswith(read)


def ask(
    engine: Engine, prompt: str, prefill: str, how: Emulation, temperature: float, *, again: bool = False
) -> Answer:
    """Return one reply. It is read until it is clear whether it obeys, and `MORE` characters further."""
    asked = emulate(how, [{"role": "user", "content": prompt}], prefill, again=again)
    wanted = max(len(ink(asked.echo)), 1)
    parts = urlsplit(engine.url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=BOUND_S)
    body = {
        "messages": list(asked.messages),
        "max_tokens": min(room(asked.echo), 120) + 24,
        "temperature": temperature,
        "seed": 7,
        "stream": True,
    }
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {response.read()!r}")
    answer = Answer("", asked, prefill)
    for line in response:
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                answer.raw += choice["delta"].get("content") or ""
            read = len(ink(answer.clean))
            is_open = any(map(answer.may_begin_with, {asked.echo, prefill}))
            if read >= (min(wanted, OVER) + 30 * ("```" in answer.raw) if is_open else 0) + MORE:
                break
    response.close()
    connection.close()
    return answer


def spliced(answer: Answer) -> tuple[str, Verdict]:
    """Feed the reply to the seam in small pieces, as if it ended where the reading stopped. Return the new text."""
    asked = answer.asked
    seam: Any = asked.seam.seam()
    stage = Markers(asked.marker) if asked.marker else None
    feed: Callable[[str], str] = (lambda piece: seam.feed(stage.feed(piece))) if stage else seam.feed
    out = "".join(map(feed, re.findall(r".{1,4}", answer.raw, re.DOTALL)))
    if stage:
        out += seam.feed(stage.close())
    return out + seam.close(), seam.verdict


def is_wrong(answer: Answer, new: str, verdict: Verdict) -> bool:
    """Return whether `new` lacks text of the model, or holds the text that the model was asked to repeat.

    White space is ignored.
    """

    def bare(text: str) -> str:
        return ink(text.replace("`", ""))

    whole, new = bare(answer.clean), bare(new)
    wanted = {answer.prefill, answer.asked.echo}
    if verdict is Verdict.ABSENT:
        return new != whole or any(map(answer.begins_with, wanted))
    if not whole.endswith(new):
        return True
    head = whole.removesuffix(new)
    if verdict is Verdict.OVERLAPPED:
        return not head or not any(bare(one).endswith(head) for one in wanted)
    if re.fullmatch(r"\s*```[^`\n]*\s*", answer.prefill):
        # The model may open the fence with another language, or with none.
        openers = re.finditer(r"```([^`\n]*)\n", answer.clean)
        return not any(head == bare(answer.clean[: one.start()] + one[1]) for one in openers)
    return not any(head.endswith(bare(one)) for one in wanted)


def measure(engine: Engine, pairs: Iterable[Pair], how: Emulation, temperature: float, *, again: bool = False) -> Tally:
    tally = Tally()
    for prompt, prefill in pairs:
        answer = ask(engine, prompt, prefill, how, temperature, again=again)
        tally.asked += 1
        wanted = answer.asked.echo[:OVER] if len(prefill) > WHOLE_MAX else answer.asked.echo
        obeyed = answer.begins_with(wanted)
        is_raw = answer.begins_with(wanted, raw=True)
        over = not obeyed and len(prefill) > WHOLE_MAX and answer.starts_over()
        tally.obeyed += is_raw
        tally.behind += obeyed and not is_raw
        tally.over += over
        if not obeyed and not over:
            tally.rest.append((prompt, prefill))
        new, verdict = spliced(answer)
        if name := answer.asked.marker:
            tally.wrote += name in answer.raw
            tally.shown += name in new or any(new.endswith(name[:n]) for n in range(SHORTEST, len(name)))
        if is_wrong(answer, new, verdict):
            tally.wrong.append(f"{verdict.value}: prefill {prefill!r}, reply {answer.raw!r}, new text {new!r}")
    return tally


def how_for(short: str = BEGIN, long: str = CONTINUE, again: str = AGAIN) -> Emulation:
    return Emulation(begin=short, continued=long, again=again)


def cell(count: int, of: int) -> str:
    return f"{count} of {of} ({count / of:.0%})" if of else "none"


def table(results: dict[str, dict[float, Tally]], texts: dict[str, str], *, over: bool) -> str:
    head = [f"temperature {one}" for one in TEMPERATURES]
    head += ["markers written", "markers shown", "wrong texts"]
    lines = ["| wording | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name, tallies in results.items():
        cells = []
        for one in tallies.values():
            text = cell(one.obeyed, one.asked) + (f" + {one.behind}" if one.behind else "")
            cells.append(text + (f"; started over: {one.over}" if over else ""))
        every = list(tallies.values())
        cells += [str(sum(one.wrote for one in every)), str(sum(one.shown for one in every))]
        cells.append(str(sum(len(one.wrong) for one in every)))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    quoted = [f"{name}:\n\n```text\n{wrapped(texts[name])}\n```" for name in results]
    return "\n".join(lines) + "\n\n" + "\n\n".join(quoted)


def wrapped(text: str) -> str:
    """Return `text` with its long lines wrapped."""
    return "\n".join(textwrap.fill(line, 118, break_on_hyphens=False) for line in text.splitlines())


def main() -> None:
    recorded = recorded_pairs()
    short = [pair for pair in recorded if len(pair[1]) <= WHOLE_MAX] + list(SHORT)
    long = [pair for pair in recorded if len(pair[1]) > WHOLE_MAX] + list(LONG)
    results: dict[str, dict[str, dict[float, Tally]]] = {"short": {}, "long": {}, "again": {}, "again long": {}}

    def run(half: str, name: str, pairs: Callable[[float], list[Pair]], how: Emulation, again: bool = False) -> None:
        for temperature in TEMPERATURES:
            tally = measure(engine, pairs(temperature), how, temperature, again=again)
            results[half].setdefault(name, {})[temperature] = tally
            line = f"{half}, {name}, temperature {temperature}: {cell(tally.obeyed, tally.asked)}"
            print(f"{line} + {tally.behind} behind a marker, {tally.over} over", *tally.wrong, sep="\n  ")
            sys.stdout.flush()

    with Engine() as engine:
        for name, words in SHORT_WORDINGS.items():
            run("short", name, lambda _: short, how_for(short=words))
        for name, words in LONG_WORDINGS.items():
            run("long", name, lambda _: long, how_for(long=words))
        # ask again for every text that was not repeated at the first request
        for name, words in AGAIN_WORDINGS.items():
            first = results["short"][name]
            run("again", name, lambda temperature, first=first: first[temperature].rest, how_for(again=words), True)
        for name, words in AGAIN_LONG_WORDINGS.items():
            first = results["long"][name]
            run(
                "again long", name, lambda temperature, first=first: first[temperature].rest, how_for(again=words), True
            )

    tallies = [one for half in results.values() for wording in half.values() for one in wording.values()]
    used, old = (sum(one.obeyed for one in results["short"][name].values()) for name in ("**used**", "0.1.0"))
    used_0, old_0 = (results["short"][name][0].obeyed for name in ("**used**", "0.1.0"))
    print(f"used {used} ({used_0} at 0), 0.1.0 {old} ({old_0} at 0)")
    if min(used_0 / max(old_0, 1), used / max(old, 1)) < GOAL:
        sys.exit(f"the wording in use is not obeyed {GOAL} times as often as that of 0.1.0")
    if sum(one.shown for one in tallies) or any(one.wrong for one in tallies):
        sys.exit("a marker was shown, or a text is wrong")
    TARGET.write_text(page(results, len(recorded), used / old, used_0 / old_0), encoding="utf-8")


def page(results: dict[str, dict[str, dict[float, Tally]]], recorded: int, ratio: float, ratio_0: float) -> str:
    today = datetime.datetime.now(tz=datetime.UTC).date()
    wheels = ", ".join(f"`{name}` {number}" for name, number in versions().items())
    shorts = results["short"]["0.1.0"][0].asked
    longs = results["long"]["0.1.0"][0].asked
    return f"""\
# How often a model does what the prompt asks for

Written by `nox -s obedience` on {today}. Nothing on this page is written by hand.
Versions: aprefill {__version__}, {wheels}, Python {platform.python_version()}.

A *prefill* is the text that the caller writes as the beginning of the reply. If a model takes no prefill, aprefill asks
for it in the prompt: the model is asked to repeat it. This page compares *wordings* of that request.

The model is SmolLM2-135M-Instruct (Q4_1), run by llama.cpp's own server. It is a very small model and repeats about
half of the texts. The numbers say nothing about other models.

- The model was asked {shorts} short pairs of a prompt and a prefill, and {longs} long ones (more than 200 characters),
  each at two temperatures. {recorded} pairs are from earlier recordings. The others are in `tests/support/pairs.py`.
- A reply counts as obedient if it begins with the text that the model was asked to repeat. Other white space or a code
  fence do not matter. This is judged without aprefill. "+ 6" means that six more replies begin with the text after the
  model's markers are removed.
- *Markers* are the random names of the tags in which aprefill quotes a longer prefill. A model may copy them. "Markers
  written" counts the replies in which the model did so.
- Then each reply goes through aprefill in small pieces. "Markers shown" counts the replies whose new text still holds a
  marker. "Wrong texts" counts the replies from which text of the model is missing, or in which the repetition is
  left.
- Long lines of the wordings are wrapped here.

## Up to 200 characters

The wording in use is obeyed {ratio:.2f} times as often as the wording of 0.1.0 ({ratio_0:.2f} times at temperature 0).

{table(results["short"], SHORT_WORDINGS, over=False)}

## Longer texts

The text is quoted between two markers, and the model is asked to repeat its end. This model hardly ever repeats only
the end. Mostly it starts over with the whole text. aprefill joins that as well, and `max_tokens` has room for it. Of
such a reply the first {OVER} characters other than white space were compared.

{table(results["long"], LONG_WORDINGS, over=True)}

## The second request

With `absent="retry"`, the pairs that did not obey are asked again in other words. Short texts:

{table(results["again"], AGAIN_WORDINGS, over=False)}

Longer texts. The wording is the same, and asks for the whole text:

{table(results["again long"], AGAIN_LONG_WORDINGS, over=True)}

## How to run it

```console
$ nox -s obedience
```

It is not part of continuous integration, because it downloads about 120 MB and takes about twenty minutes on one
processor.
"""


if __name__ == "__main__":
    main()

"""A second implementation of the rules of `docs/seam.md`: slow, on all of raw at once, without any code of `aprefill`.

`Batch` is the specification as regular expressions and plain loops. `witnesses` returns the continuations that are
enough to check invariant 3. The checks take the class under test as an argument, so that broken variants can be checked
too.
"""

from __future__ import annotations

import random
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Make = Callable[..., Any]

OPENER = r"\s*```[^`\r\n]{0,64}(?:\r\n|\n)"
#: A closing fence at the end of a text. The first group is the backticks.
CLOSING_END = re.compile(r"\n\s*(```)\s*\Z")
#: The text that the watch for a closing fence may hold before the first fence line, and after an inner opener.
#: Backticks need a line end in the first group or before it.
FIRST = re.compile(r"(\s*)(?:`{1,2}|```[^\S\n]*)?\Z")
INNER = re.compile(r"(\s*)(?:`{1,2}|```\s*)?\Z")
#: A complete first fence line: the closing fence and its line end.
CLOSED = re.compile(r"(\s*)```[^\S\n]*?(\r?\n)\Z")


class Outcome(NamedTuple):
    emitted: str
    verdict: str
    overlap_length: int


class Batch:
    """``Batch(known, **rules)(raw)`` is the text and the verdict that a seam must give after a clean end of raw.

    With `slack`, the bound of invariant 5 is applied character by character.
    """

    #: Rule 5: the least ink of an echo after chatter without an opener.
    FLOOR = 16

    def __init__(
        self,
        known: str,
        *,
        echo: str = "maybe",
        whitespace: bool = False,
        fence: bool = False,
        preamble: int = 0,
        overlap: int = 0,
        stripped: str = "",
        slack: int | None = None,
    ) -> None:
        self.known = known
        self.want = want = known.removesuffix(stripped)
        self.bound = sys.maxsize if slack is None else 2 * len(known) + slack
        self.latest = sys.maxsize if slack is None else self.bound + 1
        self.by_character = slack is not None
        ink = [c for c in want if not c.isspace()]
        blind = not ink if whitespace else not want
        self.looks = echo == "maybe" and not blind
        self.overlap = 0 if blind else overlap
        self.stripped = stripped
        self.whitespace = whitespace
        self.joint = known[len(known.rstrip()) :] if whitespace else stripped

        echoed = r"\s*" + r"\s*".join(map(re.escape, ink)) if whitespace else re.escape(want)
        self.plain = re.compile(echoed)
        self.fenced = re.compile(OPENER + echoed)
        self.is_fence = known.lstrip().startswith("```")
        self.fence = fence and not self.is_fence
        self.plain_behind = len(ink) >= self.FLOOR or (want.lstrip().startswith("```") and len(ink) > 3)
        self.fence_behind = self.fence and len(ink) >= 2
        self.preamble = preamble if self.plain_behind or self.fence_behind else 0
        self.tails = [want[-k:] for k in range(len(want) - 1, self.overlap - 1, -1)] if self.overlap else []

    def front(self, raw: str) -> tuple[str, int, bool]:
        """Return the verdict, the end of the text that is dropped before the joint, and whether a fence was opened."""
        if self.looks:
            latest = self.latest
            if (found := self.plain.match(raw)) and found.end() <= latest:
                return "echoed", found.end(), False
            if self.fence and (found := self.fenced.match(raw)) and found.end() <= latest:
                return "fenced", found.end(), True
            for p in self.places(raw):
                if self.plain_behind and (found := self.plain.match(raw, p)) and found.end() <= latest:
                    return "prefaced", found.end(), False
                if self.fence_behind and (found := self.fenced.match(raw, p)) and found.end() <= latest:
                    return "prefaced", found.end(), True
        for tail in self.tails:
            if raw.startswith(tail):
                return "overlapped", len(tail), False
        return "absent", 0, False

    def places(self, raw: str) -> Iterator[int]:
        """Yield each p of rule 5: after a line end within the first n characters, and raw up to there is chatter."""
        lines = 0
        for p in range(1, min(self.preamble, len(raw)) + 1):
            if raw[p - 1] == "\n":
                line = raw[raw.rfind("\n", 0, p - 1) + 1 : p].strip()
                lines += line != "" and not (self.is_fence and line == "```")
                if lines > 1 or (line.startswith("```") and not self.is_fence):
                    return
                yield p

    def __call__(self, raw: str) -> Outcome:
        verdict, end, fenced = self.front(raw)
        emitted, _ = self.rest(raw, verdict, end, fenced)
        return Outcome(emitted, verdict, end if verdict == "overlapped" else 0)

    def emitted(self, raw: str) -> str:
        return self.rest(raw, *self.front(raw))[0]

    def rest(self, raw: str, verdict: str, end: int, fenced: bool) -> tuple[str, int]:
        """Return the text emitted after the start of raw, and how much of raw is dropped whatever follows."""
        start = self.joint_end(raw, verdict, end)
        if not fenced:
            return raw[start:], start
        if self.by_character:
            return self.watch(raw[:start], raw[start:]), start
        ticks = self.first_fence(raw, end)
        if ticks < 0:
            return raw[start:], start
        stop = start + len(raw[start:ticks].rstrip())
        line = re.compile(r"[^\n]*").match(raw, ticks + 3)
        assert line
        if not line[0].strip():
            line_end = line.end() - raw.startswith("\r\n", line.end() - 1)
            if line.end() == len(raw):
                return raw[start:stop], start
            after = raw[line_end:]
            return raw[start:stop] + (after if after.strip() else ""), start + line_end - stop
        last = CLOSING_END.search(raw, line.end())
        return raw[start : last.start(1)].rstrip() if last else raw[start:], start

    @staticmethod
    def first_fence(raw: str, end: int) -> int:
        """Return the position of the first three backticks that begin a line after the echo, or -1."""
        at = raw.find("```", end)
        while at >= 0:
            before = raw[:at]
            if "\n" in before[len(before.rstrip()) :]:
                return at
            at = raw.find("```", at + 1)
        return -1

    def joint_end(self, raw: str, verdict: str, end: int) -> int:
        """Return the position where the text after the joint begins."""
        is_echo = verdict not in {"absent", "overlapped"}
        space = self.joint if is_echo else self.stripped
        lines = space.count("\n") if is_echo and self.whitespace else 0
        rest = raw[end:]
        blank = rest[: len(rest) - len(rest.lstrip())]
        first = blank.find("\n") if lines else -1
        # white space is held after the text that agrees, and after each line end that was matched
        at = len(common_prefix(space, rest if first < 0 else rest[:first]))
        while lines:
            line_end = blank.find("\n", at)
            if (len(blank) if line_end < 0 else line_end) - at > self.bound or line_end < 0:
                return end + at
            at = line_end + 1
            lines -= 1
            if not lines:
                at += len(common_prefix(space[space.rfind("\n") + 1 :], rest[at:]))
        return end + at

    def watch(self, before: str, text: str) -> str:
        """Return `text` without its closing fence, under the bound of held characters, by character."""
        out = held = ""
        state = "first"
        before = before[len(before.rstrip()) :]
        for c in text:
            held += c
            if state == "closed":
                if not c.isspace():
                    state = "over"
            elif state == "first" and (found := CLOSED.match(held)) and "\n" in before + found[1]:
                held, before, state = found[2], "", "closed"
            elif state in {"first", "inner"}:
                found = re.match(r"(\s*)```", held)
                if state == "first" and found and "\n" in before + found[1] and not FIRST.match(held):
                    out, held, before, state = out + held, "", "", "inner"
                while not self.watched(before, held, FIRST if state == "first" else INNER):
                    out += held[0]
                    before = before + held[0] if held[0].isspace() else ""
                    held = held[1:]
            if len(held) > self.bound:
                out, held, before = out + held, "", ""
                state = "over" if state in {"closed", "over"} else "first"
            if state == "over":
                out, held = out + held, ""
        return out if held.strip() == "```" or state == "closed" else out + held

    @staticmethod
    def watched(before: str, held: str, form: re.Pattern[str]) -> bool:
        found = form.match(held)
        return found is not None and (found[0].isspace() or not held or "\n" in before + found[1])


def witnesses(known: str, want: str, letters: str, opener: str = "```\n") -> list[str]:
    """Return the continuations for invariant 3, each once: if all of them agree on a text, all continuations do."""
    heads = ["", "\n", "c\n"]
    heads += [head + opener for head in heads]
    found = dict.fromkeys(["", *letters])
    for whole in ["\n```", *(head + text for head in heads for text in (want, known))]:
        for start in range(len(whole)):
            found[whole[start:]] = None
            if whole != "\n```":
                for letter in letters:
                    found[whole[start:] + letter] = None
    return list(found)


def common_prefix(a: str, b: str) -> str:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return a[:n]


class Oracle:
    """The text that invariant 3 demands after each prefix of any raw, for one known text and one set of rules."""

    def __init__(self, known: str, rules: dict[str, Any], letters: str) -> None:
        self.batch = Batch(known, **rules)
        self.tails = witnesses(known, self.batch.want, letters)
        self.found: dict[str, str] = {}

    def agreed(self, raw: str) -> str:
        """Return the longest text on which all continuations of raw agree."""
        if raw in self.found:
            return self.found[raw]
        emitted = self.batch.emitted
        agreed = emitted(raw)
        for tail in self.tails:
            outcome = emitted(raw + tail)
            if not outcome.startswith(agreed):
                agreed = common_prefix(agreed, outcome)
            if not agreed:
                break
        self.found[raw] = agreed
        return agreed

    def undecided(self, raw: str) -> bool:
        """Whether a continuation of raw can still change the verdict or the length of an overlap."""
        here = self.batch(raw)[1:]
        return any(self.batch(raw + tail)[1:] != here for tail in self.tails)


class Group(NamedTuple):
    """Several raws for one known text and one set of rules."""

    known: str
    rules: dict[str, Any]
    letters: str
    raws: list[str]


def groups(count: int, seed: int, size: int = 20) -> Iterator[Group]:
    """Yield `count` random cases over all sets of rules and small alphabets. They are always the same for one seed."""
    rng = random.Random(seed)
    for start in range(0, count, size):
        known, rules, letters = _rules(rng)
        batch = Batch(known, **rules)
        raws = []
        for _ in range(min(size, count - start)):
            raw = _raw(rng, known, rules, letters)
            # after an early decision, more text tests little
            dull = batch.front(raw)[0] == "absent" and rng.random() < 0.8
            raws.append(raw[:4] if dull else raw)
        yield Group(known, rules, letters, raws)


def _word(rng: random.Random, letters: str, longest: int) -> str:
    return "".join(rng.choices(letters, k=rng.randint(0, longest)))


def _rules(rng: random.Random) -> tuple[str, dict[str, Any], str]:
    letters = rng.choice(
        ["ab", "ab \n", "a \n`", "a\n`", "ab\n", "a \r\n", "` \n", "a`\r\n", "ab `\n\r", "a\u00e9\u2003\n"]
    )
    known = rng.choice(letters) + _word(rng, letters, 3)
    match rng.randrange(12):
        case 0:
            known = "```" + _word(rng, letters, 3)
        case 1:
            known = rng.choice(["a" * 16, "ab" * 8, "aaaaaaa\n" * 2 + "aa", "a\na" * 8]) + _word(rng, letters, 2)
        case 2:
            known = _word(rng, letters, 2) * 3
        case 3:
            known = _word(rng, letters, 1)
        case 4:
            known = rng.choice(["```\n```a", "\n```\n", "```a\n"]) + _word(rng, letters, 1)
    known += rng.choice(SPACES) if rng.random() < 0.5 else ""
    space = known[len(known.rstrip()) :]
    rules: dict[str, Any] = {}
    if space and rng.random() < 0.5:
        rules["stripped"] = space[rng.randrange(len(space)) :]
    if rng.random() < 0.4:
        rules["overlap"] = rng.randint(1, 4)
    if rng.random() < 0.1:
        rules["echo"] = "never"
        return known, rules, letters
    if rng.random() < 0.6:
        rules["whitespace"] = True
    if rng.random() < 0.7:
        rules["fence"] = True
    if rng.random() < 0.6:
        rules["preamble"] = rng.choice([1, 2, 3, 5, 8, 30])
    return known, rules, letters


def _raw(rng: random.Random, known: str, rules: dict[str, Any], letters: str) -> str:
    want = known.removesuffix(rules.get("stripped", ""))
    style = rng.random()
    if style < 0.2:
        return _word(rng, letters, 6)
    opener = rng.choice(["```\n", "```\n", "```a\n", "```\r\n", " ```\n", "\n```\n"])
    if style < 0.35:
        parts = [letters[0], "\n", opener, want, known, "\n```", "c\n", want[rng.randrange(len(want) + 1) :]]
        return "".join(rng.choices(parts, k=rng.randint(1, 4)))[: rng.choice([6, 12, 24])]
    # the parts that the rules are about, in their order, with small mistakes
    echo = rng.choice([want] * 6 + [known, want[:-1], want[1:], want.replace(" ", "\n"), " ".join(want)])
    front = rng.choice(["", "", "", letters[0], " ", "\n", "c\n", _word(rng, letters, 2) + "\n"])
    if rules.get("preamble", 0) > 1 and rng.random() < 0.4:
        front = "".join(rng.choices(CHATTER, k=rng.randint(1, 3)))
    joint = rng.choice(SPACES) if rng.random() < 0.4 else ""
    rest = "".join(rng.choices(FENCES, k=rng.randint(0, 3))) if rng.random() < 0.8 else ""
    raw = front + (opener if rng.random() < 0.6 else "") + echo + joint + _word(rng, letters, 1) + rest
    return (raw + _word(rng, letters, 2))[: rng.choice([6, 12, 12, 40])]


#: White space at the end of known, and after an echo.
SPACES = [" ", "\n", "\n\n", " \n", "\n ", "  \n  ", "\r\n", "\n \n", " \r\n\r", "\n\n  "]
#: Lines that are chatter, and some that are almost chatter.
CHATTER = ["c\n", "c\n", "cc\n\n", "\nc\n", " \n", "``c\n", "```\n", " ``` \n", "```c\n", "` ``\n", "````\n"]
#: Texts that close a fence, and some that almost do.
FENCES = [
    "\n```",
    "\n```",
    "\n```\n",
    " \n ``` \r\n",
    "```",
    "\n``",
    "\n",
    "\r",
    "\n```a\n",
    "\n````",
    "\n``` \n\na",
    "`",
    "a",
]


# --- checks: each returns a description of what is wrong, or "" ----------------------------------------------------


def check_minimal(make: Make, group: Group, oracle: Oracle | None = None) -> str:
    """Check invariants 2 and 3 at every prefix of every raw of a group, fed character by character."""
    known, rules, letters, raws = group
    oracle = oracle or Oracle(known, rules, letters)
    for raw in raws:
        seam = make(known, **rules)
        emitted = ""
        for j in range(len(raw) + 1):
            if j:
                emitted += seam.feed(raw[j - 1])
            agreed = oracle.agreed(raw[:j])
            if agreed != emitted:
                what = "held too long" if agreed.startswith(emitted) else "shown too early"
                return f"{what}: {emitted!r} of {raw[:j]!r}, all agree on {agreed!r} ({known=}, {rules=})"
        emitted += seam.close()
        got = Outcome(emitted, seam.verdict.value, seam.overlap_length)
        if got != oracle.batch(raw):
            return f"{got} instead of {oracle.batch(raw)} for {raw=} ({known=}, {rules=})"
    return ""


def check_state(make: Make, group: Group, oracle: Oracle | None = None) -> str:
    """Check `verdict` and `held` at every prefix, and the result of a cut there."""
    known, rules, letters, raws = group
    oracle = oracle or Oracle(known, rules, letters)
    for raw in raws:
        for j in range(len(raw) + 1):
            so_far = raw[:j]
            seam = make(known, **rules)
            emitted = seam.feed(so_far)
            verdict, end, fenced = oracle.batch.front(so_far)
            undecided = oracle.undecided(so_far)
            where = f"for {so_far!r} ({known=}, {rules=})"
            if seam.verdict.value != ("undecided" if undecided else verdict):
                return f"verdict {seam.verdict.value} {where}"
            held = j if undecided else j - oracle.batch.rest(so_far, verdict, end, fenced)[1] - len(emitted)
            if seam.held != held:
                return f"{seam.held} held instead of {held} {where}"
            if seam.close(cut=True):
                return f"text after a cut {where}"
            if seam.verdict.value != (("truncated" if so_far else "absent") if undecided else verdict):
                return f"verdict {seam.verdict.value} after a cut {where}"
    return ""


def through(make: Make, known: str, rules: dict[str, Any], pieces: Iterable[str], cut: bool = False) -> Outcome:
    """Return the result of a seam that is fed these pieces."""
    seam = make(known, **rules)
    emitted = "".join([seam.feed(piece) for piece in pieces]) + seam.close(cut)
    return Outcome(emitted, seam.verdict.value, seam.overlap_length)


def cuttings(raw: str, rng: random.Random, count: int = 4) -> Iterator[list[str]]:
    """Yield raw whole, by character with empty pieces between, in every two-way cut, and in `count` random cuts."""
    yield [raw]
    yield [piece for c in raw for piece in (c, "")]
    for at in range(len(raw) + 1):
        yield [raw[:at], raw[at:]]
    for _ in range(count):
        ends = sorted(rng.choices(range(len(raw) + 1), k=rng.randint(1, 6)))
        yield [raw[a:b] for a, b in zip([0, *ends], [*ends, len(raw)], strict=True)]


def check_cuts(make: Make, group: Group, seed: int = 0, slack: int | None = None) -> str:
    """Check invariant 1, and invariant 5 if `slack` is given: every way of cutting gives the result of `Batch`.

    All ways of cutting must also give the same result if the stream breaks off at the end of raw.
    """
    known, rules, _, raws = group
    batch = Batch(known, **rules, slack=slack)
    rng = random.Random(seed)
    for raw in raws:
        expected = batch(raw)
        after_cut = through(make, known, rules, [raw], cut=True)
        for pieces in cuttings(raw, rng):
            got = through(make, known, rules, pieces)
            if got != expected:
                return f"{got} instead of {expected} for {pieces} ({known=}, {rules=})"
            if through(make, known, rules, pieces, cut=True) != after_cut:
                return f"a cut gives something else for {pieces} ({known=}, {rules=})"
    return ""


def check_brute_force(make: Make, known: str, rules: dict[str, Any], letters: str, longest: int, ahead: int) -> str:
    """Check invariants 2 and 3 for every raw over some letters, against all continuations and not only the witnesses.

    All texts of up to `longest` letters are used as continued raws. The raws themselves are at least `ahead` letters
    shorter than `longest`.
    """
    oracle = Oracle(known, rules, letters)
    texts = [[""]]
    for _ in range(longest):
        texts.append([text + letter for text in texts[-1] for letter in letters])
    agreed = {text: oracle.batch.emitted(text) for text in texts[longest]}
    for length in range(longest - 1, -1, -1):
        for text in texts[length]:
            common = oracle.batch.emitted(text)
            for letter in letters:
                if not agreed[text + letter].startswith(common):
                    common = common_prefix(common, agreed[text + letter])
            agreed[text] = common
    for raws in texts[: longest - ahead + 1]:
        for raw in raws:
            emitted = make(known, **rules).feed(raw)
            if emitted != agreed[raw]:
                return f"{emitted!r} of {raw!r}, all agree on {agreed[raw]!r} ({known=}, {rules=})"
            if oracle.agreed(raw) != agreed[raw]:
                return f"the witnesses agree on {oracle.agreed(raw)!r} for {raw!r}, all on {agreed[raw]!r}"
    return ""

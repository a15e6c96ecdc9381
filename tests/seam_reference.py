"""The rules of `spec/seam.md` once more: slow, on the whole of raw, sharing nothing with `aprefill`.

`Batch` is the specification as regular expressions and plain loops. `witnesses` are the continuations of
invariant 3. The checks take the class under test, so that a broken variant can be put through them too.
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
CLOSING = re.compile(r"\n\s*(```)\s*\Z")
#: What may be held by the watch for a closing fence; the first group must have a line end in it for backticks.
WATCHED = re.compile(r"(\s*)(?:`{1,2}|```\s*)?\Z")


class Outcome(NamedTuple):
    emitted: str
    verdict: str
    overlap_length: int


class Batch:
    """``Batch(known, **rules)(raw)`` is what a seam must have emitted and found when raw ended cleanly.

    With `slack`, invariant 5 is played through character by character.
    """

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
        self.bound = None if slack is None else 2 * len(known) + slack
        self.latest = sys.maxsize if self.bound is None else self.bound + 1
        ink = [c for c in want if not c.isspace()]
        blind = not ink if whitespace else not want
        self.looks = echo == "maybe" and not blind
        self.overlap = 0 if blind else overlap
        self.stripped = stripped
        self.joint = known[len(known.rstrip()) :] if whitespace else stripped

        echoed = r"\s*" + r"\s*".join(map(re.escape, ink)) if whitespace else re.escape(want)
        self.plain = re.compile(echoed)
        self.fenced = re.compile(OPENER + echoed)
        self.fence = fence and not known.lstrip().startswith("```")
        self.plain_behind = len(ink) >= 16 or (want.lstrip().startswith("```") and len(ink) > 3)
        self.fence_behind = self.fence and len(ink) >= 2
        self.preamble = preamble if self.plain_behind or self.fence_behind else 0
        self.tails = [want[-k:] for k in range(len(want) - 1, self.overlap - 1, -1)] if self.overlap else []

    def front(self, raw: str) -> tuple[str, int, bool]:
        """The verdict, the end of what is dropped before the joint, and whether a fence was opened."""
        if self.looks:
            latest = self.latest
            if (found := self.plain.match(raw)) and found.end() <= latest:
                return "echoed", found.end(), False
            if self.fence and (found := self.fenced.match(raw)) and found.end() <= latest:
                return "fenced", found.end(), True
            p = 0
            while p := raw.find("\n", p, self.preamble) + 1:
                if self.plain_behind and (found := self.plain.match(raw, p)) and found.end() <= latest:
                    return "prefaced", found.end(), False
                if self.fence_behind and (found := self.fenced.match(raw, p)) and found.end() <= latest:
                    return "prefaced", found.end(), True
        for tail in self.tails:
            if raw.startswith(tail):
                return "overlapped", len(tail), False
        return "absent", 0, False

    def __call__(self, raw: str) -> Outcome:
        verdict, end, fenced = self.front(raw)
        return Outcome(self.rest(raw, verdict, end, fenced), verdict, end if verdict == "overlapped" else 0)

    def emitted(self, raw: str) -> str:
        verdict, end, fenced = self.front(raw)
        return self.rest(raw, verdict, end, fenced)

    def rest(self, raw: str, verdict: str, end: int, fenced: bool) -> str:
        """The joint, and the closing fence."""
        start = self.joint_end(raw, verdict, end)
        if fenced:
            if self.bound is not None:
                return self.watch(raw[:start], raw[start:])
            last = CLOSING.search(raw)
            if last and last.start(1) >= end:
                return raw[start : last.start(1)].rstrip()
        return raw[start:]

    def joint_end(self, raw: str, verdict: str, end: int) -> int:
        """Where the text behind the joint begins."""
        for c in self.stripped if verdict == "absent" or verdict == "overlapped" else self.joint:
            if raw[end : end + 1] != c:
                break
            end += 1
        return end

    def watch(self, before: str, text: str) -> str:
        """The closing fence under a hold bound, by character."""
        out, held = "", ""
        before = before[len(before.rstrip()) :]
        for c in text:
            held += c
            while not self.watched(before, held):
                out += held[0]
                before = before + held[0] if held[0].isspace() else ""
                held = held[1:]
            if self.bound is not None and len(held) > self.bound:
                out, held, before = out + held, "", ""
        return out if held.strip() == "```" else out + held

    @staticmethod
    def watched(before: str, held: str) -> bool:
        found = WATCHED.match(held)
        return found is not None and (found[0].isspace() or not held or "\n" in before + found[1])


def witnesses(known: str, want: str, letters: str, opener: str = "```\n") -> list[str]:
    """The continuations of invariant 3, each once: if all of them agree on a text, all continuations do."""
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
    """What invariant 3 demands after each prefix of any raw, for one known text and rule set."""

    def __init__(self, known: str, rules: dict[str, Any], letters: str) -> None:
        self.batch = Batch(known, **rules)
        self.tails = witnesses(known, self.batch.want, letters)
        self.found: dict[str, str] = {}

    def agreed(self, raw: str) -> str:
        """The longest text on which all continuations of raw agree."""
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
        """Whether a continuation of raw can still change what stood at its front."""
        here = self.batch(raw)[1:]
        return any(self.batch(raw + tail)[1:] != here for tail in self.tails)


class Group(NamedTuple):
    """Several raws for one known text and rule set."""

    known: str
    rules: dict[str, Any]
    letters: str
    raws: list[str]


def groups(count: int, seed: int, size: int = 20) -> Iterator[Group]:
    """`count` random cases over all rule sets and small alphabets, always the same for one seed."""
    rng = random.Random(seed)
    for start in range(0, count, size):
        known, rules, letters = _rules(rng)
        batch = Batch(known, **rules)
        raws = []
        for _ in range(min(size, count - start)):
            raw = _raw(rng, known, rules, letters)
            # what is decided at once is soon dull
            dull = batch.front(raw)[0] == "absent" and rng.random() < 0.8
            raws.append(raw[:4] if dull else raw)
        yield Group(known, rules, letters, raws)


def _word(rng: random.Random, letters: str, longest: int) -> str:
    return "".join(rng.choices(letters, k=rng.randint(0, longest)))


def _rules(rng: random.Random) -> tuple[str, dict[str, Any], str]:
    letters = rng.choice(
        [
            "ab",
            "ab \n",
            "a \n`",
            "a\n`",
            "ab\n",
            "a \r\n",
            "` \n",
            "ab `\n\r",
            "a\u00e9\u2003\n",
        ]
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
    known += _word(rng, " \n", 2) if rng.random() < 0.4 else ""
    space = known[len(known.rstrip()) :]
    rules: dict[str, Any] = {}
    if space and rng.random() < 0.5:
        rules["stripped"] = space[rng.randrange(len(space)) :]
    if rng.random() < 0.4:
        rules["overlap"] = rng.randint(1, 4)
    if rng.random() < 0.1:
        rules["echo"] = "never"
        return known, rules, letters
    if rng.random() < 0.5:
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
    # what the rules are about, in their order, with slips
    echo = rng.choice([want] * 6 + [known, want[:-1], want[1:], want.replace(" ", "\n"), " ".join(want)])
    front = rng.choice(["", "", "", letters[0], " ", "\n", "c\n", _word(rng, letters, 2) + "\n"])
    if rules.get("preamble", 0) > 1 and rng.random() < 0.4:
        front = rng.choice(["c\n", "c\n", "cc\n\n", "\nc\n", "``c\n", "```\nc\n"])
    rest = rng.choice(["", "", "\n", " \n```", "```", "\n```\n", "\n```\n```", "\n``"])
    raw = front + (opener if rng.random() < 0.6 else "") + echo + _word(rng, letters, 1) + rest
    return (raw + _word(rng, letters, 2))[: rng.choice([6, 12, 12, 40])]


# --- checks: each gives what is wrong, or "" -----------------------------------------------------------------------


def check_minimal(make: Make, group: Group, oracle: Oracle | None = None) -> str:
    """Invariants 2 and 3 at every prefix of every raw of a group, fed character by character."""
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
    """`verdict` and `held` at every prefix, and what a cut there gives."""
    known, rules, letters, raws = group
    oracle = oracle or Oracle(known, rules, letters)
    for raw in raws:
        for j in range(len(raw) + 1):
            so_far = raw[:j]
            seam = make(known, **rules)
            emitted = seam.feed(so_far)
            verdict, end, _ = oracle.batch.front(so_far)
            undecided = oracle.undecided(so_far)
            where = f"for {so_far!r} ({known=}, {rules=})"
            if seam.verdict.value != ("undecided" if undecided else verdict):
                return f"verdict {seam.verdict.value} {where}"
            held = j if undecided else j - oracle.batch.joint_end(so_far, verdict, end) - len(emitted)
            if seam.held != held:
                return f"{seam.held} held instead of {held} {where}"
            if seam.close(cut=True):
                return f"text after a cut {where}"
            if seam.verdict.value != (("truncated" if so_far else "absent") if undecided else verdict):
                return f"verdict {seam.verdict.value} after a cut {where}"
    return ""


def through(make: Make, known: str, rules: dict[str, Any], pieces: Iterable[str], cut: bool = False) -> Outcome:
    """What a seam makes of these pieces."""
    seam = make(known, **rules)
    emitted = "".join([seam.feed(piece) for piece in pieces]) + seam.close(cut)
    return Outcome(emitted, seam.verdict.value, seam.overlap_length)


def cuttings(raw: str, rng: random.Random, count: int = 4) -> Iterator[list[str]]:
    """Whole, by character with empty pieces between, every two-way cut, and `count` random ones."""
    yield [raw]
    yield [piece for c in raw for piece in (c, "")]
    for at in range(len(raw) + 1):
        yield [raw[:at], raw[at:]]
    for _ in range(count):
        ends = sorted(rng.choices(range(len(raw) + 1), k=rng.randint(1, 6)))
        yield [raw[a:b] for a, b in zip([0, *ends], [*ends, len(raw)], strict=True)]


def check_cuts(make: Make, group: Group, seed: int = 0, slack: int | None = None) -> str:
    """Invariant 1, and 5 under a small `slack`: every cutting gives what the batch rules give, cut or not."""
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

"""Tests `aprefill.Seam` against an independent implementation of `docs/seam.md`, for every way of cutting a text."""

from __future__ import annotations

import json
import os
import random
import re
import sys
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprefill import Seam, Verdict
from aprefill._seam import closing as _closing
from aprefill._seam import seam as _seam
from aprefill._seam.chatter import Chatter
from aprefill._seam.finders import Search, agree, longest_tail

from ..support.seam_reference import (
    Batch,
    Group,
    Oracle,
    Outcome,
    check_brute_force,
    check_cuts,
    check_minimal,
    check_state,
    groups,
    through,
)
from ..support.thorough import usually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Number of random cases of the check for minimal holding. APREFILL_SEAM_CASES=5000000 makes a long run.
CASES = int(os.environ.get("APREFILL_SEAM_CASES", "4000"))
SHARES = 10

#: Worked cases for machines without the shared folder and its `seam-vectors-2.json`:
#: known, rules, raw, cut, emitted, verdict.
VECTORS: list[tuple[str, dict[str, Any], str, bool, str, str]] = [
    ('["', {}, '["Alabama", "Alaska"]', False, 'Alabama", "Alaska"]', "echoed"),
    ('["', {}, 'Alabama", "Alaska"]', False, 'Alabama", "Alaska"]', "absent"),
    ('["', {}, "[", True, "", "truncated"),
    ("aaa", {"echo": "never"}, "aaaa b", False, "aaaa b", "absent"),
    ("It is ", {"whitespace": True}, "\n It  is\n42", False, "\n42", "echoed"),
    ("It is ", {"stripped": " "}, " 42", False, "42", "absent"),
    ("It is \n", {"stripped": " \n"}, "It is \t", False, "\t", "echoed"),
    ("a b", {"fence": True}, "\r\n```txt\r\na b\n c\r\n ```\n", False, "\n c", "fenced"),
    ("a b", {"fence": True}, "```\na b\n``` or so", False, "\n``` or so", "fenced"),
    ("a b", {"fence": True}, "```\na b\n```\n```", False, "\n```", "fenced"),
    ("  ", {"fence": True}, "```\n  ```", False, "", "fenced"),
    ("``", {"fence": True}, "```\n```` x", False, "`\n```` x", "echoed"),
    ("a b", {"fence": True, "preamble": 7}, "Sure:\n\n```\na b\n```", False, "", "prefaced"),
    (
        "a b",
        {"fence": True, "preamble": 5},
        "Sure:\n\n```\na b\n```",
        False,
        "Sure:\n\n```\na b\n```",
        "absent",
    ),
    ("```js\n", {"preamble": 9, "whitespace": True}, "Sure\n```js\n\n1", False, "\n1", "prefaced"),
    # rule 3: line ends are matched with line ends
    ("a \n", {"whitespace": True}, "a\t\n b", False, " b", "echoed"),
    ("a\n\n", {"whitespace": True}, "a \n \n \nb", False, " \nb", "echoed"),
    ("a\n\n", {"whitespace": True}, "a \n  b", False, "  b", "echoed"),
    ("a\n\n", {"whitespace": True}, "a \n  ", True, "", "echoed"),
    ("a \n", {"whitespace": True}, "a  b", False, " b", "echoed"),
    ("a\n\t ", {"whitespace": True}, "a \n\t\tb", False, "\tb", "echoed"),
    ("a\n", {"stripped": "\n"}, "a \nb", False, " \nb", "echoed"),
    ("a\n", {"whitespace": True, "stripped": "\n"}, " \nb", False, " \nb", "absent"),
    ("a b c\n", {"whitespace": True, "overlap": 3, "stripped": "\n"}, "b c \nd", False, " \nd", "overlapped"),
    ("a\n\n", {"whitespace": True, "fence": True}, "```\na \n ```\nb", False, "\nb", "fenced"),
    # rule 4: the first line that begins with three backticks decides
    ("a", {"fence": True}, "```\na `b`\n``\n \t```\t\r\nc\n```", False, " `b`\n``\r\nc\n```", "fenced"),
    ("a", {"fence": True}, "```\na\n```\n \n", False, "", "fenced"),
    ("a", {"fence": True}, "```\na\n```\n \nb", True, "\n \nb", "fenced"),
    ("a", {"fence": True}, "```\na\n```b\n```\nc\n\n```\n", False, "\n```b\n```\nc", "fenced"),
    ("a", {"fence": True}, "```\na\n```b\n```\nc", False, "\n```b\n```\nc", "fenced"),
    ("a", {"fence": True}, "```\na\n``` ```\n```", False, "\n``` ```", "fenced"),
    ("a", {"fence": True}, "```\na\n```\r", False, "", "fenced"),
    ("a", {"fence": True}, "```\na```\nb\n```\nc", False, "```\nb\nc", "fenced"),
    # rule 5: chatter is one line with ink
    ("a b", {"fence": True, "preamble": 40}, "\n\nSure\n\n```\na b c", False, " c", "prefaced"),
    ("a b", {"fence": True, "preamble": 40}, "Sure\nso\n```\na b c", True, "Sure\nso\n```\na b c", "absent"),
    ("x" * 16, {"preamble": 40}, "\n" + "x" * 17, False, "x", "prefaced"),
    ("x" * 16, {"preamble": 40}, "``\n" + "x" * 17, False, "x", "prefaced"),
    ("x" * 16, {"preamble": 40}, "```", True, "```", "absent"),
    ("```a", {"preamble": 40}, "```\nSure\n ``` \n```ab", False, "b", "prefaced"),
    ("```a", {"preamble": 40}, "Sure\n` ``\n", True, "Sure\n` ``\n", "absent"),
    ("```a", {"preamble": 40}, "````\n```ab", False, "b", "prefaced"),
    ("```a", {"preamble": 40}, "````\n````\n", True, "````\n````\n", "absent"),
    ("once upon", {"overlap": 4, "preamble": 3}, "upon a\n", False, " a\n", "overlapped"),
    ("once upon", {"overlap": 5}, "upon a", False, "upon a", "absent"),
]


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the constant part of the bound of held characters."""
    return lambda value: monkeypatch.setattr(_seam, "SLACK", value)


@pytest.fixture
def low_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowers the minimum of rule 5 from 16 characters of ink to three, in `Seam` and in `Batch`."""
    monkeypatch.setattr(_seam, "INK_PLAIN", 3)
    monkeypatch.setattr(Batch, "FLOOR", 3)


# --- worked cases --------------------------------------------------------------------------------------------------


def vector(known: str, rules: dict[str, Any], raw: str, cut: bool) -> list[Outcome]:
    return [through(Seam, known, rules, pieces, cut) for pieces in ([raw], list(raw), re.findall(r"(?s).{1,3}", raw))]


def test_the_vectors_of_the_specification(shared: Path) -> None:
    """Every case of `seam-vectors-2.json` holds: whole, by character, by three characters, and with `Batch`."""
    cases = json.loads((shared / "spec" / "seam-vectors-2.json").read_text(encoding="utf-8"))
    assert len(cases) > 80
    for case in cases:
        for got in vector(case["known"], case["rules"], case["raw"], case["cut"]):
            assert got[:2] == (case["emitted"], case["verdict"]), case
        if not case["cut"]:
            assert Batch(case["known"], **case["rules"])(case["raw"])[:2] == (
                case["emitted"],
                case["verdict"],
            ), case


@pytest.mark.parametrize(("known", "rules", "raw", "cut", "emitted", "verdict"), VECTORS)
def test_our_own_vectors(known: str, rules: dict[str, Any], raw: str, cut: bool, emitted: str, verdict: str) -> None:
    """`Seam` and `Batch` pass every case of `VECTORS`, which were written by hand from the rules."""
    for got in vector(known, rules, raw, cut):
        assert got[:2] == (emitted, verdict)
    assert cut or Batch(known, **rules)(raw)[:2] == (emitted, verdict)


def test_overlap_length_is_what_rule_6_dropped() -> None:
    """`overlap_length` is k of rule 6, without the joint. It is 0 for all other verdicts."""
    assert through(Seam, "one two ", {"overlap": 3, "stripped": " "}, ["two three"]) == (
        "three",
        "overlapped",
        3,
    )
    assert through(Seam, "one two", {"overlap": 3}, ["one two three"]) == (" three", "echoed", 0)


# --- the invariants ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", range(SHARES))
def test_nothing_is_held_longer_or_shown_earlier_than_it_must_be(share: int) -> None:
    """Invariants 2 and 3 hold after every character, against the witness continuations."""
    for group in groups(CASES // SHARES, seed=share, size=40):
        assert not check_minimal(Seam, group)


def test_every_verdict_and_rule_is_among_the_random_cases() -> None:
    """The random cases contain all rules, all verdicts, and texts with and without a closing fence."""
    seen: set[Any] = set()
    for known, rules, _, raws in groups(4000, seed=0, size=40):
        batch = Batch(known, **rules)
        for raw in raws:
            verdict, end, fenced = batch.front(raw)
            seen |= {verdict, *rules, (verdict, fenced)}
            if fenced:
                seen.add("closed" if len(batch(raw)[0]) < len(raw) - batch.joint_end(raw, verdict, end) else "open")
    assert seen >= {"absent", "echoed", "fenced", "prefaced", "overlapped", "closed", "open"}
    assert seen >= {("prefaced", True), ("prefaced", False)}
    assert seen >= {"echo", "whitespace", "fence", "preamble", "overlap", "stripped"}


def test_verdict_and_held_are_right_after_every_character() -> None:
    """The seam is undecided while a continuation can change the verdict. Held text is neither emitted nor dropped."""
    for group in groups(usually(700, 2000), seed=1):
        assert not check_state(Seam, group)


@pytest.mark.slow
def test_echoes_behind_chatter_are_short_enough_to_be_met(low_floor: None) -> None:
    """The three checks above hold with a minimum of three characters in rule 5, which short texts can reach."""
    for seed, group in enumerate(groups(3000, seed=8)):
        assert not check_minimal(Seam, group)
        assert not check_cuts(Seam, Group(*group[:3], group.raws[:4]), seed)
    for group in groups(600, seed=9):
        assert not check_state(Seam, group)


BRUTE_FORCE = [
    # known, rules, letters, the greatest length of a continued raw, how much shorter a raw is
    pytest.param("a\n", {"whitespace": True}, " \na", 8, 3, id="joint: one line end"),
    pytest.param("a\n\n", {"whitespace": True}, " \na", 8, 4, id="joint: two line ends"),
    pytest.param("a \n ", {"whitespace": True}, " \na", 8, 4, id="joint: blanks around"),
    pytest.param("a\n", {"whitespace": True, "stripped": "\n"}, " \na", 8, 3, id="joint: stripped"),
    pytest.param("a\r\n", {"whitespace": True}, "\r\na", 8, 3, id="joint: CRLF"),
    pytest.param("a", {"fence": True}, "a`\n", 10, 6, id="fence"),
    pytest.param("a\n", {"fence": True, "whitespace": True}, "a`\n", 10, 6, id="fence: white space"),
    pytest.param("abc", {"preamble": 4}, "abc\n", 8, 4, id="chatter"),
    pytest.param("abc", {"preamble": 3, "fence": True}, "a`\nbc", 7, 5, id="chatter and fence"),
    pytest.param("```a", {"preamble": 6}, "`a\n", 10, 6, id="chatter: fence"),
    pytest.param("```a", {"preamble": 7, "whitespace": True}, "`a\n", 10, 6, id="chatter: fence, white space"),
    pytest.param("abab", {"preamble": 4, "overlap": 2}, "ab\n", 9, 4, id="chatter and overlap"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("known", "rules", "letters", "longest", "ahead"), BRUTE_FORCE)
def test_no_continuation_at_all_disagrees(
    low_floor: None, known: str, rules: dict[str, Any], letters: str, longest: int, ahead: int
) -> None:
    """Invariant 3 holds for every text over a few letters with every continuation. The witnesses are enough for it."""
    assert not check_brute_force(Seam, known, rules, letters, longest, ahead)


def test_what_stands_behind_an_opener_in_every_way(slack: Any) -> None:
    """After an opener and an echo, every text of up to four of these parts passes the checks, also with a low bound."""
    for known, rules in (("a", {"fence": True}), ("a\n", {"fence": True, "whitespace": True})):
        for length in range(usually(4, 5)):
            raws = ["```\na" + "".join(parts) for parts in product(["\n", " ", "```", "`", "b"], repeat=length)]
            assert not check_minimal(Seam, Group(known, rules, "b", raws))
            slack(5 - len(known))
            assert not check_cuts(Seam, Group(known, rules, "b", raws), slack=5 - len(known))
            slack(8192)


def test_cuts_do_not_matter() -> None:
    """Invariant 1 holds for all cuts into pieces, whether the stream ends cleanly or breaks off."""
    for seed, group in enumerate(groups(usually(1500, 4000), seed=2)):
        assert not check_cuts(Seam, group, seed)


@pytest.mark.slow
def test_cuts_do_not_matter_beyond_the_bound(slack: Any) -> None:
    """Invariant 5 is counted by character: with a bound of a few characters, all cuts give the same result."""
    for seed, group in enumerate(groups(1200, seed=3)):
        for more in (0, 1, 3, 7):
            slack(more - len(group.known))
            assert not check_cuts(Seam, group, seed, slack=more - len(group.known))


@pytest.mark.slow
def test_cuts_do_not_matter_to_a_closing_fence_beyond_the_bound(slack: Any) -> None:
    """With a low bound, all cuts give the same result for long runs of white space and backticks after the echo."""
    rng = random.Random(4)
    for seed in range(600):
        known = rng.choice(["a", "\n", "a\n", "a`"])
        raws = ["```\n" + known + "".join(rng.choices("   \n\n```a\r", k=rng.randint(3, 16))) for _ in range(3)]
        group = Group(known, {"fence": True, "whitespace": seed % 2 > 0}, "", raws)
        slack(seed % 7)
        assert not check_cuts(Seam, group, seed, slack=seed % 7)


RULES = st.fixed_dictionaries(
    {},
    optional={
        "whitespace": st.booleans(),
        "fence": st.booleans(),
        "preamble": st.integers(0, 40),
        "overlap": st.integers(0, 6),
    },
)
TEXT = st.text(alphabet="ab \n\r`\u2003\ud800\u0301", max_size=14) | st.text(max_size=8)


@settings(derandomize=True, max_examples=usually(100, 250), deadline=None)
@given(
    known=TEXT,
    rules=RULES,
    parts=st.lists(TEXT | st.sampled_from(["known", "```\n", "\n```"]), max_size=5),
    data=st.data(),
)
def test_any_text_in_any_cut(known: str, rules: dict[str, Any], parts: list[str], data: st.DataObject) -> None:
    """Invariants 1, 2 and 6 hold. No text raises an error, not even with lone surrogates and combining characters."""
    space = known[len(known.rstrip()) :]
    rules = rules | {"stripped": space[data.draw(st.integers(0, len(space))) :]}
    raw = "".join(known if part == "known" else part for part in parts)
    ends = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *ends], [*ends, len(raw)], strict=True)]
    assert through(Seam, known, rules, pieces) == through(Seam, known, rules, [raw]) == Batch(known, **rules)(raw)


@pytest.mark.parametrize(
    ("known", "rules", "before", "endless"),
    [
        ("known", {"whitespace": True}, "", " "),
        ("known", {"fence": True}, "", "\n"),
        ("known", {"preamble": 10**9, "fence": True}, "chatter", "x"),
        ("known", {"fence": True}, "```\nknown", "\n"),
        ("known", {"fence": True}, "```\nknown\n```", " "),
        ("known", {"fence": True}, "```\nknown\n```x\n", " "),
        ("known\n", {"whitespace": True}, "known", " "),
    ],
)
def test_the_hold_is_bounded(known: str, rules: dict[str, Any], before: str, endless: str) -> None:
    """Invariant 5 holds with the real bound: it is reached and never exceeded, and then all held text is shown."""
    bound = 2 * len(known) + 8192
    for size in (1, 700, 40_000):
        seam = Seam(known, **rules)
        emitted, most = seam.feed(before), 0
        for _ in range(40_000 // size):
            emitted += seam.feed(endless * size)
            most = max(most, seam.held)
            assert seam.held <= bound
        emitted += seam.close()
        assert size > 1 or most == bound
        assert emitted == (before + endless * (40_000 // size * size)).removeprefix("```\n").removeprefix("known")


def test_behind_a_closed_fence_the_hold_is_bounded() -> None:
    """White space beyond the bound is shown, and so is all text after it. The dropped fence stays dropped."""
    raw = "```\nknown 1\n```  " + "\n" * 9000
    for pieces in ([raw], list(raw)):
        assert through(Seam, "known", {"fence": True}, pieces) == (" 1" + "\n" * 9000, "fenced", 0)


def test_what_the_joint_dropped_stays_dropped() -> None:
    """After one of two line ends, too many blanks come: the line end stays dropped, and the blanks are shown."""
    raw = "a \n" + " " * 9000 + "\nb"
    for pieces in ([raw], list(raw)):
        assert through(Seam, "a\n\n", {"whitespace": True}, pieces) == (" " * 9000 + "\nb", "echoed", 0)


def test_a_bound_that_is_met_begins_the_watch_anew() -> None:
    """After too much white space, the next fence line decides, also if an inner block was open."""
    for inner in ("", "\n```x\n```\nb"):
        raw = "```\na" + inner + " " * 9000 + "\n```\nc"
        for pieces in ([raw], list(raw)):
            assert through(Seam, "a", {"fence": True}, pieces)[0] == inner + " " * 8195 + "\nc"


def test_a_closing_fence_that_the_overflowing_character_completes_stands() -> None:
    """A line end after the most blanks that can be held completes the closing fence. With one blank more, none does."""
    for blanks, emitted in ((8190, " 1\nx"), (8191, " 1\n```" + " " * 8191 + "\nx")):
        raw = "```\na 1\n```" + " " * blanks + "\nx"
        for pieces in ([raw], list(raw)):
            assert through(Seam, "a", {"fence": True}, pieces)[0] == emitted


def test_a_match_that_the_overflowing_character_completes_stands() -> None:
    """An echo that is complete at one character beyond the bound still counts. One character later it does not."""
    bound = 2 + 8192
    in_time, late = " " * bound + "k!", " " * (bound + 1) + "k!"
    for text, expected in ((in_time, ("!", "echoed")), (late, (late, "absent"))):
        for pieces in ([text], list(text)):
            assert through(Seam, "k", {"whitespace": True}, pieces)[:2] == expected


def test_an_overlap_stands_when_the_chatter_never_ends() -> None:
    """At the bound rule 5 fails. Rule 6 does not fail, because its match was already complete."""
    seam = Seam("one two", preamble=10**9, fence=True, overlap=3)
    assert seam.feed("two" + "x" * 9000) == "x" * 9000
    assert seam.verdict is Verdict.OVERLAPPED


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 40, 6000])
@pytest.mark.parametrize(
    ("line", "end", "rules"), [("\n", "x" * 16, {}), ("```\n", "```x", {}), ("```\n", "```x", {"whitespace": True})]
)
def test_the_first_of_very_many_places(line: str, end: str, length: int, rules: dict[str, Any]) -> None:
    """If every line of the text begins the echo, and only the last one continues it, the echo is found there."""
    known = line * length + end
    lines = (2 * len(known) + 8192 - 30) // len(line)  # just within the hold bound
    raw = "chatter\n" + line * lines + end + " new"
    for more in ({}, {"overlap": 3}):
        for pieces in ([raw], raw, re.findall(r"(?s).{1,7}", raw)):
            assert through(Seam, known, {"preamble": 10**6, **rules, **more}, pieces)[:2] == (" new", "prefaced")


# --- arguments and misuse ------------------------------------------------------------------------------------------


COUNTS = "preamble and overlap must not be negative"
STRIPPED = "stripped must be white space that known ends with"
NEVER = "looks for no echo"


@pytest.mark.parametrize(
    ("known", "rules", "says"),
    [
        ("a", {"echo": "always"}, "echo must be 'maybe' or 'never', not 'always'"),
        ("a", {"preamble": -1}, COUNTS),
        ("a", {"overlap": -1}, COUNTS),
        ("a ", {"stripped": "a "}, STRIPPED),
        ("a ", {"stripped": "\n"}, STRIPPED),
        ("a", {"stripped": " "}, STRIPPED),
        ("a", {"echo": "never", "whitespace": True}, NEVER),
        ("a", {"echo": "never", "fence": True}, NEVER),
        ("a", {"echo": "never", "preamble": 1}, NEVER),
    ],
)
def test_arguments_that_make_no_sense(known: str, rules: dict[str, Any], says: str) -> None:
    """Arguments that make no sense raise ValueError at the call."""
    with pytest.raises(ValueError, match=says):
        Seam(known, **rules)


@pytest.mark.parametrize("raw", ["", "a", "ab", "x"])
def test_a_closed_seam_is_closed(raw: str) -> None:
    """`feed` and `close` raise RuntimeError after `close`, also for an empty piece."""
    seam = Seam("ab")
    seam.feed(raw)
    seam.close()
    assert seam.held == 0
    for piece in ("a", ""):
        with pytest.raises(RuntimeError):
            seam.feed(piece)
    for cut in (False, True):
        with pytest.raises(RuntimeError):
            seam.close(cut)


@pytest.mark.parametrize(
    ("known", "rules"),
    [
        ("", {}),
        (" ", {"whitespace": True, "overlap": 1, "fence": True, "preamble": 9}),
        (" ", {"stripped": " "}),
        ("abc", {"echo": "never"}),
        ("abc", {"echo": "never", "overlap": 3}),
    ],
)
def test_where_nothing_can_be_seen_the_verdict_is_there_at_once(known: str, rules: dict[str, Any]) -> None:
    """If there is nothing to look for, the verdict is `absent` from construction on."""
    assert Seam(known, **rules).verdict is Verdict.ABSENT


def test_repr_tells_the_state_and_no_text() -> None:
    """The repr contains no text, because it may be written to a log and a prompt must not."""
    seam = Seam("secret")
    seam.feed("sec")
    assert repr(seam) == "<Seam undecided, 3 held>"


def test_white_space_is_what_isspace_says() -> None:
    """`str.isspace`, `str.split`, `str.strip`, `\\s` and the constant in `closing.py` agree on every character."""
    space = {chr(i) for i in range(sys.maxunicode + 1) if chr(i).isspace()}
    assert space == set(_closing._SOFT) - {"`"} == {chr(i) for i in range(sys.maxunicode + 1) if not chr(i).split()}
    assert space == {chr(i) for i in range(sys.maxunicode + 1) if not chr(i).strip()}
    assert space == set(re.findall(r"\s", "".join(map(chr, range(sys.maxunicode + 1)))))


# --- the parts -----------------------------------------------------------------------------------------------------


def test_agree_is_the_common_prefix() -> None:
    """`agree` returns the length of the common prefix, at every offset and for all lengths."""
    rng = random.Random(5)
    for _ in range(3000):
        n, i, q = rng.randint(0, 300), rng.randint(0, 9), rng.randint(0, 9)
        same = "".join(rng.choices("ab", k=n))
        text, pattern = "x" * i + same, "y" * q + same
        if rng.random() < 0.8:
            text += "-" * rng.randint(0, 200)
            pattern += "+" * rng.randint(0, 200)
        assert agree(text, i, pattern, q) == n


def test_longest_tail_is_the_longest() -> None:
    """`longest_tail` gives the same result as trying every k."""
    rng = random.Random(6)
    for _ in range(20_000):
        want, raw = ("".join(rng.choices("ab", k=rng.randint(0, 12))) for _ in range(2))
        least = rng.randint(1, 4)
        tries = [k for k in range(least, len(want)) if raw.startswith(want[-k:])]
        assert longest_tail(want, raw, least) == max(tries, default=0)


def test_the_batch_version_agrees_with_itself() -> None:
    """The two implementations of the closing fence in `Batch`, by regular expression and by character, agree."""
    for known, rules, _, raws in groups(4000, seed=7):
        for raw in raws:
            assert Batch(known, **rules)(raw) == Batch(known, **rules, slack=10**6)(raw)


# --- controls: broken seams that the same checks catch -------------------------------------------------------------


class KeepsTheMismatch(Seam):
    """Does not release the text at the mismatch. Text that is not an echo comes only at the end."""

    kept = ""

    def feed(self, piece: str) -> str:
        text = super().feed(piece)
        if self.verdict is not Verdict.ABSENT:
            return text
        self.kept += text
        return ""

    def close(self, cut: bool = False) -> str:
        return self.kept + super().close(cut)


class LosesTheLast(Seam):
    """Loses the last character at the end of the stream."""

    def close(self, cut: bool = False) -> str:
        return super().close(cut)[:-1]


class DropsOneMore(Seam):
    """Drops one character too many after the echo."""

    done = False

    def feed(self, piece: str) -> str:
        text = super().feed(piece)
        if self.done or not text or self.verdict is not Verdict.ECHOED:
            return text
        self.done = True
        return text[1:]


class HoldsOneMore(Seam):
    """Holds one character too long after an opening fence."""

    kept = ""

    def feed(self, piece: str) -> str:
        text = self.kept + super().feed(piece)
        if self.verdict is not Verdict.FENCED:
            return text
        self.kept = text[-1:]
        return text[:-1]

    def close(self, cut: bool = False) -> str:
        return self.kept + super().close(cut)


class DropsTheJointTwice(Seam):
    """Drops the white space of the joint a second time."""

    again: str | None = None

    def feed(self, piece: str) -> str:
        text = super().feed(piece)
        if self.again is None and text and self.verdict is not Verdict.UNDECIDED:
            self.again = self._stripped
        while self.again and text:
            if text[0] != self.again[0]:
                self.again = ""
                break
            text, self.again = text[1:], self.again[1:]
        return text


class ShowsSpaceAtOnce(Seam):
    """Shows white space too early that may come before the closing fence."""

    def feed(self, piece: str) -> str:
        text = super().feed(piece)
        if self._closing is not None and piece.isspace() and self.held == len(piece):
            text += self._closing._release()
        return text


class MatchesNoLineEnds(Seam):
    """Has the joint of 0.1.0: the white space must be exactly the same."""

    def _decide(self, verdict: Verdict, *, lines: bool = False) -> None:
        super()._decide(verdict)


class ClosesAtTheEndOnly(Seam):
    """Has the closing fence of 0.1.0: only white space may follow it."""

    def _behind_joint(self, text: str) -> str:
        if self._closing is not None:
            self._closing._state = _closing._INNER
        return super()._behind_joint(text)


class AnyChatter(Seam):
    """Has the chatter of 0.1.0: any number of lines."""

    def __init__(self, known: str, **rules: Any) -> None:
        super().__init__(known, **rules)
        for finder in self._finders:
            if isinstance(finder, Search):
                finder._chatter = Lines(fences=True)


class Lines(Chatter):
    def feed(self, line: str) -> bool:
        return line[-1] == "\n"


class LooksAtOnePieceOnly(Seam):
    """Looks for the echo in the first piece only, so that the result depends on the cut."""

    def feed(self, piece: str) -> str:
        text = super().feed(piece)
        if piece and self.verdict is Verdict.UNDECIDED:
            text = self._mend(self._settle(self._finders[0].text))
        return text


class CountsByPiece(Seam):
    """Checks the bound only once per piece."""

    def feed(self, piece: str) -> str:
        bound, self._bound = self._bound, 10**9
        text = super().feed(piece)
        self._bound = bound
        if self.verdict is Verdict.UNDECIDED and self._held > bound:
            text += self._mend(self._settle(self._finders[0].text))
        return text


@pytest.mark.parametrize(
    "broken",
    [
        KeepsTheMismatch,
        LosesTheLast,
        DropsOneMore,
        HoldsOneMore,
        DropsTheJointTwice,
        ShowsSpaceAtOnce,
        MatchesNoLineEnds,
        ClosesAtTheEndOnly,
        AnyChatter,
    ],
)
def test_control_of_minimal_holding(broken: type[Seam]) -> None:
    """The check for minimal holding catches each broken seam within 3,000 random cases."""
    assert any(check_minimal(broken, group) for group in groups(3000, seed=0, size=40))


def test_control_of_the_cuts() -> None:
    """The check of the cuts catches a seam that looks at one piece only."""
    assert any(check_cuts(LooksAtOnePieceOnly, group) for group in groups(200, seed=2))


def test_control_of_the_bound(slack: Any) -> None:
    """The check of the cuts beyond the bound catches a seam that checks the bound once per piece."""

    def caught() -> Iterator[str]:
        for group in groups(1000, seed=3):
            slack(1 - len(group.known))
            yield check_cuts(CountsByPiece, group, slack=1 - len(group.known))

    assert any(caught())


def test_control_of_the_state() -> None:
    """The check of `held` catches a seam that keeps text that it should release."""
    assert any(check_state(HoldsOneMore, group, Oracle(*group[:3])) for group in groups(usually(700, 2000), seed=1))


@pytest.mark.parametrize(
    ("broken", "known", "rules", "letters", "longest", "ahead"),
    [
        (MatchesNoLineEnds, "a\n", {"whitespace": True}, " \na", 6, 3),
        (ClosesAtTheEndOnly, "a", {"fence": True}, "a`\n", 10, 2),
        (AnyChatter, "```a", {"preamble": 6}, "`a\n", 8, 5),
    ],
)
def test_control_of_the_brute_force(
    low_floor: None,
    broken: type[Seam],
    known: str,
    rules: dict[str, Any],
    letters: str,
    longest: int,
    ahead: int,
) -> None:
    """The brute force check catches the rules of 0.1.0."""
    found = check_brute_force(broken, known, rules, letters, longest, ahead)
    assert "agree on" in found
    assert "witnesses" not in found

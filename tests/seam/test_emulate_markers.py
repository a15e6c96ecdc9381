"""Tests `Markers`, which removes a prompt's markers from the reply: at every cut, and on real replies."""

from __future__ import annotations

import json
import random
import re
import sys
from typing import TYPE_CHECKING

import pytest

from aprefill._seam.markers import SHORTEST, Markers

from ..support.thorough import usually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

NAME = "text-48948af09d5909f3"

OPENINGS = ["", "<", "</", "<\\/"] + [f"\\u003{c}{slash}" for c in "cC" for slash in ("", "/", "\\/")]
CLOSINGS = ["", ">", "\\u003e", "\\u003E"]
WHOLE = re.compile(
    r"(?:(?:<|\\u003[cC])(?:\\?/)?)?" + NAME + r"(?:>|\\u003[eE])?"
)  # fmt: skip
BEGINNINGS = {
    (opening + NAME)[:end]: len((meaning + NAME)[: max(0, end - len(opening)) + len(meaning)])
    for opening in OPENINGS
    for meaning in (opening.replace("\\u003c", "<").replace("\\u003C", "<").replace("\\/", "/"),)
    for end in range(len(opening), len(opening) + len(NAME))
}


def batch(raw: str) -> str:
    """Return `raw` without markers, by the rules in the docstring of `Markers`, on the whole text at once."""
    while found := WHOLE.search(raw):
        raw = raw[: found.start()] + raw[found.end() :]
    while ends := [text for text, weight in BEGINNINGS.items() if weight >= SHORTEST and raw.endswith(text)]:
        raw = raw[: -len(max(ends, key=len))]
    return raw


def through(pieces: list[str], stage: Callable[[str], Markers] = Markers) -> str:
    made = stage(NAME)
    return "".join([made.feed(piece) for piece in pieces]) + made.close()


def ways_to_cut(raw: str, chance: random.Random) -> Iterator[list[str]]:
    yield [raw]
    yield list(raw)
    yield ["", *raw, ""]
    for cut in range(len(raw) + 1):
        yield [raw[:cut], raw[cut:]]
    for _ in range(4):
        cuts = sorted(chance.choices(range(len(raw) + 1), k=5))
        yield [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


CASES = [
    pytest.param(f"a <{NAME}> b", "a  b", id="opening"),
    pytest.param(f"a </{NAME}> b", "a  b", id="closing"),
    pytest.param(f"a {NAME} b", "a  b", id="name-alone"),
    pytest.param(f"a <{NAME} b", "a  b", id="no-closing-bracket"),
    pytest.param(f"a {NAME}> b", "a  b", id="no-opening-bracket"),
    pytest.param(f'{{"name": "To</{NAME}","age"', '{"name": "To","age"', id="in-json"),
    pytest.param(f'{{"{NAME}": "</{NAME}', '{"": "', id="in-json-as-a-key"),
    pytest.param(f'["a<\\/{NAME}>"]', '["a"]', id="json-escaped-slash"),
    pytest.param(f'["\\u003c{NAME}\\u003ea\\u003C\\/{NAME}\\u003E"]', '["a"]', id="json-escaped-brackets"),
    pytest.param(f"<{NAME}>\n<{NAME}>\n", "\n\n", id="white-space-around-it-stays"),
    pytest.param(f"<<{NAME}>>", "<>", id="one-bracket-each"),
    pytest.param(f"{NAME}{NAME}", "", id="one-behind-the-other"),
    pytest.param(f"</{NAME}></{NAME}>", "", id="two-tags"),
    pytest.param(f"<text-489<{NAME}>48af09d5909f3>", "", id="one-in-the-halves-of-another"),
    pytest.param(f"tex<{NAME}>t-4894</{NAME}>8af09d5909f3!", "!", id="one-in-three-parts"),
    pytest.param(f"a {NAME[:7]}", f"a {NAME[:7]}", id="ends-with-7"),
    pytest.param(f"a {NAME[:8]}", "a ", id="ends-with-8"),
    pytest.param("a <text-4", "a <text-4", id="ends-with-7-and-a-bracket-of-them"),
    pytest.param("a <text-48", "a ", id="ends-with-8-and-a-bracket-of-them"),
    pytest.param("a </text-", "a </text-", id="ends-with-7-and-two-brackets-of-them"),
    pytest.param("a </text-4", "a ", id="ends-with-8-and-two-brackets-of-them"),
    pytest.param("a \\u003ctext-4", "a \\u003ctext-4", id="escaped-bracket-counts-as-one"),
    pytest.param("a \\u003c\\/text-4", "a ", id="escaped-brackets-count-as-two"),
    pytest.param("a <text-489<text-4894", "a ", id="ends-with-two-of-them"),
    pytest.param(f"a <text-489<{NAME}>", "a ", id="ends-with-one-before-a-whole-one"),
    pytest.param("a <text-489 b", "a <text-489 b", id="a-beginning-inside-the-text"),
    pytest.param(f"a <{NAME[:-1]}4> b", f"a <{NAME[:-1]}4> b", id="another-last-digit"),
    pytest.param(f"a <{NAME.upper()}> b", f"a <{NAME.upper()}> b", id="upper-case"),
    pytest.param(f"a <{NAME[:9]} {NAME[9:]}> b", f"a <{NAME[:9]} {NAME[9:]}> b", id="a-blank-in-it"),
    pytest.param("<text-0123456789abcdef>", "<text-0123456789abcdef>", id="another-name"),
    pytest.param(f"a</{NAME}\\u0041", "a\\u0041", id="another-escape-behind-it"),
    pytest.param(f"a</{NAME}\\u003", "a\\u003", id="half-an-escape-behind-it"),
    pytest.param("textextext-texts\\u003<\\", "textextext-texts\\u003<\\", id="nothing"),
    pytest.param("t" * 40, "t" * 40, id="first-letters"),
    pytest.param("", "", id="empty"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "left"), CASES)
def test_what_is_taken_out(raw: str, left: str) -> None:
    """Markers with their brackets are removed, and a long beginning at the end, at every cut. All else is kept."""
    assert batch(raw) == left
    for pieces in ways_to_cut(raw, random.Random(3)):
        assert through(pieces) == left


def some_text(chance: random.Random) -> str:
    """Return a random text of markers, parts of markers, almost-markers and other text."""
    pieces = ["t", "te", "tex", "<", "/", "\\", ">", "\\u00", "3e", " ", "a word", "\n", "</", "\\/", "é"]
    for _ in range(chance.randint(1, 5)):
        marker = chance.choice(OPENINGS) + NAME + chance.choice(CLOSINGS)
        cut = chance.randrange(len(marker))
        pieces += [marker, marker[:cut], marker[cut:], marker[: chance.randint(5, 12)]]
    return "".join(chance.choices(pieces, k=chance.randint(1, 9)))


def texts(count: int) -> Iterator[str]:
    chance = random.Random(11)
    for _ in range(count):
        yield some_text(chance)


def test_any_text_at_every_cut() -> None:
    """The result is the same as for the whole text at once. It contains no marker, and no partial marker at its end."""
    changed = nested = 0
    for raw in texts(usually(200, 600)):
        left = batch(raw)
        changed += left != raw
        nested += left != WHOLE.sub("", raw)
        assert NAME not in left
        assert not any(left.endswith(NAME[:n]) for n in range(SHORTEST, len(NAME)))
        for pieces in ways_to_cut(raw, random.Random(len(raw))):
            assert through(pieces) == left, pieces
    assert changed > usually(66, 200)
    assert nested > usually(6, 20)


ENDS = [(whole[:n], whole[n:]) for opening in OPENINGS for whole in (opening + NAME,) for n in range(1, len(whole))]
ENDS += [(closing[:n], closing[n:]) for closing in CLOSINGS for n in range(1, len(closing))]


def witnesses(text: str) -> Iterator[str]:
    """Yield continuations: nothing, other text, and the ends that complete the markers that `text` ends with a part of.

    One partial marker may come directly before another one. Each needs its own end.
    """
    yield from ("", "!", "t", "<")
    for beginning, end in ENDS:
        if text.endswith(beginning):
            yield from (end + more for more in witnesses(text[: -len(beginning)]))


def agreed(raw: str) -> str:
    """Return the longest text that the results of all continuations begin with."""
    results = [batch(raw + more) for more in witnesses(WHOLE.sub("", raw))]
    shortest = min(results, key=len)
    return next((shortest[:at] for at in range(len(shortest)) if len({one[at] for one in results}) > 1), shortest)


def holds_least(raw: str, stage: Callable[[str], Markers] = Markers) -> bool:
    """Whether the text passed on is, after each character, the longest text on which all continuations agree."""
    made = stage(NAME)
    out = ""
    for at, c in enumerate(raw):
        out += made.feed(c)
        if out != agreed(raw[: at + 1]):
            return False
    return True


HELD = [
    "<text-48948af0 <text-4",
    "a tent",
    "letter te<",
    f"x</{NAME}>y",
    '"\\u003ctext-4',
    "a\\n<tex<t",
    "textextex",
    "<<</</text",
]


def test_only_what_may_become_a_marker_is_held() -> None:
    """No character is held too long or passed on too early, also where a marker may be inside another marker."""
    for raw in [*HELD, *texts(usually(4, 12))]:
        assert holds_least(raw[:60]), raw


def test_control_longer_and_shorter_holding_is_seen() -> None:
    """The check catches a stage that is one character late, and one that forgets the first of two beginnings."""

    class Late(Markers):
        late = ""

        def feed(self, piece: str) -> str:
            text = self.late + super().feed(piece)
            self.late = text[-1:]
            return text[:-1]

    class Forgets(Markers):
        def feed(self, piece: str) -> str:
            out = super().feed(piece)
            first = "".join(self._chain[:-1])
            self._chain[:-1] = []
            return out + first

    for broken in (Late, Forgets):
        assert not all(holds_least(raw, broken) for raw in HELD)


def test_control_broken_stages_are_seen() -> None:
    """The checks catch three broken stages. They look at each piece alone, look only once, and ignore the end."""

    class Blind(Markers):
        def feed(self, piece: str) -> str:
            return WHOLE.sub("", piece)

    class Once(Markers):
        """Does not look for a marker again in the text around a removed marker."""

        def feed(self, piece: str) -> str:
            self._chain[:-1] = []
            return super().feed(piece)

    class NoEnd(Markers):
        def close(self, cut: bool = False) -> str:
            return "".join(self._chain)

    for broken in (Blind, Once, NoEnd):
        assert any(through(pieces, broken) != batch(raw) for raw in texts(300) for pieces in ([raw], list(raw)))


def test_ordinary_text_passes_at_once() -> None:
    """Text in which no marker can begin is not held."""
    stage = Markers(NAME)
    for piece in ("Hello", ", the world", " of 2 < 3 ", "is \\n a test.", " Its", " text, "):
        assert stage.feed(piece) == piece
        assert (stage.held, stage.doubtful) == (0, "")


def test_what_a_reader_may_be_told_of_what_is_held() -> None:
    """Held text is reported only if it is too short to be removed: less than 8 characters of a marker."""
    stage = Markers(NAME)
    told = []
    for c in f"a <{NAME}> b":
        stage.feed(c)
        told.append(stage.doubtful)
    assert told[2:9] == ["<", "<t", "<te", "<tex", "<text", "<text-", "<text-4"]
    assert not any(told[9:])
    assert stage.taken == len(NAME) + 2


def test_a_cut_drops_what_is_held() -> None:
    """A cut drops held text, because the next request produces it again. A clean end keeps a short beginning."""
    for cut, left in ((False, "<te"), (True, "")):
        stage = Markers(NAME)
        assert stage.feed("a<te") == "a"
        assert stage.close(cut) == left
        assert stage.held == 0


@pytest.mark.parametrize("piece", ["t", "<", "te", "tex", "<text-489", f"<text-489<{NAME}>", "\\u003"])
def test_the_cost_is_linear(piece: str) -> None:
    """Twice the text needs twice the work, in executed lines, for texts of which as much as possible is held."""

    def lines(raw: str) -> int:
        count = 0

        def trace(frame: FrameType, _event: str, _arg: object) -> object:
            nonlocal count
            count += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            through(list(raw))
        finally:
            sys.settrace(before)
        return count

    assert lines(piece * 400) < 2.2 * lines(piece * 200)


def test_real_replies_show_no_marker(shared: Path) -> None:
    """No recorded reply to a prompt with markers shows a marker. More than 50 of these replies contain one."""
    with_marker = asked = 0
    for line in (shared / "recordings/_emulated/replies.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        name = re.search(r"text-[0-9a-f]{16}", row["asked"])
        if name is None:
            continue
        asked += 1
        reply = row["reply"]
        with_marker += any(name[0][:n] in reply for n in range(SHORTEST, len(name[0]) + 1))
        for pieces in ([reply], list(reply), [reply[:9], reply[9:]]):
            stage = Markers(name[0])
            left = "".join([stage.feed(piece) for piece in pieces]) + stage.close()
            assert name[0] not in left
            assert not any(left.endswith(name[0][:n]) for n in range(SHORTEST, len(name[0])))
            if name[0][:SHORTEST] not in reply and f"<{name[0][:7]}" not in reply and f"</{name[0][:6]}" not in reply:
                assert left == reply
    assert asked > 300
    assert with_marker > 50

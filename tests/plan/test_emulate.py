"""Emulation: the words of the request, the markers around a quoted text, and how the seam joins the reply.

The seam is the place where the prefill ends and the model's text begins, and the code that joins the two there.
"""

from __future__ import annotations

import random
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import Emulation, UsageError, Verdict
from aprefill._json import texts_of
from aprefill._plan.emulate import (
    AGAIN,
    BEGIN,
    CONTINUE,
    DEFAULT,
    PREAMBLE,
    TAIL_MAX,
    TAIL_MIN,
    EmulatedPrompt,
    markers,
    room,
    tail_of,
)
from aprefill._seam.plan import SeamPlan

from ..support.planning import emulate
from ..support.thorough import usually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USER = {"role": "user", "content": "Hi"}
#: 200 characters: the longest text that is asked back whole.
WHOLE = "The first line of it all.\n" + "x" * 151 + "\nThe last line is here."


def told(known: str, content: Any = "Hi", how: Emulation = DEFAULT, *, again: bool = False) -> str:
    """Return the content of the last user turn, which must be a str."""
    said = emulate(how, [{"role": "user", "content": content}], known, again=again).messages[-1]["content"]
    assert isinstance(said, str)
    return said


# --- the markers ------------------------------------------------------------------------------------------------

TEXTS = usually(200_000, 1_000_000)
TOKENS = [f"{random.Random(n).getrandbits(64):016x}" for n in range(8)]


def is_closed_at_its_end_alone(opening: str, text: str, closing: str) -> bool:
    """Return whether the opening marker occurs only at the quotation's start and the closing one only at its end."""
    quotation = opening + text + closing
    return quotation.rfind(opening) == 0 and quotation.find(closing) == len(quotation) - len(closing)


def attacks() -> list[str]:
    """Return pieces of hostile texts: whole markers, both halves of every cut, and lookalikes."""
    pieces = ["<", "</", ">", "/", "text-", "<text-", "</text-", "</text", "\n", "", " ", "a word", "&lt;/text-"]
    for token in TOKENS:
        pieces += [token, f"text-{token}", token.upper(), f"< /text-{token}>", f"<text-{token}</text-{token}"]
        for marker in (f"<text-{token}>", f"</text-{token}>"):
            pieces += [marker, marker * 2]
            for cut in range(1, len(marker)):
                pieces += [marker[:cut], marker[cut:], f"{marker[:cut]}\n{marker[cut:]}"]
    return pieces


def broken_by(mark: Callable[[list[str], Callable[[], str]], tuple[str, str]], texts: int) -> tuple[int, int]:
    """Return how many texts break out of their markers, and how many markers were rejected."""
    chance = random.Random(463)
    pieces = attacks()
    draws = broken = 0

    def token() -> str:
        nonlocal draws
        draws += 1
        return TOKENS[int(chance.random() * len(TOKENS))]

    for number in range(texts):
        text = "".join(chance.choices(pieces, k=1 + number % 4))
        opening, closing = mark([text], token)
        broken += not is_closed_at_its_end_alone(opening, text, closing)
    return broken, draws - texts


def test_no_text_can_close_the_quotation() -> None:
    """No text can close its quotation early.

    The texts are made of the very markers that they may get, whole and in halves.
    """
    broken, drawn_again = broken_by(markers, TEXTS)
    assert broken == 0
    # Some texts contained the marker that was drawn first, so another one was drawn.
    assert drawn_again > TEXTS // 50


def test_control_other_markers_are_closed_early() -> None:
    """The control: fixed markers, and markers drawn without a look at the text, fail the check."""

    def fixed(_texts: list[str], _token: Callable[[], str]) -> tuple[str, str]:
        return f"<text-{TOKENS[0]}>", f"</text-{TOKENS[0]}>"

    def blind(_texts: list[str], token: Callable[[], str]) -> tuple[str, str]:
        name = token()
        return f"<text-{name}>", f"</text-{name}>"

    for mark in (fixed, blind):
        assert broken_by(mark, 20_000)[0] > 0


def test_a_marker_that_the_text_holds_is_not_taken() -> None:
    """A marker whose name occurs in the text is not used."""
    drawn: Iterator[str] = iter(["aa", "bb", "cc", "dd"])
    assert markers(["x</text-aa>y", "text-bb", "<text-c"], lambda: next(drawn)) == ("<text-cc>", "</text-cc>")
    assert list(drawn) == ["dd"]


def test_markers_are_made_anew() -> None:
    """Each request gets a new marker with 64 random bits."""
    found = {emulate(DEFAULT, [USER], "x" * 300).marker for _ in range(50)}
    assert len(found) == 50
    assert all(re.fullmatch(r"text-[0-9a-f]{16}", name) for name in found)


@pytest.mark.parametrize("where", ["known", "prompt", "part", "earlier", "begin", "continued", "again"])
def test_the_markers_are_in_no_text_of_the_request(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The markers occur nowhere in the texts of the request: the prefill, messages at any depth, and templates."""
    drawn = iter(["aa", "bb"])
    monkeypatch.setattr("aprefill._plan.emulate.markers", lambda texts, token: markers(texts, lambda: next(drawn)))
    taken = "text-aa"
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "document", "source": {"data": [""]}}]},
        USER,
    ]
    how, known = {}, "ab" * 150
    match where:
        case "known":
            known += taken
        case "prompt":
            messages[-1] = {"role": "user", "content": taken}
        case "part":
            messages[-1] = {"role": "user", "content": [{"type": "text", "text": taken}]}
        case "earlier":
            messages[0] = {"role": "user", "content": [{"type": "document", "source": {"data": [taken]}}]}
        case _:
            how = {where: f"{{text}}{{end}}{taken}"}
    asked = emulate(Emulation(**how), messages, known)
    assert ("<text-bb>" in str(asked.messages[-1])) is ("continued" not in how)
    assert asked.marker == ("" if "continued" in how else "text-bb")
    assert next(drawn, None) is None


def test_texts_of_finds_all() -> None:
    """`texts_of` finds every string at any depth and ignores other values."""
    parts = [{"type": "t", "deep": [["a", {"b": ("c", 1, None, 2.5, True)}]]}]
    assert sorted(texts_of([{"role": "user", "content": parts}])) == ["a", "c", "t", "user"]


# --- the end of a long prefill that is asked back ---------------------------------------------------------------

ENDS = [
    pytest.param("x" * 90 + "\n" + "y" * 40, "y" * 40, id="the-last-line"),
    pytest.param("x" * 120 + "\n" + "y" * 16, "y" * 16, id="a-last-line-of-16"),
    pytest.param("x" * 120 + "\nabcdef\n" + "y" * 15, "abcdef\n" + "y" * 15, id="two-lines-where-one-is-short"),
    pytest.param(
        "x" * 120 + "\n" + "ab\ncd\nef\ngh\nij\nkl\nmn\nop\nqr", "cd\nef\ngh\nij\nkl\nmn\nop\nqr", id="many-short-lines"
    ),
    pytest.param(
        "x" * 120 + "\nBut then, so\nit is a b c d e",
        "But then, so\nit is a b c d e",
        id="a-line-with-less-ink-than-characters",
    ),
    pytest.param("x" * 120 + "\n" + "y" * 120, "y" * 120, id="a-last-line-of-120"),
    pytest.param("x" * 120 + "\n" + "y" * 121, "y" * 120, id="a-last-line-of-121"),
    pytest.param("x" * 50 + " " + "word " * 30 + "end", ("word " * 30 + "end")[-118:], id="from-a-words-beginning-on"),
    pytest.param("x" * 300, "x" * 120, id="one-long-word"),
    pytest.param("x" * 220 + " a b c d e f g h i", "x" * 102 + " a b c d e f g h i", id="a-blank-with-too-little-ink"),
    pytest.param("x" * 200 + " " + "y" * 110, "y" * 110, id="one-blank"),
    pytest.param("x" * 200 + " " + "y" * 15, "x" * 104 + " " + "y" * 15, id="a-blank-too-near-the-end"),
    pytest.param("x" * 150 + "\r\n" + "y" * 40, "y" * 40, id="crlf"),
    pytest.param("x" * 150 + "\r\nabc\r\n" + "y" * 14, "abc\r\n" + "y" * 14, id="crlf-two-lines"),
    pytest.param("x" * 120 + "\n" + "\n" * 30 + "end", "x" * 86 + "\n" * 31 + "end", id="behind-blank-lines"),
    pytest.param("one, two, three\n" + "zero, zero, zero\n" * 3 + "zero, zero, zero",
                 "zero, zero, zero\n" * 3 + "zero, zero, zero", id="equal-lines-make-it-longer"),
    pytest.param("short", "short", id="shorter-than-an-end"),
    pytest.param("", "", id="nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "end"), ENDS)
def test_end_of(text: str, end: str) -> None:
    """The end is the last line; more lines if it is short or occurs elsewhere too, and a part of it if it is long."""
    assert tail_of(text) == end


def test_the_end_of_any_text() -> None:
    """The end of any text has 16 to 120 characters.

    It starts at the beginning of a line if a line in reach makes it unique and has 16 characters that are not white
    space.
    """
    chance = random.Random(5)
    at_a_line = 0
    for n in range(usually(4_000, 20_000)):
        pieces = ["\n", "\r\n", " ", "a", "bc", "word", "long" * 10, "\t", "\u00e9\u0301", "\U0001f600", "  "]
        text = "".join(chance.choices(pieces, weights=[n % 5, n % 3, 4, 4, 2, 2, n % 2, 1, 1, 1, 1], k=120)).rstrip()
        if len(text) <= TAIL_MAX:
            continue
        end = tail_of(text)
        assert TAIL_MIN <= len(end) <= TAIL_MAX
        assert text.endswith(end)
        starts = [at for at in range(len(text) - TAIL_MAX, len(text) - TAIL_MIN + 1) if at and text[at - 1] == "\n"]
        unique = [text[at:] for at in starts if text.count(text[at:]) == 1 and len("".join(text[at:].split())) >= 16]
        if unique:
            assert end == unique[-1]
            at_a_line += 1
        else:
            cut = text[-TAIL_MAX:]
            assert end == cut or (cut.endswith(" " + end) and " " not in cut.removesuffix(" " + end))
    assert at_a_line > usually(1000, 5000)


# --- the request ------------------------------------------------------------------------------------------------


def test_up_to_200_characters_all_of_it_is_asked_for() -> None:
    """A prefill of up to 200 characters is asked back whole.

    It is the end of the user's message, unchanged and without markers.
    """
    for known in ("a", '["', "a \n", "\n a", WHOLE):
        assert len(WHOLE) == 200
        asked = emulate(DEFAULT, [USER], known)
        assert (asked.echo, asked.marker) == (known, "")
        overlap = {"overlap": TAIL_MIN} if known is WHOLE else {}
        assert asked.seam.rules == {"whitespace": True, "fence": True, "preamble": PREAMBLE, **overlap}
        request = told(known)
        assert request == "Hi\n\n" + BEGIN.removesuffix("{text}") + known
        assert "text-" not in request


def test_beyond_200_characters_its_end_is_asked_for() -> None:
    """Of a prefill over 200 characters, the end is asked back.

    The whole text and its end are both quoted between the two markers, and the end comes last in the user's message.
    """
    for text in ("x" + WHOLE, "One line.\n" * 30 + "The last line of them all", "x" * 300):
        for blanks in ("", " \n"):
            known = text + blanks
            asked = emulate(DEFAULT, [USER], known)
            assert asked.echo == tail_of(text)
            assert asked.seam.tail == asked.echo + blanks
            request = asked.messages[-1]["content"]
            found = re.search(r"\n<(text-[0-9a-f]{16})>(.*)</\1>\n.*<\1>(.*)</\1>\Z", request, re.DOTALL)
            assert found is not None
            assert (found[2], found[3]) == (text, asked.echo)
            assert asked.marker == found[1]
            assert request.count(found[1]) == 4
            assert request.startswith("Hi\n\n" + CONTINUE.partition("{")[0])


#: A known text, and the shortest overlap that joins. None: no overlap joins, because the text is too short or
#: repetitive.
OVERLAPS = [
    pytest.param("Sure! The capital of France is", TAIL_MIN, id="a-sentence"),
    pytest.param("x" + WHOLE, TAIL_MIN, id="long"),
    pytest.param("abcdefghijklmno", None, id="shorter-than-an-overlap"),
    pytest.param("abcdefghijklmnop", None, id="as-long-as-an-overlap"),
    pytest.param("abcdefghijklmnopq", TAIL_MIN, id="longer-than-an-overlap"),
    pytest.param("[" + "0, " * 20, None, id="a-row-of-zeros"),
    pytest.param("one, two, three,\n" * 2, None, id="equal-lines"),
    pytest.param("x" * 300, None, id="long-and-all-the-same"),
    pytest.param("x" * 200 + "\n" + "a, b, c, d, e, f, g\n" * 2, None, id="long-with-equal-lines-at-its-end"),
]


@pytest.mark.parametrize(("known", "least"), OVERLAPS)
def test_an_overlap_joins_unless_known_repeats_itself_there(known: str, least: int | None) -> None:
    """An overlap of 16 characters joins texts of any length, unless the known text repeats itself at its end."""
    asked = emulate(DEFAULT, [USER], known)
    assert asked.seam.rules.get("overlap") == least
    if asked.seam.tail:
        assert asked.seam.tail_rules.get("overlap") == (TAIL_MIN if least == TAIL_MIN else None)


def test_a_sentence_that_is_started_again_joins() -> None:
    """A model that starts its sentence again is joined at every cut: the repeated part is dropped.

    If the known text repeats itself, new text that equals old text is kept.
    """
    known = "Sure! The capital of France is"
    asked = emulate(DEFAULT, [USER], known)
    for pieces in ways_to_cut("The capital of France is Paris."):
        assert spliced(asked, known, pieces) == (" Paris.", Verdict.OVERLAPPED)
    known = "[" + "0, " * 20
    asked = emulate(DEFAULT, [USER], known)
    for pieces in ways_to_cut("0, " * 8 + "1]"):
        assert spliced(asked, known, pieces) == ("0, " * 8 + "1]", Verdict.ABSENT)


@pytest.mark.parametrize(
    ("ink", "blanks", "whole"),
    [
        (200, 0, True),
        (201, 0, False),
        (199, 1, True),
        (200, 1, False),
        (120, 100, True),
        (121, 79, True),
        (121, 80, False),
    ],
)
def test_where_whole_ends(ink: int, blanks: int, whole: bool) -> None:
    """A prefill of at most 200 characters is asked back whole.

    A longer one with at most 120 characters that are not white space at the end has no shorter end.
    """
    asked = emulate(DEFAULT, [USER], "x" * ink + " " * blanks)
    assert (asked.seam.tail == "") is whole
    assert (asked.echo == "x" * ink + " " * blanks) is whole


def test_a_content_of_text_gets_the_request_behind_a_blank_line() -> None:
    """In a content of text, the request follows after a blank line. An empty content becomes the request."""
    assert told("a", "Hi").startswith("Hi\n\n" + BEGIN[:30])
    assert told("a", "").startswith(BEGIN[:30])


def test_a_content_of_parts_gets_one_more() -> None:
    """A content of parts gets one more part.

    The other parts do not change, nor do the caller's objects.
    """
    parts = [{"type": "image", "source": {"url": "https://example.com/a.png"}}, {"type": "text", "text": "What is it?"}]
    messages = [USER, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": parts, "name": "Ann"}]
    before = deepcopy(messages)
    asked = emulate(DEFAULT, messages, "a")
    assert messages == before
    assert asked.messages[:2] == tuple(before[:2])
    assert {**asked.messages[-1], "content": parts} == before[-1]
    *kept, new = asked.messages[-1]["content"]
    assert kept == parts
    assert new["type"] == "text"
    assert new["text"] == BEGIN.format(text="a")


@pytest.mark.parametrize("known", ["a", "x" * 300], ids=["begin", "continue"])
def test_a_text_is_left_alone(known: str) -> None:
    """The caller's message with a str as content is not changed."""
    messages = [dict(USER)]
    emulate(DEFAULT, messages, known)
    assert messages == [USER]


RESULTS = [
    pytest.param({"role": "tool", "tool_call_id": "c", "content": "4"}, id="chat"),
    pytest.param({"role": "tool", "content": [{"type": "text", "text": "4"}]}, id="chat-parts"),
    *(
        pytest.param({"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": kind}]}, id=kind)
        for kind in ("tool_result", "web_search_tool_result", "mcp_tool_result", "function_call_output")
    ),
    pytest.param(
        {"role": "user", "content": [{"type": "tool_result"}, {"type": "text", "text": "x"}]}, id="text-after"
    ),
]


@pytest.mark.parametrize("last", RESULTS)
def test_after_a_tools_result_it_cannot_be_asked_for(last: dict[str, Any]) -> None:
    """After a tool's result emulation raises a `UsageError` that says so.

    If a user's turn follows the result, the request is added there.
    """
    with pytest.raises(
        UsageError, match=r"the messages end with a tool's result, and after that .* add a user message"
    ):
        emulate(DEFAULT, [USER, last], "a")
    assert emulate(DEFAULT, [last, USER], "a").echo == "a"


@pytest.mark.parametrize(
    "last",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
        {"role": "assistant", "content": [{"type": "tool_use"}]},
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": None},
    ],
    ids=["calls", "tool-use", "system", "developer", "user-without-content"],
)
def test_only_a_users_turn_takes_the_request(last: dict[str, Any]) -> None:
    """Only a user's turn can take the request. Any other last turn raises a `UsageError` that names its role."""
    with pytest.raises(UsageError, match=f"the last message is the {last['role']}'s, .* must be the user's"):
        emulate(DEFAULT, [USER, last], "a")


@pytest.mark.parametrize("known", ["", " ", "\n\n", " " * 300, "\u2003\t\r\n"])
@pytest.mark.parametrize("last", [USER, {"role": "tool", "content": "4"}])
def test_of_white_space_alone_nothing_is_asked(known: str, last: dict[str, Any]) -> None:
    """A prefill of only white space is not asked back, because its echo cannot be recognised.

    If the model begins with it, it is dropped.
    """
    assert emulate(DEFAULT, [last], known) == EmulatedPrompt(
        (last,), "", SeamPlan(known, {"stripped": known}, asked=True)
    )


@pytest.mark.parametrize("known", ["a", "x" + WHOLE, "x" * 5000], ids=["begin", "continue", "very-long"])
def test_the_second_time_it_is_asked_for_in_other_words(known: str) -> None:
    """The second request asks in other words for the whole prefill, at the end of the user's message, without markers.

    This also holds for a prefill of which the first request asked only the end.
    """
    asked = emulate(DEFAULT, [USER], known, again=True)
    assert told(known, again=True) == "Hi\n\n" + AGAIN.removesuffix("{text}") + known
    assert told(known) != told(known, again=True)
    assert (asked.echo, asked.seam.known, asked.seam.tail, asked.marker) == (known, known, "", "")
    assert asked.seam.rules["preamble"] == PREAMBLE


def test_the_words_can_be_replaced() -> None:
    """Each of the three templates can be replaced. A template may use the text, its end and the two markers."""
    how = Emulation(
        begin="B{{}}{open}|{text}|{close}", continued="C{open}|{text}|{end}|{close}", again="S{text}|{open}{end}"
    )
    assert re.fullmatch(r"Hi\n\nB\{\}<(.*)>\|ab\|</\1>", told("ab", how=how))
    known = "x" + WHOLE
    assert re.fullmatch(r"Hi\n\nC<(.*)>\|xThe.*\|The last line is here\.\|</\1>", told(known, how=how), re.DOTALL)
    assert re.fullmatch(r"Hi\n\nSab\|<text-.*>ab", told("ab", how=how, again=True))
    # If the template has {end}, the seam looks for the end.
    assert re.fullmatch(rf"Hi\n\nS{known}\|<text-.*>The last line is here\.", told(known, how=how, again=True))
    asked = emulate(how, [USER], known, again=True)
    assert (asked.echo, asked.seam.tail) == ("The last line is here.",) * 2
    assert Emulation() == Emulation(begin=BEGIN, continued=CONTINUE, again=AGAIN) == DEFAULT


@pytest.mark.parametrize(
    ("template", "has"),
    [("{text}", False), ("{open}{text}{close}", True), ("{open}{text}", True), ("{{open}}{text}", False)],
)
def test_the_marker_is_named_where_the_request_has_one(template: str, has: bool) -> None:
    """The plan names a marker only if the request contains one. Otherwise nothing is removed from the reply."""
    asked = emulate(Emulation(begin=template), [USER], "ab")
    assert bool(asked.marker) is has
    assert asked.marker in str(asked.messages[-1]["content"])
    assert len(asked.marker) == (21 if has else 0)


WRONG = [
    ("begin", "no field", r"has no \{text\}, so it asks for nothing"),
    ("begin", "{end}", r"has no \{text\}"),
    ("begin", "{{text}}", r"has no \{text\}"),
    ("continued", "{text}", r"has no \{end\}"),
    ("continued", "{end}", r"has no \{text\}"),
    ("begin", "{text} {", "is not a template: .*double any other brace"),
    ("begin", "{text} }", "is not a template"),
    ("begin", "{text} {}", "is not a template"),
    ("begin", "{text} {0}", "is not a template"),
    ("begin", "{text} {name}", "is not a template: 'name'"),
    ("begin", "{text} {text.x}", "is not a template"),
    ("begin", "{text[0]}", "is not a template"),
    ("begin", "{text:d}", "is not a template"),
    ("begin", "{text:.5}", "is not a template: a field is replaced by its text"),
    ("begin", "{text:{end}}", "is not a template: a field is replaced by its text"),
    ("begin", "{text!r}", "is not a template: a field is replaced by its text"),
    ("again", '{"a": 1}', "is not a template"),
    ("again", "no field", r"has no \{text\}, so it asks for nothing"),
    ("again", "{end}", r"has no \{text\}"),
    ("begin", b"{text}", "is a bytes; pass a str"),
    ("again", None, "is a NoneType; pass a str"),
]


@pytest.mark.parametrize(("name", "template", "says"), WRONG)
def test_a_template_is_checked_when_it_is_made(name: str, template: Any, says: str) -> None:
    """A wrong template raises an error when it is created, which names the template and the fault."""
    with pytest.raises(UsageError, match=rf"^Emulation\({name}=\):? {says}"):
        Emulation(**{name: template})


@pytest.mark.parametrize("known", ['{"a": {open}', "{", "}} {0} {text} %s", "{" * 300 + "end"])
def test_braces_in_the_texts_do_not_matter(known: str) -> None:
    """Braces in the prefill or in the prompt need no escaping."""
    said = told(known, "{close} {")
    assert said.startswith("{close} {\n\n")
    assert said.endswith("\n" + known) if len(known) <= 200 else f">{known}</" in said


def test_room_for_the_echo() -> None:
    """The room for the echo is half a token per letter, one per digit or sign, two per other character, plus some."""
    echoes = ("", "a", "abcd", "12345", "[[1,", "\u00e9" * 10, "\U0001f600" * 10)
    assert [room(echo) for echo in echoes] == [0, 4, 6, 9, 8, 24, 24]


def test_a_long_text_that_is_started_over_has_room() -> None:
    """For a long prefill there is room for the whole text: models often repeat it all instead of only the end."""
    known = "x" + WHOLE
    assert emulate(DEFAULT, [USER], known).room == room(known) > room(tail_of(known))
    assert emulate(DEFAULT, [USER], "abcd").room == room("abcd")
    assert emulate(DEFAULT, [USER], " \n").room == 0


# --- how the seam joins the reply --------------------------------------------------------------------------------


def spliced(asked: EmulatedPrompt, known: str, pieces: list[str]) -> tuple[str, Verdict]:
    seam = replace(asked.seam, known=known).seam()
    text = "".join(map(seam.feed, pieces)) + seam.close()
    return text, seam.verdict


def ways_to_cut(raw: str) -> Iterator[list[str]]:
    yield [raw]
    yield list(raw)
    for cut in range(len(raw) + 1):
        yield [raw[:cut], raw[cut:]]


def some_text(chance: random.Random, length: int) -> str:
    pieces = ["\n", "\r\n", " ", " ", "a", "is", "land", "{", '"', "```", ", ", "\u00e9", "\U0001f600", "  "]
    text = ""
    while len(text) < length:
        text += chance.choice(pieces)
    return text[:length]


@pytest.mark.parametrize("lengths", [(1, 200), (201, 400)], ids=["begin", "continue"])
def test_what_follows_the_repetition_is_the_continuation(lengths: tuple[int, int]) -> None:
    """All text after the repetition is new text, whatever it is and however it is cut.

    The tests include white space, a fence and the same words again.
    """
    chance = random.Random(77)
    verdicts = set()
    for _ in range(usually(20, 60)):
        known = some_text(chance, chance.randint(*lengths))
        if not known.strip():
            continue
        asked = emulate(DEFAULT, [USER], known)
        missing = asked.seam.rules.get("stripped", "")
        for new in (some_text(chance, 12), known[:9], asked.echo[-12:], "", "```\n"):
            # The model also writes the white space at the end that the quotation left out.
            raw = asked.echo + missing + new
            for pieces in ways_to_cut(raw):
                text, verdict = spliced(asked, known, pieces)
                assert text == new, (known, new)
                verdicts.add(verdict)
    assert verdicts == {Verdict.ECHOED} if lengths == (1, 200) else verdicts >= {Verdict.OVERLAPPED}


def test_equal_lines_are_not_taken_for_the_repetition() -> None:
    """New lines that equal the lines of the repetition are not dropped."""
    known = (
        "a, b, c, d, e, f, g\n" + "0, 0, 0, 0, 0, 0, 0\n" * 4 + "1, 1, 1, 1, 1, 1, 1\n" + "0, 0, 0, 0, 0, 0, 0\n" * 5
    )
    asked = emulate(DEFAULT, [USER], known)
    new = "0, 0, 0, 0, 0, 0, 0\n" * 3 + "end"
    for pieces in ways_to_cut(asked.echo + "\n" + new):
        assert spliced(asked, known, pieces) == (new, Verdict.ECHOED)
    # The control: with only the last line as the end, the seam takes as many equal lines as it can.
    shorter = asked._replace(echo="0, 0, 0, 0, 0, 0, 0")
    assert spliced(shorter, known, [shorter.echo + "\n" + new])[0] != new


@pytest.mark.parametrize(
    ("known", "raw", "new", "verdict"),
    [
        ('{"name": "', '```json\n{"name": "Ann"}\n```', 'Ann"}', Verdict.FENCED),
        ("Dear Ann, thank you", "Sure, here it is:\nDear Ann, thank you for", " for", Verdict.PREFACED),
        ("One  two\n", "one two three", "one two three", Verdict.ABSENT),
        ("One  two\n", "One two\nthree", "three", Verdict.ECHOED),
        ("The answer is", " 42", " 42", Verdict.ABSENT),
        ("x" + WHOLE + "\n", "```\nThe last line is here.\nNew", "New", Verdict.FENCED),
        ("x" + WHOLE + "\n", "x" + WHOLE + "\nNew", "New", Verdict.ECHOED),
        ("x" + WHOLE + "\n", "\nNew", "New", Verdict.ABSENT),
        ("x" + WHOLE + "\n", "The last line was here. No.", "The last line was here. No.", Verdict.ABSENT),
    ],
    ids=["fence", "chatter", "other-words", "other-white-space", "no-echo",
         "fence-around-an-end", "all-of-a-long-text", "no-end", "another-end"],
)  # fmt: skip
def test_what_models_do_with_it(known: str, raw: str, new: str, verdict: Verdict) -> None:
    """The repetition may be fenced, follow chatter, have other white space, be the whole long text, or be missing."""
    asked = emulate(DEFAULT, [USER], known)
    for pieces in ways_to_cut(raw):
        assert spliced(asked, known, pieces) == (new, verdict)


def test_the_documents_quote_our_words() -> None:
    """The page `docs/refused.md` quotes the two requests exactly as they are sent."""
    page = (Path(__file__).parents[2] / "docs/refused.md").read_text("utf-8")
    name = "text-3f9a1c20b7e45d68"
    assert "JSON list of US state names\n\n" + BEGIN.format(text='["') + "\n```" in page
    assert CONTINUE.format(open=f"<{name}>", close=f"</{name}>", text="(all of the prefill)", end="(its end)") in page
    assert f"up to {PREAMBLE} characters of chatter" in page

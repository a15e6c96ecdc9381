"""The terminal filter: no control sequence passes it, wherever the text is cut into pieces."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprefill.cli._terminal import TerminalFilter, one_line

from ..support.thorough import usually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Maximum length of a sequence; small, so that short texts reach it.
LIMIT = 8

ENDS = "\x07\x18\x1a\x9c"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Stage(Protocol):
    def feed(self, piece: str) -> str: ...
    def close(self) -> str: ...


def whole_pattern(limit: int) -> re.Pattern[str]:
    """Return a regular expression for all that must be removed from a whole text.

    It is independent of the filter's code.
    """

    def csi(n: int) -> str:
        return rf"(?:[ -?]{{0,{n - 1}}}[@-~]|[ -?]{{0,{n}}})"

    def string(n: int) -> str:
        body = rf"[^{ENDS}\n\x1b]"
        return rf"(?:{body}{{0,{n - 1}}}[{ENDS}]|{body}{{0,{n}}})"

    alternatives = [
        rf"\x1b\[{csi(limit - 1)}",
        rf"\x9b{csi(limit)}",
        rf"\x1b[\]PX^_]{string(limit - 1)}",
        rf"[\x90\x98\x9d-\x9f]{string(limit)}",
        rf"\x1b[ -/](?:[ -/]{{0,{limit - 2}}}[0-~]|[ -/]{{0,{limit - 1}}})",
        r"\x1b[0-~]",
        OBEYED.pattern,
    ]
    return re.compile("|".join(alternatives))


def reference(text: str, limit: int = LIMIT) -> str:
    return whole_pattern(limit).sub("", text)


def through(stage: Stage, pieces: list[str]) -> str:
    return "".join([*map(stage.feed, pieces), stage.close()])


def cuts(text: str) -> Iterator[list[str]]:
    """Yield the text whole, one character at a time, and cut in two at every position."""
    yield [text]
    yield list(text)
    yield from ([text[:at], text[at:]] for at in range(1, len(text)))


def small() -> TerminalFilter:
    return TerminalFilter(max_sequence_chars=LIMIT)


def check(make: Callable[[], Stage], text: str, pieces: list[str] | None = None) -> None:
    """Check that at every cut the filter gives the reference's text, and that this contains no control character."""
    expected = reference(text)
    assert not OBEYED.search(expected)
    for cut in [pieces] if pieces is not None else cuts(text):
        assert through(make(), cut) == expected, cut


#: text -> the expected text, written by hand; the reference is checked with these too
CASES = {
    "plain \u00e9\u4e2d\U0001f600\ttab\nline": "plain \u00e9\u4e2d\U0001f600\ttab\nline",
    "a\x1b[1mb": "ab",
    "a\x1b[2Jb": "ab",
    "a\x1b[?25lb": "ab",
    "a\x1b[1 qb": "ab",
    "a\x9b31mb": "ab",
    "a\x1b]0;t\x07b": "ab",
    "a\x1b]0;t\x1b\\b": "ab",
    "a\x1b]0;t\x9cb": "ab",
    "a\x9d52;c\x07b": "ab",
    "a\x9d52;c\x9cb": "ab",
    "a\x1bPq#\x1b\\b": "ab",
    "a\x90q\x9cb": "ab",
    "a\x1bXx\x1b\\b": "ab",
    "a\x1b^x\x1b\\b": "ab",
    "a\x1b_x\x1b\\b": "ab",
    "a\x98x\x9cb\x9ex\x9cc\x9fx\x9cd": "abcd",
    "a\x1bcb": "ab",
    "a\x1b7b\x1b8c": "abc",
    "a\x1b(0b": "ab",
    "a\x1b#8b": "ab",
    "a\x1b%Gb": "ab",
    # sequences that are cancelled, restarted or broken off
    "a\x1b]0;t\x18b": "ab",
    "a\x1b]0\x1b[1mb": "ab",
    "a\x1b[1\x1b[2mb": "ab",
    "a\x1b\x1b[1mb": "ab",
    "a\x1b\u00e9b": "a\u00e9b",
    "a\x1b[1\u00e9b": "a\u00e9b",
    "a\x1b[1\nb": "a\nb",
    "a\x1b\nb": "a\nb",
    # an unclosed string ends at the line end, or at the maximum length
    "a\x1b]0;t\nb": "a\nb",
    "a\x1b]1234567b": "ab",
    "a\x9d12345678b": "ab",
    "a\x1b[1234567m": "am",
    "a\x9b12345678m": "am",
    "a\x1b(((((((((B": "a(B",
    # single characters
    "a\rb\r\nc": "ab\nc",
    "a\x00\x07\x08\x0b\x0c\x0e\x0f\x7fb": "ab",
    "a\x80\x85\x8d\x9cb": "ab",
    "a\u202eb\u2066c\u2069d": "abcd",
    "\u0634\u200f\u05d0\u200e\u061c": "\u0634\u200f\u05d0\u200e\u061c",
    # texts that are removed completely
    "\x1b": "",
    "\x1b[": "",
    "\x1b]": "",
}


@pytest.mark.parametrize("text", CASES, ids=ascii)
def test_at_every_cut(text: str) -> None:
    """For each case the reference gives the expected text, and the filter gives it at every cut."""
    assert reference(text) == CASES[text]
    check(small, text)


PIECES = st.one_of(
    st.sampled_from(["\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1b\\", "\x9b", "\x9d", "\x90", "\x9c", "\x07", "\n", "\r"]),
    st.sampled_from([*"[]P\\;:0159 !/m~@Aa\t\u00e9\u202e\u2066", "12345678", "\x18", "\x00", "\x7f", "\x85"]),
    st.characters(),
)


@settings(derandomize=True, deadline=None, max_examples=usually(100, 300))
@given(st.lists(PIECES, max_size=12).map("".join))
def test_any_text_at_every_cut(text: str) -> None:
    """For any text the filter gives the reference's text at every cut in two."""
    check(small, text)


@settings(derandomize=True, deadline=None, max_examples=usually(100, 300))
@given(st.lists(st.lists(PIECES, max_size=6).map("".join), max_size=8))
def test_any_text_at_random_cuts(pieces: list[str]) -> None:
    """For any text the filter gives the reference's text at random cuts, also with empty pieces."""
    check(small, "".join(pieces), pieces)


class PieceByPiece:
    """A broken filter: it forgets between two pieces that it is inside a sequence."""

    def feed(self, piece: str) -> str:
        return reference(piece)

    def close(self) -> str:
        return ""


@pytest.mark.parametrize("text", ["a\x1b[1mb", "a\x1b]0;t\x07b", "a\x9d52;c\x9cb"], ids=ascii)
def test_control_a_filter_without_a_memory_is_caught(text: str) -> None:
    """Control: the same check finds a filter that treats each piece alone."""
    with pytest.raises(AssertionError):
        check(PieceByPiece, text)


def test_nothing_is_held_back() -> None:
    """A character is shown as soon as it arrives, or never."""
    screen = TerminalFilter()
    shown = [screen.feed(piece) for piece in ("a", "b\x1b", "]52;c;", "x", "\x07c", "d\r", "\ne")]
    assert shown == ["a", "b", "", "", "c", "d", "\ne"]
    assert screen.close() == ""


def test_an_unclosed_string_costs_a_bounded_part_of_the_reply() -> None:
    """An unclosed string removes at most 4096 characters after ESC, and nothing after the line end."""
    assert TerminalFilter().feed("\x1b]" + "x" * 5000) == "x" * 905
    assert TerminalFilter().feed("\x1b]" + "x" * 100 + "\nrest") == "\nrest"
    check(TerminalFilter, "\x1b]short\x07")
    assert reference("\x1b]" + "x" * 5000, 4096) == "x" * 905


def test_a_message_is_one_line_and_obeyed_by_nothing() -> None:
    """An error message that quotes a provider is one line without control sequences."""
    assert one_line("HTTP 400:\r\n\tbad\x1b]0;title\x07 \u2028 thing\x1b[31m!") == "HTTP 400: bad thing!"


def test_the_examples_in_the_docstring() -> None:
    """The docstring's example is true."""
    import doctest

    from aprefill.cli import _terminal

    found = doctest.testmod(_terminal)
    assert found.attempted
    assert not found.failed

"""`dedupe` and `dedupe_sync`: the prefill appears exactly once, over any stream of text."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import UsageError, Verdict, dedupe, dedupe_sync

from .support.seam_reference import Batch, cuttings, groups
from .support.sources import Held, gives, listed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


CASES: list[tuple[list[str | None], str, dict[str, Any], list[str]]] = [
    (["", None, "abc", "def"], "abc", {}, ["abc", "def"]),
    (["", None, "def"], "abc", {}, ["abc", "def"]),
    ([], "abc", {}, ["abc"]),
    ([None, ""], "abc", {}, ["abc"]),
    (["abc"], "abc", {}, ["abc"]),
    (["a", "b"], "abc", {}, ["abc", "ab"]),
    (["a", "bcd"], "abc", {"show_when": "now"}, ["abc", "d"]),
    (["a", "bcd"], "abc", {"show_when": "never"}, ["d"]),
    (["abc"], "abc", {"show_when": "never"}, []),
    (["x"], "", {}, ["x"]),
    ([], "", {}, []),
    (["abcabc"], "abc", {"echo": "never"}, ["abc", "abcabc"]),
    (["```\nab", "c\n```"], "abc", {"fence": True}, ["abc"]),
    (["Sure:\n```\nab", "cd\n```"], "abc", {"fence": True, "preamble": 40}, ["abc", "d"]),
    (["a b", " c d"], "abc", {"whitespace": True}, ["abc", " d"]),
]


@pytest.mark.parametrize(("chunks", "prefill", "rules", "expected"), CASES)
def test_sync_text(chunks: list[str | None], prefill: str, rules: dict[str, Any], expected: list[str]) -> None:
    """The prefill is a separate chunk, at the time of `show_when`, and no chunk is empty."""
    assert list(dedupe_sync(chunks, prefill, **rules)) == expected
    assert list(dedupe_sync(iter(chunks), prefill, **rules)) == expected


@pytest.mark.any_loop
@pytest.mark.anyio
@pytest.mark.parametrize(("chunks", "prefill", "rules", "expected"), CASES)
async def test_async_text(chunks: list[str | None], prefill: str, rules: dict[str, Any], expected: list[str]) -> None:
    """An asynchronous source gives the same chunks."""
    assert await listed(dedupe(gives(*chunks), prefill, **rules)) == expected


def test_every_cut_gives_the_prefill_and_the_batch_rules() -> None:
    """At every cut the joined chunks are the prefill and the new text, as the batch rules of the seam define it."""
    for seed, (known, rules, _, raws) in enumerate(groups(1500, seed=8)):
        ours = {name: value for name, value in rules.items() if name not in {"overlap", "stripped"}}
        for raw in raws:
            expected = known + Batch(known, **ours)(raw)[0]
            for pieces in cuttings(raw, random.Random(seed), 1):
                chunks = list(dedupe_sync(pieces, known, **ours))
                assert "".join(chunks) == expected
                assert all(chunks)


@pytest.mark.anyio
async def test_now_shows_the_prefill_before_the_first_pull() -> None:
    """With `show_when="now"` the prefill comes before the source is asked for its iterator."""

    class Untouched:
        def __aiter__(self) -> AsyncIterator[str]:
            raise AssertionError("pulled")

    assert await anext(dedupe(Untouched(), "abc", show_when="now")) == "abc"


@pytest.mark.anyio
async def test_next_and_for_go_together() -> None:
    """A first chunk from `anext` or `next` and a loop after it give the complete text."""
    chunks = dedupe(gives("def", "ghi"), "abc")
    assert await anext(chunks) == "abc"
    assert await listed(chunks) == ["def", "ghi"]
    sync = dedupe_sync(["def", "ghi"], "abc")
    assert next(sync) == "abc"
    assert list(sync) == ["def", "ghi"]


@pytest.mark.anyio
async def test_the_verdict_is_told() -> None:
    """`verdict` is `UNDECIDED` before the text, and the final verdict after it."""
    chunks = dedupe(gives("ab", "cd"), "abc")
    before = chunks.verdict
    await listed(chunks)
    assert (before, chunks.verdict) == (Verdict.UNDECIDED, Verdict.ECHOED)
    sync = dedupe_sync(["x"], "abc")
    list(sync)
    assert sync.verdict is Verdict.ABSENT


@pytest.mark.parametrize(
    "arguments",
    [
        {"prefill": None},
        {"prefill": b"abc"},
        {"show_when": "later"},
        {"echo": "always"},
        {"preamble": -1},
        {"echo": "never", "fence": True},
        {"chunks": 5},
        {"chunks": None},
    ],
    ids=str,
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    """A wrong argument raises `UsageError` at the call, not at the first chunk."""
    rest = {"prefill": "abc"} | arguments
    with pytest.raises(UsageError):
        dedupe(rest.pop("chunks", gives()), **rest)
    rest = {"prefill": "abc"} | arguments
    with pytest.raises(UsageError):
        dedupe_sync(rest.pop("chunks", []), **rest)


def test_the_wrong_kind_of_iterable() -> None:
    """For the wrong kind of iterable, the error names the other function."""
    with pytest.raises(UsageError, match="dedupe_sync"):
        dedupe(["abc"], "abc")
    with pytest.raises(UsageError, match=r"dedupe\(\)"):
        dedupe_sync(gives(), "abc")


@pytest.mark.anyio
async def test_a_chunk_that_is_no_text() -> None:
    """A chunk that is not a str, such as an SDK's event, raises `UsageError`, and the source is closed."""
    source = Held()
    source.chunks = ["abc", 5]
    with pytest.raises(UsageError, match="map the stream"):
        await listed(dedupe(source, "abc"))
    assert source.closed.is_set()
    with pytest.raises(UsageError, match="map the stream"):
        list(dedupe_sync([5], "abc"))

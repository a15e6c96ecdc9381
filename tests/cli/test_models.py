"""`aprefill models`, which prints the support table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aprefill import support_table

if TYPE_CHECKING:
    from .conftest import Cli


def test_a_line_a_pattern(cli: Cli) -> None:
    """Every pattern of the table has its line, under one head, in the table's order."""
    done = cli("models")
    assert (done.code, done.err) == (0, "")
    head, *lines = [line.split() for line in done.out.decode().splitlines()]
    assert head == ["provider", "api", "model", "support", "dialect", "evidence"]
    assert lines == [
        [row.provider, row.api, pattern, row.support.value, row.dialect, row.evidence]
        for row in support_table()
        for pattern in row.models
    ]


def test_one_provider(cli: Cli) -> None:
    """With a provider's name, only the rows of this provider are printed."""
    assert cli("models", "demo").out.decode().splitlines()[1:3] == [
        "demo      chat  eats      eats      trailing  engine",
        "demo      chat  echoes    echoes    trailing  engine",
    ]


def test_a_provider_by_another_of_its_names(cli: Cli) -> None:
    """The aliases of a provider that `-m` accepts are accepted here too."""
    assert cli("models", "llama.cpp").out == cli("models", "llama_cpp").out != b""


def test_as_json(cli: Cli) -> None:
    """With `--json` the output is a list of rows that have more fields than the columns."""
    found = json.loads(cli("models", "anthropic", "--json").out)
    assert [row["provider"] for row in found] == ["anthropic"] * len(found)
    assert found[0]["models"][0] == "claude-haiku-4-5"
    assert set(found[0]) == {
        "provider", "api", "models", "support", "dialect", "evidence", "guess", "source", "date", "note",
    }  # fmt: skip
    assert len(json.loads(cli("models", "--json").out)) == len(support_table())

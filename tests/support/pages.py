"""The code blocks of the documentation, and loopback hosts instead of the providers that they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from aprefill import SupportTable

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """Return (id, text) of a page's code blocks in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        if match[1] == language:
            line = text[: match.start()].count("\n") + 2
            found.append((f"{page}:{line}", match[2]))
    return found


def recipe(heading: str, language: str = "python") -> list[str]:
    """Return the code blocks under one heading of the page of recipes."""
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [match[2] for match in BLOCK.finditer(section) if match[1] == language]


def changed(code: str, line: str, by: str) -> str:
    """Return `code` with `line` replaced. It must occur once. The result is a wrong recipe, as a control."""
    assert code.count(line) == 1, line
    return code.replace(line, by)


#: The providers that the recipes name, with the api that they use.
APIS = {"anthropic": "messages", "openai": "chat", "mistral": "chat"}


def lead_to(urls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make these providers' models use these URLs, with their usual support for prefills. Keys are set too."""
    rows = (f'[[host]]\nprovider = "{name}"\napi = "{APIS[name]}"\nbase_url = "{url}"\n' for name, url in urls.items())
    table = SupportTable.load("".join(rows))
    monkeypatch.setattr("aprefill._session.builtin_table", lambda: table)
    for name in urls:
        monkeypatch.setenv(f"{name.upper()}_API_KEY", "k")

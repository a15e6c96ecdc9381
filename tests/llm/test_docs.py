"""The commands and the Python of docs/llm.md run, with a host on loopback."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

from aprefill.testing import Received, Script, serve_in_thread

from .hosts import ASKED

if TYPE_CHECKING:
    from .conftest import Run

PAGE = (Path(__file__).parents[2] / "docs" / "llm.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def host(received: Received) -> Script:
    found = ASKED.search(received.last_user_text)
    texts = {'["': 'Alabama", "Alaska"]', "```python": "\nprint()\n```\nThat was it."}
    text = texts.get(found[1], "France") if found else "California"
    return Script(text=text, prefill="echoes", echo_text=found[1]) if found else Script(text=text)


def test_it_runs(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every `$ llm` line except the installation, and every Python block, runs in order."""
    with serve_in_thread(host) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        count = 0
        for language, block in BLOCKS:
            for command in re.findall(r"^\$ llm (.*)$", block, re.MULTILINE):
                if language == "console" and not command.startswith("install"):
                    said = run(*shlex.split(command)).output
                    assert said or "--save" in command, command
                    count += 1
            if language == "python":
                exec(compile(block, "docs/llm.md", "exec"), {"__name__": "__main__"})
                assert "Alaska" in capsys.readouterr().out
                count += 1
    assert count >= 12


def test_what_llm_logs_shows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The excerpt of LLM's log is what LLM prints."""
    excerpt = next(block for language, block in BLOCKS if language == "text")
    with serve_in_thread(host) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        assert run("-m", "gpt-4o", "States", "--prefill", '["').stdout == '["Alabama", "Alaska"]\n'
    assert excerpt.strip() in run("logs").output

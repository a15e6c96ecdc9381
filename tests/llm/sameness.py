"""What LLM prints for commands without a prefill. test_load.py runs this in a process of its own.

It prints JSON: command -> output, without the parts that differ in every run. `LLM_LOAD_PLUGINS` says which plugins are
loaded.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from typing import Any

os.environ["LLM_USER_PATH"] = tempfile.mkdtemp(prefix="aprefill-same-")

import click
import llm
from click.testing import CliRunner
from llm.cli import cli

_FILES = tempfile.mkdtemp(prefix="aprefill-same-")
PICTURE, DOCUMENT = os.path.join(_FILES, "a.png"), os.path.join(_FILES, "doc.txt")
with open(PICTURE, "wb") as file:
    file.write(b"\x89PNG\r\n\x1a\n")
with open(DOCUMENT, "w") as file:
    file.write("A document.")

#: The order matters: a command may use what earlier commands have left.
COMMANDS: list[tuple[list[str], str | None]] = [
    (["plugins", "--all"], None),
    (["models"], None),
    (["models", "--options"], None),
    (["models", "--json"], None),
    (["models", "--async", "--tools"], None),
    (["models", "-q", "echo"], None),
    (["models", "default"], None),
    (["models", "default", "echo"], None),
    (["aliases", "set", "e", "echo"], None),
    (["aliases", "list"], None),
    (["-m", "echo", "hi"], None),
    (["-m", "e", "hi", "--no-stream", "-s", "system"], None),
    (["prompt", "-m", "echo", "hi", "--async"], None),
    (["-m", "echo", "hi", "-o", "example_bool", "1", "-o", "thinking", "1"], None),
    (["-m", "echo", "hi", "-o", "nope", "1"], None),
    (["-m", "echo", "hi", "--json"], None),
    (["-m", "echo", "hi", "-u", "-x"], None),
    (["-m", "echo", "--options"], None),
    (["-q", "ech", "hi"], None),
    (["-c", "again"], None),
    (["-m", "echo", '{"raw": "```python\\nx\\n```"}', "-x"], None),
    (["-m", "echo", '{"tool_calls": [{"name": "llm_version"}], "prompt": "x"}', "-T", "llm_version", "--td"], None),
    (["-m", "echo", "hi", "--schema", "name, age int"], None),
    (["-m", "echo", "about $x", "--save", "about"], None),
    (["-t", "about", "-p", "x", "1"], None),
    (["-t", "about"], None),
    (["templates", "list"], None),
    (["templates", "show", "about"], None),
    (["chat", "-m", "echo"], "one\n!multi\ntwo\n!end\nquit\n"),
    (["chat", "-m", "echo", "-t", "about", "-p", "x", "1"], "one\nquit\n"),
    (["chat", "-c"], "three\nquit\n"),
    (["models", "options", "set", "echo", "example_bool", "1"], None),
    (["-m", "echo", "hi", "--no-stream"], None),
    (["logs", "-n", "0"], None),
    (["logs", "-n", "0", "--json"], None),
    (["logs", "-s", "-u"], None),
    (["logs", "status"], None),
    (["logs", "-q", "again"], None),
    (["logs", "-m", "echo", "-n", "1", "-r"], None),
    (["logs", "-T", "llm_version"], None),
    (["logs", "-c", "-t"], None),
    (["-m", "nope", "hi"], None),
    (["-m", "echo", "hi", "-t", "nope"], None),
    (["-m", "echo", "hi", "-a", PICTURE], None),
    (["-m", "echo", "hi", "--at", PICTURE, "image/png", "--async"], None),
    (["-m", "echo", "hi", "-a", "nothing.png"], None),
    (["fragments", "set", "doc", DOCUMENT], None),
    (["fragments", "list"], None),
    (["-m", "echo", "hi", "-f", "doc", "--sf", DOCUMENT, "--no-stream"], None),
    (["-m", "echo", "-f", "doc", "-s", "be short", "--save", "doc"], None),
    (["-t", "doc", "more", "-t", "about", "-p", "x", "2"], None),
    (["-m", "echo", "about $x", "-o", "example_bool", "1", "--save", "told"], None),
    (["-t", "told", "-p", "x", "3", "--async"], None),
    (["-c", "on", "-o", "example_bool", "0"], None),
    (["-m", "echo", "hi", "--functions", "def up(x: str) -> str:\n    return x.upper()"], None),
    (["-m", "echo", "hi", "-T", "nope"], None),
    (["-m", "echo", "hi", "-T", "llm_time", "--cl", "1"], None),
    (["-m", "echo-needs-key", "hi"], None),
    (["-m", "echo-needs-key", "hi", "--key", "sk-1"], None),
    (["keys", "set", "echo-needs-key", "--value", "sk-2"], None),
    (["-m", "echo-needs-key", "hi", "--async"], None),
    (["-m", "echo", "hi", "-R", "-n"], None),
    (["-m", "echo"], "from a pipe"),
    (["-m", "echo", "and this"], "from a pipe"),
    (["prompt", "-m", "echo", "hi", "--xl"], None),
    (["tools", "list"], None),
    (["schemas", "list"], None),
    (["embed-models", "list"], None),
    (["models", "options", "list"], None),
    (["logs", "off"], None),
    (["-m", "echo", "hi", "--log"], None),
    (["logs", "status"], None),
    (["hi", "--log", "--no-log"], None),
]

#: What differs in every run: times, ids, directories.
_VARIES = re.compile(
    r"[0-9a-hjkmnp-tv-z]{26}|\d{4}-\d\d-\d\d[T ][\d:.+]+|\S*aprefill-same-\w+|b2:[0-9a-f]+|[0-9a-f]{64}|\"duration_ms\": \d+|"
    r"\d+(\.\d+)?(ms|s|KB|B)\b|\(\d+s\)|duration_ms: \d+"
)


def helps(command: click.Command, path: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the help of every command, by its name."""
    found = {" ".join(path): CliRunner().invoke(cli, [*path, "--help"]).output}
    if isinstance(command, click.Group):
        for name, one in sorted(command.commands.items()):
            found |= helps(one, (*path, name))
    return found


def schema(path: str) -> list[str]:
    """Return the tables of LLM's log."""
    import sqlite3

    with sqlite3.connect(path) as db:
        return sorted(str(row[0]) for row in db.execute("select sql from sqlite_master"))


def main() -> dict[str, Any]:
    out = {}
    for arguments, typed in COMMANDS:
        result = CliRunner().invoke(cli, arguments, input=typed)
        out[_VARIES.sub("*", " ".join(arguments))] = [result.exit_code, _VARIES.sub("*", result.output)]
    models = [(one.model.model_id, type(one.model).__name__, one.aliases) for one in llm.get_models_with_aliases()]
    return {
        "commands": out,
        "helps": helps(cli),
        "models": [list(one) for one in models],
        "schema": schema(os.path.join(os.environ["LLM_USER_PATH"], "logs.db")),
    }


if __name__ == "__main__":
    json.dump(main(), sys.stdout)

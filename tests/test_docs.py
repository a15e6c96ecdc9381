"""The documentation is true: every code block runs, generated pages are up to date, and docstring examples pass."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import io
import json
import os
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest
from starlette.routing import WebSocketRoute

import aprefill
from aprefill import SupportTable
from aprefill.testing import Received, Script, serve_in_thread

from .support.pages import ROOT, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = [
    "README.md",
    "docs/how-it-works.md",
    "docs/seam.md",
    "docs/testing.md",
    "docs/cli.md",
    "docs/clients.md",
    "docs/refused.md",
    "docs/recipes.md",
    "docs/web.md",
    "CONTRIBUTING.md",
]
#: Pages whose Python blocks are run by another test file, which also checks what they do.
RUN_ELSEWHERE = {"docs/recipes.md": "tests/test_recipes.py"}


def params(language: str) -> list[Any]:
    pages = [page for page in PAGES if page not in RUN_ELSEWHERE]
    return [pytest.param(text, id=where) for page in pages for where, text in blocks(page, language)]


def reply_to(received: Received) -> Script:
    """Return the reply to a request of the documentation, which continues the prefill."""
    if received.last_user_text.endswith('\n\n["'):
        return Script(text='Alabama", "Alaska"]', prefill="echoes", echo_text='["')
    texts = {'["': 'Alabama", "Alaska"]', "country: ": "France\ncapital: Paris\n\nAnd more"}
    return Script(text=texts.get(received.prefill, "Hello, world."), prefill="eats")


@pytest.fixture
def loopback_for_all(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve every provider of the documentation on loopback, so that its code blocks run unchanged."""
    with serve_in_thread(reply_to) as server:
        over = "".join(
            f'[[host]]\nprovider = "{provider}"\napi = "{api}"\nbase_url = "{url}"\n'
            for provider, api, url in (
                ("anthropic", "messages", server.url),
                ("gemini", "native", f"{server.url}/v1beta"),
                ("vllm", "chat", server.openai_url),
            )
        )
        table = SupportTable.load(over)
        monkeypatch.setattr("aprefill._session.builtin_table", lambda: table)
        real_resolve = importlib.import_module("aprefill._hosts.target").resolve

        def resolve(table: SupportTable, *, base_url: str | None, **rest: Any) -> Any:
            # a testing server that the block has started itself is used as it is
            moved = (
                base_url if base_url and base_url.startswith("http://127.0.0.1:") else base_url and server.openai_url
            )
            return real_resolve(table, base_url=moved, **rest)

        monkeypatch.setattr("aprefill._session.resolve", resolve)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        monkeypatch.setenv("GEMINI_API_KEY", "k")
        move_sdk_clients(monkeypatch, server)
        yield server.url


def move_sdk_clients(monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    """Make the SDK clients of the documentation use the loopback host too."""
    for variable in ("ANTHROPIC", "ANTHROPIC_VERTEX", "ANTHROPIC_BEDROCK", "ANTHROPIC_FOUNDRY"):
        monkeypatch.setenv(f"{variable}_BASE_URL", server.url)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url)
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")

    class AsyncOpenAI(openai.AsyncOpenAI):
        def __init__(self, **options: Any) -> None:
            if options.get("base_url") == "http://localhost:8000/v1":
                options["base_url"] = server.openai_url
            super().__init__(**options)

    monkeypatch.setattr("openai.AsyncOpenAI", AsyncOpenAI)


def test_pages_that_run_elsewhere_do() -> None:
    """The test file that is listed for a page names this page."""
    for page, test_file in RUN_ELSEWHERE.items():
        assert page in PAGES
        assert page in (ROOT / test_file).read_text(encoding="utf-8")


@pytest.mark.parametrize("code", params("python"))
def test_python_blocks_run(code: str, loopback_for_all: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each Python block is a complete program that runs as printed."""
    space = {"__name__": "__main__"}
    exec(compile(code, "block", "exec"), space)
    printed = capsys.readouterr().out
    if "demo:ignores" in code:
        assert printed.startswith("ignores did not begin its reply with the prefill")
    elif "demo:refuses" in code:
        assert printed == "[('native', 400), ('emulated', 200)]\n"
    elif "demo:" in code:
        assert printed.startswith('["Alabama", "Alaska", ')
    elif "JSON list of US state names" in code or "from_any_sdk" in code:
        assert printed.startswith("Hello, world." if "Azure" in code else '["Alabama", "Alaska"]')
    if "claude-opus-4-6" in code:
        assert printed.endswith("emulated, echoed\n")
    if "country: " in code:
        assert printed.count("country: France\ncapital: Paris\n") == 2
    if "FastAPI" in code:
        talk_to(space["app"], code)


def talk_to(app: Any, code: str) -> None:
    """Check that the example streams a reply, as server-sent events or over a WebSocket.

    With `keep_open` it streams two.
    """
    from fastapi.testclient import TestClient

    prompt = "JSON list of US state names"
    with TestClient(app) as client:
        if any(isinstance(route, WebSocketRoute) for route in app.routes):
            with client.websocket_connect("/chat") as ws:
                if "while True" in code:
                    # this stop is too late for a reply, and the next messages are no valid questions either
                    ws.send_json({"type": "stop"})
                    ws.send_text("[" * 5000)
                    ws.send_bytes(b"x")
                    ws.send_json({"prompt": ""})
                    assert ws.receive_json()["error"] == "UsageError"
                for _ in range(2 if "keep_open=True" in code else 1):
                    ws.send_json({"prompt": prompt})
                    records = [ws.receive_json()]
                    while records[-1]["type"] != "end":
                        records.append(ws.receive_json())
        else:
            body = client.post("/chat", json={"prompt": prompt, "prefill": '["'}).text
            records = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
    text = "".join(record["text"] for record in records if record["type"] == "text")
    assert text == ('["Alabama", "Alaska"]' if "prefill" in code.replace("aprefill", "") else "Hello, world.")
    assert records[-1]["type"] == "end"


#: Commands that install something or run this test suite. They are not run here.
SET_UP = ("python3 -m venv", ".venv/bin/pip", ".venv/bin/pytest", "git clone", "pip install")


def commands(block: str) -> list[str]:
    """Return the commands of a console block: its lines that begin with `$ `, with continued lines joined."""
    return [line[2:] for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ ")]


def demo_commands() -> list[Any]:
    found = []
    for page in PAGES:
        for where, block in blocks(page, "console"):
            for number, command in enumerate(commands(block)):
                tail = command.rpartition(" && ")[2] if command.startswith(SET_UP) else command
                if "aprefill " in tail and not tail.startswith(SET_UP):
                    found.append(pytest.param(tail, id=f"{where}+{number}"))
    return found


@pytest.mark.parametrize("command", demo_commands())
def test_command_lines_run(command: str) -> None:
    """Each `aprefill` command of the documentation runs on the demo model, or says in one line what is missing."""
    command = command.replace(".venv/bin/aprefill", "aprefill")
    command = re.sub(r"\baprefill ", f"{shlex.quote(sys.executable)} -P -m aprefill ", command, count=1)
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH"}}
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, input=""
    )
    if done.returncode:
        assert done.returncode in {1, 2}, done.stderr
        assert done.stderr.count("\n") <= 2
        assert done.stderr.startswith("aprefill: "), done.stderr
        assert "-m " in command or "--model" in command or "export" in command, done.stderr
    else:
        assert done.stdout


def test_the_readme_has_its_two_commands() -> None:
    """The README has a command for the demo model and one for the tests. Continuous integration runs the second."""
    found = [command for _, block in blocks("README.md", "console") for command in commands(block)]
    assert found[0].endswith("""aprefill -m demo: 'US states' --prefill '["'""")
    ci = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith((".venv", "python3"))]
    steps = [step.replace("--quiet ", "") for step in found[1].split(" && ")]
    assert steps[-1].endswith("/nox")
    # continuous integration runs more commands after these
    assert [line.replace("--quiet ", "") for line in ci][: len(steps)] == steps


@pytest.mark.parametrize("script", ["_support_table.py", "_reference.py"])
def test_generated_pages_are_fresh(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed page is what its generator writes."""
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as done:
        runpy.run_path(str(ROOT / "docs" / script), run_name="__main__")
    assert done.value.code in {0, None}


def modules() -> list[str]:
    found = pkgutil.walk_packages(aprefill.__path__, "aprefill.")
    names = [m.name for m in found if not m.name.endswith("__main__")]
    # LLM is a separate extra: see `nox -s llm`
    return names if importlib.util.find_spec("llm") else [name for name in names if "llm_plugin" not in name]


def test_docstring_examples_hold() -> None:
    """Every doctest of the package passes, and each pure stage has one."""
    tried = {}
    for name in modules():
        result = doctest.testmod(importlib.import_module(name))
        assert result.failed == 0, name
        tried[name] = result.attempted
    for stage in ("_seam.seam", "_seam.stop", "_wire.sse", "_wire.ndjson"):
        assert tried[f"aprefill.{stage}"] > 0, stage


#: A Markdown link, inline or by reference, with its target.
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)
#: A file of the repository that is named in the text, such as `docs/web.md`.
NAMED = re.compile(r"`((?:docs|tests|benchmarks|aprefill)/[\w./-]+\.(?:md|py|toml|html|svg))`")


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose(text: str) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^(`{3,})[^`\n]*\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)


def dead_links(pages: dict[Path, str]) -> list[str]:
    """Return the links, and the names of files, that lead nowhere."""
    dead = []
    for page, text in pages.items():
        for match in LINK.finditer(prose(text)):
            target, _, anchor = (match[1] or match[2]).partition("#")
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            path = (page.parent / target).resolve() if target else page
            inside = path.is_relative_to(ROOT) and path.exists()
            if inside and anchor and path.suffix == ".md":
                there = prose(pages.get(path) or path.read_text("utf-8"))
                anchors = [
                    *map(slug, re.findall(r"^#+ (.+)$", there, re.MULTILINE)),
                    *re.findall(r'<a id="(.+?)">', there),
                ]
                inside = anchor in anchors
            if not inside:
                dead.append(f"{page.name}: {match[1] or match[2]}")
        dead += [f"{page.name}: {name}" for name in NAMED.findall(prose(text)) if not (ROOT / name).exists()]
    return dead


def test_no_link_is_dead() -> None:
    """Every link of every page leads to an existing file and heading of the repository."""
    pages = {path: path.read_text("utf-8") for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]}
    assert len(pages) > 15
    assert dead_links(pages) == []


@pytest.mark.parametrize(
    "text",
    [
        "[x](missing.md)",
        "[x](../../outside.md)",
        "[x](#no-such-heading)",
        "[x](how-it-works.md#no-such-heading)",
        "[x][1]\n\n[1]: missing.md\n",
        "see `tests/missing.py`",
    ],
)
def test_control_a_dead_link_is_found(text: str) -> None:
    """Control: each kind of broken link is found, and a correct link is not reported."""
    page = ROOT / "docs" / "web.md"
    assert len(dead_links({page: f"# A heading\n\n[y](#a-heading) [z](../README.md) {text}"})) == 1


def test_it_is_the_installed_wheel_that_is_tested() -> None:
    """Under nox the package is imported from site-packages, not from the checkout."""
    if os.environ.get("APREFILL_INSTALLED") != "1":
        pytest.skip("not under nox: the checkout itself is tested")
    assert "site-packages" in Path(aprefill.__file__).parts


def test_the_numbers_of_the_readme_are_those_of_the_pages() -> None:
    """The README's numbers for CPU and for silent faults are those of the pages that it links to."""
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    cpu = (ROOT / "docs/benchmarks.md").read_text("utf-8").partition("### CPU")[2].partition("### Time")[0]
    lines = [line for line in cpu.splitlines() if "x)" in line]
    rows = {line.split(" | ")[0].strip("| "): re.findall(r"\((.+?)x\)", line) for line in lines}
    ours = sorted((row[1] for row in rows.values()), key=float)
    chat, messages = (
        sorted((row[2] for name, row in rows.items() if wire in name), key=float) for wire in ("chat", "messages")
    )
    assert f"takes {ours[0]} to {ours[-1]} times the CPU of bare httpx2" in readme
    assert f"openai SDK takes {chat[0]} to {chat[-1]} times" in readme
    assert f"anthropic SDK {messages[0]} to {messages[-1]} times" in readme
    page = (ROOT / "docs/reliability.md").read_text("utf-8")
    (faults,) = re.findall(r"^\| Of (\d+) faults", page, re.MULTILINE)
    ((aprefill_, openai_, anthropic_),) = re.findall(
        r"^\| \*silent\* \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE
    )
    assert aprefill_ == "0"
    assert f"after {openai_} of {faults} host faults, the openai SDK's stream ends as if the reply were whole" in readme
    assert f"With the anthropic SDK it is {anthropic_}, with aprefill none" in readme


def test_the_readme_is_short() -> None:
    """The README has fewer than 700 words outside of code, and no line of any page is longer than 120 characters."""
    assert len(prose((ROOT / "README.md").read_text("utf-8")).split()) < 700
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    long = [f"{page.name}:{number}" for page in pages for number, line in lines_of(page) if len(line) > 120]
    assert long == []


def lines_of(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page that can be wrapped. A reference link alone on its line cannot."""
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if not re.fullmatch(r"\[[^\]]+\]: \S+", line):
            yield number, line

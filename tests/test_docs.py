"""The documents tell the truth: every code block runs, generated pages are fresh, docstring examples hold."""

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
#: Pages whose blocks of Python have tests of their own, which look at what each of them does.
RUN_ELSEWHERE = {"docs/recipes.md": "tests/test_recipes.py"}


def params(language: str) -> list[Any]:
    pages = [page for page in PAGES if page not in RUN_ELSEWHERE]
    return [pytest.param(text, id=where) for page in pages for where, text in blocks(page, language)]


def reply_to(received: Received) -> Script:
    """A host that goes on from whatever the documents prefill."""
    if received.last_user_text.endswith('\n\n["'):
        return Script(text='Alabama", "Alaska"]', prefill="echoes", echo_text='["')
    texts = {'["': 'Alabama", "Alaska"]', "country: ": "France\ncapital: Paris\n\nAnd more"}
    return Script(text=texts.get(received.prefill, "Hello, world."), prefill="eats")


@pytest.fixture
def loopback_for_all(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every provider that the documents name answers on loopback, so that the blocks run as they are printed."""
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
            # a testing server that a block started itself is asked as it stands there
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
    """The SDKs' clients that the documents make ask the loopback host as well."""
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
    """Their blocks are left out here, so the test file that is named has to run them."""
    for page, test_file in RUN_ELSEWHERE.items():
        assert page in PAGES
        assert page in (ROOT / test_file).read_text(encoding="utf-8")


@pytest.mark.parametrize("code", params("python"))
def test_python_blocks_run(code: str, loopback_for_all: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each block of Python is a program of its own and runs as printed."""
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
    """The example streams a reply to a browser, over a WebSocket or as server-sent events; over a kept one, two replies."""
    from fastapi.testclient import TestClient

    prompt = "JSON list of US state names"
    with TestClient(app) as client:
        if any(isinstance(route, WebSocketRoute) for route in app.routes):
            with client.websocket_connect("/chat") as ws:
                if "while True" in code:
                    ws.send_json({"type": "stop"})  # too late for the last reply: asks nothing, as what follows
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


#: Commands that set a machine up or run this very suite: tried in a fresh clone, not from inside the tests.
SET_UP = ("python3 -m venv", ".venv/bin/pip", ".venv/bin/pytest", "git clone", "pip install")


def commands(block: str) -> list[str]:
    """The commands of a console block: its `$ ` lines, continued ones joined."""
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
    """Each `aprefill` command of the documents runs on the demo model, or says in one line what it lacks."""
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
    """One runs the main job on the demo model, one runs the tests; continuous integration runs the second."""
    found = [command for _, block in blocks("README.md", "console") for command in commands(block)]
    assert found[0].endswith("""aprefill -m demo: 'US states' --prefill '["'""")
    ci = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith((".venv", "python3"))]
    steps = [step.replace("--quiet ", "") for step in found[1].split(" && ")]
    assert steps[-1].endswith("/nox")
    # continuous integration runs more behind them
    assert [line.replace("--quiet ", "") for line in ci][: len(steps)] == steps


@pytest.mark.parametrize("script", ["_support_table.py", "_reference.py"])
def test_generated_pages_are_fresh(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed page is what its generator writes now."""
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as done:
        runpy.run_path(str(ROOT / "docs" / script), run_name="__main__")
    assert done.value.code in {0, None}


def modules() -> list[str]:
    found = pkgutil.walk_packages(aprefill.__path__, "aprefill.")
    names = [m.name for m in found if not m.name.endswith("__main__")]
    # LLM is an extra of its own: see `nox -s llm`
    return names if importlib.util.find_spec("llm") else [name for name in names if "llm_plugin" not in name]


def test_docstring_examples_hold() -> None:
    """Every doctest of the package passes, and the pure stages have one."""
    tried = {}
    for name in modules():
        result = doctest.testmod(importlib.import_module(name))
        assert result.failed == 0, name
        tried[name] = result.attempted
    for stage in ("_seam.seam", "_seam.stop", "_wire.sse", "_wire.ndjson"):
        assert tried[f"aprefill.{stage}"] > 0, stage


#: A link of Markdown, inline or by reference, and what it leads to.
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)
#: A file of the repository that a sentence names, such as `docs/web.md`.
NAMED = re.compile(r"`((?:docs|tests|benchmarks|aprefill)/[\w./-]+\.(?:md|py|toml|html|svg))`")


def slug(heading: str) -> str:
    """The anchor that a forge gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose(text: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^(`{3,})[^`\n]*\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)


def dead_links(pages: dict[Path, str]) -> list[str]:
    """What the links of these pages, and the files that they name, lead to in vain."""
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
    """Every link in every page leads to a file of the repository, and to a heading that is there."""
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
    """Each kind of link that leads nowhere; one that leads somewhere is not found."""
    page = ROOT / "docs" / "web.md"
    assert len(dead_links({page: f"# A heading\n\n[y](#a-heading) [z](../README.md) {text}"})) == 1


def test_it_is_the_installed_wheel_that_is_tested() -> None:
    """Under nox the package comes from site-packages, not from the checkout."""
    if os.environ.get("APREFILL_INSTALLED") != "1":
        pytest.skip("not under nox: the checkout itself is tested")
    assert "site-packages" in Path(aprefill.__file__).parts


def test_the_numbers_of_the_readme_are_those_of_the_pages() -> None:
    """CPU for each chunk, and faults that pass in silence: the README has the numbers of the pages that it links to."""
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
    assert f"of {faults} faults of a host, {openai_} end the openai SDK's stream as if the reply were whole" in readme
    assert f"{anthropic_} the anthropic SDK's, and none aprefill's" in readme


def test_the_readme_is_short() -> None:
    """Under 700 words outside code, and no line of any page has more than 120 characters."""
    assert len(prose((ROOT / "README.md").read_text("utf-8")).split()) < 700
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    long = [f"{page.name}:{number}" for page in pages for number, line in lines_of(page) if len(line) > 120]
    assert long == []


def lines_of(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page that can be broken: a link's address, alone on its line, cannot."""
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if not re.fullmatch(r"\[[^\]]+\]: \S+", line):
            yield number, line

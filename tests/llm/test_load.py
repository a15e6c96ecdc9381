"""The plugin in LLM: it is really loaded, it changes nothing until it is used, and it can be removed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

from aprefill.llm_plugin import TESTED

HERE = Path(__file__).parent


def python(*arguments: str, load: str | None = None, code: int = 0, **env: str) -> str:
    """Run Python in a process of its own, in which LLM loads these plugins. None: all that are installed."""
    environ = {name: value for name, value in os.environ.items() if name != "LLM_LOAD_PLUGINS"}
    if load is not None:
        environ["LLM_LOAD_PLUGINS"] = load
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        env={**environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + (done.stderr if code else "")


def llm(*arguments: str, load: str | None = None, code: int = 0) -> str:
    return python("-m", "llm", *arguments, load=load, code=code)


def test_control_that_it_is_loaded() -> None:
    """Control: `LLM_LOAD_PLUGINS=aprefill` loads only this plugin, and an empty value loads none."""
    loaded = json.loads(llm("plugins", load="aprefill"))
    assert [(one["name"], sorted(one["hooks"])) for one in loaded] == [
        ("aprefill", ["register_commands", "register_models"])
    ]
    assert json.loads(llm("plugins", load="")) == []
    assert "--prefill" in llm("prompt", "--help", load="aprefill")
    assert "--prefill" not in llm("prompt", "--help", load="")


def test_the_tested_versions_are_said_once() -> None:
    """The versions that the extra allows are those that the plugin says it was tested with."""
    pyproject = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    low, high = (".".join(map(str, bound)) for bound in TESTED)
    assert pyproject["project"]["optional-dependencies"]["llm"] == [f"llm>={low},<{high.removesuffix('.0')}"]


@pytest.fixture(scope="module")
def sames() -> tuple[dict[str, Any], dict[str, Any]]:
    """What LLM prints without the plugin, and with it."""
    pytest.importorskip("llm_echo", reason="llm-echo is not installed: nox -s llm installs it")
    script = str(HERE / "sameness.py")
    return json.loads(python(script, load="llm-echo")), json.loads(python(script, load="llm-echo,aprefill"))


def test_nothing_is_different_until_it_is_used(sames: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """More than 70 commands without a prefill print exactly the same, and the log's tables are the same."""
    without, with_it = sames
    plugins = with_it["commands"].pop("plugins --all")
    assert '"aprefill"' in plugins[1]
    del without["commands"]["plugins --all"]
    assert len(without["commands"]) >= 70
    for command, said in without["commands"].items():
        assert with_it["commands"][command] == said, command
    assert with_it["schema"] == without["schema"]
    assert all(said[0] in (0, 1, 2) for said in without["commands"].values())


def test_help_differs_by_what_is_new(sames: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Only two options on two commands and one group of commands are new in the help texts."""
    without, with_it = (one["helps"] for one in sames)
    assert set(with_it) - set(without) == {"prefill", "prefill models"}
    different = {name for name in without if with_it[name] != without[name]}
    assert different == {"", "prompt", "chat"}
    for name in different:
        new = "".join(line for line in with_it[name].splitlines(True) if line not in without[name].splitlines(True))
        assert "prefill" in new
        assert set(without[name].splitlines()) <= set(with_it[name].splitlines())


def test_every_model_once_more(sames: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """`prefill/<id>` comes after the existing models, which have the same classes and the same order."""
    without, with_it = (one["models"] for one in sames)
    assert with_it[: len(without)] == without
    more = [name for name, _, _ in with_it[len(without) :]]
    assert more == [f"prefill/{name}" for name, _, _ in without]


def test_gone_without_a_trace(user_path: Path) -> None:
    """Without the plugin, the log can be read and a conversation continues, under the model's own name."""
    pytest.importorskip("llm_echo", reason="llm-echo is not installed: nox -s llm installs it")
    both = "llm-echo,aprefill"
    shown = llm("-m", "echo", "hi", "--prefill", "City: ", "--hide-prefill", load=both)
    assert shown.startswith("{")
    assert llm("logs", "-r", load="llm-echo") == f"City: {shown}"
    assert "- prefill_verdict: absent" in llm("logs", load="llm-echo")
    assert json.loads(llm("-c", "again", load="llm-echo"))["prompt"] == "again"
    assert [path.name for path in user_path.iterdir() if path.is_file()] == ["logs.db"]
    # only a template that was saved with a prefill is left: LLM's error names the option
    llm("-m", "echo", "x", "--prefill", "a", "--save", "begun", load=both)
    assert "prefill" in llm("-t", "begun", load="llm-echo", code=1)


UNTESTED = """
import importlib.metadata as metadata
real = metadata.version
metadata.version = lambda name: VERSION if name == "llm" else real(name)
import sys
from click.testing import CliRunner
from llm.cli import cli
import llm
for arguments in (["--help"], ["prompt", "--help"], ["prefill", "models"], ["models"]):
    result = CliRunner().invoke(cli, arguments)
    print(result.exit_code, "--prefill" in result.output, result.output if arguments[0] == "prefill" else "")
try:
    llm.get_model("prefill/echo")
except llm.UnknownModelError:
    print("unknown")
from aprefill.llm_plugin import with_prefill
try:
    with_prefill(None)
except RuntimeError as error:
    print(error)
"""


def off(*arguments: str, before: str = "") -> tuple[str, str]:
    """Return stdout and stderr of `llm` in a process of its own, in which `before` runs first."""
    code = f"import sys\n{before}\nsys.argv = ['llm', *{list(arguments)!r}]\nfrom llm.cli import cli\ncli()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "LLM_LOAD_PLUGINS": "aprefill"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.parametrize("version", ["0.31.1", "0.4", "1.0", "1.0a1", "dev"])
def test_softly_with_another_version(version: str) -> None:
    """With an untested version LLM works as without the plugin, and `llm prefill models` gives the reason."""
    notice = f"aprefill is switched off: it works with LLM 0.32 or later, below 1.0, but this is LLM {version}"
    lines = python("-c", f"VERSION = {version!r}\n{UNTESTED}", load="aprefill").splitlines()
    assert [line for line in lines if line] == [
        "0 False ",
        "0 False ",
        f"1 False Error: {notice}",
        "0 False ",
        "unknown",
        notice,
    ]


@pytest.mark.parametrize(
    ("before", "missing"),
    [
        ("import llm.models; del llm.models._BaseResponse._messages_now", "llm.models._BaseResponse._messages_now"),
        ("import llm.models; del llm.models.Prompt.messages", "llm.models.Prompt.messages"),
        ("import llm.models; llm.models.Prompt.__init__ = lambda self: None", "llm.models.Prompt()._explicit_messages"),
        ("import llm.hookspecs; llm.hookspecs.register_models = lambda register: None",
         "model_aliases for register_models"),
    ],
)  # fmt: skip
def test_softly_where_llm_lacks_something(before: str, missing: str) -> None:
    """If LLM lacks something that the plugin needs, LLM works as without it.

    One line on stderr says so, for any command.
    """
    for command in (("models", "list"), ("--version",), ("logs", "path")):
        out, err = off(*command, before=before)
        assert out
        assert out == off(*command, before=f"{before}; import os; os.environ['LLM_LOAD_PLUGINS'] = ''")[0]
        assert err.count(f"has no {missing}, which it needs\n") == 1
        assert err.count("\n") == 1
    assert "--prefill" not in off("prompt", "--help", before=before)[0]


@pytest.mark.parametrize("version", ["0.32", "0.36.1", "0.99"])
def test_control_inside_the_versions(version: str) -> None:
    """The same script works with a version that was tested, and then stderr is empty."""
    code = f"VERSION = {version!r}\n{UNTESTED.partition('try:')[0]}"
    lines = python("-c", code, load="aprefill").splitlines()
    assert lines[0:2] == ["0 False ", "0 True "]
    assert off("--version")[1] == ""


def test_without_llm_it_says_what_to_install() -> None:
    """Without LLM the error names the extra to install."""
    out = python("-c", "import sys; sys.modules['llm'] = None; import aprefill.llm_plugin", code=1)
    assert "pip install 'aprefill[llm]'" in out


def test_loading_is_cheap() -> None:
    """`llm --help` loads a few small modules of the plugin, which take less than 30 ms together."""
    code = (
        "import sys; sys.argv = ['llm', '--help']; import llm.cli; print([m for m in sys.modules if 'aprefill' in m])"
    )
    loaded = python("-c", code, load="aprefill").strip()
    plugin = ["aprefill.llm_plugin", "aprefill.llm_plugin._scope", "aprefill.llm_plugin._cli"]
    assert loaded == str(["aprefill._version", "aprefill", *plugin])
    # a prompt without a prefill looks models up, which wraps them and loads one more module
    code = "import llm, sys; llm.get_model('gpt-4o'); print([m for m in sys.modules if 'aprefill' in m][4:])"
    assert python("-c", code, load="aprefill").strip() == "['aprefill.llm_plugin._models']"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import llm.cli, aprefill.llm_plugin._cli"],
        env={**os.environ, "LLM_LOAD_PLUGINS": ""}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    times = [int(match[1]) for match in re.finditer(r"time:\s+(\d+) \|\s+\d+ \|\s+aprefill", done.stderr)]
    assert len(times) >= 3
    assert sum(times) < 30_000  # microseconds


NO_TRANSPORT = """
import asyncio, sys, threading
import llm
from llm.plugins import pm

class Mock(llm.Model):
    model_id = "mock"
    def execute(self, prompt, stream, response, conversation):
        yield "City: "
        yield "Oslo"

class AsyncMock(llm.AsyncModel):
    model_id = "mock"
    async def execute(self, prompt, stream, response, conversation):
        yield "City: "
        yield "Oslo"

class Plugin:
    @llm.hookimpl
    def register_models(self, register):
        register(Mock(), AsyncMock())

pm.register(Plugin(), name="mocks")
USE
print(sorted(name for name in sys.modules if name.startswith("aprefill.")
    and name.split(".")[1] in ("_transports", "_engine", "_reply", "_session", "_sync")), threading.active_count())
"""
SYNC_USE = 'assert llm.get_model("prefill/mock").prompt("x", prefill="City: ").text() == "City: Oslo"'
ASYNC_USE = """
async def main():
    assert await llm.get_async_model("prefill/mock").prompt("x", prefill="City: ").text() == "City: Oslo"
asyncio.run(main())"""


@pytest.mark.parametrize("use", [SYNC_USE, ASYNC_USE])
def test_it_has_no_transport_of_its_own(use: str) -> None:
    """A reply needs no transport, no reply and no thread of the library. The model's plugin sends the request."""
    said = python("-c", NO_TRANSPORT.replace("USE", use), load="aprefill")
    assert said.strip() == "[] 1"
    # control: the same check finds the modules of a reply of the library
    with_reply = NO_TRANSPORT.replace("USE", "from aprefill import stream_sync; stream_sync('x', model='demo:').text()")
    assert "'aprefill._engine.run'" in python("-c", with_reply, load="aprefill")

"""Continuous integration:

`.ci/run`, with stand-ins for the commands that it calls, and the sessions of the workflow.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from .conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

shell = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")

#: Stand-in for python3: makes a virtual environment whose nox records its arguments.
PYTHON = """
mkdir -p .venv/bin
printf '#!/bin/sh\\necho "nox $*" >> called\\n' > .venv/bin/nox
printf '#!/bin/sh\\n' > .venv/bin/pip
chmod +x .venv/bin/nox .venv/bin/pip
"""
PYENV = "[ \"$*\" = 'versions --bare' ] && printf '3.11.7\\n3.12.1\\n3.13.0\\n'"
#: Stand-in for a shim of pyenv: it runs only if `PYENV_VERSION` names the version.
SHIM = 'case ":$PYENV_VERSION:" in *:{version}:*) exit 0;; esac; echo "pyenv: python: command not found" >&2; exit 127'
MISSING = "exit 127"


def calls(tmp_path: Path, commands: dict[str, str]) -> tuple[list[str], str]:
    """Run `.ci/run` with these commands on the path.

    Return the calls of nox, and the output. The exit code must be 0.
    """
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, script in {"python3": PYTHON, **commands}.items():
        (binaries / name).write_text(f"#!/bin/sh\n{script}\n")
        (binaries / name).chmod(0o755)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    env = {"PATH": f"{binaries}{os.pathsep}/usr/bin{os.pathsep}/bin", "CI": "true"}
    done = subprocess.run([tmp_path / ".ci" / "run"], env=env, capture_output=True, text=True, check=True, timeout=20)
    assert done.stderr == ""
    return (tmp_path / "called").read_text().splitlines(), done.stdout


@shell
def test_pythons_of_pyenv_s(tmp_path: Path) -> None:
    """Pythons of pyenv are used through `PYENV_VERSION`, after the default sessions."""
    shims = {"python3.12": SHIM.format(version="3.12.1"), "python3.13": SHIM.format(version="3.13.0")}
    called, printed = calls(tmp_path, {"pyenv": PYENV, **shims})
    assert called == ["nox ", "nox --session slow perf", "nox --session tests_on-3.12 tests_on-3.13"]
    assert printed == ""


@shell
def test_a_python_that_does_not_run_is_no_error(tmp_path: Path) -> None:
    """A Python on the path that does not run is reported and skipped. The other Python is used."""
    called, printed = calls(tmp_path, {"python3.12": MISSING, "python3.13": "exit 0"})
    assert called == ["nox ", "nox --session slow perf", "nox --session tests_on-3.13"]
    assert printed == "Python 3.12 is not installed: the tests are not run on it.\n"


@shell
def test_no_other_python(tmp_path: Path) -> None:
    """Without other Pythons only the default sessions and the slow sessions run."""
    called, printed = calls(tmp_path, {"python3.12": MISSING, "python3.13": MISSING})
    assert called == ["nox ", "nox --session slow perf"]
    assert printed.count("is not installed") == 2


WORKFLOW = (ROOT / ".github/workflows/tests.yml").read_text("utf-8")


def unknown_sessions(workflow: str) -> set[str]:
    """Return the sessions that a workflow passes to nox and that noxfile.py does not have."""
    asked = {name for line in re.findall(r"run: nox --session (.+)", workflow) for name in line.split()}
    assert asked
    has = re.findall(r"^@nox.session.*\n(?:@.*\n)*def (\w+)", (ROOT / "noxfile.py").read_text("utf-8"), re.MULTILINE)
    return asked - set(has)


def test_the_workflow_asks_for_sessions_that_there_are() -> None:
    """Every name after `nox --session` is a session of noxfile.py. Control: a wrong name is found."""
    assert unknown_sessions(WORKFLOW) == set()
    assert unknown_sessions(WORKFLOW.replace("slow perf", "slow prf")) == {"prf"}


def test_the_workflow_has_every_python_that_the_package_names() -> None:
    """The Python versions of the workflow are those of the package's classifiers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    (listed,) = re.findall(r"python: \[(.+)\]", WORKFLOW)
    assert re.findall(r"[\d.]+", listed) == named


#: Text in a test file that makes a test repeat more in `nox -s slow`.
DOES_MORE = re.compile(r"usually\(|mark\.any_loop|environ\.get\(\"APREFILL_\w+_(?:TIMES|CASES)\"")


def test_what_is_done_more_often_at_times_is_in_that_session() -> None:
    """`REPEATED` in noxfile.py lists exactly the test files that repeat more in `nox -s slow`."""
    listed = re.search(r"^REPEATED = \((.*?)^\)", (ROOT / "noxfile.py").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert listed
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if DOES_MORE.search(path.read_text("utf-8")) and path.name != "test_ci.py"
    ]
    assert re.findall(r'"(.+)"', listed[1]) == sorted(found)

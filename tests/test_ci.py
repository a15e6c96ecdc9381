"""What continuous integration runs: `.ci/run` with stand-ins for the commands that it calls, and the workflow's sessions."""

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

shell = pytest.mark.skipif(sys.platform == "win32", reason="a shell script")

#: Makes a virtual environment whose nox writes down what it was called with.
PYTHON = """
mkdir -p .venv/bin
printf '#!/bin/sh\\necho "nox $*" >> called\\n' > .venv/bin/nox
printf '#!/bin/sh\\n' > .venv/bin/pip
chmod +x .venv/bin/nox .venv/bin/pip
"""
PYENV = "[ \"$*\" = 'versions --bare' ] && printf '3.11.7\\n3.12.1\\n3.13.0\\n'"
#: As pyenv's: it runs once the variable names a version.
SHIM = 'case ":$PYENV_VERSION:" in *:{version}:*) exit 0;; esac; echo "pyenv: python: command not found" >&2; exit 127'
MISSING = "exit 127"


def calls(tmp_path: Path, commands: dict[str, str]) -> tuple[list[str], str]:
    """How `.ci/run` calls nox where these are the commands on the path, and what it prints. It has to end with 0."""
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
    """They run after `PYENV_VERSION` names the versions, which is done after the default sessions."""
    shims = {"python3.12": SHIM.format(version="3.12.1"), "python3.13": SHIM.format(version="3.13.0")}
    called, printed = calls(tmp_path, {"pyenv": PYENV, **shims})
    assert called == ["nox ", "nox --session slow perf", "nox --session tests_on-3.12 tests_on-3.13"]
    assert printed == ""


@shell
def test_a_python_that_does_not_run_is_no_error(tmp_path: Path) -> None:
    """It is on the path and fails: a line says so, also in continuous integration, and the other one is used."""
    called, printed = calls(tmp_path, {"python3.12": MISSING, "python3.13": "exit 0"})
    assert called == ["nox ", "nox --session slow perf", "nox --session tests_on-3.13"]
    assert printed == "Python 3.12 is not installed: the tests are not run on it.\n"


@shell
def test_no_other_python(tmp_path: Path) -> None:
    """The default sessions and the one that needs a quiet machine are all that runs."""
    called, printed = calls(tmp_path, {"python3.12": MISSING, "python3.13": MISSING})
    assert called == ["nox ", "nox --session slow perf"]
    assert printed.count("is not installed") == 2


WORKFLOW = (ROOT / ".github/workflows/tests.yml").read_text("utf-8")


def unknown_sessions(workflow: str) -> set[str]:
    """The sessions that a workflow asks nox for, and that noxfile.py does not have."""
    asked = {name for line in re.findall(r"run: nox --session (.+)", workflow) for name in line.split()}
    assert asked
    has = re.findall(r"^@nox.session.*\n(?:@.*\n)*def (\w+)", (ROOT / "noxfile.py").read_text("utf-8"), re.MULTILINE)
    return asked - set(has)


def test_the_workflow_asks_for_sessions_that_there_are() -> None:
    """Every name behind `nox --session` is a function in noxfile.py; a wrong one is found."""
    assert unknown_sessions(WORKFLOW) == set()
    assert unknown_sessions(WORKFLOW.replace("slow perf", "slow prf")) == {"prf"}


def test_the_workflow_has_every_python_that_the_package_names() -> None:
    """The versions of the matrix are those of the classifiers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    (listed,) = re.findall(r"python: \[(.+)\]", WORKFLOW)
    assert re.findall(r"[\d.]+", listed) == named


#: What makes a test do more in `nox -s slow`.
DOES_MORE = re.compile(r"usually\(|mark\.any_loop|environ\.get\(\"APREFILL_\w+_(?:TIMES|CASES)\"")


def test_what_is_done_more_often_at_times_is_in_that_session() -> None:
    """Every test file that repeats less by default than it can is among those that `nox -s slow` repeats, and no other."""
    listed = re.search(r"^REPEATED = \((.*?)^\)", (ROOT / "noxfile.py").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert listed
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if DOES_MORE.search(path.read_text("utf-8")) and path.name != "test_ci.py"
    ]
    assert re.findall(r'"(.+)"', listed[1]) == sorted(found)

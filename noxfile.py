"""The project's chores. `nox` runs what continuous integration runs; `nox -l` lists the rest."""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
EXTRAS = ("anthropic", "openai", "aiohttp", "bedrock", "cli", "llm", "web", "redis", "all")
#: What the tests need beside the test group.
TEST_EXTRAS = "cli,openai,anthropic,bedrock,aiohttp,web"
#: What `nox -s sdks` runs.
SDK_TESTS = (
    "tests/transports/test_sdk.py",
    "tests/transports/test_sdk_closing.py",
    "tests/transports/test_http2.py",
    "tests/transports/test_foreign.py",
    "tests/test_dialects.py",
)


def group(name: str) -> list[str]:
    """A dependency group's requirements."""
    return nox.project.dependency_groups(PYPROJECT, name)


def install_wheel(session: nox.Session, extras: str = "") -> None:
    """Build the wheel and install it, so that what is tested is what is shipped."""
    session.install("build")
    out = Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--wheel", "--outdir", str(out), silent=True)
    wheel = max(out.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(f"{wheel}[{extras}]" if extras else str(wheel))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: style, and the ASYNC rules with their previews."""
    session.install(*group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "check", "--preview", "--select", "ASYNC", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over the package and the pinned public surface."""
    install_wheel(session, TEST_EXTRAS)
    session.install(*group("test"), *group("types"))
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Every test, on asyncio, uvloop and trio, against the installed wheel. Arguments go to pytest."""
    install_wheel(session, TEST_EXTRAS)
    session.install(*group("test"))
    session.run("pytest", *session.posargs, env={"APREFILL_INSTALLED": "1"})


@nox.session
def docs(session: nox.Session) -> None:
    """Write the generated pages: the support table and the reference."""
    session.install("-e", ".[cli]")
    session.run("python", "docs/_support_table.py")
    session.run("python", "docs/_reference.py")


@nox.session
def reliability(session: nox.Session) -> None:
    """Write docs/reliability.md: every fault through aprefill and through the SDKs' own streams, on loopback."""
    session.install("-e", ".[openai,anthropic]", "httpx")
    session.run("python", "docs/_reliability.py")


@nox.session(reuse_venv=False)
@nox.parametrize("extra", EXTRAS)
def extras(session: nox.Session, extra: str) -> None:
    """Each extra alone: the wheel without it works and says what is missing, with it the import works."""
    install_wheel(session)
    session.run("python", "-P", "tests/extras.py", "without", extra)
    install_wheel(session, extra)
    session.run("python", "-P", "tests/extras.py", "with", extra)


@nox.session(reuse_venv=False)
@nox.parametrize("versions", ["lowest", "newest"])
def sdks(session: nox.Session, versions: str) -> None:
    """The tests of the SDKs' clients with the lowest versions that the extras allow, or the newest there are."""
    install_wheel(session, "openai,anthropic,bedrock,aiohttp")
    session.install(*group("test"))
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = [extra for name in ("openai", "anthropic") for extra in extras[name]]
    if versions == "lowest":
        session.install(*(one.replace(">=", "==") for one in wanted))
    else:
        session.install("--upgrade", *wanted)
    session.run("pip", "list", "--format=freeze")
    session.run("pytest", *(session.posargs or SDK_TESTS), env={"APREFILL_INSTALLED": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, as ratios within the run; writes their results into docs/."""
    install_wheel(session, TEST_EXTRAS)
    session.install(*group("test"))
    session.run("python", "benchmarks/stream.py", "--write")
    session.run("python", "benchmarks/stages.py")


@nox.session
def browser(session: nox.Session) -> None:
    """The chat example in a real Chromium, which Debian's `apt-get install chromium` brings; writes its screenshot."""
    install_wheel(session, "web")
    session.install(*group("test"), *group("browser"))
    session.run("pip", "list", "--format=freeze")
    session.run("pytest", "tests/browser", *session.posargs, env={"APREFILL_INSTALLED": "1", "APREFILL_BROWSER": "1"})

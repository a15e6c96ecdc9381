"""The command as a separate process: signals, pipes, a terminal, and which modules it imports."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from array import array
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import pytest

import aprefill
from aprefill.testing import Script, serve

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and terminals")]

COMMAND = [sys.executable, "-m", "aprefill"]
PELICAN = ["a function about a pelican", "--prefill", "def pelican(", "--stop", "\n"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Options for a process that runs the tested copy of the package and receives Ctrl-C."""
    # A shell starts background jobs with SIGINT ignored, and child processes inherit that. They do not inherit a
    # handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    env = {**os.environ, "PYTHONPATH": str(Path(aprefill.__file__).parents[1])}
    # With this variable a missing flush would not be noticed.
    env.pop("PYTHONUNBUFFERED", None)
    yield {
        "cwd": tmp_path,
        "env": env,
        "stdin": subprocess.DEVNULL,
    }
    signal.signal(signal.SIGINT, before)


def run(start: Any, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"capture_output": True, "timeout": 20, **start, **options}
    return subprocess.run([*COMMAND, *arguments], check=False, **options)


def to(server: Any, *more: str) -> list[str]:
    """Return the arguments of a run that asks the loopback host."""
    return ["q", "-m", "m", "--base-url", server.openai_url, *more]


@asynccontextmanager
async def command(*arguments: str, **options: Any) -> AsyncGenerator[anyio.abc.Process, None]:
    """Run the command. It is killed at the end, and after 15 s a timeout is raised."""
    process = await anyio.open_process([*COMMAND, *arguments], **options)
    try:
        with anyio.fail_after(15):
            yield process
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


async def read(fd: int, size: int | None = None) -> bytes:
    """Return `size` bytes from a pipe or terminal, or everything up to its end."""

    def wait() -> bytes:
        got = b""
        try:
            while (size is None or len(got) < size) and (
                part := os.read(fd, 4096 if size is None else size - len(got))
            ):
                got += part
        except OSError:  # EIO: on Linux, the other side of the terminal is closed
            pass
        return got

    return await anyio.to_thread.run_sync(wait, abandon_on_cancel=True)


# --- plain runs -------------------------------------------------------------------------------------------------


def test_exact_bytes(start: Any) -> None:
    """Standard output is exactly the reply, as UTF-8 in every locale. A note about the demo is on standard error."""
    env = {**start["env"], "PYTHONIOENCODING": "ascii"}
    done = run(start, *PELICAN, env=env)
    assert (done.returncode, done.stdout) == (0, b"def pelican():")
    assert done.stderr.startswith(b"aprefill: no model was named and no key is set")
    assert done.stderr.count(b"\n") == 1
    done = run(start, "p\u00e9lican", "--prefill", "\u00e9t\u00e9", "-m", "demo:", "--max-tokens", "1", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\u00e9t\u00e9 this".encode(), b"")


def test_piped_input(start: Any) -> None:
    """The prompt can come from a real pipe."""
    options = {name: value for name, value in start.items() if name != "stdin"}
    done = run(options, *PELICAN[1:], "-m", "demo:", input=b"a pelican\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"def pelican():", b"")


async def test_exit_codes(start: Any) -> None:
    """The exit code is 1 for an error of the provider and 2 for an error of the caller.

    Neither message contains the key.
    """
    env = {**start["env"], "APREFILL_API_KEY": "sk-secret"}
    async with serve(Script(status=401, error=("auth", "bad key sk-secret"))) as server:
        failed = await anyio.run_process([*COMMAND, *to(server)], check=False, cwd=start["cwd"], env=env)
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert failed.stderr.count(b"\n") == 1
    assert b"check the key" in failed.stderr
    assert b"secret" not in failed.stderr
    wrong = run(start, "q", env={**env, "APREFILL_API_KEY": "sk-secret\n", "APREFILL_MODEL": "openai-compatible:m"})
    assert (wrong.returncode, wrong.stdout) == (2, b"")
    assert b"secret" not in wrong.stderr


# --- ends -------------------------------------------------------------------------------------------------------


STALLS = Script(text="Alabama, Alaska", stall_after=7)


@pytest.mark.parametrize(
    ("script", "option", "shown"),
    [(STALLS, [], b"Alabama"), (STALLS, ["--json"], b""), (Script(first_byte_s=math.inf), [], b"")],
    ids=["text", "json", "no answer yet"],
)
async def test_ctrl_c(start: Any, script: Script, option: list[str], shown: bytes) -> None:
    """Ctrl-C ends the command silently with exit code 130 within a second, and the host sees the connection close."""
    async with serve(script) as server, command(*to(server, *option), **start) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        exchange = await server.wait_exchange(timeout_s=15)
        await exchange.waiting.wait()
        came = b""
        while len(came) < len(shown):
            came += await process.stdout.receive()
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(1):
            assert await process.wait() == 130
            await exchange.closed.wait()
        assert came == shown
        assert [part async for part in process.stdout] == []
        assert [part async for part in process.stderr] == []


async def fill(pipe: int) -> None:
    """Wait until the pipe is full."""
    import fcntl
    import termios

    waiting = array("i", [0])
    with anyio.fail_after(10):
        while waiting[0] < fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ):
            await anyio.sleep(0.01)
            fcntl.ioctl(pipe, termios.FIONREAD, waiting)


@pytest.mark.skipif(sys.platform != "linux", reason="uses calls of Linux to see whether a pipe is full")
@pytest.mark.parametrize(
    ("script", "option"),
    [(Script(text="x" * 200_000, cuts=8192, stall_after=199_000), []), (Script(text="x" * 200_000), ["--json"])],
    ids=["text", "json"],
)
async def test_ctrl_c_while_nobody_reads(start: Any, script: Script, option: list[str]) -> None:
    """If the pipe is full because nobody reads it, one Ctrl-C ends the command within two seconds."""
    ours, theirs = os.pipe()
    async with serve(script) as server, command(*to(server, *option), **start, stdout=theirs) as process:
        os.close(theirs)
        assert process.stderr is not None
        await fill(ours)
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(2):
            assert await process.wait() == 130
            await server.exchanges[0].closed.wait()
        assert [part async for part in process.stderr] == []
    os.close(ours)


@pytest.mark.skipif(sys.platform != "linux", reason="uses calls of Linux to see whether a pipe is full")
async def test_ctrl_c_that_is_ignored(start: Any) -> None:
    """If SIGINT is ignored, as for a background job of a shell script, the command continues."""
    ours, theirs = os.pipe()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    async with (
        serve(Script(text="x" * 200_000, cuts=8192)) as server,
        command(*to(server), **start, stdout=theirs) as process,
    ):
        os.close(theirs)
        await fill(ours)
        process.send_signal(signal.SIGINT)
        assert await read(ours) == b"x" * 200_000
        assert await process.wait() == 0
    os.close(ours)


async def test_a_reader_that_leaves(start: Any) -> None:
    """If the reader leaves, as in `aprefill ... | head -c 1`, the command ends silently with 141.

    The host sees the close.
    """
    ours, theirs = os.pipe()
    async with (
        serve(Script(text="x" * 10_000, cuts=1, pace_s=0.002)) as server,
        command(*to(server), **start, stdout=theirs) as process,
    ):
        os.close(theirs)
        assert process.stderr is not None
        assert await read(ours, 1) == b"x"
        os.close(ours)
        assert await process.wait() == 141
        await server.exchanges[0].closed.wait()
        assert [part async for part in process.stderr] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(start: Any) -> None:
    """A full disk gives one error line and exit code 1, without a second error at the exit of the interpreter."""
    with open("/dev/full", "wb") as full:
        done = run(start, *PELICAN, "-m", "demo:", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(b"aprefill: cannot write to standard output")


# --- a terminal -------------------------------------------------------------------------------------------------


async def test_on_a_terminal(start: Any) -> None:
    """A clipboard sequence in the model's text is not written to the terminal. A line end is added."""
    ours, theirs = os.openpty()
    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    async with (
        serve(Script(text="one \x1b]52;c;ZXZpbA==\x07two\x1b[2J", cuts=1)) as server,
        command(*to(server), **{**start, **terminal}) as process,
    ):
        os.close(theirs)
        # The terminal itself writes \r\n for \n.
        assert await read(ours) == b"one two\r\n"
        assert await process.wait() == 0
    os.close(ours)


async def test_ctrl_c_on_a_terminal_leaves_a_fresh_line(start: Any) -> None:
    """After Ctrl-C a line end is written, so that the shell's prompt is on a new line."""
    ours, theirs = os.openpty()
    async with (
        serve(STALLS) as server,
        command(*to(server), **start, stdout=theirs, stderr=theirs) as process,
    ):
        os.close(theirs)
        assert await read(ours, 7) == b"Alabama"
        process.send_signal(signal.SIGINT)
        assert await read(ours) == b"\r\n"
        assert await process.wait() == 130
    os.close(ours)


# --- what it needs ----------------------------------------------------------------------------------------------


def test_without_click_it_says_what_to_install(start: Any) -> None:
    """Without click, one line says what to install, and the exit code is 2."""
    code = "import sys; sys.modules['click'] = None; from aprefill.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "q"], capture_output=True, timeout=20, check=False, **start)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"aprefill: the command line is an extra: pip install 'aprefill[cli]'\n"


def test_it_loads_little(start: Any) -> None:
    """`--help` imports only click, the demo imports no HTTP client, and rich is never imported."""
    code = """
import json, sys
from aprefill.cli import main
heavy = {"anyio", "asyncio", "msgspec", "httpx", "httpx2", "rich", "openai", "anthropic"}
for line in (["--help"], ["a pelican", "-m", "demo:", "--max-tokens", "1"]):
    assert main(line) == 0
    print(json.dumps(sorted(heavy & set(sys.modules))), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20, check=True, **start)
    assert [json.loads(line) for line in done.stderr.splitlines()] == [[], ["anyio", "asyncio", "msgspec"]]

"""The starter of a real inference engine (`tests/support/engine.py`), with a stand-in for the engine's package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from .support import engine as engine_module
from .support.engine import Engine, EngineFailed
from .support.pairs import LONG, SHORT

STAND_IN = """
import http.server, json, sys, threading, types

class CommonParams:
    def __init__(self):
        self.__dict__.update(model=types.SimpleNamespace(), cpuparams=types.SimpleNamespace(),
                             cpuparams_batch=types.SimpleNamespace(), n_ctx=0, n_parallel=0, hostnames=[], port=1,
                             api_keys=[])

looks = 0

class Server:
    def __init__(self, params):
        if params.model.path == "hangs":
            threading.Event().wait()
        if params.model.path == "breaks":
            sys.exit("no such model")

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                global looks
                looks += self.path == "/health"
                self.send_response(200 if looks > 2 else 503)
                self.end_headers()
                said = {k: str(v) for k, v in vars(params).items()} | {"looks": looks}
                self.wfile.write(json.dumps(said).encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer((params.hostnames[0], params.port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.listening_address = f"http://127.0.0.1:{server.server_port}"
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xllamacpp.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def is_alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_is_ready_when_it_is_started_and_gone_afterwards() -> None:
    """The engine is healthy when the context begins, it has its settings, and its process ends with the context."""
    with Engine(Path("m"), api_keys=["k"], n_ctx=99) as engine:
        pid = engine.pid
        assert is_alive(pid)
        with urllib.request.urlopen(f"{engine.url}/health", timeout=5) as response:
            said = json.load(response)
    assert (said["n_ctx"], said["api_keys"], said["port"], said["hostnames"]) == ("99", "['k']", "0", "['127.0.0.1']")
    assert said["looks"] > 3
    assert not is_alive(pid)


def test_a_child_ends_with_its_standard_input() -> None:
    """The process ends when its standard input is closed, even while it loads the model or waits for its settings."""
    path = str(Path(engine_module.__file__))
    settings = {"model": "m", "threads": 1, "life_s": 60, "params": {}}
    for model, first in (("m", True), ("hangs", True), ("", False)):
        child = subprocess.Popen([sys.executable, "-P", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None
        assert child.stdout is not None
        if first:
            child.stdin.write(json.dumps(settings | {"model": model}).encode() + b"\n")
            child.stdin.flush()
        if model == "m":
            assert child.stdout.readline()
        child.stdin.close()
        assert child.wait(20) == 0
        child.stdout.close()


def test_what_does_not_start_says_why() -> None:
    """If the engine does not start, an error has the last lines of its log, and no process is left."""
    for model, settings, says in (("breaks", {}, "no such model"), ("hangs", {"start_s": 1.5}, "exit code -9")):
        engine = Engine(Path(model), **settings)
        with pytest.raises(EngineFailed, match=says):
            engine.start()
        assert engine.pid is None


def test_there_are_pairs_to_ask() -> None:
    """There are at least 30 pairs.

    The long prefills have more than 200 characters, the limit for asking for all of it.
    """
    assert len({*SHORT, *LONG}) >= 30
    assert all(len(prefill) <= 200 for _, prefill in SHORT)
    assert all(len(prefill) > 200 for _, prefill in LONG)

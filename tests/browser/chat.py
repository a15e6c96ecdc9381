"""The chat example, the loopback host that it asks, and the actions of the browser tests on the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import pytest

from aprefill.testing import Script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from aprefill.testing import Received

ROOT = Path(__file__).parents[2]
CHAT = ROOT / "docs" / "examples" / "chat"

HTML = '<b>bold</b> & <img src="/seen.png" onerror="document.title = \'taken\'"><script>document.title = "taken"</script>\n'
STATES = '["Alabama", "Alaska", "Arizona", '

#: The script for a prompt, by its first word. A model without a provider gets the prefill in the prompt, so `echo_text`
#: is repeated.
SCRIPTS = {
    "slow": Script(
        text="one\n  two\tthree 🦢 end", prefill="echoes", echo_text="Zero, ", pace_s=0.05, first_token_s=0.2
    ),
    "stuck": Script(text="never", prefill="echoes", echo_text=STATES, stall_after=15),
    "own": Script(text='["Alaska"]', cuts=4, pace_s=0.05),
    "endless": Script(text="word " * 20_000, cuts=5, pace_s=0.01),
    "html": Script(text=HTML, prefill="echoes", echo_text=HTML, cuts=7),
    "long": Script(text="word " * 20_000, cuts=50, pace_s=0.02),
    "broken": Script(text="one two three", cuts=4, no_end=True),
    "busy": Script(status=429, retry_after=0.05),
    "error": Script(status=400, error=("invalid_request_error", "no <b>such</b> thing")),
    "overloaded": Script(text="one two", cuts=4, after=4, error_event=("overloaded_error", "Overloaded")),
    "key": Script(status=401, error=("authentication_error", "invalid x-api-key")),
    "missing": Script(status=404, error=("not_found_error", "model: swan")),
    "down": Script(status=500, retry_after=0.05),
    "quotes": Script(status=400, error=("invalid_request_error", 'upstream said {"error": {"code": 7}}')),
    "login": Script(body=b"<html>Please log in</html>", content_type="text/html"),
    "away": Script(hang_up=True),
    "ten": Script(status=429, retry_after=600),
}
#: A reply that is continued: the text of the first request, and that of the request with this text as the prefill.
CUT, CONTINUED = "one two three", " four five"


def reply_to(received: Received) -> Script:
    prompt = received.last_user_text
    if prompt.startswith("cut"):
        return Script(text=CONTINUED, asked="obeys", pace_s=0.05) if CUT in prompt else Script(text=CUT, no_end=True)
    return SCRIPTS[prompt.split()[0]]


class Provider:
    """The loopback host. Its events are waited for in its own event loop."""

    def __init__(self, server: Any, portal: Any) -> None:
        self.server = server
        self._call = portal.call
        self._number = len(server.exchanges)

    def exchange(self) -> Any:
        """Return the test's first exchange."""
        return self._call(self.server.wait_exchange, self._number)

    def wait(self, event: Any) -> None:
        async def wait() -> None:
            with anyio.fail_after(30):
                await event.wait()

        self._call(wait)


@contextmanager
def started(base_url: str) -> Iterator[str]:
    """Start the example as its README does, on a free port. Yield its URL."""
    command = [sys.executable, str(CHAT / "app.py"), "--port", "0"]
    env = {**os.environ, "CHAT_BASE_URL": base_url, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        giving_up = threading.Timer(60, process.kill)
        giving_up.start()
        try:
            said = ""
            for line in process.stderr:
                said += line
                if found := re.search(r"running on http://\S+:(\d+)", line):
                    giving_up.cancel()
                    yield f"http://127.0.0.1:{found[1]}"
                    break
            else:
                pytest.fail(said)
        finally:
            giving_up.cancel()
            process.terminate()
            print(process.stderr.read())


class Asked:
    """The URLs of the requests and WebSockets of the browser."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def elsewhere(self) -> list[str]:
        return [url for url in self.urls if urlsplit(url).hostname != "127.0.0.1"]


def send(page: Page, prompt: str, *, prefill: str = "", model: str = "") -> Any:
    """Send a prompt and return its turn. Without a model of the list, the loopback host's model is used."""
    page.fill("#prompt", prompt)
    page.fill("#prefill", prefill)
    page.select_option("#model", model)
    if not model:
        page.fill("#other", "swan")
    page.click("#send")
    return page.locator(".turn").last


def wait_for(page: Page, condition: str, timeout_s: float = 10) -> None:
    """Wait until a JavaScript expression is true.

    It is checked in each frame, because the page's policy forbids Playwright's own way.
    """
    page.evaluate(
        """([source, ms]) => new Promise((done, fail) => {
          const holds = CONDITION, until = performance.now() + ms;
          const look = () => {
            if (holds()) done();
            else if (performance.now() > until) fail(new Error("never true: " + source));
            else requestAnimationFrame(look);
          };
          look();
        })""".replace("CONDITION", f"() => {condition}"),
        [condition, timeout_s * 1000],
    )


def milliseconds(turn: Any) -> dict[str, float]:
    """Return the times of the time line, which must be those from the server."""
    found = {}
    for name in ("accepted", "first-token", "hold-time", "shown"):
        number, unit = turn.locator(f".{name}:not(.live)").text_content().split()
        assert unit == "ms"
        found[name] = float(number)
    return found

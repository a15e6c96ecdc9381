"""One Chromium and one chat example for all tests of a file, and a new page for each test."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import start_blocking_portal

from aprefill.testing import serve

from .chat import Asked, Provider, reply_to, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[str, Any, Any]]:
    """The example, and the host that it asks."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve(reply_to)) as server:
        with started(server.openai_url) as url:
            yield url, server, portal


@pytest.fixture
def url(site: tuple[str, Any, Any]) -> str:
    return site[0]


@pytest.fixture
def provider(site: tuple[str, Any, Any]) -> Provider:
    return Provider(*site[1:])


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "no chromium here: apt-get install chromium, or name one in CHROMIUM"
    # other host names are not even looked up
    args = ["--no-sandbox", "--headless=new", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=args)
        print(f"Chromium {browser.version}")
        yield browser
        browser.close()


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def page(chromium: Any, url: str, asked: Asked) -> Iterator[Page]:
    """The page in a new browser context.

    Afterwards only loopback may have been asked, and no script may have failed.
    """
    context = chromium.new_context(viewport={"width": 760, "height": 620}, color_scheme="light")
    context.on("request", lambda request: asked.urls.append(request.url))
    page = context.new_page()
    page.set_default_timeout(5000)
    page.on("websocket", lambda socket: asked.urls.append(socket.url))
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(url)
    yield page
    context.close()
    assert failed == []
    assert asked.elsewhere() == []
    assert asked.urls

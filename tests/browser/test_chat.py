"""The chat example in a real Chromium, with a loopback host. `nox -s browser` runs it and writes the screenshot."""

from __future__ import annotations

import errno
import os
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from .chat import CHAT, HTML, STATES, Asked, milliseconds, send

if os.environ.get("APREFILL_BROWSER") != "1":
    pytest.skip("opt-in: `nox -s browser` runs it, with Playwright and Debian's chromium", allow_module_level=True)

from playwright.sync_api import expect

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from .chat import Provider


def colour(part: Any) -> str:
    return str(part.evaluate("part => getComputedStyle(part).color"))


GREY = "rgb(106, 113, 124)"


NATIVE = "The prefill was sent natively"
EMULATED = "The prefill was asked for in the prompt"
ECHOED = "the model repeated it, and it is shown once"


def test_a_prefill_is_grey_until_the_seam_has_decided(page: Page) -> None:
    """The prefill is shown at once. It is grey while the model repeats it, and normal when new text has come."""
    turn = send(page, "slow", prefill="Zero, ")
    prefill = turn.locator(".reply span").first
    expect(turn.locator(".reply .open")).to_have_text("Zero, ", use_inner_text=False)
    assert colour(prefill) == GREY
    expect(turn.locator(".note")).to_have_text("The prefill was asked for in the prompt.")
    expect(turn.locator(".note")).to_contain_text(f"Complete. {EMULATED}; {ECHOED}.")
    assert turn.locator(".open, .held").count() == 0
    assert colour(prefill) == colour(turn.locator(".reply")) != GREY
    assert turn.locator(".reply").text_content() == "Zero, one\n  two\tthree 🦢 end"
    expect(turn.locator(".error")).to_be_hidden()


#: Records the held text of the last turn at each change.
WATCH = """() => {
  window.held = [];
  new MutationObserver(() => {
    const last = [...document.querySelectorAll(".turn")].at(-1);
    const text = last?.querySelector(".held")?.textContent ?? "";
    if (window.held.at(-1) !== text) window.held.push(text);
  }).observe(document.getElementById("turns"), {subtree: true, childList: true, characterData: true});
}"""


@pytest.mark.parametrize(
    ("prompt", "prefill", "text", "held"),
    [
        ("slow", "Zero, ", "Zero, one\n  two\tthree 🦢 end", ["", "Zero", ""]),
        ("own", STATES, STATES + '["Alaska"]', ["", '["Al', '["Alaska', '["Alaska"]', ""]),
    ],
)
def test_what_the_model_wrote_and_the_seam_holds(
    page: Page, prompt: str, prefill: str, text: str, held: list[str]
) -> None:
    """Held text is shown as it comes. It is removed if it is the prefill again, and otherwise it becomes text."""
    page.evaluate(WATCH)
    turn = send(page, prompt, prefill=prefill)
    expect(turn.locator(".note")).to_contain_text("Complete.")
    assert turn.locator(".reply").text_content() == text
    assert page.evaluate("window.held") == held


def test_the_time_line_is_the_servers(page: Page) -> None:
    """The time line uses the page's clock at first, and then the times of the end record.

    They are in order and as slow as the host was.
    """
    turn = send(page, "slow", prefill="Zero, ")
    expect(turn.locator(".first-token.live")).to_have_text(re.compile(r"^\d.* ms$"))
    expect(turn.locator(".accepted.live")).to_have_text("\N{EN DASH}")  # the page cannot know it yet
    expect(turn.locator(".note")).to_contain_text("Complete.")
    times = milliseconds(turn)
    assert 0 < times["accepted"] < times["first-token"] < times["shown"]
    assert times["first-token"] > 200
    assert 0 < times["hold-time"] <= times["shown"] - times["first-token"] + 1
    widths = turn.locator(".bar").evaluate("bar => [...bar.children].map((one) => one.getBoundingClientRect().width)")
    whole = turn.locator(".bar").evaluate("bar => bar.getBoundingClientRect().width")
    shares = [times["accepted"], times["shown"] - times["hold-time"] - times["accepted"], times["hold-time"]]
    assert [width / whole for width in widths] == pytest.approx([one / times["shown"] for one in shares], abs=0.02)


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        ("demo:eats", f"{NATIVE}; the model continued it."),
        ("demo:echoes", f"{NATIVE}; {ECHOED}."),
        ("demo:emulated", f"{EMULATED}; {ECHOED}."),
        ("demo:refuses", f"{EMULATED}; {ECHOED}."),
        ("demo:ignores", f"{EMULATED}; the model did not begin with it, so it was added."),
    ],
)
def test_the_demo_models(page: Page, model: str, verdict: str) -> None:
    """Each demo model of the page completes its reply, with the prefill first and once, and with a time line."""
    turn = send(page, "JSON list of US state names", prefill='["', model=model)
    expect(turn.locator(".note")).to_contain_text(f"Complete. {verdict}")
    text = turn.locator(".reply").text_content()
    begins = '["Here it is. ' if model == "demo:ignores" else '["Alabama", "Alaska", '
    assert text.startswith(begins)
    assert text.endswith('"Wyoming"]')
    assert text.count("Alaska") == 1
    assert turn.locator(".open, .held").count() == 0
    assert milliseconds(turn)["shown"] > 0


def test_stop_while_the_prefill_is_held(page: Page, provider: Provider) -> None:
    """After Stop the provider sees the close, the prefill stays grey, and the next question can be asked."""
    turn = send(page, "stuck", prefill=STATES)
    exchange = provider.exchange()
    provider.wait(exchange.waiting)
    expect(turn.locator(".open")).to_have_text(STATES.strip())
    expect(turn.locator(".held")).to_have_text(STATES[:15])
    assert colour(turn.locator(".held")) == GREY
    expect(page.locator("#send")).to_be_disabled()
    page.click("#stop")
    provider.wait(exchange.closed)
    assert exchange.outcome == "client_closed"
    expect(turn.locator(".note")).to_have_text(f"Stopped. {EMULATED}; the model had not continued it yet.")
    assert turn.locator(".open").text_content() == turn.locator(".reply").text_content() == STATES
    expect(turn.locator(".error")).to_be_hidden()
    expect(page.locator("#stop")).to_be_disabled()
    turn = send(page, "JSON list of US state names", prefill='["', model="demo:eats")
    expect(turn.locator(".note")).to_contain_text(f"Complete. {NATIVE}")


@pytest.mark.parametrize("leave", ["stop", "reload", "close"])
def test_leaving_a_reply_that_goes_on_closes_the_providers_connection(
    page: Page, provider: Provider, leave: str
) -> None:
    """Stop, reloading the page and closing the tab each close the provider's connection."""
    turn = send(page, "endless")
    expect(turn.locator(".reply")).to_contain_text("word word")
    exchange = provider.exchange()
    assert exchange.outcome == "open"
    if leave == "stop":
        page.click("#stop")
    elif leave == "reload":
        page.reload()
    else:
        page.close()
    provider.wait(exchange.closed)
    assert exchange.outcome == "client_closed"
    if leave == "stop":
        expect(turn.locator(".note")).to_contain_text("Stopped.")


@pytest.mark.parametrize(
    ("prompt", "text", "error"),
    [
        ("broken", "one two three", "The reply was cut off."),
        ("overloaded", "one ", "The model's server is busy."),
        ("error", "Zero, ", "The model's server refused the request."),
    ],
)
def test_an_error_is_a_line_of_its_own(page: Page, prompt: str, text: str, error: str) -> None:
    """An error is a line of its own. The text so far stays, and a prefill without text after it stays grey."""
    turn = send(page, prompt, prefill="Zero, " if prompt == "error" else "")
    expect(turn.locator(".what")).to_contain_text(error)
    assert turn.locator(".reply").text_content() == text
    assert turn.locator(".open").count() == (prompt == "error")
    assert turn.locator(".held").count() == 0
    assert turn.locator(".what *, .words *").count() == 0
    assert ("<b>such</b>" in turn.locator(".words").text_content()) == (prompt == "error")
    expect(page.locator("#send")).to_be_enabled()


def test_what_no_host_accepted_has_no_such_time(page: Page) -> None:
    """If each of the three requests was refused, the time line shows no time of acceptance."""
    turn = send(page, "busy", prefill="Zero, ")
    expect(turn.locator(".what")).to_contain_text("The model's server is busy.")
    expect(turn.locator(".note")).to_contain_text("Request 3 failed: the model's server answered with HTTP 429.")
    assert not any(c.isdigit() for c in turn.locator(".accepted").text_content())


def test_coming_back_to_the_page(page: Page, url: str) -> None:
    """If the browser restores the choice of another model, the field for its name is visible."""
    page.select_option("#model", "")
    page.fill("#other", "swan")
    page.goto("about:blank")
    page.go_back()
    if page.locator("#model").input_value() == "":
        expect(page.locator("#other")).to_be_visible()
    else:
        expect(page.locator("#other")).to_be_hidden()


def test_an_error_before_the_reply(page: Page) -> None:
    """A missing key is reported in words, without advice that only a programmer can follow."""
    page.select_option("#model", "")
    page.fill("#other", "anthropic:claude-haiku-4-5")
    page.click("#send")
    expect(page.locator(".what")).to_have_text(
        "This request is not possible: no key for anthropic in ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN."
    )
    expect(page.locator(".continue")).to_be_hidden()


def test_html_is_text(page: Page, asked: Asked) -> None:
    """HTML in the prompt, the prefill and the model's text is shown as written. Nothing runs and nothing is loaded."""
    turn = send(page, f"html {HTML}", prefill=HTML)
    expect(turn.locator(".note")).to_contain_text(f"Complete. {EMULATED}; {ECHOED}.")
    assert turn.locator(".reply").text_content() == HTML + HTML
    assert turn.locator(".asked").text_content() == f"html {HTML}"
    assert turn.locator(".asked *, .reply *:not(span), .reply span *").count() == 0
    assert page.title() == "aprefill: a chat"
    assert not [url for url in asked.urls if "seen" in url]


def test_a_conversation_goes_on(page: Page, provider: Provider) -> None:
    """The next request has the complete replies with their prefill, and nothing of failed replies."""
    for prompt in ("slow", "error", "html"):
        turn = send(page, prompt, prefill="Zero, " if prompt == "slow" else "")
        done = turn.locator(".error" if prompt == "error" else ".note")
        expect(done).to_contain_text("refused" if prompt == "error" else "Complete.")
    turns = [(turn["role"], turn["content"]) for turn in provider.server.exchanges[-1].messages]
    assert turns == [("user", "slow"), ("assistant", "Zero, one\n  two\tthree 🦢 end"), ("user", "html")]


def test_the_page_may_load_nothing(page: Page, chromium: Any, asked: Asked) -> None:
    """The page's policy refuses an image, a request, an inline script and HTML. Without a policy the test sees them."""
    tries = """async () => {
      const refused = [];
      document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
      const image = new Image();
      image.src = "http://elsewhere.example/image.png";
      await fetch("http://elsewhere.example/fetch").catch(() => {});
      const script = document.createElement("script");
      try { script.textContent = "document.title = 'taken'"; document.body.append(script); } catch {}
      try { document.body.innerHTML = "<b>HTML</b>"; } catch {}
      await new Promise((done) => setTimeout(done, 100));
      return refused;
    }"""
    assert {"img-src", "connect-src", "require-trusted-types-for"} <= set(page.evaluate(tries))
    assert page.title() == "aprefill: a chat"
    # the recorder sees refused requests too
    assert asked.elsewhere() == ["http://elsewhere.example/image.png"]
    asked.urls.remove("http://elsewhere.example/image.png")
    # control
    context = chromium.new_context()
    seen = Asked()
    context.on("request", lambda request: seen.urls.append(request.url))
    other = context.new_page()
    assert other.evaluate(tries) == []
    assert other.title() == "taken"
    context.close()
    assert {"http://elsewhere.example/image.png", "http://elsewhere.example/fetch"} <= set(seen.elsewhere())


def test_another_page_may_not_use_it(page: Page, url: str, chromium: Any) -> None:
    """A page of another origin is refused the WebSocket, and the page itself is not."""
    opens = """(url) => new Promise((done) => {
      const socket = new WebSocket(url);
      socket.onopen = () => done("open");
      socket.onerror = () => done("refused");
    })"""
    address = url.replace("http", "ws") + "/reply"
    assert page.evaluate(opens, address) == "open"
    context = chromium.new_context()
    other = context.new_page()
    assert other.evaluate(opens, address) == "refused"
    context.close()


def test_it_listens_on_loopback_alone(url: str) -> None:
    """The example does not listen on 127.0.0.2, where a server on all addresses would answer."""
    port = urlsplit(url).port
    for host, answer in (("127.0.0.1", 0), ("127.0.0.2", errno.ECONNREFUSED)):
        with socket.socket() as client:
            assert client.connect_ex((host, port)) == answer


def test_the_screenshot(page: Page, provider: Provider, tmp_path: Path) -> None:
    """The screenshot for the README has a finished reply, and a reply whose prefill is held."""
    turn = send(page, "JSON list of the first US states", prefill=STATES, model="demo:echoes")
    expect(turn.locator(".note")).to_contain_text(f"Complete. {NATIVE}; {ECHOED}.")
    turn = send(page, "stuck on purpose: the same from a slow model", prefill=STATES)
    provider.wait(provider.exchange().waiting)
    expect(turn.locator(".held")).to_be_visible()
    folder = CHAT if os.environ.get("APREFILL_SCREENSHOT") == "1" else tmp_path
    picture = page.screenshot(path=folder / "screenshot.png", full_page=True)
    assert len(picture) < 200_000
    page.click("#stop")

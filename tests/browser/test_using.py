"""Stopping, continuing and reading what happened, in the chat example in a real Chromium."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

import aprefill

from .chat import CONTINUED, CUT, STATES, send, wait_for

if os.environ.get("APREFILL_BROWSER") != "1":
    pytest.skip("opt-in: `nox -s browser` runs it, with Playwright and Debian's chromium", allow_module_level=True)

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .chat import Provider


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id"))


# --- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["click", "Enter on the button", "Escape in the prompt", "Escape elsewhere"])
def test_stop(page: Page, provider: Provider, way: str) -> None:
    """The Stop button and the Escape key close the provider's connection, and then the focus is on the prompt."""
    turn = send(page, "endless")
    expect(turn.locator(".reply")).to_contain_text("word word")
    exchange = provider.exchange()
    if way == "click":
        page.click("#stop")
    elif way == "Enter on the button":
        page.focus("#stop")
        page.keyboard.press("Enter")
    elif way == "Escape in the prompt":
        page.focus("#prompt")
        page.keyboard.press("Escape")
    else:
        page.locator("h1").click()
        assert focused(page) == ""
        page.keyboard.press("Escape")
    provider.wait(exchange.closed)
    assert exchange.outcome == "client_closed"
    expect(turn.locator(".note")).to_contain_text("Stopped.")
    expect(page.locator("#send")).to_be_enabled()
    assert focused(page) == "prompt"


def test_control_other_keys_do_not_stop(page: Page, provider: Provider) -> None:
    """Control: a reply continues while other keys are pressed."""
    turn = send(page, "endless")
    expect(turn.locator(".reply")).to_contain_text("word word")
    for key in ("Tab", "a", "ArrowUp"):
        page.keyboard.press(key)
    before = len(turn.locator(".reply").text_content())
    wait_for(page, f"document.querySelector('.turn .reply').textContent.length > {before + 100}")
    assert provider.exchange().outcome == "open"
    page.click("#stop")


def test_escape_without_a_reply_does_nothing(page: Page) -> None:
    """Escape without a running reply keeps the half-written question. The next question can be sent."""
    page.fill("#prompt", "half a question")
    page.keyboard.press("Escape")
    assert page.locator("#prompt").input_value() == "half a question"
    turn = send(page, "own")
    expect(turn.locator(".note")).to_contain_text("Complete.")


def test_a_reply_that_ends_by_itself_gives_the_focus_back(page: Page) -> None:
    """When a reply ends, the focus moves from the Stop button, which is then disabled, to the prompt."""
    turn = send(page, "own")
    assert focused(page) == "stop"
    expect(turn.locator(".note")).to_contain_text("Complete.")
    wait_for(page, "document.activeElement.id === 'prompt'")


# --- continuing -----------------------------------------------------------------------------------------------------


def test_continue(page: Page, provider: Provider) -> None:
    """A reply that was cut off continues in its own turn, and then the conversation has all of it."""
    turn = send(page, "cut")
    expect(turn.locator(".what")).to_have_text("The reply was cut off.")
    assert turn.locator(".reply").text_content() == CUT
    turn.locator(".continue").click()
    expect(turn.locator(".note")).to_contain_text("Complete.")
    assert turn.locator(".reply").text_content() == CUT + CONTINUED
    assert page.locator(".turn").count() == 1
    assert turn.locator(".open, .held").count() == 0
    expect(turn.locator(".error")).to_be_hidden()
    turn = send(page, "own")
    expect(turn.locator(".note")).to_contain_text("Complete.")
    turns = [(one["role"], one["content"]) for one in provider.server.exchanges[-1].messages]
    assert turns == [("user", "cut"), ("assistant", CUT + CONTINUED), ("user", "own")]


def test_what_was_text_stays_text_while_it_is_continued(page: Page) -> None:
    """Text that was shown stays normal while it is continued. Only a prefill without text after it is grey."""
    page.evaluate("""() => {
      window.grey = [];
      new MutationObserver(() => {
        for (const part of document.querySelectorAll(".reply .open")) window.grey.push(part.textContent);
      }).observe(document.getElementById("turns"), {subtree: true, childList: true, characterData: true, attributes: true});
    }""")
    turn = send(page, "cut")
    expect(turn.locator(".what")).to_be_visible()
    turn.locator(".continue").click()
    expect(turn.locator(".note")).to_contain_text("Complete.")
    assert page.evaluate("window.grey") == []
    # control: the same observer sees a grey prefill
    turn = send(page, "slow", prefill="Zero, ")
    expect(turn.locator(".note")).to_contain_text("Complete.")
    assert "Zero, " in page.evaluate("window.grey")


def test_a_prefill_that_nothing_followed_is_grey_until_it_is_continued(page: Page) -> None:
    """If no text came, the prefill stays grey, and Continue requests the same reply again."""
    turn = send(page, "ten", prefill=STATES)
    expect(turn.locator(".continue")).to_be_visible()
    expect(turn.locator(".open")).to_have_text(STATES.strip())
    turn.locator(".continue").click()
    expect(turn.locator(".what")).to_contain_text("busy")
    assert turn.locator(".open").text_content() == turn.locator(".reply").text_content() == STATES


def test_only_the_last_reply_can_be_continued(page: Page) -> None:
    """Only the last reply can be continued, because the conversation has gone on without the others."""
    send(page, "broken")
    first = page.locator(".turn").first
    expect(first.locator(".continue")).to_be_visible()
    second = send(page, "own")
    expect(second.locator(".note")).to_contain_text("Complete.")
    expect(first.locator(".continue")).to_be_hidden()
    expect(first.locator(".what")).to_be_visible()


def test_the_connection_to_the_pages_own_server_is_lost(page: Page) -> None:
    """If the connection to the page's own server is lost, the page says so, and the reply can be continued."""
    page.route_web_socket(re.compile("/reply$"), lambda socket: socket.close())
    page.reload()
    turn = send(page, "own", prefill="Zero, ")
    expect(turn.locator(".what")).to_have_text(
        "The connection to this page's own server was lost. Check that it still runs."
    )
    expect(turn.locator(".continue")).to_be_visible()
    expect(turn.locator("details")).to_be_hidden()


# --- messages for people --------------------------------------------------------------------------------------------

#: The classes of errors. Their names mean nothing to a reader.
CLASSES = sorted(
    name
    for name in aprefill.__all__
    if isinstance(value := getattr(aprefill, name), type) and issubclass(value, aprefill.AprefillError)
)


def unreadable(text: str) -> list[str]:
    """Return the names of classes, and parts that look like JSON or HTML."""
    names = [name for name in [*CLASSES, "ValidationError", "Error:"] if re.search(rf"\b{name}", text)]
    return names + re.findall(r"[{\[]\s*[\"{\[].*|<html.*", text)


@pytest.mark.parametrize(
    ("prompt", "says", "can_continue"),
    [
        ("broken", "The reply was cut off.", True),
        ("overloaded", "The model's server is busy. Wait a little.", True),
        ("busy", "The model's server is busy. Wait a little. It asks to wait 1 s.", True),
        ("ten", "The model's server is busy. Wait a little. It asks to wait 600 s.", True),
        ("error", "The model's server refused the request. Change the prompt, the prefill or the model.", False),
        ("quotes", "The model's server refused the request. Change the prompt, the prefill or the model.", False),
        ("key", "The model's server did not accept the key. Check the key, and start this page's server with it.", False),
        ("missing", "The model's server does not know this model. Check the model's name and the server's address.", False),
        ("down", "The model's server has failed. Wait a little, or choose another model.", True),
        ("login", "The answer is not a model's reply. Check the server's address: a proxy or a login page may have answered.", False),
        ("away", "The model's server could not be reached. Check that it runs, its address, and the network.", True),
    ],
)  # fmt: skip
def test_errors_are_told_in_words(page: Page, prompt: str, says: str, can_continue: bool) -> None:
    """An error says what happened and what to do. Neither it nor its details contain a class's name or JSON."""
    turn = send(page, prompt)
    expect(turn.locator(".what")).to_be_visible(timeout=15_000)
    assert turn.locator(".what").text_content().startswith(says)
    assert turn.locator(".continue").is_visible() == can_continue
    assert ("Continue the reply from here." in turn.inner_text()) == can_continue
    turn.locator("summary").click()
    expect(turn.locator(".words")).to_be_visible()
    assert unreadable(turn.inner_text()) == []
    if prompt == "quotes":
        assert "upstream said …" in turn.inner_text()


def test_control_what_no_person_reads_is_found() -> None:
    """The check can fail: it finds what 0.1.0 showed."""
    assert unreadable("StatusError: the provider answered with HTTP 400") == ["StatusError"]
    assert unreadable("1 validation error for Asked: ValidationError") == ["ValidationError"]
    assert unreadable('upstream said {"error": {"code": 7}}') == ['{"error": {"code": 7}}']


@pytest.mark.parametrize(
    "name", [name for name in CLASSES if issubclass(getattr(aprefill, name), aprefill.ProviderError)]
)
def test_every_error_of_a_provider_has_its_sentence(page: Page, name: str) -> None:
    """Every error of a provider has a sentence of its own on the page, because the default sentence helps nobody."""
    explain = "(error) => explained({error, message: ''})"
    unknown = page.evaluate(explain, "Unknown")
    assert unknown == "The reply has failed."
    if name != "ProviderError":  # the base class of the others
        assert page.evaluate(explain, name) != unknown


def test_the_page_asks_for_a_models_name(page: Page) -> None:
    """A model's name of white space is not accepted: nothing is sent, and the browser points at the field."""
    page.select_option("#model", "")
    page.fill("#other", "   ")
    page.click("#send")
    assert page.locator(".turn").count() == 0
    assert focused(page) == "other"
    assert page.evaluate("document.getElementById('other').validity.valueMissing")


def test_what_the_demo_says_is_readable(page: Page) -> None:
    """The line under a complete reply is readable too."""
    for model in ("demo:eats", "demo:emulated", "demo:ignores"):
        turn = send(page, "JSON list of US state names", prefill='["', model=model)
        expect(turn.locator(".note")).to_contain_text("Complete.")
        note: Any = turn.locator(".note").text_content()
        assert unreadable(note) == []
        assert re.fullmatch(r"(?:[A-Z0-9][^.]+\.(?: |$))+", note)

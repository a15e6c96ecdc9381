"""What a reader sees and hears of the chat example: nothing cut off, enough contrast, and the text is followed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from .chat import STATES, send, wait_for

if os.environ.get("APREFILL_BROWSER") != "1":
    pytest.skip("opt-in: `nox -s browser` runs it, with Playwright and Debian's chromium", allow_module_level=True)

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .chat import Provider

WIDE = "W" * 200


def filled(page: Page) -> None:
    """Fill the page with turns of every kind: complete, with long words, with an error and its details, and held."""
    turn = send(page, "JSON list of US state names", prefill='["', model="demo:echoes")
    expect(turn.locator(".note")).to_contain_text("Complete.")
    turn = send(page, f"error {WIDE}", prefill=f"Zero, {WIDE}")
    turn.locator("summary").click()
    expect(turn.locator(".words")).to_be_visible()
    turn = send(page, "broken")
    expect(turn.locator(".continue")).to_be_visible()
    page.evaluate("window.kept = document.querySelectorAll('.turn')[2].cloneNode(true)")
    turn = send(page, "stuck", prefill=STATES)
    expect(turn.locator(".held")).to_have_text(STATES[:15])
    # the next question removes the button, which is checked too
    page.evaluate("document.getElementById('turns').prepend(window.kept)")


# --- nothing is cut off ---------------------------------------------------------------------------------------------

#: Elements that reach beyond the page's width, or whose content does not fit. A select does not report this, so its
#: width is compared with the width of its longest choice.
CUT_OFF = """() => {
  const found = [];
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > wide) found.push(`the page: ${document.documentElement.scrollWidth} > ${wide}`);
  for (const part of document.querySelectorAll("body *")) {
    const box = part.getBoundingClientRect();
    if (!part.checkVisibility() || box.width === 0) continue;
    const name = part.tagName.toLowerCase() + (part.id && "#" + part.id) + (part.className && "." + part.className);
    if (box.left < -0.5 || box.right > wide + 0.5) found.push(`${name}: from ${box.left} to ${box.right}`);
    const inline = getComputedStyle(part).display === "inline";
    if (!inline && part.scrollWidth > part.clientWidth + 1 && part.tagName !== "SELECT") found.push(`${name}: too narrow`);
    if (!inline && part.scrollHeight > part.clientHeight + 1 && part.tagName === "TEXTAREA") found.push(`${name}: too low`);
    if (part.tagName === "SELECT") {
      const has = box.width;
      part.style.minWidth = "max-content";
      if (part.getBoundingClientRect().width > has + 1) found.push(`${name}: too narrow for its choices`);
      part.style.minWidth = "";
    }
  }
  return found;
}"""

LONG_NAME = "openrouter:anthropic/claude-haiku-4-5-20251001-of-a-very-long-name-that-goes-on:free"
MODELS = ["demo:eats", "demo:emulated", "", "swan", "anthropic:claude-haiku-4-5", LONG_NAME]


@pytest.mark.parametrize("width", [320, 390, 760])
def test_nothing_is_cut_off(page: Page, width: int) -> None:
    """Nothing is cut off with any model in the field: a demo model, none, a short name or a long one."""
    page.set_viewport_size({"width": width, "height": 640})
    assert page.evaluate(CUT_OFF) == []
    filled(page)
    for model in MODELS:
        page.select_option("#model", model if model.startswith("demo:") else "")
        if not model.startswith("demo:"):
            page.fill("#other", model)
        assert page.evaluate(CUT_OFF) == [], model
    page.click("#stop")


def test_control_what_is_cut_off_is_found(page: Page) -> None:
    """The check can fail: it finds a row, a field and a text that do not fit."""
    page.set_viewport_size({"width": 320, "height": 640})
    page.select_option("#model", "")
    page.fill("#other", LONG_NAME)
    for name, style, finds in (
        ("#form", "width: 400px", "the page: "),
        ("#other", "field-sizing: fixed", "textarea#other: too low"),
        ("#model", "flex: none; width: 60px", "select#model: too narrow"),
        ("h1", "width: 60px; white-space: nowrap; overflow: hidden", "h1: too narrow"),
    ):
        page.locator(name).evaluate("(part, style) => { part.style.cssText = style; }", style)
        found = page.evaluate(CUT_OFF)
        assert any(one.startswith(finds) for one in found), (name, found)
        page.locator(name).evaluate("part => { part.style.cssText = ''; }")
    assert page.evaluate(CUT_OFF) == []


# --- contrast -------------------------------------------------------------------------------------------------------

#: [text, ratio] of all visible text, with its opacity, by WCAG's formula.
CONTRASTS = """() => {
  const parse = (color) => {
    const found = color.match(/^rgba?\\((.+)\\)$/);
    if (!found) throw new Error("no such colour is known here: " + color);
    const [r, g, b, a = 1] = found[1].split(/[ ,/]+/).map(Number);
    return [r, g, b, a];
  };
  const over = (top, bottom) => [0, 1, 2].map((i) => top[i] * top[3] + bottom[i] * (1 - top[3]));
  const ground = (part) => {
    if (part === null) throw new Error("the page has no background of its own");
    const color = parse(getComputedStyle(part).backgroundColor);
    return color[3] === 1 ? color : over(color, ground(part.parentElement));
  };
  const light = (color) => color.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const of = (part, color, text) => {
    let shown = parse(color), behind = ground(part);
    for (let at = part; at; at = at.parentElement) shown[3] *= Number(getComputedStyle(at).opacity);
    return [text, ratio(over(shown, behind), behind)];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const part = walk.currentNode.parentElement;
    const text = walk.currentNode.data.trim();
    if (!text || !part.checkVisibility() || part.closest("textarea, select, script, template")) continue;
    found.push(of(part, getComputedStyle(part).color, text));
  }
  for (const part of document.querySelectorAll("textarea, select")) {
    if (!part.checkVisibility()) continue;
    if (part.value || part.tagName === "SELECT") found.push(of(part, getComputedStyle(part).color, "#" + part.id));
    else found.push(of(part, getComputedStyle(part, "::placeholder").color, "placeholder of #" + part.id));
  }
  for (const part of document.querySelectorAll(".turn i")) {
    found.push(["bar ." + part.className, ratio(parse(getComputedStyle(part).backgroundColor), ground(part.closest(".turn")))]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page: Page, scheme: Any) -> None:
    """All text has a contrast of at least 4.5 to 1, also if it is grey or disabled. The bar's colours have 3 to 1."""
    page.emulate_media(color_scheme=scheme)
    filled(page)
    page.fill("#other", "")
    found = [(text, ratio) for text, ratio in page.evaluate(CONTRASTS)]
    texts = {text for text, _ in found}
    assert {
        STATES.strip(),
        STATES[:4],
        "Send",
        "Stop",
        "Continue",
        "accepted",
        "Details",
        "#prompt",
        "#model",
    } <= texts
    assert {"placeholder of #other", "bar .wait", "bar .think", "bar .hold"} <= texts
    assert any("refused the request" in text for text in texts)
    assert any("Complete." in text for text in texts)
    assert [one for one in found if one[1] < (3 if one[0].startswith("bar ") else 4.5)] == []
    # control: the check finds a colour that is too pale, and an opacity
    note = page.locator(".turn").first.locator(".asked")
    for style in ("color: " + {"light": "#888", "dark": "#666"}[scheme], "opacity: 0.4"):
        note.evaluate("(part, style) => { part.style.cssText = style; }", style)
        assert [text for text, ratio in page.evaluate(CONTRASTS) if ratio < 4.5 and not text.startswith("bar ")]
        note.evaluate("part => { part.style.cssText = ''; }")
    page.click("#stop")


def test_the_two_schemes_are_two(page: Page) -> None:
    """The page follows the reader's choice of light or dark."""
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds.append(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(18, 20, 23)"]


# --- what a screen reader reads -------------------------------------------------------------------------------------

#: Changes of the page while a reply comes: the class of the element, and whether it is in a live region.
LIVE = """() => {
  window.changes = [];
  const live = "[aria-live]:not([aria-live=off]), [role=alert], [role=status], [role=log]";
  new MutationObserver((records) => {
    for (const {target} of records) {
      const part = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
      const place = part?.closest(".times, .bar, .reply, .note");
      if (place) window.changes.push([place.className, place.closest(live) !== null]);
    }
  }).observe(document.getElementById("turns"), {subtree: true, childList: true, characterData: true, attributes: true});
}"""


def test_the_time_line_is_not_read_aloud(page: Page) -> None:
    """The time line, which changes in every frame, is in no live region. The text and the line about the end are."""
    page.evaluate(LIVE)
    turn = send(page, "slow", prefill="Zero, ")
    expect(turn.locator(".note")).to_contain_text("Complete.")
    changes = [tuple(one) for one in page.evaluate("window.changes")]
    assert set(changes) == {("times", False), ("bar", False), ("reply", True), ("note", True)}
    assert changes.count(("times", False)) > 10


def test_what_is_held_is_read_aloud_only_as_text(page: Page, provider: Provider) -> None:
    """Held text is hidden from screen readers until it is text, because it may be removed again."""
    turn = send(page, "stuck", prefill=STATES)
    provider.wait(provider.exchange().waiting)
    expect(turn.locator(".held")).to_have_attribute("aria-hidden", "true")
    page.click("#stop")


# --- the page follows the text --------------------------------------------------------------------------------------

BOTTOM = "scrollY + innerHeight >= document.documentElement.scrollHeight - 1"


def grown(page: Page, pixels: int = 500) -> None:
    """Wait until the page is this many pixels longer."""
    height = page.evaluate("document.documentElement.scrollHeight")
    wait_for(page, f"document.documentElement.scrollHeight > {height + pixels}", 30)


@pytest.mark.parametrize("way", ["wheel", "key"])
def test_the_page_follows_the_text(page: Page, way: str) -> None:
    """The page follows the text to its end, unless the reader has scrolled up, and again after scrolling to the end."""
    send(page, "long")
    grown(page)
    assert page.evaluate("document.documentElement.scrollHeight > innerHeight + 400")
    wait_for(page, BOTTOM)
    grown(page)
    wait_for(page, BOTTOM)

    page.mouse.move(300, 100)
    before = page.evaluate("scrollY")
    if way == "wheel":
        page.mouse.wheel(0, -200)
    else:
        page.keyboard.press("PageUp")
    # scrolling takes some frames, so wait until it has stopped
    page.evaluate("""() => new Promise((done) => {
      let last = -1, same = 0;
      const look = () => { same = scrollY === last ? same + 1 : 0; last = scrollY; same > 20 ? done() : requestAnimationFrame(look); };
      look();
    })""")
    place = page.evaluate("scrollY")
    grown(page)
    assert page.evaluate("scrollY") == place
    assert not page.evaluate(BOTTOM)
    assert place < before + 400

    # the text grows while the page moves, so one move may end above the new end
    for _ in range(20):
        if way == "wheel":
            page.mouse.wheel(0, 100_000)
        else:
            page.keyboard.press("End")
        page.wait_for_timeout(50)
    wait_for(page, BOTTOM)
    grown(page)
    wait_for(page, BOTTOM)
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_enabled()
    wait_for(page, BOTTOM)


def test_a_new_question_is_followed_again(page: Page) -> None:
    """After a new question the page follows the text again, wherever it was."""
    turn = send(page, "long")
    grown(page)
    page.mouse.move(300, 100)
    page.mouse.wheel(0, -300)
    wait_for(page, f"!({BOTTOM})")
    page.keyboard.press("Escape")
    expect(turn.locator(".note")).to_contain_text("Stopped.")
    page.evaluate("scrollTo(0, 0)")
    page.evaluate("document.getElementById('form').requestSubmit()")
    expect(page.locator(".turn")).to_have_count(2)
    wait_for(page, BOTTOM)
    grown(page)
    wait_for(page, BOTTOM)
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_enabled()

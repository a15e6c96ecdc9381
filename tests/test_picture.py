"""The picture `docs/picture.svg` shows the output of a run, and is readable in the light and the dark scheme."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anyio
import pytest

from aprefill._hosts.table import builtin_table
from aprefill.testing import Script

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "picture.svg"
SVG = "{http://www.w3.org/2000/svg}"
#: The elements that the picture may have. None of them runs or loads anything.
ELEMENTS = {"svg", "title", "desc", "style", "rect", "path", "circle", "text", "tspan"}
#: text class -> the surface behind it; all other texts are on the window
SURFACE_OF = {"title": "bar"}


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """Load `docs/_picture.py` without running it as a program, and return its names."""
    return runpy.run_path(str(ROOT / "docs" / "_picture.py"))


@pytest.fixture(scope="module")
def results(script: dict[str, Any]) -> list[Any]:
    """Run each host of the picture. Returns (host, without aprefill, with aprefill) for each."""
    return anyio.run(script["run"])


@pytest.fixture
def picture() -> str:
    return PICTURE.read_text("utf-8")


def shown(svg: str) -> list[str]:
    """Return every line of text in the picture."""
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


# --- the picture shows the output of a run -----------------------------------------------------------------------


def test_the_picture_is_fresh(script: dict[str, Any], results: list[Any], picture: str) -> None:
    """The file has exactly the bytes that the script draws from a new run."""
    assert script["render"](results) == picture


def test_another_reply_makes_another_picture(script: dict[str, Any], picture: str) -> None:
    """Control: if a host answers something else, the picture is different, and the file is out of date."""
    hosts = [
        replace(host, script=Script(text='Oregon", "Utah"]', prefill=host.script.prefill, asked="obeys"))
        for host in script["HOSTS"]
    ]
    drawn = script["render"](anyio.run(script["run"], hosts))
    assert drawn != picture
    # three times with aprefill, and once because a host repeats the prefill
    assert shown(drawn).count('["Oregon", "Utah"]') == 4
    assert not any("Alabama" in line for line in shown(drawn))


def test_without_it_three_faults_and_with_it_the_same_json(script: dict[str, Any], results: list[Any]) -> None:
    """Without aprefill the SDKs give half a JSON list, a fence and a refusal. With it all three give the same list."""
    whole = script["PREFILL"] + script["TEXT"]
    eaten, fenced, refused = (without for _, without, _ in results)
    assert eaten.text == script["TEXT"]
    assert fenced.text == f"Sure, here it is:\n```json\n{whole}\n```"
    assert refused.status == 400
    assert refused.error.startswith("anthropic.BadRequestError: This model does not support assistant message prefill.")
    assert [without.good for _, without, _ in results] == [False] * 3
    assert [with_it.text for *_, with_it in results] == [whole] * 3
    assert [with_it.good for *_, with_it in results] == [True] * 3


def test_the_hosts_behave_as_the_support_table_says(results: list[Any]) -> None:
    """The first host is one with a native prefill.

    For the others aprefill asks in the prompt, as in the support table.
    """
    table = builtin_table()
    known = [table.row(host.provider, host.model).support.value for host, *_ in results]
    assert known == ["eats", "emulated", "emulated"]
    assert [with_it.mode for *_, with_it in results] == ["native", "emulated", "emulated"]


def test_a_stale_file_is_reported(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails for a file that is out of date and writes nothing. Without `--check` the file is written."""
    target = tmp_path / "picture.svg"
    monkeypatch.setitem(script["main"].__globals__, "TARGET", target)
    target.write_text("<svg/>", "utf-8")
    assert script["main"](["--check"]) == 1
    assert target.read_text("utf-8") == "<svg/>"
    assert "picture.svg is stale" in capsys.readouterr().err
    assert script["main"]([]) == 0
    assert script["main"](["--check"]) == 0
    assert target.read_bytes() == PICTURE.read_bytes()


# --- the picture is readable --------------------------------------------------------------------------------------


def test_the_picture_is_plain_svg_with_words_for_screen_readers(picture: str) -> None:
    """The picture is valid XML, loads and runs nothing, and has a title and a description for screen readers."""
    root = ElementTree.fromstring(picture)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == ELEMENTS
    assert not [name for element in root.iter() for name in element.attrib if "href" in name or name.startswith("on")]
    assert not re.search(r"url\(|@import|@font-face", picture)
    ids = {element.get("id"): element.text for element in root.iter() if element.get("id")}
    assert root.get("role") == "img"
    assert [bool(ids[name]) for name in str(root.get("aria-labelledby")).split()] == [True, True]


def test_no_text_is_smaller_than_12_pixels(picture: str) -> None:
    """At the picture's own size every font size, all of which are in the style sheet, is at least 12 pixels."""
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", picture)]
    assert len(sizes) == len(re.findall(r"font(?:-size)?:", picture))
    assert min(sizes) >= 12


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb` (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, from 1 to 21 (WCAG 2.2)."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def too_faint(svg: str) -> list[tuple[str, str, str]]:
    """Return (scheme, class, surface) of every text in the picture whose contrast is below 4.5."""
    style = str(ElementTree.fromstring(svg).findtext(f"{SVG}style"))
    light, dark = style.split("@media (prefers-color-scheme: dark) {")
    found = []
    for scheme, rules in (("light", light), ("dark", dark)):
        fill = dict(re.findall(r"^\s*\.(\w+) \{ fill: (#[0-9a-f]{6}) \}$", rules, re.MULTILINE))
        for classes in text_classes(svg):
            surface = next((SURFACE_OF[name] for name in classes if name in SURFACE_OF), "window")
            # a class without a colour would be black, also in the dark scheme
            (name,) = (name for name in classes if name in fill)
            if contrast(fill[name], fill[surface]) < 4.5:
                found.append((scheme, name, surface))
    return found


def text_classes(svg: str) -> set[tuple[str, ...]]:
    """Return the classes of every text that contains characters itself."""
    root = ElementTree.fromstring(svg)
    texts = [*root.iter(f"{SVG}text"), *root.iter(f"{SVG}tspan")]
    return {tuple(str(text.get("class")).split()) for text in texts if text.text}


def test_every_text_has_enough_contrast_in_light_and_in_dark(picture: str) -> None:
    """Every text has a contrast of at least 4.5, as WCAG requires, in both schemes."""
    assert {name for classes in text_classes(picture) for name in classes} >= {
        "said",
        "quiet",
        "prefill",
        "bad",
        "good",
    }
    assert too_faint(picture) == []


def test_the_contrast_check_sees_a_faint_colour(script: dict[str, Any], picture: str) -> None:
    """Control: black on white is 21, a known grey fails, and one faint colour in one scheme is found."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    faint = picture.replace(f".quiet {{ fill: {script['COLOURS']['dark']['quiet']} }}", ".quiet { fill: #59636e }")
    assert too_faint(faint) == [("dark", "quiet", "window")] * len([c for c in text_classes(faint) if "quiet" in c])


def test_a_line_that_does_not_fit_is_an_error(script: dict[str, Any]) -> None:
    """If a reply is too long for the window, the script fails."""
    fits, too_long = ([[("said", "x" * length)]] for length in (script["COLUMNS"], script["COLUMNS"] + 1))
    assert len(script["texts"](fits, 0, 0)) == 1
    with pytest.raises(SystemExit, match="does not fit"):
        script["texts"](too_long, 0, 0)


def test_prefill_and_reply_have_colours_of_their_own(picture: str) -> None:
    """With aprefill each reply has the prefill in one colour and the model's text in another."""
    pieces = [
        [(span.get("class"), span.text) for span in text.iter(f"{SVG}tspan")]
        for text in ElementTree.fromstring(picture).iter(f"{SVG}text")
    ]
    assert pieces.count([("prefill", '["'), ("said", 'Alabama", "Alaska"]')]) == 3
    # on the left the model itself repeated the prefill
    assert pieces.count([("said", '["Alabama", "Alaska"]')]) == 1

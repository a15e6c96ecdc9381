"""The description on the package index contains no broken link, with or without a repository URL."""

from __future__ import annotations

import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hatchling", reason="hatchling is not installed: it is in the dependency group test")

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[[^\[\]]*\]\(([^()\s]+)\)")
SOURCE = "https://git.example/somebody/aprefill"


def relative(markdown: str) -> list[str]:
    """Return the targets of links and images that are relative, so that they are broken on another site."""
    return [where for _, where in LINK.findall(markdown) if not re.match(r"https?://|#", where)]


@pytest.fixture(scope="module")
def hook() -> Any:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(hook: Any, source: str | None) -> str:
    metadata: dict[str, Any] = {"urls": {"Source": source}} if source else {}
    hook.DescriptionHook(str(ROOT), {}).update(metadata)
    assert metadata["readme"]["content-type"] == "text/markdown"
    text: str = metadata["readme"]["text"]
    return text


def test_control_that_the_readme_has_relative_links() -> None:
    """Control: the README itself has relative links, and the check finds them."""
    assert "docs/support.md" in relative((ROOT / "README.md").read_text(encoding="utf-8"))


def test_links_without_an_address(hook: Any) -> None:
    """Without a `Source` URL of the project, relative links become plain text and absolute links stay."""
    text = built(hook, None)
    assert relative(text) == []
    assert "The support table has the evidence." in text
    assert "[LLM](https://llm.datasette.io/)" in text


def test_links_with_an_address(hook: Any) -> None:
    """With a `Source` URL relative links lead into the repository, to files that exist."""
    text = built(hook, SOURCE)
    assert relative(text) == []
    paths = re.findall(re.escape(f"]({SOURCE}/blob/HEAD/") + r"([^)#]+)", text)
    assert len(paths) >= 10
    assert all((ROOT / path).is_file() for path in paths)


def test_images_and_code(hook: Any) -> None:
    """An image gets a URL of its raw file. Text in code that looks like a link is unchanged."""
    image = "![A page](docs/page.png) `[x](y)`\n```python\na[0](b)\n```\n"
    assert hook.description(image, SOURCE).startswith(f"![A page]({SOURCE}/raw/HEAD/docs/page.png) `[x](y)`")
    assert hook.description(image, None) == image.replace("![A page](docs/page.png)", "A page")
    assert "a[0](b)" in hook.description(image, SOURCE)


def test_the_code_of_the_readme_is_as_it_was(hook: Any) -> None:
    """Code blocks are unchanged."""
    block = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert block.findall(built(hook, None)) == block.findall(readme) == block.findall(built(hook, SOURCE))


class _Addresses(HTMLParser):
    """Collects the targets of a page's links and images."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"href", "src"}]


def rendered(markdown: str) -> list[str]:
    """Render Markdown as a package index does, and return the targets of its links and images."""
    renderer = pytest.importorskip(
        "readme_renderer.markdown", reason="readme-renderer[md] is not installed: it is in the dependency group test"
    )
    html = renderer.render(markdown)
    assert html
    assert html.count("<h2 ") == len(re.findall("^## ", markdown, re.MULTILINE)) > 5
    page = _Addresses()
    page.feed(html)
    return page.found


@pytest.mark.parametrize("source", [None, SOURCE])
def test_as_an_index_page_shows_it(hook: Any, source: str | None) -> None:
    """On the rendered page every link and image leads to another site or to the page itself."""
    addresses = rendered(built(hook, source))
    assert [one for one in addresses if not one.startswith(("https://", "#user-content-"))] == []
    assert "https://llm.datasette.io/" in addresses
    # control: the README itself
    assert "docs/support.md" in rendered((ROOT / "README.md").read_text(encoding="utf-8"))


def test_the_built_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The METADATA of the built wheel has this description and the right extras."""
    from email import message_from_bytes
    from zipfile import ZipFile

    from hatchling.build import build_wheel

    monkeypatch.chdir(ROOT)
    with ZipFile(tmp_path / build_wheel(str(tmp_path))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(wheel.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert "# aprefill" in text
    assert relative(text) == []
    assert metadata.get_all("Provides-Extra") is not None
    assert "redis" not in metadata.get_all("Provides-Extra", [])

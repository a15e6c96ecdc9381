"""Makes the project's description for package indexes of README.md when a wheel or an sdist is built.

An index page has no files beside the README, so relative links and images lead nowhere there. With a `Source` among
`[project.urls]` they become links to that repository; without one they become plain text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: A link or an image; its address has no scheme and is no anchor of the page itself.
_RELATIVE = re.compile(r"(!?)\[([^\[\]]*)\]\((?![a-zA-Z][a-zA-Z0-9+.-]*:|#|//)([^()\s]+)\)")
#: Fenced code, and code in a line: no link is in it.
_CODE = re.compile(r"(^```.*?^```$|``[^\n]*?``|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


class DescriptionHook(MetadataHookInterface):
    """`[tool.hatch.metadata.hooks.custom]`."""

    def update(self, metadata: dict[str, Any]) -> None:
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": description(readme, source)}


def description(readme: str, source: str | None) -> str:
    """`readme` as it can be shown on another site. `source` is the address of the repository, for example on GitHub.

    >>> description("See [the docs](docs/web.md), [issue 1](https://example.org/1).", None)
    'See the docs, [issue 1](https://example.org/1).'
    >>> description("![A page](docs/page.png)", "https://example.org/me/it")
    '![A page](https://example.org/me/it/raw/HEAD/docs/page.png)'
    """

    def absolute(found: re.Match[str]) -> str:
        bang, text, path = found.groups()
        if source is None:
            return text
        return f"{bang}[{text}]({source.rstrip('/')}/{'raw' if bang else 'blob'}/HEAD/{path.removeprefix('./')})"

    parts = _CODE.split(readme)
    parts[::2] = [_RELATIVE.sub(absolute, part) for part in parts[::2]]
    return "".join(parts)

"""Write the description that package indexes show. It is made from README.md when a wheel or an sdist is built.

The page of a package index has no other files of the repository, so relative links and images do not work there. If
`[project.urls]` has a `Source`, they become links to that repository. If it has none, they become plain text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: A link or an image whose address is relative: it has no scheme, and is not an anchor of the same page.
_RELATIVE = re.compile(r"(!?)\[([^\[\]]*)\]\((?![a-zA-Z][a-zA-Z0-9+.-]*:|#|//)([^()\s]+)\)")
#: Fenced code and inline code. Text inside them is not a link.
_CODE = re.compile(r"(^```.*?^```$|``[^\n]*?``|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


class DescriptionHook(MetadataHookInterface):
    """Set the metadata field `readme`. pyproject.toml names this hook: `[tool.hatch.metadata.hooks.custom]`."""

    def update(self, metadata: dict[str, Any]) -> None:
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": description(readme, source)}


def description(readme: str, source: str | None) -> str:
    """Return `readme` in a form for another site. `source` is the address of the repository, for example on GitHub.

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

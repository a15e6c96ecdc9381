"""Write `docs/support.md` from the built-in support table.

`python docs/_support_table.py` writes the page. With `--check` it writes nothing, and exits with 1 if the page is
stale.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))  # use this checkout's table, not an installed one

from aprefill._hosts.table import support_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aprefill._hosts.row import SupportRow

TARGET = Path(__file__).with_name("support.md")

INTRO = """\
# What each host does with a prefill

Written by `docs/_support_table.py` from `aprefill/_hosts/models.toml`. To change this page, change that file.
In a program, `aprefill.support_table()` returns the same rows.

A *prefill* is the text that you write as the beginning of the model's reply: [How it works](how-it-works.md).

Each host has a numbered list. An item begins with the models that it is about. They are shell patterns for the model
name in lower case. The patterns are tried from top to bottom, and the first match counts. *Any other* stands for all
other models. (`:*`) means: with or without a tag. The word in bold says what happens to a prefill:

| word | meaning |
|---|---|
| eats | The host takes the prefill (native). Its response leaves the prefill out. |
| echoes | The host takes the prefill (native). Its response repeats the prefill. |
| emulated | The host takes no prefill, or ignores it. aprefill asks the model for it in the prompt. |
| unsupported | The host takes no prefill, and asking in the prompt does not help. |

**Sent as** says how a request carries a native prefill. A *trailing turn* is a last message of the assistant. Some
hosts also need a field in that message, or fields in the body. *Stripped* means that white space at the prefill's end
is not sent, because the host refuses or drops it. The reply still contains that white space exactly once.

**Not with** lists the settings of a request that break a native prefill on that host. A question mark after a setting
means that it is not known.

**Evidence** is the best that there is, with the date on which it was read, and its source:

| word | meaning |
|---|---|
| recording | a recorded exchange with the hosted service |
| engine | the engine was run, or its source code was read |
| doc | the vendor's documentation |
| issue | a public report with the request and the response |
| guess | none of these. **A guess counts as unknown.** It is listed, but aprefill does not rely on it. |
| unknown | nobody has checked |

Unknown does not mean no. `support=` on a call overrides the table for that call. A table of your own
(`Session(table=...)`) overrides it for a session.
"""


def main(arguments: list[str]) -> int:
    text = render(support_table())
    if arguments == ["--check"]:
        if TARGET.is_file() and TARGET.read_text("utf-8") == text:
            return 0
        print(f"{TARGET.name} is stale: run python docs/{Path(__file__).name}", file=sys.stderr)
        return 1
    TARGET.write_text(text, "utf-8")
    return 0


def render(rows: Iterable[SupportRow]) -> str:
    urls: dict[str, int] = {}
    parts = [INTRO]
    parts.extend(_host(list(group), urls) for _, group in groupby(rows, key=lambda row: (row.provider, row.api)))
    return "\n".join([*parts, *(f"[{number}]: {url}" for url, number in urls.items()), ""])


def _host(rows: list[SupportRow], urls: dict[str, int]) -> str:
    first = rows[0]
    facts = [f"Base URL: `{first.base_url}`." if first.base_url else "Base URL: none. Pass your own."]
    special = dict.fromkeys(row.prefill_base_url for row in rows if row.native and row.prefill_base_url)
    facts.extend(f"Base URL with a prefill: `{url}`." for url in special)
    if first.key_env:
        names = " or ".join(f"`{name}`" for name in first.key_env)
        facts.append(f"Key: {names}{'' if first.key_required else ', if the host needs one'}.")
    items = [_item(number, row, urls, alone=len(rows) == 1) for number, row in enumerate(rows, 1)]
    return "\n".join([f"## {first.provider} ({first.api})", "", *_wrapped(" ".join(facts), ""), "", *items, ""])


def _item(number: int, row: SupportRow, urls: dict[str, int], *, alone: bool) -> str:
    """Return what is known about the models of one row, as an item of a numbered list."""
    indent = " " * len(f"{number}. ")
    lines = _wrapped(f"{number}. {_models(row, alone=alone)}: **{_prefill(row)}**", indent)
    facts = []
    if sent := _sent(row):
        facts.append(f"Sent as: {sent}.")
    if conflicts := _conflicts(row):
        facts.append(f"Not with: {conflicts}.")
    if row.note:
        facts.append(f"Note: {row.note}.")
    if row.evidence != "unknown":
        facts.append(f"Evidence: {row.evidence}, {row.date}. {_links(row.source, urls)}")
    for fact in facts:
        lines[-1] += "\\"  # a line break in Markdown
        lines += _wrapped(indent + fact.rstrip(), indent)
    return "\n".join(lines)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _models(row: SupportRow, *, alone: bool) -> str:
    if row.models == ("*",):
        return "*any*" if alone else "*any other*"
    # "name" together with "name:*" is printed as one name, with or without its tag.
    names = [name for name in row.models if not (name.endswith(":*") and name[:-2] in row.models)]
    return ", ".join(f"`{name}`" + ("(`:*`)" if f"{name}:*" in row.models else "") for name in names)


def _prefill(row: SupportRow) -> str:
    if row.guess:
        return f"unknown (guess: {row.guess.value})"
    return "unknown" if row.evidence == "unknown" else row.support.value


def _sent(row: SupportRow) -> str:
    if not row.native:
        return ""
    parts = ["trailing turn"]
    if row.turn_fields:
        parts.append(f"`{json.dumps(dict(row.turn_fields))}` in it")
    if row.body_fields:
        parts.append(f"`{json.dumps(dict(row.body_fields))}` in the body")
    if row.whitespace == "strip":
        parts.append("stripped")
    return ", ".join(parts)


def _conflicts(row: SupportRow) -> str:
    if not row.native:
        return ""
    if row.conflicts and set(row.conflicts.values()) == {"unknown"}:
        return "not known for any setting"
    return ", ".join(name + ("" if word == "breaks" else "?") for name, word in row.conflicts.items())


def _links(source: str, urls: dict[str, int]) -> str:
    """Return the source with its URLs as reference links, and add them to `urls`. The words between them stay."""
    return re.sub(r"https://\S+", lambda m: f"[{_label(m[0])}][{urls.setdefault(m[0], len(urls) + 1)}]", source)


def _label(url: str) -> str:
    if match := re.fullmatch(r"https://github\.com/([^/]+/[^/]+)(?:/(?:issues|pull)/(\d+))?", url):
        return match[1] + (f"#{match[2]}" if match[2] else "")
    return url.removeprefix("https://").partition("/")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Write `docs/support.md` from the built-in support table.

`python docs/_support_table.py` writes it; with `--check` it writes nothing and exits 1 when the file is stale.
"""

from __future__ import annotations

import json
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's table, whatever is installed

from aprefill._hosts.table import support_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aprefill._hosts.row import SupportRow

TARGET = Path(__file__).with_name("support.md")

INTRO = """\
# What each host does with a prefill

Written by `docs/_support_table.py` from `aprefill/_hosts/models.toml`; change that file, not this one.
In a program, `aprefill.support_table()` gives the same rows.

**Models** are shell patterns for the lower-cased name, tried from top to bottom; *any other* is what is left. (`:*`)
means: with or without a tag.

**Prefill** is what happens to it:

| word | meaning |
|---|---|
| eats | native: the reply leaves the prefill out |
| echoes | native: the reply repeats the prefill |
| emulated | no native prefill: only by asking in the prompt |
| unsupported | refused, and asking does not help |

**Sent as** is what switches it on: a trailing assistant turn, a field of that turn, fields of the body. *Stripped* means that
white space at the prefill's end is not sent, because the host refuses or drops it; the reply still has it exactly once.
**Not with** lists the settings of a request that break a native prefill there; a question mark: nobody knows
(alone: of none of them).

**Evidence** is the best there is:

| word | meaning |
|---|---|
| recording | a recorded exchange with the hosted service |
| engine | the engine was run, or its source read |
| doc | the vendor's documentation |
| issue | a public report with the request and what came back |
| guess | none of these. **A guess counts as unknown**: it is written down, not relied on |
| unknown | nobody has looked |

Unknown is not "no": `support=` on a call overrules the table, and a table of your own (`Session(table=...)`) overrules it for
good. The date is when the source was looked at.
"""


def main(arguments: list[str]) -> int:
    text = render(support_table())
    if arguments == ["--check"]:
        if TARGET.is_file() and TARGET.read_text("utf-8") == text:
            return 0
        print(f"{TARGET.name} is stale; run python docs/{Path(__file__).name}", file=sys.stderr)
        return 1
    TARGET.write_text(text, "utf-8")
    return 0


def render(rows: Iterable[SupportRow]) -> str:
    parts = [INTRO]
    parts.extend(_host(list(group)) for _, group in groupby(rows, key=lambda row: (row.provider, row.api)))
    return "\n".join(parts)


def _host(rows: list[SupportRow]) -> str:
    first = rows[0]
    facts = [f"Base URL `{first.base_url}`" if first.base_url else "Base URL: yours"]
    facts.extend(
        dict.fromkeys(f"with a prefill `{r.prefill_base_url}`" for r in rows if r.native and r.prefill_base_url)
    )
    if first.key_env:
        facts.append(f"key in `{'`, `'.join(first.key_env)}`{'' if first.key_required else ' (if it needs one)'}")
    lines = [
        f"## {first.provider} ({first.api})",
        "",
        "; ".join(facts) + ".",
        "",
        "| Models | Prefill | Sent as | Not with | Evidence | Source | Looked at |",
        "|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for row in rows:
        models = _models(row, alone=len(rows) == 1)
        if row.note:
            notes.append(f"{len(notes) + 1}. {row.note}.")
            models += f" ({len(notes)})"
        cells = [models, _prefill(row), _sent(row), _conflicts(row), row.evidence, _links(row.source), row.date]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", *notes, *([""] if notes else [])])


def _models(row: SupportRow, *, alone: bool) -> str:
    if row.models == ("*",):
        return "*any*" if alone else "*any other*"
    # "name" beside "name:*" is one name with or without its tag.
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
        parts.append(f"`{json.dumps(dict(row.turn_fields))}` on it")
    if row.body_fields:
        parts.append(f"`{json.dumps(dict(row.body_fields))}` in the body")
    if row.whitespace == "strip":
        parts.append("stripped")
    return ", ".join(parts)


def _conflicts(row: SupportRow) -> str:
    if not row.native:
        return ""
    if row.conflicts and set(row.conflicts.values()) == {"unknown"}:
        return "?"
    return ", ".join(name + ("" if word == "breaks" else "?") for name, word in row.conflicts.items())


def _links(source: str) -> str:
    """The source with its URLs as links; the words between them stay."""
    return re.sub(r"https://\S+", lambda match: f"[{_label(match[0])}]({match[0]})", source)


def _label(url: str) -> str:
    if match := re.fullmatch(r"https://github\.com/([^/]+/[^/]+)(?:/(?:issues|pull)/(\d+))?", url):
        return match[1] + (f"#{match[2]}" if match[2] else "")
    return url.removeprefix("https://").partition("/")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

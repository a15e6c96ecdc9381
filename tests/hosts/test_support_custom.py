"""A caller's own support table, and the errors for a wrong one."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from aprefill._errors import UsageError
from aprefill._hosts.prefill import attach_prefill, known_refusal
from aprefill._hosts.table import SupportTable, builtin_table
from aprefill._types import Support

from ..support.refusals import REFUSALS
from ..support.table import MESSAGES, ROOT, body, row

if TYPE_CHECKING:
    from pathlib import Path

# --- a caller's table -----------------------------------------------------------------------------------------

OWN = """
[[host]]
provider = "anthropic"
api = "messages"

[[host.model]]
match = ["claude-opus-9"]
support = "eats"
evidence = "issue"
source = "we tried it"
date = 2026-11-23

[[host.model]]
match = ["claude-haiku-4-5"]
support = "unsupported"
evidence = "issue"
source = "ours does not"
date = 2026-11-23

[[host]]
provider = "acme"
api = "chat"
codec = "openai_chat"
base_url = "https://llm.acme.example/v1"
key_env = ["ACME_KEY"]
auth = "bearer"
dialect = "partial"
refusals = ["acme-says-no", "claude-model"]

[[host.model]]
match = ["*"]
support = "echoes"
evidence = "engine"
source = "our own"
date = 2026-11-23
whitespace_echo = true

[refusal.acme-says-no]
status = 409
text = "Sorry, we do not do prefills here"
why = "model"
source = "our own"
date = 2026-11-23
"""


def test_a_caller_s_table_wins_and_the_rest_stays() -> None:
    """A caller's entries win, new hosts are added, and everything else stays as built in."""
    table = SupportTable.load(OWN)
    assert table.row("anthropic", "claude-opus-9").support is Support.EATS
    assert attach_prefill(table.row("anthropic", "claude-opus-9"), MESSAGES, "a ").stripped == " "
    assert table.row("anthropic", "claude-haiku-4-5").support is Support.UNSUPPORTED
    assert table.row("anthropic", "claude-haiku-4-5-20251001").support is Support.EATS
    assert table.row("anthropic", "claude-opus-4-6").support is Support.EMULATED
    acme = table.row("acme", "m1")
    assert (acme.support, acme.dialect, acme.whitespace_echo) == (Support.ECHOES, "partial", True)
    assert known_refusal(acme, 409, "sorry, we do not do  prefills here.")
    assert known_refusal(acme, 400, REFUSALS[0][2])
    assert table.provider_of_url("https://llm.acme.example/v1") == "acme"
    assert table.providers == (*builtin_table().providers, "acme")
    assert table.providers is table.providers  # One reply reads this property many times.
    assert builtin_table().row("anthropic", "claude-haiku-4-5").support is Support.EATS


def test_a_caller_may_move_a_built_in_host() -> None:
    """For a built-in host an entry gives only what differs.

    A known URL may be given to another host.
    """
    table = SupportTable.load(
        '[[host]]\nprovider = "vllm"\napi = "chat"\nbase_url = "https://gpu.example/v1"\nkey_env = ["GPU_KEY"]\n'
    )
    found = table.row("vllm", "x")
    assert (found.base_url, found.key_env) == ("https://gpu.example/v1", ("GPU_KEY",))
    assert body(found, "x", "{") == body(row("vllm", "x"), "x", "{")
    assert table.provider_of_url("https://gpu.example") == "vllm"
    own = OWN.replace("https://llm.acme.example/v1", "https://api.groq.com/own")
    assert SupportTable.load(own).provider_of_url("https://api.groq.com") == "acme"


def test_a_caller_s_table_from_a_file(tmp_path: Path) -> None:
    """A table is read from a path, given as str or Path. A missing file raises `UsageError`."""
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    assert SupportTable.load(path).rows() == SupportTable.load(str(path)).rows() == SupportTable.load(OWN).rows()
    with pytest.raises(UsageError, match="cannot read it"):
        SupportTable.load(tmp_path / "absent.toml")


ENTRY = """
[[host]]
provider = "acme"
api = "chat"
codec = "openai_chat"
base_url = "https://llm.acme.example/v1"
auth = "bearer"
refusals = []

[[host.model]]
match = ["good"]
support = "eats"
evidence = "doc"
source = "s"
date = 2026-11-23

[[host.model]]
match = ["m-*"]
support = "eats"
evidence = "doc"
source = "s"
date = 2026-11-23
turn_fields = {}
"""


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('match = ["m-*"]\nsupport = "eats"', 'match = ["m-*"]\nsupport = "eat"', ["m-*", "`support`", "eats, echoes"]),
        ('match = ["m-*"]\n', 'match = ["M-*"]\n', ["entry 2", "lower case"]),
        ('match = ["m-*"]\n', "", ["entry 2", "`match`"]),
        ('match = ["m-*"]\n', 'match = "m-*"\n', ["entry 2", "`match`", "array"]),
        ("turn_fields = {}", "turn_field = {}", ["m-*", "`turn_field`"]),
        ("turn_fields = {}", 'turn_fields = { role = "user" }', ["m-*", "turn_fields", "role"]),
        ("turn_fields = {}", 'dialect = "prefixed"', ["m-*", "`dialect`", "partial"]),
        ("turn_fields = {}", 'dialect = "prompt"', ["m-*", "`dialect`"]),
        ("turn_fields = {}", 'whitespace = "trim"', ["m-*", "`whitespace`", "keep, strip"]),
        ("turn_fields = {}", 'prefill_base_url = "x"', ["m-*", "prefill_base_url", "https://"]),
        ("turn_fields = {}", "whitespace_echo = true", ["m-*", "whitespace_echo", "eats"]),
        ("turn_fields = {}", 'conflicts = { thinking = "yes" }', ["m-*", "`conflicts"]),
        ("turn_fields = {}", 'conflicts = { seed = "breaks" }', ["m-*", "`conflicts"]),
        ("date = 2026-11-23\nturn", "date = 2026\nturn", ["m-*", "`date`"]),
        ('source = "s"\ndate = 2026-11-23\nturn', 'source = " "\ndate = 2026-11-23\nturn', ["m-*", "source"]),
        (
            '"doc"\nsource = "s"\ndate = 2026-11-23\nturn',
            '"hearsay"\nsource = "s"\ndate = 2026-11-23\nturn',
            ["`evidence`", "guess"],
        ),
        ('codec = "openai_chat"\n', "", ["host acme/chat", "`codec`"]),
        ('codec = "openai_chat"\n', 'codec = "openai_chat"\nend = "whenever"\n', ["host acme/chat", "`end`", "'done'"]),
        ('"openai_chat"', '"openai_chats"', ["host acme/chat", "`codec`", "'openai_chats'", "anthropic_messages"]),
        ('auth = "bearer"', 'auth = "basic"', ["host acme/chat", "auth is bearer", "x-api-key"]),
        ('auth = "bearer"', 'auth = "X-Api-Key"', ["host acme/chat", "auth is bearer", "x-api-key"]),
        ('"https://llm.acme.example/v1"', '"llm.acme.example"', ["host acme/chat", "base_url", "https://"]),
        ('api = "chat"', 'api = "chats"', ["host acme/chats", "`api`", "responses"]),
        ('api = "chat"', "", ["host acme/?", "`api`"]),
        ('provider = "acme"', 'provider = "ac:me"', ["host ac:me/chat", "provider"]),
        ("refusals = []", 'refusals = ["no-such"]', ["host acme/chat", "`refusals`", "refusal.no-such"]),
        ("refusals = []", 'hosts = ["not a host:x"]', ["host acme/chat", "hosts"]),
        ("refusals = []", 'max_tokens = "many"', ["host acme/chat", "`max_tokens`"]),
        ("[[host]]", "[[hosts]]", ["`hosts`"]),
        (
            "[[host]]",
            '[refusal.r]\nstatus = 400\ntext = "no"\nwhy = "model"\nsource = "s"\ndate = 2026-11-23\n[[host]]',
            ["refusal r", "20 characters"],
        ),
        ("refusals = []", "refusals = [", ["cannot read it"]),
    ],
)
def test_a_wrong_table_is_told_where_it_is_wrong(old: str, new: str, parts: list[str]) -> None:
    """A mistake in a table raises a `UsageError` that names the host, the entry and the key."""
    assert SupportTable.load(ENTRY).row("acme", "m-1").support is Support.EATS
    assert ENTRY.count(old) >= 1
    with pytest.raises(UsageError) as caught:
        SupportTable.load(ENTRY.replace(old, new))
    message = str(caught.value)
    assert not [part for part in parts if part not in message], message


# --- reading the file -----------------------------------------------------------------------------------------


def test_the_file_is_read_at_the_first_question_and_once() -> None:
    """The table's file is read once, at the first look-up and not at the import."""
    program = """
import sys
opened = []
sys.addaudithook(lambda event, args: event == "open" and str(args[0]).endswith("models.toml") and opened.append(1))
import aprefill._hosts.table as support
counts = [len(opened)]
support.support_table()
counts.append(len(opened))
support.support_table(), support.builtin_table().row("openai", "x")
counts.append(len(opened))
print(counts)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.strip() == "[0, 1, 1]"


def test_the_page_in_the_docs_is_fresh() -> None:
    """`docs/support.md` is exactly what the generator writes from this table."""
    done = subprocess.run(
        [sys.executable, "docs/_support_table.py", "--check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

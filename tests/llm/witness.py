"""A pytest plugin for `nox -s llm_suite`: it records whether aprefill was loaded in the process that ran the tests.

With APREFILL_SABOTAGE it breaks `llm prompt`, as a bad plugin would. The comparison must see this.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def pytest_configure() -> None:
    if os.environ.get("APREFILL_SABOTAGE"):
        import click
        from llm.cli import cli

        def broken(*_: Any, **__: Any) -> None:
            raise click.ClickException("broken on purpose")

        cli.commands["prompt"].callback = broken


def pytest_sessionfinish() -> None:
    from llm.plugins import pm

    names = sorted(getattr(plugin, "__name__", "") for plugin in pm.get_plugins())
    Path(os.environ["APREFILL_WITNESS"]).write_text(json.dumps(names), encoding="utf-8")

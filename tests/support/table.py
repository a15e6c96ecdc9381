"""Shared by the tests of the support table: its rows, the recordings, and the bytes that carry a prefill."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aprefill._hosts.prefill import attach_prefill
from aprefill._hosts.table import builtin_table

if TYPE_CHECKING:
    from aprefill._hosts.row import SupportRow


ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("APREFILL_SHARED") or ROOT.parent / "shared")
USER = {"role": "user", "content": "Hi"}
MESSAGES = (USER,)

needs_recordings = pytest.mark.skipif(
    not (SHARED / "recordings").is_dir(), reason=f"no recordings in {SHARED}; APREFILL_SHARED says where they are"
)


def row(provider: str, model: str, api: str | None = None) -> SupportRow:
    return builtin_table().row(provider, model, api)


def body(found: SupportRow, model: str, prefill: str, messages: tuple[dict[str, Any], ...] = MESSAGES) -> bytes:
    carried = attach_prefill(found, messages, prefill)
    return msgspec.json.encode({"model": model, "messages": carried.messages, **carried.body_fields})

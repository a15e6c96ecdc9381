"""Every fault of the table, on both wires, through every kind of client, on every loop: never silent, always typed."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from aprefill.testing import serve

from .conftest import ROOT
from .fault_runs import CLIENTS, check, client_of, through_aprefill
from .faults import FAULTS, NAMES, Fault

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.anyio


def cases(faults: Iterable[Fault]) -> list[Any]:
    """A fault and a wire each."""
    return [pytest.param(fault, wire, id=f"{fault.name} - {wire}") for fault in faults for wire in fault.wires]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("fault", "wire"), cases(fault for fault in FAULTS if not fault.slow))
async def test_a_fault_is_a_typed_error_or_the_right_text(fault: Fault, wire: str, client: str) -> None:
    """With the text so far, in time, without the key."""
    async with serve(fault.play) as server, client_of(client) as options:
        check(fault, await through_aprefill(fault, wire, server.url, options))

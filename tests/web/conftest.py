"""Run the tests of this folder on asyncio and uvloop, the event loops that uvicorn supports."""

from __future__ import annotations

from typing import Any

import pytest

from ..conftest import LOOPS


@pytest.fixture(params=LOOPS[:2])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param

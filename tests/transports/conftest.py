"""What the tests of transports share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def small_ca_file() -> Iterator[str]:
    """A file with one certificate in it."""
    with trustme.CA().cert_pem.tempfile() as path:
        yield path


@pytest.fixture
def small_ca(small_ca_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the machine's list, which an SDK's client would read for 25 ms when it is made."""
    monkeypatch.setenv("SSL_CERT_FILE", small_ca_file)

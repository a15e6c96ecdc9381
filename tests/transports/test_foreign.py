"""The one table through which other people's exceptions become ours."""

from __future__ import annotations

import inspect
import ssl
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from aprefill import AprefillError, ConnectFailed, Truncated, UsageError
from aprefill.transports._foreign import _REASONS, translate

LIBRARIES = [httpx2, httpx]


def exceptions(library: Any) -> list[type[Exception]]:
    found = [e for _, e in inspect.getmembers(library, inspect.isclass) if issubclass(e, library.HTTPError)]
    return [e for e in found if e not in {library.HTTPError, library.HTTPStatusError}]


@pytest.mark.parametrize(
    "kind", [e for library in LIBRARIES for e in exceptions(library)], ids=lambda e: f"{e.__module__}.{e.__name__}"
)
def test_every_http_error_has_a_row(kind: type[Exception]) -> None:
    """httpx2's and httpx's, each with words of its own or its parent's, and its request taken off."""
    exc = kind("boom")
    request = httpx2.Request("POST", "https://host.test", headers={"x-api-key": "secret"})
    vars(exc)["_request"] = request
    opened = translate(exc, stage="open", host="host.test")
    assert isinstance(opened, ConnectFailed)
    assert opened.reason.startswith(f"{kind.__name__}, ")
    assert vars(exc)["_request"] is None
    assert isinstance(translate(exc, stage="read", host="host.test"), Truncated)


@pytest.mark.parametrize(
    "exc",
    [
        OSError(5, "x"),
        ConnectionResetError(),
        ssl.SSLError("x"),
        anyio.BrokenResourceError(),
        anyio.EndOfStream(),
        ValueError("x"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_lower_layers_are_mapped_too(exc: Exception) -> None:
    """What slips through a client, and what nobody foresaw: no foreign exception leaves."""
    assert isinstance(translate(exc, stage="open", host="h"), ConnectFailed)
    assert isinstance(translate(exc, stage="read", host="h", received_bytes=7), Truncated)


@pytest.mark.parametrize("exc", [TypeError("x"), AssertionError("x"), AprefillError("x"), UsageError("x")], ids=repr)
def test_bugs_and_our_own_pass(exc: Exception) -> None:
    """None: to be raised as it is."""
    assert translate(exc, stage="read", host="h") is None


def test_a_closed_client_is_the_callers() -> None:
    """A UsageError that says what to pass."""
    error = RuntimeError("Cannot send a request, as the client has been closed.")
    assert isinstance(translate(error, stage="open", host="h"), UsageError)


def test_the_whole_chain_is_scrubbed() -> None:
    """A request on a cause or a context is removed as well; a loop in the chain ends."""
    inner, outer = httpx2.ReadError("a"), httpx2.ConnectError("b")
    for exc in (inner, outer):
        vars(exc)["_request"] = httpx2.Request("POST", "https://host.test")
    outer.__cause__ = inner
    inner.__context__ = outer
    translate(outer, stage="open", host="h")
    assert vars(inner)["_request"] is vars(outer)["_request"] is None


def test_reasons_are_sentences() -> None:
    """They end up in messages."""
    assert all(reason and not reason.endswith(".") for reason in _REASONS.values())

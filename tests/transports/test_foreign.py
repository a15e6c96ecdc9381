"""The table that translates exceptions of other libraries into aprefill's errors."""

from __future__ import annotations

import inspect
import ssl
import sys
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import botocore.exceptions
import httpx
import httpx2
import pytest

from aprefill import AprefillError, ConnectFailed, Stalled, Truncated, UsageError
from aprefill._hosts.redact import Redactor
from aprefill._transports._foreign import _REASONS, ClientFailed, break_cycles, from_network, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIBRARIES = [httpx2, httpx]


def exceptions(library: Any) -> list[type[Exception]]:
    found = [e for _, e in inspect.getmembers(library, inspect.isclass) if issubclass(e, library.HTTPError)]
    return [e for e in found if e not in {library.HTTPError, library.HTTPStatusError}]


@pytest.mark.parametrize(
    "kind", [e for library in LIBRARIES for e in exceptions(library)], ids=lambda e: f"{e.__module__}.{e.__name__}"
)
def test_every_http_error_has_a_row(kind: type[Exception]) -> None:
    """Each error class of httpx2 and httpx is translated. Its request is removed, because that contains the key."""
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
    """Errors of lower layers and unexpected errors are translated too."""
    assert isinstance(translate(exc, stage="open", host="h"), ConnectFailed)
    assert isinstance(translate(exc, stage="read", host="h", received_bytes=7), Truncated)


@pytest.mark.parametrize("exc", [TypeError("x"), AssertionError("x"), AprefillError("x"), UsageError("x")], ids=repr)
def test_bugs_and_our_own_pass(exc: Exception) -> None:
    """Bugs and aprefill's own errors are not translated: None means that the exception is raised unchanged."""
    assert translate(exc, stage="read", host="h") is None


def test_a_closed_client_is_the_callers() -> None:
    """A closed client is a `UsageError`."""
    error = RuntimeError("Cannot send a request, as the client has been closed.")
    assert isinstance(translate(error, stage="open", host="h"), UsageError)


def test_the_whole_chain_is_scrubbed() -> None:
    """The request is also removed from causes and contexts. A cycle of causes does not loop forever."""
    inner, outer = httpx2.ReadError("a"), httpx2.ConnectError("b")
    for exc in (inner, outer):
        vars(exc)["_request"] = httpx2.Request("POST", "https://host.test")
    outer.__cause__ = inner
    inner.__context__ = outer
    translate(outer, stage="open", host="h")
    assert vars(inner)["_request"] is vars(outer)["_request"] is None


class APIConnectionError(Exception):
    """Has the name of both SDKs' connection error."""

    def __init__(self, **fields: Any) -> None:
        super().__init__("Connection error.")
        vars(self).update(fields)


class APITimeoutError(APIConnectionError):
    """Has the name of both SDKs' timeout error."""


def caused(outer: Exception, *causes: BaseException) -> Exception:
    link: BaseException = outer
    for cause in causes:
        link.__cause__ = cause
        link = cause
    return outer


def test_an_sdk_s_wrapper_is_looked_through() -> None:
    """An SDK's wrapper is translated by its cause, and its request and body are removed."""
    request = httpx2.Request("POST", "https://host.test", headers={"x-api-key": "secret"})
    exc = caused(
        APIConnectionError(request=request, body={"k": "secret"}, message="secret!"), httpx2.ConnectError("no")
    )
    error = translate(exc, stage="open", host="h", redact=lambda text: text.replace("secret", "[key]"))
    assert isinstance(error, ConnectFailed)
    assert error.reason == "ConnectError, the connection could not be made"
    assert "secret" not in repr(vars(exc))
    late = caused(APITimeoutError(request=request), httpx2.ConnectTimeout(""))
    assert isinstance(translate(late, stage="open", host="h", connect_s=2.0), Stalled)
    closed = caused(APIConnectionError(), RuntimeError("Cannot send a request, as the client has been closed."))
    assert isinstance(translate(closed, stage="open", host="h"), UsageError)


def test_aiohttp_s_own_word_counts() -> None:
    """aiohttp's own exception decides, because its transport for httpx2 reports every lost connection as a timeout."""
    lost = caused(APITimeoutError(), httpx2.ConnectTimeout(""), aiohttp.ServerDisconnectedError())
    error = translate(lost, stage="open", host="h", connect_s=2.0)
    assert isinstance(error, ConnectFailed)
    assert error.reason == "ServerDisconnectedError, the host closed the connection"
    late = caused(APITimeoutError(), httpx2.TimeoutException(""), aiohttp.ConnectionTimeoutError())
    assert isinstance(translate(late, stage="open", host="h", connect_s=2.0), Stalled)


def test_what_a_client_raised_before_it_sent() -> None:
    """An error of the client before it sent a request is a `UsageError` with the client's message, without the key."""
    exc = caused(ClientFailed("AsyncThing"), ValueError("no region for sk-1"))
    error = translate(exc, stage="open", host="h", redact=lambda text: text.replace("sk-1", "[key]"))
    assert isinstance(error, UsageError)
    assert str(error) == (
        "AsyncThing could not make the request (ValueError: no region for [key]); "
        "check its credentials and its other settings"
    )


def test_what_a_client_lacks() -> None:
    """If a package that the SDK needs is missing, the error names it and the extra to install."""
    exc = caused(ClientFailed("AsyncAnthropicBedrock"), ModuleNotFoundError("No module named 'boto3'", name="boto3"))
    error = translate(exc, stage="open", host="h")
    assert isinstance(error, UsageError)
    assert "needs boto3" in str(error)
    assert "aprefill[bedrock]" in str(error)


@pytest.mark.parametrize(
    ("exc", "network"),
    [
        (httpx2.ReadTimeout("x"), True),
        (APITimeoutError(), True),
        (ConnectionResetError(), True),
        (aiohttp.ServerDisconnectedError(), True),
        (RuntimeError("Cannot send a request, as the client has been closed."), True),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), True),
        (botocore.exceptions.NoCredentialsError(), False),
        (botocore.exceptions.ClientError({}, "AssumeRole"), False),
        (FileNotFoundError(2, "no such file", "/credentials"), False),
        (RuntimeError("Could not resolve AWS credentials from session"), False),
        (TypeError("Could not resolve authentication method"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_network_s_or_the_settings(exc: Exception, network: bool) -> None:
    """An error of an SDK's client is from the network or from its settings."""
    assert from_network(exc) is network


def test_arguments_that_carry_a_secret_are_dropped() -> None:
    """Bytes are redacted as text. Objects are replaced by the name of their type. An encoder's object is emptied."""
    exc = ValueError(b"key sk-1", {"authorization": "sk-1"}, 3, None)
    exc.__context__ = UnicodeEncodeError("ascii", "sk-1\u00e9", 4, 5, "ordinal not in range")
    translate(exc, stage="open", host="h", redact=lambda text: text.replace("sk-1", "[key]"))
    assert exc.args == ("key [key]", "dict", 3, None)
    assert exc.__context__.object == ""
    assert "sk-1" not in repr(exc.__context__.args)


class Marker:
    """An object in a variable of the frame that failed."""


def is_freed_after(mend: Callable[[Exception], object]) -> bool:
    """Return whether the variables of a failed call are freed together with its error, without the cyclic collector."""

    @contextmanager
    def replaces_errors() -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            # From 3.12 on CPython keeps this reference itself. Here it is kept in every version.
            caller = sys._getframe(1)
            assert caller.f_code.co_name == "__exit__"
            raise httpx2.ReadError("x") from exc

    def call() -> weakref.ref[Marker]:
        marker = Marker()
        try:
            with replaces_errors():
                raise OSError
        except httpx2.ReadError as exc:
            mend(exc)
        return weakref.ref(marker)

    return call()() is None


@pytest.mark.usefixtures("no_gc")
def test_a_replaced_error_is_freed_at_once() -> None:
    """A context manager that replaces an exception forms a cycle through `contextlib`'s frame. The cycle is broken."""
    assert is_freed_after(break_cycles)
    assert is_freed_after(lambda exc: translate(exc, stage="read", host="h"))


@pytest.mark.usefixtures("no_gc")
def test_control_a_replaced_error_is_part_of_a_cycle() -> None:
    """Control: without `break_cycles` the variables are not freed."""
    assert not is_freed_after(lambda exc: None)


def test_reasons_are_sentences() -> None:
    """Every reason is text without a period at its end, because messages continue after it."""
    assert all(reason and not reason.endswith(".") for reason in _REASONS.values())


def test_what_an_exception_carries_loses_the_prompt() -> None:
    """The prompt is removed from an exception's arguments, notes, attributes and bytes. Its class and numbers stay."""
    said = "Patient Jane Roe, born 1970"
    exc = ValueError(f"bad: {said.upper()}", said.encode(), {"text": said}, 7)
    vars(exc).update(message=said, data=said.encode(), parts=[said], facts={"text": said}, number=7)
    exc.add_note(f"while sending {said}")
    exc.__cause__ = UnicodeDecodeError("utf-8", f"{said}\xff".encode("latin-1"), 27, 28, "invalid start byte")
    translate(exc, stage="read", host="h", redact=Redactor("", [said]))
    assert exc.args == ("bad: [prompt]", "[prompt]", "dict", 7)
    assert vars(exc) == {
        "message": "[prompt]", "data": "[prompt]", "parts": [], "facts": {}, "number": 7,
        "__notes__": ["while sending [prompt]"],
    }  # fmt: skip
    assert exc.__cause__.object == b""
    assert "Jane" not in repr(exc.__cause__.args) + str(exc.__cause__)

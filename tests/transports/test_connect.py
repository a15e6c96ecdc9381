"""A failed connection names its port and reason, on every event loop and with every HTTP library."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest

from aprefill import ConnectFailed, Recovery, Reply, StatusError, UsageError, stream
from aprefill._transports._foreign import ClientFailed, from_network, translate
from aprefill.testing import Script, serve

from ..support.loopback import ask
from .sdks import BY_NAME, KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..support.names import Names

pytestmark = pytest.mark.anyio

STACKS: dict[str, Callable[[], Any]] = {
    "own": lambda: None,
    "httpx2": httpx2.AsyncClient,
    "httpx": httpx.AsyncClient,
}


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port without a listener."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


async def failure(url: str, stack: str = "own", **options: Any) -> ConnectFailed:
    client = STACKS[stack]()
    try:
        with pytest.raises(ConnectFailed) as error:
            await stream(
                "hi", model="m", base_url=url, api_key=KEY, client=client, recovery=Recovery(retries=0), **options
            ).text()
    finally:
        if client is not None:
            await client.aclose()
    return error.value


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_connection_refused(host: str, stack: str) -> None:
    """A refused connection: host, port and reason are attributes and in the message. An IPv6 address is in brackets."""
    port = free_port("::1" if host == "::1" else "127.0.0.1")
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    error = await failure(f"http://{where}/v1", stack)
    assert (error.host, error.port, error.reason, error.may_pass) == (host, port, "connection refused", True)
    assert str(error) == (
        f"no response from {where}: connection refused; "
        "check that a server, or the proxy if one is set, listens there, then try again"
    )


@pytest.mark.parametrize("stack", STACKS)
async def test_no_such_host(stack: str, names: Names) -> None:
    """A host name that does not exist. Without a port in the URL, the port is the default of the scheme."""
    names["nobody.test"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    error = await failure("https://nobody.test/v1", stack)
    assert (error.host, error.port, error.reason) == ("nobody.test", 443, "no such host")
    assert str(error) == "no response from nobody.test:443: no such host; check the name of the host, then try again"


async def test_a_resolver_that_cannot_be_asked(names: Names) -> None:
    """A resolver that does not work is not reported as a host name that does not exist."""
    names["host.test"] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert (await failure("https://host.test/v1")).reason == "the host name could not be looked up"


@pytest.mark.parametrize("stack", STACKS)
async def test_a_certificate_that_is_not_trusted(stack: str, small_ca: None) -> None:
    """An untrusted certificate is reported as one, with the words of the TLS library, and is not retried."""
    async with serve(Script(text="x"), tls=True) as server:
        error = await failure(server.openai_url, stack)
        assert server.exchanges == []
    assert (error.host, error.port) == ("127.0.0.1", server.port)
    assert error.reason == "certificate not trusted (unable to get local issuer certificate)"
    assert error.may_pass is False
    assert "set SSL_CERT_FILE to the certificate file of the authority" in str(error)


async def test_a_certificate_for_another_name(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a certificate of another host, the reason contains the host name that it is not valid for."""
    names["host.test"] = "127.0.0.1"
    async with serve(Script(text="x"), tls=True) as server:
        assert server.ca_file is not None
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
        error = await failure(f"https://host.test:{server.port}/v1")
        assert error.reason.startswith("certificate not trusted (Hostname mismatch, certificate is not valid for 'host")
        reply = ask(server, "chat", prefill="", model="vllm:m", base_url=server.openai_url)
        assert await reply.text() == "x"


@pytest.mark.parametrize("stack", STACKS)
async def test_https_to_a_port_that_speaks_http(stack: str) -> None:
    """After a failed TLS handshake, the message says to check that the port speaks https."""
    async with serve(Script(text="x")) as server:
        error = await failure(server.openai_url.replace("http://", "https://"), stack)
    assert error.reason.startswith("TLS handshake failed (")
    assert "check that this port speaks https" in str(error)


async def test_a_host_that_hangs_up_is_named_with_its_port() -> None:
    """Other errors show the port too, and their reasons are unchanged."""
    async with serve(Script(hang_up=True)) as server:
        error = await failure(server.openai_url)
    assert (error.host, error.port) == ("127.0.0.1", server.port)
    assert error.reason == "RemoteProtocolError, the host closed the connection or violated the HTTP protocol"


@pytest.mark.parametrize(
    ("name", "http"),
    [
        ("openai", "httpx2"),
        ("openai", "httpx"),
        ("openai", "aiohttp"),
        ("anthropic", "httpx2"),
        ("anthropic", "aiohttp"),
    ],
)
async def test_through_an_sdk_s_client(name: str, http: str, anyio_backend: Any, small_ca: None) -> None:
    """The reasons are the same over the HTTP clients of the SDKs."""
    if http == "aiohttp" and anyio_backend[0] == "trio":
        pytest.skip("aiohttp does not run on trio")
    kind = BY_NAME[name]
    port = free_port()
    async with kind.client(f"http://127.0.0.1:{port}", http) as client:
        with pytest.raises(ConnectFailed) as refused:
            await kind.stream(client).text()
    assert (refused.value.host, refused.value.port, refused.value.reason) == ("127.0.0.1", port, "connection refused")
    async with serve(Script(text="x"), tls=True) as server, kind.client(server.url, http) as client:
        with pytest.raises(ConnectFailed, match=r"certificate not trusted \(unable to get local issuer") as untrusted:
            await kind.stream(client).text()
    assert untrusted.value.port == server.port


async def test_the_reasons_of_the_system() -> None:
    """An unreachable host has its own reason. If several addresses failed, the most informative reason is shown."""

    def reason(*behind: OSError) -> str:
        outer = httpx2.ConnectError("All connection attempts failed")
        outer.__cause__ = ExceptionGroup("each", [*behind]) if len(behind) > 1 else behind[0]
        error = translate(outer, stage="open", host="h", port=1)
        assert isinstance(error, ConnectFailed)
        return error.reason

    no_way = OSError(errno.ENETUNREACH, "Network is unreachable")
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    assert reason(no_way) == "host not reachable"
    assert reason(OSError(errno.EHOSTUNREACH, "No route to host")) == "host not reachable"
    assert reason(no_way, refused) == reason(refused, no_way) == "connection refused"
    assert reason(OSError(errno.EMFILE, "Too many open files")) == "ConnectError, the connection could not be made"


async def test_what_the_caller_is_handling_is_not_taken_for_the_reason() -> None:
    """While the caller handles one host's error, the error of a second host still has its own reason."""
    port = free_port()
    try:
        raise ConnectFailed("first", "x") from ssl.SSLCertVerificationError("no")
    except ConnectFailed:
        error = await failure(f"http://127.0.0.1:{port}/v1")
    assert (error.reason, error.may_pass) == ("connection refused", True)


# --- CA certificates --------------------------------------------------------------------------------------------------


def no_network(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits before retries instead of sleeping."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("aprefill._engine.requests.anyio.sleep", sleep)
    return waits


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_certificates_that_are_not_there(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing certificate file raises `UsageError` that names the variable and its value, without a retry."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "nothing"))
    waits = no_network(monkeypatch)
    reply = stream("hi", model="m", base_url="https://127.0.0.1:9/v1", recovery=Recovery(retries=3))
    with pytest.raises(UsageError) as error:
        await reply.text()
    assert f"{variable} names '{tmp_path / 'nothing'}', which" in str(error.value)
    assert str(error.value).endswith("; set SSL_CERT_FILE to a file of CA certificates, or unset it")
    assert waits == []
    assert len(reply.attempts) == 1


async def test_control_a_refused_connection_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a refused connection is retried, and its waits are recorded."""
    waits = no_network(monkeypatch)
    reply = stream("hi", model="m", base_url=f"http://127.0.0.1:{free_port()}/v1", recovery=Recovery(retries=3))
    with pytest.raises(ConnectFailed):
        await reply.text()
    assert len(waits) == 3
    assert len(reply.attempts) == 4


async def test_a_file_that_holds_no_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without certificates raises the same error, with the words of the TLS library."""
    path = tmp_path / "empty.pem"
    path.write_text("nothing here\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(UsageError, match=r"SSL_CERT_FILE names '.*empty\.pem', which cannot be read"):
        await stream("hi", model="m", base_url="https://127.0.0.1:9/v1").text()


def test_a_file_that_a_client_misses_is_not_the_network_s() -> None:
    """A `FileNotFoundError` of a client before it sends is a `UsageError`.

    An SDK's client may read its certificates late.
    """
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
    assert from_network(missing) is False
    failed = ClientFailed("AsyncOpenAI")
    failed.__cause__ = missing
    assert isinstance(translate(failed, stage="open", host="h"), UsageError)


# --- 404 --------------------------------------------------------------------------------------------------------------


async def status_error(reply: Reply) -> StatusError:
    with pytest.raises(StatusError) as error:
        await reply.text()
    return error.value


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize("wire", ["messages", "chat"])
async def test_a_404_shows_the_url(wire: str, status: int) -> None:
    """A 404 or 405 shows the whole URL with the protocol's path, so that a doubled or missing /v1 is seen."""
    path = "/v1/messages" if wire == "messages" else "/v1/chat/completions"
    async with serve(Script(status=status, error=("not_found_error", "no such route"))) as server:
        error = await status_error(ask(server, wire))
    assert error.url == server.url + path
    assert f"; the URL was {server.url}{path}; check the model's name and base_url" in str(error)


async def test_other_errors_do_not_show_it() -> None:
    """Other statuses have the URL as an attribute, but not in the message."""
    async with serve(Script(status=400, error=("invalid_request_error", "no"))) as server:
        error = await status_error(ask(server, "chat"))
    assert error.url == f"{server.openai_url}/chat/completions"
    assert "http://" not in str(error)


@pytest.mark.parametrize("library", [httpx2, httpx])
async def test_the_url_shows_no_key(library: Any) -> None:
    """The URL shows neither the query nor the user info of the client. A key in the path is replaced."""
    async with serve(Script(status=404)) as server, library.AsyncClient(params={"key": KEY}) as client:
        reply = stream("hi", model="m", base_url=f"{server.url}/{KEY}/v1", api_key=KEY, client=client)
        error = await status_error(reply)
        assert f"key={KEY}" in server.exchanges[0].path
    assert error.url == f"{server.url}/[key]/v1/chat/completions"
    assert KEY not in str(error)


async def test_the_url_that_an_sdk_made() -> None:
    """The URL of an Azure error is the one that the SDK made, with the deployment."""
    kind = BY_NAME["azure"]
    async with serve(Script(status=404)) as server, kind.client(server.url) as client:
        error = await status_error(kind.stream(client))
    assert error.url == f"{server.url}/openai/deployments/gpt-4o/chat/completions"
    assert error.url in str(error)

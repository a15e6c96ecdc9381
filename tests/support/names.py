"""A resolver for tests: host names that stand for loopback, or for nothing. It sends nothing to the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio._core._sockets
import trio._highlevel_open_tcp_stream

if TYPE_CHECKING:
    import pytest

#: Host name -> the loopback address that it stands for, or the exception that looking it up raises.
Names = dict[str, str | Exception]


def resolve_from(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve `names` on every event loop. Any other name that is not loopback's is an error."""

    def looked_up(host: Any) -> str:
        name = host.decode() if isinstance(host, bytes) else str(host)
        found = names.get(name, name)
        if isinstance(found, Exception):
            raise found
        if found not in {"localhost", "127.0.0.1", "::1"}:
            raise AssertionError(f"a test asked the network for {name}")
        return found

    real_anyio = anyio._core._sockets.getaddrinfo
    real_trio = trio._highlevel_open_tcp_stream.getaddrinfo

    async def by_anyio(host: Any, *rest: Any, **options: Any) -> Any:
        return await real_anyio(looked_up(host), *rest, **options)

    async def by_trio(host: Any, *rest: Any, **options: Any) -> Any:
        return await real_trio(looked_up(host), *rest, **options)

    monkeypatch.setattr(anyio._core._sockets, "getaddrinfo", by_anyio)
    monkeypatch.setattr(trio._highlevel_open_tcp_stream, "getaddrinfo", by_trio)

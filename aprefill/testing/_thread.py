"""The server for synchronous tests. It runs in a thread with its own event loop."""

# Imported at run time, so that `typing.get_type_hints` works on public names.
# ruff: noqa: TC003
from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from anyio.from_thread import start_blocking_portal

from ._server import Scripts, Server, serve


@contextmanager
def serve_in_thread(
    script: Scripts,
    *,
    static: Mapping[str, Any] | None = None,
    tls: bool = False,
    host: str = "127.0.0.1",
    backend: Literal["asyncio", "trio"] = "asyncio",
) -> Generator[Server, None, None]:
    """A running server for a plain `with`. Its fields and exchanges can be read, but its events belong to its loop."""
    with (
        start_blocking_portal(backend) as portal,
        portal.wrap_async_context_manager(serve(script, static=static, tls=tls, host=host)) as server,
    ):
        yield server

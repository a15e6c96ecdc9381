"""What a caller may pass as `client=`, and the transport that sends with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._errors import UsageError

if TYPE_CHECKING:
    from .transports import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What is known of a client before anything is sent."""

    #: the class's name, for messages
    name: str


def describe(client: Any) -> Client | None:
    """What kind of client this is; None for None. Raises `UsageError` for a kind that cannot be used."""
    if client is None:
        return None
    name = type(client).__name__
    kinds = {f"{c.__module__.partition('.')[0]}.{c.__name__}" for c in type(client).__mro__}
    if not kinds & {"httpx2.AsyncClient", "httpx.AsyncClient"}:
        raise UsageError(
            f"client={name}: pass an httpx2.AsyncClient or an httpx.AsyncClient, "
            "or leave client out and pass base_url= and api_key="
        )
    return Client(name=name)


def transport_for(client: Any, *, demo: bool) -> Transport:
    """A transport that sends with `client`, or with a client of its own; or the built-in model's."""
    if demo:
        from .transports.demo import DemoTransport

        return DemoTransport()
    from .transports.http import HttpTransport

    return HttpTransport(client)

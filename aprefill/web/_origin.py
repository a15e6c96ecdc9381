"""Which pages may open a WebSocket. A browser asks nobody before it does, and sends the user's cookies along."""

# Imported at run time, so that `typing.get_type_hints` works on what is public.
# ruff: noqa: TC002
from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from .. import UsageError

#: None: the host that the request is for; "any": no check; else the origins that may, such as "https://chat.example".
Origins: TypeAlias = str | Sequence[str] | None

#: Pages of apps and extensions have schemes of their own, without ports.
_PORTS = {"http": 80, "https": 443}

_Origin: TypeAlias = "tuple[str, str, int | None]"


def origin_allowed(connection: HTTPConnection, origins: Origins = None) -> bool:
    """Whether a page of this request's origin may talk to us.

    `origins` are those that may, each as ``"https://chat.example"``; None: the host and port that the request is for,
    by its Host header; ``"any"``: every one. A request without an Origin header is not from a browser's page, and
    may: browsers send one with every WebSocket. For a socket that you accept yourself; `websocket` asks this first.
    Raises `UsageError` for what is no origin.
    """
    if origins == "any":
        return True
    allowed = None if origins is None else _all_listed(origins)
    sent = connection.headers.getlist("origin")
    if not sent:
        return True
    if len(sent) > 1:
        return False
    if sent[0] == "null":
        return allowed is not None and "null" in allowed
    origin = _origin(sent[0])
    if origin is None:
        return False
    if allowed is not None:
        return origin in allowed
    hosts = connection.headers.getlist("host")
    # TLS may end at a proxy, so the scheme that we see says nothing: the Host is read with the origin's
    return origin[0] in _PORTS and len(hosts) == 1 and _origin(f"{origin[0]}://{hosts[0]}") == origin


def _all_listed(origins: str | Sequence[str]) -> list[_Origin | str]:
    """The caller's."""
    try:
        return [_listed(one) for one in ([origins] if isinstance(origins, str) else origins)]
    except TypeError:
        raise _unusable(origins) from None


def _listed(text: object) -> _Origin | str:
    if text == "null":
        return "null"
    origin = _origin(text) if isinstance(text, str) else None
    if origin is None or origin[0] in {"ws", "wss"} or "*" in origin[1] or not origin[1].isascii():
        raise _unusable(text)
    return origin


def _unusable(given: object) -> UsageError:
    return UsageError(
        f"origins={given!r} has something else than whole origins in it",
        'pass such as "https://chat.example", as a browser sends them: without a path or a "*", in ASCII; or "any" for no check',
    )


def _origin(text: str) -> _Origin | None:
    """Scheme, host and port of an origin (RFC 6454); None: it is none."""
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        return None
    if not host or not parts.netloc or "@" in parts.netloc or text.lower() != f"{scheme}://{parts.netloc.lower()}":
        return None
    return scheme, host, _PORTS.get(scheme) if port is None else port

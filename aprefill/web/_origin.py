"""Checks which pages may open a WebSocket.

A browser lets every page open a WebSocket to every host, and sends the user's cookies with it. So the server must check
the Origin header.
"""

# Imported at run time, so that `typing.get_type_hints` works on what is public.
# ruff: noqa: TC002
from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from .. import UsageError

#: None: only the host of the request itself; "any": no check; else the allowed origins, such as "https://chat.example".
Origins: TypeAlias = str | Sequence[str] | None

#: The default ports. Other schemes, of apps and browser extensions, have no port.
_PORTS = {"http": 80, "https": 443}

_Origin: TypeAlias = "tuple[str, str, int | None]"


def origin_allowed(connection: HTTPConnection, origins: Origins = None) -> bool:
    """Whether the Origin header of this request is allowed.

    `origins` are the allowed origins, such as ``"https://chat.example"``. None allows only the host and port of the
    request itself, from its Host header. ``"any"`` allows every origin. A request without an Origin header is allowed:
    it is not from a page in a browser, because browsers send the header with every WebSocket. Use this function if you
    accept a WebSocket yourself; `websocket` calls it already. Raises `UsageError` if `origins` contains a value that is
    not an origin.
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
    # TLS may end at a proxy, so the scheme of the request is not known here. The origin's scheme is used instead.
    return origin[0] in _PORTS and len(hosts) == 1 and _origin(f"{origin[0]}://{hosts[0]}") == origin


def _all_listed(origins: str | Sequence[str]) -> list[_Origin | str]:
    """Return the caller's origins, parsed."""
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
        f"origins={given!r} contains a value that is not an origin",
        'pass origins as a browser sends them, such as "https://chat.example": in ASCII, without a path or a "*"; '
        'or pass "any" for no check',
    )


def _origin(text: str) -> _Origin | None:
    """Return the scheme, host and port of an origin (RFC 6454); None if `text` is not an origin."""
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        return None
    if not host or not parts.netloc or "@" in parts.netloc or text.lower() != f"{scheme}://{parts.netloc.lower()}":
        return None
    return scheme, host, _PORTS.get(scheme) if port is None else port

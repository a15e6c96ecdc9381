"""Requests through an SDK's client: its authentication, URL and pool, our bytes.

`client.post` is asked for the raw response: no stream class of the SDK's is made, its retries and redirects are off,
and the response is read below its `aiter_*` layers, as httpx2's own is. Nothing of an SDK is imported here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import anyio
import msgspec

from .._errors import UsageError
from ._foreign import ClientFailed, answer_behind, from_network
from ._left import close_left
from ._reuse import is_stale
from .http import as_response

if TYPE_CHECKING:
    from . import HttpRequest, Response


#: Clients that a host has answered, whose next request may go over a kept connection.
_answered: WeakSet[Any] = WeakSet()


class SdkTransport:
    """Borrows an SDK's asynchronous client; never closes it."""

    __slots__ = ("_client",)

    def __init__(self, client: Any) -> None:
        self._client: Any = client

    async def open(self, request: HttpRequest) -> Response:
        client = self._client
        answer: Any = None
        try:
            try:
                answer = await self._post(request)
            except Exception as exc:
                if not is_stale(exc, was_answered=client in _answered):
                    raise
                again = True
            else:
                again = False
            # behind the except clause, so that nothing of the first try is chained to the second
            if again:
                answer = await self._post(request)
        except Exception as exc:
            response = answer_behind(exc)
            if response is None:
                if from_network(exc):
                    raise
                raise ClientFailed(type(client).__name__) from exc
        else:
            response = getattr(answer, "http_response", None)
            if response is None:
                raise UsageError(
                    f"{type(client).__name__} gave a {type(answer).__name__} in place of the raw response",
                    "leave out the middleware that does that",
                )
        _answered.add(client)
        return as_response(response)

    async def _post(self, request: HttpRequest) -> Any:
        client = self._client
        try:
            return await client.post(
                self._where(request),
                # the SDKs take fields: they rewrite them for Azure, Vertex and Bedrock
                body=msgspec.json.decode(request.body),
                cast_to=object,
                stream=True,
                stream_cls=getattr(client, "_default_stream_cls", None),
                options={
                    "follow_redirects": False,
                    "max_retries": 0,
                    "timeout": _timeout(client, request.connect_s),
                    "headers": {"X-Stainless-Raw-Response": "stream", "accept-encoding": "identity"},
                },
            )
        except BaseException as exc:
            close_left(exc)
            raise

    def _where(self, request: HttpRequest) -> str:
        """The protocol's path, which the client joins to its base URL; or the whole URL, if that is elsewhere."""
        path = request.path
        return path if request.url == str(self._client.base_url).rstrip("/") + path else request.url

    async def aclose(self) -> None:
        await anyio.lowlevel.cancel_shielded_checkpoint()


def _timeout(client: Any, connect_s: float | None) -> Any:
    """A `Timeout` of the library that the SDK stands on, with every clock but the connection's stopped."""
    return _http_library(client).Timeout(None, connect=connect_s)


def _http_library(client: Any) -> Any:
    """httpx2; or httpx, for an SDK from before it."""
    old = type(client.base_url).__module__.partition(".")[0] == "httpx"
    return sys.modules["httpx" if old else "httpx2"]

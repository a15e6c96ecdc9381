"""Transport through an SDK's client. The SDK authenticates, chooses the URL and pools connections.

`client.post` returns the raw response, so the SDK creates no stream object. The SDK's retries and redirects are
switched off. The response is read in the same way as a response of httpx2. This module imports no SDK.
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


#: Clients that have received a response. Their next request may use a kept connection.
_answered: WeakSet[Any] = WeakSet()


class SdkTransport:
    """Sends requests with an SDK's asynchronous client. Never closes this client."""

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
            # Outside the except clause, so that the first error is not chained to the second.
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
                    f"{type(client).__name__} returned a {type(answer).__name__} instead of the raw response",
                    "remove the middleware that replaces the response",
                )
        _answered.add(client)
        return as_response(response)

    async def _post(self, request: HttpRequest) -> Any:
        client = self._client
        try:
            return await client.post(
                self._where(request),
                # The SDKs take a dict, not bytes, because they change fields for Azure, Vertex and Bedrock.
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
        """Return the protocol's path if the URL is below the client's base URL, else the complete URL."""
        path = request.path
        return path if request.url == str(self._client.base_url).rstrip("/") + path else request.url

    async def aclose(self) -> None:
        await anyio.lowlevel.cancel_shielded_checkpoint()


def _timeout(client: Any, connect_s: float | None) -> Any:
    """Return a `Timeout` of the HTTP library that the SDK uses, with only the connect timeout set."""
    return _http_library(client).Timeout(None, connect=connect_s)


def _http_library(client: Any) -> Any:
    """Return the HTTP library that the SDK uses: httpx2, or httpx for older SDKs."""
    old = type(client.base_url).__module__.partition(".")[0] == "httpx"
    return sys.modules["httpx" if old else "httpx2"]

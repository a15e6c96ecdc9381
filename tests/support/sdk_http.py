"""The HTTP library that an SDK's clients use: httpx2, or httpx for openai before 3.0 and anthropic before 1.0."""

from __future__ import annotations

from typing import Any

import httpx
import httpx2


def http_of(sdk: Any) -> Any:
    """Return the library whose `AsyncClient` the SDK's clients take as `http_client`."""
    return httpx2 if issubclass(sdk.DefaultAsyncHttpxClient, httpx2.AsyncClient) else httpx

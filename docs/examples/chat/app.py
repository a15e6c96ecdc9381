"""A chat page that uses aprefill, for one person on one machine: `python docs/examples/chat/app.py`."""

import argparse
import base64
import hashlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ValidationError
from starlette.middleware.trustedhost import TrustedHostMiddleware

from aprefill import Reply, Session, UsageError, support_table, web

PAGE = Path(__file__).with_name("index.html").read_text(encoding="utf-8")

#: The URL of your own server, such as "http://127.0.0.1:8080/v1". It is used for model names without a provider.
BASE_URL = os.environ.get("CHAT_BASE_URL")
PROVIDERS = {row.provider for row in support_table()}


def hashes(tag: str) -> str:
    """Return the hashes of the page's inline code, so that the content security policy allows only this code."""
    codes = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" for code in codes)


HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Turn(BaseModel):
    role: Literal["user", "assistant"]
    content: str


class Asked(BaseModel):
    """The page's request."""

    messages: list[Turn]
    prefill: str = ""
    model: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # "now": send the prefill to the page at once. The page shows it in grey until new text comes.
    async with Session(max_tokens=1000, show_when="now", coalesce=True) as session:
        app.state.session = session
        yield


# without FastAPI's documentation pages, which load scripts from other hosts
app = FastAPI(lifespan=lifespan, openapi_url=None)
# An attacker can let another host name point to 127.0.0.1. Pages of this name send it in the Host header.
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])


@app.get("/")
async def page() -> HTMLResponse:
    return HTMLResponse(PAGE, headers=HEADERS)


def begun(asked: Asked) -> Reply:
    return app.state.session.stream(
        [turn.model_dump() for turn in asked.messages],
        prefill=asked.prefill,
        model=asked.model,
        base_url=None if asked.model.partition(":")[0] in PROVIDERS else BASE_URL,
    )


def in_words(error: Exception) -> str:
    """Return the error's message for the page's user. The remedy is omitted, because it is for programmers."""
    if isinstance(error, UsageError):
        return error.problem
    return "the page has sent an invalid request; load it again"


@app.websocket("/reply")
async def reply(ws: WebSocket) -> None:
    """Send one reply per connection: the page sends its request, and the server sends the records of docs/web.md."""
    if not web.origin_allowed(ws):
        await ws.close(1008)
        return
    await ws.accept()
    with suppress(WebSocketDisconnect):
        try:
            answer = begun(Asked.model_validate(await ws.receive_json()))
        except (UsageError, ValidationError, ValueError, KeyError, RecursionError) as error:
            # unknown model, missing key or invalid request: there is no reply yet
            await ws.send_json({"type": "error", "error": "UsageError", "message": in_words(error)})
            await ws.close(1011)
        else:
            # `details` is safe here, because the page's user is also the owner of the key
            await web.websocket(ws, answer, attempts=True, held=True, details=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="0: any free port")
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port)

"""A real HTTP server on loopback that plays a model's replies, good and bad, on every wire.

async with serve(Script(text='Alabama", "Alaska"]')) as server:
    ...  # point your client at server.openai_url (OpenAI and kin) or server.url (all others)
"""

from ._exchange import Exchange, Outcome, Received
from ._script import Script, ToolCall
from ._server import Scripts, Server, serve
from ._thread import serve_in_thread

__all__ = (
    "Exchange",
    "Outcome",
    "Received",
    "Script",
    "Scripts",
    "Server",
    "ToolCall",
    "serve",
    "serve_in_thread",
)

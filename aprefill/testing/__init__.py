"""A real HTTP server on loopback that plays a model's replies, good and bad, in every provider's protocol.

async with serve(Script(text='Alabama", "Alaska"]')) as server:
    ...  # point your client at server.openai_url (OpenAI and compatible ones) or at server.url (all others)
"""

from ._asked import AskedFor, Finder
from ._exchange import Exchange, Outcome, Received
from ._script import BadEvent, Echo, Framing, Prefill, Script, ToolCall
from ._server import Scripts, Server, serve
from ._thread import serve_in_thread

__all__ = (
    "AskedFor",
    "BadEvent",
    "Echo",
    "Exchange",
    "Finder",
    "Framing",
    "Outcome",
    "Prefill",
    "Received",
    "Script",
    "Scripts",
    "Server",
    "ToolCall",
    "serve",
    "serve_in_thread",
)

"""The built-in demo model: a host without a network.

Its responses are decoded by the real codec and joined by the real seam, the code that joins the prefill and the model's
text.
"""

from __future__ import annotations

import re
from string import Formatter
from typing import TYPE_CHECKING

import anyio
import msgspec

from .._codecs import _openai_chat_host as wire
from .._plan.emulate import AGAIN, BEGIN, CONTINUE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from . import HttpRequest

#: Seconds between two pieces, and characters per piece. This is about the speed of a hosted model.
PACE_S = 0.008
PIECE = 5

_STATES = (
    "Alabama Alaska Arizona Arkansas California Colorado Connecticut Delaware Florida Georgia Hawaii Idaho Illinois "
    "Indiana Iowa Kansas Kentucky Louisiana Maine Maryland Massachusetts Michigan Minnesota Mississippi Missouri "
    "Montana Nebraska Nevada New_Hampshire New_Jersey New_Mexico New_York North_Carolina North_Dakota Ohio Oklahoma "
    "Oregon Pennsylvania Rhode_Island South_Carolina South_Dakota Tennessee Texas Utah Vermont Virginia Washington "
    "West_Virginia Wisconsin Wyoming"
)

#: Word in the prompt -> reply.
_REPLIES = {
    "state": msgspec.json.encode([name.replace("_", " ") for name in _STATES.split()]).decode().replace('","', '", "'),
    "pelican": (
        'def pelican():\n    return "A large waterbird with a long bill and a throat pouch for catching fish."\n'
    ),
}
_OTHERWISE = (
    "this is the built-in demo model. It knows the US states and a pelican; anything else gets this reply. "
    "Pass a model to talk to a real one."
)


def continuation(prompt: str, prefill: str) -> str:
    """Return the demo model's text after `prefill`."""
    for word, reply in _REPLIES.items():
        if word in prompt.lower():
            for begins in (prefill, prefill.strip()):
                if reply.startswith(begins):
                    return reply[len(begins) :]
    joint = "" if not prefill or prefill[-1].isspace() else " "
    return joint + (_OTHERWISE if prefill else _OTHERWISE[0].upper() + _OTHERWISE[1:])


#: Text between the markers of an emulated prefill (`_plan.emulate`). A caller's own template may contain several such
#: texts; the last one is to be repeated.
_QUOTED = re.compile(r"<(text-[0-9a-f]{16})>(.*?)</\1>", re.DOTALL)


def _pattern(template: str) -> re.Pattern[str]:
    """Return a pattern for the request that `template` appends to a prompt."""
    fields = {
        "open": r"<(?P<name>text-[0-9a-f]{16})>",
        "close": r"</(?P=name)>",
        "text": r"(?P<text>.*)",
        "end": r"(?P<end>.*)",
    }
    pattern = ""
    for literal, field, _, _ in Formatter().parse(template):
        pattern += re.escape(literal) + fields.get(field or "", "")
        fields["open"] = r"<(?P=name)>" if field == "open" else fields["open"]
    return re.compile(pattern + r"\Z", re.DOTALL)


#: One pattern for each of the built-in templates.
_REQUESTS = tuple(map(_pattern, (CONTINUE, BEGIN, AGAIN)))


def _echo_wanted(prompt: str) -> tuple[str, list[str]]:
    """Split a prompt into the caller's prompt and the texts of the request that asks for a prefill.

    The first text is the whole prefill; the last text is the part to repeat. The list is empty if there is no request.
    """
    for request in _REQUESTS:
        if found := request.search(prompt):
            texts = found.groupdict()
            return prompt[: found.start()], [texts["text"], texts.get("end", texts["text"])]
    return _QUOTED.sub("", prompt), [match[2] for match in _QUOTED.finditer(prompt)]


#: The error message of Claude 4.6 and later.
_REFUSAL = "This model does not support assistant message prefill. The conversation must end with a user message."


class DemoResponse:
    """A response of the demo model."""

    can_kill = False

    def __init__(self, status: int, content_type: str, body: AsyncGenerator[bytes, None]) -> None:
        self._body = body
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": content_type}
        self.receive: Callable[[], Awaitable[bytes]] = body.__anext__

    def secrets(self) -> set[str]:
        return set()

    def url(self) -> str:
        return "demo:"

    def kill(self) -> bool:
        return False

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._body.aclose()
        await anyio.lowlevel.cancel_shielded_checkpoint()


async def _body(pieces: list[str], *, is_cut: bool, prompt_tokens: int) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        await anyio.sleep(PACE_S)
        yield wire.text(piece)
    yield wire.end(is_cut=is_cut, prompt_tokens=prompt_tokens, completion_tokens=len(pieces))


async def _error_body() -> AsyncGenerator[bytes, None]:
    yield wire.error(_REFUSAL)


class DemoTransport:
    """Behaves like one kind of host. The model's name says which.

    - `eats` continues the prefill without repeating it.
    - `echoes` repeats the prefill and continues it.
    - `refuses` answers a prefill with status 400, and repeats a text if the prompt asks for it.
    - `emulated` ignores a prefill, and repeats a text if the prompt asks for it.
    - `ignores` ignores a prefill and such a request.
    """

    async def open(self, request: HttpRequest) -> DemoResponse:
        wanted = wire.read_request(request.body)
        await anyio.sleep(PACE_S)
        if wanted.prefill and wanted.model == "refuses":
            return DemoResponse(400, wire.ERROR, _error_body())
        text = _reply(wanted.model, *_echo_wanted(wanted.prompt), wanted.prefill)
        for stop in wanted.stop:
            text = text.partition(stop)[0]
        pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
        limit = wanted.max_tokens or len(pieces)
        body = _body(pieces[:limit], is_cut=limit < len(pieces), prompt_tokens=len(wanted.prompt) // 4)
        return DemoResponse(200, wire.STREAM, body)

    async def aclose(self) -> None:
        await anyio.lowlevel.cancel_shielded_checkpoint()


def _reply(model: str, prompt: str, echo: list[str], prefill: str) -> str:
    """Return the demo model's text.

    `echo` are the texts of a request for a prefill: first the whole prefill, last the part to repeat. It may be empty.
    """
    if model == "ignores":
        return "Here it is. " + continuation(prompt, "")
    if echo:
        return echo[-1] + continuation(prompt, echo[0])
    return (prefill if model == "echoes" else "") + continuation(prompt, prefill)

"""The built-in demo model: a protocol's wire without a network, so that the real codec and seam run."""

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

#: Seconds between two pieces, and characters in one: about the pace of a hosted model.
PACE_S = 0.008
PIECE = 5

_STATES = (
    "Alabama Alaska Arizona Arkansas California Colorado Connecticut Delaware Florida Georgia Hawaii Idaho Illinois "
    "Indiana Iowa Kansas Kentucky Louisiana Maine Maryland Massachusetts Michigan Minnesota Mississippi Missouri "
    "Montana Nebraska Nevada New_Hampshire New_Jersey New_Mexico New_York North_Carolina North_Dakota Ohio Oklahoma "
    "Oregon Pennsylvania Rhode_Island South_Carolina South_Dakota Tennessee Texas Utah Vermont Virginia Washington "
    "West_Virginia Wisconsin Wyoming"
)

#: A word of the prompt -> the reply to it.
_REPLIES = {
    "state": msgspec.json.encode([name.replace("_", " ") for name in _STATES.split()]).decode().replace('","', '", "'),
    "pelican": 'def pelican():\n    return "A large waterbird with a long bill and a throat pouch for catching fish."\n',
}
_OTHERWISE = (
    "this is the built-in demo model. It knows the US states and a pelican; anything else gets this reply. "
    "Pass a model to talk to a real one."
)


def continuation(prompt: str, prefill: str) -> str:
    """What the demo model writes after `prefill`."""
    for word, reply in _REPLIES.items():
        if word in prompt.lower():
            for begins in (prefill, prefill.strip()):
                if reply.startswith(begins):
                    return reply[len(begins) :]
    joint = "" if not prefill or prefill[-1].isspace() else " "
    return joint + (_OTHERWISE if prefill else _OTHERWISE[0].upper() + _OTHERWISE[1:])


#: A text between our markers (`_emulate`), which the caller's own words may ask for: the last one is to be repeated.
_QUOTED = re.compile(r"<(text-[0-9a-f]{16})>(.*?)</\1>", re.DOTALL)


def _pattern(template: str) -> re.Pattern[str]:
    """What finds the request that `template` makes at the end of a prompt."""
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


#: What finds each of our own requests.
_REQUESTS = tuple(map(_pattern, (CONTINUE, BEGIN, AGAIN)))


def _echo_wanted(prompt: str) -> tuple[str, list[str]]:
    """The prompt without the request to begin with some text; and that text, then the part of it that is to be repeated."""
    for request in _REQUESTS:
        if found := request.search(prompt):
            texts = found.groupdict()
            return prompt[: found.start()], [texts["text"], texts.get("end", texts["text"])]
    return _QUOTED.sub("", prompt), [match[2] for match in _QUOTED.finditer(prompt)]


#: What Claude answers since 4.6.
_REFUSAL = "This model does not support assistant message prefill. The conversation must end with a user message."


class DemoResponse:
    """An answer made on the spot."""

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
    """Answers like a host of one kind, which is the model's name.

    `eats` and `echoes` take a prefill; `refuses` answers 400 to one, and repeats what the prompt asks for; `emulated`
    takes none and repeats what the prompt asks for; `ignores` takes none and does not care.
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
    """What the demo model writes. `asked` are the texts of a request: all that is known first, what to repeat last."""
    if model == "ignores":
        return "Here it is. " + continuation(prompt, "")
    if echo:
        return echo[-1] + continuation(prompt, echo[0])
    return (prefill if model == "echoes" else "") + continuation(prompt, prefill)

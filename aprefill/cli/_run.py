"""`aprefill run`: streams one reply to standard output, or prints it as one JSON object."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

import aprefill

from .._errors import ProviderError
from ._default_model import DEMO, DEMO_NOTE, choose_model
from ._input import prompt_of
from ._json import to_json
from ._output import Output, say
from ._spelling import in_options

if TYPE_CHECKING:
    from .._events import Timing


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Request:
    """The options and arguments of `run`. It has no repr, because it contains the prompt."""

    words: tuple[str, ...]
    model: str | None
    base_url: str | None
    api: str | None
    allow_http: bool
    support: str | None
    prefill: str
    system: str | None
    stop: tuple[str, ...]
    max_tokens: int | None
    temperature: float | None
    hide_prefill: bool
    absent: Any
    no_emulate: bool
    strict: bool
    as_json: bool
    timing: bool


def run(request: Request) -> None:
    """Print the reply. Raises `AprefillError`, after the text received so far was printed and its last line ended."""
    output = Output()
    model = choose_model(request.model, request.base_url)
    reply = aprefill.stream(
        prompt_of(request.words),
        prefill=request.prefill,
        model=model or DEMO,
        base_url=request.base_url,
        api=request.api,
        allow_http=request.allow_http,
        system=request.system,
        max_tokens=request.max_tokens,
        stop=request.stop,
        temperature=request.temperature,
        support=request.support,
        emulate=not request.no_emulate,
        absent=request.absent,
        strict=request.strict,
        show_when="never" if request.hide_prefill else None,
    )
    if model is None:
        say(DEMO_NOTE)
    try:
        if request.as_json:
            text = anyio.run(_collect, reply)
            output.write(to_json(_facts(reply, text)))
        else:
            anyio.run(_print, reply, output)
            output.end_line()
    except ProviderError as exc:
        output.end_line()
        if request.as_json:
            error = {"type": type(exc).__name__, "message": in_options(exc)}
            output.write(to_json({"error": error, "text_so_far": exc.text_so_far}))
        if request.timing:
            say(_timing_line(reply.timing))
        raise
    if request.timing:
        say(_timing_line(reply.timing))


async def _print(reply: aprefill.Reply, output: Output) -> None:
    task = asyncio.current_task()
    assert task is not None
    # `async with` closes the connection if a write fails
    async with reply:
        async for chunk in reply:
            output.write(chunk, interrupted=task.cancelling)


async def _collect(reply: aprefill.Reply) -> str:
    async with reply:
        return "".join([chunk async for chunk in reply])


def _facts(reply: aprefill.Reply, text: str) -> dict[str, Any]:
    first = reply.attempts[0]
    return {
        "text": text,
        "verdict": reply.verdict,
        "mode": reply.mode,
        "support": reply.support,
        "model": f"{first.provider}:{first.model}",
        "attempts": [
            {"mode": one.mode, "status": one.status, "error": one.error, "waited_s": one.waited_s}
            for one in reply.attempts
        ],
        "usage": None if reply.usage is None else reply.usage.as_dict(),
        "timing": reply.timing.as_dict(),
        "stop_reason": reply.stop_reason,
        "stop_sequence": reply.stop_sequence,
        "message": reply.message,
    }


def _timing_line(timing: Timing) -> str:
    parts = (
        ("accepted", timing.accepted_s),
        ("first token", timing.first_token_s),
        ("held", timing.held_s),
        ("first text", timing.first_text_s),
        ("total", timing.total_s),
    )
    return ", ".join(f"{name} {'-' if s is None else f'{s * 1000:.0f} ms'}" for name, s in parts)

"""Runs one fault once, through aprefill or through an SDK's own stream, and judges the outcome.

`check` says what a good client must do, and judges both in the same way. The SDKs are its controls.
"""

from __future__ import annotations

import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anthropic
import anyio
import httpx
import httpx2
import openai

import aprefill
from aprefill import AprefillError, stream

from .faults import PREFILL, WIRES
from .sdk_http import http_of

if TYPE_CHECKING:
    from .faults import Fault

KEY = "sk-fault-0123456789-abcdefghij"
QUESTION = "Count to seven, please."

#: What `stream(client=...)` gets: nothing ("ours"), or a client of the caller.
CLIENTS = ("ours", "httpx2", "httpx", "sdk")


def clients_of(wire: str) -> tuple[str, ...]:
    """The clients with which a wire can be asked."""
    return tuple(client for client in CLIENTS if client != "sdk" or WIRES[wire].has_sdk)


#: The attributes in which exceptions keep values, apart from their `__dict__`.
_OF_EXCEPTIONS = (
    "__cause__", "__context__", "args", "exceptions", "request", "response", "body", "headers", "doc", "object"
)  # fmt: skip

#: One context for all clients, because creating it takes longer than most faults.
_TLS = ssl.create_default_context()

#: Options for a run with one request.
_ONE_REQUEST: dict[str, Any] = {"recovery": aprefill.Recovery(retries=0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a caller saw."""

    #: all text that was yielded
    text: str
    #: the exception that was raised
    error: Exception | None = None
    #: it did not end by itself
    unending: bool = False
    seconds: float = 0.0


async def watched(chunks: AsyncIterator[str], bound_s: float) -> Outcome:
    """Read `chunks` for at most `bound_s` seconds, and return the outcome."""
    text: list[str] = []
    error: Exception | None = None
    began = time.perf_counter()
    with anyio.move_on_after(bound_s) as scope:
        try:
            async for chunk in chunks:
                text.append(chunk)
        except Exception as exc:
            error = exc
    seconds = time.perf_counter() - began
    return Outcome(text="".join(text), error=error, unending=scope.cancelled_caught, seconds=seconds)


# --- through aprefill -----------------------------------------------------------------------------------------


@asynccontextmanager
async def options_of(client: str, wire: str, url: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the options with which `stream` reaches the host at `url` through one kind of client."""
    chat = wire == "chat"
    base_url = url + WIRES[wire].base
    direct = {"model": WIRES[wire].model, "base_url": base_url, "api_key": KEY}
    if client == "ours":
        yield direct
        return
    library = httpx if client == "httpx" else http_of(openai if chat else anthropic) if client == "sdk" else httpx2
    async with library.AsyncClient(verify=_TLS) as http:
        if client != "sdk":
            yield {**direct, "client": http}
            return
        make: Any = openai.AsyncOpenAI if chat else anthropic.AsyncAnthropic
        # its retries are on by default, and aprefill must switch them off
        yield {"model": direct["model"], "client": make(base_url=base_url, api_key=KEY, http_client=http)}


async def through_aprefill(fault: Fault, options: Mapping[str, Any], *, bound_s: float | None = None) -> Outcome:
    """Run the fault through `stream`."""
    reply = stream(
        QUESTION,
        prefill=PREFILL,
        timeouts=fault.timeouts,
        **({} if fault.with_retries else _ONE_REQUEST),
        **options,
    )
    return await watched(aiter(reply), fault.within_s if bound_s is None else bound_s)


# --- through the SDKs' own streams ----------------------------------------------------------------------------


@asynccontextmanager
async def own_stream_of(sdk: str, url: str) -> AsyncIterator[Callable[[], AsyncIterator[str]]]:
    """Yield a function that requests a reply through the SDK's own stream, with the SDK's default settings."""
    messages: Any = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": PREFILL.strip()}]
    if sdk == "openai":
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as chat:

            async def chat_text() -> AsyncIterator[str]:
                async for chunk in await chat.chat.completions.create(model="m", messages=messages, stream=True):
                    for choice in chunk.choices:
                        yield choice.delta.content or ""

            yield chat_text
    else:
        async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY) as host:

            async def messages_text() -> AsyncIterator[str]:
                async for event in await host.messages.create(
                    model="claude-haiku-4-5", max_tokens=1000, messages=messages, stream=True
                ):
                    if event.type == "content_block_delta" and event.delta.type == "text_delta":
                        yield event.delta.text

            yield messages_text


async def through_sdk(ask: Callable[[], AsyncIterator[str]], bound_s: float) -> Outcome:
    """Return the outcome of the SDK's own stream. The prefill is added, because SDKs leave that to their caller."""
    outcome = await watched(ask(), bound_s)
    return replace(outcome, text=PREFILL + outcome.text)


# --- the judgement --------------------------------------------------------------------------------------------


def check(fault: Fault, outcome: Outcome) -> None:
    """The outcome must be the right text, or a typed error with the text so far and without the key, and in time."""
    error = outcome.error
    assert not outcome.unending, f"did not end within {outcome.seconds:.1f} s"
    assert outcome.seconds <= fault.within_s, f"took {outcome.seconds:.1f} s"
    if error is None:
        assert fault.right is not None, "ended without an error"
        assert outcome.text == PREFILL + fault.right, "the wrong text, without an error"
        return
    assert isinstance(error, AprefillError), f"not an error of aprefill: {type(error).__name__}"
    assert isinstance(error, fault.errors), f"{type(error).__name__}: {error}"
    assert error.text_so_far == outcome.text, "text_so_far is not the text that was yielded"
    expected = "" if fault.kept is None else PREFILL + fault.kept
    if fault.may_keep_less:
        assert expected.startswith(outcome.text), "not the text so far"
    else:
        assert outcome.text == expected, "not the text so far"
    for name, value in fault.facts.items():
        assert getattr(error, name) == value, f"{name} is {getattr(error, name)!r}"
    assert fault.says in str(error), f"the message does not say {fault.says!r}"
    place = next(places_of_key(error), None)
    assert place is None, f"the error or its chain contains the key: {place}"


def places_of_key(error: BaseException) -> Iterator[str]:
    """Yield the places where the key, or a large part of it, can be read.

    Searched are the error, its chain, and everything that can be reached from them, except frames.
    """
    if _holds_key("".join(traceback.format_exception(error))):
        yield "the printed traceback"
    waiting: list[tuple[str, Any]] = [(type(error).__name__, error)]
    # the values are kept too, so that no id is used again
    seen: dict[int, Any] = {}
    while waiting:
        where, value = waiting.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            if any(map(_holds_key, _texts(value))):
                yield where
            waiting += [(where + step, part) for step, part in _parts(value)]


def _holds_key(text: str) -> bool:
    return KEY[:12] in text or KEY[-12:] in text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, bytes | bytearray):
        yield value.decode("latin-1")
    elif not isinstance(value, type):
        for show in (str, repr):
            with suppress(Exception):
                yield show(value)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what can be reached from a value: its items or its attributes, with those in slots and in C structures."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    if isinstance(value, type | str | bytes):
        return
    names = dict.fromkeys(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names |= dict.fromkeys((slots,) if isinstance(slots, str) else slots)
    if isinstance(value, BaseException):
        names |= dict.fromkeys(_OF_EXCEPTIONS)
    for name in names:
        # httpx's `request` raises if there is none
        with suppress(Exception):
            yield f".{name}", getattr(value, name)

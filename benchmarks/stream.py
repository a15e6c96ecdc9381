"""Compare `stream()` with bare httpx2 and msgspec, and with the official SDKs: CPU per chunk, and time to first text.

    python benchmarks/stream.py            prints the tables
    python benchmarks/stream.py --write    prints them and writes docs/benchmarks.md

All clients run in one process on asyncio, and a minimal host runs in another. The runs of the clients alternate, and
the numbers are medians of 7. The script exits with 1 if `stream()`, with the seam on, takes more than 1.5 times as long
as bare httpx2.
"""

from __future__ import annotations

import asyncio
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import date
from importlib.metadata import version
from pathlib import Path

import anthropic
import httpx2
import msgspec
import openai
from _server import CHUNKS, PREFILL, TEXT, running

from aprefill import Session

ROUNDS = 7
FIRSTS = 40
LIMIT = 1.5
WHOLE = PREFILL + TEXT * CHUNKS
PROMPT = [{"role": "user", "content": "hi"}]


class _Inner(msgspec.Struct):
    content: str | None = None
    text: str | None = None


class _Choice(msgspec.Struct):
    delta: _Inner


class _Record(msgspec.Struct):
    choices: list[_Choice] = []
    delta: _Inner | None = None


_decode = msgspec.json.Decoder(_Record).decode

#: A contestant streams one reply and returns its text and the seconds to its first piece.
Contestant = Callable[[str, str], Awaitable[tuple[str, float]]]


async def contestants(stack: AsyncExitStack, base: str) -> dict[str, Contestant]:
    """Return the clients to compare. Each uses one warm connection."""
    raw = await stack.enter_async_context(httpx2.AsyncClient())
    session = await stack.enter_async_context(Session(api_key="k"))
    oai = await stack.enter_async_context(openai.AsyncOpenAI(api_key="k", base_url=base))
    ant = await stack.enter_async_context(anthropic.AsyncAnthropic(api_key="k", base_url=base))

    # one host per protocol that repeats the prefill, by the support table
    echoing = {
        "chat": {"model": "mistral:mistral-large-latest"},
        "messages": {"model": "llama_cpp:m", "api": "messages"},
    }

    async def bare(mode: str, wire: str) -> tuple[str, float]:
        path = "/v1/messages" if wire == "messages" else "/chat/completions"
        began, first, out, rest = time.perf_counter(), 0.0, [], b""
        body = {"model": "m", "messages": PROMPT, "stream": True, "max_tokens": 9}
        async with raw.stream("POST", f"{base}/{mode}{path}", json=body) as response:
            async for data in response.aiter_bytes():
                *blocks, rest = (rest + data).split(b"\n\n")
                for block in blocks:
                    payload = block[block.index(b"data: ") + 6 :]
                    if payload == b"[DONE]":
                        continue
                    record = _decode(payload)
                    delta = record.delta if record.delta is not None else record.choices and record.choices[0].delta
                    text = delta and (delta.text or delta.content)
                    if text:
                        first = first or time.perf_counter() - began
                        out.append(text)
        return "".join(out), first

    async def ours(mode: str, wire: str) -> tuple[str, float]:
        began, first, out = time.perf_counter(), 0.0, []
        reply = session.stream("hi", prefill=PREFILL, **echoing[wire], base_url=f"{base}/{mode}")
        async for chunk in reply:
            out.append(chunk)
        first = reply.timing.first_text_s or 0.0
        assert time.perf_counter() - began >= first
        return "".join(out), first

    async def ours_first(mode: str, wire: str) -> tuple[str, float]:
        began, first, out = time.perf_counter(), 0.0, []
        reply = session.stream("hi", prefill=PREFILL, **echoing[wire], base_url=f"{base}/{mode}", show_when="never")
        async for chunk in reply:
            first = first or time.perf_counter() - began
            out.append(chunk)
        return "".join(out), first

    async def sdk(mode: str, wire: str) -> tuple[str, float]:
        began, first, out = time.perf_counter(), 0.0, []
        if wire == "messages":
            client = ant.with_options(base_url=f"{base}/{mode}") if str(ant.base_url) != f"{base}/{mode}/" else ant
            async with await client.messages.create(model="m", messages=PROMPT, max_tokens=9, stream=True) as events:
                async for event in events:
                    if event.type == "content_block_delta" and event.delta.type == "text_delta":
                        first = first or time.perf_counter() - began
                        out.append(event.delta.text)
        else:
            client = oai.with_options(base_url=f"{base}/{mode}")
            async with await client.chat.completions.create(model="m", messages=PROMPT, stream=True) as chunks:
                async for chunk in chunks:
                    if chunk.choices and chunk.choices[0].delta.content:
                        first = first or time.perf_counter() - began
                        out.append(chunk.choices[0].delta.content)
        return "".join(out), first

    return {"bare httpx2 + msgspec": bare, "stream(), seam on": ours, "official SDK": sdk, "first": ours_first}


async def cpu(field: dict[str, Contestant], mode: str, wire: str) -> dict[str, float]:
    """Return the microseconds of CPU per chunk: the median of `ROUNDS` alternating runs after a warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in field if name != "first"}
    for turn in range(ROUNDS + 1):
        for name, taken in samples.items():
            began = time.process_time()
            text, _ = await field[name](mode, wire)
            spent = time.process_time() - began
            assert text == WHOLE, name
            if turn:
                taken.append(spent / CHUNKS * 1e6)
    return {name: statistics.median(taken) for name, taken in samples.items()}


async def first_text(field: dict[str, Contestant], wire: str) -> dict[str, float]:
    """Return the microseconds from the call to the first text that the caller gets, over a warm connection."""
    names = {
        "bare httpx2 + msgspec": "bare httpx2 + msgspec",
        "stream(), seam on": "first",
        "official SDK": "official SDK",
    }
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(FIRSTS + 5):
        for name, key in names.items():
            _, first = await field[key]("first", wire)
            if turn >= 5:
                samples[name].append(first * 1e6)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def table(title: str, rows: dict[str, dict[str, float]]) -> list[str]:
    """Return a Markdown table with a row per case and a column per contestant, with the ratio to the first column."""
    names = list(next(iter(rows.values())))
    lines = [f"### {title}", "", f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for case, result in rows.items():
        base = result[names[0]]
        lines.append(f"| {case} | " + " | ".join(f"{result[n]:.1f} ({result[n] / base:.2f}x)" for n in names) + " |")
    return [*lines, ""]


async def main() -> int:
    """Run everything and print the tables. Return 0 if the limit holds, else 1."""
    with running() as base:
        async with AsyncExitStack() as stack:
            field = await contestants(stack, base)
            costs = {
                f"{wire}, {mode}": await cpu(field, mode, wire)
                for wire in ("chat", "messages")
                for mode in ("each", "burst")
            }
            firsts = {wire: await first_text(field, wire) for wire in ("chat", "messages")}
    lines = table("CPU per chunk of 4 characters, microseconds", costs)
    lines += table("Time to first text over a warm connection, microseconds", firsts)
    print("\n".join(lines))
    if "--write" in sys.argv:
        write(lines)
    worst = max(r["stream(), seam on"] / r["bare httpx2 + msgspec"] for r in [*costs.values(), *firsts.values()])
    print(f"worst ratio of stream() to bare httpx2: {worst:.2f} (limit {LIMIT})")
    return int(worst > LIMIT)


def write(lines: list[str]) -> None:
    """Write the tables to docs/benchmarks.md, with date and versions."""
    packages = ", ".join(f"{p} {version(p)}" for p in ("httpx2", "msgspec", "anyio", "openai", "anthropic"))
    intro = [
        "# Benchmarks",
        "",
        "Written by `python benchmarks/stream.py --write`. All clients run in one process on asyncio. A minimal host",
        f"runs in another process on the same machine and sends {CHUNKS:,} chunks of 4 characters. The runs of the",
        f"clients alternate. The numbers are medians of {ROUNDS} runs (of {FIRSTS} runs for the first text). The ratio",
        "to bare httpx2 is in brackets. The absolute times depend on the machine. The ratios are the result.",
        "",
        "The host repeats the prefill, that is, the text that the caller wrote as the beginning of the reply. In",
        "`stream()` the seam removes the repetition. Bare httpx2 and the SDKs hand it out unchanged.",
        "",
        "*each*: the host makes one write per event, as hosts do. *burst*: the host writes everything at once.",
        "",
        f"{date.today().isoformat()}, CPython {platform.python_version()}, {platform.system()}, {packages}.",
        "",
    ]
    page = Path(__file__).parents[1] / "docs" / "benchmarks.md"
    page.write_text("\n".join(intro + lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

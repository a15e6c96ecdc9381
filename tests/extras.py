"""Checks the wheel with and without an extra. Run by `nox -s extras`, outside of pytest.

python -P tests/extras.py without bedrock        (-P: tests/typing must not hide the standard library's typing)
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

#: extra -> the packages that it installs, by import name
BRINGS = {
    "anthropic": ["anthropic"],
    "openai": ["openai"],
    "aiohttp": ["aiohttp"],
    "bedrock": ["botocore", "boto3"],
    "cli": ["click"],
    "llm": ["llm"],
    "web": ["starlette"],
}
#: `aiohttp` is for the SDKs' clients, so it is checked together with one of them.
BESIDE = {"aiohttp": "openai"}
BRINGS["all"] = [name for names in list(BRINGS.values()) for name in names]


def demo() -> None:
    """Check that the core works, whatever is installed."""
    import anyio

    from aprefill import stream

    async def main() -> None:
        text = await stream("JSON list of US state names", prefill='["', model="demo:eats").text()
        assert text.startswith('["Alabama"'), text

    anyio.run(main)


def command() -> subprocess.CompletedProcess[str]:
    """Run `aprefill --version`."""
    return subprocess.run([sys.executable, "-m", "aprefill", "--version"], capture_output=True, text=True, timeout=60)


def client_of(name: str) -> Any:
    """Make an SDK's client and check that a session accepts it as `client=`."""
    from aprefill import Session

    sdk = importlib.import_module(name)
    client = sdk.AsyncOpenAI(api_key="any") if name == "openai" else sdk.AsyncAnthropic(api_key="any")
    Session("openai:gpt-4o" if name == "openai" else "anthropic:claude-haiku-4-5", client=client)
    return client


def over_aiohttp() -> None:
    """Check that a reply works over an OpenAI client with aiohttp's transport."""
    import asyncio

    from openai import AsyncOpenAI, DefaultAioHttpClient

    from aprefill import stream
    from aprefill.testing import Script, serve

    async def main() -> None:
        async with serve(Script(text="Hello.")) as server:
            client = AsyncOpenAI(api_key="any", base_url=server.openai_url, http_client=DefaultAioHttpClient())
            async with client:
                assert await stream("Hi", model="gpt-4o", client=client).text() == "Hello."

    asyncio.run(main())


def without(extra: str) -> None:
    """Check that without the extra its packages are missing, the core works, and the error says what to install."""
    absent = [name for name in BRINGS[extra] if find_spec(name) is None]
    assert absent, f"the bare wheel already brings {BRINGS[extra]}: this check proves nothing"
    demo()
    if "click" in absent:
        done = command()
        assert done.returncode == 2, done
        assert "pip install 'aprefill[cli]'" in done.stderr, done
    if "starlette" in absent:
        try:
            importlib.import_module("aprefill.web")
        except ModuleNotFoundError as error:
            assert "pip install 'aprefill[web]'" in str(error), error
        else:
            raise AssertionError("aprefill.web was imported without starlette")
    if "botocore" in absent:
        from aprefill import UsageError
        from aprefill._wire.eventstream import EventStreamDecoder

        try:
            EventStreamDecoder()
        except UsageError as error:
            assert "aprefill[bedrock]" in str(error), error
        else:
            raise AssertionError("EventStreamDecoder was made without botocore")
    if extra == "aiohttp":
        try:
            over_aiohttp()
        except RuntimeError as error:
            assert "aiohttp" in str(error), error
        else:
            raise AssertionError("an SDK's client ran over aiohttp without aiohttp")
    if "llm" in absent:
        try:
            importlib.import_module("aprefill.llm_plugin")
        except ModuleNotFoundError as error:
            assert "aprefill[llm]" in str(error), error
        else:
            raise AssertionError("the plugin for LLM was loaded without LLM")
    print(f"without {extra}: {', '.join(absent)} absent, the core works")


def with_(extra: str) -> None:
    """Check that with the extra its packages import, and that the core and what needs the extra work."""
    for name in BRINGS[extra]:
        importlib.import_module(name)
    demo()
    for name in {"openai", "anthropic"} & {*BRINGS[extra]}:
        assert client_of(name).api_key == "any"
    if "aiohttp" in BRINGS[extra]:
        over_aiohttp()
    if "botocore" in BRINGS[extra]:
        from aprefill._wire.eventstream import EventStreamDecoder

        assert EventStreamDecoder()
    if "click" in BRINGS[extra]:
        assert command().returncode == 0, command()
    if "starlette" in BRINGS[extra]:
        assert importlib.import_module("aprefill.web").sse
    if "llm" in BRINGS[extra]:
        done = subprocess.run(
            [sys.executable, "-m", "llm", "prompt", "--help"], capture_output=True, text=True, timeout=60
        )
        assert "--prefill" in done.stdout, done
    print(f"with {extra}: {', '.join(BRINGS[extra])} import, the core works")


if __name__ == "__main__":
    {"without": without, "with": with_}[sys.argv[1]](sys.argv[2])

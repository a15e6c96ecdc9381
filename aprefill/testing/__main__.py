"""Run the server as a separate process, for benchmarks: `python -m aprefill.testing --text Hello`."""

from __future__ import annotations

import argparse
import signal
from typing import Any

import anyio
import msgspec

from .._errors import UsageError
from ._script import Script, ToolCall
from ._server import serve


async def _run(script: Script, *, tls: bool, port: int) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with serve(script, tls=tls, port=port) as server:
            print(server.url, flush=True)
            if server.ca_file:
                print(server.ca_file, flush=True)
            async for _ in signals:
                return


def _script(fields: dict[str, Any]) -> Script:
    fields["tools"] = msgspec.convert(fields.get("tools", []), list[ToolCall])
    for name in ("body", "insert"):
        if isinstance(fields.get(name), str):
            fields[name] = fields[name].encode()
    return Script(**fields)


def main() -> None:
    """Serve until SIGINT or SIGTERM. The first line of output is the URL. With --tls the second is the CA's file."""
    parser = argparse.ArgumentParser(prog="python -m aprefill.testing", description=main.__doc__)
    parser.add_argument("script", nargs="?", default="{}", help="the fields of aprefill.testing.Script, as JSON")
    parser.add_argument("--text", help="the reply's text")
    parser.add_argument("--port", type=int, default=0, help="the port; 0, the default, chooses a free one")
    parser.add_argument("--tls", action="store_true", help="serve HTTPS with a certificate made for this run")
    asked = parser.parse_args()
    try:
        fields = msgspec.json.decode(asked.script, type=dict[str, Any])
        script = _script(fields if asked.text is None else {**fields, "text": asked.text})
    except (msgspec.MsgspecError, TypeError, UsageError) as exc:
        parser.error(str(exc))
    anyio.run(lambda: _run(script, tls=asked.tls, port=asked.port))


if __name__ == "__main__":
    main()

"""`llm prefill models`: prints how a prefill is sent for each installed model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import llm

from .._types import Support
from ._hosts import route_of
from ._scope import LISTING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._hosts import Route

_HOW = {
    "prefill": "by the plugin's option prefill",
    "prefix": "by the plugin's option prefix",
    "message": "as a last assistant message",
    "chat": "as a last assistant message",
    "built": "as a last assistant message",
}


def listing(queries: Sequence[str], *, async_: bool, as_json: bool) -> Iterator[str]:
    """Yield the lines to print."""
    token = LISTING.set(True)
    try:
        found = llm.get_models_with_aliases()
    finally:
        LISTING.reset(token)
    rows = []
    for one in found:
        model = one.async_model if async_ else one.model
        if model is not None and all(one.matches(query) for query in queries):
            rows.append(_row(model.model_id, route_of(model)))
    if as_json:
        yield json.dumps(rows, indent=2)
        return
    width = max((len(row["model_id"]) for row in rows), default=0)
    for row in rows:
        evidence = f" ({row['host']}, {row['evidence']})" if row["host"] else ""
        yield f"{row['model_id']:<{width}}  {row['mode']:<8}  {row['what']}{evidence}"


def _row(model_id: str, host: Route) -> dict[str, Any]:
    host_name = f"{host.provider}:{host.name}" if host.provider else None
    if host.native:
        repeats = "repeats it" if host.row.support is Support.ECHOES else "leaves it out"
        what = f"sent {_HOW[host.door or 'message']}; the host {repeats}"
    elif host.row.native and host.on_responses:
        what = (
            "asked for in the prompt: the host takes a prefill on chat completions, but this model's requests go to "
            "/responses"
        )
    elif host.row.native:
        what = "asked for in the prompt: the host takes a prefill, but this plugin cannot send one"
    else:
        what = "asked for in the prompt"
    return {
        "model_id": model_id,
        "host": host_name,
        "mode": "native" if host.native else "emulated",
        "what": what,
        "evidence": host.row.evidence if host_name else "unknown",
    }

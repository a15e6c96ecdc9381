"""Adds a prefill to a request, says how its reply is spliced, and recognizes a host's refusal of it."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

from .._errors import UsageError
from .._json import flat
from .._seam.plan import SeamPlan
from .._types import Support

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from .._deltas import Message
    from .row import KnownRefusal, SupportRow


class Attached(NamedTuple):
    """A request with a prefill: its messages, the body fields to add, the part of the prefill that is sent, the seam.

    ``sent + stripped`` is the prefill. If `sent` is empty, no assistant turn was added.
    """

    messages: tuple[Message, ...]
    body_fields: dict[str, Any]
    sent: str
    stripped: str
    #: what the reply is spliced with
    seam: SeamPlan
    #: whether the host repeats a prefill that it takes. A reply without the repetition then shows that it was ignored
    must_echo: bool


def sendable(row: SupportRow, prefill: str) -> str:
    """What of the prefill can be sent to this host as a trailing turn."""
    return prefill.rstrip() if row.whitespace == "strip" else prefill


def attach_prefill(row: SupportRow, messages: Sequence[Message], prefill: str) -> Attached:
    """Add an assistant turn with `prefill` to `messages`, in the form that a native `row` needs. Changes no argument.

    If nothing of the prefill is left to send, no turn and no fields are added. That is so if it is empty, or only white
    space on a host that refuses white space at the end. The request is then an ordinary one to `base_url`. `stripped`
    lets the seam drop that white space if the model begins with it. The content of the turn is always a str, because
    SGLang ignores a list. Raises `UsageError` if `messages` already end with an assistant turn, and `ValueError` if
    `row` is not native.
    """
    sent = sendable(row, prefill)
    stripped = prefill[len(sent) :]
    echo = {"echo": "never"} if row.support is Support.EATS else {"whitespace": row.whitespace_echo}
    seam = SeamPlan(prefill, {"stripped": stripped, **echo})
    if not sent:
        return Attached(tuple(messages), {}, "", stripped, seam, must_echo=False)
    if not row.native:
        raise ValueError(f"{row.provider} takes no native prefill here, so there is nothing to attach")
    if messages and messages[-1].get("role") == "assistant":
        # After two assistant turns in a row, llama.cpp answers 400. Anthropic and Ollama merge them (Ollama with a
        # blank line in between).
        raise UsageError("the messages end with an assistant turn and there is a prefill too", "keep one of the two")
    turn: Message = {"role": "assistant", "content": sent, **_copy(row.turn_fields)}
    must_echo = row.support is Support.ECHOES
    return Attached((*messages, turn), _copy(row.body_fields), sent, stripped, seam, must_echo)


def _copy(fields: Mapping[str, Any]) -> dict[str, Any]:
    return deepcopy(dict(fields)) if fields else {}


def known_refusal(row: SupportRow, status: int, error_text: str, given: Collection[str] = ()) -> KnownRefusal | None:
    """Return the known refusal that this error is, or None.

    A refusal is recognized with every status from 400 to 499. It is also recognized with 200: the error came inside the
    stream, or instead of it, before any text. Pass the whole error body if there is one, because gateways nest the
    words of the upstream host deep inside. `given` are the body fields that the caller has set.
    """
    if status != 200 and not 400 <= status < 500:
        return None
    text = flat(error_text)
    return next((r for r in row.refusals if flat(r.text) in text and not any(name in given for name in r.unless)), None)

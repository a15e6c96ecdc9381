"""How a prefill travels to a host, how its reply is spliced, and how the host's refusal is known."""

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
    """A prefill on its way: the messages, what to add to the body, what of the prefill was sent, and how it comes back.

    ``sent + stripped`` is the prefill. With `sent` empty no trailing turn went out.
    """

    messages: tuple[Message, ...]
    body_fields: dict[str, Any]
    sent: str
    stripped: str
    #: what the reply is spliced with
    seam: SeamPlan
    #: the host repeats what was sent: a reply without that shows that the host has ignored it
    must_echo: bool


def sendable(row: SupportRow, prefill: str) -> str:
    """What of the prefill can be sent to this host as a trailing turn."""
    return prefill.rstrip() if row.whitespace == "strip" else prefill


def attach_prefill(row: SupportRow, messages: Sequence[Message], prefill: str) -> Attached:
    """`messages` with the trailing turn for `prefill`, as a native `row` wants it. The input is left alone.

    A prefill of which nothing is left to send (empty, or white space only on a host that takes none at the end)
    adds no turn and no fields: the request is then an ordinary one, to `base_url`, and `stripped` lets the seam
    drop the white space should the model begin with it. The content is always a str: SGLang ignores a list.
    Raises `UsageError` if `messages` end with an assistant turn already, `ValueError` if `row` is not native.
    """
    sent = sendable(row, prefill)
    stripped = prefill[len(sent) :]
    echo = {"echo": "never"} if row.support is Support.EATS else {"whitespace": row.whitespace_echo}
    seam = SeamPlan(prefill, {"stripped": stripped, **echo})
    if not sent:
        return Attached(tuple(messages), {}, "", stripped, seam, must_echo=False)
    if not row.native:
        raise ValueError(f"{row.provider} takes no native prefill here; nothing to carry")
    if messages and messages[-1].get("role") == "assistant":
        # Two in a row: llama.cpp answers 400, Anthropic and Ollama merge them (Ollama with a blank line between).
        raise UsageError("the messages end with an assistant turn and there is a prefill too", "give one of them")
    turn: Message = {"role": "assistant", "content": sent, **_copy(row.turn_fields)}
    must_echo = row.support is Support.ECHOES
    return Attached((*messages, turn), _copy(row.body_fields), sent, stripped, seam, must_echo)


def _copy(fields: Mapping[str, Any]) -> dict[str, Any]:
    return deepcopy(dict(fields)) if fields else {}


def known_refusal(row: SupportRow, status: int, error_text: str, given: Collection[str] = ()) -> KnownRefusal | None:
    """The known refusal that this error is, or None.

    Known with any status from 400 to 499, and with 200: an error inside the stream, or in its place, before any text.
    Give the whole error body where there is one: gateways nest the upstream's words deep inside it. `given` are the
    body's fields that the caller set.
    """
    if status != 200 and not 400 <= status < 500:
        return None
    text = flat(error_text)
    return next((r for r in row.refusals if flat(r.text) in text and not any(name in given for name in r.unless)), None)

"""How a host fails: each fault as data, with the outcome that it must have.

`tests/engine/test_faults.py` runs every fault through aprefill. `docs/_reliability.py` also runs them through the SDKs'
own streams, and writes a page with one row for each name here.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from aprefill import (
    AprefillError,
    ConnectFailed,
    LimitExceeded,
    ProtocolError,
    Stalled,
    StatusError,
    Timeouts,
    Truncated,
)
from aprefill.testing import Received, Script
from aprefill.testing._answer import answer

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultWire:
    """A protocol with which the faults are tested, and how to send a request with it."""

    #: a model that takes a prefill and leaves it out of its reply
    model: str
    #: the base URL after the server's address, and the path after the base URL
    base: str = ""
    path: str
    api: str | None = None
    #: the SDK whose client can send the protocol; "": there is none
    sdk: str = ""
    #: the value of `support=` with which the prefill is sent natively; None: the table's row does that
    support: str | None = None
    #: the name of an event with text
    text_event: str = ""
    #: the type of the error of an overloaded host; "": its errors have no type
    overloaded: str = "overloaded_error"
    #: whether each line is a record: there are no comments, no event names and no blank lines
    is_lines: bool = False

    def framed(self, data: bytes) -> bytes:
        """Return the data as one event with text."""
        if self.is_lines:
            return data + b"\n"
        name = f"event: {self.text_event}\n".encode() if self.text_event else b""
        return name + b"data: " + data + b"\n\n"


def wire_of(received: Received) -> FaultWire:
    """Return the protocol of a request."""
    return next(wire for wire in WIRES.values() if received.path.endswith(wire.path))


#: A new protocol adds its line here.
WIRES = {
    "chat": FaultWire(model="vllm:m", base="/v1", path="/chat/completions", sdk="openai"),
    "messages": FaultWire(
        model="anthropic:claude-haiku-4-5", path="/v1/messages", sdk="anthropic", text_event="content_block_delta"
    ),
    "cohere": FaultWire(model="cohere:m", path="/v2/chat", support="eats", text_event="content-delta", overloaded=""),
    "gemini": FaultWire(
        model="gemini:gemini-2.5-flash",
        base="/v1beta",
        path="/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        overloaded="UNAVAILABLE",
    ),
    "ollama": FaultWire(model="ollama:llama3.2", path="/api/chat", overloaded="", is_lines=True),
    "responses": FaultWire(
        model="llama_cpp:m",
        base="/v1",
        path="/responses",
        api="responses",
        sdk="openai",
        text_event="response.output_text.delta",
    ),
}

#: The prefill of every request, and the text with which a good host continues it.
PREFILL = "zero "
TEXT = "one two three four five six seven"
#: Most faults occur after these characters of the text.
BEFORE = "one two "

GOOD = Script(text=TEXT, cuts=4, prefill="eats")

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to fail. The outcome must be the text `right`, or one of `errors`.

    If both are given, either is allowed.
    """

    #: the name of its row on the page
    name: str
    #: what the host sends
    script: Script | Callable[[Received], Script]
    wires: tuple[str, ...] = tuple(WIRES)
    #: the new text of a complete reply; None: the reply is incomplete, and must not look complete
    right: str | None = None
    #: the errors that may be raised
    errors: tuple[type[AprefillError], ...] = ()
    #: the new text that came before the error; None: the answer was never accepted as a reply
    kept: str | None = None
    #: less than `kept` may have come, because a reset overtakes the data before it
    may_keep_less: bool = False
    #: attributes that the error must have; `says` must be in its message
    facts: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    timeouts: Timeouts = field(default_factory=Timeouts)
    #: from the request to the end, in seconds; generous, because the machine may be busy
    within_s: float = 4.0
    #: the most memory that may be used, in bytes; None: memory is not measured
    within_bytes: int | None = None
    #: retries are on, as by default; in other runs there is one request
    with_retries: bool = False
    #: takes half a second or more even if all is well
    slow: bool = False
    #: time and memory matter here, and the page shows them
    weighs: bool = False
    #: the reason for this outcome, if the name does not show it
    note: str = ""

    def play(self, received: Received) -> Script:
        """Return the script for one request."""
        return self.script if isinstance(self.script, Script) else self.script(received)


def _body(received: Received) -> bytes:
    """Return the good reply's whole body."""
    return b"".join(step for step in answer(GOOD, received).body() if isinstance(step, bytes))


def _cut(**how: Any) -> Callable[[Received], Script]:
    """Return the good reply up to two bytes into the word after `BEFORE`. `how` says how the connection ends."""
    name = "reset_after_bytes" if how.pop("reset", False) else "drop_after_bytes"

    def script(received: Received) -> Script:
        ending: dict[str, Any] = {name: _body(received).index(b"thre") + 2, **how}
        return replace(GOOD, **ending)

    return script


def _event(data: bytes) -> Callable[[Received], Script]:
    """Return the good reply with one more event after `BEFORE`.

    It has the event name that the protocol uses for text.
    """

    def script(received: Received) -> Script:
        return replace(GOOD, after=len(BEFORE), insert=wire_of(received).framed(data))

    return script


def _ends_in_the_line_after_before(received: Received) -> Script:
    """Return a body that ends after the line with the word after `BEFORE`. The blank line after it is missing.

    Where each line is a record, the end of the line is missing.
    """
    body = _body(received)
    end = body.index(b"\n", body.index(b"thre"))
    return Script(body=body[: end if wire_of(received).is_lines else end + 1], framing="chunked")


def _trickle(received: Received) -> Script:
    """A line that never ends: a comment, or a record where there are no comments."""
    start = b'{"x":"' if wire_of(received).is_lines else b":"
    return Script(body=start + b"x" * 10_000, framing="chunked", wire_cuts=1, pace_s=0.2)


@cache
def bomb() -> bytes:
    """Return 128 KiB of gzip, which inflate to 128 MiB of one comment line that never ends."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS + 16)
    block = b" " * MIB
    return packer.compress(b":") + b"".join(packer.compress(block) for _ in range(128)) + packer.flush()


def _gzip_bomb(received: Received) -> Script:
    return Script(body=bomb(), framing="chunked", headers={"content-encoding": "gzip"})


#: 200,000 opening brackets, and as many closing ones.
_DEEP = b"[" * 200_000 + b"]" * 200_000
#: The limit for a record is 1 MiB. A decoder needs a little more, and the loopback host needs its blocks of 64 KiB.
_BOUND = 8 * MIB
_BOUNDED = "A record may have at most 1 MiB."

FAULTS: tuple[Fault, ...] = (
    # --- the end is missing -----------------------------------------------------------------------------------
    Fault(
        name="clean EOF, no finish reason, no terminal event",
        script=replace(GOOD, no_end=True),
        errors=(Truncated,),
        kept=TEXT,
    ),
    Fault(
        name="finish reason, no terminal event",
        script=replace(GOOD, no_done=True),
        wires=("chat", "messages", "cohere"),
        right=TEXT,
        note="A finish reason is the model's own end. Some gateways leave the terminal record out.",
    ),
    Fault(
        name="finish reason, no terminal event",
        script=replace(GOOD, no_done=True),
        wires=("gemini", "ollama", "responses"),
        errors=(Truncated,),
        kept=TEXT,
        note="In these protocols only the terminal record says why the reply ended.",
    ),
    Fault(
        name="EOF in mid-stream of a body without framing",
        script=_cut(framing="close"),
        errors=(Truncated,),
        kept=BEFORE,
    ),
    Fault(
        name="half an event at the end",
        script=replace(GOOD, half_event_at_end=True),
        errors=(Truncated,),
        kept=TEXT,
    ),
    Fault(
        name="ends after a text event without its blank line",
        script=_ends_in_the_line_after_before,
        errors=(Truncated,),
        kept=BEFORE,
        note="An event without the blank line that ends it does not count (WHATWG HTML 9.2.6). Its text is dropped.",
    ),
    Fault(
        name="no blank line after the terminal event",
        script=replace(GOOD, no_last_blank=True),
        right=TEXT,
        note="If the terminal event is complete and only its blank line is missing, the reply is complete too.",
    ),
    # --- no stream --------------------------------------------------------------------------------------------
    Fault(
        name="200 `text/html`",
        script=Script(body=b"<html><body>Log in to the airport's wireless</body></html>", content_type="text/html"),
        errors=(ProtocolError,),
    ),
    Fault(
        name="empty 200",
        script=Script(body=b"", framing="chunked"),
        errors=(ProtocolError,),
        kept="",
    ),
    Fault(
        name="200 with garbage",
        script=Script(body=b"\x00\x01 no event, and no stream of events \x02" * 16, framing="chunked"),
        errors=(ProtocolError,),
        kept="",
    ),
    # --- the connection breaks --------------------------------------------------------------------------------
    Fault(name="hangs up without an answer", script=Script(hang_up=True), errors=(ConnectFailed,)),
    Fault(name="FIN in mid-stream", script=_cut(), errors=(Truncated,), kept=BEFORE),
    Fault(
        name="RST in mid-stream",
        script=_cut(reset=True),
        errors=(Truncated,),
        kept=BEFORE,
        may_keep_less=True,
    ),
    Fault(
        name="body shorter than its Content-Length",
        script=_cut(framing="length"),
        errors=(Truncated,),
        kept=BEFORE,
    ),
    # --- other data in the stream -----------------------------------------------------------------------------
    *(
        Fault(
            name="error event in the stream",
            script=replace(GOOD, after=len(BEFORE), error_event=("overloaded_error", "Overloaded")),
            wires=(name,),
            errors=(StatusError,),
            kept=BEFORE,
            facts={"in_band": True, "error_type": wire.overloaded},
        )
        for name, wire in WIRES.items()
    ),
    Fault(
        name="text after the terminal event",
        script=replace(GOOD, text_after_end=" EIGHT"),
        right=TEXT,
    ),
    Fault(
        name="connection held open after the terminal event",
        script=replace(GOOD, hold_open_s=math.inf),
        right=TEXT,
    ),
    Fault(
        name="bad JSON",
        script=replace(GOOD, after=len(BEFORE), bad_event="json"),
        errors=(ProtocolError,),
        kept=BEFORE,
    ),
    Fault(
        name="bad UTF-8",
        script=replace(GOOD, after=len(BEFORE), bad_event="utf8"),
        right=TEXT.replace(BEFORE, BEFORE + "\ufffd"),
        note="In an event stream, bytes that are not UTF-8 are decoded as U+FFFD (WHATWG HTML 9.2.5).",
    ),
    Fault(
        name="JSON 200,000 levels deep",
        script=_event(_DEEP),
        errors=(ProtocolError,),
        kept=BEFORE,
    ),
    # --- too slow, too much -----------------------------------------------------------------------------------
    Fault(
        name="one byte of comment every 0.2 s, and nothing else",
        script=_trickle,
        errors=(Stalled,),
        kept="",
        facts={"clock": "first_token_s", "after_s": 0.5},
        timeouts=Timeouts(first_token_s=0.5),
        slow=True,
        note="With `Timeouts(first_token_s=0.5)`. By default the error comes after 600 s.",
    ),
    Fault(
        name="keep-alives and no more text",
        script=replace(GOOD, keepalive_after=len(BEFORE), keepalive_s=0.02),
        errors=(Stalled,),
        kept=BEFORE,
        facts={"clock": "progress_s", "after_s": 0.1},
        timeouts=Timeouts(progress_s=0.1),
        note="With `Timeouts(progress_s=0.1)`. By default the error comes after 300 s.",
    ),
    *(
        Fault(
            name=f"a line of {mib} MiB",
            script=replace(GOOD, after=len(BEFORE), endless_line=mib * MIB),
            errors=(LimitExceeded,),
            kept=BEFORE,
            facts={"limit": "record_bytes"},
            within_bytes=_BOUND,
            weighs=True,
            note=_BOUNDED,
        )
        for mib in (8, 16, 32)
    ),
    Fault(
        name="an event of 4 MiB in pieces of 64 bytes",
        script=Script(cuts=["one ", "two ", "x" * (4 * MIB)], prefill="eats", wire_cuts=64),
        errors=(LimitExceeded,),
        kept=BEFORE,
        right=BEFORE + "x" * (4 * MIB),
        within_s=10.0,
        slow=True,
        weighs=True,
        note=_BOUNDED,
    ),
    Fault(
        name="gzip bomb, 128 KiB that inflate to 128 MiB",
        script=_gzip_bomb,
        errors=(ProtocolError,),
        within_bytes=_BOUND,
        weighs=True,
        note="aprefill requests an uncompressed body and refuses any other. It inflates nothing.",
    ),
    Fault(
        name="429 with `Retry-After: 9999`",
        script=Script(status=429, retry_after=9999),
        errors=(StatusError,),
        facts={"status": 429, "retry_after_s": 9999},
        says="9999 s",
        with_retries=True,
        note="The error says how long the host asks the client to wait.",
    ),
)

#: Every name once, in the order of the table.
NAMES = tuple(dict.fromkeys(fault.name for fault in FAULTS))


def fault_for(name: str, wire: str) -> Fault:
    """Return the fault with this name for one protocol."""
    return next(fault for fault in FAULTS if fault.name == name and wire in fault.wires)

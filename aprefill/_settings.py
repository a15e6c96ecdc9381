"""What a caller may set as one value: time limits, recovery, bounds."""

from __future__ import annotations

from dataclasses import dataclass

from ._errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait for the provider, in seconds; None switches a clock off.

    `total_s` is wall clock: it counts the time that the caller takes with a chunk, and waits between requests. All other
    clocks run only while this library waits for the provider. A clock that runs out raises `Stalled`, which names it,
    when the next chunk is asked for, never inside the caller's own code.
    """

    #: to the connection, TLS included
    connect_s: float | None = 15.0
    #: from the request to the first text, reasoning or tool call
    first_token_s: float | None = 600.0
    #: between two of those; keep-alives do not feed it, reasoning does
    progress_s: float | None = 300.0
    #: between two reads of any bytes, and to the response's first ones
    idle_s: float | None = 300.0
    #: the whole reply, from its first request to its end, wall clock
    total_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect_s", "first_token_s", "progress_s", "idle_s", "total_s"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not _is_time(value):
                raise UsageError(
                    f"Timeouts({name}={str(value)[:40]}) is no time", "pass seconds above 0, or None for no limit"
                )


def _is_time(value: float) -> bool:
    try:
        return float(value) > 0
    except OverflowError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What is done about a failure before anything of the reply came, by sending the same request again.

    Such failures are HTTP 408, 409, 429 and 5xx, an error of those kinds inside the stream, a connection that could
    not be made or was cut, all of them before the first text, reasoning or tool call. Once something came, the error
    is raised, with `text_so_far`.
    """

    #: how often at most; 0: never
    retries: int = 2
    #: the longest wait before one of them, in seconds. A host that asks for more (`Retry-After`) gets no second
    #: request: its error is raised at once
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise UsageError(f"Recovery(retries={self.retries!r}) is no count", "pass a whole number, 0 or more")
        wait = self.max_wait_s
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
            raise UsageError(f"Recovery(max_wait_s={wait!r}) is no time", "pass seconds, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is taken from the provider. What exceeds a bound raises `LimitExceeded`, which names it."""

    #: one record of the stream, in bytes: an event, a line, a frame. A host that sends images in its stream needs more
    record_bytes: int = 1_048_576
    #: how much of an error's body is read, in bytes; the rest is left unread, and that is no error
    error_body_bytes: int = 65_536
    #: after the end of a reply, how long the body is read on so that the connection can be used again, in seconds;
    #: 0: not at all
    drain_s: float = 0.05
    #: the text of the whole reply, the prefill included, in characters; None: no limit. Text up to the bound is handed
    #: out, then the error is raised. Reasoning and tool calls do not count
    reply_chars: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("record_bytes", 1), ("error_body_bytes", 0), ("reply_chars", 1)):
            value = getattr(self, name)
            if name == "reply_chars" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                none = ", or None for no limit" if name == "reply_chars" else ""
                raise UsageError(
                    f"Limits({name}={str(value)[:40]}) is no bound", f"pass a whole number, {least} or more{none}"
                )
        drain = self.drain_s
        if isinstance(drain, bool) or not isinstance(drain, int | float) or not (drain == 0 or _is_time(drain)):
            raise UsageError(f"Limits(drain_s={str(drain)[:40]}) is no time", "pass seconds, 0 or more")

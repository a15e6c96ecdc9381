"""Settings that the caller passes as one value: timeouts, recovery, limits."""

from __future__ import annotations

from dataclasses import dataclass

from ._errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait for the provider, in seconds. None disables a timeout.

    `total_s` is wall clock time. It includes the time that the caller spends on each chunk, and the waits between
    requests. All other clocks run only while this library waits for the provider. An expired timeout raises `Stalled`,
    which names the timeout. It is raised when the caller asks for the next chunk, never inside the caller's own code.
    """

    #: Making the connection, including TLS.
    connect_s: float | None = 15.0
    #: From the request to the first text, reasoning or tool call.
    first_token_s: float | None = 600.0
    #: Between two pieces of text, reasoning or tool calls. Keep-alives do not count as progress; reasoning does.
    progress_s: float | None = 300.0
    #: Between two network reads of any bytes, also before the first bytes of the response.
    idle_s: float | None = 300.0
    #: The whole reply from its first request to its end, in wall clock time.
    total_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect_s", "first_token_s", "progress_s", "idle_s", "total_s"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not _is_time(value):
                raise UsageError(
                    f"Timeouts({name}={str(value)[:40]}) is not a time", "pass seconds above 0, or None for no limit"
                )


def _is_time(value: float) -> bool:
    try:
        return float(value) > 0
    except OverflowError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How to retry a request that failed before anything of the reply came. The same request is sent again.

    These failures are retried: HTTP 408, 409, 429 and 5xx, an error inside the stream with one of these statuses, and a
    connection that could not be made or was cut. After the first text, reasoning or tool call nothing is retried: the
    error is raised, with `text_so_far`.
    """

    #: Maximum number of retries. 0 disables them.
    retries: int = 2
    #: Longest wait before a retry, in seconds. If the host asks for a longer wait (`Retry-After`), there is no retry
    #: and the error is raised at once.
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise UsageError(f"Recovery(retries={self.retries!r}) is not a count", "pass a whole number, 0 or more")
        wait = self.max_wait_s
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
            raise UsageError(f"Recovery(max_wait_s={wait!r}) is not a time", "pass seconds, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much to take from the provider. Exceeding a limit raises `LimitExceeded`, which names the limit."""

    #: Size of one record of the stream (an event, a line or a frame), in bytes. Hosts that stream images need more.
    record_bytes: int = 1_048_576
    #: How much of an error response is read, in bytes. The rest is not read, and raises no error.
    error_body_bytes: int = 65_536
    #: How long the body is read after the end of a reply, in seconds, so that the connection can be reused. 0: the body
    #: is not read further.
    drain_s: float = 0.05
    #: Length of the whole reply including the prefill, in characters. None: no limit. Text up to the limit is yielded,
    #: then the error is raised. Reasoning and tool calls do not count.
    reply_chars: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("record_bytes", 1), ("error_body_bytes", 0), ("reply_chars", 1)):
            value = getattr(self, name)
            if name == "reply_chars" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                none = ", or None for no limit" if name == "reply_chars" else ""
                raise UsageError(
                    f"Limits({name}={str(value)[:40]}) is not a limit", f"pass a whole number, {least} or more{none}"
                )
        drain = self.drain_s
        if isinstance(drain, bool) or not isinstance(drain, int | float) or not (drain == 0 or _is_time(drain)):
            raise UsageError(f"Limits(drain_s={str(drain)[:40]}) is not a time", "pass seconds, 0 or more")

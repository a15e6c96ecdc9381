"""Every error that leaves this package.

Two branches under one base: `UsageError` is the caller's to mend, `ProviderError` is what came back.
A class writes its own sentence; a call site passes facts, and the facts are attributes. What happened and what to do
about it are two things, and whether another try may help is the error's own word. What names settings is `Words`, so that
the command line can spell them in its own way.
No message, attribute or chained exception holds a key or a prompt.
"""

from __future__ import annotations

from typing import Any

from ._words import Words

#: Longest quotation of a provider's own words in a message, in characters.
QUOTE_MAX = 300


class AprefillError(Exception):
    """Base of every error raised here. Its message is the problem, then the remedy.

    `problem` is what happened, `remedy` what to do about it: ``""`` where nothing helps, or the problem says it already.
    `may_pass` is whether the same request may well succeed a little later.
    `text_so_far` is the reply as far as it got: the prefill and all text handed out after it, or ``""`` when
    the provider had not accepted the request. It is an attribute only, never part of the message.
    """

    def __init__(self, problem: str, remedy: str = "", *, may_pass: bool = False) -> None:
        super().__init__(joined(problem, remedy))
        self.problem = problem
        self.remedy = remedy
        self.may_pass = may_pass
        self.text_so_far: str = ""

    def __reduce__(self) -> Any:
        # subclasses take facts, not the message: pickle (process pools, task queues) must not call __init__ again
        return _rebuilt, (type(self), str(self), dict(vars(self)))


def joined(problem: str, remedy: str) -> str:
    """The message of an error."""
    return f"{problem}; {remedy}" if remedy else problem


def _rebuilt(cls: type[AprefillError], message: str, facts: dict[str, Any]) -> AprefillError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    vars(error).update(facts)
    return error


class UsageError(AprefillError):
    """The call itself is wrong; nothing was sent. The problem says which argument, the remedy what to pass."""


class ReplyConsumed(UsageError):
    """A finished reply was iterated a second time."""

    def __init__(self) -> None:
        super().__init__(
            "this reply has already been streamed to its end",
            "its `text()` gives the text again, a new stream() asks again",
        )


class ReplyClosed(UsageError):
    """A reply that was left early, or cancelled, was asked for more."""

    def __init__(self) -> None:
        super().__init__(
            "this reply was left before its end and its connection is closed",
            "`text_so_far` has what came, and a `with` block around a reply (`async with`, if asynchronous) keeps it open over several loops",
        )


class ProviderError(AprefillError):
    """The provider, or the way to it, did not deliver.

    The message is one line of printable characters, whatever the host said, so that it can forge no line of a log: line
    ends and other white space are spaces, the rest is written as its escape. Attributes that quote the host hold its words
    as they were.
    """

    def __init__(self, problem: str, remedy: str = "", *, may_pass: bool = False) -> None:
        super().__init__(_one_line(problem), _one_line(remedy), may_pass=may_pass)


def _one_line(text: str) -> str:
    # what names settings is ours, and has nothing of the host's in it
    if isinstance(text, Words) or text.isprintable():
        return text
    return "".join(c if c.isprintable() else _plain(c) for c in text)


def _plain(c: str) -> str:
    return " " if c.isspace() else c.encode("unicode_escape").decode()


class ConnectFailed(ProviderError):
    """No connection to the host, or it ended before the response began. Nothing was delivered.

    `host` and `port` are where it was tried. `reason` says why it failed, such as "connection refused", "no such host"
    or "certificate not trusted (...)". `may_pass` is False where another try would fail in the same way, as with a
    certificate that is not trusted.
    """

    def __init__(
        self,
        host: str,
        reason: str,
        *,
        port: int | None = None,
        remedy: str = "check the host and the network, then try again",
        may_pass: bool = True,
    ) -> None:
        self.host = host
        self.port = port
        self.reason = reason
        # an IPv6 address stands in brackets before a port
        where = host if port is None else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        super().__init__(f"no response from {where}: {reason}", remedy, may_pass=may_pass)


class PrefillRefused(ProviderError):
    """This host takes no native prefill with this model, or not in this request.

    `status` is the HTTP status of the refusal (200 for an error in place of the stream, or in it before any text), or None
    when the support table knew it before anything was sent.
    `why` is what was refused: "model" (it takes none at all), "thinking", "tools", "tool_choice", "response_format", "grammar",
    "whitespace" or "flags".
    """

    def __init__(
        self,
        model: str,
        *,
        status: int | None = None,
        quote: str = "",
        known_as: str = "",
        why: str = "model",
        off: str = "",
    ) -> None:
        self.model = model
        self.status = status
        self.quote = quote[:QUOTE_MAX]
        self.why = why
        if status is None:
            problem = (
                f"{model} takes no native prefill" + (f" ({known_as})" if known_as else "") + ", and nothing was sent"
            )
        else:
            how = "an error in place of the stream" if status == 200 else f"HTTP {status}"
            problem = f"{model} refused the prefill with {how}: {self.quote!r}"
        ways = (f"leave {{{off}}} out to have it asked for in the prompt",) if off else ()
        super().__init__(problem, Words(*ways, *_REMEDIES[why]))


_KNOW_BETTER = "pass {support} if you know that both go together"
#: `PrefillRefused.why` -> what to do: one of these
_REMEDIES = {
    "model": ("choose a model that takes one ({support_table} lists them)", "pass {support} if you know better"),
    "thinking": ("switch thinking off", "leave the prefill out"),
    "tools": ("leave the tools out", "leave the prefill out"),
    "tool_choice": ("leave the forced tool call out", "leave the prefill out", _KNOW_BETTER),
    "response_format": ("leave the schema or grammar out", "leave the prefill out", _KNOW_BETTER),
    "grammar": ("leave the grammar out", "leave the prefill out", _KNOW_BETTER),
    "whitespace": ("leave the white space at the prefill's end out",),
    "flags": ("check that {model} names the kind of server that is really there",),
}


class PrefillIgnored(ProviderError):
    """The reply did not begin with the prefill, and the caller wants an error then.

    Either the prompt had asked for it (`absent="raise"`), or the host is known to repeat it (`strict`).
    """

    def __init__(self, model: str, *, strict: bool = False) -> None:
        self.model = model
        remedy = (
            Words("leave {strict=True} out to have it put in front")
            if strict
            else Words("pass {absent=join} to have it put in front", "pass {absent=retry} to ask once more")
        )
        super().__init__(f"{model} did not begin its reply with the prefill", remedy)


#: What to do with what came.
_GO_ON = "pass {text_so_far} as {prefill} to go on from there"


class Truncated(ProviderError):
    """The stream ended without the end that its protocol demands, or before there was anything new in it."""

    def __init__(
        self,
        reason: str,
        *,
        received_bytes: int = 0,
        remedy: str = Words(_GO_ON),
        may_pass: bool = True,
    ) -> None:
        self.reason = reason
        self.received_bytes = received_bytes
        received = f" ({received_bytes} bytes received)" if received_bytes else ""
        super().__init__(f"the stream was cut: {reason}{received}", remedy, may_pass=may_pass)


#: `Stalled.clock` -> what happened, with the seconds in it
_STALLS = {
    "connect_s": "no connection was made within {} s",
    "first_token_s": "the model wrote nothing within {} s",
    "progress_s": "the model wrote nothing new for {} s",
    "idle_s": "the provider sent nothing for {} s",
    "total_s": "the whole reply was not complete within {} s",
}


class Stalled(ProviderError):
    """A clock of `Timeouts` ran out. `clock` names its field, `after_s` is its value.

    `received_bytes` is how much of the answer's body had come until then.
    """

    def __init__(self, clock: str, after_s: float, *, received_bytes: int = 0) -> None:
        self.clock = clock
        self.after_s = after_s
        self.received_bytes = received_bytes
        received = f", after {received_bytes} bytes" if received_bytes else ""
        waits_for_more = clock not in {"connect_s", "first_token_s"}
        super().__init__(
            f"{_STALLS[clock].format(f'{after_s:g}')} ({clock}){received}",
            Words(
                f"raise {{Timeouts.{clock}}} if that is normal for this model",
                _GO_ON if waits_for_more else "try again later",
            ),
            # once a request is at the host, another one costs as much and may wait as long
            may_pass=clock == "connect_s",
        )


class LimitExceeded(ProviderError):
    """The provider sent more than a bound allows. `limit` names the bound, `bound` its value.

    A bound that can be set has the name of its field in `Limits`, such as "record_bytes".
    """

    def __init__(self, limit: str, bound: int, unit: str) -> None:
        self.limit = limit
        self.bound = bound
        self.unit = unit
        super().__init__(
            f"the provider sent more than {limit} = {bound} {unit}, and the connection was closed",
            Words(f"raise {{Limits.{limit}}} to take more") if limit in {"record_bytes", "reply_chars"} else "",
        )


class ProtocolError(ProviderError):
    """What came is not what this protocol allows: no stream, not JSON, a needed field missing."""

    def __init__(self, what: str, *, status: int | None = None, content_type: str = "") -> None:
        self.what = what
        self.status = status
        self.content_type = content_type
        super().__init__(what, Words("check {base_url} and {api}, a proxy or a login page may have answered"))


class StatusError(ProviderError):
    """The host answered with an error, as an HTTP status or inside the stream (`in_band`).

    `status` is the HTTP status; for an error inside a 200 stream, the status that its type stands for, or 200
    where it says nothing. `error_type` and `detail` are the host's own words, bounded. `retry_after_s` is what
    the host asked us to wait, in seconds, or None. `request_id` is for the host's support. `url` is where the request
    went, without a query; the message shows it where it may be wrong, with 404 and 405.
    """

    def __init__(
        self,
        status: int,
        *,
        error_type: str = "",
        detail: str = "",
        retry_after_s: float | None = None,
        request_id: str | None = None,
        in_band: bool = False,
        url: str = "",
    ) -> None:
        self.status = status
        self.url = url
        self.error_type = error_type = error_type[:QUOTE_MAX]
        self.detail = detail[:QUOTE_MAX]
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.in_band = in_band
        where = "an error inside the stream" if in_band else f"HTTP {status}"
        parts = [f"the provider answered with {where}"]
        if error_type:
            parts.append(f" ({error_type})")
        if self.detail:
            parts.append(f": {self.detail}")
        if url and status in {404, 405}:
            parts.append(f"; the URL was {url}")
        # a conflict (409) and the rest of these are about the moment, not about the request
        may_pass = status in {408, 409, 429} or status >= 500
        super().__init__("".join(parts), _advice(status, retry_after_s, may_pass), may_pass=may_pass)


def _advice(status: int, retry_after_s: float | None, may_pass: bool) -> str:
    if retry_after_s is not None:
        return f"it asks to wait {retry_after_s:g} s"
    if status in {401, 403}:
        return "check the key"
    if status in {404, 405}:
        return Words("check the model's name and {base_url}")
    return "try again later" if may_pass else ""

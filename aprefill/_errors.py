"""All errors that this package raises.

There are two kinds. After a `UsageError` the caller must change the call. A `ProviderError` means that the provider, or
the connection to it, failed.

Each class writes its own message. The code that raises an error passes only facts, which become attributes. A message
consists of the problem (what happened) and the remedy (what to do). Text that names settings is a `Words`, so that the
command line can show these settings as its own options.

No message, attribute or chained exception contains a key or a prompt.
"""

from __future__ import annotations

from typing import Any

from ._words import Words

#: Maximum length of a quotation of the provider's words in a message, in characters.
QUOTE_MAX = 300


class AprefillError(Exception):
    """Base class of every error that this package raises. The message is the problem, then the remedy.

    `problem` says what happened. `remedy` says what to do about it. It is ``""`` if nothing helps or if the problem
    already says what to do. `may_pass` is True if the same request may succeed a little later. `text_so_far` is the
    reply up to the error: the prefill and all text that was yielded after it. It is ``""`` if the provider had not
    accepted the request. It is never a part of the message.

    What to do: catch `UsageError` for mistakes in the call and `ProviderError` for everything that a provider or a
    network does.
    """

    def __init__(self, problem: str, remedy: str = "", *, may_pass: bool = False) -> None:
        super().__init__(joined(problem, remedy))
        self.problem = problem
        self.remedy = remedy
        self.may_pass = may_pass
        self.text_so_far: str = ""

    def _can_continue(self, *, has_new: bool) -> bool:
        """Whether a new request, with the text so far as its prefill, may continue the reply.

        `has_new` says whether the reply has text after the prefill. The new request then has a longer prefill, so it is
        a different request.
        """
        return self.may_pass

    def __reduce__(self) -> Any:
        # Subclasses take facts, not the message. So unpickling (process pools, task queues) must not call __init__.
        return _rebuilt, (type(self), str(self), dict(vars(self)))


def joined(problem: str, remedy: str) -> str:
    """Return the message of an error."""
    return f"{problem}; {remedy}" if remedy else problem


def _rebuilt(cls: type[AprefillError], message: str, facts: dict[str, Any]) -> AprefillError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    vars(error).update(facts)
    return error


class UsageError(AprefillError):
    """The call itself is wrong, and it sent nothing.

    What to do: change the argument that `problem` names, as `remedy` says.
    """


class ReplyConsumed(UsageError):
    """A reply was iterated again after its end.

    What to do: call `text()` to get the whole text again, or `stream()` for a new reply.
    """

    def __init__(self) -> None:
        super().__init__(
            "this reply has already been streamed to its end",
            "call its `text()` to get the text again, or make a new request with stream()",
        )


class ReplyClosed(UsageError):
    """A reply was read after it had been left early or cancelled.

    What to do: take `text_so_far`, or read the reply inside `async with reply:`, which keeps it open between
    several loops.
    """

    def __init__(self) -> None:
        super().__init__(
            "this reply was left before its end, and its connection is closed",
            "`text_so_far` has the text until then; to read a reply in several loops, put them into a `with` block "
            "(`async with` for an asynchronous reply)",
        )

    def _can_continue(self, *, has_new: bool) -> bool:
        return True


class ProviderError(AprefillError):
    """The provider, or the connection to it, failed.

    The message is always one line of printable characters. So a provider cannot forge lines in a log: line ends and
    other white space become spaces, and other unprintable characters are escaped. Attributes that quote the provider
    keep its words unchanged.

    What to do: if `may_pass` is True, send the same request later. If there is a `text_so_far`, pass it as the prefill
    of the next request, to this provider or to another one.
    """

    def __init__(self, problem: str, remedy: str = "", *, may_pass: bool = False) -> None:
        super().__init__(_one_line(problem), _one_line(remedy), may_pass=may_pass)


def _one_line(text: str) -> str:
    # A `Words` is our own text. It contains nothing from the host.
    if isinstance(text, Words) or text.isprintable():
        return text
    return "".join(c if c.isprintable() else _plain(c) for c in text)


def _plain(c: str) -> str:
    return " " if c.isspace() else c.encode("unicode_escape").decode()


class ConnectFailed(ProviderError):
    """No connection to the host could be made, or it ended before the response began. Nothing was yielded.

    `host` and `port` are the address that was tried. `reason` says why it failed, for example "connection refused", "no
    such host" or "certificate not trusted (...)". `may_pass` is False if a retry would fail in the same way, for
    example because the certificate is not trusted.

    What to do: check the address and the network. If `may_pass` is True, retry later; `Recovery` did so already.
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
        # An IPv6 address needs brackets if a port follows.
        where = host if port is None else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        super().__init__(f"no response from {where}: {reason}", remedy, may_pass=may_pass)


class PrefillRefused(ProviderError):
    """The host does not take a native prefill from this model, or not together with the settings of this request.

    `status` is the HTTP status of the refusal. It is 200 if an error came instead of the stream, or in the stream
    before any text. It is None if the support table already had the answer and nothing was sent.

    `why` says what was refused: "model" (it never takes a prefill), or the part of the request that was the reason:
    "thinking", "tools", "tool_choice", "response_format", "grammar", "whitespace" (at the end of the prefill) or
    "flags" (the switches for the prefill, which differ between kinds of servers).

    What to do: leave `emulate` on, so that the prompt asks for the prefill; or change what `why` names; or choose a
    model that takes a prefill.
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
            how = "an error instead of the stream" if status == 200 else f"HTTP {status}"
            problem = f"{model} refused the prefill with {how}: {self.quote!r}"
        ways = (f"leave {{{off}}} out to ask for the prefill in the prompt",) if off else ()
        super().__init__(problem, Words(*ways, *_REMEDIES[why]))


_KNOW_BETTER = "pass {support} if you know that both work together"
#: `PrefillRefused.why` -> the alternatives for the caller.
_REMEDIES = {
    "model": ("choose a model that takes one ({support_table} lists them)", "pass {support} if you know that it does"),
    "thinking": ("switch thinking off", "leave the prefill out"),
    "tools": ("leave the tools out", "leave the prefill out"),
    "tool_choice": ("leave the forced tool call out", "leave the prefill out", _KNOW_BETTER),
    "response_format": ("leave the schema or grammar out", "leave the prefill out", _KNOW_BETTER),
    "grammar": ("leave the grammar out", "leave the prefill out", _KNOW_BETTER),
    "whitespace": ("remove the white space at the end of the prefill",),
    "flags": ("check that {model} names the kind of server that really answers",),
}


class PrefillIgnored(ProviderError):
    """The reply did not begin with the prefill, and the caller asked for an error in that case.

    Either the prompt asked the model to begin with the prefill (`absent="raise"`), or the host is known to repeat a
    native prefill (`strict=True`).

    What to do: with `absent="join"` the prefill is put before the reply, and with `absent="retry"` the model is
    asked once more. Without `strict` the reply of a host that did not repeat the prefill is accepted.
    """

    def __init__(self, model: str, *, strict: bool = False) -> None:
        self.model = model
        remedy = (
            Words("leave {strict=True} out to put the prefill before the reply")
            if strict
            else Words("pass {absent=join} to put the prefill before the reply", "pass {absent=retry} to ask once more")
        )
        super().__init__(f"{model} did not begin its reply with the prefill", remedy)


#: Remedy after an error in the middle of a reply.
_GO_ON = "pass {text_so_far} as {prefill} to continue from there"


class Truncated(ProviderError):
    """The stream ended without the end marker of its protocol, or before it contained any new text.

    What to do: continue with another request that has `text_so_far` as its prefill.
    """

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

    def _can_continue(self, *, has_new: bool) -> bool:
        return has_new or self.may_pass


#: `Stalled.clock` -> what happened. The seconds replace the braces.
_STALLS = {
    "connect_s": "no connection was made within {} s",
    "first_token_s": "the model wrote nothing within {} s",
    "progress_s": "the model wrote nothing new for {} s",
    "idle_s": "the provider sent nothing for {} s",
    "total_s": "the whole reply was not complete within {} s",
}


class Stalled(ProviderError):
    """A timeout of `Timeouts` expired. `clock` is the name of its field, and `after_s` is its value.

    `received_bytes` is the number of bytes of the response body received until then.

    What to do: raise the field of `Timeouts` that `clock` names if the wait is normal for this model; else continue
    from `text_so_far`, or try later.
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
            # Once the host has the request, a retry costs as much again and may wait as long.
            may_pass=clock == "connect_s",
        )

    def _can_continue(self, *, has_new: bool) -> bool:
        # The host may only have been slow.
        return True


class LimitExceeded(ProviderError):
    """The provider sent more than a bound allows. `limit` is the name of the bound, and `bound` is its value.

    If the caller can set the bound, its name is a field of `Limits`, such as "record_bytes".

    What to do: raise the field of `Limits` if the size is expected; else look at what the host sends.
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
    """The response does not follow the protocol: it is not a stream, not JSON, or a required field is missing.

    What to do: check `base_url` and `api`. A proxy or a login page may have answered.
    """

    def __init__(self, what: str, *, status: int | None = None, content_type: str = "") -> None:
        self.what = what
        self.status = status
        self.content_type = content_type
        super().__init__(what, Words("check {base_url} and {api}: a proxy or a login page may have answered"))

    def _can_continue(self, *, has_new: bool) -> bool:
        return has_new or self.may_pass


class StatusError(ProviderError):
    """The host answered with an error, either as an HTTP status or inside the stream (`in_band`).

    `status` is the HTTP status. For an error inside a 200 stream it is the status that the error type stands for, or
    200 if that is not known. `error_type` and `detail` are the host's own words, with a bounded length. `retry_after_s`
    is the wait that the host asked for, in seconds, or None. `request_id` identifies the request for the host's support
    team. `url` is the address of the request without its query. The message shows the URL only with 404 and 405,
    because the URL may be the mistake then.

    What to do: follow `remedy`: check the key, or the model's name and the URL, or wait. If `may_pass` is True, the
    same request may succeed later.
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
        # These statuses, also 409 (conflict), depend on the moment and not on the request.
        may_pass = status in {408, 409, 429} or status >= 500
        super().__init__("".join(parts), _advice(status, retry_after_s, may_pass), may_pass=may_pass)


def _advice(status: int, retry_after_s: float | None, may_pass: bool) -> str:
    if retry_after_s is not None:
        return f"the host asks to wait {retry_after_s:g} s"
    if status in {401, 403}:
        return "check the key"
    if status in {404, 405}:
        return Words("check the model's name and {base_url}")
    return "try again later" if may_pass else ""

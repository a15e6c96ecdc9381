"""The main entry points: `stream()` for one reply, and `Session` for many replies over one connection pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ._codecs import codec
from ._engine.connection import close_all
from ._engine.run import Run
from ._errors import UsageError
from ._hosts.clients import describe
from ._hosts.refusals import RefusalMemory, of_this_process
from ._hosts.table import SupportTable, builtin_table
from ._hosts.target import DEMO_SCHEME, resolve
from ._loops import native_loop
from ._plan.conflicts import check_extra
from ._plan.emulate import Emulation
from ._plan.options import UNSET, Absent, Options, Prompt, ShowWhen, Unset, merged
from ._plan.request import make_request
from ._reply import Reply
from ._settings import Limits, Recovery, Timeouts
from ._transports import Transport
from ._types import Support

# These names are imported at run time, so that `typing.get_type_hints` works on the public functions.
# ruff: noqa: TC001, TC003


def stream(
    prompt: Prompt,
    *,
    prefill: str = "",
    model: str | None = None,
    client: Any = None,
    base_url: str | None = None,
    api_key: str | None = None,
    api: str | None = None,
    allow_http: bool = False,
    system: str | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    temperature: float | None = None,
    thinking: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    response_format: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    support: Support | str | None = None,
    emulate: bool | Emulation = True,
    absent: Absent = "join",
    strict: bool = False,
    show_when: ShowWhen | None = None,
    show_from: int | str = 0,
    coalesce: bool = False,
    recovery: Recovery = Recovery(),  # noqa: B008 - frozen
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Reply:
    """Stream one reply that begins with `prefill`. The reply yields str chunks and contains the prefill exactly once.

    This function is synchronous and lazy. Wrong arguments raise `UsageError` here. Everything else happens when the
    reply is iterated. Without a `client`, the call opens one connection and closes it again. Use a `Session` for many
    calls.

    Args:
        prompt: The user's text, or a list of messages ``{"role": ..., "content": ...}``. A str as content works with
            every protocol. A list as content is sent to the host unchanged. If the last message is an assistant turn
            that consists of text only, and `prefill` is ``""``, that text is the prefill. Other fields of this last
            message are not sent.
        prefill: The text with which the reply begins.
        model: ``"provider:name"``. With `client` or `base_url`, the name alone is enough. The default is the
            environment variable ``APREFILL_MODEL``.
        client: The client that sends the request: an open `AsyncAnthropic` or `AsyncOpenAI`, one of their variants for
            Azure, Bedrock, Vertex and Foundry, an `httpx2.AsyncClient` or an `httpx.AsyncClient`. It stays open after
            the reply: closing it is up to you. The client's own timeouts, retries and redirects are not used;
            `timeouts` and `recovery` apply. A client of an SDK also provides the URL and the key.
        base_url: The URL of the API, instead of the provider's usual one. It must be https, or http to a loopback host.
            The default for models of OpenAI and Anthropic is ``OPENAI_BASE_URL`` or ``ANTHROPIC_BASE_URL``, if set, as
            in the SDKs of these providers.
        api_key: The key. The default is the provider's environment variable.
        api: The protocol: ``"chat"`` (OpenAI's chat completions) or ``"messages"`` (Anthropic's). The default depends
            on the provider.
        allow_http: Allow plain http to any host, also if the URL comes from `client` or the environment. Everybody on
            the network path can then read the key and the prompt. Without a `client`, plain http requests ignore the
            proxy settings of the environment.
        system: The system prompt.
        max_tokens: Maximum number of tokens of the new text. Room for the repetition of an emulated prefill is added.
        stop: Stop sequences. They apply to the new text only. They also work if the host does not support them.
        temperature, thinking, tools, response_format: Sent to the host unchanged.
        extra: More fields for the request body. They override the fields that the support table adds. A None removes a
            field. A field that would undo an argument of this call raises `UsageError`.
        support: What the host does with a prefill, if you know better than the support table: ``"eats"`` (it continues
            the prefill and leaves it out of its reply), ``"echoes"`` (it continues the prefill and repeats it first),
            ``"emulated"`` (it takes none, but the prompt can ask for it) or ``"unsupported"``.
        emulate: Whether the prompt may ask the model to begin with the prefill, if the host does not take a native
            prefill or refuses it. Pass an `Emulation` to use your own wording. With False, `PrefillRefused` is raised
            instead.
        absent: What to do if the prompt asked the model to begin with the prefill and the reply does not: ``"join"``
            (put the prefill before the reply), ``"retry"`` (ask once more, then join) or ``"raise"`` (raise
            `PrefillIgnored`).
        strict: Raise `PrefillRefused` unless the host takes the prefill natively. Also raise `PrefillIgnored` if a host
            that is known to repeat the prefill does not repeat it.
        show_when: When to yield the prefill: ``"accepted"`` (when the host has accepted the request; the default for a
            native prefill), ``"decided"`` (together with the first new text; the default for an emulated one),
            ``"now"`` (before the request is sent) or ``"never"``.
        show_from: Yield only the end of the prefill: from this offset in characters, or from this text in the prefill.
        coalesce: Yield one chunk per network read instead of one chunk per delta of the host.
        recovery: How often, and after which waits, a request is retried that failed before anything came.
        timeouts: How long to wait for the provider.
        limits: How much to take from the provider.
    """
    return _reply(prompt, prefill, merged(Options(), locals()), builtin_table(), None)


class Session:
    """Defaults for many replies, which share one connection pool.

    `async with Session(model=...) as session: session.stream(...)`. A session belongs to the event loop that uses it
    first. Leaving the `async with` block ends all replies that are still open. A `client` that you passed stays open:
    closing it is up to you.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        client: Any = None,
        base_url: str | None = None,
        api_key: str | None = None,
        api: str | None = None,
        allow_http: bool = False,
        system: str | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        temperature: float | None = None,
        thinking: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        support: Support | str | None = None,
        emulate: bool | Emulation = True,
        absent: Absent = "join",
        strict: bool = False,
        show_when: ShowWhen | None = None,
        show_from: int | str = 0,
        coalesce: bool = False,
        recovery: Recovery = Recovery(),  # noqa: B008 - frozen
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
        limits: Limits = Limits(),  # noqa: B008 - frozen
        table: SupportTable | None = None,
    ) -> None:
        self._defaults = merged(Options(), locals())
        self._table = table or builtin_table()
        self._pool = _Pool(client)

    def stream(
        self,
        prompt: Prompt,
        *,
        prefill: str = "",
        model: str | Unset | None = UNSET,
        base_url: str | Unset | None = UNSET,
        api_key: str | Unset | None = UNSET,
        api: str | Unset | None = UNSET,
        allow_http: bool | Unset = UNSET,
        system: str | Unset | None = UNSET,
        max_tokens: int | Unset | None = UNSET,
        stop: str | Sequence[str] | Unset = UNSET,
        temperature: float | Unset | None = UNSET,
        thinking: Mapping[str, Any] | Unset | None = UNSET,
        tools: Sequence[Mapping[str, Any]] | Unset | None = UNSET,
        response_format: Mapping[str, Any] | Unset | None = UNSET,
        extra: Mapping[str, Any] | Unset | None = UNSET,
        support: Support | str | Unset | None = UNSET,
        emulate: bool | Emulation | Unset = UNSET,
        absent: Absent | Unset = UNSET,
        strict: bool | Unset = UNSET,
        show_when: ShowWhen | Unset | None = UNSET,
        show_from: int | str | Unset = UNSET,
        coalesce: bool | Unset = UNSET,
        recovery: Recovery | Unset = UNSET,
        timeouts: Timeouts | Unset = UNSET,
        limits: Limits | Unset = UNSET,
    ) -> Reply:
        """Like `aprefill.stream`, but with the session's defaults, pool and client."""
        if self._pool.closed:
            raise UsageError("this session is closed", "make a new one")
        return _reply(prompt, prefill, merged(self._defaults, locals()), self._table, self._pool)

    def mark_closed(self) -> None:
        """Refuse new replies. After that, call `aclose` in the session's event loop, if the session has one."""
        self._pool.closed = True

    async def aclose(self) -> None:
        """End all open replies at the same time, then close the pool. Takes at most about a second. Idempotent.

        Raises `UsageError` if called in another event loop than the session's own.
        """
        await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Session {self._defaults.model or 'no default model'}, {'closed' if self._pool.closed else 'open'}>"


class _Pool:
    """The transports of a session: one for the network and one for the demo model. Each is made on first use."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._transports: dict[bool, Transport] = {}
        self._loop: Any = None
        self.closed = False
        #: Prefills that hosts have refused during this session.
        self.refusals = RefusalMemory()

    def transport(self, *, demo: bool) -> Transport:
        if self.closed:
            raise UsageError("this session was closed before the reply began", "make a new one")
        loop = native_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise UsageError("this session belongs to another event loop", "make one session per event loop")
        if demo not in self._transports:
            self._transports[demo] = transport_for(self._client, demo=demo)
        return self._transports[demo]

    async def aclose(self) -> None:
        if self._loop is not None and self._loop is not native_loop():
            raise UsageError(
                "this session belongs to another event loop", "close it in that event loop, before the loop ends"
            )
        self.closed = True
        transports, self._transports = list(self._transports.values()), {}
        await close_all(transports)


def _reply(prompt: Prompt, prefill: str, options: Options, table: SupportTable, pool: _Pool | None) -> Reply:
    client = options.client
    described = describe(client)
    request = make_request(prompt, prefill, options)
    target = resolve(
        table,
        model=options.model,
        base_url=options.base_url,
        api_key=options.api_key,
        api=options.api,
        allow_http=options.allow_http,
        client=described,
        keep=pool is not None or client is not None,
    )
    check_extra(request, codec(target.row.codec), target.row)
    demo = target.base_url.startswith(DEMO_SCHEME)

    def transport() -> Transport:
        return transport_for(client, demo=demo) if pool is None else pool.transport(demo=demo)

    refusals = of_this_process if pool is None else pool.refusals
    return Reply(Run(request, target, transport, refusals))


def transport_for(client: Any, *, demo: bool) -> Transport:
    """Return a transport that sends with `client`, with its own client if that is None, or the demo model's."""
    if demo:
        from ._transports.demo import DemoTransport

        return DemoTransport()
    described = describe(client)
    if described is not None and described.sdk:
        from ._transports.sdk import SdkTransport

        return SdkTransport(client)
    from ._transports.http import HttpTransport

    return HttpTransport(client)

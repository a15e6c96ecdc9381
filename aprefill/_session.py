"""The front door: `stream()` for one reply, `Session` for many over one connection pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

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

if TYPE_CHECKING:
    from ._transports import Transport


# Imported at run time, so that `typing.get_type_hints` works on what is public.
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
    """One reply that begins with `prefill`, as a stream of str with the prefill exactly once.

    Synchronous and lazy: wrong arguments raise `UsageError` here, everything else happens when the reply is
    iterated. Without a `client` the call opens one connection and closes it; use a `Session` for many calls.

    Args:
        prompt: The user's text, or a list of messages ``{"role": ..., "content": ...}``. A str content is neutral,
            a list content goes to the host as it is. A last assistant turn of text alone, with ``prefill=""``, is
            the prefill; of such a turn the text is sent and nothing else.
        prefill: The first characters of the reply.
        model: ``"provider:name"``; with `client` or `base_url` the bare name will do. Else ``APREFILL_MODEL``.
        client: An open `AsyncAnthropic` or `AsyncOpenAI`, one of their Azure, Bedrock, Vertex and Foundry kin, an
            `httpx2.AsyncClient` or an `httpx.AsyncClient` to send with. It stays yours; its own timeouts, retries and
            redirects do not apply, `timeouts` do. An SDK's client brings its own URL and key.
        base_url: Where the API lives, in place of the provider's own: https, or http to a loopback host. Else
            ``OPENAI_BASE_URL`` or ``ANTHROPIC_BASE_URL`` for these two providers' models, as in their SDKs.
        api_key: In place of the provider's environment variable.
        api: ``"chat"`` (OpenAI's chat completions) or ``"messages"`` (Anthropic's), in place of the provider's
            default.
        allow_http: Take plain http to any host, also from `client` and the environment. The key and the prompt are
            then readable to everybody on the way. Without a `client` no proxy of the environment is used for them.
        system: The system prompt.
        max_tokens: Limit for the new text, in tokens. Room for the repetition of an emulated prefill is added.
        stop: Stop sequences. They apply to the new text only, and work where the host does not take them.
        temperature, thinking, tools, response_format: Sent to the host as they are.
        extra: More fields for the request body; they win over what the table adds, a None removes a field. One that would
            undo an argument of this call is a `UsageError`.
        support: What the host does with a prefill, if you know better than the table.
        emulate: Ask for the prefill in the prompt where there is no native one, or where the host refuses it. An
            `Emulation` does it in your words; False makes it `PrefillRefused`.
        absent: What to do when the model was asked to begin with the prefill and does not: ``"join"`` (put it in
            front), ``"retry"`` (ask once more, then join), ``"raise"`` (`PrefillIgnored`).
        strict: Anything but a native prefill is an error, and so is a host known to repeat the prefill that does
            not.
        show_when: When the prefill is handed out: ``"accepted"`` (default for a native one: when the host has
            accepted the request), ``"decided"`` (default for one asked for in the prompt: with the first new
            text), ``"now"`` (before the request), ``"never"``.
        show_from: Hand out the prefill's tail only, from this offset in characters, or from this text in it.
        coalesce: One chunk a network read instead of one a delta.
        recovery: How often a request that failed before anything came is sent again, and how long to wait for it.
        timeouts: How long to wait for the provider.
        limits: How much to take from the provider.
    """
    return _reply(prompt, prefill, merged(Options(), locals()), builtin_table(), None)


class Session:
    """The same defaults for many replies, over one connection pool.

    `async with Session(model=...) as session: session.stream(...)`. It belongs to the event loop that first uses
    it. Leaving it ends the replies that are still open. A `client` that was passed stays open: it is yours.
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
        """As `aprefill.stream`, with the session's defaults and over its pool. The client is the session's."""
        if self._pool.closed:
            raise UsageError("this session is closed", "make a new one")
        return _reply(prompt, prefill, merged(self._defaults, locals()), self._table, self._pool)

    def mark_closed(self) -> None:
        """Begin no more replies; `aclose` has to follow in the session's loop, if it has one."""
        self._pool.closed = True

    async def aclose(self) -> None:
        """End the replies that are open, side by side, and close the pool. Takes about a second at most. Idempotent.

        Raises `UsageError` in another event loop than the session's own.
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
    """A session's transports, one for the network and one for the demo, made when first used."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._transports: dict[bool, Transport] = {}
        self._loop: Any = None
        self.closed = False
        #: what hosts have refused in this session
        self.refusals = RefusalMemory()

    def transport(self, *, demo: bool) -> Transport:
        if self.closed:
            raise UsageError("this session was closed before the reply began", "make a new one")
        loop = native_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise UsageError("this session belongs to another event loop", "make one session a loop")
        if demo not in self._transports:
            self._transports[demo] = transport_for(self._client, demo=demo)
        return self._transports[demo]

    async def aclose(self) -> None:
        if self._loop is not None and self._loop is not native_loop():
            raise UsageError(
                "this session belongs to another event loop", "close it in that one, before that loop ends"
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
    """A transport that sends with `client`, or with a client of its own; or the built-in model's."""
    if demo:
        from ._transports.demo import DemoTransport

        return DemoTransport()
    described = describe(client)
    if described is not None and described.sdk:
        from ._transports.sdk import SdkTransport

        return SdkTransport(client)
    from ._transports.http import HttpTransport

    return HttpTransport(client)

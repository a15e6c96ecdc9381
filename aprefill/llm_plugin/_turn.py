"""Executes a model with a prefill: chooses the request, and converts the plugin's output into the output for LLM.

This module is imported when a wrapped model is executed, not when LLM lists its models, because it imports the support
table and the seam, the code that joins the prefill and the model's text.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from contextlib import closing, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from llm.parts import StreamEvent

from .._codecs import limit_words
from .._hosts import refusals as _refusals
from .._hosts.prefill import known_refusal
from .._plan.next import LASTING, is_quoted
from .._types import Verdict
from ._errors import PrefillError
from ._hosts import route_of
from ._prepare import OURS, is_delivered, plain, prepared, refusal_key_of
from ._scope import TELL
from ._splice import ChunkSplicer, Cut, Ignored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from .._hosts.row import KnownRefusal
    from ._hosts import Route
    from ._models import Prefill


class _Turn:
    """One execution, without I/O: it says which request to make, and what to yield for each output of the plugin."""

    def __init__(self, owner: Prefill, prompt: Any, response: Any) -> None:
        self._owner = owner
        self._prompt = prompt
        self._response = response
        self._started = False
        #: whether a reply of LLM's /responses model ended without the event that completes a reply
        self._is_unfinished = False
        #: the index of the prefill among the reply's events
        self._at = 0
        self._host: Route | None = None
        self._prepared: Any = None
        self._prefill: Any = prompt.options.prefill
        scope = owner._scope
        if self._prefill and (
            (scope and scope.first_only and scope.delivered) or is_delivered(prompt.messages, self._prefill)
        ):
            self._prefill = None
        if self._prefill:
            self._host = route_of(owner._inner)
            is_refused = refusal_key_of(self._host, prompt) in _refusals.of_this_process
            self._prepared = prepared(owner._inner, self._host, prompt, natively=not is_refused)

    @property
    def request(self) -> tuple[Any, Any]:
        """The model and the prompt to execute."""
        if self._prepared is None:
            return self._owner._inner, plain(self._owner._inner, self._prompt)
        return self._prepared.model, self._prepared.prompt

    @property
    def stopped(self) -> bool:
        return self._prepared is not None and self._prepared.splice.stopped

    def take(self, chunk: Any) -> list[Any]:
        """Return what to yield for a chunk that the plugin yielded."""
        self._started = True
        return [chunk] if self._prepared is None else self._spliced(lambda splice: splice.take(chunk))

    def end(self) -> list[Any]:
        """Return what to yield at the end of the plugin's output."""
        if self._prepared is None:
            return []
        said = self._response.response_json
        # LLM's own models store the host's last event in `response_json`. Its /responses models store nothing if the
        # last event was not `response.completed`.
        self._is_unfinished = said is None and type(self._owner._inner).__module__ == _OPENAI
        limited = self._is_unfinished or is_limited(said)
        calls = bool(self._response._tool_calls)
        return self._spliced(lambda splice: splice.end(limited=limited, calls=calls))

    def cut(self) -> list[Any]:
        """Return what to yield before an error is raised."""
        return [] if self._prepared is None else self._spliced(ChunkSplicer.cut)

    @property
    def clients(self) -> list[Any]:
        """The clients that were opened for this reply."""
        return [] if self._prepared is None else self._prepared.clients

    def _spliced(self, step: Callable[[ChunkSplicer], list[Any]]) -> list[Any]:
        splice = self._prepared.splice
        was_delivered = splice.delivered
        try:
            out = step(splice)
        except Ignored:
            raise self._ignored() from None
        except Cut:
            model_id = self._owner._inner.model_id
            if self._is_unfinished:
                why = f"the reply of {model_id} was incomplete (a token limit, a filter or a lost connection) and ended"
                raise PrefillError(f"{why} while it repeated the prefill, so there is no new text") from None
            raise PrefillError(
                f"{model_id} reached its token limit while it repeated the prefill, so there is no new text; "
                "raise the limit"
            ) from None
        if splice.delivered and not was_delivered:
            self._at = len(self._response._stream_events)  # LLM has stored everything that was yielded before
        return out

    def note(self) -> None:
        """Set what is logged and what the conversation contains. Call this after LLM has received the last chunk."""
        options = self._prompt.options
        if self._prepared is None:
            if any(getattr(options, name, None) is not None for name in OURS):
                self._prompt.options = options.model_copy(update=dict.fromkeys(OURS))
            return
        splice = self._prepared.splice
        noted = {"prefill_mode": self._prepared.mode, "prefill_verdict": splice.verdict.value}
        self._prompt.options = options.model_copy(update=noted)
        tell = TELL.get()
        if tell is not None and splice.verdict is Verdict.ABSENT and self._prepared.is_asked:
            tell(f"{self._owner._inner.model_id} did not begin its reply with the prefill, so the prefill was added")
        if not splice.delivered:
            return
        if self._owner._scope is not None:
            self._owner._scope.delivered = True
        if options.hide_prefill:
            self._response._loaded_messages = _with_hidden(self._response, self._at, self._prefill)
            _keep_when_logged(self._response)
            texts = sum(one.type == "text" for one in self._response._stream_events[: self._at])
            chunks = list(self._response._chunks)
            setattr(self._response, _WHOLE, [*chunks[:texts], self._prefill, *chunks[texts:]])

    def rescue(self, error: Exception) -> bool:
        """If the host has refused a native prefill, prepare a request that asks for it in the prompt.

        Return whether a new request was prepared.
        """
        if self._prepared is None or self._prepared.mode != "native" or self._started:
            return False
        if self._prompt.options.prefill_strict or self._host is None:
            return False
        # some plugins, such as llm-mistral, raise their own error and chain the real one
        found = _refusal_of(self._host, error) or (error.__cause__ and _refusal_of(self._host, error.__cause__))
        sent = [self._prefill, *(message.to_dict() for message in self._prompt.messages)]
        if not found or is_quoted(found, sent):
            return False
        opened = self.clients
        try:
            self._prepared = prepared(self._owner._inner, self._host, self._prompt, natively=False)
        except PrefillError:
            return False  # the refusal is the better error
        self.clients.extend(opened)
        if found.why in LASTING:
            _refusals.of_this_process.add(refusal_key_of(self._host, self._prompt))
        return True

    def _ignored(self) -> PrefillError:
        strict = self._prepared is not None and self._prepared.mode == "native"
        why = "prefill_strict was given" if strict else "the prefill cannot be added to JSON that is complete by itself"
        return PrefillError(f"{self._owner._inner.model_id} did not begin its reply with the prefill, and {why}")


def _refusal_of(host: Route, error: BaseException) -> KnownRefusal | None:
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return known_refusal(host.row, status, f"{error} {getattr(error, 'body', '')}")
    # a plugin without an SDK raises httpx's error, which contains the host's response
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if not isinstance(status, int):
        return None
    try:
        said = str(getattr(response, "text", ""))
    except Exception:  # the response is a stream that was not read
        said = ""
    return known_refusal(host.row, status, said)


def _with_hidden(response: Any, at: int, prefill: str) -> list[Any]:
    """Return the reply's messages with the hidden prefill, as if it had been an event at index `at`."""
    events = response._stream_events
    lead = StreamEvent(type="text", chunk=prefill, part_index=max((one.part_index for one in events), default=-1) + 1)
    if at < len(events):
        lead.message_index = events[at].message_index
        if events[at].type == "text":  # the prefill and this text are one part
            lead.part_index = events[at].part_index
    events.insert(at, lead)
    try:
        return list(response._messages_now())
    finally:
        del events[at]


#: Name of an attribute that is set on a response if its prefill is hidden. It holds the chunks of the whole text, with
#: the prefill among them.
_WHOLE = "_aprefill_whole"


def _keep_when_logged(response: Any) -> None:
    """Keep `_loaded_messages` when an async response is logged: LLM before 0.36 logs a copy without them."""
    to_sync = getattr(response, "to_sync_response", None)
    if to_sync is None or hasattr(response, "_to_sync_response"):
        return

    async def keeping() -> Any:
        copied = await to_sync()
        copied._loaded_messages = list(response._loaded_messages)
        return copied

    response.to_sync_response = keeping


def whole(conversation: Any) -> Any:
    """Return the conversation with all hidden prefills, for plugins that build the history from `response.text()`.

    If it has a hidden prefill, this is a copy, else the same object.
    """
    responses = getattr(conversation, "responses", None) or ()
    if not any(hasattr(one, _WHOLE) for one in responses):
        return conversation
    shown = copy.copy(conversation)
    shown.responses = [_whole_response(one) for one in responses]
    return shown


def _whole_response(response: Any) -> Any:
    if not hasattr(response, _WHOLE):
        return response
    shown = copy.copy(response)
    shown._chunks = list(getattr(response, _WHOLE))
    return shown


#: The module of LLM's own OpenAI models, for chat completions and /responses.
_OPENAI = "llm.default_plugins.openai_models"


def is_limited(found: Any) -> bool:
    """Whether a plugin's `response_json` says that a token limit has ended the reply, in the terms of any host.

    Only fields about the reply are checked, not the model's text.

    >>> is_limited({"choices": [{"finish_reason": "length"}]}), is_limited({"content": [{"stop_reason": "length"}]})
    (True, False)
    """
    if isinstance(found, list):
        return any(map(is_limited, found))
    if not isinstance(found, dict):
        return False
    why = [found.get(key) for key in _WHY]
    if isinstance(details := found.get("incomplete_details"), dict):
        why.append(details.get("reason"))
    return any(str(one).lower() in _LIMITS for one in why) or any(is_limited(found.get(key)) for key in _REPLIES)


#: The fields in which hosts say why a reply ended, and the values for a token limit. `response_json` is the host's
#: reply as LLM stored it, so no codec has decoded it.
_REPLIES = ("choices", "candidates", "chunks")
_WHY = ("finish_reason", "stop_reason", "done_reason", "finishReason")
_LIMITS = limit_words()


def events(owner: Prefill, prompt: Any, response: Any, run: Callable[[Any, Any], Any]) -> Iterator[Any]:
    """Yield the output of a sync model with a prefill. `run` executes a model with a prompt."""
    turn = _Turn(owner, prompt, response)
    while True:
        source = run(*turn.request)
        try:
            with closing(source) if hasattr(source, "close") else nullcontext():
                for chunk in source:
                    yield from turn.take(chunk)
                    if turn.stopped:
                        break
            break
        except Exception as error:
            if not turn.rescue(error):
                if not isinstance(error, PrefillError):
                    yield from turn.cut()
                raise
        finally:
            while turn.clients:
                turn.clients.pop().close()
    yield from turn.end()
    turn.note()


class AsyncEvents:
    """Yields the output of an async model with a prefill.

    It is an object and not a generator, so that the plugin's generator is closed when iteration stops early.
    """

    def __init__(self, owner: Prefill, prompt: Any, response: Any, run: Callable[[Any, Any], Any]) -> None:
        self._begin = (owner, prompt, response)
        self._run = run
        self._turn: _Turn | None = None
        self._source: Any = None
        self._ready: deque[Any] = deque()
        #: the plugin's output has ended
        self._ended = False
        #: nothing more will be yielded
        self._over = False
        #: an error that is raised after everything before it was yielded
        self._failure: Exception | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            try:
                if self._failure is not None:
                    raise self._failure
                if self._turn is None:
                    self._turn = _Turn(*self._begin)
                if self._ended:
                    self._over = True
                    self._turn.note()
                else:
                    await self._pull(self._turn)
            except BaseException:
                await self.aclose()
                raise
        return self._ready.popleft()

    async def _pull(self, turn: _Turn) -> None:
        if self._source is None:
            self._source = self._run(*turn.request)
        try:
            chunk = await anext(self._source)
        except StopAsyncIteration:
            self._ended = True
        except Exception as error:
            if not turn.rescue(error):
                self._failure = error
                self._ready += turn.cut()
                return
            await self._leave()
        else:
            self._ready += turn.take(chunk)
            self._ended = turn.stopped
        if self._ended:
            self._ready += turn.end()
            await self._leave()

    async def aclose(self) -> None:
        """Close the plugin's generator. Nothing more is yielded."""
        self._over = True
        self._ready.clear()
        await self._leave()

    async def _leave(self) -> None:
        source, self._source = self._source, None
        before = _closings()
        streams = _sdk_streams(source)
        if hasattr(source, "aclose"):
            await source.aclose()
        del source
        clients = [] if self._turn is None else self._turn.clients
        if not streams and not clients:
            return
        while streams:
            await streams.pop().aclose()
        while clients:
            await clients.pop().close()
        await _generators_closed(before)


def _sdk_streams(source: Any) -> list[Any]:
    """Return the generators of the OpenAI SDK that a plugin's generator is reading.

    The SDK's stream and its generator refer to each other, and LLM leaves them to the garbage collector. If the event
    loop ends first, it closes all generators at once. Then inner generators are closed while outer ones are closing
    them, and Python prints 35 lines about it.
    """
    frame = getattr(source, "ag_frame", None)
    found = () if frame is None else frame.f_locals.values()
    streams = [getattr(one, "_iterator", None) for one in found if type(one).__module__.partition(".")[0] == "openai"]
    return [one for one in streams if hasattr(one, "aclose")]


async def _generators_closed(before: set[asyncio.Task[Any]]) -> None:
    """Wait until asyncio has closed the SDK's own generators, each in a separate task. The timeout is 0.25 seconds.

    If the event loop ended earlier, as it does on the command line, Python would print errors on stderr. Closing a
    generator may release another one, so this repeats until there is no new task. It may also wait for generators of
    other code, because a task does not show whose generator it closes.
    """
    with suppress(TimeoutError, RuntimeError):  # no running loop: trio
        async with asyncio.timeout(0.25):
            while True:
                await asyncio.sleep(0)
                if not (new := _closings() - before):
                    return
                await asyncio.wait(new)


def _closings() -> set[asyncio.Task[Any]]:
    """Return the tasks in which asyncio closes generators that were garbage collected."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return set()  # trio
    return {one for one in tasks if type(one.get_coro()).__name__ == "async_generator_athrow"}

"""One execution of a model with a prefill: which request is made, and what LLM is handed for what comes back.

Imported when a model of ours is executed, not when LLM lists its models: it brings the support table and the seam.
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
from ._prepare import OURS, is_delivered, plain, prepared, refused
from ._scope import TELL
from ._splice import ChunkSplicer, Cut, Ignored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from .._hosts.row import KnownRefusal
    from ._hosts import Route
    from ._models import Prefill


class _Turn:
    """One execution, without any waiting: which request to make, and what to yield for what comes back."""

    def __init__(self, owner: Prefill, prompt: Any, response: Any) -> None:
        self._owner = owner
        self._prompt = prompt
        self._response = response
        self._started = False
        #: LLM's model on /responses has ended without what its host says at the end of a whole reply
        self._is_unfinished = False
        #: where among the reply's events the prefill stands
        self._at = 0
        self._host: Route | None = None
        self._carried: Any = None
        self._prefill: Any = prompt.options.prefill
        run = owner._run
        if self._prefill and (
            (run and run.first_only and run.delivered) or is_delivered(prompt.messages, self._prefill)
        ):
            self._prefill = None
        if self._prefill:
            self._host = route_of(owner._inner)
            known = refused(self._host, prompt) in _refusals.of_this_process
            self._carried = prepared(owner._inner, self._host, prompt, natively=not known)

    @property
    def request(self) -> tuple[Any, Any]:
        """The model and the prompt to execute."""
        if self._carried is None:
            return self._owner._inner, plain(self._owner._inner, self._prompt)
        return self._carried.model, self._carried.prompt

    @property
    def stopped(self) -> bool:
        return self._carried is not None and self._carried.splice.stopped

    def take(self, chunk: Any) -> list[Any]:
        """What to yield for what the plugin yielded."""
        self._started = True
        return [chunk] if self._carried is None else self._spliced(lambda splice: splice.take(chunk))

    def end(self) -> list[Any]:
        """What to yield at its end."""
        if self._carried is None:
            return []
        said = self._response.response_json
        # LLM's own models note what their host said at the end, and those on /responses nothing where that was no
        # `response.completed`
        self._is_unfinished = said is None and type(self._owner._inner).__module__ == _OPENAI
        limited = self._is_unfinished or is_limited(said)
        calls = bool(self._response._tool_calls)
        return self._spliced(lambda splice: splice.end(limited=limited, calls=calls))

    def cut(self) -> list[Any]:
        """What to yield ahead of an error."""
        return [] if self._carried is None else self._spliced(ChunkSplicer.cut)

    @property
    def clients(self) -> list[Any]:
        """What was opened for this reply."""
        return [] if self._carried is None else self._carried.clients

    def _spliced(self, step: Callable[[ChunkSplicer], list[Any]]) -> list[Any]:
        splice = self._carried.splice
        was_delivered = splice.delivered
        try:
            out = step(splice)
        except Ignored:
            raise self._ignored() from None
        except Cut:
            model_id = self._owner._inner.model_id
            if self._is_unfinished:
                why = f"the reply of {model_id} was not complete (a token limit, a filter or a cut) and ended"
                raise PrefillError(f"{why} inside the repetition of the prefill, so nothing new came") from None
            raise PrefillError(
                f"the token limit of {model_id} was met inside the repetition of the prefill, "
                "and nothing new came; raise it"
            ) from None
        if splice.delivered and not was_delivered:
            self._at = len(self._response._stream_events)  # LLM has taken over all that was yielded before
        return out

    def note(self) -> None:
        """After the last chunk was taken over by LLM: what is logged, and what the conversation has."""
        options = self._prompt.options
        if self._carried is None:
            if any(getattr(options, name, None) is not None for name in OURS):
                self._prompt.options = options.model_copy(update=dict.fromkeys(OURS))
            return
        splice = self._carried.splice
        noted = {"prefill_mode": self._carried.mode, "prefill_verdict": splice.verdict.value}
        self._prompt.options = options.model_copy(update=noted)
        tell = TELL.get()
        if tell is not None and splice.verdict is Verdict.ABSENT and self._carried.is_asked:
            tell(f"{self._owner._inner.model_id} did not begin its reply with the prefill; it was put in front of it")
        if not splice.delivered:
            return
        if self._owner._run is not None:
            self._owner._run.delivered = True
        if options.hide_prefill:
            self._response._loaded_messages = _with_hidden(self._response, self._at, self._prefill)
            _keep_when_logged(self._response)
            texts = sum(one.type == "text" for one in self._response._stream_events[: self._at])
            chunks = list(self._response._chunks)
            setattr(self._response, _WHOLE, [*chunks[:texts], self._prefill, *chunks[texts:]])

    def rescue(self, error: Exception) -> bool:
        """Change to a request with the prefill asked for in it, if the host has refused a native one; whether it did."""
        if self._carried is None or self._carried.mode != "native" or self._started:
            return False
        if self._prompt.options.prefill_strict or self._host is None:
            return False
        # llm-mistral, for one, makes an error of its own and chains the real one
        found = _refusal_of(self._host, error) or (error.__cause__ and _refusal_of(self._host, error.__cause__))
        sent = [self._prefill, *(message.to_dict() for message in self._prompt.messages)]
        if not found or is_quoted(found, sent):
            return False
        opened = self.clients
        try:
            self._carried = prepared(self._owner._inner, self._host, self._prompt, natively=False)
        except PrefillError:
            return False  # the refusal says more
        self.clients.extend(opened)
        if found.why in LASTING:
            _refusals.of_this_process.add(refused(self._host, self._prompt))
        return True

    def _ignored(self) -> PrefillError:
        strict = self._carried is not None and self._carried.mode == "native"
        why = "prefill_strict was given" if strict else "it cannot be put in front of JSON that is whole by itself"
        return PrefillError(f"{self._owner._inner.model_id} did not begin its reply with the prefill, and {why}")


def _refusal_of(host: Route, error: BaseException) -> KnownRefusal | None:
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return known_refusal(host.row, status, f"{error} {getattr(error, 'body', '')}")
    # httpx's own error, of a plugin without an SDK: it holds the host's answer
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if not isinstance(status, int):
        return None
    try:
        said = str(getattr(response, "text", ""))
    except Exception:  # a stream that was not read
        said = ""
    return known_refusal(host.row, status, said)


def _with_hidden(response: Any, at: int, prefill: str) -> list[Any]:
    """The reply's messages as they would be had the hidden prefill been an event too, the one before number `at`."""
    events = response._stream_events
    lead = StreamEvent(type="text", chunk=prefill, part_index=max((one.part_index for one in events), default=-1) + 1)
    if at < len(events):
        lead.message_index = events[at].message_index
        if events[at].type == "text":  # one text with it
            lead.part_index = events[at].part_index
    events.insert(at, lead)
    try:
        return list(response._messages_now())
    finally:
        del events[at]


#: Where a response with a hidden prefill keeps the chunks of its text with the prefill.
_WHOLE = "_aprefill_whole"


def _keep_when_logged(response: Any) -> None:
    """LLM before 0.36 logs a copy of an async response that loses its `_loaded_messages`."""
    to_sync = getattr(response, "to_sync_response", None)
    if to_sync is None or hasattr(response, "_to_sync_response"):
        return

    async def keeping() -> Any:
        copied = await to_sync()
        copied._loaded_messages = list(response._loaded_messages)
        return copied

    response.to_sync_response = keeping


def whole(conversation: Any) -> Any:
    """`conversation` with all that was hidden in it, for plugins that make the history of `response.text()`.

    Without a hidden prefill it is the same object, else a copy.
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


#: LLM's own OpenAI models, chat completions and /responses.
_OPENAI = "llm.default_plugins.openai_models"


def is_limited(found: Any) -> bool:
    """Whether a plugin's `response_json` says that a token limit has ended the reply, whatever its host calls that.

    Only what is said of the reply is looked at, not what the model wrote.

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


#: Where hosts say why a reply ended, and the words for a token limit: those of our protocols, and two of others.
_REPLIES = ("choices", "candidates", "chunks")
_WHY = ("finish_reason", "stop_reason", "done_reason", "finishReason")
_LIMITS = {*limit_words(), "max_output_tokens", "finish_reason_max_tokens"}


def events(owner: Prefill, prompt: Any, response: Any, run: Callable[[Any, Any], Any]) -> Iterator[Any]:
    """What a sync model's execution yields. `run` executes a model with a prompt."""
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
    """The same for an async model. An object and no generator: what it holds is closed when it is left."""

    def __init__(self, owner: Prefill, prompt: Any, response: Any, run: Callable[[Any, Any], Any]) -> None:
        self._begin = (owner, prompt, response)
        self._run = run
        self._turn: _Turn | None = None
        self._source: Any = None
        self._ready: deque[Any] = deque()
        #: the plugin has said all
        self._ended = False
        #: nothing more will be given out
        self._over = False
        #: raised when all that came before it was given out
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
        """Close what the plugin yields from; nothing more is given out."""
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
    """The generators of the OpenAI SDK that a plugin's generator is reading.

    The SDK's stream and its generator hold each other, and LLM leaves them to the collector. When the loop ends first, all of
    its generators are closed at once, inner ones while the outer ones close them, and Python says so in 35 lines.
    """
    frame = getattr(source, "ag_frame", None)
    found = () if frame is None else frame.f_locals.values()
    streams = [getattr(one, "_iterator", None) for one in found if type(one).__module__.partition(".")[0] == "openai"]
    return [one for one in streams if hasattr(one, "aclose")]


async def _generators_closed(before: set[asyncio.Task[Any]]) -> None:
    """Wait for the SDK's own generators, which asyncio closes in a task each, at most a quarter of a second.

    Whose generator a task closes cannot be seen, so one of somebody else's may be waited for. A loop that ends before them,
    as the command line's does, would say so on stderr. Each that ends may let go of another.
    """
    with suppress(TimeoutError, RuntimeError):  # no running loop: trio
        async with asyncio.timeout(0.25):
            while True:
                await asyncio.sleep(0)
                if not (new := _closings() - before):
                    return
                await asyncio.wait(new)


def _closings() -> set[asyncio.Task[Any]]:
    """The tasks in which asyncio closes generators that were let go of."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return set()  # trio
    return {one for one in tasks if type(one.get_coro()).__name__ == "async_generator_athrow"}

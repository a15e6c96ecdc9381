"""A protocol that is not built in needs one module and one entry in the registry, and all its rules are used."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import Session as AprefillSession
from aprefill import StatusError, UsageError, stream
from aprefill._codecs import PROTOCOLS, codec
from aprefill._codecs.openai_chat import OpenAIChat
from aprefill._hosts.table import SupportTable
from aprefill.testing import Script, serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aprefill._deltas import ModelInput
    from aprefill.testing import Server


class MadeUp(OpenAIChat):
    """Chat completions, except for everything that the engine, the plan and the hosts ask a codec for."""

    name = "made_up"
    accept = "application/x-made-up"
    max_stop = 1
    nested = frozenset({"options"})
    streaming: Mapping[str, Any] = {"stream": True, "live": True}

    def path(self, model_input: ModelInput) -> str:
        return f"/of/{model_input.model}/chat/completions"

    def auth(self, key: str, form: str) -> dict[str, str]:
        return {"x-made-up": f"{form} {key}"}

    def body(self, model_input: ModelInput) -> dict[str, Any]:
        return {"options": {"a": 1, "b": 2}, **super().body(model_input)}

    def text_part(self, text: str) -> dict[str, Any]:
        return {"type": "text", "made_up": True, "text": text}

    def settings_in_use(self, arguments: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
        return {"thinking": "extra['ponder']"} if extra.get("ponder") else {}

    def request_id(self, headers: Mapping[str, str]) -> str | None:
        return headers.get("x-made-up-id")


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add the module and its entry in the registry."""
    module = ModuleType("aprefill._codecs.made_up")
    module.CODEC = MadeUp()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for place in ("aprefill._codecs", "aprefill._hosts.table", "aprefill._hosts.target"):
        monkeypatch.setattr(f"{place}.PROTOCOLS", {**PROTOCOLS, "made_up": ""})
    yield
    codec.cache_clear()


def session(server: Server, support: str = "eats") -> AprefillSession:
    table = SupportTable.load(
        f'[[host]]\nprovider = "acme"\napi = "native"\ncodec = "made_up"\nbase_url = "{server.url}"\nauth = "bearer"\n'
        'conflicts = { thinking = "breaks" }\nmax_stop = 3\nbody_fields = { options = { d = 4 } }\n'
        f'[[host.model]]\nmatch = ["*"]\nsupport = "{support}"\nevidence = "engine"\n'
        'source = "ours"\ndate = 2026-11-23\n'
    )
    return AprefillSession("acme:m1", api_key="a-key", table=table)


@pytest.mark.anyio
async def test_what_is_sent() -> None:
    """The request has the protocol's own path, key header and `accept`.

    `extra` is merged into its nested object, and only one stop sequence is sent.
    """
    async with serve(Script(text="two")) as server, session(server) as acme:
        reply = acme.stream("Hi", prefill="one ", stop=("x", "y"), extra={"options": {"b": None, "c": 3}})
        assert await reply.text() == "one two"
    (sent,) = server.exchanges
    assert sent.path == "/of/m1/chat/completions"
    assert sent.headers["accept"] == "application/x-made-up"
    assert sent.headers["x-made-up"] == "bearer a-key"
    assert "authorization" not in sent.headers
    assert sent.json["options"] == {"a": 1, "d": 4, "c": 3}
    assert sent.json["live"] is True
    assert sent.json["stop"] == ["x"]


@pytest.mark.anyio
async def test_emulation_adds_its_text_part() -> None:
    """A message that is a list of parts gets a text part of the protocol's own form."""
    prompt = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    async with serve(Script(text="one two")) as server, session(server, "emulated") as acme:
        assert await acme.stream(prompt, prefill="one ").text() == "one two"
    assert server.exchanges[0].json["messages"][-1]["content"][-1]["made_up"] is True


@pytest.mark.anyio
async def test_its_errors() -> None:
    """The protocol decides how a conflict is spelled and which fields switch streaming off.

    It also reads the request id of an error.
    """
    async with serve(Script(status=400, headers={"x-made-up-id": "r7", "request-id": "no"})) as server:
        async with session(server) as acme:
            with pytest.raises(UsageError, match="ponder"):
                await acme.stream("Hi", prefill="one ", extra={"ponder": 1}).text()
            with pytest.raises(UsageError, match="live"):
                acme.stream("Hi", extra={"live": False})
            with pytest.raises(StatusError) as error:
                await acme.stream("Hi").text()
    assert error.value.request_id == "r7"
    assert len(server.exchanges) == 1


def test_control_without_the_line_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the entry, loading the table raises an error with the row and the key."""
    monkeypatch.setattr("aprefill._hosts.table.PROTOCOLS", PROTOCOLS)
    host = '[[host]]\nprovider = "acme"\napi = "native"\ncodec = "made_up"\nbase_url = ""\nauth = "none"\n'
    with pytest.raises(UsageError, match=r"host acme/native: key `codec`: .*'made_up'.*openai_chat"):
        SupportTable.load(host)


def test_control_the_built_in_protocols_do_otherwise() -> None:
    """The control: the built-in protocols behave differently in each of these points."""
    with pytest.raises(UsageError, match="acme:m1"):
        stream("Hi", model="acme:m1")
    for name in ("openai_chat", "anthropic_messages"):
        it = codec(name)
        assert (it.accept, it.max_stop) == ("text/event-stream", None)
        assert it.text_part("x") == {"type": "text", "text": "x"}
        assert it.request_id({"x-made-up-id": "r7"}) is None

"""Good replies in the formats that aprefill itself does not use."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anyio import fail_after

from aprefill import UsageError
from aprefill.testing import Received, Script, ToolCall, serve

from .asking import CALL, WAYS, client_of, openai_client
from .asking_others import MODEL, PREFILL, TEXT, WIRES, ask, content, deltas, objects, reason, sent

pytestmark = [pytest.mark.anyio, pytest.mark.any_loop]
wires = pytest.mark.parametrize("wire", WIRES)


# --- the replies ----------------------------------------------------------------------------------------------


@WAYS
async def test_openai_streams_responses(tls: bool, newline: str, wire_cuts: int | None) -> None:
    """The openai SDK reads text, usage and status of /responses, with every transport."""
    script = Script(text=TEXT, newline=newline, wire_cuts=wire_cuts, input_tokens=21, cached_tokens=20)
    with fail_after(10):
        async with serve(script, tls=tls) as server, openai_client(server) as client:
            stream = await client.responses.create(model=MODEL, input="Name two states.", stream=True)
            events = [event async for event in stream]
            assert server.exchanges[0].last_user_text == "Name two states."
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == TEXT
    assert last.response.usage is not None
    usage = last.response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (21, 5, 26)
    assert usage.input_tokens_details.cached_tokens == 20


async def test_openai_assembles_responses() -> None:
    """The openai SDK assembles the items of /responses from their deltas.

    The reply without a stream has the same items.
    """
    script = Script(text="I look.", reasoning="Hm, hm.", tools=[CALL, ToolCall(name="f", id="call_1")])
    with fail_after(10):
        async with serve(script) as server, openai_client(server) as client:
            async with client.responses.stream(model=MODEL, input="Look it up.") as stream:
                async for _ in stream:
                    pass
                streamed = await stream.get_final_response()
            whole = await client.responses.create(model=MODEL, input="Look it up.")
    for response in (streamed, whole):
        thought, message, *calls = response.output
        assert thought.type == "reasoning"
        assert thought.summary[0].text == "Hm, hm."
        assert message.type == "message"
        assert response.output_text == "I look."
        assert [(call.name, json.loads(call.arguments)) for call in calls if call.type == "function_call"] == [
            ("look_up", CALL.arguments),
            ("f", {}),
        ]
        assert calls[1].model_dump()["call_id"] == "call_1"
        assert response.status == "completed"
        assert response.usage is not None
        assert response.usage.output_tokens_details.reasoning_tokens == 2


@wires
async def test_thoughts_and_calls_are_streamed(wire: str) -> None:
    """Thoughts and tool calls are streamed in each host's own form. Thoughts are not part of the text."""
    text = await sent(Script(text="I look.", reasoning="Hm, hm.", tools=[CALL]), wire, None)
    assert "".join(deltas(text, wire)) == "I look."
    found = objects(text, wire)
    if wire == "responses":
        thoughts = [one["delta"] for one in found if one["type"] == "response.reasoning_summary_text.delta"]
        calls = [one["item"] for one in found if one["type"] == "response.output_item.done"][2:]
        made = [(call["name"], json.loads(call["arguments"])) for call in calls]
    elif wire == "ollama":
        thoughts = [one["message"].get("thinking", "") for one in found]
        calls = [call["function"] for one in found for call in one["message"].get("tool_calls", [])]
        made = [(call["name"], call["arguments"]) for call in calls]
    else:
        parts = [part for one in found for part in one["candidates"][0]["content"]["parts"]]
        thoughts = [part["text"] for part in parts if part.get("thought")]
        made = [
            (part["functionCall"]["name"], part["functionCall"]["args"]) for part in parts if "functionCall" in part
        ]
    assert "".join(thoughts) == "Hm, hm."
    assert made == [("look_up", CALL.arguments)]


@wires
async def test_a_request_without_a_stream_has_the_same_text(wire: str) -> None:
    """A request without a stream gets one JSON object with the same text. Ollama streams by default."""
    script = Script(text=TEXT, prefill="echoes")
    with fail_after(10):
        async with serve(script) as server:
            response = await ask(server, wire, PREFILL, stream=False)
            assert not server.exchanges[0].streamed
            assert server.exchanges[0].model == MODEL
            if wire == "ollama":
                async with client_of(server) as client:
                    untold = await client.post(server.url + "/api/chat", json={"messages": []})
                assert untold.headers["content-type"] == "application/x-ndjson"
    assert response.headers["content-type"] == "application/json"
    whole = response.json()
    if wire == "responses":
        assert whole["output"][0]["content"][0]["text"] == PREFILL + TEXT
    else:
        assert content(whole, wire) == PREFILL + TEXT
    assert not isinstance(whole, list)


@wires
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (None, ("completed", "stop", "STOP")),
        ("length", ("max_output_tokens", "length", "MAX_TOKENS")),
        ("max_tokens", ("max_output_tokens", "length", "MAX_TOKENS")),
        ("SAFETY", ("content_filter", "stop", "SAFETY")),
        ("content_filter", ("content_filter", "stop", "SAFETY")),
        ("RECITATION", ("completed", "RECITATION", "RECITATION")),
    ],
)
async def test_a_reason_is_in_the_words_of_the_wire(wire: str, word: str | None, expected: tuple[str, ...]) -> None:
    """A stop reason in any host's words is sent in the protocol's own word. /responses has none for some reasons."""
    text = await sent(Script(text=TEXT, stop_reason=word), wire)
    assert reason(text, wire) == expected[min(WIRES.index(wire), 2)]


@pytest.mark.parametrize(
    ("wire", "limit", "stop"),
    [
        ("responses", {"max_output_tokens": 2}, None),
        ("ollama", {"options": {"num_predict": 2}}, {"options": {"stop": ["a"]}}),
        ("gemini", {"generationConfig": {"maxOutputTokens": 2}}, {"generationConfig": {"stopSequences": ["a"]}}),
        ("gemini", {"generation_config": {"max_output_tokens": 2}}, {"generation_config": {"stop_sequences": ["a"]}}),
    ],
)
async def test_a_limit_and_a_stop_sequence_are_found_where_the_host_has_them(wire: str, limit: Any, stop: Any) -> None:
    """A token limit and stop sequences are read where each host has them. /responses has no stop sequences."""
    with fail_after(10):
        async with serve(Script(text=TEXT, obey_max_tokens=True)) as server:
            limited = (await ask(server, wire, **limit)).text
            stopped = (await ask(server, wire, **stop)).text if stop else None
    assert "".join(deltas(limited, wire)) == 'Alabama"'
    assert reason(limited, wire) in {"max_output_tokens", "length", "MAX_TOKENS"}
    if stopped is not None:
        assert "".join(deltas(stopped, wire)) == "Al"
        assert reason(stopped, wire) in {"stop", "STOP"}


# --- what the host does with the prefill ----------------------------------------------------------------------


@wires
async def test_the_prefill_is_left_out_echoed_or_refused(wire: str) -> None:
    """The prefill is left out, echoed or refused as in the other formats.

    A refusal has the host's own words, if known.
    """
    assert "".join(deltas(await sent(Script(text=TEXT), wire), wire)) == TEXT
    joined = deltas(await sent(Script(text=TEXT, prefill="echoes", echo="joined"), wire), wire)
    assert "".join(joined) == PREFILL + TEXT
    assert joined[0] == '["Alab'
    with fail_after(10):
        async with serve(Script(text=TEXT, prefill="refuses")) as server:
            refused, taken = await ask(server, wire, PREFILL), await ask(server, wire)
            assert [one.prefill for one in server.exchanges] == [PREFILL, ""]
            assert server.exchanges[0].last_user_text == "Name two states."
    assert (refused.status_code, taken.status_code) == (400, 200)
    words = "Requests ending with a model turn" if "gemini" in wire else "does not support assistant message prefill"
    error = refused.json()
    error = (error[0] if isinstance(error, list) else error)["error"]
    assert words in (error if isinstance(error, str) else error["message"])


def test_parts_that_are_no_text_are_no_prefill() -> None:
    """Only text parts count as a prefill, in any host's spelling. Thoughts and images do not."""

    def prefill(**body: Any) -> str:
        content = json.dumps(body).encode()
        return Received(method="POST", path="/x", headers={}, body=content, connection=1, index=0).prefill

    parts = [{"type": "output_text", "text": "a"}, {"type": "input_image", "text": "no"}, {"type": "text", "text": "b"}]
    assert prefill(input=[{"role": "assistant", "content": parts}]) == "ab"
    parts = [{"text": "no", "thought": True}, {"text": "a"}, {"inlineData": {}}, {"text": 1}]
    assert prefill(contents=[{"role": "model", "parts": parts}]) == "a"
    assert prefill(input=[{"role": "assistant", "content": "a"}, {"type": "function_call", "name": "f"}]) == ""
    assert prefill(input=5) == ""


async def test_a_limit_that_is_none_limits_nothing() -> None:
    """A limit that is not a positive whole number, such as Ollama's -1, does not limit the reply."""
    for most in (-1, 0, True, "2"):
        with fail_after(10):
            async with serve(Script(text=TEXT, obey_max_tokens=True)) as server:
                text = (await ask(server, "ollama", options={"num_predict": most})).text
        assert "".join(deltas(text, "ollama")) == TEXT
        assert reason(text, "ollama") == "stop"


def test_contents_without_a_role_are_the_users() -> None:
    """Contents without a role are the user's, as with Gemini."""
    body = json.dumps({"contents": [{"parts": [{"text": "Hi"}]}]}).encode()
    received = Received(method="POST", path="/x", headers={}, body=body, connection=1, index=0)
    assert (received.last_user_text, received.ends_with_assistant) == ("Hi", False)


# --- other answers of the server ------------------------------------------------------------------------------


async def test_other_paths_can_be_answered() -> None:
    """`static` answers other paths with the test's own JSON, for any method.

    These requests are recorded but use no script.
    """
    static = {"/api/tags": {"models": []}, "/v1/models": [1]}
    with fail_after(10):
        async with (
            serve([Script(text="one"), Script(text="two")], static=static) as server,
            client_of(server) as client,
        ):
            tags = await client.get(server.url + "/api/tags?x=1")
            posted = await client.post(server.url + "/v1/models", json={"stream": True})
            assert (await client.get(server.url + "/api/show")).status_code == 404
            reply = await ask(server, "ollama", stream=False)
            assert [one.path for one in server.exchanges] == ["/api/tags?x=1", "/v1/models", "/api/show", "/api/chat"]
    assert (tags.json(), tags.headers["content-type"]) == ({"models": []}, "application/json")
    assert posted.json() == [1]
    assert reply.json()["message"]["content"] == "one"


async def test_a_head_request_gets_no_body() -> None:
    """A HEAD request gets no body, so its connection can be used again."""
    with fail_after(10):
        async with serve(Script(), static={"/v1/models": [1]}) as server, client_of(server) as client:
            for path in ("/v1/models", "/elsewhere"):
                assert (await client.head(server.url + path)).content == b""
            assert (await client.get(server.url + "/v1/models")).json() == [1]
            assert server.connections == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/show", {"error": "Not Found"}),
        ("/v1beta/models/m:countTokens", {"error": {"code": 404, "message": "Not Found", "status": "NOT_FOUND"}}),
        ("/v1/messages/count_tokens", {"type": "error", "error": {"type": "not_found_error", "message": "Not Found"}}),
        ("/v1/models/m", {"error": {"message": "Not Found", "type": "invalid_request_error", "param": None}}),
    ],
)
async def test_what_is_not_there_is_the_hosts_own_error(path: str, body: dict[str, Any]) -> None:
    """A path that does not exist gets the error of the host whose paths are similar, or OpenAI's."""
    with fail_after(10):
        async with serve(Script()) as server, client_of(server) as client:
            response = await client.post(server.url + path, json={"stream": True})
    assert response.status_code == 404
    told = response.json()
    told.pop("request_id", None)
    if path == "/v1/models/m":
        assert told["error"].pop("code") == "model_not_found"
    assert told == body


@pytest.mark.parametrize("arguments", ['{"a": ', "", "NaN"])
async def test_arguments_that_are_no_json_go_where_a_host_sends_text(arguments: str) -> None:
    """Tool arguments that are not JSON are sent by a host that sends them as text. On other hosts they are an error."""
    script = Script(text="x", tools=[ToolCall(name="f", arguments=arguments)])
    text = await sent(script, "responses")
    assert json.dumps(arguments) in text
    for wire in ("ollama", "gemini", "gemini-array"):
        with fail_after(10):
            with pytest.raises(UsageError, match="arguments of 'f' are not JSON"):
                async with serve(script) as server:
                    assert (await ask(server, wire)).status_code == 500


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ({"status": 503}, 503),
        ({"redirect": "http://127.0.0.1:1/"}, 307),
        ({"body": b"{}"}, 200),
        ({"prefill": "refuses"}, 400),
        ({"text": "ab;c"}, 200),
    ],
)
async def test_arguments_that_are_not_sent_are_no_mistake(script: dict[str, Any], status: int) -> None:
    """Wrong tool arguments are allowed if they are not sent.

    An error, a body, a refusal or a stop sequence can come instead.
    """
    tools = [ToolCall(name="f", arguments="{")]
    with fail_after(10):
        async with serve(Script(tools=tools, **script)) as server:
            assert (await ask(server, "ollama", PREFILL, options={"stop": [";"]})).status_code == status


@pytest.mark.parametrize(
    ("static", "words"),
    [
        ({"api": 1}, "begins with a slash"),
        ({"/api?x=1": 1}, "without a query"),
        ({"/a b": 1}, "as it is sent"),
        ({"/x": object()}, "is not JSON"),
    ],
)
def test_wrong_static_answers_are_told_at_once(static: Any, words: str) -> None:
    """A wrong `static` is an error before the server listens."""
    with pytest.raises(UsageError, match=words):
        serve(Script(), static=static)
